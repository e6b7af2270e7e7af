//! Integrated gradients of an answer's probability at what each layer gives
//! (arXiv 2505.13898).

mod path;
mod quadrature;

pub use quadrature::{PAPER_STEPS, Quadrature, UnknownQuadrature};

use crate::planner::naive;
use crate::text::predicting;
use crate::vector::SMALLEST;
use crate::{Limits, Way, Work};
use fathom_model::{Dtype, Model, Trace};
use path::{Answered, Path, Room};
use quadrature::Resolution;
use serde::{Deserialize, Serialize};

/// Whose values the path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Site {
    /// The stream that leaves layer l, h_{l+1}.
    Resid,
    /// What the attention of layer l adds; the stream it is added to stays clean.
    Attn,
    /// What the MLP of layer l adds; the stream it is added to stays clean.
    Mlp,
}

/// Where the path starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Baseline {
    /// The mean of all positions, at every position.
    Sequence,
    /// At each position the mean of its features, in every feature (the papers' code).
    Feature,
}

/// What the probe measures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// The sites, each measured on its own.
    pub sites: Vec<Site>,
    /// Where the paths start.
    pub baseline: Baseline,
    /// How the integrals are taken.
    pub quadrature: Quadrature,
}

impl Default for Settings {
    fn default() -> Self {
        Self { sites: vec![Site::Resid], baseline: Baseline::Sequence, quadrature: Quadrature::Adaptive }
    }
}

/// Integrated gradients of one question-answer pair at one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gradients {
    /// Whose values the path leads to.
    pub site: Site,
    /// Where the path starts.
    pub baseline: Baseline,
    /// How the integral was taken.
    pub quadrature: Quadrature,
    /// `[L][T]`: what each position contributes to the summed probability of the
    /// answer's tokens. The last token contributes nothing.
    pub attribution: Vec<Vec<f64>>,
    /// `[L]`: |sum of attributions - (F(x) - F(base))| / |F(x) - F(base)|, the
    /// denominator at least 1e-6.
    pub completeness_error: Vec<f64>,
    /// `[L]`: the sum of what the rule misses of F's change in each of its intervals, as
    /// absolute values, over the same denominator: never below the completeness error, in
    /// which errors of opposite sign cancel. Absent for rules without intervals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_error: Option<Vec<f64>>,
    /// `[L]`: points of the path at which gradients were taken.
    pub nodes: Vec<usize>,
}

/// Measures one text whose last `answer` tokens are the answer, at each site of the
/// settings.
///
/// The multiply-adds count as naive the papers' way: for each layer 256 full forward
/// passes with the logits of every position, and from these the way back to the layer.
pub fn measure(
    model: &Model,
    trace: &Trace,
    answer: usize,
    settings: &Settings,
    way: &Way<'_>,
) -> (Vec<Gradients>, Work) {
    // One node at a time is as naive as this probe gets: nothing else is shared.
    let limits = if way.naive { Limits { rows: 1, ..way.limits } } else { way.limits };
    let pair = Answered::new(model, trace, answer, limits);
    let mut work = Work::default();
    let at_site = |site: &Site| {
        let (gradients, done) = at_site(&pair, *site, settings, way.done);
        work += done;
        gradients
    };
    (settings.sites.iter().map(at_site).collect(), work)
}

/// The unit roundoff of weights and inputs.
fn rounding(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => 2f64.powi(-24),
        Dtype::Bf16 => 2f64.powi(-9),
    }
}

fn at_site(pair: &Answered<'_>, site: Site, settings: &Settings, done: &dyn Fn(u64)) -> (Gradients, Work) {
    let (depth, tokens) = (pair.model.config().depth(), pair.trace.tokens.len());
    let Settings { baseline, quadrature, .. } = *settings;
    let mut gradients = Gradients {
        site,
        baseline,
        quadrature,
        attribution: Vec::with_capacity(depth),
        completeness_error: Vec::with_capacity(depth),
        interval_error: (quadrature == Quadrature::Adaptive).then(|| Vec::with_capacity(depth)),
        nodes: Vec::with_capacity(depth),
    };
    let mut work = Work::default();
    if pair.read.is_empty() {
        // Nothing is predicted, so nothing has a part in it.
        gradients.attribution = vec![vec![0.0; tokens]; depth];
        gradients.completeness_error = vec![0.0; depth];
        gradients.interval_error = gradients.interval_error.map(|_| vec![0.0; depth]);
        gradients.nodes = vec![0; depth];
        return (gradients, work);
    }
    let mut room = Room::default();
    let clean = pair.clean(&mut room);
    let limits = Resolution { change: SMALLEST, rounding: rounding(pair.model.dtype()) };
    for layer in 0..depth {
        let mut path = Path::new(pair, site, layer, baseline, &mut room);
        let start = path.start();
        let result = quadrature.integrate([start, clean], limits, |at| path.nodes(at));
        let sum: f64 = result.parts.iter().sum();
        let change = clean - start;
        gradients.nodes.push(result.nodes);
        let size = change.abs().max(SMALLEST);
        gradients.completeness_error.push((sum - change).abs() / size);
        let missed = result.missed.map(|missed| missed / size);
        gradients.interval_error.iter_mut().zip(missed).for_each(|(all, missed)| all.push(missed));
        let mut attribution = result.parts;
        attribution.resize(tokens, 0.0);
        gradients.attribution.push(attribution);
        work +=
            Work { macs: path.macs, runs: result.nodes as u64 + 1, ..at_layer(pair.model, tokens, layer) };
        done(path.macs);
    }
    (gradients, work)
}

/// Edits and naive multiply-adds of one layer: the steps of the papers' sum.
fn at_layer(model: &Model, tokens: usize, layer: usize) -> Work {
    let back = above(model, tokens, layer, Model::attention_backward_macs)
        + model.head_macs_per_row() * tokens as u64;
    let steps = u64::from(PAPER_STEPS);
    Work { edits: steps, macs_naive: steps * (naive::macs(model, tokens) + back), ..Work::default() }
}

/// Multiply-adds of `rows` rows of one text in the layers above one.
fn above(model: &Model, rows: usize, layer: usize, attention: impl Fn(&Model, usize, usize) -> u64) -> u64 {
    let layers = layer + 1..model.config().depth();
    let products = model.layer_macs_per_row() * (rows * layers.len()) as u64;
    let of_layer = |l| (0..rows).map(|p| attention(model, l, p)).sum::<u64>();
    products + layers.map(of_layer).sum::<u64>()
}

/// The work of [`measure`] on a pair of `tokens` tokens: of the adaptive quadrature, about.
pub fn plan(model: &Model, tokens: usize, answer: usize, settings: &Settings) -> Work {
    let rows = tokens.saturating_sub(1);
    let head = model.head_macs_per_row() * predicting(tokens, answer).len() as u64;
    let nodes = settings.quadrature.expected_nodes();
    let mut work = Work::default();
    for site in &settings.sites {
        let enters = *site == Site::Attn && !model.config().parallel;
        let ends = head + if enters { model.mlp_macs_per_row() * rows as u64 } else { 0 };
        for layer in 0..model.config().depth() {
            let forward = above(model, rows, layer, Model::attention_macs) + ends;
            let back = above(model, rows, layer, Model::attention_backward_macs) + ends;
            let macs = forward + nodes * (forward + back);
            work += Work { macs, runs: nodes + 1, ..at_layer(model, tokens, layer) };
        }
    }
    work
}
