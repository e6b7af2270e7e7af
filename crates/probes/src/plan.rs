//! What a measurement will take, counted before it is done.

use crate::exec::{InsufficientMemory, MemoryPlan};
use crate::options::ProbeOptions;
use crate::tokenized::{TokenizedPair, TokenizedPrompt};
use crate::{contributions, erasure, gradients, lens, similarity, skip};
use fathom_model::Model;
use fathom_results::{Probe, Work};
use std::collections::BTreeMap;

/// What a probe will take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Edits, runs and multiply-adds.
    pub work: Work,
    /// Bytes of working memory beside the weights, at most about.
    pub bytes: u64,
}

/// Plans by probe; `forward` is the clean run that all share.
pub type Plans = BTreeMap<String, Plan>;

/// The limits within which texts and pairs are measured in the memory of the settings.
///
/// # Errors
/// When the longest does not fit.
pub fn memory_plan(
    model: &Model,
    texts: &[TokenizedPrompt],
    pairs: &[TokenizedPair],
    settings: &ProbeOptions,
) -> Result<MemoryPlan, InsufficientMemory> {
    let longest_pair = pairs.iter().map(|p| p.tokens.len()).max().unwrap_or(0).max(settings.longest_pair);
    let longest_text = texts.iter().map(|t| t.tokens.len()).max().unwrap_or(0).max(settings.longest_text);
    let longest = longest_text.max(longest_pair);
    let saved = saved(model, longest_pair, settings);
    let within = MemoryPlan::fit(model, longest, settings.memory.saturating_sub(saved));
    within.map_err(|e| InsufficientMemory { needed: e.needed + saved, ..e })
}

/// Bytes that the way back keeps of one text, at most.
fn saved(model: &Model, tokens: usize, settings: &ProbeOptions) -> u64 {
    let layers = if settings.has(Probe::Gradients) { model.config().depth() } else { 0 };
    (model.saved_bytes_per_row() * layers * tokens) as u64
}

/// Plans what [`measure`](crate::measure()) does on the texts.
///
/// # Errors
/// When the memory is too little.
pub fn plan(
    model: &Model,
    texts: &[TokenizedPrompt],
    settings: &ProbeOptions,
) -> Result<Plans, InsufficientMemory> {
    let limits = memory_plan(model, texts, &[], settings)?;
    let mut plans = Counter::new(model, limits, texts.iter().map(|t| t.tokens.len()).max().unwrap_or(0));
    let (depth, hidden) = (model.config().depth(), model.config().hidden);
    for text in texts {
        let tokens = text.tokens.len();
        plans.clean("forward", tokens);
        if settings.has(Probe::Contributions) {
            plans.add("contributions", contributions::plan(depth, tokens, hidden), 0);
        }
        if settings.has(Probe::Lens) || settings.has(Probe::Settling) {
            let name = if settings.has(Probe::Lens) { "lens" } else { "settling" };
            let (work, bytes) = lens::plan(model, tokens, limits);
            plans.add(name, work, bytes);
        }
        if settings.has(Probe::Similarity) {
            plans.add("similarity", similarity::plan(depth, tokens, hidden), 0);
        }
        if settings.has(Probe::Skip) {
            let work = skip::plan(model, tokens, &settings.skip, &text.positions, limits);
            plans.edited("skip", settings.naive, work);
        }
    }
    Ok(plans.plans)
}

/// Plans what [`measure_pairs`](crate::measure_pairs) does on the pairs.
///
/// # Errors
/// When the memory is too little.
pub fn plan_pairs(
    model: &Model,
    baseline: &[TokenizedPrompt],
    pairs: &[TokenizedPair],
    settings: &ProbeOptions,
) -> Result<Plans, InsufficientMemory> {
    let baseline = if settings.has(Probe::Erasure) && !pairs.is_empty() { baseline } else { &[] };
    let limits = memory_plan(model, baseline, pairs, settings)?;
    let lengths = baseline.iter().map(|t| t.tokens.len()).chain(pairs.iter().map(|p| p.tokens.len()));
    let mut plans = Counter::new(model, limits, lengths.max().unwrap_or(0));
    for text in baseline {
        plans.clean("erasure", text.tokens.len());
    }
    for TokenizedPair { tokens, qa, .. } in pairs {
        plans.clean("forward", tokens.len());
        if settings.has(Probe::Erasure) {
            let work = erasure::plan(model, tokens.len(), qa.answer_tokens, limits);
            plans.edited("erasure", settings.naive, work);
        }
        if settings.has(Probe::Gradients) {
            let work = gradients::plan(model, tokens.len(), qa.answer_tokens, &settings.gradients);
            let rows = limits.rows as u64 * model.row_bytes() as u64;
            let saved = saved(model, tokens.len(), settings).max(limits.saved as u64);
            plans.add("gradients", work, rows + saved + limits.bytes as u64);
        }
    }
    Ok(plans.plans)
}

/// Adds one measurement's plans to another's.
pub fn join(plans: &mut Plans, more: Plans) {
    for (name, Plan { work, bytes }) in more {
        let plan = plans.entry(name).or_default();
        plan.work += work;
        plan.bytes = plan.bytes.max(bytes);
    }
}

struct Counter<'a> {
    model: &'a Model,
    limits: MemoryPlan,
    /// Bytes that are kept of clean runs.
    kept: u64,
    plans: Plans,
}

impl<'a> Counter<'a> {
    fn new(model: &'a Model, limits: MemoryPlan, longest: usize) -> Self {
        let kept = (model.trace_bytes_per_token() * limits.clean.max(longest)) as u64;
        Self { model, limits, kept, plans: Plans::new() }
    }

    fn add(&mut self, name: &str, work: Work, bytes: u64) {
        let more = Plan { work, bytes: self.kept + bytes };
        join(&mut self.plans, Plans::from([(name.to_owned(), more)]));
    }

    /// The clean run of a text.
    fn clean(&mut self, name: &str, tokens: usize) {
        let rows = self.limits.clean.max(tokens) * self.model.row_bytes();
        self.add(name, Work::plain(1, self.model.layers_macs(tokens)), rows as u64);
    }

    /// Edited runs.
    fn edited(&mut self, name: &str, naive: bool, work: Work) {
        let work = match naive {
            true => Work { runs: work.edits, macs: work.macs_naive, ..work },
            false => work,
        };
        let rows = self.limits.rows * self.model.row_bytes();
        self.add(name, work, (rows + self.limits.bytes) as u64);
    }
}
