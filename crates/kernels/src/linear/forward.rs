//! The forward product.

use super::{Linear, LinearJob, split_panels};
use crate::memory::{Lines, SharedPtr, view};
use crate::panel::{self, Blocking, WIDTH};
use crate::storage::StoredPanel;
use crate::tile::{Kernel, Multiply, Prefetch, Tile};
use crate::{Isa, checked_area};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

thread_local! {
    /// The decoded panel of a job, reused between calls.
    static PANELS: Cell<Lines> = const { Cell::new(Lines::new()) };
}

/// The input of a product.
#[derive(Clone, Copy)]
struct Input<'a, E> {
    x: &'a [E],
    /// Elements from one row to the next.
    stride: usize,
}

impl Linear {
    /// Multiplies rows in groups, so that their part of a chain stays in L2 while the panels of a job
    /// pass.
    pub(super) fn multiply<E: Multiply>(&self, isa: Isa, x: &[E], x_stride: usize, m: usize, y: &mut [f32]) {
        let out = SharedPtr(y.as_mut_ptr());
        let panels = self.n.div_ceil(WIDTH);
        let blocking = Blocking::of::<E>(isa);
        let groups = m.div_ceil(blocking.rows_per_group::<E>(x_stride));
        let shares = split_panels(panels, m * self.k, blocking.panels_per_job);
        let run = |job: usize| {
            let (share, group) = (job / groups, job % groups);
            let job = LinearJob {
                panels: share * panels / shares..(share + 1) * panels / shares,
                rows: group * m / groups..(group + 1) * m / groups,
            };
            let mut buffer = PANELS.take();
            // SAFETY: y holds m rows of n elements; this job alone writes these rows in the columns of
            // its panels.
            unsafe { self.run_job(isa, Input { x, stride: x_stride }, &job, &mut buffer, out) };
            PANELS.set(buffer);
        };
        match shares * groups {
            0 => {}
            1 => run(0),
            jobs => (0..jobs).into_par_iter().with_max_len(1).for_each(run),
        }
    }

    /// # Safety
    /// `out` must hold the job's rows of `n` elements, in whose columns of the job's panels no other
    /// thread writes; `isa` must be available.
    unsafe fn run_job<E: Multiply>(
        &self,
        isa: Isa,
        input: Input<'_, E>,
        job: &LinearJob,
        buffer: &mut Lines,
        out: SharedPtr,
    ) {
        let kernel = Kernel::new(isa, job.rows.len());
        let parts = self.parts::<E>(isa, input.stride, job);
        for (i, (p, chain)) in parts.iter().enumerate() {
            let next = match parts.get(i + 1) {
                Some((p, chain)) => self.weights.stored::<E>(*p, chain.clone()),
                None if job.panels.end * WIDTH < self.n => {
                    self.weights.stored::<E>(job.panels.end, parts[0].1.clone())
                }
                None => &[],
            };
            if !self.weights.is_panels::<E>() {
                buffer.resize(checked_area(chain.len(), WIDTH));
            }
            // SAFETY: the part lies in the rows and columns of this job.
            unsafe { self.run_part(&kernel, input, job.rows.start, (*p, chain), next, buffer, out) };
        }
    }

    /// Multiplies the rows of a job, from `first_row` on, by one chain of one panel. Meanwhile `next` is
    /// prefetched, a part with each tile.
    ///
    /// # Safety
    /// As [`Self::run_job`].
    #[expect(clippy::too_many_arguments, reason = "one call per panel; a struct would only name them twice")]
    unsafe fn run_part<E: Multiply>(
        &self,
        kernel: &Kernel<E>,
        Input { x, stride }: Input<'_, E>,
        first_row: usize,
        (p, chain): (usize, &Range<usize>),
        next: &[u32],
        buffer: &mut Lines,
        out: SharedPtr,
    ) {
        let tiles = kernel.row_tiles();
        let bytes_per_step = size_of_val(next).div_ceil((tiles.len() * chain.len()).max(1));
        let columns = p * WIDTH..((p + 1) * WIDTH).min(self.n);
        let last = chain.end == panel::k_steps::<E>(self.k);
        let reused = tiles.len() > 1;
        for (i, rows) in tiles.enumerate() {
            let row = first_row + rows.start;
            let from = next.as_ptr().cast::<u8>().wrapping_add(i * bytes_per_step * chain.len());
            let tile = |panel| Tile {
                x: &x[row * stride + chain.start * E::GROUP..],
                x_stride: stride,
                panel: view(panel),
                steps: chain.len(),
                y: out.at(row * self.n + columns.start),
                y_stride: self.n,
                rows: rows.len(),
                cols: columns.len(),
                bias: self.bias.as_deref().filter(|_| last).map(|b| &b[columns.clone()]),
                accumulate: chain.start > 0,
                prefetch: if next.is_empty() { Prefetch::none(x) } else { Prefetch { from, bytes_per_step } },
            };
            // SAFETY: the tile lies in the rows and columns of the job.
            unsafe {
                match self.weights.source::<E>(p, chain.clone()) {
                    StoredPanel::Packed(panel) => tile(panel).run(kernel),
                    // The first tile decodes the panel, which the others then find in cache.
                    source if i == 0 => tile(&[]).run_packing(kernel, source, buffer, reused),
                    _ => tile(buffer).run(kernel),
                }
            }
        }
    }

    /// The order in which a job multiplies its panels: panel and steps.
    ///
    /// If the rows fit into cache, each panel is read from end to end, which suits memory best.
    /// Otherwise all panels share the part of the rows that one chain reads.
    fn parts<E: Multiply>(&self, isa: Isa, x_stride: usize, job: &LinearJob) -> Vec<(usize, Range<usize>)> {
        let (steps, blocking) = (panel::k_steps::<E>(self.k), Blocking::of::<E>(isa));
        let fits = blocking.fits_in_cache::<E>(job.rows.len(), x_stride);
        let whole = fits && (self.weights.is_panels::<E>() || steps <= blocking.max_decoded_steps);
        let longest = blocking.steps_per_tile(whole, steps);
        let chains: Vec<Range<usize>> = panel::chains::<E>(steps, longest).collect();
        let panels = job.panels.clone();
        if fits {
            return panels.flat_map(|p| chains.iter().map(move |chain| (p, chain.clone()))).collect();
        }
        chains.iter().flat_map(|chain| panels.clone().map(|p| (p, chain.clone()))).collect()
    }
}
