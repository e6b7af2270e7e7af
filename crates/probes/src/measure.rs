//! Measures prompts and question-answer pairs.

use crate::cost::{Costs, add, spend};
use crate::erasure::{self, MeanResiduals};
use crate::exec::{ExecOptions, InsufficientMemory};
use crate::lens_maps::LensMaps;
use crate::options::ProbeOptions;
use crate::plan::memory_plan;
use crate::tokenized::{Masked, TokenizedPair, TokenizedPrompt};
use crate::{
    angles, contributions, experts, gradients, lens, one_at_a_time, order, settling, similarity, skip,
};
use fathom_model::{Backend, Model, Trace};
use fathom_results::{MaskedSample, Probe, Sample, Work};
use std::time::Instant;

/// Callbacks of a measurement.
#[derive(Clone, Copy)]
pub struct Observer<'a> {
    /// Polled before every prompt; the measurement stops once it returns true. Samples passed on so far remain valid.
    pub is_cancelled: &'a dyn Fn() -> bool,
    /// Receives multiply-adds as they are done.
    pub on_progress: &'a dyn Fn(u64),
    /// Receives warnings, one sentence each.
    pub on_warning: &'a dyn Fn(&str),
}

impl Observer<'_> {
    /// Never cancels and ignores everything.
    pub const NONE: Observer<'static> =
        Observer { is_cancelled: &|| false, on_progress: &|_| (), on_warning: &|_| () };
}

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum Error<E: std::error::Error + 'static> {
    /// The model refused a prompt.
    #[error("prompt '{id}': {source}")]
    Model {
        /// The prompt.
        id: String,
        /// The reason.
        source: Box<fathom_model::Error>,
    },
    /// A prompt has no tokens.
    #[error("prompt '{id}' has no tokens; leave it out")]
    Empty {
        /// The prompt.
        id: String,
    },
    /// The model overflows on every baseline prompt of erasure.
    #[error("no prompt gives a mean residual, because the model overflows on all of them; try another dtype")]
    NoMean,
    /// A prompt does not fit into the working memory.
    #[error(transparent)]
    InsufficientMemory(InsufficientMemory),
    /// The sink failed to store a sample.
    #[error(transparent)]
    Sink(E),
}

/// A quantity of a prompt is not finite.
struct Overflow(&'static str);

impl Overflow {
    /// Fails unless all numbers are finite.
    fn check(mut numbers: impl Iterator<Item = f64>, what: &'static str) -> Result<(), Self> {
        if numbers.all(f64::is_finite) { Ok(()) } else { Err(Self(what)) }
    }

    fn reason(&self) -> String {
        format!("{} is not a number: the model overflows on it", self.0)
    }
}

/// Measures prompts in order and passes each sample to `sink` as soon as it is complete. A prompt on which the model
/// overflows gives a sample with the reason.
///
/// # Errors
/// If a prompt is empty, does not fit into memory or is refused by the model, or if `sink` fails. Samples of earlier
/// prompts have been passed on.
pub fn measure<B: Backend, E: std::error::Error + 'static>(
    model: &Model<B>,
    prompts: &[TokenizedPrompt],
    options: &ProbeOptions,
    observer: Observer<'_>,
    sink: &mut dyn FnMut(Sample) -> Result<(), E>,
) -> Result<Costs, Error<E>> {
    measure_through(model, &LensMaps::none(), prompts, options, observer, sink)
}

/// [`measure`], with maps that the stream goes through before the lens and settling read it.
///
/// # Errors
/// As [`measure`].
///
/// # Panics
/// When the options count other maps.
pub fn measure_through<B: Backend, E: std::error::Error + 'static>(
    model: &Model<B>,
    maps: &LensMaps<B>,
    prompts: &[TokenizedPrompt],
    options: &ProbeOptions,
    observer: Observer<'_>,
    sink: &mut dyn FnMut(Sample) -> Result<(), E>,
) -> Result<Costs, Error<E>> {
    assert_eq!(options.lens_maps, maps.count(), "the plan counts the maps of the lens");
    let mut costs = Costs::new();
    let memory = memory_plan(model, prompts, &[], options).map_err(Error::InsufficientMemory)?;
    let exec = ExecOptions { memory, naive: options.naive, on_progress: observer.on_progress };
    let (mut rest, mut rows) = (prompts, memory.clean);
    while let Some(first) = rest.first() {
        if (observer.is_cancelled)() {
            break;
        }
        if first.tokens.is_empty() {
            return Err(Error::Empty { id: first.id.clone() });
        }
        if let Some(masked) = &first.masked
            && let Some(mask) = masked.one_at_a_time
        {
            rest = &rest[1..];
            let sample = measure_each(model, first, (masked, mask), options, &exec, &mut costs);
            let failed = |source| Error::Model { id: first.id.clone(), source: Box::new(source) };
            sink(sample.map_err(failed)?).map_err(Error::Sink)?;
            continue;
        }
        let (group, later) = rest.split_at(group_size(rest, rows));
        let tokens: Vec<&[u32]> = group.iter().map(|t| &t.tokens[..]).collect();
        let start = Instant::now();
        let traces = match model.run(&tokens) {
            Ok(traces) => traces,
            // One by one, the refused prompt can be named, and earlier ones are kept.
            Err(_) if group.len() > 1 => {
                rows = 1;
                continue;
            }
            Err(source) => return Err(Error::Model { id: first.id.clone(), source: Box::new(source) }),
        };
        let macs = group.iter().map(|t| model.layers_macs(t.tokens.len())).sum();
        // Otherwise the first probe would be charged for it.
        model.backend().wait();
        spend(&mut costs, "forward", Work::plain(group.len() as u64, macs), start);
        (observer.on_progress)(macs);
        rest = later;
        for (prompt, trace) in group.iter().zip(&traces) {
            if (observer.is_cancelled)() {
                return Ok(costs);
            }
            let sample = measure_prompt(model, maps, prompt, trace, options, &exec, &mut costs);
            sink(sample).map_err(Error::Sink)?;
        }
    }
    Ok(costs)
}

/// The number of prompts that run through the model together: as many as fit into `rows`, but at
/// least one. An empty prompt ends the group.
fn group_size(prompts: &[TokenizedPrompt], rows: usize) -> usize {
    let mut taken = 0;
    let fits = |t: &&TokenizedPrompt| {
        taken += t.tokens.len();
        let at_once = t.masked.as_ref().is_none_or(|masked| masked.one_at_a_time.is_none());
        taken <= rows && !t.tokens.is_empty() && at_once
    };
    prompts.iter().take_while(fits).count().max(1)
}

/// Measures question-answer pairs, as [`measure`]. Erasure uses the mean residuals over all tokens of
/// `baseline`.
///
/// # Errors
/// As [`measure`].
pub fn measure_pairs<B: Backend, E: std::error::Error + 'static>(
    model: &Model<B>,
    baseline: &[TokenizedPrompt],
    pairs: &[TokenizedPair],
    options: &ProbeOptions,
    observer: Observer<'_>,
    sink: &mut dyn FnMut(Sample) -> Result<(), E>,
) -> Result<Costs, Error<E>> {
    let mut costs = Costs::new();
    let baseline = if options.has(Probe::Erasure) { baseline } else { &[] };
    let memory = memory_plan(model, baseline, pairs, options).map_err(Error::InsufficientMemory)?;
    let exec = ExecOptions { memory, naive: options.naive, on_progress: observer.on_progress };
    let Some(means) = means(model, baseline, observer, &mut costs)? else { return Ok(costs) };
    for pair in pairs {
        if (observer.is_cancelled)() {
            break;
        }
        let start = Instant::now();
        let trace = clean(model, &pair.id, &pair.tokens)?;
        let forward = Work::plain(1, model.layers_macs(pair.tokens.len()));
        model.backend().wait();
        spend(&mut costs, "forward", forward, start);
        (observer.on_progress)(forward.macs);
        let mut record = Record::of(&pair.id, &pair.group, &pair.tokens, &pair.pieces);
        record.sample.masked = pair.masked.as_ref().map(hidden_of);
        record.sample.qa = Some(pair.qa.clone());
        let measured = record.probe_pair(model, pair, &trace, &means, options, &exec);
        sink(record.finish(measured, forward, &mut costs)).map_err(Error::Sink)?;
    }
    Ok(costs)
}

/// The sample of one prompt and its costs.
struct Record {
    sample: Sample,
    costs: Costs,
}

/// The mean residuals over all tokens of some prompts, of masked ones without special tokens, `[L + 1, d]`; `None` if
/// cancelled.
fn means<B: Backend, E: std::error::Error + 'static>(
    model: &Model<B>,
    baseline: &[TokenizedPrompt],
    observer: Observer<'_>,
    costs: &mut Costs,
) -> Result<Option<B::Buffer>, Error<E>> {
    let mut means = MeanResiduals::new(model);
    let mut overflows = Vec::new();
    for prompt in baseline {
        if (observer.is_cancelled)() {
            return Ok(None);
        }
        let start = Instant::now();
        let trace = clean(model, &prompt.id, &prompt.tokens)?;
        match finite(model, &trace) {
            Ok(()) => match &prompt.masked {
                Some(masked) => {
                    let own: Vec<u32> = masked.own.iter().map(|position| *position as u32).collect();
                    means.add(model.backend(), &trace.rows(model.backend(), &own));
                }
                None => means.add(model.backend(), &trace),
            },
            Err(_) => overflows.push(format!("'{}'", prompt.id)),
        }
        let work = baseline_work(model, std::slice::from_ref(prompt));
        spend(costs, "erasure", work, start);
        (observer.on_progress)(work.macs);
    }
    if !overflows.is_empty() {
        if overflows.len() == baseline.len() {
            return Err(Error::NoMean);
        }
        (observer.on_warning)(&format!(
            "the model overflows on {}; the mean residual of erasure skips such prompts",
            overflows.join(", ")
        ));
    }
    Ok(Some(means.means(model.backend())))
}

/// The work of the mean residuals over some prompts, which [`measure_pairs`] needs for erasure.
pub fn baseline_work<B: Backend>(model: &Model<B>, baseline: &[TokenizedPrompt]) -> Work {
    let macs = baseline.iter().map(|prompt| model.layers_macs(prompt.tokens.len())).sum();
    Work::plain(baseline.len() as u64, macs)
}

/// The clean run of one prompt.
fn clean<B: Backend, E: std::error::Error + 'static>(
    model: &Model<B>,
    id: &str,
    tokens: &[u32],
) -> Result<Trace<B>, Error<E>> {
    let failed = |source| Error::Model { id: id.to_owned(), source: Box::new(source) };
    Ok(model.run(&[tokens]).map_err(failed)?.remove(0))
}

fn finite<B: Backend>(model: &Model<B>, trace: &Trace<B>) -> Result<(), Overflow> {
    match model.backend().all_finite(&trace.resid.iter().collect::<Vec<_>>()) {
        true => Ok(()),
        false => Err(Overflow("the residual stream")),
    }
}

/// Runs the probes of prompts on one prompt.
fn measure_prompt<B: Backend>(
    model: &Model<B>,
    maps: &LensMaps<B>,
    prompt: &TokenizedPrompt,
    trace: &Trace<B>,
    options: &ProbeOptions,
    exec: &ExecOptions<'_>,
    costs: &mut Costs,
) -> Sample {
    let mut record = Record::of(&prompt.id, &prompt.group, &prompt.tokens, &prompt.pieces);
    record.sample.text_sha256 = prompt.text_sha256.clone();
    let measured = match &prompt.masked {
        Some(masked) => {
            record.sample.masked = Some(hidden_of(masked));
            record.probe_masked(model, masked, trace, options, exec)
        }
        None => record.probe_prompt(model, maps, prompt, trace, options, exec),
    };
    let forward = Work::plain(1, model.layers_macs(prompt.tokens.len()));
    record.finish(measured, forward, costs)
}

/// What was hidden of a text.
fn hidden_of(masked: &Masked) -> MaskedSample {
    MaskedSample {
        positions: masked.targets.positions.clone(),
        hidden: masked.targets.tokens.clone(),
        own: masked.own.len(),
        ratio: masked.ratio,
        pseudo_log_likelihood: None,
    }
}

/// Measures one text with its tokens masked one at a time.
fn measure_each<B: Backend>(
    model: &Model<B>,
    prompt: &TokenizedPrompt,
    (masked, mask): (&Masked, u32),
    options: &ProbeOptions,
    exec: &ExecOptions<'_>,
    costs: &mut Costs,
) -> Result<Sample, fathom_model::Error> {
    let start = Instant::now();
    let trace = one_at_a_time::trace(model, prompt, masked, mask, exec.memory.clean, exec.on_progress)?;
    model.backend().wait();
    let forward = forward_work(model, prompt);
    spend(costs, "forward", forward, start);
    let mut record = Record::of(&prompt.id, &prompt.group, &prompt.tokens, &prompt.pieces);
    record.sample.text_sha256 = prompt.text_sha256.clone();
    record.sample.masked = Some(hidden_of(masked));
    let measured = record.probe_rows(model, (&trace, &trace), &masked.targets.tokens, options, exec);
    if let (Some(lens), Some(sample)) = (&record.sample.lens, &mut record.sample.masked) {
        let mean = lens.nll.last().copied();
        sample.pseudo_log_likelihood = mean.map(|mean| -mean * masked.own.len() as f64);
    }
    Ok(record.finish(measured, forward, costs))
}

/// The work of the clean runs of a prompt.
pub(crate) fn forward_work<B: Backend>(model: &Model<B>, prompt: &TokenizedPrompt) -> Work {
    let each = prompt.masked.as_ref().is_some_and(|masked| masked.one_at_a_time.is_some());
    let runs = if each { prompt.masked.as_ref().map_or(0, |masked| masked.own.len()) } else { 1 } as u64;
    Work::plain(runs, runs * model.layers_macs(prompt.tokens.len()))
}

impl Record {
    fn of(id: &str, group: &Option<String>, tokens: &[u32], pieces: &[String]) -> Self {
        let sample = Sample {
            id: id.to_owned(),
            group: group.clone(),
            tokens: tokens.to_vec(),
            pieces: pieces.to_vec(),
            ..Sample::default()
        };
        Self { sample, costs: Costs::new() }
    }

    /// The sample with its work; after an overflow, with the reason instead of results.
    fn finish(self, measured: Result<(), Overflow>, forward: Work, costs: &mut Costs) -> Sample {
        let mut sample = self.sample;
        if let Err(overflow) = measured {
            let Sample { id, group, text_sha256, tokens, pieces, masked, qa, .. } = sample;
            let failed = Some(overflow.reason());
            sample =
                Sample { id, group, text_sha256, tokens, pieces, masked, qa, failed, ..Sample::default() };
        }
        forward.add_to(&mut sample.work, "forward");
        self.costs.iter().for_each(|(name, cost)| cost.work.add_to(&mut sample.work, name));
        add(costs, self.costs);
        sample
    }

    /// Runs the probes of prompts.
    fn probe_prompt<B: Backend>(
        &mut self,
        model: &Model<B>,
        maps: &LensMaps<B>,
        prompt: &TokenizedPrompt,
        trace: &Trace<B>,
        options: &ProbeOptions,
        exec: &ExecOptions<'_>,
    ) -> Result<(), Overflow> {
        let Self { sample, costs } = self;
        finite(model, trace)?;
        let has = |probe| options.has(probe);
        let (depth, tokens) = (trace.attn_out.len(), trace.tokens.len());
        if has(Probe::Contributions) {
            let work = contributions::plan(depth, tokens, trace.hidden);
            let measure = || contributions::measure(model.backend(), trace);
            sample.contributions = Some(timed(costs, "contributions", work, measure));
        }
        if has(Probe::Lens) || has(Probe::Settling) {
            // One sweep serves both probes; its cost is that of the lens if both run.
            let name = if has(Probe::Lens) { "lens" } else { "settling" };
            let work = lens::plan(model, tokens, exec.memory, options.lens_maps).0;
            let points = timed(costs, name, work, || lens::sweep_through(model, trace, maps, exec));
            Overflow::check(points.iter().flatten().map(|p| p.divergence.kl), "the lens")?;
            sample.lens = has(Probe::Lens).then(|| lens::curves(&points));
            sample.settling = has(Probe::Settling).then(|| settling::measure(&points));
        }
        if has(Probe::Similarity) {
            let work = similarity::plan(depth, tokens, trace.hidden);
            let measure = || similarity::measure(model.backend(), trace);
            sample.similarity = Some(timed(costs, "similarity", work, measure));
        }
        if has(Probe::Angles) {
            let work = angles::plan(model, tokens, exec.memory).0;
            let angles = timed(costs, "angles", work, || angles::measure(model, trace, exec));
            let losses = angles.last_layer_nll.iter().copied();
            Overflow::check(losses, "the loss after the last layer")?;
            sample.angles = Some(angles);
        }
        if has(Probe::Experts) {
            let work = experts::plan(model, tokens);
            sample.experts = Some(timed(costs, "experts", work, || experts::measure(model, trace)));
            (exec.on_progress)(work.macs);
        }
        if has(Probe::Skip) {
            let start = Instant::now();
            let (skips, work) = skip::sample(model, trace, &options.skip, &prompt.positions, exec);
            spend(costs, "skip", work, start);
            if !skips.is_finite() {
                return Err(Overflow("the effect of a skip"));
            }
            sample.skip = Some(skips);
        }
        if has(Probe::Order) {
            let work = order::plan(model, tokens, exec.memory).0;
            let work = if exec.naive { Work { macs: work.macs_naive, ..work } } else { work };
            let effects = timed(costs, "order", work, || order::measure(model, trace, exec));
            let divergences = effects.families().map(|(_, effects)| effects.kl.clone()).concat();
            Overflow::check(divergences.into_iter(), "the effect of another order of layers")?;
            sample.order = Some(effects);
        }
        Ok(())
    }

    /// Runs the probes of masked texts.
    fn probe_masked<B: Backend>(
        &mut self,
        model: &Model<B>,
        masked: &Masked,
        trace: &Trace<B>,
        options: &ProbeOptions,
        exec: &ExecOptions<'_>,
    ) -> Result<(), Overflow> {
        finite(model, trace)?;
        let rows = |of: &[usize]| {
            trace.rows(model.backend(), &of.iter().map(|position| *position as u32).collect::<Vec<_>>())
        };
        let (own, masks) = (rows(&masked.own), rows(&masked.targets.positions));
        self.probe_rows(model, (&own, &masks), &masked.targets.tokens, options, exec)?;
        if options.has(Probe::Skip) {
            let start = Instant::now();
            let (skips, work) = skip::sample_masked(model, trace, &options.skip, masked, exec);
            spend(&mut self.costs, "skip", work, start);
            if !skips.is_finite() {
                return Err(Overflow("the effect of a skip"));
            }
            self.sample.skip = Some(skips);
        }
        Ok(())
    }

    /// Runs the probes that look at positions one by one: those of a text's own tokens, and the masks among them with the
    /// tokens that they hide.
    fn probe_rows<B: Backend>(
        &mut self,
        model: &Model<B>,
        (own, masks): (&Trace<B>, &Trace<B>),
        hidden: &[u32],
        options: &ProbeOptions,
        exec: &ExecOptions<'_>,
    ) -> Result<(), Overflow> {
        let Self { sample, costs } = self;
        let (depth, tokens) = (own.depth(), own.tokens.len());
        finite(model, own)?;
        if options.has(Probe::Contributions) {
            let work = contributions::plan(depth, tokens, own.hidden);
            let measure = || contributions::measure(model.backend(), own);
            sample.contributions = Some(timed(costs, "contributions", work, measure));
        }
        if options.has(Probe::Lens) || options.has(Probe::Settling) {
            let name = if options.has(Probe::Lens) { "lens" } else { "settling" };
            let work = lens::plan(model, masks.tokens.len(), exec.memory, 0).0;
            let points = timed(costs, name, work, || lens::sweep_targets(model, masks, hidden, exec));
            Overflow::check(points.iter().flatten().map(|p| p.divergence.kl), "the logit lens")?;
            sample.lens = options.has(Probe::Lens).then(|| lens::curves(&points));
            sample.settling = options.has(Probe::Settling).then(|| settling::measure(&points));
        }
        if options.has(Probe::Similarity) {
            let work = similarity::plan(depth, tokens, own.hidden);
            let measure = || similarity::measure(model.backend(), own);
            sample.similarity = Some(timed(costs, "similarity", work, measure));
        }
        Ok(())
    }

    /// Runs the probes of question-answer pairs.
    fn probe_pair<B: Backend>(
        &mut self,
        model: &Model<B>,
        pair: &TokenizedPair,
        trace: &Trace<B>,
        means: &B::Buffer,
        options: &ProbeOptions,
        exec: &ExecOptions<'_>,
    ) -> Result<(), Overflow> {
        let Self { sample, costs } = self;
        finite(model, trace)?;
        let answer = pair.qa.answer_tokens;
        let targets = pair.targets();
        if options.has(Probe::Erasure) {
            let start = Instant::now();
            let (effect, work) = match &pair.masked {
                Some(masked) => erasure::measure_masked(model, trace, masked, means, exec),
                None => erasure::measure(model, trace, answer, means, exec),
            };
            spend(costs, "erasure", work, start);
            Overflow::check(effect.iter().flatten().copied(), "the effect of an erasure")?;
            sample.erasure = Some(effect);
        }
        if options.has(Probe::Gradients) {
            let start = Instant::now();
            let (gradients, work) = gradients::measure(model, trace, &targets, &options.gradients, exec);
            spend(costs, "gradients", work, start);
            let attributions = gradients.iter().flat_map(|g| g.attribution.iter().flatten());
            Overflow::check(attributions.copied(), "the gradient")?;
            sample.gradients = Some(gradients);
        }
        Ok(())
    }
}

fn timed<T>(costs: &mut Costs, name: &str, work: Work, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    spend(costs, name, work, start);
    result
}
