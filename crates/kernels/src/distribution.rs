//! Statistics of rows of logits: normalisers, divergences, most likely tokens.
//!
//! Exponentials are taken in `f32`, sums over the vocabulary in `f64`.

use crate::cpu::{mul_add, multiversion};
use crate::elementwise::{exp, exp_of_nonpositive, twice_artanh};

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

/// Writes `e^(x - max)` of the elements of a block, and returns their sums by lane.
#[inline(always)]
fn exponentials_of_block<const FUSED: bool>(x: &[f32], max: f32, terms: &mut [f32]) -> [f32; LANES] {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (term_chunks, term_rest) = terms.as_chunks_mut::<LANES>();
    for (chunk, terms) in chunks.iter().zip(term_chunks) {
        for i in 0..LANES {
            terms[i] = exp_of_nonpositive::<FUSED>(chunk[i] - max);
            lanes[i] += terms[i];
        }
    }
    for ((x, term), lane) in rest.iter().zip(term_rest).zip(&mut lanes) {
        *term = exp_of_nonpositive::<FUSED>(x - max);
        *lane += *term;
    }
    lanes
}

multiversion! {
    /// `sum e^(x - max)`.
    fn sum_exp(x: &[f32], max: f32) -> f64 {
        let (mut total, mut terms) = ([0.0; LANES], [0.0; BLOCK]);
        for block in x.chunks(BLOCK) {
            add_lanes(&mut total, &exponentials_of_block::<FUSED>(block, max, &mut terms[..block.len()]));
        }
        total.iter().sum()
    }
}

multiversion! {
    /// [`sum_exp`], which also writes its terms.
    fn exponentials(x: &[f32], max: f32, terms: &mut [f32]) -> f64 {
        let mut total = [0.0; LANES];
        for (block, terms) in x.chunks(BLOCK).zip(terms.chunks_mut(BLOCK)) {
            add_lanes(&mut total, &exponentials_of_block::<FUSED>(block, max, terms));
        }
        total.iter().sum()
    }
}

/// `ln sum e^x` of a row of logits.
pub fn log_sum_exp(row: &[f32]) -> f64 {
    let (_, max) = maxima(row);
    f64::from(max) + sum_exp(row, max).ln()
}

/// The largest logit of every [`BLOCK`], and of all.
fn maxima(row: &[f32]) -> (Vec<f32>, f32) {
    let mut maxima = vec![f32::NEG_INFINITY; row.len().div_ceil(BLOCK)];
    block_maxima(row, &mut maxima);
    let max = maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (maxima, max)
}

/// A row of logits and its distribution.
pub struct Softmax<'a> {
    row: &'a [f32],
    /// The largest logit of every [`BLOCK`].
    maxima: Vec<f32>,
    max: f32,
    /// `e^(x - max)`.
    exponentials: &'a [f32],
    /// Their sum.
    sum: f64,
}

impl<'a> Softmax<'a> {
    /// Computes the distribution of a row. `scratch` holds its exponentials, and may have any contents before.
    pub fn new(row: &'a [f32], scratch: &'a mut Vec<f32>) -> Self {
        let (maxima, max) = maxima(row);
        scratch.resize(row.len(), 0.0);
        let sum = exponentials(row, max, scratch);
        Self { row, maxima, max, exponentials: scratch, sum }
    }

    /// `ln sum e^x`; a logit minus this is a log-probability.
    pub fn log_sum_exp(&self) -> f64 {
        f64::from(self.max) + self.sum.ln()
    }

    /// What the exponentials are multiplied with to be probabilities.
    fn scale(&self) -> f32 {
        self.sum.recip() as f32
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

impl Softmax<'_> {
    /// Divergences of this distribution, p, from another, q. They are exactly zero for the same row.
    ///
    /// # Panics
    /// When the rows differ in length.
    pub fn divergence_from(&self, q: &Softmax<'_>) -> Divergence {
        assert_eq!(self.row.len(), q.row.len(), "the rows must be over one vocabulary");
        let (p_log_sum, q_log_sum) = (self.sum.ln(), q.sum.ln());
        let log_ratio = (p_log_sum - q_log_sum) as f32;
        let [p_gap, p_x, q_gap, jsd] = sums(self, q, log_ratio);
        let [p_total, q_total] = [self, q].map(|row| f64::from(row.scale()) * row.sum);
        // What rounding took from every gap.
        let rest = p_log_sum - q_log_sum - f64::from(log_ratio);
        // Rounding may give a divergence below zero; NaN must stay NaN.
        let least_zero = |kl: f64| if kl < 0.0 { 0.0 } else { kl };
        Divergence {
            kl: least_zero(p_gap / p_total - rest),
            kl_reverse: least_zero(rest - q_gap / q_total),
            jsd_bits: least_zero(0.5 * jsd / std::f64::consts::LN_2),
            entropy: p_log_sum - p_x / p_total,
        }
    }

    /// `|p - q|_2` of this distribution, p, and another, q.
    ///
    /// # Panics
    /// When the rows differ in length.
    pub fn distance_to(&self, q: &Softmax<'_>) -> f64 {
        assert_eq!(self.row.len(), q.row.len(), "the rows must be over one vocabulary");
        squared_distance(self.exponentials, q.exponentials, self.scale(), q.scale()).sqrt()
    }
}

/// What is constant along two rows.
#[derive(Clone, Copy)]
struct Constants {
    x_max: f32,
    y_max: f32,
    /// `ln sum e^(x - x_max)` less that of y.
    log_ratio: f32,
    /// Reciprocals of these sums.
    scales: [f32; 2],
}

/// Sixteen terms of every sum over the vocabulary, added to `lanes`: p (ln p - ln q), p (x - x_max), q (ln p - ln q), twice
/// the JSD in nats. `e` and `f` are the exponentials of `x - x_max` and `y - y_max`. Where the rows are close, so are x - x_max
/// and y - y_max, whose difference is exact.
///
/// One short loop per step, over arrays as long as one register, is the form that compilers vectorise.
#[inline(always)]
fn add_terms<const FUSED: bool>(
    lanes: &mut [[f32; LANES]; 4],
    [x, y, e, f]: [&[f32; LANES]; 4],
    Constants { x_max, y_max, log_ratio, scales }: Constants,
) {
    let fma = mul_add::<FUSED>;
    // ln 2 from the same function as the terms, so that equal rows cancel exactly.
    let ln_2 = twice_artanh::<FUSED>(THIRD);
    const THIRD: f32 = 1.0 / 3.0;
    // Below this, ln(1 + 2 v) is less than half a unit in the last place of ln 2, from which it is
    // subtracted, and its powers would be subnormal, which is slow.
    const LEAST: f32 = 5e-9;
    let (mut below, mut gap) = ([0.0f32; LANES], [0.0f32; LANES]);
    let (mut p, mut q) = ([0.0f32; LANES], [0.0f32; LANES]);
    let (mut least, mut v) = ([0.0f32; LANES], [0.0f32; LANES]);
    for i in 0..LANES {
        below[i] = x[i] - x_max;
        gap[i] = below[i] - (y[i] - y_max) - log_ratio;
        (p[i], q[i]) = (e[i] * scales[0], f[i] * scales[1]);
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
        lanes[3][i] += fma(p[i] + q[i], even, -(least[i] * gap[i].abs()));
    }
    for i in 0..LANES {
        lanes[0][i] = fma(p[i], gap[i], lanes[0][i]);
        lanes[1][i] = fma(p[i], below[i], lanes[1][i]);
        lanes[2][i] = fma(q[i], gap[i], lanes[2][i]);
    }
}

multiversion! {
    /// The sums of `add_terms` over whole rows.
    fn sums(p: &Softmax<'_>, q: &Softmax<'_>, log_ratio: f32) -> [f64; 4] {
        let constants = Constants { x_max: p.max, y_max: q.max, log_ratio, scales: [p.scale(), q.scale()] };
        let mut totals = [[0.0; LANES]; 4];
        let logits = p.row.chunks(BLOCK).zip(q.row.chunks(BLOCK));
        let exponentials = p.exponentials.chunks(BLOCK).zip(q.exponentials.chunks(BLOCK));
        for ((x, y), (e, f)) in logits.zip(exponentials) {
            let mut lanes = [[0.0f32; LANES]; 4];
            let [(x, x_rest), (y, y_rest), (e, e_rest), (f, f_rest)] = [x, y, e, f].map(<[f32]>::as_chunks::<LANES>);
            for ((x, y), (e, f)) in x.iter().zip(y).zip(e.iter().zip(f)) {
                add_terms::<FUSED>(&mut lanes, [x, y, e, f], constants);
            }
            if !x_rest.is_empty() {
                // Tokens of probability zero in both rows add nothing to any sum.
                let padded = |rest: &[f32], value: f32| {
                    let mut all = [value; LANES];
                    all[..rest.len()].copy_from_slice(rest);
                    all
                };
                let (x, y) = (padded(x_rest, p.max), padded(y_rest, q.max));
                let (e, f) = (padded(e_rest, 0.0), padded(f_rest, 0.0));
                add_terms::<FUSED>(&mut lanes, [&x, &y, &e, &f], constants);
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
    /// Sum of squared differences of `p_scale e` and `q_scale f`.
    fn squared_distance(e: &[f32], f: &[f32], p_scale: f32, q_scale: f32) -> f64 {
        let mut total = [0.0; LANES];
        for (e, f) in e.chunks(BLOCK).zip(f.chunks(BLOCK)) {
            let mut lanes = [0.0f32; LANES];
            let [(e, e_rest), (f, f_rest)] = [e, f].map(<[f32]>::as_chunks::<LANES>);
            for (e, f) in e.iter().zip(f) {
                for i in 0..LANES {
                    lanes[i] += square(e[i] * p_scale - f[i] * q_scale);
                }
            }
            for ((e, f), lane) in e_rest.iter().zip(f_rest).zip(&mut lanes) {
                *lane += square(e * p_scale - f * q_scale);
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
            let [mut p, mut q] = [vec![], vec![]];
            let got = Softmax::new(&x, &mut p).divergence_from(&Softmax::new(&y, &mut q));
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
            let [mut p, mut q, mut same] = [vec![], vec![], vec![]];
            let of = Softmax::new(&y, &mut q);
            let got = Softmax::new(&x, &mut p).distance_to(&of);
            assert_relative_eq!(got, want, max_relative = 1e-6, epsilon = 2e-7);
            prop_assert_eq!(of.distance_to(&Softmax::new(&y, &mut same)), 0.0);
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
            let [mut all, mut two] = [vec![], vec![]];
            let got = Softmax::new(&row, &mut all).top::<5>();
            prop_assert_eq!(Softmax::new(&row[..2], &mut two).top::<3>()[2], u32::MAX);
            let mut order: Vec<u32> = (0..row.len() as u32).collect();
            order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
            prop_assert_eq!(&got[..], &order[..5]);
            x.clear();
        }
    }

    /// Rows as long as a vocabulary, close to each other or far apart, with logits near zero or not.
    #[test]
    fn divergences_of_long_rows_agree_with_the_definitions() {
        for (spread, gap, shift) in
            [(6.0, 1.0, 0.0), (6.0, 0.1, -90.0), (6.0, 0.01, 0.0), (6.0, 0.001, 40.0), (60.0, 9.0, 0.0)]
        {
            let y: Vec<f32> = (0..50_003).map(|i| (i as f32 * 1.37).sin() * spread).collect();
            let x: Vec<f32> =
                y.iter().enumerate().map(|(i, y)| y + (i as f32 * 0.73).sin() * gap + shift).collect();
            let [mut p, mut q] = [vec![], vec![]];
            let got = Softmax::new(&x, &mut p).divergence_from(&Softmax::new(&y, &mut q));
            let want = exact(&x, &y);
            let numbers = |d: &Divergence| [d.kl, d.kl_reverse, d.jsd_bits, d.entropy];
            for (got, want) in numbers(&got).into_iter().zip(numbers(&want)) {
                assert_relative_eq!(got, want, max_relative = 2e-6, epsilon = 2e-7);
            }
        }
    }

    #[test]
    fn a_row_does_not_diverge_from_itself() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 1.37).sin() * 12.0).collect();
        let [mut p, mut q] = [vec![], vec![]];
        let d = Softmax::new(&x, &mut p).divergence_from(&Softmax::new(&x, &mut q));
        assert_eq!((d.kl, d.kl_reverse, d.jsd_bits), (0.0, 0.0, 0.0));
    }
}
