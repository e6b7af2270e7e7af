//! Panels over the rows of a stored matrix, for the way back: weights turned over, some rows at a time.
//!
//! Weights of 16 or 8 bits are turned over as words of 32, which then hold two or four rows of a
//! column; the tile that makes the panel takes them apart.

use crate::Isa;
use crate::memory::Lines;
use crate::panel::{Element, WIDTH};
use crate::storage::{Storage, StorageFormat};
use crate::tile::Kernel;
use crate::transpose::{interleave, transpose, transpose_narrow};
use std::ops::Range;

/// Weights that were turned over and are not yet a panel, for each 32 rows.
#[derive(Clone, Copy)]
pub(crate) enum TransposedSource<'a> {
    /// Upper halves of floats: for each pair of rows 32 words, one a column.
    Bf16(&'a [u32]),
    /// 16-bit floats, likewise.
    F16(&'a [u32]),
    /// Whole numbers: scales and offsets of columns 0 to 15, those of columns 16 to 31, and for each
    /// four rows 32 words, one a column.
    Quantised(&'a [u32]),
}

/// PanelSource of [`TransposedSource::Quantised`] that share scales and offsets.
pub(crate) const SHARED: usize = WIDTH / 2;

/// Words of 32 rows of [`TransposedSource::Quantised`] before the numbers.
pub(crate) const HEADER: usize = 4 * WIDTH;

/// Words of 32 rows of [`TransposedSource::Quantised`].
pub(crate) const BLOCK: usize = HEADER + WIDTH / size_of::<u32>() * WIDTH;

/// A panel over rows, or what it is made of, and room for both. PanelSource that do not exist keep what an
/// earlier panel left there; sums over them are never written.
#[derive(Default)]
pub(crate) struct TransposedPanel {
    panel: Lines,
    source_words: Lines,
    /// Where the panel is not there yet: how its weights are stored, and the words of `source_words`.
    source: Option<(StorageFormat, usize)>,
    rows: Lines,
    room: Lines,
}

impl TransposedPanel {
    /// Turns the wanted columns of `rows` over, so that element `[c][r]` of the panel is
    /// `W[rows.start + r][wanted.start + c]`.
    ///
    /// # Shapes
    /// `rows` starts at a multiple of [`WIDTH`], `wanted` at one too and has at most `WIDTH`.
    pub(crate) fn prepare<E: Element>(
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
        let words = match weights.format() {
            // Bf16PairPacker of bfloat16 are made faster of panels that are turned over: rows are taken two by two there.
            _ if E::GROUP > 1 || !kernel.packs_panels() || wanted.len() < WIDTH => None,
            StorageFormat::Bf16 | StorageFormat::F16 => Some(WIDTH / 2 * WIDTH),
            StorageFormat::Quantised(columns) if columns.is_multiple_of(SHARED) => Some(BLOCK),
            _ => None,
        };
        self.source = words.map(|words| (weights.format(), groups.len() * words));
        match words {
            Some(words) => self.source_words(isa, weights, groups, &wanted, steps, words),
            None => self.pack_transposed::<E>(isa, weights, groups, steps),
        }
    }

    /// What the panel is to be made of, if it is not there yet; and the panel, or room for it.
    pub(crate) fn parts(&mut self) -> (Option<TransposedSource<'_>>, &mut [u32]) {
        let source_words = self.source.map(|(form, words)| match form {
            StorageFormat::Bf16 => TransposedSource::Bf16(&self.source_words[..words]),
            StorageFormat::F16 => TransposedSource::F16(&self.source_words[..words]),
            StorageFormat::Panels | StorageFormat::Quantised(_) => {
                TransposedSource::Quantised(&self.source_words[..words])
            }
        });
        (source_words, &mut self.panel)
    }

    /// Turns stored weights over as words of 32 bits.
    fn source_words(
        &mut self,
        isa: Isa,
        weights: &Storage,
        groups: Range<usize>,
        wanted: &Range<usize>,
        steps: Range<usize>,
        words: usize,
    ) {
        self.source_words.resize(groups.len() * words);
        for (group, to) in groups.zip(self.source_words.chunks_exact_mut(words)) {
            let from = weights.stored(group, steps.clone());
            let StorageFormat::Quantised(columns) = weights.format() else {
                transpose(isa, from, WIDTH / 2, to, WIDTH, WIDTH, WIDTH / 2);
                continue;
            };
            let (header, to) = to.split_at_mut(HEADER);
            let halves = [0, 1].map(|half| {
                let column = wanted.start % columns + half * SHARED;
                let block = &from[column / columns * StorageFormat::Quantised(columns).words(columns)..];
                header[half * 2 * WIDTH..(half + 1) * 2 * WIDTH].copy_from_slice(&block[..2 * WIDTH]);
                &block[2 * WIDTH + column % columns * WIDTH / 4..][..SHARED * WIDTH / 4]
            });
            transpose_narrow(isa, halves, to);
        }
    }

    /// Turns panels over, made of stored weights if need be.
    fn pack_transposed<E: Element>(
        &mut self,
        isa: Isa,
        weights: &Storage,
        groups: Range<usize>,
        steps: Range<usize>,
    ) {
        let block = WIDTH / E::GROUP * WIDTH;
        for (group, to) in groups.zip(self.panel.chunks_exact_mut(block)) {
            let from = weights.panel(group, steps.clone(), &mut self.room);
            if E::GROUP == 1 {
                transpose(isa, from, WIDTH, to, WIDTH, steps.len(), WIDTH);
                continue;
            }
            // TransposedPanel over, the words are rows of the matrix; pairs of rows make a step.
            self.rows.resize(block);
            transpose(isa, from, WIDTH, &mut self.rows, WIDTH / E::GROUP, steps.len(), WIDTH);
            interleave(isa, &self.rows[..block], to);
        }
    }
}
