//! Transposed panels for the backward pass: weights transposed a few rows of the matrix at a time.
//!
//! Weights of 16 or 8 bits are transposed as 32-bit words, which then hold two or four rows of a
//! column; the tile that packs the panel decodes them.

use crate::Isa;
use crate::element::Element;
use crate::memory::{Lines, view, view_mut};
use crate::panel::WIDTH;
use crate::storage::{
    COLUMNS_PER_SCALE, GROUP_WORDS, HEADER_WORDS, Storage, StorageFormat, TransposedSource, expand_codes,
};
use crate::transpose::{interleave, transpose, transpose_narrow};
use std::ops::Range;

/// A transposed panel, or the transposed weights it is decoded from, with the buffers for both.
/// Columns beyond the matrix keep what an earlier panel left there; sums over them are never written.
#[derive(Default)]
pub(crate) struct TransposedPanel {
    panel: Lines,
    source: Lines,
    /// The format of `source` and its words, when the panel is still to be decoded from it.
    pending: Option<(StorageFormat, usize)>,
    rows: Lines,
    decoded: Lines,
}

impl TransposedPanel {
    /// Transposes the columns `wanted` of `rows`: element `[r][c]` of the panel becomes
    /// `W[rows.start + r][wanted.start + c]`. If `decode_in_tile`, decoding is left to the tile that
    /// first multiplies the panel, where the format allows.
    ///
    /// # Shapes
    /// `rows` and `wanted` start at multiples of [`WIDTH`]; `wanted` has at most `WIDTH` columns.
    pub(crate) fn prepare<E: Element>(
        &mut self,
        isa: Isa,
        decode_in_tile: bool,
        weights: &Storage,
        wanted: Range<usize>,
        rows: Range<usize>,
    ) {
        let groups = rows.start / WIDTH..rows.end.div_ceil(WIDTH);
        let steps = wanted.start / E::GROUP..wanted.end.div_ceil(E::GROUP);
        self.panel.resize(groups.len() * WIDTH / E::GROUP * WIDTH);
        let words = match weights.format() {
            // Pairs of bfloat16 are packed faster from transposed panels, which hold rows two by two.
            _ if E::GROUP > 1 || !decode_in_tile || wanted.len() < WIDTH => None,
            StorageFormat::Bf16 | StorageFormat::F16 => Some(WIDTH / 2 * WIDTH),
            StorageFormat::Quantised(columns) | StorageFormat::Coded(columns)
                if columns.is_multiple_of(COLUMNS_PER_SCALE) =>
            {
                Some(GROUP_WORDS)
            }
            _ => None,
        };
        self.pending = words.map(|words| (weights.format(), groups.len() * words));
        match words {
            Some(words) => self.transpose_stored::<E>(isa, weights, groups, &wanted, steps, words),
            None => self.transpose_panels::<E>(isa, weights, groups, steps),
        }
    }

    /// The source, if the panel is still to be decoded from it; and the panel, or its buffer.
    pub(crate) fn parts(&mut self) -> (Option<TransposedSource<'_>>, &mut [u32]) {
        let source = self.pending.map(|(format, words)| match format {
            StorageFormat::Bf16 => TransposedSource::Bf16(&self.source[..words]),
            StorageFormat::F16 => TransposedSource::F16(&self.source[..words]),
            StorageFormat::Panels | StorageFormat::Quantised(_) | StorageFormat::Coded(_) => {
                TransposedSource::Quantised(&self.source[..words])
            }
        });
        (source, &mut self.panel)
    }

    /// Transposes weights in their storage format, as 32-bit words.
    fn transpose_stored<E: Element>(
        &mut self,
        isa: Isa,
        weights: &Storage,
        groups: Range<usize>,
        wanted: &Range<usize>,
        steps: Range<usize>,
        words: usize,
    ) {
        self.source.resize(groups.len() * words);
        for (group, to) in groups.zip(self.source.chunks_exact_mut(words)) {
            let from = weights.stored::<E>(group, steps.clone());
            let (StorageFormat::Quantised(columns) | StorageFormat::Coded(columns)) = weights.format() else {
                transpose(isa, from, WIDTH / 2, to, WIDTH, WIDTH, WIDTH / 2);
                continue;
            };
            let (header, to) = to.split_at_mut(HEADER_WORDS);
            let mut expanded = [[0; COLUMNS_PER_SCALE * WIDTH / 4]; 2];
            let mut halves: [&[u32]; 2] = [&[]; 2];
            for (half, (place, expanded)) in halves.iter_mut().zip(&mut expanded).enumerate() {
                let column = wanted.start % columns + half * COLUMNS_PER_SCALE;
                let block = &from[column / columns * weights.format().words(columns)..];
                header[half * 2 * WIDTH..(half + 1) * 2 * WIDTH].copy_from_slice(&block[..2 * WIDTH]);
                let values = &block[2 * WIDTH..];
                *place = match weights.table() {
                    None => &values[column % columns * WIDTH / 4..][..COLUMNS_PER_SCALE * WIDTH / 4],
                    Some(table) => {
                        let codes = &values[column % columns * WIDTH / 8..][..COLUMNS_PER_SCALE * WIDTH / 8];
                        expand_codes(isa, view(codes), table, view_mut(expanded));
                        expanded
                    }
                };
            }
            transpose_narrow(isa, halves, to);
        }
    }

    /// Transposes panels, decoding stored weights first where needed.
    fn transpose_panels<E: Element>(
        &mut self,
        isa: Isa,
        weights: &Storage,
        groups: Range<usize>,
        steps: Range<usize>,
    ) {
        let block = WIDTH / E::GROUP * WIDTH;
        for (group, to) in groups.zip(self.panel.chunks_exact_mut(block)) {
            let from = weights.panel::<E>(group, steps.clone(), &mut self.decoded);
            if E::GROUP == 1 {
                transpose(isa, from, WIDTH, to, WIDTH, steps.len(), WIDTH);
                continue;
            }
            // After the transposition a word holds two columns of one row; a step is two rows.
            self.rows.resize(block);
            transpose(isa, from, WIDTH, &mut self.rows, WIDTH / E::GROUP, steps.len(), WIDTH);
            interleave(isa, &self.rows[..block], to);
        }
    }
}
