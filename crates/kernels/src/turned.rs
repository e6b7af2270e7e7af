//! Panels over the rows of a stored matrix, for the way back: weights turned over, some rows at a time.
//!
//! Weights of 16 or 8 bits are turned over as units of 32, which then hold two or four rows of a
//! column; the tile that makes the panel takes them apart.

use crate::Isa;
use crate::memory::Lines;
use crate::panel::{Element, WIDTH};
use crate::storage::{Form, Storage};
use crate::tile::Kernel;
use crate::transpose::{interleave, transpose, transpose_narrow};
use std::ops::Range;

/// Weights that were turned over and are not yet a panel, for each 32 rows.
#[derive(Clone, Copy)]
pub(crate) enum Raw<'a> {
    /// Upper halves of floats: for each pair of rows 32 units, one a column.
    Upper(&'a [u32]),
    /// 16-bit floats, likewise.
    Half(&'a [u32]),
    /// Whole numbers: scales and offsets of columns 0 to 15, those of columns 16 to 31, and for each
    /// four rows 32 units, one a column.
    Blocks(&'a [u32]),
}

/// Columns of [`Raw::Blocks`] that share scales and offsets.
pub(crate) const SHARED: usize = WIDTH / 2;

/// Units of 32 rows of [`Raw::Blocks`] before the numbers.
pub(crate) const HEADER: usize = 4 * WIDTH;

/// Units of 32 rows of [`Raw::Blocks`].
pub(crate) const BLOCK: usize = HEADER + WIDTH / size_of::<u32>() * WIDTH;

/// A panel over rows, or what it is made of, and room for both. Columns that do not exist keep what an
/// earlier panel left there; sums over them are never written.
#[derive(Default)]
pub(crate) struct Turned {
    panel: Lines,
    raw: Lines,
    /// Where the panel is not there yet: how its weights are stored, and the units of `raw`.
    made_of: Option<(Form, usize)>,
    rows: Lines,
    room: Lines,
}

impl Turned {
    /// Turns the wanted columns of `rows` over, so that element `[c][r]` of the panel is
    /// `W[rows.start + r][wanted.start + c]`.
    ///
    /// # Shapes
    /// `rows` starts at a multiple of [`WIDTH`], `wanted` at one too and has at most `WIDTH`.
    pub(crate) fn turn<E: Element>(
        &mut self,
        isa: Isa,
        kernel: &Kernel<E>,
        weights: &Storage,
        wanted: Range<usize>,
        rows: Range<usize>,
    ) {
        let groups = rows.start / WIDTH..rows.end.div_ceil(WIDTH);
        let steps = wanted.start / E::GROUP..wanted.end.div_ceil(E::GROUP);
        self.panel.resize(groups.len() * WIDTH / E::GROUP * WIDTH);
        let units = match weights.form() {
            // Pairs of bfloat16 are made faster of panels that are turned over: rows are taken two by two there.
            _ if E::GROUP > 1 || !kernel.makes_panels() || wanted.len() < WIDTH => None,
            Form::Upper | Form::Half => Some(WIDTH / 2 * WIDTH),
            Form::Blocks(columns) if columns.is_multiple_of(SHARED) => Some(BLOCK),
            _ => None,
        };
        self.made_of = units.map(|units| (weights.form(), groups.len() * units));
        match units {
            Some(units) => self.raw(isa, weights, groups, &wanted, steps, units),
            None => self.ready::<E>(isa, weights, groups, steps),
        }
    }

    /// What the panel is to be made of, if it is not there yet; and the panel, or room for it.
    pub(crate) fn parts(&mut self) -> (Option<Raw<'_>>, &mut [u32]) {
        let raw = self.made_of.map(|(form, units)| match form {
            Form::Upper => Raw::Upper(&self.raw[..units]),
            Form::Half => Raw::Half(&self.raw[..units]),
            Form::Panels | Form::Blocks(_) => Raw::Blocks(&self.raw[..units]),
        });
        (raw, &mut self.panel)
    }

    /// Turns stored weights over as units of 32 bits.
    fn raw(
        &mut self,
        isa: Isa,
        weights: &Storage,
        groups: Range<usize>,
        wanted: &Range<usize>,
        steps: Range<usize>,
        units: usize,
    ) {
        self.raw.resize(groups.len() * units);
        for (group, to) in groups.zip(self.raw.chunks_exact_mut(units)) {
            let from = weights.stored(group, steps.clone());
            let Form::Blocks(columns) = weights.form() else {
                transpose(isa, from, WIDTH / 2, to, WIDTH, WIDTH, WIDTH / 2);
                continue;
            };
            let (header, to) = to.split_at_mut(HEADER);
            let halves = [0, 1].map(|half| {
                let column = wanted.start % columns + half * SHARED;
                let block = &from[column / columns * Form::Blocks(columns).units(columns)..];
                header[half * 2 * WIDTH..(half + 1) * 2 * WIDTH].copy_from_slice(&block[..2 * WIDTH]);
                &block[2 * WIDTH + column % columns * WIDTH / 4..][..SHARED * WIDTH / 4]
            });
            transpose_narrow(isa, halves, to);
        }
    }

    /// Turns panels over, made of stored weights if need be.
    fn ready<E: Element>(&mut self, isa: Isa, weights: &Storage, groups: Range<usize>, steps: Range<usize>) {
        let block = WIDTH / E::GROUP * WIDTH;
        for (group, to) in groups.zip(self.panel.chunks_exact_mut(block)) {
            let from = weights.panel(group, steps.clone(), &mut self.room);
            if E::GROUP == 1 {
                transpose(isa, from, WIDTH, to, WIDTH, steps.len(), WIDTH);
                continue;
            }
            // Turned over, the units are rows of the matrix; pairs of rows make a step.
            self.rows.resize(block);
            transpose(isa, from, WIDTH, &mut self.rows, WIDTH / E::GROUP, steps.len(), WIDTH);
            interleave(isa, &self.rows[..block], to);
        }
    }
}
