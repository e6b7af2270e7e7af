//! Integrated gradients of an answer's probability at what each layer gives
//! (arXiv 2505.13898).

mod path;
mod quadrature;

use crate::planner::naive;
use crate::tokenized::predicting;
use crate::vector::SMALLEST;
use crate::{ExecOptions, MemoryPlan, Work};
use fathom_model::{Dtype, Model, Trace};
use fathom_results::{GradientSite, Gradients, PAPER_STEPS, PathBaseline, Quadrature};
use path::{Answered, Path, Room};
use quadrature::Resolution;
use serde::Serialize;

/// What the probe measures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GradientOptions {
    /// The sites, each measured on its own.
    pub sites: Vec<GradientSite>,
    /// Where the paths start.
    pub baseline: PathBaseline,
    /// How the integrals are taken.
    pub quadrature: Quadrature,
}

impl Default for GradientOptions {
    fn default() -> Self {
        Self {
            sites: vec![GradientSite::Resid],
            baseline: PathBaseline::Sequence,
            quadrature: Quadrature::Adaptive,
        }
    }
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
    settings: &GradientOptions,
    exec: &ExecOptions<'_>,
) -> (Vec<Gradients>, Work) {
    // One node at a time is as naive as this probe gets: nothing else is shared.
    let limits = if exec.naive { MemoryPlan { rows: 1, ..exec.memory } } else { exec.memory };
    let pair = Answered::new(model, trace, answer, limits);
    let mut work = Work::default();
    let at_site = |site: &GradientSite| {
        let (gradients, done) = at_site(&pair, *site, settings, exec.on_progress);
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

fn at_site(
    pair: &Answered<'_>,
    site: GradientSite,
    settings: &GradientOptions,
    done: &dyn Fn(u64),
) -> (Gradients, Work) {
    let (depth, tokens) = (pair.model.config().depth(), pair.trace.tokens.len());
    let GradientOptions { baseline, quadrature, .. } = *settings;
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
        let result = quadrature::integrate(quadrature, [start, clean], limits, |at| path.nodes(at));
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
pub fn plan(model: &Model, tokens: usize, answer: usize, settings: &GradientOptions) -> Work {
    let rows = tokens.saturating_sub(1);
    let head = model.head_macs_per_row() * predicting(tokens, answer).len() as u64;
    let nodes = quadrature::expected_nodes(settings.quadrature);
    let mut work = Work::default();
    for site in &settings.sites {
        let enters = *site == GradientSite::Attn && !model.config().parallel;
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
