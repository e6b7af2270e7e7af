//! Exit heads: what the model would predict after some of its layers, beside what it predicts after all of them.
//!
//! At level l, `lens` is `W N(h_l)` and `linear` is `W N(h_l A_l + b_l)`, with the affine map of least squared error from
//! level l to the last one (arXiv 2303.09435), W the unembedding and N the final norm. Logits come to the host, where all
//! that is read of a row is read at once.

use crate::least_squares::{Fit, Fitted, Intercept, PENALTIES};
use fathom_kernels::distribution::{log_sum_exp, scaled_softmax};
use fathom_model::{Backend, Error, Model, Trace};
use rayon::prelude::*;

/// A map as a linear layer of the model's back end.
pub type PackedMap<B> = fathom_probes::LevelMap<B>;

/// Packs a fitted map.
///
/// # Errors
/// When the device refuses the memory.
pub fn pack<B: Backend>(model: &Model<B>, fitted: &Fitted) -> Result<PackedMap<B>, Error> {
    PackedMap::pack(model, fitted.map.transposed(), fitted.map.bias())
}

/// The maps from some levels to the last one, being fitted.
pub struct HeadFit {
    levels: Vec<usize>,
    fits: Vec<Fit>,
}

impl HeadFit {
    /// No texts yet, for a stream of width `d`.
    pub fn new(levels: &[usize], d: usize) -> Self {
        let fits = levels.iter().map(|_| Fit::new(d, d, Intercept::Fitted)).collect();
        Self { levels: levels.to_vec(), fits }
    }

    /// Adds the tokens of a clean run, without the first, whose norm is of another order.
    pub fn add<B: Backend>(&mut self, on: &B, trace: &Trace<B>) {
        let rows = |buffer: &B::Buffer| on.download(buffer, trace.hidden.min(on.len(buffer))..on.len(buffer));
        let last = trace.resid.last().map_or(Vec::new(), rows);
        for (level, fit) in self.levels.iter().zip(&mut self.fits) {
            fit.add(&rows(&trace.resid[*level]), &last);
        }
    }

    /// The maps, none where the problem has no solution.
    pub fn solve(&self) -> Vec<Option<Fitted>> {
        self.fits.iter().map(Fit::solve).collect()
    }

    /// Multiply-adds of adding a token to one level.
    pub fn macs_per_token(d: usize) -> u64 {
        2 * (d * d) as u64
    }

    /// Multiply-adds of solving for one level: a factorisation, a solution and an error for each penalty, then once for
    /// all texts.
    pub fn macs_of_solving(d: usize) -> u64 {
        let (penalties, cube) = (PENALTIES.len() as u64, (d as u64).pow(3));
        (penalties + 1) * cube * 7 / 6 + penalties * cube
    }
}

/// What is read of the prediction of a head at a token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadReading {
    /// The largest probability.
    pub prob: f64,
    /// The largest minus the second largest probability.
    pub margin: f64,
    /// The entropy, in nats.
    pub entropy: f64,
    /// Whether the most likely token is that of the whole model.
    pub agrees: bool,
    /// `-ln p` of the token that follows, in nats.
    pub nll: f64,
    /// `sum over tokens v of min(p_head(v), p(v))`.
    pub acceptance: f64,
}

/// The heads on a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeadReadings {
    /// The loss of the whole model, `[T - 1]`.
    pub nll: Vec<f64>,
    /// The lens, `[L][T - 1]`.
    pub lens: Vec<Vec<HeadReading>>,
    /// The linear heads, `[L][T - 1]`; levels without a map have no readings.
    pub linear: Vec<Vec<HeadReading>>,
}

/// Multiply-adds of [`read`] on a text of `tokens` tokens with that many maps.
pub fn macs<B: Backend>(model: &Model<B>, tokens: usize, maps: usize) -> u64 {
    let (rows, depth) = (tokens.saturating_sub(1) as u64, model.config().depth());
    let heads = (depth + maps + 1) as u64 * model.head_macs_per_row();
    rows * (heads + (maps * model.config().hidden.pow(2)) as u64)
}

/// Reads both heads at every level but the last, at every token that has a follower. `memory` bounds the bytes of logits.
pub fn read<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    maps: &[Option<PackedMap<B>>],
    memory: u64,
    on_progress: &dyn Fn(u64),
) -> HeadReadings {
    let (on, d, vocab) = (model.backend(), trace.hidden, model.config().vocab);
    let (depth, tokens) = (trace.depth(), trace.tokens.len().saturating_sub(1));
    let mapped: Vec<(usize, &PackedMap<B>)> =
        maps.iter().enumerate().filter_map(|(level, map)| Some((level, map.as_ref()?))).collect();
    // The whole model first, then the lens, then the maps.
    let group = 1 + depth + mapped.len();
    let bytes = (4 * group * vocab) as u64;
    let at_once = (memory / bytes.max(1)).clamp(1, tokens.max(1) as u64) as usize;
    let mut all = HeadReadings {
        nll: Vec::with_capacity(tokens),
        lens: vec![Vec::new(); depth],
        linear: vec![Vec::new(); maps.len()],
    };
    let (mut part, mut through) = (on.empty(), on.empty());
    let (mut rows, mut logits) = (on.empty(), on.empty());
    let positions: Vec<u32> = (0..tokens as u32).collect();
    for some in positions.chunks(at_once) {
        on.resize(&mut rows, some.len() * group * d);
        let to = |place: usize| (0..some.len()).map(|i| (i * group + place) as u32).collect::<Vec<u32>>();
        for (level, resid) in trace.resid.iter().enumerate() {
            on.gather(d, resid, some, &mut part);
            on.scatter(d, &part, &to((level + 1) % (depth + 1)), &mut rows);
            if let Some(place) = mapped.iter().position(|(mapped, _)| *mapped == level) {
                mapped[place].1.apply(on, &part, &mut through);
                on.scatter(d, &through, &to(1 + depth + place), &mut rows);
            }
        }
        model.head(&rows, &mut logits);
        let mut logits = on.download(&logits, 0..some.len() * group * vocab);
        let followers: Vec<usize> = some.iter().map(|t| trace.tokens[*t as usize + 1] as usize).collect();
        let read = |(logits, follower): (&mut [f32], &usize)| read_group(logits, vocab, *follower);
        let groups: Vec<(f64, Vec<HeadReading>)> =
            logits.par_chunks_mut(group * vocab).zip(&followers).map(read).collect();
        for (nll, readings) in groups {
            all.nll.push(nll);
            let (lens, linear) = readings.split_at(depth);
            all.lens.iter_mut().zip(lens).for_each(|(level, reading)| level.push(*reading));
            mapped.iter().zip(linear).for_each(|((level, _), reading)| all.linear[*level].push(*reading));
        }
        on_progress(macs(model, some.len() + 1, mapped.len()));
    }
    all
}

/// Reads rows of logits, the whole model's first. They are replaced by distributions.
fn read_group(logits: &mut [f32], vocab: usize, follower: usize) -> (f64, Vec<HeadReading>) {
    let (whole, heads) = logits.split_at_mut(vocab);
    let top = largest(whole)[0].0;
    let lse = log_sum_exp(whole);
    let nll = lse - f64::from(whole[follower]);
    scaled_softmax(whole, lse, 1.0);
    let read = |row: &mut [f32]| {
        let [first, second] = largest(row);
        let lse = log_sum_exp(row);
        let nll = lse - f64::from(row[follower]);
        let logits = row.to_vec();
        scaled_softmax(row, lse, 1.0);
        let probability = |logit: f32| (f64::from(logit) - lse).exp();
        HeadReading {
            prob: probability(first.1),
            margin: probability(first.1) - probability(second.1),
            entropy: lanes(row, &logits, |p, x| if p > 0.0 { p * (lse as f32 - x) } else { 0.0 }).max(0.0),
            agrees: first.0 == top,
            nll,
            acceptance: lanes(row, whole, |p, q| if p < q { p } else { q }),
        }
    };
    (nll, heads.chunks_mut(vocab).map(read).collect())
}

/// Elements that are summed or compared at a time.
const LANES: usize = 16;

/// The two largest elements with their places, the first of equal ones.
fn largest(row: &[f32]) -> [(usize, f32); 2] {
    const BLOCK: usize = 16 * LANES;
    let mut found = [(usize::MAX, f32::NEG_INFINITY); 2];
    for (block, elements) in row.chunks(BLOCK).enumerate() {
        // Most blocks have nothing that is larger, which is seen many elements at a time.
        let (chunks, rest) = elements.as_chunks::<LANES>();
        let mut most = [f32::NEG_INFINITY; LANES];
        for chunk in chunks {
            most.iter_mut().zip(chunk).for_each(|(most, x)| *most = if *x > *most { *x } else { *most });
        }
        if most.iter().chain(rest).all(|x| *x <= found[1].1) {
            continue;
        }
        for (i, x) in elements.iter().enumerate() {
            let place = (block * BLOCK + i, *x);
            if *x > found[0].1 {
                found = [place, found[0]];
            } else if *x > found[1].1 {
                found[1] = place;
            }
        }
    }
    found
}

/// The sum of a function over pairs of elements, in f64 and in a fixed order that processors can do many of at a time.
fn lanes(a: &[f32], b: &[f32], of: impl Fn(f32, f32) -> f32) -> f64 {
    let mut sums = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] += f64::from(of(a[i], b[i]));
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum += f64::from(of(*a, *b));
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_those_of_a_plain_softmax() {
        let vocab = 37;
        let logit =
            |i: usize, seed: usize| ((i * 31 + seed * 17) % 23) as f32 * 0.37 - ((i * seed) % 7) as f32;
        let mut logits: Vec<f32> = (0..3 * vocab).map(|i| logit(i % vocab, 1 + i / vocab)).collect();
        let softmax = |row: &[f32]| -> Vec<f64> {
            let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            row.iter().map(|x| f64::from(*x).exp() / sum).collect()
        };
        let p: Vec<Vec<f64>> = logits.chunks(vocab).map(softmax).collect();
        let (nll, readings) = read_group(&mut logits, vocab, 5);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 2e-6, "{a} {b}");
        close(nll, -p[0][5].ln());
        assert_eq!(readings.len(), 2);
        for (reading, q) in readings.iter().zip(&p[1..]) {
            let mut sorted = q.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            close(reading.prob, sorted[0]);
            close(reading.margin, sorted[0] - sorted[1]);
            close(reading.entropy, -q.iter().map(|q| q * q.ln()).sum::<f64>());
            close(reading.nll, -q[5].ln());
            close(reading.acceptance, q.iter().zip(&p[0]).map(|(a, b)| a.min(*b)).sum());
            let top = |p: &[f64]| (0..vocab).rev().max_by(|a, b| p[*a].total_cmp(&p[*b])).unwrap();
            assert_eq!(reading.agrees, top(q) == top(&p[0]));
        }
    }

    #[test]
    fn a_head_that_equals_the_model_is_always_accepted() {
        let row: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin() * 4.0).collect();
        let (nll, readings) = read_group(&mut [row.clone(), row].concat(), 50, 3);
        let reading = readings[0];
        assert!(reading.agrees && (reading.acceptance - 1.0).abs() < 1e-5);
        assert_eq!(reading.nll, nll);
        assert_eq!(largest(&[1.0, 3.0, 3.0]), [(1, 3.0), (2, 3.0)]);
    }
}
