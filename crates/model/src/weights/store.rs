//! What is known of opened weight files: where each tensor lies, and how its elements are stored.

use super::mxfp4::{self, Mxfp4Entry};
use crate::blocks::Format;
use fathom_kernels::mapped::Mapped;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ElementType {
    F64,
    F32,
    F16,
    Bf16,
    /// 8-bit floats of 4 exponent and 3 fraction bits, with a scale per block of rows and columns.
    F8E4M3,
    /// Blocks of ggml's quantised formats.
    Blocks(Format),
    /// 4-bit floats, whose scales are a tensor of their own.
    Mxfp4,
}

impl ElementType {
    /// Bytes of `elements` elements, which must fill whole blocks.
    pub(super) fn bytes(self, elements: usize) -> Option<usize> {
        match self {
            Self::F64 => elements.checked_mul(8),
            Self::F32 => elements.checked_mul(4),
            Self::F16 | Self::Bf16 => elements.checked_mul(2),
            Self::F8E4M3 => Some(elements),
            Self::Blocks(format) if elements.is_multiple_of(format.numbers()) => {
                (elements / format.numbers()).checked_mul(format.bytes())
            }
            Self::Mxfp4 if elements.is_multiple_of(mxfp4::BLOCK) => Some(elements / 2),
            Self::Blocks(_) | Self::Mxfp4 => None,
        }
    }

    pub(super) fn from_ggml(kind: u32) -> Option<Self> {
        Some(match kind {
            0 => Self::F32,
            1 => Self::F16,
            28 => Self::F64,
            30 => Self::Bf16,
            kind => Self::Blocks(Format::from_ggml(kind)?),
        })
    }
}

/// The type of a tensor's elements, as its file names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// A type of safetensors, or the same in a PyTorch file.
    Plain(safetensors::Dtype),
    /// ggml's number of a type, in a GGUF file.
    Ggml(u32),
}

/// Where a tensor lies.
pub(super) struct TensorEntry {
    pub(super) file: usize,
    pub(super) element: ElementType,
    pub(super) stored: StoredType,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Range<usize>,
}

/// A tensor of an unsupported element type.
pub(super) struct UnsupportedTensor {
    /// Why it is not read.
    pub(super) why: String,
    /// Where it lies, if that is known.
    pub(super) place: Option<UnsupportedPlace>,
}

/// Where a tensor of an unsupported element type lies.
pub(super) struct UnsupportedPlace {
    pub(super) file: usize,
    pub(super) stored: StoredType,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Range<usize>,
}

/// A memory-mapped file.
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) map: Mapped,
}

/// All tensors of a checkpoint.
pub(super) struct Store {
    pub(super) files: Vec<File>,
    pub(super) entries: HashMap<String, TensorEntry>,
    /// Tensors of 4-bit floats, each of which two tensors of bytes among `unsupported` make.
    pub(super) mxfp4: HashMap<String, Mxfp4Entry>,
    /// Tensors of an unsupported element type.
    pub(super) unsupported: BTreeMap<String, UnsupportedTensor>,
    /// Notes for the user on how the files were read, one sentence each.
    pub(super) notes: Vec<String>,
    /// Rows and columns that share a scale in matrices of 8-bit floats.
    pub(super) fp8_block: [usize; 2],
}
