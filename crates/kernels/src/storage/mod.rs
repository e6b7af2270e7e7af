//! Weights in memory.
//!
//! Few checkpoints use every digit of `f32`: most hold 16-bit floats, or small integers with one
//! scale per 16 or 32 of them. Stored like that, weights take a half to less than a third of the
//! memory; where these integers take no more than 16 values, half of that again. A panel is decoded into L2 when it is multiplied, and serves all rows of a job. Products in
//! `f32` lose no bit of a weight.
//!
//! In every format a group of [`WIDTH`] rows of the matrix is contiguous, in the order of k.

mod format;
mod pack;

use crate::checked_area;
use crate::element::Element;
use crate::memory::{Lines, Memory, view};
use crate::panel::WIDTH;
use format::QUANT_HEADER;
pub use format::QuantBlocks;
pub(crate) use format::{
    COLUMNS_PER_SCALE, CodeTable, ColumnFormat, GROUP_WORDS, HEADER_WORDS, PairView, QuantView,
    StorageFormat, StoredColumns, StoredPanel, TransposedSource, expand_codes,
};
use half::f16;
use std::ops::Range;

/// The weights of a linear layer.
pub(crate) struct Storage {
    format: StorageFormat,
    /// Columns per step of a panel.
    columns_per_step: usize,
    /// Words of a group of rows.
    group_words: usize,
    words: Memory,
    /// What the codes of [`StorageFormat::Coded`] stand for.
    table: CodeTable,
}

impl Storage {
    /// Bytes of the weights.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.words[..])
    }

    /// How the weights are stored.
    pub(crate) fn format(&self) -> StorageFormat {
        self.format
    }

    /// Whether the weights are stored as panels of these elements and need no decoding.
    pub(crate) fn is_panels<E: Element>(&self) -> bool {
        self.format == StorageFormat::Panels && self.columns_per_step == E::GROUP
    }

    /// The words that hold steps `steps` of a group's panel, in the storage format.
    pub(crate) fn stored<E: Element>(&self, group: usize, steps: Range<usize>) -> &[u32] {
        let columns = steps.start * E::GROUP..steps.end * E::GROUP;
        let words = match self.format {
            StorageFormat::Panels => {
                let per_step = self.columns_per_step;
                columns.start / per_step * WIDTH..columns.end.div_ceil(per_step) * WIDTH
            }
            format @ (StorageFormat::Bf16 | StorageFormat::F16) => {
                columns.start * format.words(1)..columns.end * format.words(1)
            }
            format @ (StorageFormat::Quantised(block) | StorageFormat::Coded(block)) => {
                columns.start / block * format.words(block)..columns.end.div_ceil(block) * format.words(block)
            }
        };
        &self.words[group * self.group_words..(group + 1) * self.group_words][words]
    }

    /// Steps `steps` of a group's panel of these elements, as they are stored. Weights stored for
    /// bfloat16 can be read as floats, but not the other way round.
    pub(crate) fn source<E: Element>(&self, group: usize, steps: Range<usize>) -> StoredPanel<'_> {
        let from = self.stored::<E>(group, steps.clone());
        let first = steps.start * E::GROUP;
        match self.format {
            StorageFormat::Panels if self.is_panels::<E>() => StoredPanel::Packed(from),
            StorageFormat::Panels => {
                StoredPanel::Pairs(PairView { from, skip: first % 2, steps: steps.len() })
            }
            StorageFormat::Bf16 => StoredPanel::Bf16(view(from)),
            StorageFormat::F16 => StoredPanel::F16(view(from)),
            StorageFormat::Quantised(columns) | StorageFormat::Coded(columns) => {
                StoredPanel::Quantised(QuantView {
                    from,
                    columns,
                    table: self.table(),
                    skip: first % columns,
                    steps: steps.len(),
                    columns_per_step: E::GROUP,
                    round: self.columns_per_step == 2,
                })
            }
        }
    }

    /// What codes stand for, if the weights are stored as such.
    pub(crate) fn table(&self) -> Option<&CodeTable> {
        matches!(self.format, StorageFormat::Coded(_)).then_some(&self.table)
    }

    /// Steps `steps` of a group's panel, decoded into `buffer` unless they are stored as a panel.
    pub(crate) fn panel<'a, E: Element>(
        &'a self,
        group: usize,
        steps: Range<usize>,
        buffer: &'a mut Lines,
    ) -> &'a [u32] {
        let words = checked_area(steps.len(), WIDTH);
        match self.source::<E>(group, steps) {
            StoredPanel::Packed(panel) => panel,
            source => {
                buffer.resize(words);
                source.decode(buffer);
                &buffer[..words]
            }
        }
    }

    /// Columns from `column` on, a multiple of 4, of some groups; or nothing if fewer than 4 are stored.
    ///
    /// # Panics
    /// When the groups or the column are out of range.
    pub(crate) fn columns(&self, groups: Range<usize>, column: usize) -> Option<StoredColumns<'_>> {
        let (start, format) = match self.format {
            StorageFormat::Panels if self.columns_per_step == 2 => (column / 2 * WIDTH, ColumnFormat::Pairs),
            StorageFormat::Panels => (column * WIDTH, ColumnFormat::Floats),
            StorageFormat::Bf16 => (self.format.words(column), ColumnFormat::Bf16),
            StorageFormat::F16 => (self.format.words(column), ColumnFormat::F16),
            StorageFormat::Quantised(columns) => {
                let values = QUANT_HEADER + column % columns * WIDTH;
                let format = ColumnFormat::Quantised { values, round: self.columns_per_step == 2 };
                (column / columns * self.format.words(columns), format)
            }
            StorageFormat::Coded(columns) => {
                let values = QUANT_HEADER + column % columns / 2 * WIDTH;
                let (round, table) = (self.columns_per_step == 2, &self.table);
                let format = ColumnFormat::Coded { values, round, table };
                (column / columns * self.format.words(columns), format)
            }
        };
        let words = &self.words[groups.start * self.group_words + start..groups.end * self.group_words];
        let columns = StoredColumns { words, stride: self.group_words, format };
        let in_group = (self.group_words - start) * size_of::<u32>();
        (columns.bytes(4).end <= in_group).then_some(columns)
    }

    /// Decodes the last columns where [`Self::columns`] finds fewer than 4: 4 columns of floats for each
    /// group, those beyond the matrix zero.
    pub(crate) fn decode_last_columns(&self, groups: Range<usize>, columns: Range<usize>, to: &mut [u32]) {
        for (group, to) in groups.zip(to.chunks_exact_mut(4 * WIDTH)) {
            self.source::<f32>(group, columns.clone()).decode(to);
            to[columns.len() * WIDTH..].fill(0);
        }
    }

    /// Reads row `row` of the matrix.
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
                let weights = view::<u16>(words).iter().skip(j).step_by(WIDTH);
                out.iter_mut().zip(weights).for_each(|(out, w)| *out = f32::from_bits(u32::from(*w) << 16));
            }
            StorageFormat::F16 => {
                let weights = view::<f16>(words).iter().skip(j).step_by(WIDTH);
                out.iter_mut().zip(weights).for_each(|(out, w)| *out = w.to_f32());
            }
            StorageFormat::Quantised(columns) | StorageFormat::Coded(columns) => {
                let blocks = words.chunks_exact(self.format.words(columns));
                for (out, block) in out.chunks_exact_mut(columns).zip(blocks) {
                    let (header, values) = block.split_at(2 * WIDTH);
                    let header: &[f32] = view(header);
                    let values: &[i8] = view(values);
                    for (column, out) in out.iter_mut().enumerate() {
                        let value = match self.table() {
                            None => values[column * WIDTH + j],
                            Some(table) => {
                                let codes = values[column / 2 * WIDTH + j].cast_unsigned();
                                table[usize::from(codes >> (column % 2 * 4) & 15)]
                            }
                        };
                        let weight = f32::from(value) * header[j] + header[WIDTH + j];
                        *out = E::from_f32(weight).to_f32();
                    }
                }
            }
        }
    }
}
