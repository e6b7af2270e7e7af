//! Integrated gradients of an answer's probability at what each layer gives
//! (arXiv 2505.13898).
//!
//! The nodes of a quadrature are texts of one batch, which goes forward and back
//! through the layers above the cut only. The last token predicts nothing and is
//! left out of the batch.

use crate::erasure::predicting;
use crate::planner::naive;
use crate::skip::Madds;
use crate::vector::{SMALLEST, dot};
use fathom_kernels::elementwise::add;
use fathom_model::{Buffers, Model, Run, Saved, Trace};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

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

/// How the integral along the path is taken. In text `riemann`, `riemann:STEPS` or
/// `gauss-legendre`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Quadrature {
    /// The left sum over so many steps: nodes k / steps (the papers: 256).
    Riemann(u32),
    /// 4, 8, 16, 32 or 64 nodes: the first rule whose completeness error is below
    /// 1 %, or the last.
    GaussLegendre,
}

/// Steps of the papers' sum.
pub const PAPER_STEPS: u32 = 256;

/// The most steps that a sum may have.
const MOST_STEPS: u32 = 1 << 20;

const RULES: [usize; 5] = [4, 8, 16, 32, 64];

/// Completeness error below which a rule is good enough.
const COMPLETE: f64 = 0.01;

/// A quadrature that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown quadrature '{0}'; use 'gauss-legendre', 'riemann' (256 steps) or 'riemann:STEPS' with 1 to {MOST_STEPS} steps"
)]
pub struct UnknownQuadrature(String);

impl fmt::Display for Quadrature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Riemann(PAPER_STEPS) => f.write_str("riemann"),
            Self::Riemann(steps) => write!(f, "riemann:{steps}"),
            Self::GaussLegendre => f.write_str("gauss-legendre"),
        }
    }
}

impl FromStr for Quadrature {
    type Err = UnknownQuadrature;

    fn from_str(text: &str) -> Result<Self, UnknownQuadrature> {
        let steps = |n: &str| n.parse().ok().filter(|n| (1..=MOST_STEPS).contains(n));
        match (text, text.strip_prefix("riemann:").and_then(steps)) {
            ("riemann", _) => Ok(Self::Riemann(PAPER_STEPS)),
            ("gauss-legendre", _) => Ok(Self::GaussLegendre),
            (_, Some(steps)) => Ok(Self::Riemann(steps)),
            _ => Err(UnknownQuadrature(text.to_owned())),
        }
    }
}

impl From<Quadrature> for String {
    fn from(quadrature: Quadrature) -> Self {
        quadrature.to_string()
    }
}

impl TryFrom<String> for Quadrature {
    type Error = UnknownQuadrature;

    fn try_from(text: String) -> Result<Self, UnknownQuadrature> {
        text.parse()
    }
}

/// Limits of one measurement.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows that go through a layer together, about; at least one text does.
    pub rows: usize,
    /// Bytes that the logits held at once may take, about, and as many again that
    /// layers may keep for the way back.
    pub bytes: usize,
}

/// Integrated gradients of one question-answer pair.
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
    /// `[L]`: nodes of the rule that gave the attributions.
    pub nodes: Vec<usize>,
}

/// Measures one text whose last `answer` tokens are the answer.
///
/// The multiply-adds count as planned what was done, forward and back; as naive the
/// papers' way, for each layer 256 full forward passes with the logits of every
/// position, the way back of each counted as one more forward pass.
pub fn measure(
    model: &Model,
    trace: &Trace,
    answer: usize,
    site: Site,
    baseline: Baseline,
    quadrature: Quadrature,
    limits: Limits,
) -> (Gradients, Madds) {
    let (depth, tokens) = (model.config().depth(), trace.tokens.len());
    let read = predicting(tokens, answer);
    let mut gradients = Gradients {
        site,
        baseline,
        quadrature,
        attribution: Vec::with_capacity(depth),
        completeness_error: Vec::with_capacity(depth),
        nodes: Vec::with_capacity(depth),
    };
    let mut madds = 0;
    let clean = clean_target(model, trace, &read, limits);
    for layer in 0..depth {
        let mut path = Path::new(model, trace, &read, site, layer, baseline, limits);
        let change = clean - path.start();
        let result = match quadrature {
            Quadrature::Riemann(steps) => path.rule(&riemann(steps), change),
            Quadrature::GaussLegendre => path.refined(baseline, change),
        };
        gradients.nodes.push(result.nodes);
        gradients.completeness_error.push(result.error);
        let mut attribution = result.attribution;
        attribution.resize(tokens, 0.0);
        gradients.attribution.push(attribution);
        madds += path.madds;
    }
    let planned = madds + model.head_madds_a_row() * read.len() as u64;
    let naive = 2 * u64::from(PAPER_STEPS) * depth as u64 * naive::madds(model, trace);
    (gradients, Madds { planned, naive })
}

/// The tokens that rows of the read positions predict.
fn answer_tokens<'a>(trace: &'a Trace, read: &Range<usize>) -> &'a [u32] {
    if read.is_empty() { &[] } else { &trace.tokens[read.start + 1..=read.end] }
}

/// Rows of logits that fit; on the way back there are the gradients beside them.
fn head_rows(model: &Model, limits: Limits) -> usize {
    (limits.bytes / (8 * model.config().vocab)).max(1)
}

/// F of the clean run.
fn clean_target(model: &Model, trace: &Trace, read: &Range<usize>, limits: Limits) -> f64 {
    let d = trace.hidden;
    let h = &trace.resid[model.config().depth()][read.start * d..read.end * d];
    let rows = head_rows(model, limits);
    let parts = h.chunks(rows * d).zip(answer_tokens(trace, read).chunks(rows));
    parts.flat_map(|(h, tokens)| model.answer(h, tokens)).sum()
}

/// A point of the path and its weight in the sum.
type Node = (f64, f64);

/// The left sum.
fn riemann(steps: u32) -> Vec<Node> {
    (0..steps).map(|k| (f64::from(k) / f64::from(steps), 1.0 / f64::from(steps))).collect()
}

/// Nodes and weights of Gauss and Legendre on [0, 1].
fn gauss_legendre(count: usize) -> Vec<Node> {
    let n = count as f64;
    let node = |i: usize| {
        // Newton's method from the usual asymptotic guess converges in a few steps.
        let mut x = (std::f64::consts::PI * (i as f64 + 0.75) / (n + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..20 {
            let (mut before, mut value) = (1.0, x);
            for k in 2..=count {
                let k = k as f64;
                (before, value) = (value, ((2.0 * k - 1.0) * x * value - (k - 1.0) * before) / k);
            }
            slope = n * (x * value - before) / (x * x - 1.0);
            let step = value / slope;
            x -= step;
            if step.abs() < 1e-15 {
                break;
            }
        }
        (0.5 * (1.0 - x), 1.0 / ((1.0 - x * x) * slope * slope))
    };
    (0..count).map(node).collect()
}

/// Puts nodes closer to the baseline, r = u^4: rows of equal features are nearly
/// zero to a norm, so that the gradient changes fast where the path leaves them.
fn crowded((u, weight): Node) -> Node {
    (u.powi(4), weight * 4.0 * u.powi(3))
}

/// What one rule gives.
struct Integral {
    attribution: Vec<f64>,
    error: f64,
    nodes: usize,
}

/// The path from the baseline to the values at one layer.
struct Path<'a> {
    model: &'a Model,
    trace: &'a Trace,
    read: &'a Range<usize>,
    site: Site,
    layer: usize,
    limits: Limits,
    /// Rows that matter: all but the last.
    rows: usize,
    /// `[rows, d]`.
    base: Vec<f32>,
    /// Values less baseline, `[rows, d]`.
    way: Vec<f32>,
    /// The stream that the values are added to, `[rows, d]`; none at [`Site::Resid`].
    beside: Option<Vec<f32>>,
    madds: u64,
    b: Buffers,
}

impl<'a> Path<'a> {
    fn new(
        model: &'a Model,
        trace: &'a Trace,
        read: &'a Range<usize>,
        site: Site,
        layer: usize,
        baseline: Baseline,
        limits: Limits,
    ) -> Self {
        let d = trace.hidden;
        let rows = trace.tokens.len().saturating_sub(1);
        let (values, beside) = match site {
            Site::Resid => (&trace.resid[layer + 1], None),
            Site::Attn => (&trace.attn_out[layer], Some(trace.resid[layer][..rows * d].to_vec())),
            Site::Mlp => {
                let mut mid = vec![0.0; rows * d];
                add(&trace.resid[layer][..rows * d], &trace.attn_out[layer][..rows * d], &mut mid);
                (&trace.mlp_out[layer], Some(mid))
            }
        };
        let base = match baseline {
            Baseline::Sequence => mean_row(values, d).repeat(rows),
            Baseline::Feature => {
                let mean = |row: &[f32]| (row.iter().map(|x| f64::from(*x)).sum::<f64>() / d as f64) as f32;
                values[..rows * d].chunks_exact(d).flat_map(|row| vec![mean(row); d]).collect()
            }
        };
        let way = values.iter().zip(&base).map(|(x, b)| x - b).collect();
        Self {
            model,
            trace,
            read,
            site,
            layer,
            limits,
            rows,
            base,
            way,
            beside,
            madds: 0,
            b: Buffers::default(),
        }
    }

    /// F at the baseline.
    fn start(&mut self) -> f64 {
        if self.read.is_empty() {
            return 0.0;
        }
        let (h, _) = self.enter(&[(0.0, 0.0)]);
        let (h, _) = self.forward(h, 1, false);
        let rows = head_rows(self.model, self.limits);
        self.madds += self.model.head_madds_a_row() * self.read.len() as u64;
        let d = self.trace.hidden;
        let parts = h[self.read.start * d..self.read.end * d].chunks(rows * d);
        parts
            .zip(answer_tokens(self.trace, self.read).chunks(rows))
            .flat_map(|(h, tokens)| self.model.answer(h, tokens))
            .sum()
    }

    /// Takes the integral by one rule; `change` is F(x) - F(base).
    fn rule(&mut self, nodes: &[Node], change: f64) -> Integral {
        let mut attribution = vec![0.0; self.rows];
        if !self.read.is_empty() {
            for part in nodes.chunks(self.texts_a_batch()) {
                self.integrate(part, &mut attribution);
            }
        }
        let sum: f64 = attribution.iter().sum();
        let error = (sum - change).abs() / change.abs().max(SMALLEST);
        Integral { attribution, error, nodes: nodes.len() }
    }

    /// Takes finer rules until one is good enough.
    fn refined(&mut self, baseline: Baseline, change: f64) -> Integral {
        let rule = |count| match baseline {
            Baseline::Sequence => gauss_legendre(count),
            Baseline::Feature => gauss_legendre(count).into_iter().map(crowded).collect(),
        };
        let mut result = self.rule(&rule(RULES[0]), change);
        for nodes in &RULES[1..] {
            if result.error < COMPLETE {
                break;
            }
            result = self.rule(&rule(*nodes), change);
        }
        result
    }

    fn texts_a_batch(&self) -> usize {
        let above = (self.model.config().depth() - self.layer).max(1);
        let kept = self.model.saved_bytes_a_row() * above;
        (self.limits.rows.min(self.limits.bytes / kept.max(1)) / self.rows.max(1)).max(1)
    }

    /// Adds the share of some nodes, which go through the layers as one batch.
    fn integrate(&mut self, nodes: &[Node], attribution: &mut [f64]) {
        let d = self.trace.hidden;
        let (h, entered) = self.enter(nodes);
        let (h, saved) = self.forward(h, nodes.len(), true);
        let mut gradient = self.head(&h);
        let batch = self.model.batch(self.runs(nodes.len()));
        for (l, saved) in (self.layer + 1..self.model.config().depth()).zip(&saved).rev() {
            self.model.layer_backward(l, &batch, saved, &mut gradient);
        }
        if let Some(saved) = entered {
            let through_mlp = self.model.mlp_backward(self.layer, &saved, &gradient);
            gradient.iter_mut().zip(through_mlp).for_each(|(g, m)| *g += m);
        }
        self.madds += self.back_madds() * nodes.len() as u64;
        for ((_, weight), gradient) in nodes.iter().zip(gradient.chunks_exact(self.rows * d)) {
            let rows = gradient.chunks_exact(d).zip(self.way.chunks_exact(d));
            for (to, (g, w)) in attribution.iter_mut().zip(rows) {
                *to += weight * dot(g, w);
            }
        }
    }

    fn runs(&self, texts: usize) -> Vec<Run> {
        // The length is that of the whole text, on which LongRoPE's frequencies depend.
        let (rows, length) = (self.rows, self.trace.tokens.len());
        (0..texts).map(|i| Run { rows: i * rows..(i + 1) * rows, first: 0, length, past: vec![] }).collect()
    }

    /// The stream that leaves the layer at each node, and what the MLP kept where it
    /// lies between the path and that stream.
    fn enter(&mut self, nodes: &[Node]) -> (Vec<f32>, Option<Saved>) {
        let at = |(r, _): &Node| {
            let r = *r as f32;
            self.base.iter().zip(&self.way).map(move |(b, w)| b + r * w)
        };
        let mut h: Vec<f32> = nodes.iter().flat_map(at).collect();
        if let Some(beside) = &self.beside {
            h.chunks_mut(beside.len().max(1)).for_each(|h| {
                h.iter_mut().zip(beside).for_each(|(h, x)| *h += x);
            });
        }
        if self.site != Site::Attn {
            return (h, None);
        }
        if self.model.config().parallel {
            let clean = &self.trace.mlp_out[self.layer][..self.way.len()];
            h.chunks_mut(clean.len().max(1)).for_each(|h| {
                h.iter_mut().zip(clean).for_each(|(h, m)| *h += m);
            });
            return (h, None);
        }
        let saved = self.model.mlp_saved(self.layer, &h, &mut self.b);
        self.madds += self.model.mlp_madds_a_row() * (nodes.len() * self.rows) as u64;
        h.iter_mut().zip(&self.b.mlp_out).for_each(|(h, m)| *h += m);
        (h, Some(saved))
    }

    /// Through the layers above the cut.
    fn forward(&mut self, mut h: Vec<f32>, texts: usize, save: bool) -> (Vec<f32>, Vec<Saved>) {
        let batch = self.model.batch(self.runs(texts));
        let mut out = vec![0.0; h.len()];
        let mut saved = Vec::new();
        for l in self.layer + 1..self.model.config().depth() {
            if save {
                saved.push(self.model.layer_saved(l, &batch, &h, &mut self.b, &mut out));
            } else {
                self.model.layer(l, &batch, &[], &h, &mut self.b, &mut out);
            }
            std::mem::swap(&mut h, &mut out);
            let attention: u64 = (0..self.rows).map(|p| self.model.attention_madds(l, p)).sum();
            self.madds += (self.model.layer_madds_a_row() * self.rows as u64 + attention) * texts as u64;
        }
        (h, saved)
    }

    /// The gradient of F with respect to the stream that enters the final norm.
    fn head(&mut self, h: &[f32]) -> Vec<f32> {
        let d = self.trace.hidden;
        let read = self.read.start * d..self.read.end * d;
        let texts = h.len() / (self.rows * d);
        let chosen: Vec<f32> =
            h.chunks_exact(self.rows * d).flat_map(|text| &text[read.clone()]).copied().collect();
        let tokens = answer_tokens(self.trace, self.read).repeat(texts);
        let mut of_chosen = vec![0.0; chosen.len()];
        let rows = head_rows(self.model, self.limits);
        let parts = chosen.chunks(rows * d).zip(tokens.chunks(rows)).zip(of_chosen.chunks_mut(rows * d));
        parts.for_each(|((h, tokens), gradient)| {
            self.model.answer_backward(h, tokens, gradient);
        });
        self.madds += 2 * self.model.head_madds_a_row() * tokens.len() as u64;
        let mut gradient = vec![0.0; h.len()];
        let texts = gradient.chunks_exact_mut(self.rows * d).zip(of_chosen.chunks_exact(read.len()));
        texts.for_each(|(to, from)| to[read.clone()].copy_from_slice(from));
        gradient
    }

    /// Multiply-adds of the way back of one text, without the head.
    fn back_madds(&self) -> u64 {
        let rows = self.rows as u64;
        let layers = self.layer + 1..self.model.config().depth();
        let attention: u64 = layers
            .clone()
            .flat_map(|l| (0..self.rows).map(move |p| self.model.attention_backward_madds(l, p)))
            .sum();
        let entered = self.site == Site::Attn && !self.model.config().parallel;
        let mlp = if entered { self.model.mlp_madds_a_row() * rows } else { 0 };
        self.model.layer_madds_a_row() * rows * layers.len() as u64 + attention + mlp
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauss_and_legendre_are_exact_for_polynomials() {
        for count in RULES {
            let nodes = gauss_legendre(count);
            assert!(nodes.iter().all(|(r, w)| (0.0..1.0).contains(r) && *w > 0.0));
            for power in 0..2 * count {
                let sum: f64 = nodes.iter().map(|(r, w)| w * r.powi(power as i32)).sum();
                assert!((sum * (power + 1) as f64 - 1.0).abs() < 1e-12, "{count} nodes, power {power}");
            }
        }
    }

    #[test]
    fn names_of_quadratures_are_read_back() {
        for quadrature in [Quadrature::Riemann(256), Quadrature::Riemann(7), Quadrature::GaussLegendre] {
            assert_eq!(quadrature.to_string().parse(), Ok(quadrature));
        }
        for wrong in ["", "riemann:0", "riemann:x", "riemann:99999999", "gauss"] {
            assert!(wrong.parse::<Quadrature>().unwrap_err().to_string().contains("'riemann:STEPS'"));
        }
    }
}
