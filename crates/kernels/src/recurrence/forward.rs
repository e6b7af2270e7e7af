//! The forward pass of a recurrence.

use super::{LENGTH_EPS, OutputNorm, Recurrence, RecurrenceWeights, Rows, Start, Update, start};
use crate::backend::{Place, Run};
use crate::cpu::{mul_add, multiversion};
use crate::elementwise::{sigmoid, silu_in_place};
use crate::norm::rms_row;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Fills `y [rows, values]` with the gated outputs of the rows of a batch.
///
/// # Shapes
/// `past [positions, cached]`, the rows that [`Span::Cache`](crate::backend::Span) refers to, from the first position of
/// the text on; `x [rows, width]`.
///
/// # Panics
/// When the lengths do not fit.
pub fn forward(
    of: &Recurrence,
    weights: &RecurrenceWeights,
    runs: &[Run],
    past: &[f32],
    x: &[f32],
    y: &mut [f32],
) {
    let rows = Rows { of, runs, past, x };
    assert_eq!(x.len() / of.width() * of.values(), y.len(), "the output has another number of rows");
    let mixed = Mixed::new(&rows, weights, false);
    read_states(&rows, weights, &mixed, y);
    let each = y.par_chunks_exact_mut(of.values()).enumerate().with_min_len(8);
    each.for_each(|(row, y)| finish(of, weights, rows.gate(row), y));
}

/// Queries, keys and values behind the convolution, normalised for the delta rule, and the numbers per head as factors.
/// Positions of the cache come before the rows.
pub(super) struct Mixed {
    /// Positions of the cache.
    pub(super) cache: usize,
    /// Before SiLU, `[cache + rows, channels]`; only where the backward pass asks for it.
    pub(super) convolved: Vec<f32>,
    /// `[cache + rows, channels]`.
    pub(super) qkv: Vec<f32>,
    /// Decays, `[cache + rows, heads]`.
    pub(super) decay: Vec<f32>,
    /// Strengths of the delta rule or time steps, `[cache + rows, heads]`.
    pub(super) strength: Vec<f32>,
}

impl Mixed {
    /// `keep` asks for the result of the convolution as well.
    pub(super) fn new(rows: &Rows<'_>, weights: &RecurrenceWeights, keep: bool) -> Self {
        let (of, cache) = (rows.of, rows.cache_used());
        let count = cache + rows.x.len() / of.width();
        let mut qkv = vec![0.0; count * of.channels()];
        let before = Self::before(rows, cache);
        let each = qkv.par_chunks_exact_mut(of.channels()).enumerate().with_min_len(4);
        each.for_each(|(i, out)| {
            let earlier: Vec<&[f32]> = before[i].iter().map(|p| &rows.cached(*p)[..of.channels()]).collect();
            convolve(&weights.conv, weights.conv_bias.as_deref(), &earlier, out);
        });
        let convolved = if keep { qkv.clone() } else { Vec::new() };
        let (mut decay, mut strength) = (vec![0.0; count * of.heads], vec![0.0; count * of.heads]);
        let numbers = decay.par_chunks_exact_mut(of.heads).zip(strength.par_chunks_exact_mut(of.heads));
        let each = qkv.par_chunks_exact_mut(of.channels()).zip(numbers).enumerate().with_min_len(4);
        each.for_each(|(i, (qkv, (decay, strength)))| {
            silu_in_place(qkv);
            if of.update == Update::Delta {
                normalise_keys(of, qkv);
            }
            let place = if i < cache { Place::Cache(i) } else { Place::Row(i - cache) };
            factors(of, weights, &rows.cached(place)[of.channels()..], decay, strength);
        });
        Self { cache, convolved, qkv, decay, strength }
    }

    /// The rows that the convolution of each row reads, the row itself last; fewer where the text begins.
    fn before(rows: &Rows<'_>, cache: usize) -> Vec<Vec<Place>> {
        let taps = rows.of.taps;
        let of_cache = (0..cache).map(|p| ((p + 1).saturating_sub(taps)..=p).map(Place::Cache).collect());
        let of_run = |run: &Run| -> Vec<Vec<Place>> {
            let window = |i: usize| {
                let position = run.first + i;
                let window = (position + 1).saturating_sub(taps)..=position;
                window.map(|p| run.place(p)).collect()
            };
            (0..run.rows.len()).map(window).collect()
        };
        of_cache.chain(rows.runs.iter().flat_map(of_run)).collect()
    }

    /// The index of a place.
    fn at(&self, place: Place) -> usize {
        match place {
            Place::Cache(position) => position,
            Place::Row(row) => self.cache + row,
        }
    }

    pub(super) fn step(&self, of: &Recurrence, place: Place, head: usize) -> Step<'_> {
        let at = self.at(place);
        let (qkv, key) = (&self.qkv[at * of.channels()..][..of.channels()], of.key_of(head));
        Step {
            query: &qkv[key * of.key_width..][..of.key_width],
            key: &qkv[of.keys() + key * of.key_width..][..of.key_width],
            value: &qkv[2 * of.keys() + head * of.value_width..][..of.value_width],
            decay: self.decay[at * of.heads + head],
            strength: self.strength[at * of.heads + head],
        }
    }
}

/// What one position does to the state of one head.
pub(super) struct Step<'a> {
    pub(super) query: &'a [f32],
    pub(super) key: &'a [f32],
    pub(super) value: &'a [f32],
    pub(super) decay: f32,
    pub(super) strength: f32,
}

impl Step<'_> {
    /// Updates the state `[key width, value width]`; `written` receives what is added for a key of 1.
    pub(super) fn write(&self, update: Update, state: &mut [f32], written: &mut [f32]) {
        match update {
            Update::Delta => {
                decay_and_read(self.decay, self.key, state, written);
                for (w, v) in written.iter_mut().zip(self.value) {
                    *w = self.strength * (v - *w);
                }
            }
            Update::StateSpace => {
                state.iter_mut().for_each(|s| *s *= self.decay);
                written.iter_mut().zip(self.value).for_each(|(w, v)| *w = self.strength * v);
            }
        }
        add_outer(self.key, written, state);
    }
}

/// Fills `y` with what the states give for the queries.
pub(super) fn read_states(rows: &Rows<'_>, weights: &RecurrenceWeights, mixed: &Mixed, y: &mut [f32]) {
    let of = rows.of;
    let starts: Vec<Start> = rows.runs.iter().map(start).collect();
    let wanted: BTreeSet<Start> = starts.iter().copied().collect();
    let heads: Vec<Vec<f32>> = (0..of.heads)
        .into_par_iter()
        .map(|head| Head { rows, weights, mixed, head }.outputs(&starts, &wanted))
        .collect();
    y.par_chunks_exact_mut(of.values()).enumerate().for_each(|(row, y)| {
        for (out, head) in y.chunks_exact_mut(of.value_width).zip(&heads) {
            out.copy_from_slice(&head[row * of.value_width..][..of.value_width]);
        }
    });
}

/// One head of all runs.
struct Head<'a> {
    rows: &'a Rows<'a>,
    weights: &'a RecurrenceWeights,
    mixed: &'a Mixed,
    head: usize,
}

impl Head<'_> {
    /// The outputs of all rows, `[rows, value width]`.
    fn outputs(&self, starts: &[Start], wanted: &BTreeSet<Start>) -> Vec<f32> {
        let of = self.rows.of;
        let mut written = vec![0.0; of.value_width];
        let mut known = self.states_of_cache(wanted, &mut written);
        let mut y = vec![0.0; self.rows.x.len() / of.width() * of.value_width];
        for (run, start) in self.rows.runs.iter().zip(starts) {
            let mut state = known.get(start).expect("runs come after those that they start from").clone();
            for row in run.rows.clone() {
                let step = self.mixed.step(of, Place::Row(row), self.head);
                step.write(of.update, &mut state, &mut written);
                let out = &mut y[row * of.value_width..][..of.value_width];
                read(step.query, &state, out);
                if of.update == Update::StateSpace {
                    let skip = self.weights.skip[self.head];
                    out.iter_mut().zip(step.value).for_each(|(y, v)| *y += skip * v);
                }
                if wanted.contains(&Start::Row(row)) {
                    known.insert(Start::Row(row), state.clone());
                }
            }
        }
        y
    }

    /// The empty state, and those after some numbers of positions of the cache.
    fn states_of_cache(&self, wanted: &BTreeSet<Start>, written: &mut [f32]) -> BTreeMap<Start, Vec<f32>> {
        let of = self.rows.of;
        let mut state = vec![0.0; of.state()];
        let mut known = BTreeMap::from([(Start::Zero, state.clone())]);
        let mut next = 0;
        for wanted in wanted {
            let Start::Cache(positions) = *wanted else { continue };
            for position in next..positions {
                let step = self.mixed.step(of, Place::Cache(position), self.head);
                step.write(of.update, &mut state, written);
            }
            next = positions;
            known.insert(*wanted, state.clone());
        }
        known
    }
}

/// The norm and the gate, in place.
fn finish(of: &Recurrence, weights: &RecurrenceWeights, gate: &[f32], y: &mut [f32]) {
    let by_gate = |y: &mut [f32]| y.iter_mut().zip(gate).for_each(|(y, z)| *y *= z * sigmoid(*z));
    match of.norm {
        OutputNorm::None => by_gate(y),
        OutputNorm::BeforeGate => {
            normalise(of, weights, y);
            by_gate(y);
        }
        OutputNorm::BehindGate => {
            by_gate(y);
            normalise(of, weights, y);
        }
    }
}

/// Normalises the parts of a row of outputs. The delta rule has the same factors for all of them.
pub(super) fn normalise(of: &Recurrence, weights: &RecurrenceWeights, y: &mut [f32]) {
    let factors = weights.norm.chunks_exact(of.normed()).cycle();
    y.chunks_exact_mut(of.normed()).zip(factors).for_each(|(y, norm)| rms_row(y, norm, weights.eps));
}

/// The convolution of one row: `out[c] = bias[c] + sum_t weights[c, t] x[t, c]`, the last of `x` on the last tap.
fn convolve(weights: &[f32], bias: Option<&[f32]>, x: &[&[f32]], out: &mut [f32]) {
    let taps = weights.len() / out.len();
    let skipped = taps - x.len();
    for (c, (out, weights)) in out.iter_mut().zip(weights.chunks_exact(taps)).enumerate() {
        let sum = x.iter().zip(&weights[skipped..]).map(|(x, w)| w * x[c]).sum::<f32>();
        *out = sum + bias.map_or(0.0, |bias| bias[c]);
    }
}

/// Queries and keys of length one, queries divided by the root of their width.
fn normalise_keys(of: &Recurrence, qkv: &mut [f32]) {
    let scale = 1.0 / (of.key_width as f32).sqrt();
    let (queries, rest) = qkv.split_at_mut(of.keys());
    for (vectors, scale) in [(queries, scale), (&mut rest[..of.keys()], 1.0)] {
        for vector in vectors.chunks_exact_mut(of.key_width) {
            let factor = scale * inverse_length(vector);
            vector.iter_mut().for_each(|x| *x *= factor);
        }
    }
}

pub(super) fn inverse_length(vector: &[f32]) -> f32 {
    1.0 / (vector.iter().map(|x| x * x).sum::<f32>() + LENGTH_EPS).sqrt()
}

/// The decays and the strengths of all heads from the numbers behind the values.
fn factors(
    of: &Recurrence,
    weights: &RecurrenceWeights,
    numbers: &[f32],
    decay: &mut [f32],
    strength: &mut [f32],
) {
    let (strengths, decays) = numbers.split_at(numbers.len() - of.heads);
    for head in 0..of.heads {
        let time = softplus(decays[head] + weights.time_bias[head]).max(of.least_time);
        decay[head] = (-weights.rate[head] * time).exp();
        strength[head] = match of.update {
            Update::Delta => sigmoid(strengths[head]),
            Update::StateSpace => time,
        };
    }
}

pub(super) fn softplus(x: f32) -> f32 {
    // As in PyTorch, where the exponential would only add rounding.
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

multiversion! {
    /// `state *= decay`, and `read = state^T key`.
    pub(super) fn decay_and_read(decay: f32, key: &[f32], state: &mut [f32], read: &mut [f32]) {
        read.fill(0.0);
        for (row, k) in state.chunks_exact_mut(read.len()).zip(key) {
            for (s, r) in row.iter_mut().zip(read.iter_mut()) {
                *s *= decay;
                *r = mul_add::<FUSED>(*s, *k, *r);
            }
        }
    }
}

multiversion! {
    /// `state += key written^T`.
    pub(super) fn add_outer(key: &[f32], written: &[f32], state: &mut [f32]) {
        for (row, k) in state.chunks_exact_mut(written.len()).zip(key) {
            for (s, w) in row.iter_mut().zip(written) {
                *s = mul_add::<FUSED>(*k, *w, *s);
            }
        }
    }
}

multiversion! {
    /// `out = state^T query`.
    pub(super) fn read(query: &[f32], state: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        for (row, q) in state.chunks_exact(out.len()).zip(query) {
            for (o, s) in out.iter_mut().zip(row) {
                *o = mul_add::<FUSED>(*q, *s, *o);
            }
        }
    }
}
