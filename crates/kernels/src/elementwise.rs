//! Activations, sums and rotary embeddings, vectorised and threaded.

use crate::checked_area;
use crate::cpu::{mul_add, multiversion};
use rayon::prelude::*;

/// `e^x` to about two units in the last place, in a form that compilers vectorise. Results below
/// `e^-80` (1.8e-35) are zero, and `x` is clamped to 88.37 (about 2.4e38) instead of overflowing:
/// numbers near the ends of the range have subnormal products, which many processors compute a hundred
/// times slower.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Comparisons propagate NaN and vectorise, unlike clamp, min or max.
    const LEAST: f32 = -80.0;
    let clamped = if x < LEAST { LEAST } else { x };
    let clamped = if clamped > 88.37 { 88.37 } else { clamped };
    let value = normal_exp::<FUSED>(clamped);
    if x < LEAST { 0.0 } else { value }
}

/// [`exp`] of numbers up to zero. Results below `e^-68` (2.9e-30) are zero: the others, divided by a sum of up to 2^24 of
/// them, are not subnormal.
#[inline(always)]
pub(crate) fn exp_of_nonpositive<const FUSED: bool>(x: f32) -> f32 {
    const LEAST: f32 = -68.0;
    let clamped = if x < LEAST { LEAST } else { x };
    let value = normal_exp::<FUSED>(clamped);
    if x < LEAST { 0.0 } else { value }
}

/// `e^x` where it is a normal number.
#[inline(always)]
fn normal_exp<const FUSED: bool>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low
    // bits of the mantissa, so that no conversion instruction is needed.
    const ROUND: f32 = 12_582_912.0;
    let fma = mul_add::<FUSED>;
    let shifted = fma(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts; the first has trailing zero bits, so n * part is exact.
    let r = fma(n, 2.121_944_4e-4, fma(n, -0.693_359_4, x));
    // Evaluated in pairs: the steps of a Horner chain would wait for each other.
    let r2 = r * r;
    let low = fma(r2, fma(8.333_452e-3, r, 4.166_579_6e-2), fma(0.166_666_65, r, 0.5));
    let p = fma(r2 * r2, fma(1.987_569_1e-4, r, 1.398_199_9e-3), low);
    let p = fma(p, r2, r) + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    p * scale
}

/// `2 artanh v` for `v` in `[0, 1/3]`, to about one unit in the last place. It equals `ln(1 + u)` for
/// `v = u / (2 + u)`.
#[inline(always)]
pub(crate) fn twice_artanh<const FUSED: bool>(v: f32) -> f32 {
    let fma = mul_add::<FUSED>;
    // artanh(v) / v as a polynomial of v^2 with a relative error of at most 8e-9; in pairs, as in `exp`.
    let w = v * v;
    let w2 = w * w;
    let first = fma(w, 0.333_331_58, 1.0);
    let second = fma(w, 0.139_803, 0.200_124_55);
    let p = fma(w2, fma(w2, 0.140_891_67, second), first);
    2.0 * v * p
}

/// The activation functions of the supported architectures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// GELU in its tanh approximation.
    GeluTanh,
    /// GELU with the error function.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2`.
    ReluSquared,
    /// `1 / (1 + e^-x)`, of gates.
    Sigmoid,
    /// `x / (1 + e^-1.702 x)` of `min(x, 7)`, where the other factor of a gated MLP is limited to -7 and 7, and 1 is added
    /// to it (gpt-oss).
    ClampedSwiglu,
}

/// `1 / (1 + e^-x)`.
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The factor in the exponent of [`Activation::ClampedSwiglu`].
pub const SWIGLU_ALPHA: f32 = 1.702;

/// Where [`Activation::ClampedSwiglu`] limits its inputs.
pub const SWIGLU_LIMIT: f32 = 7.0;

#[inline(always)]
fn silu<const FUSED: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FUSED>(-x))
}

#[inline(always)]
fn gelu_tanh<const FUSED: bool>(x: f32) -> f32 {
    // x (1 + tanh u) / 2 = x / (1 + e^-2u)
    let u = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp::<FUSED>(-2.0 * u))
}

fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    // A comparison propagates NaN, unlike max.
    if x < 0.0 { 0.0 } else { x }
}

#[inline(always)]
fn relu_squared(x: f32) -> f32 {
    relu(x) * relu(x)
}

#[inline(always)]
fn clamped_swiglu<const FUSED: bool>(x: f32) -> f32 {
    let x = if x > SWIGLU_LIMIT { SWIGLU_LIMIT } else { x };
    x / (1.0 + exp::<FUSED>(-SWIGLU_ALPHA * x))
}

/// The other factor of a gated MLP with [`Activation::ClampedSwiglu`].
#[inline(always)]
pub(crate) fn clamped_factor(u: f32) -> f32 {
    // Comparisons propagate NaN.
    let u = if u > SWIGLU_LIMIT { SWIGLU_LIMIT } else { u };
    let u = if u < -SWIGLU_LIMIT { -SWIGLU_LIMIT } else { u };
    u + 1.0
}

#[inline(always)]
fn gate_with(act: impl Fn(f32) -> f32, gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
        *o = act(*g) * u;
    }
}

multiversion! {
    fn silu_gate(gate: &[f32], up: &[f32], out: &mut [f32]) {
        gate_with(silu::<FUSED>, gate, up, out);
    }
}

multiversion! {
    fn gelu_tanh_gate(gate: &[f32], up: &[f32], out: &mut [f32]) {
        gate_with(gelu_tanh::<FUSED>, gate, up, out);
    }
}

multiversion! {
    fn clamped_swiglu_gate(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
            *o = clamped_swiglu::<FUSED>(*g) * clamped_factor(*u);
        }
    }
}

multiversion! {
    fn clamped_swiglu_in_place(x: &mut [f32]) {
        for x in x {
            *x = clamped_swiglu::<FUSED>(*x);
        }
    }
}

multiversion! {
    pub(crate) fn silu_in_place(x: &mut [f32]) {
        for x in x {
            *x = silu::<FUSED>(*x);
        }
    }
}

multiversion! {
    fn gelu_tanh_in_place(x: &mut [f32]) {
        for x in x {
            *x = gelu_tanh::<FUSED>(*x);
        }
    }
}

/// Elements per job; splitting work further costs more than it gains.
const ELEMENTS_PER_JOB: usize = 16_384;

fn rows_per_job(width: usize) -> usize {
    (ELEMENTS_PER_JOB / width.max(1)).max(1)
}

/// Gated activation: `out = act(gate) * up`, where each row of `gate_up` is the gate followed by the
/// other factor.
///
/// # Shapes
/// `gate_up [m, 2 f]`, `out [m, f]`.
///
/// # Panics
/// When the width is 0 or the lengths do not fit.
pub fn gated(activation: Activation, gate_up: &[f32], width: usize, out: &mut [f32]) {
    assert!(width > 0, "a gate must have a width");
    assert_eq!(gate_up.len(), 2 * out.len(), "gate_up must be twice as wide as out");
    assert_eq!(out.len() % width, 0, "out must hold whole rows of {width}");
    out.par_chunks_mut(width).zip(gate_up.par_chunks(2 * width)).with_min_len(rows_per_job(width)).for_each(
        |(out, gate_up)| {
            let (gate, up) = gate_up.split_at(width);
            match activation {
                Activation::Silu => silu_gate(gate, up, out),
                Activation::GeluTanh => gelu_tanh_gate(gate, up, out),
                Activation::GeluErf => gate_with(gelu_erf, gate, up, out),
                Activation::Relu => gate_with(relu, gate, up, out),
                Activation::ReluSquared => gate_with(relu_squared, gate, up, out),
                Activation::Sigmoid => gate_with(sigmoid, gate, up, out),
                Activation::ClampedSwiglu => clamped_swiglu_gate(gate, up, out),
            }
        },
    );
}

/// Activation, in place.
pub fn activate(activation: Activation, x: &mut [f32]) {
    x.par_chunks_mut(ELEMENTS_PER_JOB).for_each(|x| match activation {
        Activation::Silu => silu_in_place(x),
        Activation::GeluTanh => gelu_tanh_in_place(x),
        Activation::GeluErf => x.iter_mut().for_each(|x| *x = gelu_erf(*x)),
        Activation::Relu => x.iter_mut().for_each(|x| *x = relu(*x)),
        Activation::ReluSquared => x.iter_mut().for_each(|x| *x = relu_squared(*x)),
        Activation::Sigmoid => x.iter_mut().for_each(|x| *x = sigmoid(*x)),
        Activation::ClampedSwiglu => clamped_swiglu_in_place(x),
    });
}

/// `x *= factor`.
pub fn scale(factor: f32, x: &mut [f32]) {
    x.par_chunks_mut(ELEMENTS_PER_JOB).for_each(|x| x.iter_mut().for_each(|x| *x *= factor));
}

/// `out = a + b`.
///
/// # Panics
/// When the lengths differ.
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == b.len() && a.len() == out.len(), "sums need equal lengths");
    out.par_chunks_mut(ELEMENTS_PER_JOB)
        .zip(a.par_chunks(ELEMENTS_PER_JOB).zip(b.par_chunks(ELEMENTS_PER_JOB)))
        .for_each(|(out, (a, b))| {
            for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
                *o = a + b;
            }
        });
}

/// `to += from`.
///
/// # Panics
/// When the lengths differ.
pub fn add_assign(to: &mut [f32], from: &[f32]) {
    assert_eq!(to.len(), from.len(), "sums need equal lengths");
    let parts = to.par_chunks_mut(ELEMENTS_PER_JOB).zip(from.par_chunks(ELEMENTS_PER_JOB));
    parts.for_each(|(to, from)| to.iter_mut().zip(from).for_each(|(t, f)| *t += f));
}

/// `out = cap * tanh(x / cap)` in place: soft-capping of logits.
pub fn softcap(cap: f32, x: &mut [f32]) {
    x.par_chunks_mut(ELEMENTS_PER_JOB).for_each(|x| softcap_row(cap, x));
}

multiversion! {
    pub(crate) fn softcap_row(cap: f32, x: &mut [f32]) {
        for x in x {
            // tanh u = 1 - 2 / (1 + e^2u)
            *x = cap * (1.0 - 2.0 / (1.0 + exp::<FUSED>(2.0 * *x / cap)));
        }
    }
}

/// Rotary tables, and the entry of each row.
pub struct Rotation {
    /// Cosines, `[places, half]`.
    pub cos: Vec<f32>,
    /// Sines, `[places, half]`.
    pub sin: Vec<f32>,
    /// Half the number of rotated dimensions of a head.
    pub half: usize,
    /// The index of each row in the tables.
    pub places: Vec<usize>,
}

impl Rotation {
    /// Checks `len` elements in rows of `stride`, of which `heads` heads are rotated.
    pub(crate) fn check(&self, len: usize, stride: usize, heads: usize, head_dim: usize) {
        assert!(head_dim > 0 && stride > 0, "a head must have a width");
        assert!(self.half <= head_dim / 2 && checked_area(heads, head_dim) <= stride);
        assert_eq!(len, checked_area(self.places.len(), stride), "each row needs a place in the tables");
    }
}

/// Rotates heads in place, pairing the two halves of the rotated dimensions (the layout of Hugging Face
/// checkpoints): for `i < half`,
/// `(x_i, x_{i + half}) -> (x_i cos - x_{i + half} sin, x_{i + half} cos + x_i sin)`.
///
/// # Shapes
/// `x [m, stride]`, of which columns `0..heads * head_dim` are rotated.
///
/// # Panics
/// When a head has no width, the lengths do not fit, or a place lies outside the tables.
pub fn rotate(x: &mut [f32], stride: usize, heads: usize, head_dim: usize, rotation: &Rotation) {
    let Rotation { cos, sin, half, places } = rotation;
    let half = *half;
    rotation.check(x.len(), stride, heads, head_dim);
    x.par_chunks_mut(stride).zip(places).with_min_len(rows_per_job(stride)).for_each(|(row, &p)| {
        let (cos, sin) = (&cos[p * half..(p + 1) * half], &sin[p * half..(p + 1) * half]);
        for head in row[..heads * head_dim].chunks_exact_mut(head_dim) {
            let (lo, hi) = head[..2 * half].split_at_mut(half);
            for (((a, b), c), s) in lo.iter_mut().zip(hi).zip(cos).zip(sin) {
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[track_caller]
    fn check_exp(exp: fn(f32) -> f32) {
        for i in -80_000..88_300 {
            let x = i as f32 / 1000.0;
            assert_relative_eq!(f64::from(exp(x)), f64::from(x).exp(), max_relative = 3e-7);
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!((-87_200..-80_000).all(|i| exp(i as f32 / 1000.0) == 0.0));
        assert_eq!(exp(-200.0), 0.0);
        assert!(exp(1e6).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn exp_agrees_with_f64() {
        check_exp(exp::<false>);
        check_exp(exp::<true>);
    }

    #[test]
    fn exp_of_nonpositive_agrees_with_f64() {
        for exp in [exp_of_nonpositive::<false>, exp_of_nonpositive::<true>] {
            for i in -68_000..=0 {
                let x = i as f32 / 1000.0;
                assert_relative_eq!(f64::from(exp(x)), f64::from(x).exp(), max_relative = 3e-7);
            }
            assert_eq!(exp(0.0), 1.0);
            assert!([-68.01, -80.0, -200.0, -1e30, f32::NEG_INFINITY].iter().all(|x| exp(*x) == 0.0));
            assert!(exp(f32::NAN).is_nan());
        }
    }

    #[test]
    fn logarithms_agree_with_f64() {
        for artanh in [twice_artanh::<false>, twice_artanh::<true>] {
            for i in 0..=10_000 {
                let v = i as f32 / 30_000.0;
                let want = 2.0 * f64::from(v).atanh();
                assert_relative_eq!(f64::from(artanh(v)), want, max_relative = 3e-7);
            }
        }
    }

    #[test]
    fn activations_agree_with_f64() {
        for i in -400..400 {
            let x = i as f32 / 20.0;
            let d = f64::from(x);
            let mut y = [x];
            activate(Activation::Silu, &mut y);
            assert_relative_eq!(f64::from(y[0]), d / (1.0 + (-d).exp()), max_relative = 1e-6, epsilon = 1e-9);
            let mut y = [x];
            activate(Activation::GeluTanh, &mut y);
            let u = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d.powi(3));
            assert_relative_eq!(
                f64::from(y[0]),
                0.5 * d * (1.0 + u.tanh()),
                max_relative = 2e-6,
                epsilon = 1e-6
            );
            let mut y = [x];
            activate(Activation::GeluErf, &mut y);
            assert_relative_eq!(
                f64::from(y[0]),
                0.5 * d * (1.0 + libm::erf(d / 2f64.sqrt())),
                max_relative = 2e-6,
                epsilon = 1e-6
            );
            let mut y = [x, x, x];
            activate(Activation::Relu, &mut y[..1]);
            activate(Activation::ReluSquared, &mut y[1..2]);
            scale(-0.5, &mut y[2..]);
            let positive = if x > 0.0 { x } else { 0.0 };
            assert_eq!(y, [positive, positive * positive, x / -2.0]);
            let mut y = [x];
            softcap(3.0, &mut y);
            assert_relative_eq!(f64::from(y[0]), 3.0 * (d / 3.0).tanh(), max_relative = 2e-6, epsilon = 1e-6);
        }
    }

    #[test]
    fn gates_multiply_halves() {
        let gate_up = [1.0, -2.0, 10.0, 20.0, 0.5, 0.0, 3.0, 4.0];
        let mut out = [0.0; 4];
        gated(Activation::Silu, &gate_up, 2, &mut out);
        for (o, (g, u)) in out.iter().zip([(1.0, 10.0), (-2.0, 20.0), (0.5, 3.0), (0.0, 4.0)]) {
            assert_relative_eq!(*o, g / (1.0 + f32::exp(-g)) * u, max_relative = 1e-6);
        }
    }

    #[test]
    fn a_rotation_changes_pairs_and_keeps_the_rest() {
        let (c, s) = (0.6, 0.8);
        let mut x = [1.0, 5.0, 2.0, 9.0, 7.0, 7.0];
        rotate(&mut x, 6, 1, 4, &Rotation { cos: vec![c], sin: vec![s], half: 1, places: vec![0] });
        assert_eq!(x, [c - 5.0 * s, 5.0 * c + s, 2.0, 9.0, 7.0, 7.0]);
    }
}
