//! The path from a baseline to the values at one layer, and the target along it.
//!
//! Points of the path form a batch, which runs forward and backward through the layers above the cut
//! only. In a causal text the last token predicts nothing and is not part of the batch.

use super::quadrature::Node;
use super::{GradientSite, PathBaseline, above};
use crate::MemoryPlan;
use crate::tokenized::Targets;
use fathom_model::{Backend, Buffers, LayerKeys, Model, Run, SavedActivations, Trace};
use std::ops::Range;

/// A question-answer pair and its clean run.
pub(super) struct TracedPair<'a, B: Backend> {
    pub(super) model: &'a Model<B>,
    pub(super) trace: &'a Trace<B>,
    /// What is predicted, and where.
    pub(super) targets: &'a Targets,
    pub(super) memory: MemoryPlan,
}

impl<'a, B: Backend> TracedPair<'a, B> {
    pub(super) fn new(
        model: &'a Model<B>,
        trace: &'a Trace<B>,
        targets: &'a Targets,
        memory: MemoryPlan,
    ) -> Self {
        Self { model, trace, targets, memory }
    }

    /// Rows that run through the layers.
    pub(super) fn rows(&self) -> usize {
        rows(self.model, self.trace.tokens.len())
    }

    /// The target F of the clean run.
    pub(super) fn clean(&self, scratch: &mut Scratch<B>) -> f64 {
        let last = &self.trace.resid[self.trace.depth()];
        self.values(last, 1, self.trace.tokens.len(), scratch).iter().sum()
    }

    /// F of each point, from the stream that enters the final norm, `[points, rows, d]`.
    fn values(&self, h: &B::Buffer, points: usize, rows: usize, scratch: &mut Scratch<B>) -> Vec<f64> {
        let on = self.model.backend();
        let (answer_rows, tokens) = self.answer_rows(points, rows);
        let mut numbers = Vec::new();
        for (rows, tokens) in answer_rows.chunks(self.head_rows()).zip(tokens.chunks(self.head_rows())) {
            on.gather(self.trace.hidden, h, rows, &mut scratch.rows);
            numbers.push(self.model.answer(&scratch.rows, tokens, &mut scratch.logits));
        }
        let found: Vec<f64> = on.read(numbers).into_iter().flatten().map(f64::exp).collect();
        found.chunks(self.targets.positions.len().max(1)).map(|point| point.iter().sum()).collect()
    }

    /// The rows of all points that predict the answer, and the tokens they should predict.
    fn answer_rows(&self, points: usize, rows: usize) -> (Vec<u32>, Vec<u32>) {
        let of_point = |point: usize| self.targets.positions.iter().map(move |t| (point * rows + t) as u32);
        ((0..points).flat_map(of_point).collect(), self.targets.tokens.repeat(points))
    }

    /// Rows of logits that fit into memory beside their gradients.
    fn head_rows(&self) -> usize {
        (self.memory.bytes / (8 * self.model.config().vocab)).max(1)
    }
}

/// Rows of a text that run through the layers: the last one of a causal text predicts nothing.
pub(super) fn rows<B: Backend>(model: &Model<B>, tokens: usize) -> usize {
    if model.config().is_causal() { tokens.saturating_sub(1) } else { tokens }
}

/// Scratch buffers, shared by the paths of all layers.
pub(super) struct Scratch<B: Backend> {
    b: Buffers<B>,
    rows: B::Buffer,
    logits: B::Buffer,
}

impl<B: Backend> Scratch<B> {
    pub(super) fn new(model: &Model<B>) -> Self {
        Self { b: Buffers::new(model), rows: model.backend().empty(), logits: model.backend().empty() }
    }
}

/// The path at one layer. Counts its multiply-adds.
pub(super) struct Path<'a, B: Backend> {
    pair: &'a TracedPair<'a, B>,
    site: GradientSite,
    layer: usize,
    /// The baseline, `[rows, d]`.
    base: B::Buffer,
    /// Values minus baseline, `[rows, d]`.
    direction: B::Buffer,
    /// The residual stream that the values are added to, `[rows, d]`; `None` at [`GradientSite::Resid`].
    beside: Option<B::Buffer>,
    pub(super) macs: u64,
    scratch: &'a mut Scratch<B>,
}

impl<'a, B: Backend> Path<'a, B> {
    pub(super) fn new(
        pair: &'a TracedPair<'a, B>,
        site: GradientSite,
        layer: usize,
        baseline: PathBaseline,
        scratch: &'a mut Scratch<B>,
    ) -> Self {
        let TracedPair { trace, model, .. } = pair;
        let (on, d) = (model.backend(), trace.hidden);
        let part = 0..pair.rows() * d;
        let (values, beside) = match site {
            GradientSite::Resid => (&trace.resid[layer + 1], None),
            GradientSite::Attn => (&trace.attn_out[layer], Some(on.copy(&trace.resid[layer], part.clone()))),
            GradientSite::Mlp => {
                let mut mid = on.copy(&trace.resid[layer], part.clone());
                on.add_assign(&mut mid, &on.copy(&trace.attn_out[layer], part.clone()));
                model.norm_after_attention(layer, &mut mid, None);
                (&trace.mlp_out[layer], Some(mid))
            }
        };
        let base = on.buffer_of(&match baseline {
            PathBaseline::Sequence => mean_row(on, values, d, trace.tokens.len()).repeat(pair.rows()),
            PathBaseline::Feature => {
                let sums = on.read(vec![on.row_sums(d, values)]).concat();
                let means = sums[..pair.rows()].iter().map(|sum| (sum / d as f64) as f32);
                means.flat_map(|mean| std::iter::repeat_n(mean, d)).collect()
            }
        });
        let mut direction = on.empty();
        on.subtract(&on.copy(values, part), &base, &mut direction);
        Self { pair, site, layer, base, direction, beside, macs: 0, scratch }
    }

    /// Number of points of the path per batch.
    fn batch_points(&self) -> usize {
        let TracedPair { model, memory, .. } = &self.pair;
        let above = (model.config().depth() - self.layer).max(1);
        let kept = model.saved_bytes_per_row() * above;
        (memory.rows.min(memory.saved / kept.max(1)) / self.pair.rows().max(1)).max(1)
    }

    /// F at the baseline, by a forward pass.
    pub(super) fn baseline_target(&mut self) -> f64 {
        let (h, _) = self.enter(&[0.0], false);
        let (h, _) = self.forward(h, 1, false);
        self.pair.values(&h, 1, self.pair.rows(), self.scratch).iter().sum()
    }

    /// F and its slopes at some points, in batches.
    pub(super) fn nodes(&mut self, at: &[f64]) -> Vec<Node> {
        let size = self.batch_points();
        at.chunks(size).flat_map(|at| self.evaluate(at)).collect()
    }

    /// Forward and backward pass through the layers above for some points, as one batch.
    fn evaluate(&mut self, at: &[f64]) -> Vec<Node> {
        let (model, d) = (self.pair.model, self.pair.trace.hidden);
        let on = model.backend();
        let (h, entered) = self.enter(at, true);
        let (h, saved) = self.forward(h, at.len(), true);
        let (targets, mut gradient) = self.head(&h, at.len());
        let batch = model.batch(self.runs(at.len()));
        let mut d_keys = LayerKeys::default();
        for (l, saved) in self.above().zip(&saved).rev() {
            model.layer_backward(l, &batch, saved, &mut d_keys, &mut gradient);
        }
        match entered {
            Some(saved) if self.site == GradientSite::Attn => {
                model.mlp_half_backward(self.layer, &saved, &mut gradient);
                model.after_attention_backward(self.layer, &saved, &mut gradient);
            }
            Some(saved) => model.after_mlp_backward(self.layer, &saved, &mut gradient),
            None => {}
        }
        self.macs += self.backward_macs() * at.len() as u64;
        let mut numbers = targets;
        numbers.push(on.row_dots(d, &gradient, &self.direction));
        let mut numbers = on.read(numbers);
        let slopes = numbers.pop().unwrap_or_default();
        let targets = numbers.concat();
        let points = slopes
            .chunks_exact(self.pair.rows())
            .zip(targets.chunks_exact(self.pair.targets.positions.len()));
        let node = |((slopes, target), &at): ((&[f64], &[f64]), &f64)| Node {
            at,
            value: target.iter().sum(),
            slopes: slopes.to_vec(),
        };
        points.zip(at).map(node).collect()
    }

    fn above(&self) -> Range<usize> {
        self.layer + 1..self.pair.model.config().depth()
    }

    fn runs(&self, points: usize) -> Vec<Run> {
        // The length is that of the whole pair, because the frequencies of LongRoPE depend on it.
        let (rows, length) = (self.pair.rows(), self.pair.trace.tokens.len());
        (0..points).map(|i| Run { rows: i * rows..(i + 1) * rows, first: 0, length, past: vec![] }).collect()
    }

    /// The position of each row of some points.
    fn positions(&self, points: usize) -> Vec<u32> {
        (0..points).flat_map(|_| 0..self.pair.rows() as u32).collect()
    }

    /// The residual stream that leaves the layer at each point. With `save`, also the activations of what lies between the
    /// path and that stream: the MLP, or a norm.
    fn enter(&mut self, at: &[f64], save: bool) -> (B::Buffer, Option<SavedActivations<B>>) {
        let TracedPair { model, trace, .. } = self.pair;
        let on = model.backend();
        let positions = self.positions(at.len());
        self.scratch.b.keys = model.clean_keys(trace, &positions);
        let points: Vec<f32> = at.iter().map(|r| *r as f32).collect();
        let mut h = on.empty();
        on.interpolate(&self.base, &self.direction, &points, &mut h);
        if let Some(beside) = &self.beside {
            on.add_assign(&mut h, beside);
        }
        let mut saved = save.then(SavedActivations::default);
        match self.site {
            GradientSite::Resid => return (h, None),
            GradientSite::Mlp => {
                model.norm_after_mlp(self.layer, &mut h, saved.as_mut());
                return (h, saved);
            }
            GradientSite::Attn => {}
        }
        if model.config().parallel {
            let rows = 0..self.pair.rows() * trace.hidden;
            on.add_assign(&mut h, &on.copy(&trace.mlp_out[self.layer], rows));
            return (h, None);
        }
        model.norm_after_attention(self.layer, &mut h, saved.as_mut());
        model.read_tokens(self.layer, trace, &positions, &mut self.scratch.b);
        match &mut saved {
            Some(saved) => model.mlp_saved_in(self.layer, &h, &mut self.scratch.b, saved),
            None => model.mlp(self.layer, &h, &mut self.scratch.b),
        }
        self.macs += model.mlp_macs_per_row(self.layer) * (at.len() * self.pair.rows()) as u64;
        on.add_assign(&mut h, &self.scratch.b.mlp_out);
        model.norm_after_mlp(self.layer, &mut h, saved.as_mut());
        (h, saved)
    }

    /// Forward pass through the layers above the cut, `[points, rows, d]`.
    fn forward(
        &mut self,
        mut h: B::Buffer,
        points: usize,
        save: bool,
    ) -> (B::Buffer, Vec<SavedActivations<B>>) {
        let model = self.pair.model;
        let batch = model.batch(self.runs(points));
        let mut out = model.backend().empty();
        let mut saved = Vec::new();
        let positions = self.positions(points);
        for l in self.above() {
            model.read_tokens(l, self.pair.trace, &positions, &mut self.scratch.b);
            if save {
                saved.push(model.layer_saved(l, &batch, &h, &mut self.scratch.b, &mut out));
            } else {
                model.layer(l, &batch, &h, &mut self.scratch.b, &mut out);
            }
            std::mem::swap(&mut h, &mut out);
        }
        self.macs += (above(model, self.pair.rows(), self.layer, Model::attention_macs)
            + model.head_macs_per_row() * self.pair.targets.positions.len() as u64)
            * points as u64;
        (h, saved)
    }

    /// The probabilities that F of each point sums up, and the gradient of F with respect to the stream that
    /// enters the final norm.
    fn head(&mut self, h: &B::Buffer, points: usize) -> (Vec<B::Numbers>, B::Buffer) {
        let TracedPair { model, trace, .. } = self.pair;
        let (on, d, rows) = (model.backend(), trace.hidden, self.pair.rows());
        let (answer_rows, tokens) = self.pair.answer_rows(points, rows);
        let mut gradient = on.buffer_of(&vec![0.0; points * rows * d]);
        let (mut of_rows, mut numbers) = (on.empty(), Vec::new());
        let at_once = self.pair.head_rows();
        for (rows, tokens) in answer_rows.chunks(at_once).zip(tokens.chunks(at_once)) {
            on.gather(d, h, rows, &mut self.scratch.rows);
            let Scratch { rows: h, logits, .. } = &mut *self.scratch;
            numbers.push(model.answer_backward(h, tokens, logits, &mut of_rows));
            on.scatter(d, &of_rows, rows, &mut gradient);
        }
        (numbers, gradient)
    }

    /// Multiply-adds of the backward pass of one point, including the head.
    fn backward_macs(&self) -> u64 {
        let model = self.pair.model;
        let entered = self.site == GradientSite::Attn && !model.config().parallel;
        let mlp = if entered { model.mlp_macs_per_row(self.layer) * self.pair.rows() as u64 } else { 0 };
        let head = model.head_macs_per_row() * self.pair.targets.positions.len() as u64;
        above(model, self.pair.rows(), self.layer, Model::attention_backward_macs) + mlp + head
    }
}

/// The mean of all rows.
fn mean_row<B: Backend>(on: &B, x: &B::Buffer, width: usize, rows: usize) -> Vec<f32> {
    let sums = on.read(vec![on.column_sums(width, x)]).concat();
    sums.iter().map(|sum| (sum / rows.max(1) as f64) as f32).collect()
}
