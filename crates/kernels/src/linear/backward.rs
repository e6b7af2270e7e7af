//! The backward product in floats, over panels as they are stored.

use super::{Linear, LinearJob, split_panels};
use crate::Isa;
use crate::memory::{Lines, SharedPtr};
use crate::panel::WIDTH;
use crate::tile::{self, COLUMNS, DotTile, PanelPrefetch, row_tiles};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// Panels of a chain of sums. With a block of columns they fill half of an L1 cache.
const PANELS: usize = 16;

/// Columns that are decoded together and stay in L1 while the rows pass.
const BLOCK: usize = 2 * COLUMNS;

/// Maximum number of rows of a job: their part of a chain fits into L2.
const MAX_ROWS: usize = 256;

/// Maximum number of columns of a job, in units of [`WIDTH`].
const WIDTHS_PER_JOB: usize = 4;

thread_local! {
    /// The decoded columns of a job, reused between calls.
    static DECODED: Cell<Lines> = const { Cell::new(Lines::new()) };
}

/// The gradient of the output.
#[derive(Clone, Copy)]
struct Gradient<'a> {
    dy: &'a [f32],
    /// Elements from one row to the next.
    stride: usize,
}

/// A block of columns of the panels of a chain.
#[derive(Clone)]
struct Part {
    panels: Range<usize>,
    columns: Range<usize>,
}

impl Linear {
    /// Multiplies rows in groups, so that their part of a chain stays in L2 while the columns of a job
    /// pass.
    pub(super) fn multiply_backward(&self, isa: Isa, dy: &[f32], dy_stride: usize, m: usize, dx: &mut [f32]) {
        let out = SharedPtr(dx.as_mut_ptr());
        let widths = self.k.div_ceil(WIDTH);
        let groups = m.div_ceil(MAX_ROWS);
        let shares = split_panels(widths, m * self.n, WIDTHS_PER_JOB);
        let run = |job: usize| {
            let (share, group) = (job / groups, job % groups);
            let job = LinearJob {
                panels: share * widths / shares..(share + 1) * widths / shares,
                rows: group * m / groups..(group + 1) * m / groups,
            };
            let mut decoded = DECODED.take();
            decoded.resize(BLOCK / COLUMNS * tile::decoded_words(PANELS));
            // SAFETY: dx holds m rows of k elements; this job alone writes these rows in its columns.
            unsafe {
                self.run_backward_job(isa, Gradient { dy, stride: dy_stride }, &job, &mut decoded, out)
            };
            DECODED.set(decoded);
        };
        match shares * groups {
            0 => {}
            1 => run(0),
            jobs => (0..jobs).into_par_iter().with_max_len(1).for_each(run),
        }
    }

    /// The panels of a job are units of [`WIDTH`] columns here. All of them share the part of dy that a
    /// chain reads.
    ///
    /// # Safety
    /// `out` must hold the job's rows of `k` elements, in whose columns of the job no other thread
    /// writes; `isa` must be available.
    unsafe fn run_backward_job(
        &self,
        isa: Isa,
        gradient: Gradient<'_>,
        job: &LinearJob,
        decoded: &mut [u32],
        out: SharedPtr,
    ) {
        let all = self.n.div_ceil(WIDTH);
        let columns = job.panels.start * WIDTH..(job.panels.end * WIDTH).min(self.k);
        let part = |panel: usize, column: usize| Part {
            panels: panel..(panel + PANELS).min(all),
            columns: column..(column + BLOCK).min(columns.end),
        };
        let chains = (0..all).step_by(PANELS);
        let mut parts = chains
            .flat_map(|panel| columns.clone().step_by(BLOCK).map(move |column| (panel, column)))
            .map(|(panel, column)| part(panel, column))
            .peekable();
        while let Some(part) = parts.next() {
            // SAFETY: the part lies in the rows and columns of this job.
            unsafe { self.run_backward_part(isa, gradient, &job.rows, &part, parts.peek(), decoded, out) };
        }
    }

    /// Multiplies the rows of a job by one part of the weights. Meanwhile `next` is prefetched, a part
    /// with each tile.
    ///
    /// # Safety
    /// As [`Self::run_backward_job`].
    #[expect(clippy::too_many_arguments, reason = "one call per part; a struct would only name them twice")]
    unsafe fn run_backward_part(
        &self,
        isa: Isa,
        Gradient { dy, stride }: Gradient<'_>,
        rows: &Range<usize>,
        Part { panels, columns }: &Part,
        next: Option<&Part>,
        decoded: &mut [u32],
        out: SharedPtr,
    ) {
        let tiles = row_tiles(rows.len(), tile::max_dot_rows(isa));
        let pieces = tiles.len() * columns.len().div_ceil(COLUMNS);
        let words = tile::decoded_words(panels.len());
        let mut piece = 0;
        for (i, tile_rows) in tiles.enumerate() {
            let row = rows.start + tile_rows.start;
            for (column, decoded) in columns.clone().step_by(COLUMNS).zip(decoded.chunks_exact_mut(words)) {
                let first = panels.start * WIDTH;
                let tile = DotTile {
                    dy: &dy[row * stride + first..],
                    dy_stride: stride,
                    outputs: (panels.end * WIDTH).min(self.n) - first,
                    rows: tile_rows.len(),
                    dx: out.at(row * self.k + column),
                    dx_stride: self.k,
                    cols: (columns.end - column).min(COLUMNS),
                    accumulate: panels.start > 0,
                    prefetch: self.prefetch_piece(next, piece, pieces),
                };
                piece += 1;
                // SAFETY: the tile lies in the rows and columns of the job.
                unsafe {
                    match self.weights.columns(panels.clone(), column) {
                        Some(from) if i == 0 => tile.run_decoding(isa, &from, decoded),
                        None if i == 0 => {
                            self.weights.decode_last_columns(panels.clone(), column..columns.end, decoded);
                            tile.run(isa, decoded);
                        }
                        _ => tile.run(isa, decoded),
                    }
                }
            }
        }
    }

    /// Piece `piece` of `of` pieces of every panel of a part.
    fn prefetch_piece(&self, part: Option<&Part>, piece: usize, of: usize) -> PanelPrefetch {
        const LINE: usize = 64;
        let Some(from) = part.and_then(|p| self.weights.columns(p.panels.clone(), p.columns.start)) else {
            return PanelPrefetch { from: std::ptr::null(), stride: 0, lines: 0 };
        };
        let bytes = from.bytes(BLOCK);
        let lines = bytes.len().div_ceil(LINE);
        let (first, end) = (piece * lines / of, (piece + 1) * lines / of);
        PanelPrefetch {
            from: from.words.as_ptr().cast::<u8>().wrapping_add(bytes.start + first * LINE),
            stride: from.stride * size_of::<u32>(),
            lines: end - first,
        }
    }
}
