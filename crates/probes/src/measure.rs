//! Runs a model over prompts and measures each.

use crate::cost::{Costs, Work, add, count, spend};
use crate::erasure::{self, MeanResiduals, Means};
use crate::plan::limits;
use crate::settings::Settings;
use crate::text::{Pair, Text};
use crate::way::{TooLittle, Way};
use crate::{Probe, Sample, contributions, gradients, lens, settling, similarity, skip};
use fathom_model::{Model, Trace};
use rayon::prelude::*;
use std::time::Instant;

/// Who follows a run.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Is asked before every prompt; when it says yes, what has been handed out is all
    /// there is.
    pub stop: &'a dyn Fn() -> bool,
    /// Receives multiply-adds as they are done.
    pub done: &'a dyn Fn(u64),
    /// Receives what a user should know, a sentence at a time.
    pub warn: &'a dyn Fn(&str),
}

impl Watch<'_> {
    /// Nobody follows the run.
    pub const NOBODY: Watch<'static> = Watch { stop: &|| false, done: &|_| (), warn: &|_| () };
}

/// Why measuring stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error<E: std::error::Error + 'static> {
    /// The model refused a prompt.
    #[error("prompt '{id}': {source}")]
    Model {
        /// The prompt.
        id: String,
        /// Why.
        source: Box<fathom_model::Error>,
    },
    /// A prompt of no tokens, over which there is no mean.
    #[error("prompt '{id}' has no tokens; leave it out")]
    Empty {
        /// The prompt.
        id: String,
    },
    /// The model overflows on every prompt whose mean residual is to erase tokens.
    #[error("no prompt gives a mean residual: the model overflows on all of them, try another dtype")]
    NoMean,
    /// A prompt does not fit into the memory.
    #[error(transparent)]
    TooLittle(TooLittle),
    /// The sample could not be kept.
    #[error(transparent)]
    Sink(E),
}

/// A quantity that is not a number on a prompt.
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

/// Measures the texts in order and hands each sample to `sink` as soon as it is there. A text on
/// which the model overflows gives a sample that says so.
///
/// # Errors
/// When a prompt is empty, does not fit into the memory or is refused by the model, or `sink`
/// fails. What comes before has been handed out.
pub fn measure<E: std::error::Error + 'static>(
    model: &Model,
    texts: &[Text],
    settings: &Settings,
    watch: Watch<'_>,
    sink: &mut dyn FnMut(Sample) -> Result<(), E>,
) -> Result<Costs, Error<E>> {
    let mut costs = Costs::new();
    let limits = limits(model, texts, &[], settings).map_err(Error::TooLittle)?;
    let way = Way { limits, naive: settings.naive, done: watch.done };
    let (mut rest, mut rows) = (texts, limits.clean);
    while let Some(first) = rest.first() {
        if (watch.stop)() {
            break;
        }
        if first.tokens.is_empty() {
            return Err(Error::Empty { id: first.id.clone() });
        }
        let (group, later) = rest.split_at(together(rest, rows));
        let tokens: Vec<&[u32]> = group.iter().map(|t| &t.tokens[..]).collect();
        let start = Instant::now();
        let traces = match model.run(&tokens) {
            Ok(traces) => traces,
            // One by one, the prompt that is refused can be named and those before it are kept.
            Err(_) if group.len() > 1 => {
                rows = 1;
                continue;
            }
            Err(source) => return Err(Error::Model { id: first.id.clone(), source: Box::new(source) }),
        };
        let macs = group.iter().map(|t| model.layers_macs(t.tokens.len())).sum();
        spend(&mut costs, "forward", Work::plain(group.len() as u64, macs), start);
        (watch.done)(macs);
        rest = later;
        for (text, trace) in group.iter().zip(&traces) {
            if (watch.stop)() {
                return Ok(costs);
            }
            sink(one(model, text, trace, settings, &way, &mut costs)).map_err(Error::Sink)?;
        }
    }
    Ok(costs)
}

/// How many of the texts go through the model together: as many as fit into
/// `rows`, but at least one; an empty one ends the group.
fn together(texts: &[Text], rows: usize) -> usize {
    let mut taken = 0;
    let fits = |t: &&Text| {
        taken += t.tokens.len();
        taken <= rows && !t.tokens.is_empty()
    };
    texts.iter().take_while(fits).count().max(1)
}

/// Measures question-answer pairs; erases with the mean residuals over all tokens of
/// `baseline`. Otherwise as [`measure`].
///
/// # Errors
/// As [`measure`].
pub fn measure_pairs<E: std::error::Error + 'static>(
    model: &Model,
    baseline: &[Text],
    pairs: &[Pair],
    settings: &Settings,
    watch: Watch<'_>,
    sink: &mut dyn FnMut(Sample) -> Result<(), E>,
) -> Result<Costs, Error<E>> {
    let mut costs = Costs::new();
    let baseline = if settings.has(Probe::Erasure) { baseline } else { &[] };
    let limits = limits(model, baseline, pairs, settings).map_err(Error::TooLittle)?;
    let way = Way { limits, naive: settings.naive, done: watch.done };
    let Some(means) = means(model, baseline, watch, &mut costs)? else { return Ok(costs) };
    for pair in pairs {
        if (watch.stop)() {
            break;
        }
        let start = Instant::now();
        let trace = clean(model, &pair.id, &pair.tokens)?;
        let forward = Work::plain(1, model.layers_macs(pair.tokens.len()));
        spend(&mut costs, "forward", forward, start);
        (watch.done)(forward.macs);
        let mut record = Record::of(&pair.id, &pair.group, &pair.tokens, &pair.pieces);
        record.sample.asked = Some(pair.asked.clone());
        let measured = record.probe_pair(model, pair, &trace, &means, settings, &way);
        sink(record.finish(measured, forward, &mut costs)).map_err(Error::Sink)?;
    }
    Ok(costs)
}

/// What is measured on one prompt, and what that costs.
struct Record {
    sample: Sample,
    costs: Costs,
}

/// The mean residuals over all tokens of some prompts; none where the user stopped.
fn means<E: std::error::Error + 'static>(
    model: &Model,
    baseline: &[Text],
    watch: Watch<'_>,
    costs: &mut Costs,
) -> Result<Option<Means>, Error<E>> {
    let mut means = MeanResiduals::new(model);
    let mut overflows = Vec::new();
    for text in baseline {
        if (watch.stop)() {
            return Ok(None);
        }
        let start = Instant::now();
        let trace = clean(model, &text.id, &text.tokens)?;
        match finite(&trace) {
            Ok(()) => means.add(&trace),
            Err(_) => overflows.push(format!("'{}'", text.id)),
        }
        let work = baseline_work(model, std::slice::from_ref(text));
        spend(costs, "erasure", work, start);
        (watch.done)(work.macs);
    }
    if !overflows.is_empty() {
        if overflows.len() == baseline.len() {
            return Err(Error::NoMean);
        }
        (watch.warn)(&format!(
            "the model overflows on {}; the mean residual of erasure leaves such prompts out",
            overflows.join(", ")
        ));
    }
    Ok(Some(means.means()))
}

/// The work of the mean residuals over some prompts, which [`measure_pairs`] needs for erasure.
pub fn baseline_work(model: &Model, baseline: &[Text]) -> Work {
    let macs = baseline.iter().map(|text| model.layers_macs(text.tokens.len())).sum();
    Work::plain(baseline.len() as u64, macs)
}

/// The clean run of one text.
fn clean<E: std::error::Error + 'static>(model: &Model, id: &str, tokens: &[u32]) -> Result<Trace, Error<E>> {
    let failed = |source| Error::Model { id: id.to_owned(), source: Box::new(source) };
    Ok(model.run(&[tokens]).map_err(failed)?.remove(0))
}

fn finite(trace: &Trace) -> Result<(), Overflow> {
    match trace.resid.par_iter().all(|h| h.iter().all(|x| x.is_finite())) {
        true => Ok(()),
        false => Err(Overflow("the residual stream")),
    }
}

/// All probes of prompts on one prompt.
fn one(
    model: &Model,
    text: &Text,
    trace: &Trace,
    settings: &Settings,
    way: &Way<'_>,
    costs: &mut Costs,
) -> Sample {
    let mut record = Record::of(&text.id, &text.group, &text.tokens, &text.pieces);
    record.sample.text_sha256 = text.text_sha256.clone();
    let measured = record.probe_text(model, text, trace, settings, way);
    let forward = Work::plain(1, model.layers_macs(text.tokens.len()));
    record.finish(measured, forward, costs)
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

    /// The sample with what was done for it, or with the reason why it failed and no probes.
    fn finish(self, measured: Result<(), Overflow>, forward: Work, costs: &mut Costs) -> Sample {
        let mut sample = self.sample;
        if let Err(overflow) = measured {
            let Sample { id, group, text_sha256, tokens, pieces, asked, .. } = sample;
            let failed = Some(overflow.reason());
            sample = Sample { id, group, text_sha256, tokens, pieces, asked, failed, ..Sample::default() };
        }
        count(&mut sample.work, "forward", forward);
        self.costs.iter().for_each(|(name, cost)| count(&mut sample.work, name, cost.work()));
        add(costs, self.costs);
        sample
    }

    /// All probes of prompts.
    fn probe_text(
        &mut self,
        model: &Model,
        text: &Text,
        trace: &Trace,
        settings: &Settings,
        way: &Way<'_>,
    ) -> Result<(), Overflow> {
        let Self { sample, costs } = self;
        finite(trace)?;
        let has = |probe| settings.has(probe);
        let (depth, tokens) = (trace.attn_out.len(), trace.tokens.len());
        if has(Probe::Contributions) {
            let work = contributions::plan(depth, tokens, trace.hidden);
            sample.contributions =
                Some(timed(costs, "contributions", work, || contributions::measure(trace)));
        }
        if has(Probe::Lens) || has(Probe::Settling) {
            // One sweep serves both probes; its cost stands under the first that asked for it.
            let name = if has(Probe::Lens) { "lens" } else { "settling" };
            let points = timed(costs, name, lens::plan(model, tokens, way.limits).0, || {
                lens::sweep(model, trace, way)
            });
            Overflow::check(points.iter().flatten().map(|p| p.divergence.kl), "the logit lens")?;
            sample.lens = has(Probe::Lens).then(|| lens::curves(&points));
            sample.settling = has(Probe::Settling).then(|| settling::measure(&points));
        }
        if has(Probe::Similarity) {
            let work = similarity::plan(depth, tokens, trace.hidden);
            sample.similarity = Some(timed(costs, "similarity", work, || similarity::measure(trace)));
        }
        if has(Probe::Skip) {
            let start = Instant::now();
            let (skips, work) = skip::sample(model, trace, &settings.skip, &text.positions, way);
            spend(costs, "skip", work, start);
            if !skips.is_finite() {
                return Err(Overflow("the effect of a skip"));
            }
            sample.skip = Some(skips);
        }
        Ok(())
    }

    /// All probes of question-answer pairs.
    fn probe_pair(
        &mut self,
        model: &Model,
        pair: &Pair,
        trace: &Trace,
        means: &Means,
        settings: &Settings,
        way: &Way<'_>,
    ) -> Result<(), Overflow> {
        let Self { sample, costs } = self;
        finite(trace)?;
        let answer = pair.asked.answer_tokens;
        if settings.has(Probe::Erasure) {
            let start = Instant::now();
            let (effect, work) = erasure::measure(model, trace, answer, means, way);
            spend(costs, "erasure", work, start);
            Overflow::check(effect.iter().flatten().copied(), "the effect of an erasure")?;
            sample.erasure = Some(effect);
        }
        if settings.has(Probe::Gradients) {
            let start = Instant::now();
            let (gradients, work) = gradients::measure(model, trace, answer, &settings.gradients, way);
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
