//! The seam between the operations of a model and the interfaces of devices.
//!
//! A [`Device`] offers memory in 32-bit words and launches the kernels of a fixed table, [`Kernel`]. Host
//! code that is the same everywhere is written once over it, in [`Gpu`](crate::Gpu).

use fathom_kernels::backend::BatchLimits;
use fathom_kernels::{Dtype, OutOfMemory};
use std::ops::Range;

/// A size as a parameter of a kernel.
///
/// # Panics
/// When it does not fit.
pub(crate) fn word(number: usize) -> u32 {
    u32::try_from(number).expect("sizes that kernels are given must fit 32 bits")
}

/// A device that runs kernels. Calls are carried out in their order, but not necessarily before they return.
pub trait Device: Send + Sync + Sized + 'static {
    /// Memory of the device, in 32-bit words. It may be dropped while launches that use it are outstanding.
    type Memory: Send + Sync;

    /// The name of the device and its interface, such as `NVIDIA H100 (CUDA)`.
    fn name(&self) -> String;

    /// Bytes that the device can hold, if it says so.
    fn memory_bytes(&self) -> Option<u64>;

    /// Waits for all work.
    fn wait(&self);

    /// Multiply-adds of a thread in one step of [`Kernel::Peak`].
    fn peak_macs(&self, _dtype: Dtype) -> u64 {
        32
    }

    /// Words of the largest memory that a kernel may be given. Weights may be larger, because products cut
    /// them.
    fn largest_argument(&self) -> usize {
        usize::MAX
    }

    /// How much work pays at a time.
    fn limits(&self) -> BatchLimits {
        BatchLimits { clean_rows: 4096, rows: 4096, logit_bytes: 1 << 30, logit_rows: 8192, saved_rows: 4096 }
    }

    /// Memory of at least `words` words with unspecified contents. `words` may be 0.
    ///
    /// # Errors
    /// When the device refuses the memory.
    fn allocate(&self, words: usize) -> Result<Self::Memory, OutOfMemory>;

    /// Writes `words` from word `at` on.
    fn write(&self, memory: &Self::Memory, at: usize, words: &[u32]);

    /// Waits for all work and reads.
    fn read(&self, memory: &Self::Memory, part: Range<usize>) -> Vec<u32>;

    /// Copies words between different memories.
    fn copy(&self, from: &Self::Memory, part: Range<usize>, to: &Self::Memory, at: usize);

    /// Launches a kernel. `buffers` are in the order of the table, `parameters` start with `work`, and no
    /// written buffer occurs twice. `work` is positive.
    fn launch(&self, kernel: Kernel, buffers: &[&Self::Memory], parameters: &[u32], work: usize);

    /// `y = x W^T + b` with `x [m, k]`, `y [m, n]`.
    fn linear(&self, layer: &Weights<Self::Memory>, x: &Self::Memory, m: usize, y: &Self::Memory);

    /// `dx = dy W` with `dy [m, n]`, `dx [m, k]`.
    fn linear_backward(&self, layer: &Weights<Self::Memory>, dy: &Self::Memory, m: usize, dx: &Self::Memory);
}

/// Weights `[n, k]`, row-major.
pub struct Weights<M> {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Elements from one row to the next: `k` rounded up to a multiple of [`ROW_ALIGNMENT`]. Elements beyond
    /// `k` are zero bits.
    pub stride: usize,
    /// How an element is stored.
    pub format: Format,
    /// The elements.
    pub words: M,
    /// Scale and offset of every block of a quantised format, `[n, k / columns, 2]`.
    pub scales: Option<M>,
    /// Added to the products, `[n]`.
    pub bias: Option<M>,
    /// How weights are multiplied. [`Dtype::Bf16`] rounds inputs and weights to bfloat16.
    pub dtype: Dtype,
}

/// Rows of weights start at multiples of this number of elements.
pub const ROW_ALIGNMENT: usize = 32;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 32-bit floats.
    F32,
    /// Two bfloat16 per word, the low half first.
    Bf16,
    /// Two 16-bit floats per word, the low half first.
    F16,
    /// Four signed bytes per word, the lowest first: `value * scale + offset`.
    Int8 {
        /// Elements per block.
        columns: usize,
    },
    /// Eight nibbles per word, the lowest first: `(nibble - bias) * scale + offset`.
    Int4 {
        /// Elements per block.
        columns: usize,
        /// Subtracted from a nibble, between -128 and 128.
        bias: i32,
    },
}

impl Format {
    /// Elements per word.
    pub fn per_word(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 | Self::F16 => 2,
            Self::Int8 { .. } => 4,
            Self::Int4 { .. } => 8,
        }
    }

    /// Elements per block of a quantised format.
    pub fn columns(self) -> Option<usize> {
        match self {
            Self::Int8 { columns } | Self::Int4 { columns, .. } => Some(columns),
            Self::F32 | Self::Bf16 | Self::F16 => None,
        }
    }
}

/// How a kernel divides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// One thread per unit of work.
    Element,
    /// One group of threads per unit of work.
    Row,
}

/// The kernels that every device has.
///
/// Each is given as: arguments that are read | arguments that are written, then `[parameters]`, of which
/// the first is the number of units of work. Parameters are words; floats are given by their bits. A written
/// argument may be read too. `act` is 0 for SiLU, 1 for GELU with tanh, 2 for GELU with erf, 3 for ReLU, 4 for its
/// square, 5 for the clamped SwiGLU; `kind` is 0 for
/// RMSNorm, 1 for LayerNorm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// `a, b | out` `[n]`
    Add,
    /// `a, b | out` `[n]`
    Subtract,
    /// `from | to` `[n, period]`: `to[i] += from[i % period]`
    AddAssign,
    /// `base, direction, at | out` `[n, p]`: `out[i] = base[i % p] + at[i / p] direction[i % p]`
    Interpolate,
    /// `from, rows | to` `[rows * width, width]`
    GatherRows,
    /// `from, rows | to` `[rows * width, width]`
    ScatterRows,
    /// `from | to` `[rows * total, first_row, stride, start, total]`
    CopyColumns,
    /// `| x` `[n, act]`
    Activate,
    /// `x | d` `[n, act]`
    ActivateBackward,
    /// `wide | out` `[m * f, f, act]`
    Gate,
    /// `wide, d_out | d_wide` `[m * f, f, act]`
    GateBackward,
    /// `| x` `[n, factor]`
    Scale,
    /// `| x` `[n, cap]`
    Softcap,
    /// `cos, sin, places | x` `[rows * heads * half, stride, heads, head_dim, half, inverse]`
    Rotate,
    /// `table, values | x` `[edits * width, width]`. Four words per edit: row, operation (0 zero, 1 scale,
    /// 2 replace, 3 add, 4 subtract), factor, row of the values. The rows differ.
    EditRows,
    /// `weight, bias | x` `[rows * count, stride, start, width, count, kind, eps, has_bias]`
    Norm,
    /// `x, weight | d`, parameters as [`Self::Norm`]
    NormBackward,
    /// `h, a, m | out [rows, 8]` `[rows, width]`
    ContributionSums,
    /// `added, rows, attn, mlp, positions | out [k, 2]` `[k, width]`
    ChangeSums,
    /// `a, b | out [rows]` `[rows, width, rows of b]`
    RowDots,
    /// `x | out [rows]` `[rows, width]`
    RowSums,
    /// `x | out [width]` `[width, rows]`
    ColumnSums,
    /// `x | out [groups, n (n + 1) / 2]` `[groups * n (n + 1) / 2, n, width]`, `x [groups * n, width]`
    Gram,
    /// `x | flag [1]` `[n]`: sets the flag to 1 where an element is not finite
    FindNotFinite,
    /// `logits | stats [rows, 2]` `[rows, vocab]`: the maximum and `ln sum e^x`
    LogSumExp,
    /// `logits, stats, references | out [rows]` `[rows, vocab]`: `|p - q|_2`, q the distribution of row
    /// `references[i]`
    Distances,
    /// `logits, stats | out [rows, 4]` `[rows, vocab, levels]`: `KL(p || q)`, `KL(q || p)`, Jensen-Shannon
    /// divergence in bits, entropy of p; q is the last row of the group of `levels` rows
    Divergences,
    /// `logits | out [rows, 5]` `[rows, vocab]`: indices of the largest, largest first; ties go to the lower
    /// index, NaN counts as the smallest, and missing ones are 0xffffffff
    Top,
    /// `logits, stats, tokens | out [rows]` `[rows, vocab]`: log-probabilities of the tokens
    Pick,
    /// `stats, tokens | logits` `[rows, vocab, has_cap, cap]`, in place
    ProbabilityBackward,
    /// `qkv, cache, tiles, segments, sinks, slopes | out`
    /// `[tiles * heads, heads, kv_heads, head_dim, stride, scale, has_cap, cap, window, ahead, has_sinks, has_slopes,
    /// cache_stride]`. Sinks and slopes are `[heads]`; `has_slopes` is 1 where they are multiplied by distances, and 2 where
    /// they are multiplied by positions in bfloat16 before the scale.
    ///
    /// Six words per tile: first row, rows (at most [`TILE_ROWS`]), position of the first row, first and end
    /// segment, end position of the run. Three words per segment: first position, source (0 the batch, 1 the cache), first row in the
    /// source. A segment ends where the next of its run begins; the last holds the rows of the run. A position
    /// sees itself, the `window - 1` positions before it (all, if it is 0), and the `ahead` positions after it that
    /// its run has. Unit `i` is head `i % heads` of tile `i / heads`. Blocks of keys start at multiples of
    /// their size counted from position 0, so that the order of a sum does not depend on the tile.
    Attention,
    /// `qkv, d_out, tiles, sinks, slopes | stats [rows, heads, 3]`
    /// `[tiles * heads, heads, kv_heads, head_dim, stride, scale, has_cap, cap, window, ahead, has_sinks, has_slopes]`.
    ///
    /// Texts start at position 0. Four words per tile: first row, rows (at most [`TILE_ROWS`], all of one
    /// text), first and end row of the text. Per row and head, its sink included: the largest score m, the sum of
    /// `e^(score - m)`, and `sum_j p_j (d_out . v_j)`. Unit `i` is head `i % heads` of tile `i / heads`.
    AttentionStats,
    /// `qkv, d_out, tiles, slopes, stats | d_qkv`, parameters as [`Self::AttentionStats`]: writes the gradients of
    /// queries
    AttentionDq,
    /// `qkv, d_out, tiles, slopes, stats | d_qkv`
    /// `[tiles * kv_heads, heads, kv_heads, head_dim, stride, scale, has_cap, cap, window, ahead, has_sinks,
    /// has_slopes]`: writes the gradients of keys and values of the tile's rows. Unit `i` is head `i % kv_heads` of tile
    /// `i / kv_heads`.
    AttentionDkv,
    /// `| out` `[n, steps, is_bf16]`: multiply-adds on registers, [`Device::peak_macs`] per thread and step
    Peak,
}

/// Rows per tile of attention, at most.
pub const TILE_ROWS: usize = 16;

impl Kernel {
    /// All kernels.
    pub const ALL: [Self; 35] = [
        Self::Add,
        Self::Subtract,
        Self::AddAssign,
        Self::Interpolate,
        Self::GatherRows,
        Self::ScatterRows,
        Self::CopyColumns,
        Self::Activate,
        Self::ActivateBackward,
        Self::Gate,
        Self::GateBackward,
        Self::Scale,
        Self::Softcap,
        Self::Rotate,
        Self::EditRows,
        Self::Norm,
        Self::NormBackward,
        Self::ContributionSums,
        Self::ChangeSums,
        Self::RowDots,
        Self::RowSums,
        Self::ColumnSums,
        Self::Gram,
        Self::FindNotFinite,
        Self::LogSumExp,
        Self::Distances,
        Self::Divergences,
        Self::Top,
        Self::Pick,
        Self::ProbabilityBackward,
        Self::Attention,
        Self::AttentionStats,
        Self::AttentionDq,
        Self::AttentionDkv,
        Self::Peak,
    ];

    /// The name of the kernel's function.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Subtract => "subtract",
            Self::AddAssign => "add_assign",
            Self::Interpolate => "interpolate",
            Self::GatherRows => "gather_rows",
            Self::ScatterRows => "scatter_rows",
            Self::CopyColumns => "copy_columns",
            Self::Activate => "activate",
            Self::ActivateBackward => "activate_backward",
            Self::Gate => "gate",
            Self::GateBackward => "gate_backward",
            Self::Scale => "scale",
            Self::Softcap => "softcap",
            Self::Rotate => "rotate",
            Self::EditRows => "edit_rows",
            Self::Norm => "norm",
            Self::NormBackward => "norm_backward",
            Self::ContributionSums => "contribution_sums",
            Self::ChangeSums => "change_sums",
            Self::RowDots => "row_dots",
            Self::RowSums => "row_sums",
            Self::ColumnSums => "column_sums",
            Self::Gram => "gram",
            Self::FindNotFinite => "find_not_finite",
            Self::LogSumExp => "log_sum_exp",
            Self::Distances => "distances",
            Self::Divergences => "divergences",
            Self::Top => "top",
            Self::Pick => "pick",
            Self::ProbabilityBackward => "probability_backward",
            Self::Attention => "attention",
            Self::AttentionStats => "attention_stats",
            Self::AttentionDq => "attention_dq",
            Self::AttentionDkv => "attention_dkv",
            Self::Peak => "peak",
        }
    }

    /// How the kernel divides its work.
    pub fn class(self) -> Class {
        match self {
            Self::Norm
            | Self::NormBackward
            | Self::ContributionSums
            | Self::ChangeSums
            | Self::RowDots
            | Self::RowSums
            | Self::Gram
            | Self::LogSumExp
            | Self::Distances
            | Self::Divergences
            | Self::Top
            | Self::ProbabilityBackward
            | Self::Attention
            | Self::AttentionStats
            | Self::AttentionDq
            | Self::AttentionDkv => Class::Row,
            _ => Class::Element,
        }
    }

    /// The number of arguments that are only read; they come first. One more is written.
    pub fn reads(self) -> usize {
        match self {
            Self::Activate | Self::Scale | Self::Softcap | Self::Peak => 0,
            Self::AddAssign
            | Self::CopyColumns
            | Self::ActivateBackward
            | Self::Gate
            | Self::RowSums
            | Self::ColumnSums
            | Self::Gram
            | Self::FindNotFinite
            | Self::LogSumExp
            | Self::Top => 1,
            Self::Add
            | Self::Subtract
            | Self::GatherRows
            | Self::ScatterRows
            | Self::GateBackward
            | Self::EditRows
            | Self::Norm
            | Self::NormBackward
            | Self::RowDots
            | Self::Divergences
            | Self::ProbabilityBackward => 2,
            Self::Interpolate | Self::Rotate | Self::ContributionSums | Self::Distances | Self::Pick => 3,
            Self::ChangeSums | Self::AttentionStats | Self::AttentionDq | Self::AttentionDkv => 5,
            Self::Attention => 6,
        }
    }
}
