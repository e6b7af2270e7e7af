//! Packing weights into storage, on all threads of the current pool.

use super::Storage;
use super::format::{CodeTable, QuantBlocks, StorageFormat};
use crate::checked_area;
use crate::element::Element;
use crate::memory::{Lines, Memory, OutOfMemory, Plain, view, view_mut};
use crate::panel::{self, WIDTH};
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::ops::Range;

/// The 16-bit formats that may hold `f32` weights without loss.
const HALF_WIDTH: [StorageFormat; 2] = [StorageFormat::Bf16, StorageFormat::F16];

/// Why packing ended early.
enum Stop<Err> {
    /// The format would lose digits.
    Lossy,
    /// Weights could not be read, or do not fit into memory.
    Failed(Err),
}

impl<Err: From<OutOfMemory>> From<OutOfMemory> for Stop<Err> {
    fn from(error: OutOfMemory) -> Self {
        Self::Failed(error.into())
    }
}

/// Scratch memory of one thread while it packs floats.
#[derive(Default)]
struct FloatScratch {
    rows: Vec<f32>,
    rounded: Vec<u32>,
    panel: Lines,
}

impl FloatScratch {
    fn read<Err>(
        &mut self,
        rows: Range<usize>,
        k: usize,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), Err>,
    ) -> Result<(), Err> {
        self.rows.resize(rows.len() * k, 0.0);
        fill(rows, &mut self.rows)
    }

    /// Whether a 16-bit format holds the rows without loss.
    fn fits(&self, format: StorageFormat) -> bool {
        match format {
            StorageFormat::Bf16 => self.rows.iter().all(|w| w.to_bits().trailing_zeros() >= 16),
            _ => self.rows.iter().all(|w| f16::from_f32(*w).to_f32().to_bits() == w.to_bits()),
        }
    }
}

/// Scratch memory of one thread while it packs quantised weights.
#[derive(Default)]
struct QuantScratch {
    values: Vec<i8>,
    scales: Vec<f32>,
    offsets: Vec<f32>,
    /// The values of a block, column by column.
    columns: Vec<i8>,
}

/// The integers of the 4-bit formats: signed and unsigned ones, those of IQ4_NL and IQ4_XS, and twice the floats of MXFP4.
const TABLES: [&CodeTable; 4] = [
    &[-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7],
    &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    &[-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113],
    &[0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12],
];

/// The code of each integer.
struct Codes([Option<u8>; 256]);

impl Codes {
    fn of(table: &CodeTable) -> Self {
        let mut codes = [None; 256];
        // Of equal integers the first code counts.
        for (code, value) in table.iter().enumerate().rev() {
            codes[usize::from(value.cast_unsigned())] = Some(code as u8);
        }
        Self(codes)
    }

    /// Packs pairs of columns of [`WIDTH`] integers, of which the first `rows` count; or `None` if one has no code.
    fn pack(&self, columns: &[i8], rows: usize, to: &mut [u8]) -> Option<()> {
        let code = |value: i8| self.0[usize::from(value.cast_unsigned())];
        for (pair, to) in columns.as_chunks::<{ 2 * WIDTH }>().0.iter().zip(to.as_chunks_mut::<WIDTH>().0) {
            for (j, to) in to.iter_mut().enumerate().take(rows) {
                *to = code(pair[j])? | code(pair[WIDTH + j])? << 4;
            }
        }
        Some(())
    }
}

impl Storage {
    /// Packs `n` rows of `k` floats as panels. `fill(rows, block)` writes the given rows, at most
    /// [`WIDTH`], into `block`.
    ///
    /// # Errors
    /// The first error of `fill`, or [`OutOfMemory`].
    pub(crate) fn panels<E: Element, Err: Send + From<OutOfMemory>>(
        n: usize,
        k: usize,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), Err> + Sync,
    ) -> Result<Self, Err> {
        let words = panel::words_per_panel::<E>(k);
        Self::build::<E, _, _>(n, StorageFormat::Panels, words, |scratch: &mut FloatScratch, rows, to| {
            scratch.read(rows, k, &fill)?;
            panel::pack::<E>(&scratch.rows, k, &mut scratch.rounded, to);
            Ok(())
        })
    }

    /// Packs `n` rows of `k` floats in the smallest lossless format. As [`Self::panels`], but `fill`
    /// may be called several times for the same rows.
    ///
    /// # Errors
    /// As [`Self::panels`].
    pub(crate) fn floats<Err: Send + From<OutOfMemory>>(
        n: usize,
        k: usize,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), Err> + Sync,
    ) -> Result<Self, Err> {
        // A lossy format is mostly detected in the first rows.
        for format in HALF_WIDTH {
            match Self::half_width(n, k, format, &fill) {
                Ok(storage) => return Ok(storage),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Lossy) => {}
            }
        }
        Self::panels::<f32, _>(n, k, fill)
    }

    /// Packs floats in a 16-bit format, or stops at the first that it cannot hold.
    fn half_width<Err: Send + From<OutOfMemory>>(
        n: usize,
        k: usize,
        format: StorageFormat,
        fill: &(impl Fn(Range<usize>, &mut [f32]) -> Result<(), Err> + Sync),
    ) -> Result<Self, Stop<Err>> {
        let words = checked_area(k, format.words(1));
        Self::build::<f32, _, _>(n, format, words, |scratch: &mut FloatScratch, rows, to| {
            scratch.read(rows, k, fill).map_err(Stop::Failed)?;
            if !scratch.fits(format) {
                return Err(Stop::Lossy);
            }
            scratch.panel.resize(checked_area(k, WIDTH));
            // Rows beyond the last are zero.
            scratch.panel.fill(0);
            panel::pack::<f32>(&scratch.rows, k, &mut scratch.rounded, &mut scratch.panel);
            let panel: &[f32] = view(&scratch.panel);
            match format {
                StorageFormat::Bf16 => {
                    let halves = panel.iter().map(|w| (w.to_bits() >> 16) as u16);
                    view_mut(to).iter_mut().zip(halves).for_each(|(to, half)| *to = half);
                }
                _ => view_mut::<f16>(to).convert_from_f32_slice(panel),
            }
            Ok(())
        })
    }

    /// Packs `n` rows of `k` quantised weights in blocks of `columns`, to be decoded into panels of
    /// `E`: as codes of 4 bits if their integers allow. `fill(rows, blocks)` writes the given rows, at most [`WIDTH`], and
    /// may be called several times for the same rows.
    ///
    /// # Errors
    /// The first error of `fill`, or [`OutOfMemory`].
    ///
    /// # Panics
    /// When `columns` is not a multiple of 4 that divides `k`, `k` does not fill the steps of a panel,
    /// or a scale or an offset is not finite.
    pub(crate) fn blocks<E: Element, Err: Send + From<OutOfMemory>>(
        n: usize,
        k: usize,
        columns: usize,
        fill: impl Fn(Range<usize>, QuantBlocks<'_>) -> Result<(), Err> + Sync,
    ) -> Result<Self, Err> {
        assert!(
            columns > 0 && columns.is_multiple_of(4) && k.is_multiple_of(columns),
            "blocks must fill rows"
        );
        assert_eq!(checked_area(panel::k_steps::<E>(k), E::GROUP), k, "rows must fill the steps of a panel");
        // A value that a table lacks is mostly found in the first rows.
        for table in TABLES {
            match Self::blocks_as::<E, _>(n, k, columns, Some(table), &fill) {
                Ok(storage) => return Ok(storage),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Lossy) => {}
            }
        }
        match Self::blocks_as::<E, _>(n, k, columns, None, &fill) {
            Ok(storage) => Ok(storage),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Lossy) => unreachable!("bytes hold themselves"),
        }
    }

    /// Packs quantised weights as the codes of a table, or as bytes without one; or stops at the first value that the
    /// table lacks.
    fn blocks_as<E: Element, Err: Send + From<OutOfMemory>>(
        n: usize,
        k: usize,
        columns: usize,
        table: Option<&CodeTable>,
        fill: &(impl Fn(Range<usize>, QuantBlocks<'_>) -> Result<(), Err> + Sync),
    ) -> Result<Self, Stop<Err>> {
        let format = match table {
            Some(_) => StorageFormat::Coded(columns),
            None => StorageFormat::Quantised(columns),
        };
        let codes = table.map(Codes::of);
        let count = k / columns;
        let words = checked_area(count, format.words(columns));
        let built = Self::build::<E, _, _>(n, format, words, |scratch: &mut QuantScratch, rows, to| {
            let QuantScratch { values, scales, offsets, columns: pair } = scratch;
            values.resize(rows.len() * k, 0);
            scales.resize(rows.len() * count, 0.0);
            offsets.resize(rows.len() * count, 0.0);
            fill(rows, QuantBlocks { values, scales, offsets }).map_err(Stop::Failed)?;
            assert!(
                scales.iter().chain(&*offsets).all(|x| x.is_finite()),
                "scales and offsets must be finite"
            );
            for (b, to) in to.chunks_exact_mut(format.words(columns)).enumerate() {
                let (to_scales, to) = to.split_at_mut(WIDTH);
                let (to_offsets, to_values) = to.split_at_mut(WIDTH);
                transpose_rows(&scales[b..], count, view_mut(to_scales), 1);
                transpose_rows(&offsets[b..], count, view_mut(to_offsets), 1);
                let Some(codes) = &codes else {
                    transpose_rows(&values[b * columns..], k, view_mut(to_values), columns);
                    continue;
                };
                pair.resize(columns * WIDTH, 0);
                // Rows beyond the last have any code, and scales and offsets of zero.
                transpose_rows(&values[b * columns..], k, pair, columns);
                let rows = values.len() / k;
                codes.pack(pair, rows, view_mut(to_values)).ok_or(Stop::Lossy)?;
            }
            Ok(())
        });
        built.map(|storage| Self { table: table.copied().unwrap_or_default(), ..storage })
    }

    /// Calls `pack` for every group of rows, each thread with a scratch buffer of its own.
    fn build<E: Element, Scratch: Default, Err: Send + From<OutOfMemory>>(
        n: usize,
        format: StorageFormat,
        group_words: usize,
        pack: impl Fn(&mut Scratch, Range<usize>, &mut [u32]) -> Result<(), Err> + Sync,
    ) -> Result<Self, Err> {
        let mut words = Memory::zeroed(checked_area(n.div_ceil(WIDTH), group_words))?;
        words
            .par_chunks_exact_mut(group_words)
            .enumerate()
            .try_for_each_init(Scratch::default, |scratch, (group, to)| {
                pack(scratch, group * WIDTH..((group + 1) * WIDTH).min(n), to)
            })?;
        Ok(Self { format, columns_per_step: E::GROUP, group_words, words, table: [0; 16] })
    }
}

/// Transposes `columns` columns of up to [`WIDTH`] rows `stride` elements apart:
/// `to[column * WIDTH + row]`. Rows beyond the last keep what `to` held.
fn transpose_rows<T: Plain>(rows: &[T], stride: usize, to: &mut [T], columns: usize) {
    for (j, row) in rows.chunks(stride).take(WIDTH).enumerate() {
        for (column, value) in row[..columns].iter().enumerate() {
            to[column * WIDTH + j] = *value;
        }
    }
}
