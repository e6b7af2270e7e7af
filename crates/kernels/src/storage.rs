//! Weights as they lie in memory, and the panels made of them.
//!
//! A model's weights seldom have all the digits of `f32`: checkpoints are written in 16 bits, or as
//! small whole numbers with a scale for every 16 or 32 of them. Kept like this, they take from half to
//! less than a third of the memory; a panel is made of them when it is multiplied, in the
//! second-level cache, and serves all rows of a job. For products in `f32` no bit of a weight is lost.
//!
//! Whatever the form, a group of [`WIDTH`] rows of the matrix lies together, in the order of k.

use crate::cpu::{mul_add, multiversion};
use crate::memory::{Lines, Memory, Plain, view, view_mut};
use crate::panel::{self, Element, WIDTH, nearest};
use crate::product;
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::ops::Range;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As panels: floats, or pairs of bfloat16.
    Panels,
    /// The upper halves of floats whose lower halves are zero.
    Upper,
    /// 16-bit floats of IEEE 754.
    Half,
    /// So many columns at a time: a scale and an offset for each row, and then the whole numbers.
    Blocks(usize),
}

/// The 16-bit types that `f32` weights may be without loss.
const HALVES: [Form; 2] = [Form::Upper, Form::Half];

/// Some rows of quantised weights, row by row: each weight is a small whole number times the scale
/// of its block of columns, plus that block's offset.
pub struct Blocks<'a> {
    /// `[rows, k]`.
    pub values: &'a mut [i8],
    /// `[rows, k / columns of a block]`, finite. Where a block has an offset, the products of its
    /// scale with its values must be exact in `f32`, so that each weight is rounded once at most.
    pub scales: &'a mut [f32],
    /// As `scales`.
    pub offsets: &'a mut [f32],
}

impl Blocks<'_> {
    /// Some of the rows, of so many in all.
    ///
    /// # Panics
    /// When there are not so many, or none at all.
    pub fn rows(&mut self, rows: Range<usize>, all: usize) -> Blocks<'_> {
        let part = |len: usize| rows.start * (len / all)..rows.end * (len / all);
        let (values, scales) = (part(self.values.len()), part(self.scales.len()));
        Blocks {
            values: &mut self.values[values],
            scales: &mut self.scales[scales.clone()],
            offsets: &mut self.offsets[scales],
        }
    }
}

/// The weights of a layer.
pub(crate) struct Storage {
    form: Form,
    /// Columns that make a step of a panel.
    columns_a_step: usize,
    /// Units of a group of rows.
    size: usize,
    units: Memory,
}

/// Steps of a group's panel, or what they are made of.
pub(crate) enum Source<'a> {
    /// The panel itself.
    Panels(&'a [u32]),
    /// The upper halves of floats.
    Upper(&'a [u16]),
    /// 16-bit floats.
    Half(&'a [f16]),
    /// Whole numbers in blocks.
    Blocks(Numbers<'a>),
}

/// Whole numbers of a group of rows in blocks.
#[derive(Clone, Copy)]
pub(crate) struct Numbers<'a> {
    /// Whole blocks: scales, offsets, values.
    pub(crate) from: &'a [u32],
    /// Columns of a block.
    pub(crate) columns: usize,
    /// Columns of the first block that are not wanted.
    pub(crate) skip: usize,
    /// Wanted steps, from there on.
    pub(crate) steps: usize,
    /// 1 for panels of floats, 2 for those of pairs of bfloat16, which the weights are rounded to.
    pub(crate) columns_a_step: usize,
}

impl Source<'_> {
    /// Steps of the panel that is made.
    pub(crate) fn steps(&self) -> usize {
        match self {
            Self::Panels(units) => units.len() / WIDTH,
            Self::Upper(halves) => halves.len() / WIDTH,
            Self::Half(halves) => halves.len() / WIDTH,
            Self::Blocks(numbers) => numbers.steps,
        }
    }

    /// Makes the panel in the first part of `room`.
    ///
    /// # Panics
    /// When that is too short.
    pub(crate) fn write(&self, room: &mut [u32]) {
        let to = &mut room[..self.steps() * WIDTH];
        match *self {
            Self::Panels(units) => to.copy_from_slice(units),
            Self::Upper(halves) => widen(halves, view_mut(to)),
            Self::Half(halves) => halves.convert_to_f32_slice(view_mut(to)),
            Self::Blocks(numbers) => numbers.write(to),
        }
    }
}

impl Numbers<'_> {
    fn write(&self, mut to: &mut [u32]) {
        let mut skip = self.skip;
        for block in self.from.chunks_exact(Form::Blocks(self.columns).units(self.columns)) {
            let (scales, block) = block.split_at(WIDTH);
            let (offsets, values) = block.split_at(WIDTH);
            let (scales, offsets) = (view(scales), view(offsets));
            let values = &view::<i8>(values)[skip * WIDTH..];
            let units = to.len().min(values.len() / self.columns_a_step);
            let (made, rest) = to.split_at_mut(units);
            match self.columns_a_step {
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
        Self::build::<E, _, _>(n, Form::Panels, panel::size::<E>(k), |room: &mut Room, rows, to| {
            room.read(rows, k, &fill)?;
            panel::pack::<E>(&room.rows, k, &mut room.units, to);
            Ok(())
        })
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
        for form in HALVES {
            match Self::halves(n, k, form, &fill) {
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
        form: Form,
        fill: &(impl Fn(Range<usize>, &mut [f32]) -> Result<(), Err> + Sync),
    ) -> Result<Self, Stop<Err>> {
        Self::build::<f32, _, _>(n, form, product(k, form.units(1)), |room: &mut Room, rows, to| {
            room.read(rows, k, fill).map_err(Stop::Failed)?;
            let exact = match form {
                Form::Upper => room.rows.iter().all(|w| w.to_bits().trailing_zeros() >= 16),
                _ => room.rows.iter().all(|w| f16::from_f32(*w).to_f32().to_bits() == w.to_bits()),
            };
            if !exact {
                return Err(Stop::Lossy);
            }
            room.panel.resize(product(k, WIDTH));
            // Rows that do not exist are zero.
            room.panel.fill(0);
            panel::pack::<f32>(&room.rows, k, &mut room.units, &mut room.panel);
            let panel: &[f32] = view(&room.panel);
            match form {
                Form::Upper => {
                    let halves = panel.iter().map(|w| (w.to_bits() >> 16) as u16);
                    view_mut(to).iter_mut().zip(halves).for_each(|(to, half)| *to = half);
                }
                _ => view_mut::<f16>(to).convert_from_f32_slice(panel),
            }
            Ok(())
        })
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
        fill: impl Fn(Range<usize>, Blocks<'_>) -> Result<(), Err> + Sync,
    ) -> Result<Self, Err> {
        assert!(
            columns > 0 && columns.is_multiple_of(4) && k.is_multiple_of(columns),
            "blocks must fill rows"
        );
        assert_eq!(product(panel::steps::<E>(k), E::GROUP), k, "rows must fill the steps of a panel");
        let form = Form::Blocks(columns);
        let size = product(k / columns, form.units(columns));
        let count = k / columns;
        type Room = (Vec<i8>, Vec<f32>, Vec<f32>);
        Self::build::<E, _, _>(n, form, size, |(values, scales, offsets): &mut Room, rows, to| {
            values.resize(rows.len() * k, 0);
            scales.resize(rows.len() * count, 0.0);
            offsets.resize(rows.len() * count, 0.0);
            fill(rows, Blocks { values, scales, offsets })?;
            assert!(
                scales.iter().chain(&*offsets).all(|x| x.is_finite()),
                "scales and offsets must be finite"
            );
            for (b, to) in to.chunks_exact_mut(form.units(columns)).enumerate() {
                let (to_scales, to) = to.split_at_mut(WIDTH);
                let (to_offsets, to_values) = to.split_at_mut(WIDTH);
                turn(&scales[b..], count, view_mut(to_scales), 1);
                turn(&offsets[b..], count, view_mut(to_offsets), 1);
                turn(&values[b * columns..], k, view_mut(to_values), columns);
            }
            Ok(())
        })
    }

    /// Fills each group's memory on some thread of the pool, with room that serves several of them.
    fn build<E: Element, Room: Default, Err: Send>(
        n: usize,
        form: Form,
        size: usize,
        pack: impl Fn(&mut Room, Range<usize>, &mut [u32]) -> Result<(), Err> + Sync,
    ) -> Result<Self, Err> {
        let mut units = Memory::zeroed(product(n.div_ceil(WIDTH), size));
        units
            .par_chunks_exact_mut(size)
            .enumerate()
            .try_for_each_init(Room::default, |room, (group, to)| {
                pack(room, group * WIDTH..((group + 1) * WIDTH).min(n), to)
            })?;
        Ok(Self { form, columns_a_step: E::GROUP, size, units })
    }

    /// Bytes of the weights.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.units[..])
    }

    /// How the weights are stored.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Whether panels are there and need not be made.
    pub(crate) fn is_panels(&self) -> bool {
        self.form == Form::Panels
    }

    /// The memory in which some steps of a group's panel lie, or that from which they are made.
    pub(crate) fn stored(&self, group: usize, steps: Range<usize>) -> &[u32] {
        let units = match self.form {
            Form::Panels => steps.start * WIDTH..steps.end * WIDTH,
            form @ (Form::Upper | Form::Half) => steps.start * form.units(1)..steps.end * form.units(1),
            form @ Form::Blocks(columns) => {
                let (first, end) = (steps.start * self.columns_a_step, steps.end * self.columns_a_step);
                first / columns * form.units(columns)..end.div_ceil(columns) * form.units(columns)
            }
        };
        &self.units[group * self.size..(group + 1) * self.size][units]
    }

    /// Some steps of a group's panel, or what they are made of.
    pub(crate) fn source(&self, group: usize, steps: Range<usize>) -> Source<'_> {
        let from = self.stored(group, steps.clone());
        match self.form {
            Form::Panels => Source::Panels(from),
            Form::Upper => Source::Upper(view(from)),
            Form::Half => Source::Half(view(from)),
            Form::Blocks(columns) => Source::Blocks(Numbers {
                from,
                columns,
                skip: steps.start * self.columns_a_step % columns,
                steps: steps.len(),
                columns_a_step: self.columns_a_step,
            }),
        }
    }

    /// Reads one row of the matrix.
    pub(crate) fn row<E: Element>(&self, row: usize, out: &mut [f32]) {
        let (group, j) = (row / WIDTH, row % WIDTH);
        let units = &self.units[group * self.size..(group + 1) * self.size];
        match self.form {
            Form::Panels => {
                let elements: &[E] = view(units);
                for (out, step) in out.chunks_mut(E::GROUP).zip(elements.chunks_exact(WIDTH * E::GROUP)) {
                    out.iter_mut().zip(&step[j * E::GROUP..]).for_each(|(out, e)| *out = e.to_f32());
                }
            }
            Form::Upper => {
                let halves = view::<u16>(units).iter().skip(j).step_by(WIDTH);
                out.iter_mut().zip(halves).for_each(|(out, h)| *out = f32::from_bits(u32::from(*h) << 16));
            }
            Form::Half => {
                let halves = view::<f16>(units).iter().skip(j).step_by(WIDTH);
                out.iter_mut().zip(halves).for_each(|(out, h)| *out = h.to_f32());
            }
            Form::Blocks(columns) => {
                let blocks = units.chunks_exact(self.form.units(columns));
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
        let units = product(steps.len(), WIDTH);
        match self.source(group, steps) {
            Source::Panels(panel) => panel,
            source => {
                room.resize(units);
                source.write(room);
                &room[..units]
            }
        }
    }
}

impl Form {
    /// Units that so many columns take, whole blocks of them, in a form other than panels.
    pub(crate) fn units(self, columns: usize) -> usize {
        match self {
            Self::Panels => product(columns, WIDTH),
            Self::Upper | Self::Half => product(columns, WIDTH / 2),
            Self::Blocks(block) => product(columns / block, 2 * WIDTH) + product(columns, WIDTH / 4),
        }
    }
}

/// Room for packing floats.
#[derive(Default)]
struct Room {
    rows: Vec<f32>,
    units: Vec<u32>,
    panel: Lines,
}

impl Room {
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
fn turn<T: Plain>(rows: &[T], stride: usize, to: &mut [T], columns: usize) {
    for (j, row) in rows.chunks(stride).take(WIDTH).enumerate() {
        for (column, value) in row[..columns].iter().enumerate() {
            to[column * WIDTH + j] = *value;
        }
    }
}

multiversion! {
    /// Floats from their upper halves.
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
