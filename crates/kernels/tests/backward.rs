//! Gradients against central differences of naive f64 implementations.

use fathom_kernels::attention::{AttentionShape, HeadBias, Visibility};
use fathom_kernels::elementwise::{Activation, Rotation};
use fathom_kernels::{Dtype, Linear, OutOfMemory, backward};
use proptest::prelude::*;
use std::ops::Range;

/// Numbers between `-scale` and `scale`.
fn numbers(len: usize, scale: f32, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| scale * next()).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// Maximum error, relative to the largest term of a sum.
const TOLERANCE: f64 = 1e-5;

/// Compares `got` with the gradient of `c . f(x)`, which is `sum_j c_j df_j/dx_i` for each
/// coordinate i. Errors are relative to the largest of all these terms, because `f32` cannot do better
/// where terms cancel, and at least relative to `least`, the size of what cancels within a term.
#[track_caller]
fn check(x: &[f32], c: &[f32], got: &[f32], least: f64, f: impl Fn(&[f64]) -> Vec<f64>) {
    assert_eq!(got.len(), x.len());
    let mut x = wide(x);
    let step = 1e-5 * x.iter().fold(0.0, |max, x| x.abs().max(max));
    let mut moved = |i: usize, step: f64| {
        let at = std::mem::replace(&mut x[i], 0.0);
        x[i] = at + step;
        let value = f(&x);
        x[i] = at;
        value
    };
    let (mut error, mut size) = (0.0f64, least);
    for (i, got) in got.iter().enumerate() {
        let (up, down) = (moved(i, step), moved(i, -step));
        assert_eq!(up.len(), c.len());
        let terms = up.iter().zip(&down).zip(c).map(|((u, d), c)| f64::from(*c) * (u - d) / (2.0 * step));
        let mut want = 0.0;
        for term in terms {
            want += term;
            size = size.max(term.abs());
        }
        assert!(got.is_finite());
        error = error.max((f64::from(*got) - want).abs());
    }
    assert!(error <= TOLERANCE * size, "differs by {:.1e} of the largest term", error / size);
}

/// The mean of a row and the root of its mean square.
fn moments(x: &[f64]) -> (f64, f64) {
    let mean = |x: &mut dyn Iterator<Item = f64>, len: usize| x.sum::<f64>() / len as f64;
    (mean(&mut x.iter().copied(), x.len()), mean(&mut x.iter().map(|x| x * x), x.len()).sqrt())
}

/// Weights of norms.
fn weights(len: usize, seed: u32) -> Vec<f32> {
    numbers(len, 0.5, seed).iter().map(|w| 1.0 + w).collect()
}

fn act(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }
        Activation::GeluErf => 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())),
        Activation::Relu => x.max(0.0),
        Activation::ReluSquared => x.max(0.0).powi(2),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::ClampedSwiglu => x.min(7.0) / (1.0 + (-1.702 * x.min(7.0)).exp()),
    }
}

/// The other factor of a gated MLP.
fn factor(activation: Activation, u: f64) -> f64 {
    match activation {
        Activation::ClampedSwiglu => u.clamp(-7.0, 7.0) + 1.0,
        _ => u,
    }
}

/// Attention over whole texts, score by score.
fn attend(shape: &AttentionShape, bias: HeadBias<&[f32]>, qkv: &[f64], texts: &[Range<usize>]) -> Vec<f64> {
    let AttentionShape { heads, kv_heads, head_dim: dim, .. } = *shape;
    let stride = (heads + 2 * kv_heads) * dim;
    let part = |row: usize, head: usize| &qkv[row * stride + head * dim..][..dim];
    let mut out = Vec::new();
    for text in texts {
        for (row, head) in text.clone().flat_map(|row| (0..heads).map(move |head| (row, head))) {
            let kv = head * kv_heads / heads;
            let seen = shape.visibility.seen(row - text.start, text.len());
            let seen = text.start + seen.start..text.start + seen.end;
            let score = |at: usize| {
                let product: f64 = part(row, head).iter().zip(part(at, heads + kv)).map(|(q, k)| q * k).sum();
                let score = product * f64::from(shape.scale);
                let score =
                    shape.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
                let slope = bias.slopes.map_or(0.0, |all| f64::from(all[head]));
                // Positions and products are so small that rounding them changes nothing.
                let place = if bias.rounded {
                    f64::from(shape.scale) * (at - text.start) as f64
                } else {
                    at as f64 - row as f64
                };
                score + slope * place
            };
            let weights: Vec<f64> = seen.clone().map(|at| score(at).exp()).collect();
            let sink = bias.sinks.map_or(0.0, |all| f64::from(all[head]).exp());
            let norm = weights.iter().sum::<f64>() + sink;
            for i in 0..dim {
                let mixed = seen.clone().zip(&weights).map(|(at, w)| w * part(at, heads + kv_heads + kv)[i]);
                out.push(mixed.sum::<f64>() / norm);
            }
        }
    }
    out
}

/// Moves numbers away from where activations have no derivative.
fn off_kinks(x: &mut [f32], scale: f32) {
    for x in x {
        if [-7.0, 0.0, 7.0].iter().any(|kink: &f32| (*x - kink).abs() < 1e-3 * scale) {
            *x += 2e-3 * scale;
        }
    }
}

fn activations() -> impl Strategy<Value = Activation> {
    prop_oneof![
        Just(Activation::Silu),
        Just(Activation::GeluTanh),
        Just(Activation::GeluErf),
        Just(Activation::Relu),
        Just(Activation::ReluSquared),
        Just(Activation::Sigmoid),
        Just(Activation::ClampedSwiglu),
    ]
}

fn visibilities() -> impl Strategy<Value = Visibility> {
    prop_oneof![
        Just(Visibility::Causal),
        (1usize..26).prop_map(Visibility::Window),
        Just(Visibility::Full),
        (0usize..26).prop_map(Visibility::Around),
    ]
}

/// Magnitudes far below, around and far beyond the bend of the activations.
fn scales() -> impl Strategy<Value = f32> {
    prop_oneof![Just(0.01f32), Just(1.0), Just(4.0), Just(20.0)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rms_row(width in 1usize..70, scale in scales(), eps in 1e-6f32..1e-2, seed: u32) {
        let (x, weight) = (numbers(width, scale, seed), weights(width, seed ^ 1));
        let c = numbers(width, 1.0, seed ^ 2);
        let mut d = c.clone();
        backward::rms_row(&x, &weight, eps, &mut d);
        let factor = |x: &[f64]| 1.0 / (moments(x).1.powi(2) + f64::from(eps)).sqrt();
        check(&x, &c, &d, factor(&wide(&x)), |x| {
            let factor = factor(x);
            x.iter().zip(wide(&weight)).map(|(x, w)| x * factor * w).collect()
        });
    }

    #[test]
    fn layer_row(width in 1usize..70, scale in scales(), shift in -2f32..2.0, eps in 1e-6f32..1e-2, seed: u32) {
        let (mut x, weight) = (numbers(width, scale, seed), weights(width, seed ^ 1));
        x.iter_mut().for_each(|x| *x += scale * shift);
        let c = numbers(width, 1.0, seed ^ 2);
        let mut d = c.clone();
        backward::layer_row(&x, &weight, eps, &mut d);
        let factor = |x: &[f64]| 1.0 / (moments(x).1.powi(2) - moments(x).0.powi(2) + f64::from(eps)).sqrt();
        // Centring cancels the digits of the mean.
        let (mean, _) = moments(&wide(&x));
        let least = factor(&wide(&x)) * (1.0 + mean.abs() * factor(&wide(&x)));
        check(&x, &c, &d, least, |x| {
            let (factor, (mean, _)) = (factor(x), moments(x));
            x.iter().zip(wide(&weight)).map(|(x, w)| (x - mean) * factor * w).collect()
        });
    }

    #[test]
    fn gated(activation in activations(), rows in 1usize..4, width in 1usize..40, scale in scales(), seed: u32) {
        let (mut x, c) = (numbers(2 * rows * width, scale, seed), numbers(rows * width, 1.0, seed ^ 1));
        off_kinks(&mut x, scale);
        let mut d = vec![f32::NAN; x.len()];
        backward::gated(activation, &x, width, &c, &mut d);
        check(&x, &c, &d, f64::from(scale), |x| {
            let rows = x.chunks_exact(2 * width).map(|row| row.split_at(width));
            rows.flat_map(|(gate, up)| gate.iter().zip(up).map(|(g, u)| act(activation, *g) * factor(activation, *u))).collect()
        });
    }

    #[test]
    fn activate(activation in activations(), len in 1usize..70, scale in scales(), seed: u32) {
        let (mut x, c) = (numbers(len, scale, seed), numbers(len, 1.0, seed ^ 1));
        off_kinks(&mut x, scale);
        let mut d = c.clone();
        backward::activate(activation, &x, &mut d);
        check(&x, &c, &d, 1.0, |x| x.iter().map(|x| act(activation, *x)).collect());
    }

    #[test]
    fn softcap(cap in 0.5f32..50.0, len in 1usize..70, scale in scales(), seed: u32) {
        let (x, c) = (numbers(len, scale, seed), numbers(len, 1.0, seed ^ 1));
        let capped = |x: f64| f64::from(cap) * (x / f64::from(cap)).tanh();
        let y: Vec<f32> = x.iter().map(|x| capped(f64::from(*x)) as f32).collect();
        let mut d = c.clone();
        backward::softcap(cap, &y, &mut d);
        check(&x, &c, &d, 1.0, |x| x.iter().map(|x| capped(*x)).collect());
    }

    #[test]
    fn rotate(heads in 1usize..4, half in 0usize..5, rest in 0usize..4, more in 0usize..6, rows in 1usize..5, seed: u32) {
        let dim = (2 * half + rest).max(1);
        let stride = heads * dim + more;
        let rotation = Rotation {
            cos: numbers(7 * half, 1.0, seed),
            sin: numbers(7 * half, 1.0, seed ^ 1),
            half,
            places: (0..rows).map(|i| (i * 5 + seed as usize) % 7).collect(),
        };
        let (x, c) = (numbers(rows * stride, 1.0, seed ^ 2), numbers(rows * stride, 1.0, seed ^ 3));
        let mut d = c.clone();
        backward::rotate(&mut d, stride, heads, dim, &rotation);
        check(&x, &c, &d, 1.0, |x| {
            let mut y = x.to_vec();
            for (row, place) in rotation.places.iter().enumerate() {
                for (head, i) in (0..heads).flat_map(|head| (0..half).map(move |i| (head, i))) {
                    let (a, b) = (row * stride + head * dim + i, row * stride + head * dim + half + i);
                    let [cos, sin] = [&rotation.cos, &rotation.sin].map(|t| f64::from(t[place * half + i]));
                    (y[a], y[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
                }
            }
            y
        });
    }

    #[test]
    fn attention(
        kv_heads in 1usize..4,
        group in 1usize..4,
        head_dim in 1usize..6,
        lengths in prop_oneof![prop::collection::vec(1usize..6, 1..4), prop::collection::vec(1usize..24, 1)],
        visibility in visibilities(),
        softcap in prop::option::of(0.5f32..5.0),
        scale in 0.3f32..2.0,
        sink: bool,
        slope in prop::option::of(any::<bool>()),
        seed: u32,
    ) {
        let shape = AttentionShape { heads: kv_heads * group, kv_heads, head_dim, scale, softcap, visibility };
        let starts = lengths.iter().scan(0, |end, length| { *end += length; Some(*end - length) });
        let texts: Vec<Range<usize>> = starts.zip(&lengths).map(|(start, length)| start..start + length).collect();
        let rows: usize = lengths.iter().sum();
        let x = numbers(rows * (group + 2) * kv_heads * head_dim, 2.0, seed);
        let c = numbers(rows * group * kv_heads * head_dim, 1.0, seed ^ 1);
        let (sinks, slopes) = (numbers(shape.heads, 2.0, seed ^ 2), numbers(shape.heads, 1.0, seed ^ 3));
        // Multiples of 1 / 8.
        let coarse: Vec<f32> = slopes.iter().map(|m| (m * 8.0).round() / 8.0).collect();
        let rounded = slope == Some(true);
        let slopes = slope.map(|_| if rounded { &coarse[..] } else { &slopes[..] });
        let bias = HeadBias { sinks: sink.then_some(&sinks[..]), slopes, rounded };
        let mut d = vec![f32::NAN; x.len()];
        backward::attend(&shape, bias, &x, &texts, &c, &mut d);
        check(&x, &c, &d, 1.0, |x| attend(&shape, bias, x, &texts));
    }

    #[test]
    fn linear(n in 1usize..50, k in 1usize..50, half: bool, seed: u32) {
        let (w, x, mut c) = (numbers(n * k, 1.0, seed), numbers(k, 1.0, seed ^ 1), numbers(n, 1.0, seed ^ 2));
        if half {
            // In bfloat16 the incoming gradient is rounded too.
            c.iter_mut().for_each(|c| *c = half::bf16::from_f32(*c).to_f32());
        }
        let (layer, w) = packed(n, k, half, w);
        let mut d = vec![f32::NAN; k];
        layer.backward(&c, &mut d);
        check(&x, &c, &d, 1.0, |x| w.chunks_exact(k).map(|w| x.iter().zip(w).map(|(x, w)| x * w).sum()).collect());
    }
}

/// A layer, and its weights as it stores them.
fn packed(n: usize, k: usize, half: bool, mut w: Vec<f32>) -> (Linear, Vec<f64>) {
    if half {
        w.iter_mut().for_each(|w| *w = half::bf16::from_f32(*w).to_f32());
    }
    let dtype = if half { Dtype::Bf16 } else { Dtype::F32 };
    let layer = Linear::pack(n, k, dtype, Some(numbers(n, 1.0, 5)), |rows, block| {
        block.copy_from_slice(&w[rows.start * k..rows.end * k]);
        Ok::<(), OutOfMemory>(())
    });
    (layer.unwrap(), wide(&w))
}

/// More rows than one job takes, and more outputs than are transposed at once.
#[test]
fn the_gradient_of_a_row_does_not_depend_on_its_batch() {
    let (m, n, k) = (2_500, 600, 37);
    let (layer, _) = packed(n, k, false, numbers(n * k, 1.0, 1));
    let dy = numbers(m * n, 1.0, 2);
    let mut together = vec![f32::NAN; m * k];
    layer.backward(&dy, &mut together);
    for (dy, together) in dy.chunks_exact(n).zip(together.chunks_exact(k)) {
        let mut alone = vec![f32::NAN; k];
        layer.backward(dy, &mut alone);
        assert_eq!(alone, together);
    }
}

/// The gradients of attention over one text by their formulas in f64, and the size of the largest term of a sum.
fn attention_gradients(shape: &AttentionShape, qkv: &[f32], d_out: &[f32]) -> (Vec<f64>, f64) {
    let AttentionShape { heads, kv_heads, head_dim: dim, .. } = *shape;
    let stride = (heads + 2 * kv_heads) * dim;
    let (qkv, d_out) = (wide(qkv), wide(d_out));
    let count = qkv.len() / stride;
    let column = |row: usize, head: usize| row * stride + head * dim;
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let (mut d, mut size) = (vec![0.0; qkv.len()], 0.0f64);
    let mut add = |to: usize, factor: f64, from: &[f64]| {
        for (to, from) in d[to..to + dim].iter_mut().zip(from) {
            *to += factor * from;
            size = size.max((factor * from).abs());
        }
    };
    for (row, head) in (0..count).flat_map(|row| (0..heads).map(move |head| (row, head))) {
        let kv = heads + head * kv_heads / heads;
        let query = &qkv[column(row, head)..][..dim];
        let d_mixed = &d_out[(row * heads + head) * dim..][..dim];
        let seen = shape.visibility.seen(row, count);
        let weights: Vec<f64> = seen
            .clone()
            .map(|at| (f64::from(shape.scale) * dot(query, &qkv[column(at, kv)..][..dim])).exp())
            .collect();
        let norm: f64 = weights.iter().sum();
        let d_weights: Vec<f64> =
            seen.clone().map(|at| dot(d_mixed, &qkv[column(at, kv + kv_heads)..][..dim])).collect();
        let mean = dot(&weights, &d_weights) / norm;
        for ((at, w), d_weight) in seen.zip(&weights).zip(&d_weights) {
            let d_score = w / norm * (d_weight - mean) * f64::from(shape.scale);
            add(column(row, head), d_score, &qkv[column(at, kv)..][..dim]);
            add(column(at, kv), d_score, query);
            add(column(at, kv + kv_heads), w / norm, d_mixed);
        }
    }
    (d, size)
}

/// Several blocks of rows and panels of columns; in a batch as alone.
#[test]
fn attention_over_longer_texts() {
    let lengths = [1, 33, 64, 65, 150];
    let rows: usize = lengths.iter().sum();
    let starts = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end - length)
    });
    let texts: Vec<Range<usize>> =
        starts.zip(&lengths).map(|(start, length)| start..start + length).collect();
    for visibility in [Visibility::Causal, Visibility::Window(40), Visibility::Full, Visibility::Around(20)] {
        for (group, head_dim) in [(1, 64), (3, 40), (2, 7)] {
            let shape = AttentionShape {
                heads: 2 * group,
                kv_heads: 2,
                head_dim,
                scale: 0.3,
                softcap: None,
                visibility,
            };
            let (stride, width) = ((2 * group + 4) * head_dim, 2 * group * head_dim);
            let (x, c) = (numbers(rows * stride, 1.0, 1), numbers(rows * width, 1.0, 2));
            let mut together = vec![f32::NAN; x.len()];
            backward::attend(&shape, HeadBias::default(), &x, &texts, &c, &mut together);
            for text in &texts {
                let (x, c) =
                    (&x[text.start * stride..text.end * stride], &c[text.start * width..text.end * width]);
                let mut alone = vec![f32::NAN; x.len()];
                let whole = 0..text.len();
                let whole = std::slice::from_ref(&whole);
                backward::attend(&shape, HeadBias::default(), x, whole, c, &mut alone);
                assert!(alone == together[text.start * stride..text.end * stride]);
                let (want, size) = attention_gradients(&shape, x, c);
                for (got, want) in alone.iter().zip(want) {
                    let error = (f64::from(*got) - want).abs();
                    assert!(
                        error <= 1e-5 * size,
                        "{visibility:?}, {} positions: off by {error:.1e}",
                        text.len()
                    );
                }
            }
        }
    }
}
