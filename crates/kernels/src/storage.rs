//! Weights as they lie in memory, and the panels made of them.
//!
//! A model's weights seldom have all the digits of `f32`: checkpoints are written in 16 bits, or as
//! small whole numbers with a scale for every 16 or 32 of them. Kept like this, they take from half to
//! less than a third of the memory; a panel is made of them when it is multiplied, in the
//! second-level cache, and serves all rows of a job. For products in `f32` no bit of a weight is lost.
//!
//! Whatever the format, a group of [`WIDTH`] rows of the matrix lies together, in the order of k.

use crate::checked_area;
use crate::cpu::{mul_add, multiversion};
use crate::memory::{Lines, Memory, Plain, view, view_mut};
use crate::panel::{self, Element, WIDTH, nearest};
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::ops::Range;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StorageFormat {
    /// As panels: floats, or pairs of bfloat16.
    Panels,
    /// The upper halves of floats whose lower halves are zero.
    Bf16,
    /// 16-bit floats of IEEE 754.
    F16,
    /// So many columns at a time: a scale and an offset for each row, and then the whole numbers.
    Quantised(usize),
}

/// The 16-bit types that `f32` weights may be without loss.
const HALVES: [StorageFormat; 2] = [StorageFormat::Bf16, StorageFormat::F16];

/// Some rows of quantised weights, row by row: each weight is a small whole number times the scale
/// of its block of columns, plus that block's offset.
pub struct QuantBlocks<'a> {
    /// `[rows, k]`.
    pub values: &'a mut [i8],
    /// `[rows, k / columns of a block]`, finite. Where a block has an offset, the products of its
    /// scale with its values must be exact in `f32`, so that each weight is rounded once at most.
    pub scales: &'a mut [f32],
    /// As `scales`.
    pub offsets: &'a mut [f32],
}

impl QuantBlocks<'_> {
    /// Some of the rows, of so many in all.
    ///
    /// # Panics
    /// When there are not so many, or none at all.
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

/// The weights of a layer.
pub(crate) struct Storage {
    format: StorageFormat,
    /// PanelSource that make a step of a panel.
    columns_per_step: usize,
    /// Words of a group of rows.
    group_words: usize,
    words: Memory,
}

/// Steps of a group's panel, or what they are made of.
pub(crate) enum StoredPanel<'a> {
    /// The panel itself.
    Packed(&'a [u32]),
    /// The upper halves of floats.
    Bf16(&'a [u16]),
    /// 16-bit floats.
    F16(&'a [f16]),
    /// Whole numbers in blocks.
    Quantised(QuantView<'a>),
}

/// Whole numbers of a group of rows in blocks.
#[derive(Clone, Copy)]
pub(crate) struct QuantView<'a> {
    /// Whole blocks: scales, offsets, values.
    pub(crate) from: &'a [u32],
    /// PanelSource of a block.
    pub(crate) columns: usize,
    /// PanelSource of the first block that are not wanted.
    pub(crate) skip: usize,
    /// Wanted steps, from there on.
    pub(crate) steps: usize,
    /// 1 for panels of floats, 2 for those of pairs of bfloat16, which the weights are rounded to.
    pub(crate) columns_per_step: usize,
}

impl StoredPanel<'_> {
    /// Steps of the panel that is made.
    pub(crate) fn steps(&self) -> usize {
        match self {
            Self::Packed(words) => words.len() / WIDTH,
            Self::Bf16(halves) => halves.len() / WIDTH,
            Self::F16(halves) => halves.len() / WIDTH,
            Self::Quantised(numbers) => numbers.steps,
        }
    }

    /// Makes the panel in the first part of `room`.
    ///
    /// # Panics
    /// When that is too short.
    pub(crate) fn write(&self, room: &mut [u32]) {
        let to = &mut room[..self.steps() * WIDTH];
        match *self {
            Self::Packed(words) => to.copy_from_slice(words),
            Self::Bf16(halves) => widen(halves, view_mut(to)),
            Self::F16(halves) => halves.convert_to_f32_slice(view_mut(to)),
            Self::Quantised(numbers) => numbers.write(to),
        }
    }
}

impl QuantView<'_> {
    fn write(&self, mut to: &mut [u32]) {
        let mut skip = self.skip;
        for block in self.from.chunks_exact(StorageFormat::Quantised(self.columns).words(self.columns)) {
            let (scales, block) = block.split_at(WIDTH);
            let (offsets, values) = block.split_at(WIDTH);
            let (scales, offsets) = (view(scales), view(offsets));
            let values = &view::<i8>(values)[skip * WIDTH..];
            let words = to.len().min(values.len() / self.columns_per_step);
            let (made, rest) = to.split_at_mut(words);
            match self.columns_per_step {
                1 => scale(values, scales, offsets, view_mut(made)),
                _ => scale_pairs(values, scales, offsets, made),
            }
            (to, skip) = (rest, 0);
        }
    }
}

/// Why packing ended early.
enum Stop<Err> {
    /// The form would lose digits.
    Lossy,
    /// Weights could not be read.
    Failed(Err),
}

impl Storage {
    /// Packs `n` rows of `k` floats as panels of elements. `fill(rows, block)` writes rows, at most
    /// [`WIDTH`], into `block`.
    ///
    /// # Errors
    /// The first error that `fill` returns.
    pub(crate) fn panels<E: Element, Err: Send>(
        n: usize,
        k: usize,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), Err> + Sync,
    ) -> Result<Self, Err> {
        Self::build::<E, _, _>(
            n,
            StorageFormat::Panels,
            panel::words_per_panel::<E>(k),
            |room: &mut PackScratch, rows, to| {
                room.read(rows, k, &fill)?;
                panel::pack::<E>(&room.rows, k, &mut room.words, to);
                Ok(())
            },
        )
    }

    /// Packs `n` rows of `k` floats in the smallest form that loses no bit. As [`Self::panels`], but
    /// `fill` may be called several times for the same rows.
    ///
    /// # Errors
    /// As [`Self::panels`].
    pub(crate) fn floats<Err: Send>(
        n: usize,
        k: usize,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), Err> + Sync,
    ) -> Result<Self, Err> {
        // Weights with more digits mostly show them in the first rows.
        for format in HALVES {
            match Self::halves(n, k, format, &fill) {
                Ok(storage) => return Ok(storage),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Lossy) => {}
            }
        }
        Self::panels::<f32, _>(n, k, fill)
    }

    fn halves<Err: Send>(
        n: usize,
        k: usize,
        format: StorageFormat,
        fill: &(impl Fn(Range<usize>, &mut [f32]) -> Result<(), Err> + Sync),
    ) -> Result<Self, Stop<Err>> {
        Self::build::<f32, _, _>(
            n,
            format,
            checked_area(k, format.words(1)),
            |room: &mut PackScratch, rows, to| {
                room.read(rows, k, fill).map_err(Stop::Failed)?;
                let exact = match format {
                    StorageFormat::Bf16 => room.rows.iter().all(|w| w.to_bits().trailing_zeros() >= 16),
                    _ => room.rows.iter().all(|w| f16::from_f32(*w).to_f32().to_bits() == w.to_bits()),
                };
                if !exact {
                    return Err(Stop::Lossy);
                }
                room.panel.resize(checked_area(k, WIDTH));
                // Rows that do not exist are zero.
                room.panel.fill(0);
                panel::pack::<f32>(&room.rows, k, &mut room.words, &mut room.panel);
                let panel: &[f32] = view(&room.panel);
                match format {
                    StorageFormat::Bf16 => {
                        let halves = panel.iter().map(|w| (w.to_bits() >> 16) as u16);
                        view_mut(to).iter_mut().zip(halves).for_each(|(to, half)| *to = half);
                    }
                    _ => view_mut::<f16>(to).convert_from_f32_slice(panel),
                }
                Ok(())
            },
        )
    }

    /// Packs `n` rows of `k` whole numbers in blocks of `columns`, of which panels of elements will be
    /// made. `fill(rows, blocks)` writes rows, at most [`WIDTH`].
    ///
    /// # Errors
    /// The first error that `fill` returns.
    ///
    /// # Panics
    /// When `columns` is no multiple of 4 that divides `k`, `k` does not fill the steps of a
    /// panel, or a scale or an offset is not finite.
    pub(crate) fn blocks<E: Element, Err: Send>(
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
        let format = StorageFormat::Quantised(columns);
        let group_words = checked_area(k / columns, format.words(columns));
        let count = k / columns;
        type QuantScratch = (Vec<i8>, Vec<f32>, Vec<f32>);
        Self::build::<E, _, _>(
            n,
            format,
            group_words,
            |(values, scales, offsets): &mut QuantScratch, rows, to| {
                values.resize(rows.len() * k, 0);
                scales.resize(rows.len() * count, 0.0);
                offsets.resize(rows.len() * count, 0.0);
                fill(rows, QuantBlocks { values, scales, offsets })?;
                assert!(
                    scales.iter().chain(&*offsets).all(|x| x.is_finite()),
                    "scales and offsets must be finite"
                );
                for (b, to) in to.chunks_exact_mut(format.words(columns)).enumerate() {
                    let (to_scales, to) = to.split_at_mut(WIDTH);
                    let (to_offsets, to_values) = to.split_at_mut(WIDTH);
                    transpose_rows(&scales[b..], count, view_mut(to_scales), 1);
                    transpose_rows(&offsets[b..], count, view_mut(to_offsets), 1);
                    transpose_rows(&values[b * columns..], k, view_mut(to_values), columns);
                }
                Ok(())
            },
        )
    }

    /// Fills each group's memory on some thread of the pool, with room that serves several of them.
    fn build<E: Element, Room: Default, Err: Send>(
        n: usize,
        format: StorageFormat,
        group_words: usize,
        pack: impl Fn(&mut Room, Range<usize>, &mut [u32]) -> Result<(), Err> + Sync,
    ) -> Result<Self, Err> {
        let mut words = Memory::zeroed(checked_area(n.div_ceil(WIDTH), group_words));
        words
            .par_chunks_exact_mut(group_words)
            .enumerate()
            .try_for_each_init(Room::default, |room, (group, to)| {
                pack(room, group * WIDTH..((group + 1) * WIDTH).min(n), to)
            })?;
        Ok(Self { format, columns_per_step: E::GROUP, group_words, words })
    }

    /// Bytes of the weights.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.words[..])
    }

    /// How the weights are stored.
    pub(crate) fn format(&self) -> StorageFormat {
        self.format
    }

    /// Whether panels are there and need not be made.
    pub(crate) fn is_panels(&self) -> bool {
        self.format == StorageFormat::Panels
    }

    /// The memory in which some steps of a group's panel lie, or that from which they are made.
    pub(crate) fn stored(&self, group: usize, steps: Range<usize>) -> &[u32] {
        let words = match self.format {
            StorageFormat::Panels => steps.start * WIDTH..steps.end * WIDTH,
            format @ (StorageFormat::Bf16 | StorageFormat::F16) => {
                steps.start * format.words(1)..steps.end * format.words(1)
            }
            format @ StorageFormat::Quantised(columns) => {
                let (first, end) = (steps.start * self.columns_per_step, steps.end * self.columns_per_step);
                first / columns * format.words(columns)..end.div_ceil(columns) * format.words(columns)
            }
        };
        &self.words[group * self.group_words..(group + 1) * self.group_words][words]
    }

    /// Some steps of a group's panel, or what they are made of.
    pub(crate) fn source(&self, group: usize, steps: Range<usize>) -> StoredPanel<'_> {
        let from = self.stored(group, steps.clone());
        match self.format {
            StorageFormat::Panels => StoredPanel::Packed(from),
            StorageFormat::Bf16 => StoredPanel::Bf16(view(from)),
            StorageFormat::F16 => StoredPanel::F16(view(from)),
            StorageFormat::Quantised(columns) => StoredPanel::Quantised(QuantView {
                from,
                columns,
                skip: steps.start * self.columns_per_step % columns,
                steps: steps.len(),
                columns_per_step: self.columns_per_step,
            }),
        }
    }

    /// Reads one row of the matrix.
    pub(crate) fn row<E: Element>(&self, row: usize, out: &mut [f32]) {
        let (group, j) = (row / WIDTH, row % WIDTH);
        let words = &self.words[group * self.group_words..(group + 1) * self.group_words];
        match self.format {
            StorageFormat::Panels => {
                let elements: &[E] = view(words);
                for (out, step) in out.chunks_mut(E::GROUP).zip(elements.chunks_exact(WIDTH * E::GROUP)) {
                    out.iter_mut().zip(&step[j * E::GROUP..]).for_each(|(out, e)| *out = e.to_f32());
                }
            }
            StorageFormat::Bf16 => {
                let halves = view::<u16>(words).iter().skip(j).step_by(WIDTH);
                out.iter_mut().zip(halves).for_each(|(out, h)| *out = f32::from_bits(u32::from(*h) << 16));
            }
            StorageFormat::F16 => {
                let halves = view::<f16>(words).iter().skip(j).step_by(WIDTH);
                out.iter_mut().zip(halves).for_each(|(out, h)| *out = h.to_f32());
            }
            StorageFormat::Quantised(columns) => {
                let blocks = words.chunks_exact(self.format.words(columns));
                for (out, block) in out.chunks_exact_mut(columns).zip(blocks) {
                    let (header, values) = block.split_at(2 * WIDTH);
                    let header: &[f32] = view(header);
                    let values = view::<i8>(values).iter().skip(j).step_by(WIDTH);
                    for (out, value) in out.iter_mut().zip(values) {
                        let weight = f32::from(*value) * header[j] + header[WIDTH + j];
                        *out = E::from_f32(weight).to_f32();
                    }
                }
            }
        }
    }

    /// Some steps of a group's panel, made in `room` if need be.
    pub(crate) fn panel<'a>(&'a self, group: usize, steps: Range<usize>, room: &'a mut Lines) -> &'a [u32] {
        let words = checked_area(steps.len(), WIDTH);
        match self.source(group, steps) {
            StoredPanel::Packed(panel) => panel,
            source => {
                room.resize(words);
                source.write(room);
                &room[..words]
            }
        }
    }
}

impl StorageFormat {
    /// Words that so many columns take, whole blocks of them, in a form other than panels.
    pub(crate) fn words(self, columns: usize) -> usize {
        match self {
            Self::Panels => checked_area(columns, WIDTH),
            Self::Bf16 | Self::F16 => checked_area(columns, WIDTH / 2),
            Self::Quantised(block) => {
                checked_area(columns / block, 2 * WIDTH) + checked_area(columns, WIDTH / 4)
            }
        }
    }
}

/// Room for packing floats.
#[derive(Default)]
struct PackScratch {
    rows: Vec<f32>,
    words: Vec<u32>,
    panel: Lines,
}

impl PackScratch {
    fn read<Err>(
        &mut self,
        rows: Range<usize>,
        k: usize,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), Err>,
    ) -> Result<(), Err> {
        self.rows.resize(rows.len() * k, 0.0);
        fill(rows, &mut self.rows)
    }
}

/// Turns `columns` of rows `stride` apart over: `to[column * WIDTH + row]`. Rows that do not exist are left.
fn transpose_rows<T: Plain>(rows: &[T], stride: usize, to: &mut [T], columns: usize) {
    for (j, row) in rows.chunks(stride).take(WIDTH).enumerate() {
        for (column, value) in row[..columns].iter().enumerate() {
            to[column * WIDTH + j] = *value;
        }
    }
}

multiversion! {
    /// Decode from their upper halves.
    fn widen(from: &[u16], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = f32::from_bits(u32::from(*from) << 16);
        }
    }
}

multiversion! {
    /// Steps of whole numbers times the scales, plus the offsets, of [`WIDTH`] rows.
    fn scale(values: &[i8], scales: &[f32], offsets: &[f32], to: &mut [f32]) {
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
    /// As [`scale`], in steps of two columns, rounded to the nearest bfloat16.
    fn scale_pairs(values: &[i8], scales: &[f32], offsets: &[f32], to: &mut [u32]) {
        let (Some(scales), Some(offsets)) = (scales.first_chunk::<WIDTH>(), offsets.first_chunk::<WIDTH>()) else {
            return;
        };
        let (first, second) = if cfg!(target_endian = "little") { (0, 16) } else { (16, 0) };
        for (to, values) in to.as_chunks_mut::<WIDTH>().0.iter_mut().zip(values.as_chunks::<{ 2 * WIDTH }>().0) {
            for j in 0..WIDTH {
                let weight = |value| mul_add::<FUSED>(f32::from(value), scales[j], offsets[j]);
                let [even, odd] = [weight(values[j]), weight(values[WIDTH + j])];
                to[j] = nearest(even) << first | nearest(odd) << second;
            }
        }
    }
}
