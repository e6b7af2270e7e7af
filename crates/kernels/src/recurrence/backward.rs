//! The backward pass of a recurrence, over whole texts.

use super::forward::{Mixed, Step, add_outer, inverse_length, normalise, read, read_states, softplus};
use super::{OutputNorm, Recurrence, RecurrenceWeights, Rows, Update};
use crate::backend::{Place, Run};
use crate::backward::rms_row;
use crate::cpu::multiversion;
use crate::elementwise::sigmoid;
use rayon::prelude::*;

/// Positions between two states that are kept; those between are computed again.
const SEGMENT: usize = 32;

/// Partial sums of a reduction; fixed, so that results do not depend on the register width.
const LANES: usize = 16;

/// Fills `d_x` with the gradient of the rows from that of the outputs, where every run is a whole text.
///
/// # Shapes
/// `x`, `d_x [rows, width]`, `d_y [rows, values]`.
///
/// # Panics
/// When the lengths do not fit, or a run has a past.
pub fn backward(
    of: &Recurrence,
    weights: &RecurrenceWeights,
    runs: &[Run],
    x: &[f32],
    d_y: &[f32],
    d_x: &mut [f32],
) {
    assert!(runs.iter().all(|run| run.first == 0 && run.past.is_empty()), "a text is not whole");
    assert!(x.len() == d_x.len() && x.len() / of.width() * of.values() == d_y.len(), "lengths differ");
    let rows = Rows { of, runs, past: &[], x };
    let mixed = Mixed::new(&rows, weights, true);
    let mut d_states = vec![0.0; d_y.len()];
    read_states(&rows, weights, &mixed, &mut d_states);
    let outputs = d_states.par_chunks_exact_mut(of.values()).zip(d_y.par_chunks_exact(of.values()));
    let each = outputs.zip(d_x.par_chunks_exact_mut(of.width())).enumerate().with_min_len(4);
    each.for_each(|(row, ((y, d_y), d_x))| {
        finish_backward(of, weights, rows.gate(row), y, d_y, &mut d_x[..of.values()]);
    });
    for run in runs {
        let groups: Vec<KeyHead> = (0..of.key_heads)
            .into_par_iter()
            .map(|key_head| KeyHead::backward(&rows, weights, &mixed, run, key_head, &d_states))
            .collect();
        let mut d_qkv = vec![0.0; run.rows.len() * of.channels()];
        let part = &mut d_x[run.rows.start * of.width()..run.rows.end * of.width()];
        let each = d_qkv.par_chunks_exact_mut(of.channels()).zip(part.par_chunks_exact_mut(of.width()));
        each.enumerate().for_each(|(i, (d_qkv, d_x))| {
            groups.iter().enumerate().for_each(|(head, group)| group.place(of, head, i, d_qkv));
            let row = run.rows.start + i;
            before_mixing_backward(of, &mixed.convolved[row * of.channels()..][..of.channels()], d_qkv);
            let numbers = &rows.cached(Place::Row(row))[of.channels()..];
            let d_numbers = &mut d_x[of.values() + of.channels()..];
            factors_backward(of, weights, numbers, &mixed, row, (&groups, i), d_numbers);
        });
        part.par_chunks_exact_mut(of.width()).enumerate().for_each(|(i, d_x)| {
            convolve_backward(of, weights, &d_qkv, i, &mut d_x[of.values()..][..of.channels()]);
        });
    }
}

/// Turns the outputs `y` of the states into their gradients, in place, and fills that of the gate.
fn finish_backward(
    of: &Recurrence,
    weights: &RecurrenceWeights,
    gate: &[f32],
    y: &mut [f32],
    d_y: &[f32],
    d_gate: &mut [f32],
) {
    let states = y.to_vec();
    let by_gate = |d: &mut [f32]| d.iter_mut().zip(gate).for_each(|(d, z)| *d *= z * sigmoid(*z));
    y.copy_from_slice(d_y);
    match of.norm {
        OutputNorm::None => {
            silu_backward(gate, &states, d_y, d_gate);
            by_gate(y);
        }
        OutputNorm::BeforeGate => {
            let mut normed = states.clone();
            normalise(of, weights, &mut normed);
            silu_backward(gate, &normed, d_y, d_gate);
            by_gate(y);
            normalise_backward(of, weights, &states, y);
        }
        OutputNorm::BehindGate => {
            let mut gated = states.clone();
            by_gate(&mut gated);
            normalise_backward(of, weights, &gated, y);
            silu_backward(gate, &states, y, d_gate);
            by_gate(y);
        }
    }
}

/// Backward of [`normalise`], in place; `x` is what was normalised.
fn normalise_backward(of: &Recurrence, weights: &RecurrenceWeights, x: &[f32], d: &mut [f32]) {
    let parts = d.chunks_exact_mut(of.normed()).zip(x.chunks_exact(of.normed()));
    let factors = weights.norm.chunks_exact(of.normed()).cycle();
    parts.zip(factors).for_each(|((d, x), norm)| rms_row(x, norm, weights.eps, d));
}

/// The gradient of z in `factor silu(z)`.
fn silu_backward(z: &[f32], factor: &[f32], d: &[f32], d_z: &mut [f32]) {
    for (((out, z), factor), d) in d_z.iter_mut().zip(z).zip(factor).zip(d) {
        *out = d * factor * silu_slope(*z);
    }
}

fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}

/// The gradients of what the heads of one key head read, over one text of T positions.
struct KeyHead {
    /// `[T, key width]` each.
    d_query: Vec<f32>,
    d_key: Vec<f32>,
    /// `[T, value heads of it, value width]`.
    d_value: Vec<f32>,
    /// `[T, value heads of it]` each.
    d_decay: Vec<f32>,
    d_strength: Vec<f32>,
}

impl KeyHead {
    fn backward(
        rows: &Rows<'_>,
        weights: &RecurrenceWeights,
        mixed: &Mixed,
        run: &Run,
        key_head: usize,
        d_states: &[f32],
    ) -> Self {
        let (of, length) = (rows.of, run.rows.len());
        let heads = of.heads / of.key_heads;
        let mut all = Self {
            d_query: vec![0.0; length * of.key_width],
            d_key: vec![0.0; length * of.key_width],
            d_value: vec![0.0; length * heads * of.value_width],
            d_decay: vec![0.0; length * heads],
            d_strength: vec![0.0; length * heads],
        };
        for (i, head) in of.readers(key_head).enumerate() {
            let step = |position: usize| mixed.step(of, Place::Row(run.rows.start + position), head);
            let d_output = |position: usize| {
                &d_states[(run.rows.start + position) * of.values() + head * of.value_width..]
                    [..of.value_width]
            };
            let skip = weights.skip.get(head).copied().unwrap_or(0.0);
            in_reverse(of, length, step, |position, step, before, d_state| {
                let places = Places { position, head: i, heads, skip };
                all.step_backward(of, places, step, before, d_output(position), d_state);
            });
        }
        all
    }

    /// One position: from `d_state`, the gradient of the state after it by later positions, to that of the state
    /// `before` it, in place.
    fn step_backward(
        &mut self,
        of: &Recurrence,
        Places { position, head, heads, skip }: Places,
        step: &Step<'_>,
        before: &[f32],
        d_output: &[f32],
        d_state: &mut [f32],
    ) {
        let mut after = before.to_vec();
        let mut written = vec![0.0; of.value_width];
        step.write(of.update, &mut after, &mut written);
        let keys = position * of.key_width..(position + 1) * of.key_width;
        add_products(&after, d_output, &mut self.d_query[keys.clone()]);
        add_outer(step.query, d_output, d_state);
        let mut d_written = vec![0.0; of.value_width];
        read(step.key, d_state, &mut d_written);
        let d_key = &mut self.d_key[keys];
        add_products(d_state, &written, d_key);
        let at = position * heads + head;
        let d_value = &mut self.d_value[at * of.value_width..(at + 1) * of.value_width];
        let products = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        match of.update {
            Update::Delta => {
                // What the decayed state gives for the key, of which `written` is strength (value - given).
                let mut given = vec![0.0; of.value_width];
                read(step.key, before, &mut given);
                given.iter_mut().for_each(|x| *x *= step.decay);
                let missing: Vec<f32> = step.value.iter().zip(&given).map(|(v, m)| v - m).collect();
                self.d_strength[at] = products(&d_written, &missing);
                d_value.iter_mut().zip(&d_written).for_each(|(d, w)| *d = step.strength * w);
                let d_given: Vec<f32> = d_value.iter().map(|d| -d).collect();
                let decayed: Vec<f32> = d_given.iter().map(|d| step.decay * d).collect();
                add_products(before, &decayed, d_key);
                add_outer(step.key, &d_given, d_state);
            }
            Update::StateSpace => {
                self.d_strength[at] = products(&d_written, step.value);
                for ((d, w), o) in d_value.iter_mut().zip(&d_written).zip(d_output) {
                    *d = step.strength * w + skip * o;
                }
            }
        }
        self.d_decay[at] = d_state.iter().zip(before).map(|(d, s)| d * s).sum();
        d_state.iter_mut().for_each(|d| *d *= step.decay);
    }

    /// Writes the gradients of position `i` to their columns.
    fn place(&self, of: &Recurrence, key_head: usize, i: usize, d_qkv: &mut [f32]) {
        let keys = i * of.key_width..(i + 1) * of.key_width;
        let at = key_head * of.key_width;
        d_qkv[at..][..of.key_width].copy_from_slice(&self.d_query[keys.clone()]);
        d_qkv[of.keys() + at..][..of.key_width].copy_from_slice(&self.d_key[keys]);
        let (width, heads) = (of.value_width, of.heads / of.key_heads);
        for (place, head) in of.readers(key_head).enumerate() {
            d_qkv[2 * of.keys() + head * width..][..width]
                .copy_from_slice(&self.d_value[(i * heads + place) * width..][..width]);
        }
    }
}

/// A position, a value head among those of its key head, and the skip of the head.
struct Places {
    position: usize,
    head: usize,
    heads: usize,
    skip: f32,
}

/// Calls `visit` with each position from the last to the first, its step, the state before it, and the gradient of the
/// state behind it, which `visit` turns into that of the state before it.
fn in_reverse<'a>(
    of: &Recurrence,
    length: usize,
    step: impl Fn(usize) -> Step<'a>,
    mut visit: impl FnMut(usize, &Step<'a>, &[f32], &mut [f32]),
) {
    let mut written = vec![0.0; of.value_width];
    let mut state = vec![0.0; of.state()];
    let mut kept = Vec::with_capacity(length.div_ceil(SEGMENT));
    for position in 0..length {
        if position % SEGMENT == 0 {
            kept.push(state.clone());
        }
        step(position).write(of.update, &mut state, &mut written);
    }
    let mut d_state = vec![0.0; of.state()];
    for (segment, start) in kept.into_iter().enumerate().rev() {
        let positions = segment * SEGMENT..length.min((segment + 1) * SEGMENT);
        let mut before = vec![start];
        for position in positions.clone().take(positions.len() - 1) {
            let mut next = before[position - positions.start].clone();
            step(position).write(of.update, &mut next, &mut written);
            before.push(next);
        }
        for (position, before) in positions.zip(before).rev() {
            visit(position, &step(position), &before, &mut d_state);
        }
    }
}

/// Turns gradients of what the states read into those of what the convolution returned, in place: through the lengths of
/// queries and keys, and SiLU.
fn before_mixing_backward(of: &Recurrence, convolved: &[f32], d: &mut [f32]) {
    if of.update == Update::Delta {
        let scale = 1.0 / (of.key_width as f32).sqrt();
        let vectors = d[..2 * of.keys()].chunks_exact_mut(of.key_width);
        for (i, (d, x)) in vectors.zip(convolved.chunks_exact(of.key_width)).enumerate() {
            let activated: Vec<f32> = x.iter().map(|x| x * sigmoid(*x)).collect();
            let inverse = inverse_length(&activated);
            let along: f32 = activated.iter().zip(&*d).map(|(x, d)| x * d).sum::<f32>() * inverse * inverse;
            let factor = if i < of.key_heads { scale * inverse } else { inverse };
            d.iter_mut().zip(&activated).for_each(|(d, x)| *d = factor * (*d - x * along));
        }
    }
    d.iter_mut().zip(convolved).for_each(|(d, x)| *d *= silu_slope(*x));
}

/// The gradient of the numbers behind the values, of position `i` of a text, which is row `row`.
fn factors_backward(
    of: &Recurrence,
    weights: &RecurrenceWeights,
    numbers: &[f32],
    mixed: &Mixed,
    row: usize,
    (groups, i): (&[KeyHead], usize),
    d_numbers: &mut [f32],
) {
    let per_key = of.heads / of.key_heads;
    let (_, decays) = numbers.split_at(numbers.len() - of.heads);
    let (d_strengths, d_decays) = d_numbers.split_at_mut(numbers.len() - of.heads);
    for head in 0..of.heads {
        let place = if of.tiled { head / of.key_heads } else { head % per_key };
        let (group, at) = (&groups[of.key_of(head)], i * per_key + place);
        let (decay, strength) = (mixed.decay[row * of.heads + head], mixed.strength[row * of.heads + head]);
        let mut d_time = -weights.rate[head] * decay * group.d_decay[at];
        match of.update {
            Update::Delta => d_strengths[head] = group.d_strength[at] * strength * (1.0 - strength),
            Update::StateSpace => d_time += group.d_strength[at],
        }
        let x = decays[head] + weights.time_bias[head];
        d_decays[head] = if softplus(x) > of.least_time { d_time * sigmoid(x) } else { 0.0 };
    }
}

/// The gradient of the channels of position `i` from those behind the convolution, `[T, channels]`.
fn convolve_backward(of: &Recurrence, weights: &RecurrenceWeights, d: &[f32], i: usize, d_x: &mut [f32]) {
    d_x.fill(0.0);
    let later = d.chunks_exact(of.channels()).skip(i).take(of.taps);
    for (distance, d) in later.enumerate() {
        let tap = of.taps - 1 - distance;
        for ((out, d), weights) in d_x.iter_mut().zip(d).zip(weights.conv.chunks_exact(of.taps)) {
            *out += weights[tap] * d;
        }
    }
}

multiversion! {
    /// `out += state vector`.
    fn add_products(state: &[f32], vector: &[f32], out: &mut [f32]) {
        for (out, row) in out.iter_mut().zip(state.chunks_exact(vector.len())) {
            let mut lanes = [0.0f32; LANES];
            for (row, vector) in row.chunks(LANES).zip(vector.chunks(LANES)) {
                for ((lane, a), b) in lanes.iter_mut().zip(row).zip(vector) {
                    *lane += a * b;
                }
            }
            *out += lanes.iter().sum::<f32>();
        }
    }
}
