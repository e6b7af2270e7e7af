//! The storage formats of weights, and decoding them into panels.

use crate::cpu::{mul_add, multiversion};
use crate::element::{bf16_bits, bf16_value};
use crate::memory::{view, view_mut};
use crate::panel::WIDTH;
use crate::{Isa, checked_area};
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::ops::Range;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StorageFormat {
    /// Panels of floats or of pairs of bfloat16.
    Panels,
    /// bfloat16: the upper halves of floats whose lower halves are zero.
    Bf16,
    /// IEEE 754 half precision.
    F16,
    /// Quantised in blocks of this many columns: a scale and an offset per row, then 8-bit integers.
    Quantised(usize),
    /// As [`Self::Quantised`], with codes of 4 bits in the place of the integers: of two columns the codes of a row
    /// share a byte, the first in its lower half.
    Coded(usize),
}

/// The integers that codes of 4 bits stand for.
pub(crate) type CodeTable = [i8; 16];

impl StorageFormat {
    /// Words that `columns` columns of a group take; whole blocks of quantised weights.
    pub(crate) fn words(self, columns: usize) -> usize {
        match self {
            Self::Panels => checked_area(columns, WIDTH),
            Self::Bf16 | Self::F16 => checked_area(columns, WIDTH / 2),
            Self::Quantised(block) => {
                checked_area(columns / block, 2 * WIDTH) + checked_area(columns, WIDTH / 4)
            }
            Self::Coded(block) => checked_area(columns / block, 2 * WIDTH) + checked_area(columns, WIDTH / 8),
        }
    }
}

/// Rows of quantised weights, row-major: each weight is an 8-bit integer times the scale of its block
/// of columns, plus the offset of that block.
pub struct QuantBlocks<'a> {
    /// `[rows, k]`.
    pub values: &'a mut [i8],
    /// `[rows, k / columns per block]`, finite. Where a block has an offset, the products of its scale
    /// and its values must be exact in `f32`, so that each weight is rounded at most once.
    pub scales: &'a mut [f32],
    /// Offsets, shaped like `scales`.
    pub offsets: &'a mut [f32],
}

impl QuantBlocks<'_> {
    /// Rows `rows` out of `all`.
    ///
    /// # Panics
    /// When `rows` is out of range or `all` is 0.
    pub fn rows(&mut self, rows: Range<usize>, all: usize) -> QuantBlocks<'_> {
        let part = |len: usize| rows.start * (len / all)..rows.end * (len / all);
        let (values, scales) = (part(self.values.len()), part(self.scales.len()));
        QuantBlocks {
            values: &mut self.values[values],
            scales: &mut self.scales[scales.clone()],
            offsets: &mut self.offsets[scales],
        }
    }
}

/// Steps of a group's panel as they are stored.
pub(crate) enum StoredPanel<'a> {
    /// The panel itself.
    Packed(&'a [u32]),
    /// bfloat16, `[k, WIDTH]`.
    Bf16(&'a [u16]),
    /// Half precision, `[k, WIDTH]`.
    F16(&'a [f16]),
    /// Pairs of bfloat16, to be widened to a panel of floats.
    Pairs(PairView<'a>),
    /// Quantised blocks.
    Quantised(QuantView<'a>),
}

/// Columns of a panel of pairs of bfloat16.
#[derive(Clone, Copy)]
pub(crate) struct PairView<'a> {
    /// Whole pairs.
    pub(crate) from: &'a [u32],
    /// Columns of the first pair to skip.
    pub(crate) skip: usize,
    /// Columns to read from there on.
    pub(crate) steps: usize,
}

/// Quantised columns of a group of rows.
#[derive(Clone, Copy)]
pub(crate) struct QuantView<'a> {
    /// Whole blocks: scales, offsets, values.
    pub(crate) from: &'a [u32],
    /// Columns per block.
    pub(crate) columns: usize,
    /// What codes of 4 bits stand for, if values are stored as such.
    pub(crate) table: Option<&'a CodeTable>,
    /// Columns of the first block to skip.
    pub(crate) skip: usize,
    /// Steps to read from there on.
    pub(crate) steps: usize,
    /// 1 for panels of floats, 2 for panels of pairs of bfloat16.
    pub(crate) columns_per_step: usize,
    /// Whether the weights are rounded to bfloat16.
    pub(crate) round: bool,
}

impl StoredPanel<'_> {
    /// Steps of the panel.
    pub(crate) fn steps(&self) -> usize {
        match self {
            Self::Packed(words) => words.len() / WIDTH,
            Self::Bf16(weights) => weights.len() / WIDTH,
            Self::F16(weights) => weights.len() / WIDTH,
            Self::Pairs(view) => view.steps,
            Self::Quantised(view) => view.steps,
        }
    }

    /// Decodes the panel into the first words of `buffer`.
    ///
    /// # Panics
    /// When the buffer is too short.
    pub(crate) fn decode(&self, buffer: &mut [u32]) {
        let to = &mut buffer[..self.steps() * WIDTH];
        match *self {
            Self::Packed(words) => to.copy_from_slice(words),
            Self::Bf16(weights) => widen(weights, view_mut(to)),
            Self::F16(weights) => weights.convert_to_f32_slice(view_mut(to)),
            Self::Pairs(view) => view.decode(view_mut(to)),
            Self::Quantised(view) => view.decode(to),
        }
    }
}

impl PairView<'_> {
    fn decode(&self, to: &mut [f32]) {
        let pairs: &[[u16; 2]] = view(self.from);
        for (i, to) in to.chunks_exact_mut(WIDTH).enumerate() {
            let column = self.skip + i;
            let pairs = pairs[column / 2 * WIDTH..].iter();
            let half = |pair: &[u16; 2]| f32::from_bits(u32::from(pair[column % 2]) << 16);
            to.iter_mut().zip(pairs).for_each(|(to, pair)| *to = half(pair));
        }
    }
}

impl QuantView<'_> {
    /// Words of a block.
    pub(crate) fn block_words(&self) -> usize {
        let format = match self.table {
            Some(_) => StorageFormat::Coded(self.columns),
            None => StorageFormat::Quantised(self.columns),
        };
        format.words(self.columns)
    }

    fn decode(&self, mut to: &mut [u32]) {
        let mut skip = self.skip;
        let mut of_codes = Vec::new();
        for block in self.from.chunks_exact(self.block_words()) {
            let (scales, block) = block.split_at(WIDTH);
            let (offsets, values) = block.split_at(WIDTH);
            let (scales, offsets) = (view(scales), view(offsets));
            let values: &[i8] = match self.table {
                None => view(values),
                Some(table) => {
                    of_codes.resize(self.columns * WIDTH, 0);
                    expand_codes(Isa::get(), view(values), table, &mut of_codes);
                    &of_codes
                }
            };
            let values = &values[skip * WIDTH..];
            let words = to.len().min(values.len() / self.columns_per_step);
            let (decoded, rest) = to.split_at_mut(words);
            match self.columns_per_step {
                1 => {
                    let decoded: &mut [f32] = view_mut(decoded);
                    dequantise(values, scales, offsets, decoded);
                    if self.round {
                        decoded.iter_mut().for_each(|weight| *weight = bf16_value(*weight));
                    }
                }
                _ => dequantise_pairs(values, scales, offsets, decoded),
            }
            (to, skip) = (rest, 0);
        }
    }
}

/// The integers of columns whose codes are stored, column by column.
///
/// # Panics
/// When `to` does not have two integers for each byte of whole pairs of columns.
pub(crate) fn expand_codes(isa: Isa, codes: &[u8], table: &CodeTable, to: &mut [i8]) {
    assert!(codes.len().is_multiple_of(WIDTH) && to.len() == checked_area(codes.len(), 2));
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx2 && isa.is_available() {
        // SAFETY: the processor has AVX2, and the lengths were checked.
        return unsafe { expand_codes_avx2(codes, table, to) };
    }
    let _ = isa;
    let integer = |code: u8| table[usize::from(code & 15)];
    for (codes, to) in codes.as_chunks::<WIDTH>().0.iter().zip(to.as_chunks_mut::<{ 2 * WIDTH }>().0) {
        for (j, code) in codes.iter().enumerate() {
            (to[j], to[WIDTH + j]) = (integer(*code), integer(*code >> 4));
        }
    }
}

/// # Safety
/// The processor must have AVX2, and the slices the lengths that [`expand_codes`] requires.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn expand_codes_avx2(codes: &[u8], table: &CodeTable, to: &mut [i8]) {
    use std::arch::x86_64::*;
    // SAFETY: the table has 16 bytes.
    let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    let low = _mm256_set1_epi8(15);
    for (i, codes) in codes.as_chunks::<WIDTH>().0.iter().enumerate() {
        // SAFETY: there are 32 codes, and 64 integers for them.
        unsafe {
            let codes = _mm256_loadu_si256(codes.as_ptr().cast());
            let to = to.as_mut_ptr().add(2 * WIDTH * i).cast::<__m256i>();
            _mm256_storeu_si256(to, _mm256_shuffle_epi8(table, _mm256_and_si256(codes, low)));
            let second = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low);
            _mm256_storeu_si256(to.add(1), _mm256_shuffle_epi8(table, second));
        }
    }
}

/// Columns of successive groups of rows, as they are stored, for the backward pass.
#[derive(Clone, Copy)]
pub(crate) struct StoredColumns<'a> {
    /// From the first group on: its first column, or of quantised weights the block with it.
    pub(crate) words: &'a [u32],
    /// Words from one group to the next.
    pub(crate) stride: usize,
    pub(crate) format: ColumnFormat<'a>,
}

/// The format of [`StoredColumns`]. A column is [`WIDTH`] weights.
#[derive(Clone, Copy)]
pub(crate) enum ColumnFormat<'a> {
    Floats,
    /// Pairs of columns as bfloat16, the first of them even.
    Pairs,
    Bf16,
    F16,
    /// Scales and offsets, then columns of 8-bit integers.
    Quantised {
        /// Bytes in front of the first column.
        values: usize,
        /// Whether weights are rounded to bfloat16.
        round: bool,
    },
    /// Scales and offsets, then pairs of columns of codes of 4 bits.
    Coded {
        /// Bytes in front of the first column, the first of a pair.
        values: usize,
        /// Whether weights are rounded to bfloat16.
        round: bool,
        /// What codes stand for.
        table: &'a CodeTable,
    },
}

impl StoredColumns<'_> {
    /// The bytes of the first `columns` columns in a group, with the scales and offsets in front of them.
    pub(crate) fn bytes(&self, columns: usize) -> Range<usize> {
        let weights = checked_area(columns, WIDTH);
        match self.format {
            ColumnFormat::Floats => 0..checked_area(weights, size_of::<f32>()),
            ColumnFormat::Pairs | ColumnFormat::Bf16 | ColumnFormat::F16 => 0..checked_area(weights, 2),
            ColumnFormat::Quantised { values, .. } if values == QUANT_HEADER => 0..values + weights,
            ColumnFormat::Quantised { values, .. } => values..values + weights,
            ColumnFormat::Coded { values, .. } if values == QUANT_HEADER => 0..values + weights.div_ceil(2),
            ColumnFormat::Coded { values, .. } => values..values + weights.div_ceil(2),
        }
    }

    /// # Panics
    /// When there are fewer than `columns` columns of `groups` groups.
    pub(crate) fn check(&self, groups: usize, columns: usize) {
        let words = self.bytes(columns).end.div_ceil(size_of::<u32>());
        let needed = checked_area(groups - 1, self.stride).checked_add(words);
        assert!(needed.is_some_and(|needed| needed <= self.words.len()), "columns are missing");
    }
}

/// Bytes of scales and offsets in a quantised block.
pub(super) const QUANT_HEADER: usize = 2 * WIDTH * size_of::<f32>();

/// Weights transposed for the backward pass, in groups of 32 rows of the matrix, but not yet decoded
/// into a panel. Transposing 16- or 8-bit weights as 32-bit words takes half or a quarter of the work.
#[derive(Clone, Copy)]
pub(crate) enum TransposedSource<'a> {
    /// bfloat16: 32 words per pair of rows, one per column.
    Bf16(&'a [u32]),
    /// Half precision, in the same layout.
    F16(&'a [u32]),
    /// Quantised: scales and offsets of columns 0 to 15, those of columns 16 to 31, then 32 words per
    /// four rows, one per column.
    Quantised(&'a [u32]),
}

/// Columns of [`TransposedSource::Quantised`] that share scales and offsets.
pub(crate) const COLUMNS_PER_SCALE: usize = WIDTH / 2;

/// Words of scales and offsets in a group of [`TransposedSource::Quantised`].
pub(crate) const HEADER_WORDS: usize = 4 * WIDTH;

/// Words of a group of [`TransposedSource::Quantised`].
pub(crate) const GROUP_WORDS: usize = HEADER_WORDS + WIDTH / size_of::<u32>() * WIDTH;

multiversion! {
    /// Widens bfloat16 to floats.
    fn widen(from: &[u16], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = f32::from_bits(u32::from(*from) << 16);
        }
    }
}

multiversion! {
    /// Values times scales plus offsets, for steps of [`WIDTH`] rows.
    fn dequantise(values: &[i8], scales: &[f32], offsets: &[f32], to: &mut [f32]) {
        let (Some(scales), Some(offsets)) = (scales.first_chunk::<WIDTH>(), offsets.first_chunk::<WIDTH>()) else {
            return;
        };
        for (to, values) in to.as_chunks_mut::<WIDTH>().0.iter_mut().zip(values.as_chunks::<WIDTH>().0) {
            for j in 0..WIDTH {
                to[j] = mul_add::<FUSED>(f32::from(values[j]), scales[j], offsets[j]);
            }
        }
    }
}

multiversion! {
    /// As [`dequantise`], in steps of two columns rounded to bfloat16.
    fn dequantise_pairs(values: &[i8], scales: &[f32], offsets: &[f32], to: &mut [u32]) {
        let (Some(scales), Some(offsets)) = (scales.first_chunk::<WIDTH>(), offsets.first_chunk::<WIDTH>()) else {
            return;
        };
        let (first, second) = if cfg!(target_endian = "little") { (0, 16) } else { (16, 0) };
        for (to, values) in to.as_chunks_mut::<WIDTH>().0.iter_mut().zip(values.as_chunks::<{ 2 * WIDTH }>().0) {
            for j in 0..WIDTH {
                let weight = |value| mul_add::<FUSED>(f32::from(value), scales[j], offsets[j]);
                let [even, odd] = [weight(values[j]), weight(values[WIDTH + j])];
                to[j] = bf16_bits(even) << first | bf16_bits(odd) << second;
            }
        }
    }
}
