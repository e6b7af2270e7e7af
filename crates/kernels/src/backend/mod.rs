//! The operations of a model and its probes, as a device provides them.
//!
//! Activations stay on the device in buffers. What a probe needs to know of them is reduced there, and
//! [`Backend::read`] returns the numbers. Operations may run asynchronously, in the order of the calls;
//! reading waits for them.
//!
//! # Conventions
//! Matrices are row-major. An operation that fills a buffer (`out`, `y`, `to` and so on) sets its length
//! first. Operations panic when lengths do not fit, with [`OutOfMemory`] as the payload when the device
//! refuses memory, and with [`DeviceError`] when it fails.

mod cpu;

use crate::attention::{AttentionShape, HeadBias};
use crate::elementwise::{Activation, Rotation};
use crate::memory::OutOfMemory;
use crate::norm::NormKind;
use crate::{Dtype, QuantBlocks};
pub use cpu::{Cpu, CpuBatch};
use std::borrow::Cow;
use std::ops::Range;

/// A device failed, or cannot run what it was given. Operations panic with this as the payload, because
/// nothing that was computed can be used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceError(pub String);

impl std::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DeviceError {}

/// Where the keys and values of positions before a run are stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Span {
    /// Positions of the KV cache.
    Cache(Range<usize>),
    /// Other rows of the same batch.
    Rows(Range<usize>),
}

impl Span {
    /// Its positions or rows.
    pub(crate) fn range(&self) -> &Range<usize> {
        match self {
            Self::Cache(range) | Self::Rows(range) => range,
        }
    }
}

/// A row of the batch or a position of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Row(usize),
    Cache(usize),
}

/// Rows of consecutive positions of one text.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Position of the first row.
    pub first: usize,
    /// Length of the whole text, which some rotary scalings depend on.
    pub length: usize,
    /// Keys and values of positions `0..first`, in order.
    pub past: Vec<Span>,
}

impl Run {
    /// Where a position of the run's text is.
    ///
    /// # Panics
    /// When the past lacks it.
    pub(crate) fn place(&self, position: usize) -> Place {
        if position >= self.first {
            return Place::Row(self.rows.start + position - self.first);
        }
        let mut end = self.first;
        for span in self.past.iter().rev() {
            let range = span.range();
            let first = end - range.len();
            if position >= first {
                let at = range.start + position - first;
                return match span {
                    Span::Cache(_) => Place::Cache(at),
                    Span::Rows(_) => Place::Row(at),
                };
            }
            end = first;
        }
        unreachable!("the past of a run has all positions before it")
    }
}

/// A part of every row of a matrix, seen as `count` vectors of `width` elements from column `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Elements of a whole row.
    pub stride: usize,
    /// The first column.
    pub start: usize,
    /// Elements of a vector.
    pub width: usize,
    /// Vectors per row.
    pub count: usize,
}

impl Columns {
    /// Whole rows of `width` elements.
    pub fn whole(width: usize) -> Self {
        Self { stride: width, start: 0, width, count: 1 }
    }
}

/// A norm and its weights.
pub struct Norm<B: Backend> {
    /// Factors, `[width]`.
    pub weight: B::Buffer,
    /// Added after the multiplication, `[width]`; only for [`NormKind::Layer`].
    pub bias: Option<B::Buffer>,
    /// Added to the mean square or the variance.
    pub eps: f32,
    /// The kind.
    pub kind: NormKind,
}

/// The shape and the size of a linear layer.
pub trait LinearLayer: Send + Sync {
    /// Outputs per row, n.
    fn outputs(&self) -> usize;
    /// Inputs per row, k.
    fn inputs(&self) -> usize;
    /// Number of weights and biases.
    fn parameters(&self) -> usize;
    /// Bytes of the weights in the memory of the device.
    fn bytes(&self) -> usize;
}

/// An edit of one row of a matrix.
pub struct RowEdit<'a, T> {
    /// The row.
    pub row: usize,
    /// What happens to it.
    pub action: RowAction<'a, T>,
}

/// What an edit does to a row. Values are a row of another matrix of the same width.
pub enum RowAction<'a, T> {
    /// Sets the row to zero.
    Zero,
    /// Multiplies the row.
    Scale(f32),
    /// Replaces the row by row `.1` of `.0`.
    Replace(&'a T, usize),
    /// Adds row `.1` of `.0`.
    Add(&'a T, usize),
    /// Subtracts row `.1` of `.0`.
    Subtract(&'a T, usize),
}

impl<T> Clone for RowAction<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for RowAction<'_, T> {}

/// How much work a device takes at a time before more of it no longer pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Rows of clean runs.
    pub clean_rows: usize,
    /// Rows of edited runs.
    pub rows: usize,
    /// Bytes of logits.
    pub logit_bytes: u64,
    /// Rows of logits, for small vocabularies.
    pub logit_rows: u64,
    /// Rows of a backward pass.
    pub saved_rows: usize,
}

/// Sums per row that [`Backend::contribution_sums`] returns, in order, with `mid = h + a` and `D = a + m`:
/// `h.h`, `mid.mid`, `a.a`, `m.m`, `D.D`, `a.h`, `m.mid`, `D.h`.
pub const CONTRIBUTION_SUMS: usize = 8;

/// Numbers per row that [`Backend::lens`] returns, in order: `KL(p || q)` and `KL(q || p)` in nats, the
/// Jensen-Shannon divergence in bits, the entropy of p in nats, the number of common tokens among the
/// [`TOP`] most likely, 1 where the most likely tokens agree, 0 elsewhere, and the log-probability of a given token in
/// nats.
pub const LENS_NUMBERS: usize = 7;

/// The number of most likely tokens that [`Backend::lens`] compares.
pub const TOP: usize = 5;

/// A device that runs models.
pub trait Backend: Send + Sync + Sized + 'static {
    /// Floats in the memory of the device.
    type Buffer: Send + Sync;
    /// `y = x W^T + b` with `W [n, k]`, weights packed.
    type Linear: LinearLayer;
    /// Runs with their rotary tables, ready for attention.
    type Batch: Send + Sync;
    /// Numbers on their way to the host.
    type Numbers: Send;

    /// Whether [`Self::row`] reads weights fast enough for look-ups of embeddings.
    const READS_ROWS: bool;

    /// The name of the device, as results give it.
    fn name(&self) -> String;

    /// Bytes of memory of the device; `None` where it is the host's or unknown.
    fn memory(&self) -> Option<u64> {
        None
    }

    /// How much work pays at a time.
    fn limits(&self) -> BatchLimits;

    /// Waits for all operations.
    fn wait(&self);

    /// Multiply-adds per second on registers alone, for products of weights of `dtype`: the best of some
    /// rounds of about 10 ms.
    fn peak(&self, dtype: Dtype, rounds: usize) -> f64;

    // Buffers

    /// An empty buffer.
    fn empty(&self) -> Self::Buffer;

    /// Elements of a buffer.
    fn len(&self, buffer: &Self::Buffer) -> usize;

    /// Sets the length of a buffer, whose contents are then unspecified. Memory is kept when a buffer
    /// shrinks.
    ///
    /// # Errors
    /// When the device refuses the memory. The buffer is then empty.
    fn try_resize(&self, buffer: &mut Self::Buffer, len: usize) -> Result<(), OutOfMemory>;

    /// [`Self::try_resize`] where the caller cannot go on without.
    ///
    /// # Panics
    /// With [`OutOfMemory`] as the payload when the device refuses the memory.
    fn resize(&self, buffer: &mut Self::Buffer, len: usize) {
        self.try_resize(buffer, len).unwrap_or_else(|error| std::panic::panic_any(error));
    }

    /// Fills a buffer from the host.
    fn upload(&self, values: &[f32], to: &mut Self::Buffer);

    /// A new buffer with values from the host.
    fn buffer_of(&self, values: &[f32]) -> Self::Buffer {
        let mut buffer = self.empty();
        self.upload(values, &mut buffer);
        buffer
    }

    /// Elements of a buffer, read to the host.
    fn download(&self, from: &Self::Buffer, part: Range<usize>) -> Vec<f32>;

    /// All elements of a buffer on the host, borrowed where that is the device.
    fn on_host<'a>(&self, buffer: &'a Self::Buffer) -> Cow<'a, [f32]> {
        Cow::Owned(self.download(buffer, 0..self.len(buffer)))
    }

    /// A new buffer with a part of another, of exactly that size.
    fn copy(&self, from: &Self::Buffer, part: Range<usize>) -> Self::Buffer;

    /// Makes `to` a copy of `from`.
    fn assign(&self, from: &Self::Buffer, to: &mut Self::Buffer);

    /// Rows `rows` of `from [_, width]`: `to[i] = from[rows[i]]`.
    ///
    /// # Shapes
    /// `to [rows, width]`.
    fn gather(&self, width: usize, from: &Self::Buffer, rows: &[u32], to: &mut Self::Buffer);

    /// Writes rows of `from [rows, width]` to rows of `to [_, width]`: `to[rows[i]] = from[i]`. The rows
    /// differ.
    fn scatter(&self, width: usize, from: &Self::Buffer, rows: &[u32], to: &mut Self::Buffer);

    /// A new buffer with the given columns of rows `rows` of `from`, `[rows, columns.count * columns.width]`.
    fn copy_columns(&self, columns: Columns, from: &Self::Buffer, rows: Range<usize>) -> Self::Buffer;

    // Linear layers

    /// Packs `n` rows of `k` weights, as [`Linear::pack`](crate::Linear::pack).
    ///
    /// # Errors
    /// The first error of `fill`, or [`OutOfMemory`].
    fn pack<E: Send + From<OutOfMemory>>(
        &self,
        n: usize,
        k: usize,
        dtype: Dtype,
        bias: Option<Vec<f32>>,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Self::Linear, E>;

    /// Packs quantised weights, as [`Linear::pack_quantised`](crate::Linear::pack_quantised).
    ///
    /// # Errors
    /// As [`Self::pack`].
    fn pack_quantised<E: Send + From<OutOfMemory>>(
        &self,
        n: usize,
        k: usize,
        columns: usize,
        dtype: Dtype,
        bias: Option<Vec<f32>>,
        fill: impl Fn(Range<usize>, QuantBlocks<'_>) -> Result<(), E> + Sync,
    ) -> Result<Self::Linear, E>;

    /// Whether quantised weights of `k` inputs stay quantised without a loss of speed.
    fn supports_quantised(&self, k: usize, dtype: Dtype) -> bool;

    /// Reads one row of the weights, `[k]`; only where [`Self::READS_ROWS`].
    fn row(&self, layer: &Self::Linear, row: usize, out: &mut [f32]);

    /// `y = x W^T + b`.
    ///
    /// # Shapes
    /// `x [m, k]`, `y [m, n]`.
    fn linear(&self, layer: &Self::Linear, x: &Self::Buffer, y: &mut Self::Buffer);

    /// `dx = dy W`.
    ///
    /// # Shapes
    /// `dy [m, n]`, `dx [m, k]`.
    fn linear_backward(&self, layer: &Self::Linear, dy: &Self::Buffer, dx: &mut Self::Buffer);

    // Layers

    /// Prepares runs, which follow each other in the rows of the batch, and the rotary tables that layers
    /// choose from.
    fn batch(&self, runs: &[Run], rotations: Vec<Rotation>) -> Self::Batch;

    /// Normalises vectors in place.
    fn norm(&self, norm: &Norm<Self>, columns: Columns, x: &mut Self::Buffer);

    /// Fills `out` with the normalised rows of `x [_, width]`.
    fn norm_copy(&self, norm: &Norm<Self>, width: usize, x: &Self::Buffer, out: &mut Self::Buffer) {
        self.assign(x, out);
        self.norm(norm, Columns::whole(width), out);
    }

    /// Backward of [`Self::norm`]: `x` holds the vectors before the norm, `d` the gradient of the
    /// normalised vectors, and receives that of `x`.
    fn norm_backward(&self, norm: &Norm<Self>, columns: Columns, x: &Self::Buffer, d: &mut Self::Buffer);

    /// Rotates heads of every row in place by table `table` of the batch, as
    /// [`rotate`](crate::elementwise::rotate), or back by the transposed rotation if `inverse`. The heads are the
    /// vectors of `heads`, which start at column 0.
    ///
    /// # Shapes
    /// `x [rows of the batch, heads.stride]`.
    fn rotate(&self, batch: &Self::Batch, table: usize, heads: Columns, inverse: bool, x: &mut Self::Buffer);

    /// Attention: for each row and head, `softmax(scale q k^T) v` over the positions that the row sees, with what `bias`
    /// adds to the scores of each head. `past` is the KV cache that the runs refer to.
    ///
    /// # Shapes
    /// `qkv [rows, q + 2 kv]`, each row its queries, keys and values; `past [positions, 2 kv]`, each row
    /// its keys and values; `out [rows, q]`.
    fn attend(
        &self,
        shape: &AttentionShape,
        bias: &HeadBias<Self::Buffer>,
        batch: &Self::Batch,
        past: Option<&Self::Buffer>,
        qkv: &Self::Buffer,
        out: &mut Self::Buffer,
    );

    /// Backward of [`Self::attend`] where every run is a whole text: the gradients of queries, keys and
    /// values from that of the output.
    ///
    /// # Shapes
    /// `qkv`, `d_qkv [rows, q + 2 kv]`, `d_out [rows, q]`.
    fn attend_backward(
        &self,
        shape: &AttentionShape,
        bias: &HeadBias<Self::Buffer>,
        batch: &Self::Batch,
        qkv: &Self::Buffer,
        d_out: &Self::Buffer,
        d_qkv: &mut Self::Buffer,
    );

    /// `out = act(gate) * up`, where each row of `wide [m, 2 width]` is the gate followed by the other
    /// factor.
    fn gated(&self, activation: Activation, width: usize, wide: &Self::Buffer, out: &mut Self::Buffer);

    /// Backward of [`Self::gated`].
    ///
    /// # Shapes
    /// `wide`, `d_wide [m, 2 width]`, `d_out [m, width]`.
    fn gated_backward(
        &self,
        activation: Activation,
        width: usize,
        wide: &Self::Buffer,
        d_out: &Self::Buffer,
        d_wide: &mut Self::Buffer,
    );

    /// Applies the activation in place.
    fn activate(&self, activation: Activation, x: &mut Self::Buffer);

    /// Backward of [`Self::activate`]: `x` is the input of the activation.
    fn activate_backward(&self, activation: Activation, x: &Self::Buffer, d: &mut Self::Buffer);

    /// `x *= factor`.
    fn scale(&self, factor: f32, x: &mut Self::Buffer);

    /// `x = cap tanh(x / cap)`.
    fn softcap(&self, cap: f32, x: &mut Self::Buffer);

    /// `out = a + b`.
    fn add(&self, a: &Self::Buffer, b: &Self::Buffer, out: &mut Self::Buffer);

    /// `to += from`; a shorter `from` repeats.
    fn add_assign(&self, to: &mut Self::Buffer, from: &Self::Buffer);

    /// `out = a - b`.
    fn subtract(&self, a: &Self::Buffer, b: &Self::Buffer, out: &mut Self::Buffer);

    /// Points of a line: `out[i] = base + at[i] direction`.
    ///
    /// # Shapes
    /// `base`, `direction [n]`, `out [points, n]`.
    fn interpolate(&self, base: &Self::Buffer, direction: &Self::Buffer, at: &[f32], out: &mut Self::Buffer);

    /// Applies edits to rows of `x [_, width]`, in order.
    fn edit(&self, width: usize, edits: &[RowEdit<'_, Self::Buffer>], x: &mut Self::Buffer);

    // Reductions

    /// Waits for numbers and reads them.
    fn read(&self, numbers: Vec<Self::Numbers>) -> Vec<Vec<f64>>;

    /// Whether all elements of some buffers are finite.
    fn all_finite(&self, buffers: &[&Self::Buffer]) -> bool;

    /// The products that contributions are made of, [`CONTRIBUTION_SUMS`] per row.
    ///
    /// # Shapes
    /// `h`, `a`, `m [rows, width]`; the result is `[rows, 8]`.
    fn contribution_sums(
        &self,
        width: usize,
        h: &Self::Buffer,
        a: &Self::Buffer,
        m: &Self::Buffer,
    ) -> Self::Numbers;

    /// The scalar products of all pairs of levels, row by row.
    ///
    /// # Shapes
    /// `levels` are matrices `[rows, width]`; the result is `[rows, pairs]`, pairs `(i, j)` with `i <= j` in
    /// the order (0, 0), (0, 1), .., (1, 1), (1, 2), ..
    fn gram(&self, width: usize, levels: &[&Self::Buffer]) -> Self::Numbers;

    /// How much some rows of an edited contribution differ from the clean one, `D = attn + mlp`:
    /// `|D[positions[i]] - added[rows[i]]|^2`, then `|D[positions[i]]|^2`.
    ///
    /// # Shapes
    /// `added`, `attn`, `mlp [_, width]`; the result is `[rows, 2]`.
    fn change_sums(
        &self,
        width: usize,
        added: &Self::Buffer,
        rows: &[u32],
        clean: [&Self::Buffer; 2],
        positions: &[u32],
    ) -> Self::Numbers;

    /// Scalar products of rows, `a[i] . b[i mod rows of b]`.
    fn row_dots(&self, width: usize, a: &Self::Buffer, b: &Self::Buffer) -> Self::Numbers;

    /// The sum of each row.
    fn row_sums(&self, width: usize, x: &Self::Buffer) -> Self::Numbers;

    /// The sum of each column, `[width]`.
    fn column_sums(&self, width: usize, x: &Self::Buffer) -> Self::Numbers;

    // Distributions

    /// Compares the distribution of every row of logits, p, with that of the last row of its group of
    /// `levels` rows, q. The result is exactly zero where a row is compared with itself. With them comes what
    /// [`Self::log_probabilities`] says about one token per row.
    ///
    /// # Shapes
    /// `logits [groups * levels, vocab]`, `tokens [groups * levels]`; the result is `[rows, LENS_NUMBERS]`.
    fn lens(&self, vocab: usize, levels: usize, logits: &Self::Buffer, tokens: &[u32]) -> Self::Numbers;

    /// `|p - q|_2`, p the distribution of row i of the logits, q that of row `references[i]`.
    ///
    /// # Shapes
    /// `logits [references, vocab]`; the result is `[references]`.
    fn distances(&self, vocab: usize, logits: &Self::Buffer, references: &[u32]) -> Self::Numbers;

    /// The log-probability of one token per row, in nats.
    ///
    /// # Shapes
    /// `logits [tokens, vocab]`; the result is `[tokens]`.
    fn log_probabilities(&self, vocab: usize, logits: &Self::Buffer, tokens: &[u32]) -> Self::Numbers;

    /// The probability p of one token per row. The logits are replaced by the gradient of p,
    /// `p (onehot - softmax)`, taken through the soft-capping that made them, if any.
    ///
    /// # Shapes
    /// As [`Self::log_probabilities`].
    fn probability_backward(
        &self,
        vocab: usize,
        tokens: &[u32],
        cap: Option<f32>,
        logits: &mut Self::Buffer,
    ) -> Self::Numbers;
}
