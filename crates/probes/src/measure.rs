//! Runs a model over prompts and measures each.

use crate::cost::{Costs, Work, spend};
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
    /// Is told of multiply-adds as they are done.
    pub done: &'a dyn Fn(u64),
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
    /// A result is not a number.
    #[error("prompt '{id}': {what} is not a number; the model overflows on it, try another dtype")]
    NotFinite {
        /// The prompt.
        id: String,
        /// The quantity.
        what: &'static str,
    },
    /// A prompt does not fit into the memory.
    #[error(transparent)]
    TooLittle(TooLittle),
    /// The sample could not be kept.
    #[error(transparent)]
    Sink(E),
}

/// Measures the texts in order and hands each sample to `sink` as soon as it is there.
///
/// # Errors
/// When a prompt is empty, does not fit into the memory or is refused by the model, a
/// result is not a number or `sink` fails. What comes before has been handed out.
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
        let madds = group.iter().map(|t| model.layers_madds(t.tokens.len())).sum();
        spend(&mut costs, "forward", Work::plain(group.len() as u64, madds), start);
        (watch.done)(madds);
        rest = later;
        for (text, trace) in group.iter().zip(&traces) {
            if (watch.stop)() {
                return Ok(costs);
            }
            sink(one(model, text, trace, settings, &way, &mut costs)?).map_err(Error::Sink)?;
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
        let madds = model.layers_madds(pair.tokens.len());
        spend(&mut costs, "forward", Work::plain(1, madds), start);
        (watch.done)(madds);
        let sample = of_pair(model, pair, &trace, &means, settings, &way, &mut costs);
        let effects = sample.erasure.iter().flatten().flatten();
        let attributions = sample.gradients.iter().flatten().flat_map(|g| g.attribution.iter().flatten());
        if !effects.chain(attributions).all(|x| x.is_finite()) {
            return Err(Error::NotFinite { id: pair.id.clone(), what: "the effect of an edit" });
        }
        sink(sample).map_err(Error::Sink)?;
    }
    Ok(costs)
}

/// The mean residuals over all tokens of some prompts; none where the user stopped.
fn means<E: std::error::Error + 'static>(
    model: &Model,
    baseline: &[Text],
    watch: Watch<'_>,
    costs: &mut Costs,
) -> Result<Option<Means>, Error<E>> {
    let mut means = MeanResiduals::new(model);
    for text in baseline {
        if (watch.stop)() {
            return Ok(None);
        }
        let start = Instant::now();
        means.add(&clean(model, &text.id, &text.tokens)?);
        let madds = model.layers_madds(text.tokens.len());
        spend(costs, "erasure", Work::plain(1, madds), start);
        (watch.done)(madds);
    }
    Ok(Some(means.means()))
}

/// The clean run of one text.
fn clean<E: std::error::Error + 'static>(model: &Model, id: &str, tokens: &[u32]) -> Result<Trace, Error<E>> {
    let failed = |source| Error::Model { id: id.to_owned(), source: Box::new(source) };
    let trace = model.run(&[tokens]).map_err(failed)?.remove(0);
    finite(&trace, id)?;
    Ok(trace)
}

fn finite<E: std::error::Error + 'static>(trace: &Trace, id: &str) -> Result<(), Error<E>> {
    match trace.resid.par_iter().all(|h| h.iter().all(|x| x.is_finite())) {
        true => Ok(()),
        false => Err(Error::NotFinite { id: id.to_owned(), what: "the residual stream" }),
    }
}

/// All probes of prompts on one prompt.
fn one<E: std::error::Error + 'static>(
    model: &Model,
    text: &Text,
    trace: &Trace,
    settings: &Settings,
    way: &Way<'_>,
    costs: &mut Costs,
) -> Result<Sample, Error<E>> {
    finite(trace, &text.id)?;
    let has = |probe| settings.has(probe);
    let mut sample = Sample {
        id: text.id.clone(),
        group: text.group.clone(),
        text_sha256: text.text_sha256.clone(),
        tokens: text.tokens.clone(),
        pieces: text.pieces.clone(),
        ..Sample::default()
    };
    let (depth, tokens) = (trace.attn_out.len(), trace.tokens.len());
    if has(Probe::Contributions) {
        let work = contributions::plan(depth, tokens, trace.hidden);
        sample.contributions = Some(timed(costs, "contributions", work, || contributions::measure(trace)));
    }
    if has(Probe::Lens) || has(Probe::Settling) {
        // One sweep serves both probes; its cost stands under the first that asked for it.
        let name = if has(Probe::Lens) { "lens" } else { "settling" };
        let points =
            timed(costs, name, lens::plan(model, tokens, way.limits).0, || lens::sweep(model, trace, way));
        if points.iter().flatten().any(|p| !p.divergence.kl.is_finite()) {
            return Err(Error::NotFinite { id: text.id.clone(), what: "the logit lens" });
        }
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
            return Err(Error::NotFinite { id: text.id.clone(), what: "the effect of a skip" });
        }
        sample.skip = Some(skips);
    }
    Ok(sample)
}

/// All probes of question-answer pairs on one pair.
fn of_pair(
    model: &Model,
    pair: &Pair,
    trace: &Trace,
    means: &Means,
    settings: &Settings,
    way: &Way<'_>,
    costs: &mut Costs,
) -> Sample {
    let mut sample = Sample {
        id: pair.id.clone(),
        group: pair.group.clone(),
        tokens: pair.tokens.clone(),
        pieces: pair.pieces.clone(),
        asked: Some(pair.asked.clone()),
        ..Sample::default()
    };
    let answer = pair.asked.answer_tokens;
    if settings.has(Probe::Erasure) {
        let start = Instant::now();
        let (effect, work) = erasure::measure(model, trace, answer, means, way);
        spend(costs, "erasure", work, start);
        sample.erasure = Some(effect);
    }
    if settings.has(Probe::Gradients) {
        let start = Instant::now();
        let (gradients, work) = gradients::measure(model, trace, answer, &settings.gradients, way);
        spend(costs, "gradients", work, start);
        sample.gradients = Some(gradients);
    }
    sample
}

fn timed<T>(costs: &mut Costs, name: &str, work: Work, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    spend(costs, name, work, start);
    result
}
