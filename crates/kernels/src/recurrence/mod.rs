//! Layers that mix positions by a recurrence instead of attention: the gated delta rule (arXiv 2412.06464) and the
//! state-space model of Mamba 2 (arXiv 2405.21060).
//!
//! A row holds a gate z, queries q, keys k, values v and two numbers per head that set how fast the state S, a matrix
//! `[key width, value width]` per head, decays and how strongly the row is written to it. q, k and v first pass a short
//! causal convolution and SiLU. With the decay g and, for the delta rule, the strength b:
//!
//! ```text
//! delta rule:     k, q <- k / |k|, q / (|q| sqrt(key width))
//!                 S <- g S;  S <- S + k (b (v - S^T k))^T;  y = S^T q
//! state space:    S <- g S + k (t v)^T;                     y = S^T q + skip v
//! g = exp(-rate t), t = softplus(a + time bias), b = sigmoid of the other number
//! ```
//!
//! Behind that y is multiplied by SiLU(z) and, before or after it, normalised: each head by itself for the delta rule, the
//! heads that share a key together for the state-space model.
//!
//! **Rows of earlier positions** need no saved state: what a row adds to the state is a function of its own q, k, v and
//! of those of the few rows that its convolution reads, so the state before a run is computed again from the cached rows.
//! One pass over them serves all runs of a batch. Every row is the same chain of operations whichever run it is in.

mod backward;
mod forward;
#[cfg(test)]
mod tests;

pub use backward::backward;
pub use forward::forward;

use crate::backend::{Place, Run, Span};

/// How the state is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// What the state already gives for the key is subtracted from the value (Qwen3-Next).
    Delta,
    /// The value is added, scaled by the time step (Mamba 2).
    StateSpace,
}

/// Whether outputs are normalised before they are multiplied by SiLU(z), or behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputNorm {
    /// They are not normalised (Falcon-H1).
    None,
    /// Before (Qwen3-Next).
    BeforeGate,
    /// Behind (Mamba 2).
    BehindGate,
}

/// The shape of a recurrence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recurrence {
    /// How the state is written.
    pub update: Update,
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Width of a head's query and key.
    pub key_width: usize,
    /// Heads of values, a multiple of those of keys.
    pub heads: usize,
    /// Width of a head's value.
    pub value_width: usize,
    /// Positions that the convolution reads, its own included.
    pub taps: usize,
    /// Whether the heads of values that share a key lie as far apart as there are keys (llama.cpp's order of Qwen3.5), and
    /// not beside each other.
    pub tiled: bool,
    /// Where outputs are normalised.
    pub norm: OutputNorm,
    /// The least time step t, to which smaller ones are raised.
    pub least_time: f32,
}

impl Recurrence {
    /// Width of all queries, and of all keys.
    pub fn keys(&self) -> usize {
        self.key_heads * self.key_width
    }

    /// Width of all values, and of the output.
    pub fn values(&self) -> usize {
        self.heads * self.value_width
    }

    /// Numbers that pass the convolution: queries, keys, values.
    pub fn channels(&self) -> usize {
        2 * self.keys() + self.values()
    }

    /// Numbers per head behind the values: for the delta rule that of the strength, then that of the decay.
    pub fn numbers(&self) -> usize {
        match self.update {
            Update::Delta => 2,
            Update::StateSpace => 1,
        }
    }

    /// Width of the part of a row that later rows depend on: all but the gate.
    pub fn cached(&self) -> usize {
        self.channels() + self.numbers() * self.heads
    }

    /// Width of a row: z, q, k, v, and the numbers per head, strengths before decays.
    pub fn width(&self) -> usize {
        self.values() + self.cached()
    }

    /// Multiply-adds of the convolution and the state for a row: reading the state for the key (delta rule), writing it,
    /// reading it for the query.
    pub fn macs(&self) -> u64 {
        let passes = match self.update {
            Update::Delta => 3,
            Update::StateSpace => 2,
        };
        (self.channels() * self.taps + passes * self.heads * self.key_width * self.value_width) as u64
    }

    /// The head of queries and keys that a head of values reads.
    fn key_of(&self, head: usize) -> usize {
        if self.tiled { head % self.key_heads } else { head * self.key_heads / self.heads }
    }

    /// The heads of values that read a head of queries and keys.
    fn readers(&self, key_head: usize) -> impl Iterator<Item = usize> {
        let count = self.heads / self.key_heads;
        let [first, step] = if self.tiled { [key_head, self.key_heads] } else { [key_head * count, 1] };
        (0..count).map(move |i| first + i * step)
    }

    /// Width of what is normalised together.
    fn normed(&self) -> usize {
        match self.update {
            Update::Delta => self.value_width,
            Update::StateSpace => self.values() / self.key_heads,
        }
    }

    /// Elements of a head's state.
    fn state(&self) -> usize {
        self.key_width * self.value_width
    }
}

/// The parameters of a recurrence.
#[derive(Clone, Debug, PartialEq)]
pub struct RecurrenceWeights {
    /// The convolution, `[channels, taps]`, the last tap on the row itself.
    pub conv: Vec<f32>,
    /// Added behind the convolution, `[channels]`.
    pub conv_bias: Option<Vec<f32>>,
    /// The rate of decay, `[heads]`, positive.
    pub rate: Vec<f32>,
    /// Added to the number of the decay, `[heads]`.
    pub time_bias: Vec<f32>,
    /// The share of the value that is added to the output, `[heads]`; only for the state-space model.
    pub skip: Vec<f32>,
    /// Factors of the norm: `[value width]` for the delta rule, `[values]` for the state-space model; empty without one.
    pub norm: Vec<f32>,
    /// Added to the mean square in the norm.
    pub eps: f32,
}

/// What is added to the square of a key's or query's length.
const LENGTH_EPS: f32 = 1e-6;

/// Where the state before a run is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Start {
    /// The text begins.
    Zero,
    /// The state after the given number of positions of the cache.
    Cache(usize),
    /// The state after a row of the batch.
    Row(usize),
}

fn start(run: &Run) -> Start {
    let last = run.past.iter().rfind(|span| !span.range().is_empty());
    match last {
        None => Start::Zero,
        Some(Span::Cache(positions)) => Start::Cache(positions.end),
        Some(Span::Rows(rows)) => Start::Row(rows.end - 1),
    }
}

/// The rows of a batch and of its cache.
#[derive(Clone, Copy)]
struct Rows<'a> {
    of: &'a Recurrence,
    runs: &'a [Run],
    /// `[positions, cached]`.
    past: &'a [f32],
    /// `[rows, width]`.
    x: &'a [f32],
}

impl<'a> Rows<'a> {
    /// What later rows depend on: queries, keys, values, and the numbers per head.
    fn cached(&self, place: Place) -> &'a [f32] {
        let (width, cached) = (self.of.width(), self.of.cached());
        match place {
            Place::Row(row) => &self.x[row * width + self.of.values()..(row + 1) * width],
            Place::Cache(position) => &self.past[position * cached..(position + 1) * cached],
        }
    }

    fn gate(&self, row: usize) -> &'a [f32] {
        &self.x[row * self.of.width()..][..self.of.values()]
    }

    /// Positions of the cache that the state of some run depends on.
    fn cache_used(&self) -> usize {
        let spans = self.runs.iter().flat_map(|run| &run.past);
        let ends = spans.map(|span| match span {
            Span::Cache(positions) => positions.end,
            Span::Rows(_) => 0,
        });
        ends.max().unwrap_or(0)
    }
}
