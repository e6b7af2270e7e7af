//! The sources of the kernels and how they are divided into modules, each compiled when it is first used.

use crate::device::{Class, Format, Kernel, TILE_ROWS};
use fathom_kernels::backend::DeviceError;
use std::panic::panic_any;

const PRELUDE: &str = include_str!("kernels/prelude.cuh");
const WEIGHTS: &str = include_str!("kernels/weights.cuh");

/// What is compiled at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Unit {
    Elementwise,
    Rows,
    Distribution,
    /// For heads of this width at most, a multiple of 32.
    Attention(usize),
    /// Products in single precision with weights of one format.
    ProductF32(Stored),
    ProductBf16,
}

/// How weights are stored, as the kernels number it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stored {
    F32 = 0,
    Bf16 = 1,
    F16 = 2,
    Int8 = 3,
    Int4 = 4,
}

impl From<Format> for Stored {
    fn from(format: Format) -> Self {
        match format {
            Format::F32 => Self::F32,
            Format::Bf16 => Self::Bf16,
            Format::F16 => Self::F16,
            Format::Int8 { .. } => Self::Int8,
            Format::Int4 { .. } => Self::Int4,
        }
    }
}

/// The widest head.
pub(super) const WIDEST_HEAD: usize = 512;

impl Unit {
    /// The widths of heads are rounded up to one of these.
    pub(super) const HEADS: [usize; 8] = [32, 64, 96, 128, 192, 256, 384, WIDEST_HEAD];

    /// All units.
    pub(super) fn all() -> Vec<Self> {
        let formats = [Stored::F32, Stored::Bf16, Stored::F16, Stored::Int8, Stored::Int4];
        let mut units = vec![Self::Elementwise, Self::Rows, Self::Distribution, Self::ProductBf16];
        units.extend(Self::HEADS.map(Self::Attention));
        units.extend(formats.map(Self::ProductF32));
        units
    }

    /// Whether it holds the kernels of attention.
    pub(super) fn is_attention(self) -> bool {
        matches!(self, Self::Attention(_))
    }

    pub(super) fn source(self) -> String {
        let parts: &[&str] = match self {
            Self::Elementwise => &[PRELUDE, include_str!("kernels/elementwise.cu")],
            Self::Rows => &[PRELUDE, include_str!("kernels/rows.cu")],
            Self::Distribution => &[PRELUDE, include_str!("kernels/distribution.cu")],
            Self::Attention(_) => &[PRELUDE, include_str!("kernels/attention.cu")],
            Self::ProductF32(_) => &[PRELUDE, WEIGHTS, include_str!("kernels/product_f32.cu")],
            Self::ProductBf16 => &[PRELUDE, WEIGHTS, include_str!("kernels/product_bf16.cu")],
        };
        parts.join("\n")
    }

    /// Options of the compiler for an architecture such as `sm_90`.
    pub(super) fn options(self, architecture: &str) -> Vec<String> {
        let mut options = vec![format!("--gpu-architecture={architecture}"), "--std=c++17".to_owned()];
        match self {
            Self::Attention(head) => options.push(format!("-DHEAD={head}")),
            Self::ProductF32(stored) => options.push(format!("-DSTORED={}", stored as usize)),
            Self::ProductBf16 => options.push(format!("-DHUGE_STAGES={}", huge_stages(architecture))),
            Self::Elementwise | Self::Rows | Self::Distribution => {}
        }
        options
    }
}

/// Steps that the largest tiles of bfloat16 keep in shared memory: as many as architectures for data centres
/// hold. The tiles fit no others.
pub(super) fn huge_stages(architecture: &str) -> usize {
    if architecture.starts_with("sm_8") { 3 } else { 4 }
}

/// A kernel in its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    pub(super) unit: Unit,
    /// Without its prefix.
    pub(super) name: &'static str,
    /// Threads per group.
    pub(super) threads: usize,
    /// Bytes of dynamic shared memory.
    pub(super) shared_bytes: usize,
}

/// What precedes the names of kernels.
pub(super) const PREFIX: &str = "fathom_";

/// Threads per group of most kernels.
pub(super) const THREADS: usize = 256;

impl Entry {
    pub(super) fn plain(unit: Unit, name: &'static str) -> Self {
        Self { unit, name, threads: THREADS, shared_bytes: 0 }
    }

    /// The entry of a kernel of the table. Attention depends on the width of a head, its fourth parameter.
    ///
    /// # Panics
    /// When heads are too wide.
    pub(super) fn of(kernel: Kernel, parameters: &[u32]) -> Self {
        let unit = match kernel {
            Kernel::Attention | Kernel::AttentionStats | Kernel::AttentionDq | Kernel::AttentionDkv => {
                return Self::attention(kernel, parameters);
            }
            Kernel::LogSumExp
            | Kernel::Distances
            | Kernel::Divergences
            | Kernel::Top
            | Kernel::ProbabilityBackward => Unit::Distribution,
            _ if kernel.class() == Class::Row => Unit::Rows,
            _ => Unit::Elementwise,
        };
        Self::plain(unit, kernel.name())
    }

    fn attention(kernel: Kernel, parameters: &[u32]) -> Self {
        let head_dim = parameters[3] as usize;
        let head = Unit::HEADS.into_iter().find(|head| *head >= head_dim);
        let head = head.unwrap_or_else(|| {
            let why =
                format!("attention on CUDA supports heads of at most {WIDEST_HEAD} elements, not {head_dim}");
            panic_any(DeviceError(format!("{why}; use the device cpu")))
        });
        // As in attention.cu: threads, rows of the group itself, and those of them that are weighted at a time.
        let keys = if head <= 128 { 64 } else { 32 };
        let (threads, own, weighted) = match kernel {
            Kernel::Attention => {
                let slots = 2 * shared_heads(parameters);
                let threads = if head <= 256 { 64 } else { 128 };
                (threads * slots, TILE_ROWS * slots, TILE_ROWS * slots)
            }
            _ => {
                let rows = if head <= 128 { 2 * TILE_ROWS } else { TILE_ROWS };
                (128, 2 * rows, rows)
            }
        };
        let floats = own * head + keys * (head + 4) + weighted * (keys + 4);
        Self { unit: Unit::Attention(head), name: kernel.name(), threads, shared_bytes: 4 * floats }
    }
}

/// Query heads that a group of threads handles at a time in the forward pass of attention, because they read the
/// same keys. `parameters` are those of the table.
pub(super) fn shared_heads(parameters: &[u32]) -> usize {
    let (heads, kv_heads, head_dim) = (parameters[1], parameters[2], parameters[3]);
    if head_dim <= 128 && (heads / kv_heads.max(1)).is_multiple_of(2) { 2 } else { 1 }
}
