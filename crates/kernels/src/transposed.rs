//! Transposed panels for the backward pass with bfloat16 instructions, which multiply pairs of outputs.

use crate::Isa;
use crate::memory::Lines;
use crate::panel::WIDTH;
use crate::storage::Storage;
use crate::transpose::{interleave, transpose};
use std::ops::Range;

/// Words of a block of [`WIDTH`] rows and columns of pairs.
const BLOCK: usize = WIDTH / 2 * WIDTH;

/// A transposed panel of pairs of bfloat16, with buffers. Columns beyond the matrix keep what an earlier
/// panel left there; sums over them are never written.
#[derive(Default)]
pub(crate) struct TransposedPanel {
    panel: Lines,
    rows: Lines,
    decoded: Lines,
}

impl TransposedPanel {
    /// Transposes the columns `wanted` of `rows`: element `[r][c]` of the panel becomes
    /// `W[rows.start + r][wanted.start + c]`.
    ///
    /// # Shapes
    /// `rows` and `wanted` start at multiples of [`WIDTH`]; `wanted` has at most `WIDTH` columns.
    pub(crate) fn prepare(&mut self, isa: Isa, weights: &Storage, wanted: Range<usize>, rows: Range<usize>) {
        let groups = rows.start / WIDTH..rows.end.div_ceil(WIDTH);
        let steps = wanted.start / 2..wanted.end.div_ceil(2);
        self.panel.resize(groups.len() * BLOCK);
        self.rows.resize(BLOCK);
        for (group, to) in groups.zip(self.panel.chunks_exact_mut(BLOCK)) {
            let from = weights.panel(group, steps.clone(), &mut self.decoded);
            // After the transposition a word holds two columns of one row; a step is two rows.
            transpose(isa, from, WIDTH, &mut self.rows, WIDTH / 2, steps.len(), WIDTH);
            interleave(isa, &self.rows[..BLOCK], to);
        }
    }

    /// The panel.
    pub(crate) fn words(&self) -> &[u32] {
        &self.panel
    }
}
