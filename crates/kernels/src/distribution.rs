//! Statistics of rows of logits: normalisers, divergences, most likely tokens.
//!
//! Exponentials are taken in `f32`, sums over the vocabulary in `f64`.

use crate::cpu::multiversion;
use crate::elementwise::{exp, ln_1p_unit};

const LANES: usize = 16;
/// Elements summed in `f32` lanes before they are added to the `f64` total:
/// 16 terms a lane, so the partial sums lose nothing that matters.
const BLOCK: usize = 256;

multiversion! {
    fn max(x: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane = if *x > *lane { *x } else { *lane };
            }
        }
        lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, f32::max)
    }
}

multiversion! {
    fn sum_exp(x: &[f32], shift: f32) -> f64 {
        let mut total = 0.0;
        for block in x.chunks(BLOCK) {
            let mut lanes = [0.0f32; LANES];
            let (chunks, rest) = block.as_chunks::<LANES>();
            for chunk in chunks {
                for i in 0..LANES {
                    lanes[i] += exp(chunk[i] - shift);
                }
            }
            for (lane, x) in lanes.iter_mut().zip(rest) {
                *lane += exp(x - shift);
            }
            total += lanes.iter().map(|x| f64::from(*x)).sum::<f64>();
        }
        total
    }
}

/// `ln sum e^x` of a row of logits.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let shift = max(logits);
    f64::from(shift) + sum_exp(logits, shift).ln()
}

/// How the distribution of one row of logits differs from that of another.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Divergence {
    /// `KL(p || q)` in nats, `p` the first row.
    pub kl: f64,
    /// `KL(q || p)` in nats.
    pub kl_reverse: f64,
    /// Jensen-Shannon divergence in bits, between 0 and 1.
    pub jsd_bits: f64,
    /// Entropy of the first row in nats.
    pub entropy: f64,
}

/// Sixteen terms of every sum over the vocabulary, added to `lanes`: p, p (ln p - ln q),
/// p ln p, q, q (ln p - ln q), twice the JSD in nats. The logarithms are taken with the
/// normalisers rounded to f32; `divergence` puts the rest back in f64.
///
/// One short loop a step, over arrays of one register's length: this is the form
/// that compilers turn into vector instructions.
#[inline(always)]
fn add_terms(lanes: &mut [[f32; LANES]; 6], x: &[f32; LANES], y: &[f32; LANES], x_lse: f32, y_lse: f32) {
    // Taken from the same function as the terms, so that equal rows cancel exactly.
    let ln_2 = ln_1p_unit(exp(0.0));
    // Beyond this gap ln(1 + e^-gap) is less than half a unit in the last place of ln 2, to which
    // it is added, and its powers would become subnormal numbers, which are slow.
    const WIDEST: f32 = 18.0;
    let (mut p, mut q, mut soft) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
    for i in 0..LANES {
        p[i] = exp(x[i] - x_lse);
    }
    for i in 0..LANES {
        q[i] = exp(y[i] - y_lse);
    }
    for i in 0..LANES {
        let gap = (x[i] - x_lse) - (y[i] - y_lse);
        let gap = if gap.abs() > WIDEST { WIDEST } else { gap.abs() };
        soft[i] = exp(-gap);
    }
    for value in &mut soft {
        *value = ln_1p_unit(*value);
    }
    for i in 0..LANES {
        lanes[0][i] += p[i];
        let gap = (x[i] - x_lse) - (y[i] - y_lse);
        lanes[1][i] += p[i] * gap;
        lanes[2][i] += p[i] * (x[i] - x_lse);
        lanes[3][i] += q[i];
        lanes[4][i] += q[i] * gap;
    }
    for i in 0..LANES {
        let gap = (x[i] - x_lse) - (y[i] - y_lse);
        let above = if gap > 0.0 { gap } else { 0.0 };
        let below = if gap < 0.0 { -gap } else { 0.0 };
        lanes[5][i] += p[i] * (ln_2 - soft[i] - below) + q[i] * (ln_2 - soft[i] - above);
    }
}

multiversion! {
    /// The six sums of `add_terms` over whole rows.
    fn sums(x: &[f32], y: &[f32], x_lse: f32, y_lse: f32) -> [f64; 6] {
        let mut totals = [0.0f64; 6];
        for (xs, ys) in x.chunks(BLOCK).zip(y.chunks(BLOCK)) {
            let mut lanes = [[0.0f32; LANES]; 6];
            let (xs, x_rest) = xs.as_chunks::<LANES>();
            let (ys, y_rest) = ys.as_chunks::<LANES>();
            for (xs, ys) in xs.iter().zip(ys) {
                add_terms(&mut lanes, xs, ys, x_lse, y_lse);
            }
            if !x_rest.is_empty() {
                // Tokens of no probability in both rows add nothing to any sum.
                let (mut xs, mut ys) = ([x_lse - 200.0; LANES], [y_lse - 200.0; LANES]);
                xs[..x_rest.len()].copy_from_slice(x_rest);
                ys[..y_rest.len()].copy_from_slice(y_rest);
                add_terms(&mut lanes, &xs, &ys, x_lse, y_lse);
            }
            for (total, lanes) in totals.iter_mut().zip(&lanes) {
                *total += lanes.iter().map(|x| f64::from(*x)).sum::<f64>();
            }
        }
        totals
    }
}

/// Compares two rows of logits whose normalisers ([`log_sum_exp`]) are known.
///
/// The divergence of a row from itself is exactly zero.
///
/// # Panics
/// When the rows differ in length.
pub fn divergence(x: &[f32], x_lse: f64, y: &[f32], y_lse: f64) -> Divergence {
    assert_eq!(x.len(), y.len(), "the rows must be over one vocabulary");
    let (x_near, y_near) = (x_lse as f32, y_lse as f32);
    let [p, p_gap, p_x, q, q_gap, jsd] = sums(x, y, x_near, y_near);
    let (x_rest, y_rest) = (x_lse - f64::from(x_near), y_lse - f64::from(y_near));
    let shift = x_rest - y_rest;
    Divergence {
        kl: p_gap / p - shift,
        kl_reverse: shift - q_gap / q,
        jsd_bits: (0.5 * jsd / std::f64::consts::LN_2).max(0.0),
        entropy: x_rest - p_x / p,
    }
}

/// The square, or zero where it would be a subnormal number: these are slow.
#[inline(always)]
fn square(x: f32) -> f32 {
    const LEAST: f32 = 1.1e-19;
    let x = if x.abs() < LEAST { 0.0 } else { x };
    x * x
}

multiversion! {
    /// Sum of squared differences of probabilities.
    fn squared_distance(x: &[f32], y: &[f32], x_lse: f32, y_lse: f32) -> f64 {
        let mut total = 0.0;
        for (xs, ys) in x.chunks(BLOCK).zip(y.chunks(BLOCK)) {
            let mut lanes = [0.0f32; LANES];
            let (xs, x_rest) = xs.as_chunks::<LANES>();
            let (ys, y_rest) = ys.as_chunks::<LANES>();
            for (xs, ys) in xs.iter().zip(ys) {
                for i in 0..LANES {
                    lanes[i] += square(exp(xs[i] - x_lse) - exp(ys[i] - y_lse));
                }
            }
            for ((x, y), lane) in x_rest.iter().zip(y_rest).zip(&mut lanes) {
                *lane += square(exp(x - x_lse) - exp(y - y_lse));
            }
            total += lanes.iter().map(|x| f64::from(*x)).sum::<f64>();
        }
        total
    }
}

/// `|p - q|_2` of the distributions of two rows of logits whose normalisers are known.
///
/// # Panics
/// When the rows differ in length.
pub fn distance(x: &[f32], x_lse: f64, y: &[f32], y_lse: f64) -> f64 {
    assert_eq!(x.len(), y.len(), "the rows must be over one vocabulary");
    squared_distance(x, y, x_lse as f32, y_lse as f32).sqrt()
}

multiversion! {
    fn scaled(row: &mut [f32], lse: f32, scale: f32) {
        // What is multiplied with these must not become subnormal, which is slow.
        const LEAST: f32 = 1e-30;
        for x in row {
            let value = scale * exp(*x - lse);
            *x = if value.abs() < LEAST { 0.0 } else { value };
        }
    }
}

/// Turns a row of logits whose normaliser is known into `scale` times its distribution, zero
/// below 1e-30.
pub fn scaled_softmax(row: &mut [f32], lse: f64, scale: f32) {
    scaled(row, lse as f32, scale);
}

/// The indices of the `K` largest logits, largest first; among equals the lower index.
///
/// # Panics
/// When the row has fewer than `K` elements.
pub fn top<const K: usize>(logits: &[f32]) -> [u32; K] {
    assert!(logits.len() >= K, "a row of {} logits has no {K} largest", logits.len());
    let mut best = [(f32::NEG_INFINITY, u32::MAX); K];
    for (c, chunk) in logits.chunks(64).enumerate() {
        // Most chunks hold nothing new; their maximum says so quickly.
        if max(chunk) <= best[K - 1].0 && best[K - 1].1 != u32::MAX {
            continue;
        }
        for (i, x) in chunk.iter().enumerate() {
            if *x > best[K - 1].0 || best[K - 1].1 == u32::MAX {
                let at = best.iter().position(|b| *x > b.0 || b.1 == u32::MAX).unwrap_or(K - 1);
                best[at..].rotate_right(1);
                best[at] = (*x, (c * 64 + i) as u32);
            }
        }
    }
    best.map(|b| b.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;
    use proptest::prelude::*;

    fn exact(x: &[f32], y: &[f32]) -> Divergence {
        let soft = |x: &[f32]| -> Vec<f64> {
            let max = x.iter().copied().fold(f32::MIN, f32::max);
            let e: Vec<f64> = x.iter().map(|x| f64::from(x - max).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.iter().map(|e| e / sum).collect()
        };
        let (p, q) = (soft(x), soft(y));
        let kl = |p: &[f64], q: &[f64]| {
            p.iter().zip(q).map(|(p, q)| if *p > 0.0 { p * (p / q).ln() } else { 0.0 }).sum::<f64>()
        };
        let m: Vec<f64> = p.iter().zip(&q).map(|(p, q)| 0.5 * (p + q)).collect();
        Divergence {
            kl: kl(&p, &q),
            kl_reverse: kl(&q, &p),
            jsd_bits: 0.5 * (kl(&p, &m) + kl(&q, &m)) / std::f64::consts::LN_2,
            entropy: -p.iter().map(|p| p * p.ln()).sum::<f64>(),
        }
    }

    proptest! {
        #[test]
        fn divergences_agree_with_the_definitions(rows in prop::collection::vec((-15f32..15.0, -15f32..15.0), 5..700)) {
            let (x, y): (Vec<f32>, Vec<f32>) = rows.into_iter().unzip();
            let got = divergence(&x, log_sum_exp(&x), &y, log_sum_exp(&y));
            let want = exact(&x, &y);
            assert_relative_eq!(got.kl, want.kl, max_relative = 1e-5, epsilon = 3e-6);
            assert_relative_eq!(got.kl_reverse, want.kl_reverse, max_relative = 1e-5, epsilon = 3e-6);
            assert_relative_eq!(got.jsd_bits, want.jsd_bits, max_relative = 1e-5, epsilon = 3e-6);
            assert_relative_eq!(got.entropy, want.entropy, max_relative = 1e-5, epsilon = 3e-6);
        }

        #[test]
        fn distances_agree_with_the_definition(rows in prop::collection::vec((-15f32..15.0, -15f32..15.0), 1..700)) {
            let (x, y): (Vec<f32>, Vec<f32>) = rows.into_iter().unzip();
            let soft = |x: &[f32]| {
                let sum: f64 = x.iter().map(|x| f64::from(*x).exp()).sum();
                x.iter().map(|x| f64::from(*x).exp() / sum).collect::<Vec<_>>()
            };
            let want = soft(&x).iter().zip(soft(&y)).map(|(p, q)| (p - q).powi(2)).sum::<f64>().sqrt();
            let got = distance(&x, log_sum_exp(&x), &y, log_sum_exp(&y));
            assert_relative_eq!(got, want, max_relative = 1e-5, epsilon = 1e-6);
            prop_assert_eq!(distance(&x, log_sum_exp(&x), &x, log_sum_exp(&x)), 0.0);
        }

        #[test]
        fn scaled_distributions_agree_with_the_definition(x in prop::collection::vec(-40f32..40.0, 1..700)) {
            let (mut got, lse) = (x.clone(), log_sum_exp(&x));
            scaled_softmax(&mut got, lse, -0.3);
            for (got, x) in got.iter().zip(&x) {
                let want = -0.3 * (f64::from(*x) - lse).exp();
                assert_relative_eq!(f64::from(*got), want, max_relative = 2e-5, epsilon = 1e-30);
            }
        }

        #[test]
        fn the_largest_are_found(mut x in prop::collection::vec(-9i32..9, 5..300)) {
            let row: Vec<f32> = x.iter().map(|x| *x as f32).collect();
            let got = top::<5>(&row);
            let mut order: Vec<u32> = (0..row.len() as u32).collect();
            order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
            prop_assert_eq!(&got[..], &order[..5]);
            x.clear();
        }
    }

    #[test]
    fn a_row_does_not_diverge_from_itself() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 1.37).sin() * 12.0).collect();
        let lse = log_sum_exp(&x);
        let d = divergence(&x, lse, &x, lse);
        assert_eq!((d.kl, d.kl_reverse, d.jsd_bits), (0.0, 0.0, 0.0));
    }
}
