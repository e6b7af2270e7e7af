//! 4-bit floats in safetensors files: blocks of 32 numbers and their scales, in two tensors of bytes (OCP Microscaling
//! Formats 1.0, as the files of gpt-oss hold them).
//!
//! `NAME_blocks [.., blocks, 16]` has two numbers a byte, the first in the lower half, and `NAME_scales [.., blocks]` the
//! exponent of each block. Together they are read as the tensor `NAME [.., 32 blocks]`.

use super::builder::Builder;
use super::store::{StoredType, UnsupportedPlace};
use crate::blocks;
use fathom_kernels::QuantBlocks;
use std::ops::Range;

/// Numbers of a block.
pub(super) const BLOCK: usize = 32;

const BLOCKS: &str = "_blocks";
const SCALES: &str = "_scales";

/// A tensor of 4-bit floats. Files and bytes of its blocks and of its scales.
pub(super) struct Mxfp4Entry {
    /// Slowest axis first.
    pub(super) shape: Vec<usize>,
    pub(super) blocks: (usize, Range<usize>),
    pub(super) scales: (usize, Range<usize>),
}

impl Mxfp4Entry {
    /// Bytes of blocks and scales.
    pub(super) fn bytes(&self) -> usize {
        self.blocks.1.len() + self.scales.1.len()
    }
}

/// The name of the tensor that holds the blocks of another.
pub(super) fn blocks_of(name: &str) -> String {
    format!("{name}{BLOCKS}")
}

/// The tensors of 4-bit floats among those of bytes.
pub(super) fn find(builder: &Builder) -> impl Iterator<Item = (String, Mxfp4Entry)> {
    let of_bytes = |name: &str| {
        let place = builder.place_of_unsupported(name)?;
        (place.stored == StoredType::Plain(safetensors::Dtype::U8)).then_some(place)
    };
    builder.unsupported_names().filter_map(move |blocks| {
        let name = blocks.strip_suffix(BLOCKS)?;
        let [blocks, scales] = [of_bytes(blocks)?, of_bytes(&format!("{name}{SCALES}"))?];
        Some((name.to_owned(), entry(blocks, scales)?))
    })
}

/// The tensor that two tensors of bytes make, if their shapes belong together.
fn entry(blocks: &UnsupportedPlace, scales: &UnsupportedPlace) -> Option<Mxfp4Entry> {
    let [outer @ .., count, bytes] = &blocks.shape[..] else { return None };
    let fits = *bytes == BLOCK / 2 && scales.shape.split_last() == Some((count, outer));
    let mut shape = outer.to_vec();
    shape.push(count.checked_mul(BLOCK)?);
    let numbers = shape.iter().try_fold(1usize, |all, size| all.checked_mul(*size))?;
    let holds = [blocks.bytes.len(), scales.bytes.len()] == [numbers / 2, numbers / BLOCK];
    (fits && holds).then(|| Mxfp4Entry {
        shape,
        blocks: (blocks.file, blocks.bytes.clone()),
        scales: (scales.file, scales.bytes.clone()),
    })
}

/// Decodes whole blocks. A scale that is not a number becomes NaN, for which a checkpoint is refused.
///
/// # Panics
/// When the lengths do not fit.
pub(super) fn read(bytes: &[u8], exponents: &[u8], to: QuantBlocks<'_>) {
    assert_eq!([bytes.len() * 2, exponents.len() * BLOCK], [to.values.len(); 2], "blocks must be whole");
    for (byte, pair) in bytes.iter().zip(to.values.chunks_exact_mut(2)) {
        pair.copy_from_slice(&[blocks::twice_e2m1(byte & 15), blocks::twice_e2m1(byte >> 4)]);
    }
    for (exponent, scale) in exponents.iter().zip(to.scales) {
        *scale = if *exponent == u8::MAX { f32::NAN } else { blocks::half_power_of_two(*exponent) };
    }
    to.offsets.fill(0.0);
}
