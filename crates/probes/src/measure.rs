//! Runs a model over prompts and measures each.

use crate::erasure::{self, MeanResiduals, Pair};
use crate::planner::Limits;
use crate::{Probe, Sample, contributions, lens, settling, similarity, skip};
use fathom_model::{Model, Trace};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// A prompt as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// Id of the prompt.
    pub id: String,
    /// Difficulty, level or the like.
    pub group: Option<String>,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The text of each token.
    pub pieces: Vec<String>,
    /// The t of the skip probe.
    pub positions: Vec<usize>,
}

/// What to measure and within what.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The probes.
    pub probes: Vec<Probe>,
    /// Bytes of working memory beside the weights, about.
    pub memory: usize,
    /// What the skip probe skips.
    pub skip: skip::Settings,
}

/// What a probe cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Multiply-adds done.
    pub madds: u64,
    /// Multiply-adds of the same measurement without sharing of work.
    pub madds_naive: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Peak memory of the process up to the end of the probe, in bytes; 0 where
    /// the system does not tell.
    pub peak_bytes: u64,
}

/// Costs by probe; `forward` is the clean run that all share.
pub type Costs = BTreeMap<String, Cost>;

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
    /// The sample could not be kept.
    #[error(transparent)]
    Sink(E),
}

/// Rows that a clean run takes at once: enough to keep the matrix products busy.
const ROWS: usize = 256;

/// Rows of edited runs that go through a layer together.
const PLANNED_ROWS: usize = 2048;

/// Measures the texts in order and hands each sample to `sink` as soon as it is
/// there. `stop` is asked before every prompt; when it says yes, what has been
/// handed out is all there is.
///
/// # Errors
/// When a prompt is empty or the model refuses it, a result is not a number or
/// `sink` fails. What comes before has been handed out.
pub fn measure<E: std::error::Error + 'static>(
    model: &Model,
    texts: &[Text],
    settings: &Settings,
    stop: &dyn Fn() -> bool,
    sink: &mut dyn FnMut(Sample) -> Result<(), E>,
) -> Result<Costs, Error<E>> {
    let mut costs = Costs::new();
    let (mut rest, mut rows) = (texts, ROWS);
    while let Some(first) = rest.first() {
        if stop() {
            break;
        }
        if first.tokens.is_empty() {
            return Err(Error::Empty { id: first.id.clone() });
        }
        let (group, later) = rest.split_at(together(rest, rows));
        let tokens: Vec<&[u32]> = group.iter().map(|t| &t.tokens[..]).collect();
        let madds = group.iter().map(|t| model.layers_madds(t.tokens.len())).sum();
        let traces = match timed(&mut costs, "forward", madds, || model.run(&tokens)) {
            Ok(traces) => traces,
            // One by one, the prompt that is refused can be named and those before it are kept.
            Err(_) if group.len() > 1 => {
                rows = 1;
                continue;
            }
            Err(source) => return Err(Error::Model { id: first.id.clone(), source: Box::new(source) }),
        };
        rest = later;
        for (text, trace) in group.iter().zip(&traces) {
            if stop() {
                return Ok(costs);
            }
            sink(one(model, text, trace, settings, &mut costs)?).map_err(Error::Sink)?;
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

/// Measures question-answer pairs, erasing with the mean residuals over all tokens
/// of `baseline`. Otherwise as [`measure`].
///
/// # Errors
/// As [`measure`].
pub fn measure_pairs<E: std::error::Error + 'static>(
    model: &Model,
    baseline: &[Text],
    pairs: &[Pair],
    settings: &Settings,
    stop: &dyn Fn() -> bool,
    sink: &mut dyn FnMut(Sample) -> Result<(), E>,
) -> Result<Costs, Error<E>> {
    let mut costs = Costs::new();
    let start = Instant::now();
    let mut means = MeanResiduals::new(model);
    for text in baseline {
        if stop() {
            return Ok(costs);
        }
        means.add(&clean(model, &text.id, &text.tokens)?);
    }
    let madds = baseline.iter().map(|t| model.layers_madds(t.tokens.len())).sum();
    spend(&mut costs, "erasure", madds, madds, start);
    let means = means.means();
    for pair in pairs {
        if stop() {
            break;
        }
        let start = Instant::now();
        let trace = clean(model, &pair.id, &pair.tokens)?;
        let limits = Limits { rows: PLANNED_ROWS, logits: settings.memory };
        let (effect, madds) = erasure::measure(model, &trace, pair.answer_tokens, &means, limits);
        spend(&mut costs, "erasure", madds.planned, madds.naive, start);
        sink(pair.sample(effect)).map_err(Error::Sink)?;
    }
    Ok(costs)
}

/// The clean run of one text.
fn clean<E: std::error::Error + 'static>(model: &Model, id: &str, tokens: &[u32]) -> Result<Trace, Error<E>> {
    let failed = |source| Error::Model { id: id.to_owned(), source: Box::new(source) };
    Ok(model.run(&[tokens]).map_err(failed)?.remove(0))
}

/// All probes on one prompt.
fn one<E: std::error::Error + 'static>(
    model: &Model,
    text: &Text,
    trace: &Trace,
    settings: &Settings,
    costs: &mut Costs,
) -> Result<Sample, Error<E>> {
    let has = |probe| settings.probes.contains(&probe);
    let bad = |what| Error::NotFinite { id: text.id.clone(), what };
    if trace.resid.iter().flatten().any(|x| !x.is_finite()) {
        return Err(bad("the residual stream"));
    }
    let mut sample = Sample {
        id: text.id.clone(),
        group: text.group.clone(),
        tokens: text.tokens.clone(),
        pieces: text.pieces.clone(),
        ..Sample::default()
    };
    let (levels, tokens) = (trace.resid.len(), trace.tokens.len());
    // Products of vectors of the stream, d multiply-adds each.
    let products = |n: usize| (n * tokens * trace.hidden) as u64;
    if has(Probe::Contributions) {
        let madds = products(8 * (levels - 1));
        sample.contributions = Some(timed(costs, "contributions", madds, || contributions::measure(trace)));
    }
    if has(Probe::Lens) || has(Probe::Settling) {
        let madds = model.head_madds_a_row() * (levels * tokens) as u64;
        // One sweep serves both probes; its cost stands under the first that asked for it.
        let name = if has(Probe::Lens) { "lens" } else { "settling" };
        let points = timed(costs, name, madds, || lens::sweep(model, trace, settings.memory));
        if points.iter().flatten().any(|p| !p.divergence.kl.is_finite()) {
            return Err(bad("the logit lens"));
        }
        sample.lens = has(Probe::Lens).then(|| lens::curves(&points));
        sample.settling = has(Probe::Settling).then(|| settling::measure(&points));
    }
    if has(Probe::Similarity) {
        let madds = products(levels * (levels + 1) / 2);
        sample.similarity = Some(timed(costs, "similarity", madds, || similarity::measure(trace)));
    }
    if has(Probe::Skip) {
        let limits = Limits { rows: PLANNED_ROWS, logits: settings.memory };
        let start = Instant::now();
        let (skips, madds) = skip::sample(model, trace, &settings.skip, &text.positions, limits);
        spend(costs, "skip", madds.planned, madds.naive, start);
        sample.skip = Some(skips);
    }
    Ok(sample)
}

fn timed<T>(costs: &mut Costs, name: &str, madds: u64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    spend(costs, name, madds, madds, start);
    result
}

/// Books what was done since `start`.
fn spend(costs: &mut Costs, name: &str, madds: u64, madds_naive: u64, start: Instant) {
    let cost = costs.entry(name.to_owned()).or_default();
    cost.seconds += start.elapsed().as_secs_f64();
    cost.madds += madds;
    cost.madds_naive += madds_naive;
    cost.peak_bytes = peak_bytes();
}

/// Peak resident memory of this process, where the system tells it.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
