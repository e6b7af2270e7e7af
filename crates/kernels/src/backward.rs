//! The backward pass with respect to activations: each function computes the gradient of an input from
//! the gradient of an output. Weights are constants.
//!
//! As in the forward pass, every row of a gradient depends on its own text alone, so batching changes no
//! bit. [`crate::Linear::backward`] is the backward pass of the matrix product.

pub use crate::attention_backward::attend;
use crate::cpu::{BUILT_FUSED, multiversion};
use crate::elementwise::{Activation, Rotation, SWIGLU_ALPHA, SWIGLU_LIMIT, clamped_factor, exp};
use rayon::prelude::*;

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
