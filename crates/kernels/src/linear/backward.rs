//! The backward product in floats, over panels as they are stored.

use super::{Linear, LinearJob, split_panels};
use crate::memory::{LINE, Lines, SharedPtr, view, view_mut};
use crate::panel::WIDTH;
use crate::tile::{self, COLUMNS, DotTile, PanelPrefetch, row_tiles};
use crate::{Isa, checked_area};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// Maximum number of panels of a chain of sums. With a block of columns they fill half of an L1 cache.
const PANELS: usize = 20;

/// Columns that are decoded together and stay in L1 while the rows pass.
const BLOCK: usize = 2 * COLUMNS;

/// Maximum number of rows of a job: their part of a chain fits into L2.
const MAX_ROWS: usize = 256;

/// Maximum number of columns of a job, in units of [`WIDTH`].
const WIDTHS_PER_JOB: usize = 10;

thread_local! {
    /// The decoded columns of a job, reused between calls.
    static DECODED: Cell<Lines> = const { Cell::new(Lines::new()) };
    /// Packed gradients, reused between calls.
    static PACKED: Cell<Lines> = const { Cell::new(Lines::new()) };
}

/// The gradients of outputs and inputs.
#[derive(Clone, Copy)]
struct Gradients<'a> {
    /// Packed group by group of rows, chain by chain, tile by tile.
    dy: &'a [f32],
    dx: SharedPtr,
}

/// A block of columns of the panels of a chain.
#[derive(Clone)]
struct Part {
    panels: Range<usize>,
    columns: Range<usize>,
}

impl Linear {
    /// Multiplies rows in groups, so that their part of a chain stays in L2 while the columns of a job
    /// pass. `dy` is rounded to bfloat16 if `round`.
    pub(super) fn multiply_backward(&self, isa: Isa, dy: &[f32], round: bool, m: usize, dx: &mut [f32]) {
        let dx = SharedPtr(dx.as_mut_ptr());
        let widths = self.k.div_ceil(WIDTH);
        let groups = m.div_ceil(MAX_ROWS);
        let rows = |group: usize| group * m / groups..(group + 1) * m / groups;
        let mut packed = PACKED.take();
        packed.resize(checked_area(m, self.panels() * WIDTH));
        self.pack_gradients(isa, dy, round, (0..groups).map(rows), view_mut(&mut packed));
        let gradients = Gradients { dy: view(&packed), dx };
        let shares = split_panels(widths, m * self.n, WIDTHS_PER_JOB);
        let run = |job: usize| {
            let (share, group) = (job / groups, job % groups);
            let job = LinearJob {
                panels: share * widths / shares..(share + 1) * widths / shares,
                rows: rows(group),
            };
            let mut decoded = DECODED.take();
            decoded.resize(BLOCK / COLUMNS * tile::decoded_words(PANELS));
            // SAFETY: dx holds m rows of k elements; this job alone writes these rows in its columns.
            unsafe { self.run_backward_job(isa, gradients, &job, &mut decoded) };
            DECODED.set(decoded);
        };
        match shares * groups {
            0 => {}
            1 => run(0),
            jobs => (0..jobs).into_par_iter().with_max_len(1).for_each(run),
        }
        PACKED.set(packed);
    }

    fn panels(&self) -> usize {
        self.n.div_ceil(WIDTH)
    }

    /// Packs groups of rows in the order in which their jobs read them.
    fn pack_gradients(
        &self,
        isa: Isa,
        dy: &[f32],
        round: bool,
        groups: impl Iterator<Item = Range<usize>>,
        mut to: &mut [f32],
    ) {
        let mut parts = Vec::new();
        for rows in groups {
            for panels in chains(self.panels()) {
                let (part, rest) = to.split_at_mut(rows.len() * panels.len() * WIDTH);
                parts.push((rows.clone(), panels, part));
                to = rest;
            }
        }
        let pack = |(rows, panels, mut to): (Range<usize>, Range<usize>, &mut [f32])| {
            let outputs = panels.start * WIDTH..(panels.end * WIDTH).min(self.n);
            for tile in row_tiles(rows.len(), tile::max_dot_rows(isa)) {
                let (packed, rest) = to.split_at_mut(tile.len() * panels.len() * WIDTH);
                let first = (rows.start + tile.start) * self.n + outputs.start;
                let last = (rows.start + tile.end - 1) * self.n + outputs.end;
                tile::pack_rows(&dy[first..last], self.n, outputs.len(), round, packed);
                to = rest;
            }
        };
        // One thread packs a few rows sooner than it would wake others.
        if dy.len() < 65_536 {
            parts.into_iter().for_each(pack);
        } else {
            parts.into_par_iter().for_each(pack);
        }
    }

    /// The panels of a job are units of [`WIDTH`] columns here. All of them share the part of dy that a
    /// chain reads.
    ///
    /// # Safety
    /// dx must hold the job's rows of `k` elements, in whose columns of the job no other thread writes;
    /// `isa` must be available.
    unsafe fn run_backward_job(
        &self,
        isa: Isa,
        gradients: Gradients<'_>,
        job: &LinearJob,
        decoded: &mut [u32],
    ) {
        let columns = job.panels.start * WIDTH..(job.panels.end * WIDTH).min(self.k);
        let mut parts = chains(self.panels())
            .flat_map(|panels| columns.clone().step_by(BLOCK).map(move |column| (panels.clone(), column)))
            .map(|(panels, column)| Part { panels, columns: column..(column + BLOCK).min(columns.end) })
            .peekable();
        while let Some(part) = parts.next() {
            // SAFETY: the part lies in the rows and columns of this job.
            unsafe { self.run_backward_part(isa, gradients, &job.rows, &part, parts.peek(), decoded) };
        }
    }

    /// Multiplies the rows of a job by one part of the weights. Meanwhile `next` is prefetched, a piece
    /// with each tile.
    ///
    /// # Safety
    /// As [`Self::run_backward_job`].
    unsafe fn run_backward_part(
        &self,
        isa: Isa,
        gradients: Gradients<'_>,
        rows: &Range<usize>,
        part: &Part,
        next: Option<&Part>,
        decoded: &mut [u32],
    ) {
        let Part { panels, columns } = part;
        let tiles = row_tiles(rows.len(), tile::max_dot_rows(isa));
        let prefetch = self.prefetch_of(next, tiles.len() * columns.len().div_ceil(COLUMNS));
        let first = rows.start * self.panels() * WIDTH + rows.len() * panels.start * WIDTH;
        for (i, tile_rows) in tiles.enumerate() {
            let row = rows.start + tile_rows.start;
            let ahead = i * columns.len().div_ceil(COLUMNS) * prefetch.lines * LINE;
            let tile = DotTile {
                dy: &gradients.dy[first + tile_rows.start * panels.len() * WIDTH..],
                panels: panels.len(),
                rows: tile_rows.len(),
                dx: gradients.dx.at(row * self.k + columns.start),
                dx_stride: self.k,
                cols: columns.len(),
                accumulate: panels.start > 0,
                prefetch: PanelPrefetch { from: prefetch.from.wrapping_add(ahead), ..prefetch },
            };
            // SAFETY: the tile lies in the rows and columns of the job.
            unsafe {
                match i {
                    0 => self.run_decoding(isa, &tile, part, decoded),
                    _ => tile.run(isa, decoded),
                }
            }
        }
    }

    /// Runs the first tile of a part, which decodes the weights for the others.
    ///
    /// # Safety
    /// As [`DotTile::run`].
    unsafe fn run_decoding(&self, isa: Isa, all: &DotTile<'_>, part: &Part, decoded: &mut [u32]) {
        let Part { panels, columns } = part;
        let words = tile::decoded_words(panels.len());
        for (at, decoded) in (0..columns.len()).step_by(COLUMNS).zip(decoded.chunks_exact_mut(words)) {
            let column = columns.start + at;
            let ahead = at / COLUMNS * all.prefetch.lines * LINE;
            let tile = DotTile {
                dx: all.dx.wrapping_add(at),
                cols: (columns.end - column).min(COLUMNS),
                prefetch: PanelPrefetch { from: all.prefetch.from.wrapping_add(ahead), ..all.prefetch },
                ..*all
            };
            // SAFETY: the caller's guarantee, in some of the columns.
            unsafe {
                if let Some(from) = self.weights.columns(panels.clone(), column) {
                    tile.run_decoding(isa, &from, decoded);
                } else {
                    self.weights.decode_last_columns(panels.clone(), column..columns.end, decoded);
                    tile.run(isa, decoded);
                }
            }
        }
    }

    /// The weights of a part, to be prefetched in `pieces` pieces.
    fn prefetch_of(&self, part: Option<&Part>, pieces: usize) -> PanelPrefetch {
        let Some(from) = part.and_then(|p| self.weights.columns(p.panels.clone(), p.columns.start)) else {
            return PanelPrefetch { from: std::ptr::null(), stride: 0, lines: 0 };
        };
        let bytes = from.bytes(BLOCK);
        PanelPrefetch {
            from: from.words.as_ptr().cast::<u8>().wrapping_add(bytes.start),
            stride: from.stride * size_of::<u32>(),
            lines: bytes.len().div_ceil(LINE).div_ceil(pieces),
        }
    }
}

/// The panels of each chain of sums, of nearly equal length: lanes are added at the end of each.
fn chains(panels: usize) -> impl Iterator<Item = Range<usize>> {
    let count = panels.div_ceil(PANELS);
    (0..count).map(move |i| i * panels / count..(i + 1) * panels / count)
}
