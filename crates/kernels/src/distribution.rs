//! Statistics of rows of logits: normalisers, divergences, most likely tokens.
//!
//! Exponentials are taken in `f32`, sums over the vocabulary in `f64`.

use crate::cpu::{mul_add, multiversion};
use crate::elementwise::{exp, twice_artanh};

const LANES: usize = 16;
/// Elements summed in `f32` lanes before they are added to `f64` lanes: 16 terms per lane, few enough
/// that rounding of the partial sums is negligible.
const BLOCK: usize = 256;

/// Adds the sums of a block to those of the row.
#[inline(always)]
fn add_lanes(total: &mut [f64; LANES], lanes: &[f32; LANES]) {
    for i in 0..LANES {
        total[i] += f64::from(lanes[i]);
    }
}

multiversion! {
    /// The largest element of every [`BLOCK`].
    fn block_maxima(x: &[f32], maxima: &mut [f32]) {
        for (block, max) in x.chunks(BLOCK).zip(maxima) {
            let mut lanes = [f32::NEG_INFINITY; LANES];
            let (chunks, rest) = block.as_chunks::<LANES>();
            for chunk in chunks {
                for i in 0..LANES {
                    lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
                }
            }
            for (lane, x) in lanes.iter_mut().zip(rest) {
                *lane = if *x > *lane { *x } else { *lane };
            }
            *max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
        }
    }
}

multiversion! {
    fn sum_exp(x: &[f32], shift: f32) -> f64 {
        let mut total = [0.0; LANES];
        for block in x.chunks(BLOCK) {
            let mut lanes = [0.0f32; LANES];
            let (chunks, rest) = block.as_chunks::<LANES>();
            for chunk in chunks {
                for i in 0..LANES {
                    lanes[i] += exp::<FUSED>(chunk[i] - shift);
                }
            }
            for (lane, x) in lanes.iter_mut().zip(rest) {
                *lane += exp::<FUSED>(x - shift);
            }
            add_lanes(&mut total, &lanes);
        }
        total.iter().sum()
    }
}

/// `ln sum e^x` of a row of logits.
pub fn log_sum_exp(row: &[f32]) -> f64 {
    Logits::new(row).log_sum_exp()
}

/// A row of logits with its normaliser.
pub struct Logits<'a> {
    row: &'a [f32],
    /// The largest logit of every [`BLOCK`].
    maxima: Vec<f32>,
    log_sum_exp: f64,
}

impl<'a> Logits<'a> {
    /// Computes the normaliser of a row.
    pub fn new(row: &'a [f32]) -> Self {
        let mut maxima = vec![f32::NEG_INFINITY; row.len().div_ceil(BLOCK)];
        block_maxima(row, &mut maxima);
        let shift = maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let log_sum_exp = f64::from(shift) + sum_exp(row, shift).ln();
        Self { row, maxima, log_sum_exp }
    }

    /// `ln sum e^x`; a logit minus this is a log-probability.
    pub fn log_sum_exp(&self) -> f64 {
        self.log_sum_exp
    }

    /// The indices of the `K` largest logits, largest first; ties go to the lower index. Rows shorter than
    /// `K` are filled up with `u32::MAX`. NaN counts as the smallest.
    pub fn top<const K: usize>(&self) -> [u32; K] {
        let mut best = [(f32::NEG_INFINITY, u32::MAX); K];
        for (b, (block, max)) in self.row.chunks(BLOCK).zip(&self.maxima).enumerate() {
            // The maximum rules out most blocks.
            if *max <= best[K - 1].0 && best[K - 1].1 != u32::MAX {
                continue;
            }
            for (i, x) in block.iter().enumerate() {
                let x = if x.is_nan() { &f32::NEG_INFINITY } else { x };
                if *x > best[K - 1].0 || best[K - 1].1 == u32::MAX {
                    let at = best.iter().position(|b| *x > b.0 || b.1 == u32::MAX).unwrap_or(K - 1);
                    best[at..].rotate_right(1);
                    best[at] = (*x, (b * BLOCK + i) as u32);
                }
            }
        }
        best.map(|b| b.1)
    }
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

/// A distribution that others are compared with.
pub struct Reference<'a> {
    logits: Logits<'a>,
    /// e^(x - ln sum e^x), with the normaliser rounded to `f32`.
    probabilities: Vec<f32>,
    /// Their sum, 1 up to rounding.
    sum: f64,
}

impl<'a> Reference<'a> {
    /// Computes the probabilities of a row of logits.
    pub fn new(logits: Logits<'a>) -> Self {
        let mut probabilities = vec![0.0; logits.row.len()];
        let sum = soft(logits.row, logits.log_sum_exp as f32, &mut probabilities);
        Self { logits, probabilities, sum }
    }

    /// The row of logits.
    pub fn logits(&self) -> &Logits<'a> {
        &self.logits
    }

    /// Divergences of the distribution of `other`, p, from this one, q. They are exactly zero for the row
    /// itself.
    ///
    /// # Panics
    /// When the rows differ in length.
    pub fn divergence_of(&self, other: &Logits<'_>) -> Divergence {
        let (x, y) = (other, &self.logits);
        assert_eq!(x.row.len(), y.row.len(), "the rows must be over one vocabulary");
        let (x_near, y_near) = (x.log_sum_exp as f32, y.log_sum_exp as f32);
        let [p, p_gap, p_x, q_gap, jsd] = sums(x.row, y.row, &self.probabilities, x_near, y_near);
        let (x_rest, y_rest) = (x.log_sum_exp - f64::from(x_near), y.log_sum_exp - f64::from(y_near));
        let shift = x_rest - y_rest;
        // Rounding may give a divergence below zero; NaN must stay NaN.
        let least_zero = |kl: f64| if kl < 0.0 { 0.0 } else { kl };
        Divergence {
            kl: least_zero(p_gap / p - shift),
            kl_reverse: least_zero(shift - q_gap / self.sum),
            jsd_bits: least_zero(0.5 * jsd / std::f64::consts::LN_2),
            entropy: x_rest - p_x / p,
        }
    }

    /// `|p - q|_2` of the distribution of `other`, p, and this one, q.
    ///
    /// # Panics
    /// When the rows differ in length.
    pub fn distance_to(&self, other: &Logits<'_>) -> f64 {
        assert_eq!(other.row.len(), self.probabilities.len(), "the rows must be over one vocabulary");
        squared_distance(other.row, &self.probabilities, other.log_sum_exp as f32).sqrt()
    }
}

multiversion! {
    /// Writes the distribution of a row and returns its sum.
    fn soft(x: &[f32], lse: f32, out: &mut [f32]) -> f64 {
        let mut total = [0.0; LANES];
        for (xs, out) in x.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
            let mut lanes = [0.0f32; LANES];
            for (xs, out) in xs.chunks(LANES).zip(out.chunks_mut(LANES)) {
                for ((x, out), lane) in xs.iter().zip(out).zip(&mut lanes) {
                    *out = exp::<FUSED>(x - lse);
                    *lane += *out;
                }
            }
            add_lanes(&mut total, &lanes);
        }
        total.iter().sum()
    }
}

/// Sixteen terms of every sum over the vocabulary, added to `lanes`: p, p (ln p - ln q),
/// p ln p, q (ln p - ln q), twice the JSD in nats. `q` are the probabilities of the logits `y`. The
/// logarithms use normalisers rounded to f32; `divergence_of` corrects for the rounding in f64.
///
/// One short loop per step, over arrays as long as one register, is the form that compilers vectorise.
#[inline(always)]
fn add_terms<const FUSED: bool>(
    lanes: &mut [[f32; LANES]; 5],
    [x, y, q]: [&[f32; LANES]; 3],
    x_lse: f32,
    y_lse: f32,
) {
    let fma = mul_add::<FUSED>;
    // ln 2 from the same function as the terms, so that equal rows cancel exactly.
    let ln_2 = twice_artanh::<FUSED>(THIRD);
    const THIRD: f32 = 1.0 / 3.0;
    // Below this, ln(1 + 2 v) is less than half a unit in the last place of ln 2, from which it is
    // subtracted, and its powers would be subnormal, which is slow.
    const LEAST: f32 = 5e-9;
    let (mut log_p, mut gap) = ([0.0f32; LANES], [0.0f32; LANES]);
    let (mut p, mut least, mut v) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
    for i in 0..LANES {
        log_p[i] = x[i] - x_lse;
        gap[i] = log_p[i] - (y[i] - y_lse);
    }
    for i in 0..LANES {
        p[i] = exp::<FUSED>(log_p[i]);
    }
    // ln(1 + u), where u is the smaller probability divided by the larger one, is
    // 2 artanh(u / (2 + u)): one division serves both.
    for i in 0..LANES {
        let (less, more) = if p[i] > q[i] { (q[i], p[i]) } else { (p[i], q[i]) };
        let share = less / fma(2.0, more, less);
        let share = if share < LEAST { LEAST } else { share };
        v[i] = if less == more { THIRD } else { share };
        least[i] = less;
    }
    for i in 0..LANES {
        // p (ln p - ln m) + q (ln q - ln m) with m = (p + q) / 2.
        let even = ln_2 - twice_artanh::<FUSED>(v[i]);
        lanes[4][i] += fma(p[i] + q[i], even, -(least[i] * gap[i].abs()));
    }
    for i in 0..LANES {
        lanes[0][i] += p[i];
        lanes[1][i] = fma(p[i], gap[i], lanes[1][i]);
        lanes[2][i] = fma(p[i], log_p[i], lanes[2][i]);
        lanes[3][i] = fma(q[i], gap[i], lanes[3][i]);
    }
}

multiversion! {
    /// The five sums of `add_terms` over whole rows.
    fn sums(x: &[f32], y: &[f32], q: &[f32], x_lse: f32, y_lse: f32) -> [f64; 5] {
        let mut totals = [[0.0; LANES]; 5];
        for ((xs, ys), qs) in x.chunks(BLOCK).zip(y.chunks(BLOCK)).zip(q.chunks(BLOCK)) {
            let mut lanes = [[0.0f32; LANES]; 5];
            let (xs, x_rest) = xs.as_chunks::<LANES>();
            let (ys, y_rest) = ys.as_chunks::<LANES>();
            let (qs, q_rest) = qs.as_chunks::<LANES>();
            for ((xs, ys), qs) in xs.iter().zip(ys).zip(qs) {
                add_terms::<FUSED>(&mut lanes, [xs, ys, qs], x_lse, y_lse);
            }
            if !x_rest.is_empty() {
                // Tokens of probability zero in both rows add nothing to any sum.
                let (mut xs, mut ys) = ([x_lse - 200.0; LANES], [y_lse - 200.0; LANES]);
                let mut qs = [0.0; LANES];
                xs[..x_rest.len()].copy_from_slice(x_rest);
                ys[..y_rest.len()].copy_from_slice(y_rest);
                qs[..q_rest.len()].copy_from_slice(q_rest);
                add_terms::<FUSED>(&mut lanes, [&xs, &ys, &qs], x_lse, y_lse);
            }
            for (total, lanes) in totals.iter_mut().zip(&lanes) {
                add_lanes(total, lanes);
            }
        }
        totals.map(|total| total.iter().sum())
    }
}

/// The square, or zero where it would be subnormal: subnormal arithmetic is slow.
#[inline(always)]
fn square(x: f32) -> f32 {
    const LEAST: f32 = 1.1e-19;
    let x = if x.abs() < LEAST { 0.0 } else { x };
    x * x
}

multiversion! {
    /// Sum of squared differences of the probabilities of a row from others.
    fn squared_distance(x: &[f32], q: &[f32], x_lse: f32) -> f64 {
        let mut total = [0.0; LANES];
        for (xs, qs) in x.chunks(BLOCK).zip(q.chunks(BLOCK)) {
            let mut lanes = [0.0f32; LANES];
            let (xs, x_rest) = xs.as_chunks::<LANES>();
            let (qs, q_rest) = qs.as_chunks::<LANES>();
            for (xs, qs) in xs.iter().zip(qs) {
                for i in 0..LANES {
                    lanes[i] += square(exp::<FUSED>(xs[i] - x_lse) - qs[i]);
                }
            }
            for ((x, q), lane) in x_rest.iter().zip(q_rest).zip(&mut lanes) {
                *lane += square(exp::<FUSED>(x - x_lse) - q);
            }
            add_lanes(&mut total, &lanes);
        }
        total.iter().sum()
    }
}

multiversion! {
    fn scaled(row: &mut [f32], lse: f32, scale: f32) {
        // Products with these must not be subnormal, which is slow.
        const LEAST: f32 = 1e-30;
        for x in row {
            let value = scale * exp::<FUSED>(*x - lse);
            *x = if value.abs() < LEAST { 0.0 } else { value };
        }
    }
}

/// Replaces a row of logits, given its normaliser, by `scale` times its distribution; values below
/// 1e-30 become zero.
pub fn scaled_softmax(row: &mut [f32], lse: f64, scale: f32) {
    scaled(row, lse as f32, scale);
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
            let got = Reference::new(Logits::new(&y)).divergence_of(&Logits::new(&x));
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
            let of = Reference::new(Logits::new(&y));
            let got = of.distance_to(&Logits::new(&x));
            assert_relative_eq!(got, want, max_relative = 1e-5, epsilon = 1e-6);
            prop_assert_eq!(of.distance_to(&Logits::new(&y)), 0.0);
        }

        #[test]
        fn scaled_distributions_agree_with_the_definition(x in prop::collection::vec(-40f32..40.0, 1..700)) {
            let (mut got, lse) = (x.clone(), log_sum_exp(&x));
            scaled_softmax(&mut got, lse, -0.3);
            for (got, x) in got.iter().zip(&x) {
                let want = -0.3 * (f64::from(*x) - lse).exp();
                // Values within the relative error of the threshold, 1e-30, may become zero.
                assert_relative_eq!(f64::from(*got), want, max_relative = 2e-5, epsilon = 1e-30 * (1.0 + 2e-5));
            }
        }

        #[test]
        fn the_largest_are_found(mut x in prop::collection::vec(-9i32..9, 5..900)) {
            let row: Vec<f32> = x.iter().map(|x| *x as f32).collect();
            let got = Logits::new(&row).top::<5>();
            prop_assert_eq!(Logits::new(&row[..2]).top::<3>()[2], u32::MAX);
            let mut order: Vec<u32> = (0..row.len() as u32).collect();
            order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
            prop_assert_eq!(&got[..], &order[..5]);
            x.clear();
        }
    }

    #[test]
    fn a_row_does_not_diverge_from_itself() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 1.37).sin() * 12.0).collect();
        let d = Reference::new(Logits::new(&x)).divergence_of(&Logits::new(&x));
        assert_eq!((d.kl, d.kl_reverse, d.jsd_bits), (0.0, 0.0, 0.0));
    }
}
