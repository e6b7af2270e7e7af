//! Runs a model over prompts and measures each.

use crate::{Probe, Sample, contributions, lens, settling, similarity};
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
}

/// What to measure and within what.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The probes.
    pub probes: Vec<Probe>,
    /// Bytes of working memory beside the weights, about.
    pub memory: usize,
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

/// Measures the texts in order and hands each sample to `sink` as soon as it is
/// there. `stop` is asked before every prompt; when it says yes, what has been
/// handed out is all there is.
///
/// # Errors
/// When the model refuses a prompt, a result is not a number or `sink` fails.
pub fn measure<E: std::error::Error + 'static>(
    model: &Model,
    texts: &[Text],
    settings: &Settings,
    stop: &dyn Fn() -> bool,
    sink: &mut dyn FnMut(Sample) -> Result<(), E>,
) -> Result<Costs, Error<E>> {
    let mut costs = Costs::new();
    let mut rest = texts;
    while !rest.is_empty() && !stop() {
        let mut rows = 0;
        let fits = |t: &&Text| {
            rows += t.tokens.len();
            rows <= ROWS
        };
        let (group, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        rest = later;
        let tokens: Vec<&[u32]> = group.iter().map(|t| &t.tokens[..]).collect();
        let madds = group.iter().map(|t| model.layers_madds(t.tokens.len())).sum();
        let traces = timed(&mut costs, "forward", madds, || model.run(&tokens))
            .map_err(|source| Error::Model { id: refused(model, group), source: Box::new(source) })?;
        for (text, trace) in group.iter().zip(&traces) {
            if stop() {
                break;
            }
            sink(one(model, text, trace, settings, &mut costs)?).map_err(Error::Sink)?;
        }
    }
    Ok(costs)
}

/// The prompt that the model refused: the first that it cannot embed.
fn refused(model: &Model, group: &[Text]) -> String {
    let guilty = group.iter().find(|t| model.embed(&t.tokens, 0).is_err());
    guilty.or(group.first()).map(|t| t.id.clone()).unwrap_or_default()
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
    Ok(sample)
}

fn timed<T>(costs: &mut Costs, name: &str, madds: u64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let cost = costs.entry(name.to_owned()).or_default();
    cost.seconds += start.elapsed().as_secs_f64();
    cost.madds += madds;
    cost.madds_naive += madds;
    cost.peak_bytes = peak_bytes();
    result
}

/// Peak resident memory of this process, where the system tells it.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
