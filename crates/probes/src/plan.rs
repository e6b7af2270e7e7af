//! The cost of a measurement, counted in advance.

use crate::exec::{InsufficientMemory, MemoryPlan};
use crate::options::ProbeOptions;
use crate::tokenized::{TokenizedPair, TokenizedPrompt};
use crate::{angles, contributions, erasure, experts, gradients, lens, order, similarity, skip};
use fathom_model::{Backend, Model};
use fathom_results::{Probe, Work};
use std::collections::BTreeMap;

/// The planned cost of a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Edits, runs and multiply-adds.
    pub work: Work,
    /// Peak working memory beside the weights in bytes, approximately.
    pub bytes: u64,
}

/// Plans by probe; `forward` is the clean run that all probes share.
pub type Plans = BTreeMap<String, Plan>;

/// The division of the memory of the options for some prompts and pairs.
///
/// # Errors
/// If the longest prompt or pair does not fit.
pub fn memory_plan<B: Backend>(
    model: &Model<B>,
    prompts: &[TokenizedPrompt],
    pairs: &[TokenizedPair],
    options: &ProbeOptions,
) -> Result<MemoryPlan, InsufficientMemory> {
    let longest_pair = pairs.iter().map(|p| p.tokens.len()).max().unwrap_or(0).max(options.longest_pair);
    let longest_text = prompts.iter().map(|t| t.tokens.len()).max().unwrap_or(0).max(options.longest_text);
    let longest = longest_text.max(longest_pair);
    let saved = saved(model, longest_pair, options);
    let within = MemoryPlan::fit(model, longest, options.memory.saturating_sub(saved));
    within.map_err(|e| InsufficientMemory { needed: e.needed + saved, ..e })
}

/// Bytes of activations that the backward pass of one pair needs at most.
fn saved<B: Backend>(model: &Model<B>, tokens: usize, options: &ProbeOptions) -> u64 {
    let layers = if options.has(Probe::Gradients) { model.config().depth() } else { 0 };
    (model.saved_bytes_per_row() * layers * tokens) as u64
}

/// Plans [`measure`](crate::measure()).
///
/// # Errors
/// If the longest prompt or pair does not fit.
pub fn plan<B: Backend>(
    model: &Model<B>,
    prompts: &[TokenizedPrompt],
    options: &ProbeOptions,
) -> Result<Plans, InsufficientMemory> {
    let memory = memory_plan(model, prompts, &[], options)?;
    let mut plans = Counter::new(model, memory, prompts.iter().map(|t| t.tokens.len()).max().unwrap_or(0));
    let (depth, hidden) = (model.config().depth(), model.config().hidden);
    for prompt in prompts {
        let tokens = prompt.tokens.len();
        plans.forward(prompt);
        let (own, read) = match &prompt.masked {
            Some(masked) => (masked.own.len(), masked.targets.positions.len()),
            None => (tokens, tokens),
        };
        if options.has(Probe::Contributions) {
            plans.add("contributions", contributions::plan(depth, own, hidden), 0);
        }
        if options.has(Probe::Lens) || options.has(Probe::Settling) {
            let name = if options.has(Probe::Lens) { "lens" } else { "settling" };
            let (work, bytes) = lens::plan(model, read, memory, options.lens_maps);
            plans.add(name, work, bytes);
        }
        if options.has(Probe::Similarity) {
            plans.add("similarity", similarity::plan(depth, own, hidden), 0);
        }
        if let Some(masked) = &prompt.masked {
            if options.has(Probe::Skip) && masked.one_at_a_time.is_none() {
                let work = skip::plan_masked(model, tokens, &options.skip, masked, memory);
                plans.edited("skip", options.naive, work);
            }
            continue;
        }
        if options.has(Probe::Angles) {
            let (work, bytes) = angles::plan(model, tokens, memory);
            let rows = (memory.rows * model.row_bytes()) as u64;
            plans.add("angles", work, rows + bytes);
        }
        if options.has(Probe::Experts) {
            let each = model.config().experts().map_or(0, |of| of.active + usize::from(of.shared > 0));
            plans.add("experts", experts::plan(model, tokens), (each * tokens * hidden * 4) as u64);
        }
        if options.has(Probe::Skip) {
            let work = skip::plan(model, tokens, &options.skip, &prompt.positions, memory);
            plans.edited("skip", options.naive, work);
        }
        if options.has(Probe::Order) {
            let (work, bytes) = order::plan(model, tokens, memory);
            let rows = 2 * (memory.rows.max(tokens) * model.row_bytes()) as u64;
            let work = if options.naive { Work { macs: work.macs_naive, ..work } } else { work };
            plans.add("order", work, rows + bytes);
        }
    }
    Ok(plans.plans)
}

/// Plans [`measure_pairs`](crate::measure_pairs).
///
/// # Errors
/// If the longest prompt or pair does not fit.
pub fn plan_pairs<B: Backend>(
    model: &Model<B>,
    baseline: &[TokenizedPrompt],
    pairs: &[TokenizedPair],
    options: &ProbeOptions,
) -> Result<Plans, InsufficientMemory> {
    let baseline = if options.has(Probe::Erasure) && !pairs.is_empty() { baseline } else { &[] };
    let memory = memory_plan(model, baseline, pairs, options)?;
    let lengths = baseline.iter().map(|t| t.tokens.len()).chain(pairs.iter().map(|p| p.tokens.len()));
    let mut plans = Counter::new(model, memory, lengths.max().unwrap_or(0));
    for prompt in baseline {
        plans.clean("erasure", prompt.tokens.len());
    }
    for pair in pairs {
        let TokenizedPair { tokens, qa, .. } = pair;
        plans.clean("forward", tokens.len());
        if options.has(Probe::Erasure) {
            let work = match &pair.masked {
                Some(masked) => erasure::plan_masked(model, tokens.len(), masked, memory),
                None => erasure::plan(model, tokens.len(), qa.answer_tokens, memory),
            };
            plans.edited("erasure", options.naive, work);
        }
        if options.has(Probe::Gradients) {
            let work = gradients::plan(model, tokens.len(), &pair.targets(), &options.gradients);
            let rows = memory.rows as u64 * model.row_bytes() as u64;
            let saved = saved(model, tokens.len(), options).max(memory.saved as u64);
            plans.add("gradients", work, rows + saved + memory.bytes as u64);
        }
    }
    Ok(plans.plans)
}

/// Adds the plans of one measurement to those of another.
pub fn join(plans: &mut Plans, more: Plans) {
    for (name, Plan { work, bytes }) in more {
        let plan = plans.entry(name).or_default();
        plan.work += work;
        plan.bytes = plan.bytes.max(bytes);
    }
}

struct Counter<'a, B: Backend> {
    model: &'a Model<B>,
    memory: MemoryPlan,
    /// Bytes of the traces of clean runs.
    kept: u64,
    plans: Plans,
}

impl<'a, B: Backend> Counter<'a, B> {
    fn new(model: &'a Model<B>, memory: MemoryPlan, longest: usize) -> Self {
        let kept = (model.trace_bytes_per_token() * memory.clean.max(longest)) as u64;
        Self { model, memory, kept, plans: Plans::new() }
    }

    fn add(&mut self, name: &str, work: Work, bytes: u64) {
        let more = Plan { work, bytes: self.kept + bytes };
        join(&mut self.plans, Plans::from([(name.to_owned(), more)]));
    }

    /// Adds the clean runs of a prompt.
    fn forward(&mut self, prompt: &TokenizedPrompt) {
        let rows = self.memory.clean.max(prompt.tokens.len()) * self.model.row_bytes();
        self.add("forward", crate::measure::forward_work(self.model, prompt), rows as u64);
    }

    /// Adds a clean run.
    fn clean(&mut self, name: &str, tokens: usize) {
        let rows = self.memory.clean.max(tokens) * self.model.row_bytes();
        self.add(name, Work::plain(1, self.model.layers_macs(tokens)), rows as u64);
    }

    /// Adds edited runs.
    fn edited(&mut self, name: &str, naive: bool, work: Work) {
        let work = match naive {
            true => Work { runs: work.edits, macs: work.macs_naive, ..work },
            false => work,
        };
        let rows = self.memory.rows * self.model.row_bytes();
        self.add(name, work, (rows + self.memory.bytes) as u64);
    }
}
