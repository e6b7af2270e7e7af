//! What a measurement will take, counted and timed before it is made.

use crate::device::OnDevice;
use crate::job::Job;
use crate::lens::OpenLens;
use crate::observer::uncounted;
use crate::prompts::OpenSet;
use crate::{Measurement, Observer, Result, execute};
use fathom_model::{Backend, Model};
use fathom_probes::{Costs, Plans, ProbeOptions, TokenizedPair, TokenizedPrompt};
use fathom_results::Quadrature;
use fathom_surgery::least_squares::{Gram, Intercept};
use serde::Serialize;
use std::time::Instant;

/// What a measurement will take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// One entry a probe; `forward` is the clean run that all share, `lens fit` the fit of a linear lens.
    #[serde(rename = "plan")]
    pub probes: Vec<ProbeEstimate>,
    /// Bytes of weights.
    #[serde(skip)]
    pub weight_bytes: u64,
    /// Bytes of working memory that may be used beside them.
    #[serde(skip)]
    pub memory_bytes: u64,
}

/// What one probe will take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeEstimate {
    /// The probe's name.
    pub probe: String,
    /// Edited runs.
    pub edits: u64,
    /// Token sequences, or parts of them, that go through layers.
    pub runs: u64,
    /// Multiply-adds.
    #[serde(rename = "madds")]
    pub macs: u64,
    /// Multiply-adds of one full forward pass per edit.
    #[serde(rename = "madds_naive")]
    pub macs_naive: u64,
    /// Bytes of working memory beside the weights, at most about.
    pub bytes: u64,
    /// Seconds, where the probe ran on the short texts that speed is measured on.
    pub seconds: Option<f64>,
}

impl Estimate {
    /// Tokens of the texts on which speed is measured.
    pub const TOKENS: usize = 24;

    /// Seconds of all probes together.
    pub fn seconds(&self) -> f64 {
        self.probes.iter().filter_map(|p| p.seconds).sum()
    }
}

pub(crate) fn estimate(m: &Measurement, observer: &dyn Observer) -> Result<Estimate> {
    let data = OpenSet::open(&m.options.data, observer)?;
    m.options.model.device.run(observer, Estimating { m, data, observer })
}

struct Estimating<'a> {
    m: &'a Measurement,
    data: OpenSet,
    observer: &'a dyn Observer,
}

impl OnDevice for Estimating<'_> {
    type Output = Estimate;

    fn run<B: Backend>(self, backend: B) -> Result<Estimate> {
        let Self { m, data, observer } = self;
        let (located, checkpoint) = m.options.model.open(observer)?;
        let loaded = m.options.model.load(checkpoint, backend, observer)?;
        let job = Job::new(m, data, &loaded, observer)?;
        execute::introduce(&located, &loaded, &job, observer);
        let lens = OpenLens::open(m, &loaded, &job, observer)?;
        let plans = job.plans(&loaded.model)?;
        let calibrating = uncounted(observer, "calibrating");
        let costs = calibrate(&loaded.model, &job.prompts, &job.pairs, &job.options)?;
        let fit = lens.estimate(&loaded.model, job.options.memory, &costs);
        drop(calibrating);
        Ok(Estimate {
            probes: entries(&plans, &costs).into_iter().chain(fit).collect(),
            weight_bytes: loaded.model.bytes(),
            memory_bytes: job.options.memory,
        })
    }
}

fn entries(plans: &Plans, costs: &Costs) -> Vec<ProbeEstimate> {
    let entry = |(probe, plan): (&String, &fathom_probes::Plan)| {
        let work = plan.work;
        let cost = costs.get(probe).filter(|c| c.work.macs > 0 && c.resources.seconds > 0.0);
        let seconds = cost.map(|c| work.macs as f64 * c.resources.seconds / c.work.macs as f64);
        ProbeEstimate {
            probe: probe.clone(),
            edits: work.edits,
            runs: work.runs,
            macs: work.macs,
            macs_naive: work.macs_naive,
            bytes: plan.bytes,
            seconds,
        }
    };
    plans.iter().map(entry).collect()
}

/// What the probes cost on short beginnings of a prompt and a pair.
fn calibrate<B: Backend>(
    model: &Model<B>,
    prompts: &[TokenizedPrompt],
    pairs: &[TokenizedPair],
    options: &ProbeOptions,
) -> Result<Costs> {
    let mut options = options.clone();
    options.gradients.quadrature = Quadrature::Riemann(2);
    // The maps of a lens are not fitted for an estimate.
    options.lens_maps = 0;
    let callbacks = fathom_probes::Observer::NONE;
    let mut ignore = |_| Ok::<(), std::convert::Infallible>(());
    let prompts: Vec<TokenizedPrompt> = prompts.iter().take(1).map(short).collect();
    let mut costs = fathom_probes::measure(model, &prompts, &options, callbacks, &mut ignore)?;
    let pairs: Vec<TokenizedPair> = pairs.iter().take(1).map(short_pair).collect();
    let more = fathom_probes::measure_pairs(model, &[], &pairs, &options, callbacks, &mut ignore)?;
    fathom_probes::add(&mut costs, more);
    Ok(costs)
}

fn short(prompt: &TokenizedPrompt) -> TokenizedPrompt {
    let tokens: Vec<u32> = prompt.tokens.iter().take(Estimate::TOKENS).copied().collect();
    let positions = prompt.positions.iter().take(1).map(|_| tokens.len() / 2).collect();
    let masked = prompt.masked.as_ref().map(|masked| masked.before(tokens.len()));
    TokenizedPrompt { tokens, positions, masked, ..prompt.clone() }
}

fn short_pair(pair: &TokenizedPair) -> TokenizedPair {
    let mut short = pair.clone();
    short.tokens.truncate(Estimate::TOKENS);
    short.qa.answer_tokens = 1;
    short.masked = pair.masked.as_ref().map(|masked| masked.before(short.tokens.len()));
    short
}

/// Rows and columns of the products that are timed.
const SIZE: usize = 512;

/// Multiply-adds per second of sums for least squares, in f64.
pub(crate) fn speed_of_sums() -> f64 {
    let mut gram = Gram::new(SIZE, SIZE, Intercept::Fitted);
    let rows = vec![1.0; SIZE * SIZE];
    let started = Instant::now();
    gram.add(&rows, &rows);
    (SIZE * SIZE * SIZE) as f64 * 1.5 / started.elapsed().as_secs_f64()
}
