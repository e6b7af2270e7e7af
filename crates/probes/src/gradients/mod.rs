//! Integrated gradients of the probability of an answer with respect to the output of each layer
//! (arXiv 2505.13898).

mod path;
mod quadrature;

use crate::planner::naive;
use crate::tokenized::Targets;
use crate::vector::SMALLEST;
use crate::{ExecOptions, MemoryPlan, Work};
use fathom_model::{Backend, Dtype, Model, Trace};
use fathom_results::{GradientSite, Gradients, PAPER_STEPS, PathBaseline, Quadrature};
use path::{Path, Scratch, TracedPair};
use quadrature::Resolution;
use serde::Serialize;

/// Options of the probe.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GradientOptions {
    /// The sites, each measured separately.
    pub sites: Vec<GradientSite>,
    /// The start of the paths.
    pub baseline: PathBaseline,
    /// The quadrature rule.
    pub quadrature: Quadrature,
}

impl Default for GradientOptions {
    fn default() -> Self {
        Self {
            sites: vec![GradientSite::Resid],
            baseline: PathBaseline::Sequence,
            quadrature: Quadrature::ADAPTIVE,
        }
    }
}

/// Measures one pair, whose answer `targets` asks for, at each site of the options.
///
/// The naive multiply-adds are those of the papers' method: for each layer, 256 full forward passes with
/// the logits of every position, and the backward passes to the layer.
pub fn measure<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    targets: &Targets,
    options: &GradientOptions,
    exec: &ExecOptions<'_>,
) -> (Vec<Gradients>, Work) {
    // Nothing but batches of nodes is shared, so naive means one node at a time.
    let memory = if exec.naive { MemoryPlan { rows: 1, ..exec.memory } } else { exec.memory };
    let pair = TracedPair::new(model, trace, targets, memory);
    let mut work = Work::default();
    let at_site = |site: &GradientSite| {
        let (gradients, done) = at_site(&pair, *site, options, exec.on_progress);
        work += done;
        gradients
    };
    (options.sites.iter().map(at_site).collect(), work)
}

/// The unit roundoff of weights and inputs.
fn rounding(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => 2f64.powi(-24),
        Dtype::Bf16 => 2f64.powi(-9),
    }
}

fn at_site<B: Backend>(
    pair: &TracedPair<'_, B>,
    site: GradientSite,
    options: &GradientOptions,
    on_progress: &dyn Fn(u64),
) -> (Gradients, Work) {
    let (depth, tokens) = (pair.model.config().depth(), pair.trace.tokens.len());
    let GradientOptions { baseline, quadrature, .. } = *options;
    let mut gradients = Gradients {
        site,
        baseline,
        quadrature,
        attribution: Vec::with_capacity(depth),
        completeness_error: Vec::with_capacity(depth),
        interval_error: matches!(quadrature, Quadrature::Adaptive(_)).then(|| Vec::with_capacity(depth)),
        nodes: Vec::with_capacity(depth),
    };
    let mut work = Work::default();
    if pair.targets.positions.is_empty() {
        // Nothing is predicted, so all attributions are 0.
        gradients.attribution = vec![vec![0.0; tokens]; depth];
        gradients.completeness_error = vec![0.0; depth];
        gradients.interval_error = gradients.interval_error.map(|_| vec![0.0; depth]);
        gradients.nodes = vec![0; depth];
        return (gradients, work);
    }
    let mut scratch = Scratch::new(pair.model);
    let clean = pair.clean(&mut scratch);
    let resolution = Resolution { change: SMALLEST, rounding: rounding(pair.model.dtype()) };
    for layer in 0..depth {
        let mut path = Path::new(pair, site, layer, baseline, &mut scratch);
        let start = path.baseline_target();
        let result = quadrature::integrate(quadrature, [start, clean], resolution, |at| path.nodes(at));
        let sum: f64 = result.parts.iter().sum();
        let change = clean - start;
        gradients.nodes.push(result.nodes);
        let size = change.abs().max(SMALLEST);
        gradients.completeness_error.push((sum - change).abs() / size);
        let error = result.absolute_error.map(|error| error / size);
        gradients.interval_error.iter_mut().zip(error).for_each(|(all, error)| all.push(error));
        let mut attribution = result.parts;
        attribution.resize(tokens, 0.0);
        gradients.attribution.push(attribution);
        work +=
            Work { macs: path.macs, runs: result.nodes as u64 + 1, ..at_layer(pair.model, tokens, layer) };
        on_progress(path.macs);
    }
    (gradients, work)
}

/// Edits and naive multiply-adds of one layer, for the steps of the papers' sum.
fn at_layer<B: Backend>(model: &Model<B>, tokens: usize, layer: usize) -> Work {
    let backward = above(model, tokens, layer, Model::attention_backward_macs)
        + model.head_macs_per_row() * tokens as u64;
    let steps = u64::from(PAPER_STEPS);
    Work { edits: steps, macs_naive: steps * (naive::macs(model, tokens) + backward), ..Work::default() }
}

/// Multiply-adds of `rows` rows of one pair in the layers above `layer`.
fn above<B: Backend>(
    model: &Model<B>,
    rows: usize,
    layer: usize,
    attention: impl Fn(&Model<B>, usize, usize, usize) -> u64,
) -> u64 {
    let layers = layer + 1..model.config().depth();
    let of_layer = |l| {
        let attention: u64 = (0..rows).map(|p| attention(model, l, p, rows)).sum();
        model.layer_macs_per_row(l) * rows as u64 + attention
    };
    layers.map(of_layer).sum()
}

/// The work of [`measure`] on a pair of `tokens` tokens; approximate for the adaptive rule.
pub fn plan<B: Backend>(
    model: &Model<B>,
    tokens: usize,
    targets: &Targets,
    options: &GradientOptions,
) -> Work {
    let rows = path::rows(model, tokens);
    let head = model.head_macs_per_row() * targets.positions.len() as u64;
    let nodes = quadrature::expected_nodes(options.quadrature);
    let mut work = Work::default();
    for site in &options.sites {
        let enters = *site == GradientSite::Attn && !model.config().parallel;
        for layer in 0..model.config().depth() {
            let ends = head + if enters { model.mlp_macs_per_row(layer) * rows as u64 } else { 0 };
            let forward = above(model, rows, layer, Model::attention_macs) + ends;
            let backward = above(model, rows, layer, Model::attention_backward_macs) + ends;
            let macs = forward + nodes * (forward + backward);
            work += Work { macs, runs: nodes + 1, ..at_layer(model, tokens, layer) };
        }
    }
    work
}
