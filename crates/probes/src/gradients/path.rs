//! The path from a baseline to the values at one layer, and the target along it.
//!
//! Points of the path form a batch, which runs forward and backward through the layers above the cut
//! only. The last token predicts nothing and is not part of the batch.

use super::quadrature::Node;
use super::{GradientSite, PathBaseline, above};
use crate::MemoryPlan;
use crate::tokenized::predicting;
use crate::vector::dot;
use fathom_kernels::Buffer;
use fathom_kernels::elementwise::add;
use fathom_model::{Buffers, Model, Run, SavedActivations, Trace};
use std::ops::Range;

/// A question-answer pair and its clean run.
#[derive(Clone)]
pub(super) struct TracedPair<'a> {
    pub(super) model: &'a Model,
    pub(super) trace: &'a Trace,
    /// Positions that predict the answer.
    pub(super) read: Range<usize>,
    pub(super) memory: MemoryPlan,
}

impl<'a> TracedPair<'a> {
    pub(super) fn new(model: &'a Model, trace: &'a Trace, answer: usize, memory: MemoryPlan) -> Self {
        Self { model, trace, read: predicting(trace.tokens.len(), answer), memory }
    }

    /// Rows that run through the layers: all but the last.
    pub(super) fn rows(&self) -> usize {
        self.trace.tokens.len().saturating_sub(1)
    }

    /// The target F of the clean run.
    pub(super) fn clean(&self, scratch: &mut Scratch) -> f64 {
        let last = &self.trace.resid[self.trace.attn_out.len()];
        self.targets(last, self.trace.tokens.len(), &mut scratch.logits).iter().sum()
    }

    /// F of each point, from the stream that enters the final norm, `[points, rows, d]`.
    fn targets(&self, h: &[f32], rows: usize, logits: &mut Buffer) -> Vec<f64> {
        let (answer_rows, tokens) = self.answer_rows(h, rows);
        let d = self.trace.hidden;
        let parts = answer_rows.chunks(self.head_rows() * d).zip(tokens.chunks(self.head_rows()));
        let found: Vec<f64> = parts.flat_map(|(h, tokens)| self.model.answer(h, tokens, logits)).collect();
        found.chunks(self.read.len().max(1)).map(|point| point.iter().sum()).collect()
    }

    /// The rows of all points that predict the answer, and the tokens they should predict.
    fn answer_rows(&self, h: &[f32], rows: usize) -> (Vec<f32>, Vec<u32>) {
        let d = self.trace.hidden;
        let part = self.read.start * d..self.read.end * d;
        let points = h.chunks_exact((rows * d).max(1));
        let tokens = &self.trace.tokens[self.read.start + 1..self.read.end + 1];
        (
            points.clone().flat_map(|point| &point[part.clone()]).copied().collect(),
            tokens.repeat(points.len()),
        )
    }

    /// Rows of logits that fit into memory beside their gradients.
    fn head_rows(&self) -> usize {
        (self.memory.bytes / (8 * self.model.config().vocab)).max(1)
    }
}

/// Scratch buffers, shared by the paths of all layers.
#[derive(Default)]
pub(super) struct Scratch {
    b: Buffers,
    logits: Buffer,
}

/// The path at one layer. Counts its multiply-adds.
pub(super) struct Path<'a> {
    pair: TracedPair<'a>,
    site: GradientSite,
    layer: usize,
    /// The baseline, `[rows, d]`.
    base: Vec<f32>,
    /// Values minus baseline, `[rows, d]`.
    direction: Vec<f32>,
    /// The residual stream that the values are added to, `[rows, d]`; `None` at [`GradientSite::Resid`].
    beside: Option<Vec<f32>>,
    pub(super) macs: u64,
    scratch: &'a mut Scratch,
}

impl<'a> Path<'a> {
    pub(super) fn new(
        pair: &TracedPair<'a>,
        site: GradientSite,
        layer: usize,
        baseline: PathBaseline,
        scratch: &'a mut Scratch,
    ) -> Self {
        let TracedPair { trace, .. } = pair;
        let d = trace.hidden;
        let rows = pair.rows();
        let (values, beside) = match site {
            GradientSite::Resid => (&trace.resid[layer + 1], None),
            GradientSite::Attn => (&trace.attn_out[layer], Some(trace.resid[layer][..rows * d].to_vec())),
            GradientSite::Mlp => {
                let mut mid = vec![0.0; rows * d];
                add(&trace.resid[layer][..rows * d], &trace.attn_out[layer][..rows * d], &mut mid);
                (&trace.mlp_out[layer], Some(mid))
            }
        };
        let base = match baseline {
            PathBaseline::Sequence => mean_row(values, d).repeat(rows),
            PathBaseline::Feature => {
                let mean = |row: &[f32]| (row.iter().map(|x| f64::from(*x)).sum::<f64>() / d as f64) as f32;
                values[..rows * d].chunks_exact(d).flat_map(|row| vec![mean(row); d]).collect()
            }
        };
        let direction = values.iter().zip(&base).map(|(x, b)| x - b).collect();
        Self { pair: pair.clone(), site, layer, base, direction, beside, macs: 0, scratch }
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
        self.pair.targets(&h, self.pair.rows(), &mut self.scratch.logits).iter().sum()
    }

    /// F and its slopes at some points, in batches.
    pub(super) fn nodes(&mut self, at: &[f64]) -> Vec<Node> {
        let size = self.batch_points();
        at.chunks(size).flat_map(|at| self.evaluate(at)).collect()
    }

    /// Forward and backward pass through the layers above for some points, as one batch.
    fn evaluate(&mut self, at: &[f64]) -> Vec<Node> {
        let (model, d) = (self.pair.model, self.pair.trace.hidden);
        let (h, entered) = self.enter(at, true);
        let (h, saved) = self.forward(h, at.len(), true);
        let (targets, mut gradient) = self.head(&h);
        let batch = model.batch(self.runs(at.len()));
        for (l, saved) in self.above().zip(&saved).rev() {
            model.layer_backward(l, &batch, saved, &mut gradient);
        }
        if let Some(saved) = entered {
            let through_mlp = model.mlp_backward(self.layer, &saved, &gradient);
            gradient.iter_mut().zip(through_mlp).for_each(|(g, m)| *g += m);
        }
        self.macs += self.backward_macs() * at.len() as u64;
        let along = |(g, w): (&[f32], &[f32])| dot(g, w);
        let points = gradient.chunks_exact(self.pair.rows() * d).zip(targets).zip(at);
        let node = |((g, value), &at): ((&[f32], f64), &f64)| {
            let slopes = g.chunks_exact(d).zip(self.direction.chunks_exact(d)).map(along).collect();
            Node { at, value, slopes }
        };
        points.map(node).collect()
    }

    fn above(&self) -> Range<usize> {
        self.layer + 1..self.pair.model.config().depth()
    }

    fn runs(&self, points: usize) -> Vec<Run> {
        // The length is that of the whole pair, because the frequencies of LongRoPE depend on it.
        let (rows, length) = (self.pair.rows(), self.pair.trace.tokens.len());
        (0..points).map(|i| Run { rows: i * rows..(i + 1) * rows, first: 0, length, past: vec![] }).collect()
    }

    /// The residual stream that leaves the layer at each point. With `save`, also the activations of the
    /// MLP, if it lies between the path and that stream.
    fn enter(&mut self, at: &[f64], save: bool) -> (Vec<f32>, Option<SavedActivations>) {
        let point = |r: &f64| {
            let r = *r as f32;
            self.base.iter().zip(&self.direction).map(move |(b, w)| b + r * w)
        };
        let mut h: Vec<f32> = at.iter().flat_map(point).collect();
        let add_to_all = |h: &mut [f32], x: &[f32]| {
            h.chunks_mut(x.len().max(1)).for_each(|h| h.iter_mut().zip(x).for_each(|(h, x)| *h += x));
        };
        if let Some(beside) = &self.beside {
            add_to_all(&mut h, beside);
        }
        if self.site != GradientSite::Attn {
            return (h, None);
        }
        let TracedPair { model, trace, .. } = self.pair;
        if model.config().parallel {
            add_to_all(&mut h, &trace.mlp_out[self.layer][..self.direction.len()]);
            return (h, None);
        }
        let saved = if save {
            Some(model.mlp_saved(self.layer, &h, &mut self.scratch.b))
        } else {
            model.mlp(self.layer, &h, &mut self.scratch.b);
            None
        };
        self.macs += model.mlp_macs_per_row() * (at.len() * self.pair.rows()) as u64;
        h.iter_mut().zip(&*self.scratch.b.mlp_out).for_each(|(h, m)| *h += m);
        (h, saved)
    }

    /// Forward pass through the layers above the cut, `[points, rows, d]`.
    fn forward(&mut self, mut h: Vec<f32>, points: usize, save: bool) -> (Vec<f32>, Vec<SavedActivations>) {
        let model = self.pair.model;
        let batch = model.batch(self.runs(points));
        let mut out = vec![0.0; h.len()];
        let mut saved = Vec::new();
        for l in self.above() {
            if save {
                saved.push(model.layer_saved(l, &batch, &h, &mut self.scratch.b, &mut out));
            } else {
                model.layer(l, &batch, &[], &h, &mut self.scratch.b, &mut out);
            }
            std::mem::swap(&mut h, &mut out);
        }
        self.macs += (above(model, self.pair.rows(), self.layer, Model::attention_macs)
            + model.head_macs_per_row() * self.pair.read.len() as u64)
            * points as u64;
        (h, saved)
    }

    /// F of each point and its gradient with respect to the stream that enters the final norm.
    fn head(&mut self, h: &[f32]) -> (Vec<f64>, Vec<f32>) {
        let TracedPair { model, trace, read, .. } = &self.pair;
        let (d, rows) = (trace.hidden, self.pair.rows());
        let (answer_rows, tokens) = self.pair.answer_rows(h, rows);
        let mut answer_gradient = vec![0.0; answer_rows.len()];
        let at_once = self.pair.head_rows();
        let parts = answer_rows
            .chunks(at_once * d)
            .zip(tokens.chunks(at_once))
            .zip(answer_gradient.chunks_mut(at_once * d));
        let logits = &mut self.scratch.logits;
        let found: Vec<f64> = parts
            .flat_map(|((h, tokens), gradient)| model.answer_backward(h, tokens, logits, gradient))
            .collect();
        let targets = found.chunks_exact(read.len()).map(|point| point.iter().sum()).collect();
        let mut gradient = vec![0.0; h.len()];
        let points = gradient.chunks_exact_mut(rows * d).zip(answer_gradient.chunks_exact(read.len() * d));
        points.for_each(|(to, from)| to[read.start * d..read.end * d].copy_from_slice(from));
        (targets, gradient)
    }

    /// Multiply-adds of the backward pass of one point, including the head.
    fn backward_macs(&self) -> u64 {
        let model = self.pair.model;
        let entered = self.site == GradientSite::Attn && !model.config().parallel;
        let mlp = if entered { model.mlp_macs_per_row() * self.pair.rows() as u64 } else { 0 };
        let head = model.head_macs_per_row() * self.pair.read.len() as u64;
        above(model, self.pair.rows(), self.layer, Model::attention_backward_macs) + mlp + head
    }
}

/// The mean of all rows.
fn mean_row(x: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0f64; width];
    for row in x.chunks_exact(width) {
        sum.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x));
    }
    let rows = (x.len() / width).max(1) as f64;
    sum.iter().map(|s| (s / rows) as f32).collect()
}
