//! The backward pass with respect to activations: each function computes the gradient of an input from
//! the gradient of an output. Weights are constants.
//!
//! As in the forward pass, every row of a gradient depends on its own text alone, so batching changes no
//! bit. [`crate::Linear::backward`] is the backward pass of the matrix product.

use crate::attention::{AttentionShape, HeadBias};
use crate::checked_area;
use crate::cpu::{BUILT_FUSED, multiversion};
use crate::elementwise::{Activation, Rotation, SWIGLU_ALPHA, SWIGLU_LIMIT, clamped_factor, exp};
use crate::memory::SharedPtr;
use rayon::prelude::*;
use std::ops::Range;

/// Partial sums of a reduction; fixed, so that results do not depend on the register width.
const LANES: usize = 16;

/// Elements per job; splitting work further costs more than it gains.
const ELEMENTS_PER_JOB: usize = 16_384;

fn rows_per_job(width: usize) -> usize {
    (ELEMENTS_PER_JOB / width.max(1)).max(1)
}

/// The sum of element-wise products, in lanes.
#[inline(always)]
fn sum_of_products<const N: usize>(factors: [&[f32]; N]) -> f32 {
    let len = factors[0].len();
    let mut lanes = [0.0f32; LANES];
    let whole = len / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        let parts = factors.map(|f| &f[start..start + LANES]);
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += parts.iter().map(|p| p[i]).product::<f32>();
        }
    }
    for i in whole..len {
        lanes[i - whole] += factors.iter().map(|f| f[i]).product::<f32>();
    }
    lanes.iter().sum()
}

multiversion! {
    /// Backward of [`crate::norm::rms_row`]: `x` is the row before the norm, `d` holds
    /// the gradient of the normalised row and receives that of `x`.
    ///
    /// # Shapes
    /// `x`, `weight`, `d [d]`.
    pub fn rms_row(x: &[f32], weight: &[f32], eps: f32, d: &mut [f32]) {
        let width = x.len() as f32;
        let scale = 1.0 / (sum_of_products([x, x]) / width + eps).sqrt();
        // y = x s w with s = (mean x^2 + eps)^(-1/2), so ds/dx = -s^3 x / width.
        let back = sum_of_products([x, weight, d]) * scale * scale / width;
        for ((d, x), w) in d.iter_mut().zip(x).zip(weight) {
            *d = scale * (*d * w - x * back);
        }
    }
}

multiversion! {
    /// Backward of [`crate::norm::layer_row`]: `x` is the row before the norm, `d` holds
    /// the gradient of the normalised row and receives that of `x`.
    ///
    /// # Shapes
    /// `x`, `weight`, `d [d]`.
    pub fn layer_row(x: &[f32], weight: &[f32], eps: f32, d: &mut [f32]) {
        let width = x.len() as f32;
        let mean = sum_of_products([x]) / width;
        let centred: Vec<f32> = x.iter().map(|x| x - mean).collect();
        let scale = 1.0 / (sum_of_products([&centred, &centred]) / width + eps).sqrt();
        let shift = sum_of_products([weight, d]) / width;
        let back = sum_of_products([&centred, weight, d]) * scale * scale / width;
        for ((d, x), w) in d.iter_mut().zip(&centred).zip(weight) {
            *d = scale * (*d * w - shift - x * back);
        }
    }
}

/// The activation at `x` and its derivative.
#[inline(always)]
fn silu<const FUSED: bool>(x: f32) -> (f32, f32) {
    let s = 1.0 / (1.0 + exp::<FUSED>(-x));
    (x * s, s * (1.0 + x * (1.0 - s)))
}

#[inline(always)]
fn gelu_tanh<const FUSED: bool>(x: f32) -> (f32, f32) {
    // As in the forward pass, x s(2 u), where s is the logistic function.
    let twice = 1.595_769_2 * (x + 0.044_715 * x * x * x);
    let slope = 1.595_769_2 * (1.0 + 0.134_145 * x * x);
    let s = 1.0 / (1.0 + exp::<FUSED>(-twice));
    (x * s, s + x * s * (1.0 - s) * slope)
}

fn gelu_erf(x: f32) -> (f32, f32) {
    let below = 0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2));
    (x * below, below + x * 0.398_942_3 * exp::<BUILT_FUSED>(-0.5 * x * x))
}

fn relu(x: f32) -> (f32, f32) {
    // NaN is not below zero and stays.
    if x <= 0.0 { (0.0, 0.0) } else { (x, 1.0) }
}

fn sigmoid(x: f32) -> (f32, f32) {
    let [s, rest] = [x, -x].map(crate::elementwise::sigmoid);
    (s, s * rest)
}

/// The part of the gate in [`Activation::ClampedSwiglu`].
#[inline(always)]
fn clamped_swiglu<const FUSED: bool>(x: f32) -> (f32, f32) {
    // NaN is not above the limit and stays.
    let clamped = if x > SWIGLU_LIMIT { SWIGLU_LIMIT } else { x };
    let s = 1.0 / (1.0 + exp::<FUSED>(-SWIGLU_ALPHA * clamped));
    let slope = s * (1.0 + SWIGLU_ALPHA * clamped * (1.0 - s));
    (clamped * s, if x > SWIGLU_LIMIT { 0.0 } else { slope })
}

fn relu_squared(x: f32) -> (f32, f32) {
    if x <= 0.0 { (0.0, 0.0) } else { (x * x, 2.0 * x) }
}

multiversion! {
    fn silu_gate(gate: &[f32], up: &[f32], d_out: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
        gate_with(silu::<FUSED>, gate, up, d_out, d_gate, d_up);
    }
}

multiversion! {
    fn gelu_tanh_gate(gate: &[f32], up: &[f32], d_out: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
        gate_with(gelu_tanh::<FUSED>, gate, up, d_out, d_gate, d_up);
    }
}

multiversion! {
    fn clamped_swiglu_gate(gate: &[f32], up: &[f32], d_out: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
        let inputs = gate.iter().zip(up).zip(d_out);
        for (((g, u), d), (d_gate, d_up)) in inputs.zip(d_gate.iter_mut().zip(d_up)) {
            let (value, slope) = clamped_swiglu::<FUSED>(*g);
            *d_gate = d * clamped_factor(*u) * slope;
            *d_up = if u.abs() > SWIGLU_LIMIT { 0.0 } else { d * value };
        }
    }
}

multiversion! {
    fn clamped_swiglu_slope(x: &[f32], d: &mut [f32]) {
        for (d, x) in d.iter_mut().zip(x) {
            *d *= clamped_swiglu::<FUSED>(*x).1;
        }
    }
}

#[inline(always)]
fn gate_with(
    act: impl Fn(f32) -> (f32, f32),
    gate: &[f32],
    up: &[f32],
    d_out: &[f32],
    d_gate: &mut [f32],
    d_up: &mut [f32],
) {
    let inputs = gate.iter().zip(up).zip(d_out);
    for (((g, u), d), (d_gate, d_up)) in inputs.zip(d_gate.iter_mut().zip(d_up)) {
        let (value, slope) = act(*g);
        *d_gate = d * u * slope;
        *d_up = d * value;
    }
}

multiversion! {
    fn silu_slope(x: &[f32], d: &mut [f32]) {
        for (d, x) in d.iter_mut().zip(x) {
            *d *= silu::<FUSED>(*x).1;
        }
    }
}

multiversion! {
    fn gelu_tanh_slope(x: &[f32], d: &mut [f32]) {
        for (d, x) in d.iter_mut().zip(x) {
            *d *= gelu_tanh::<FUSED>(*x).1;
        }
    }
}

/// Backward of [`crate::elementwise::gated`].
///
/// # Shapes
/// `gate_up`, `d_gate_up [m, 2 width]`, `d_out [m, width]`.
///
/// # Panics
/// When the width is 0 or the lengths do not fit.
pub fn gated(activation: Activation, gate_up: &[f32], width: usize, d_out: &[f32], d_gate_up: &mut [f32]) {
    assert!(width > 0, "a gate must have a width");
    assert!(gate_up.len() == 2 * d_out.len() && d_gate_up.len() == gate_up.len());
    assert_eq!(d_out.len() % width, 0, "d_out must hold whole rows of {width}");
    let rows = gate_up.par_chunks(2 * width).zip(d_out.par_chunks(width));
    d_gate_up.par_chunks_mut(2 * width).zip(rows).with_min_len(rows_per_job(width)).for_each(
        |(d_row, (row, d_out))| {
            let (gate, up) = row.split_at(width);
            let (d_gate, d_up) = d_row.split_at_mut(width);
            match activation {
                Activation::Silu => silu_gate(gate, up, d_out, d_gate, d_up),
                Activation::GeluTanh => gelu_tanh_gate(gate, up, d_out, d_gate, d_up),
                Activation::GeluErf => gate_with(gelu_erf, gate, up, d_out, d_gate, d_up),
                Activation::Relu => gate_with(relu, gate, up, d_out, d_gate, d_up),
                Activation::ReluSquared => gate_with(relu_squared, gate, up, d_out, d_gate, d_up),
                Activation::Sigmoid => gate_with(sigmoid, gate, up, d_out, d_gate, d_up),
                Activation::ClampedSwiglu => clamped_swiglu_gate(gate, up, d_out, d_gate, d_up),
            }
        },
    );
}

/// Backward of [`crate::elementwise::activate`]: `x` is the input of the activation,
/// `d` holds the gradient of its output and receives that of `x`.
///
/// # Panics
/// When the lengths differ.
pub fn activate(activation: Activation, x: &[f32], d: &mut [f32]) {
    assert_eq!(x.len(), d.len(), "an activation keeps the length");
    let parts = d.par_chunks_mut(ELEMENTS_PER_JOB).zip(x.par_chunks(ELEMENTS_PER_JOB));
    parts.for_each(|(d, x)| match activation {
        Activation::Silu => silu_slope(x, d),
        Activation::GeluTanh => gelu_tanh_slope(x, d),
        Activation::GeluErf => d.iter_mut().zip(x).for_each(|(d, x)| *d *= gelu_erf(*x).1),
        Activation::Relu => d.iter_mut().zip(x).for_each(|(d, x)| *d *= relu(*x).1),
        Activation::ReluSquared => d.iter_mut().zip(x).for_each(|(d, x)| *d *= relu_squared(*x).1),
        Activation::Sigmoid => d.iter_mut().zip(x).for_each(|(d, x)| *d *= sigmoid(*x).1),
        Activation::ClampedSwiglu => clamped_swiglu_slope(x, d),
    });
}

/// Backward of [`crate::elementwise::softcap`]: `y` is the output of the soft-capping,
/// `d` holds the gradient of `y` and receives that of its input.
///
/// # Panics
/// When the lengths differ.
pub fn softcap(cap: f32, y: &[f32], d: &mut [f32]) {
    assert_eq!(y.len(), d.len(), "soft-capping keeps the length");
    let parts = d.par_chunks_mut(ELEMENTS_PER_JOB).zip(y.par_chunks(ELEMENTS_PER_JOB));
    parts.for_each(|(d, y)| {
        for (d, y) in d.iter_mut().zip(y) {
            // With t = y / cap the slope is 1 - t^2; this form stays accurate near t = 1.
            let t = y / cap;
            *d *= (1.0 - t) * (1.0 + t);
        }
    });
}

/// Backward of [`crate::elementwise::rotate`]: the transposed rotation, in place.
///
/// # Shapes
/// `d [m, stride]`, of which columns `0..heads * head_dim` are rotated back.
///
/// # Panics
/// When a head has no width, the lengths do not fit, or a position lies outside the tables.
pub fn rotate(d: &mut [f32], stride: usize, heads: usize, head_dim: usize, rotation: &Rotation) {
    let Rotation { cos, sin, half, places } = rotation;
    let half = *half;
    rotation.check(d.len(), stride, heads, head_dim);
    d.par_chunks_mut(stride).zip(places).with_min_len(rows_per_job(stride)).for_each(|(row, &p)| {
        let (cos, sin) = (&cos[p * half..(p + 1) * half], &sin[p * half..(p + 1) * half]);
        for head in row[..heads * head_dim].chunks_exact_mut(head_dim) {
            let (lo, hi) = head[..2 * half].split_at_mut(half);
            for (((a, b), c), s) in lo.iter_mut().zip(hi).zip(cos).zip(sin) {
                (*a, *b) = (*a * c + *b * s, *b * c - *a * s);
            }
        }
    });
}

/// Backward of [`crate::attention::attend`] over whole texts: the gradients of queries, keys and values
/// from that of the output. Scores are recomputed rather than stored.
///
/// # Shapes
/// `qkv`, `d_qkv [m, (heads + 2 kv_heads) head_dim]`, each row its queries, keys and
/// values; `d_out [m, heads * head_dim]`. `texts` are the rows of each text, which
/// are consecutive and start at position 0.
///
/// # Panics
/// When the shape is impossible or the lengths do not fit.
pub fn attend(
    shape: &AttentionShape,
    bias: HeadBias<&[f32]>,
    qkv: &[f32],
    texts: &[Range<usize>],
    d_out: &[f32],
    d_qkv: &mut [f32],
) {
    let width = shape.width();
    bias.check(shape.heads);
    let heads = shape.kv_heads.checked_mul(2).and_then(|kv| kv.checked_add(shape.heads));
    let stride = checked_area(heads.unwrap_or(usize::MAX), shape.head_dim);
    let rows = texts.iter().fold(0, |end, text| {
        assert!(text.start == end && text.end >= end, "texts must follow each other");
        text.end
    });
    assert!(qkv.len() == checked_area(rows, stride) && d_qkv.len() == qkv.len());
    assert!(d_out.len() == checked_area(rows, width));
    let jobs: Vec<(&Range<usize>, usize)> =
        texts.iter().flat_map(|text| (0..shape.kv_heads).map(move |kv| (text, kv))).collect();
    let out = SharedPtr(d_qkv.as_mut_ptr());
    jobs.par_iter().for_each_init(Scratch::default, |scratch, &(text, kv)| {
        let qkv = &qkv[text.start * stride..text.end * stride];
        let d_out = &d_out[text.start * width..text.end * width];
        attend_head(shape, bias, kv, qkv, d_out, scratch);
        for row in 0..text.len() {
            let dim = shape.head_dim;
            let group = shape.heads / shape.kv_heads * dim;
            let columns = [
                (kv * group, group, &scratch.d_queries),
                (width + kv * dim, dim, &scratch.d_keys),
                (width + (shape.kv_heads + kv) * dim, dim, &scratch.d_values),
            ];
            for (column, len, from) in columns {
                let to = out.at((text.start + row) * stride + column);
                let from = &from[row * len..(row + 1) * len];
                // SAFETY: d_qkv holds `rows` rows of `stride`; this job alone writes the
                // columns of its key head and of the query heads that read it, in the
                // rows of its text.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, len) };
            }
        }
    });
}

/// Scratch buffers of one job of [`attend`].
#[derive(Default)]
struct Scratch {
    /// Keys and values of the head, transposed: `[head_dim, positions]`.
    keys: Vec<f32>,
    values: Vec<f32>,
    /// `[positions, heads of the group * head_dim]`.
    d_queries: Vec<f32>,
    /// `[positions, head_dim]`.
    d_keys: Vec<f32>,
    d_values: Vec<f32>,
    /// Weights of one query, their gradients, and the slope of the soft-capping.
    weights: Vec<f32>,
    d_weights: Vec<f32>,
    slopes: Vec<f32>,
}

impl Scratch {
    fn prepare(&mut self, shape: &AttentionShape, kv: usize, qkv: &[f32]) {
        let (dim, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let stride = (shape.heads + 2 * shape.kv_heads) * dim;
        let count = qkv.len() / stride;
        for (to, from) in [
            (&mut self.keys, (shape.heads + kv) * dim),
            (&mut self.values, (shape.heads + shape.kv_heads + kv) * dim),
        ] {
            to.resize(dim * count, 0.0);
            for (position, row) in qkv.chunks_exact(stride).enumerate() {
                for (to, x) in to[position..].iter_mut().step_by(count).zip(&row[from..from + dim]) {
                    *to = *x;
                }
            }
        }
        for (buffer, len) in [
            (&mut self.d_queries, count * group * dim),
            (&mut self.d_keys, count * dim),
            (&mut self.d_values, count * dim),
            (&mut self.weights, count),
            (&mut self.d_weights, count),
            (&mut self.slopes, count),
        ] {
            buffer.clear();
            buffer.resize(len, 0.0);
        }
    }
}

/// `to[j] = sum_i x[i] matrix[i][j]` for the columns `columns` of a matrix of width `stride`.
#[inline(always)]
fn combine(x: &[f32], matrix: &[f32], stride: usize, columns: &Range<usize>, to: &mut [f32]) {
    to.fill(0.0);
    for (x, row) in x.iter().zip(matrix.chunks_exact(stride)) {
        add_scaled(*x, &row[columns.clone()], to);
    }
}

/// `to += x row`.
#[inline(always)]
fn add_scaled(x: f32, row: &[f32], to: &mut [f32]) {
    for (to, y) in to.iter_mut().zip(row) {
        *to += x * y;
    }
}

multiversion! {
    /// One text, one key head and the query heads that read it.
    fn attend_head(
        shape: &AttentionShape,
        bias: HeadBias<&[f32]>,
        kv: usize,
        qkv: &[f32],
        d_out: &[f32],
        scratch: &mut Scratch,
    ) {
        scratch.prepare(shape, kv, qkv);
        let Scratch { keys, values, d_queries, d_keys, d_values, weights, d_weights, slopes } = scratch;
        let (dim, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let (width, stride) = (shape.heads * dim, (shape.heads + 2 * shape.kv_heads) * dim);
        let count = qkv.len() / stride;
        let key_column = (shape.heads + kv) * dim;
        for position in 0..count {
            let seen = shape.visibility.seen(position, count);
            for g in 0..group {
                let column = (kv * group + g) * dim;
                let query = &qkv[position * stride + column..][..dim];
                let d_mixed = &d_out[position * width + column..][..dim];
                let weights = &mut weights[..seen.len()];
                let d_weights = &mut d_weights[..seen.len()];
                let slopes = &mut slopes[..seen.len()];
                combine(query, keys, count, &seen, weights);
                let of_head = bias.of(kv * group + g);
                let rest = weigh::<FUSED>(shape, of_head, [position, seen.start], weights, slopes);
                combine(d_mixed, values, count, &seen, d_weights);
                // The mean is taken of differences from the first gradient: where keys are similar, so are
                // the gradients, and the rounding error of the weights' sum would dominate. The gradient of a sink's
                // weight is zero.
                let first = d_weights[0];
                d_weights.iter_mut().for_each(|d| *d -= first);
                let mean = sum_of_products([weights, d_weights]) - rest * first;
                for ((d, w), slope) in d_weights.iter_mut().zip(&*weights).zip(&*slopes) {
                    *d = w * (*d - mean) * slope;
                }
                let d_query = &mut d_queries[(position * group + g) * dim..][..dim];
                for (i, at) in seen.clone().enumerate() {
                    add_scaled(d_weights[i], &qkv[at * stride + key_column..][..dim], d_query);
                    add_scaled(d_weights[i], query, &mut d_keys[at * dim..][..dim]);
                    add_scaled(weights[i], d_mixed, &mut d_values[at * dim..][..dim]);
                }
            }
        }
    }
}

/// Turns dot products of the query at a position and the keys from `first` on into attention weights, and computes the slopes of the scores with respect to the dot products. Returns the weight of the sink.
#[inline(always)]
fn weigh<const FUSED: bool>(
    shape: &AttentionShape,
    bias: HeadBias<f32>,
    [position, first]: [usize; 2],
    weights: &mut [f32],
    slopes: &mut [f32],
) -> f32 {
    for (w, slope) in weights.iter_mut().zip(&mut *slopes) {
        *w *= shape.scale;
        *slope = shape.scale;
    }
    if let Some(cap) = shape.softcap {
        for (w, slope) in weights.iter_mut().zip(slopes) {
            // tanh u = 1 - 2 / (1 + e^2u)
            let t = 1.0 - 2.0 / (1.0 + exp::<FUSED>(2.0 * *w / cap));
            *w = cap * t;
            *slope *= (1.0 - t) * (1.0 + t);
        }
    }
    bias.add_slope(shape.scale, position, first, weights);
    let max = weights.iter().copied().fold(bias.sinks.unwrap_or(f32::NEG_INFINITY), f32::max);
    weights.iter_mut().for_each(|w| *w = exp::<FUSED>(*w - max));
    let rest = bias.sinks.map_or(0.0, |sink| exp::<FUSED>(sink - max));
    let norm = 1.0 / (sum_of_products([weights]) + rest);
    weights.iter_mut().for_each(|w| *w *= norm);
    rest * norm
}
