//! The backward product with AVX-512, over panels transposed in registers.

use super::{Linear, LinearJob, split_panels};
use crate::Isa;
use crate::element::Element;
use crate::memory::{SharedPtr, view};
use crate::panel::{self, Blocking, WIDTH};
use crate::tile::{Kernel, Multiply, Prefetch, Tile, prefetch};
use crate::transposed::TransposedPanel;
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

thread_local! {
    /// The transposed panels of a job, reused between calls.
    static TRANSPOSED: Cell<Vec<TransposedPanel>> = const { Cell::new(Vec::new()) };
}

impl Linear {
    pub(super) fn multiply_transposed<E: Multiply>(
        &self,
        isa: Isa,
        dy: &[E],
        dy_stride: usize,
        m: usize,
        dx: &mut [f32],
    ) {
        let out = SharedPtr(dx.as_mut_ptr());
        let blocks = self.k.div_ceil(WIDTH);
        let blocking = Blocking::of::<E>(isa);
        let groups = m.div_ceil(blocking.rows_per_backward_job);
        let shares = split_panels(blocks, m * self.n, blocking.panels_per_job);
        let run = |job: usize| {
            let (share, group) = (job / groups, job % groups);
            let job = LinearJob {
                panels: share * blocks / shares..(share + 1) * blocks / shares,
                rows: group * m / groups..(group + 1) * m / groups,
            };
            let mut transposed = TRANSPOSED.take();
            transposed.resize_with(job.panels.len().max(transposed.len()), TransposedPanel::default);
            // SAFETY: dx holds m rows of k elements; this job alone writes these rows in the columns of
            // its blocks.
            unsafe { self.run_transposed_job(isa, dy, dy_stride, &job, &mut transposed, out) };
            TRANSPOSED.set(transposed);
        };
        (0..shares * groups).into_par_iter().with_max_len(1).for_each(run);
    }

    /// The panels of a job are blocks of [`WIDTH`] inputs here. They are transposed some outputs at a
    /// time, and serve all rows of the job.
    ///
    /// # Safety
    /// `out` must hold the job's rows of `k` elements, in whose columns of the job's blocks no other
    /// thread writes; `isa` must be available.
    unsafe fn run_transposed_job<E: Multiply>(
        &self,
        isa: Isa,
        dy: &[E],
        dy_stride: usize,
        job: &LinearJob,
        transposed: &mut [TransposedPanel],
        out: SharedPtr,
    ) {
        let (n, k) = (self.n, self.k);
        let most = Blocking::of::<E>(isa).backward_steps * E::GROUP;
        let kernel = Kernel::new(isa, job.rows.len());
        let columns = |block: usize| block * WIDTH..((block + 1) * WIDTH).min(k);
        let outputs = |start: usize| start..(start + most).min(n);
        for start in (0..n).step_by(most) {
            for (block, panel) in job.panels.clone().zip(&mut *transposed) {
                let decode_in_tile = kernel.decodes_in_tile();
                panel.prepare::<E>(isa, decode_in_tile, &self.weights, columns(block), outputs(start));
            }
            // While the rows pass, the weights transposed next are prefetched, a part with each tile.
            let next = outputs(outputs(start).end);
            let tiles = kernel.row_tiles();
            let count = tiles.len();
            let parts = count * job.panels.len();
            for (i, rows) in tiles.enumerate() {
                let row = job.rows.start + rows.start;
                for (b, (block, panel)) in job.panels.clone().zip(&mut *transposed).enumerate() {
                    self.prefetch_part::<E>(&job.panels, next.clone(), i * job.panels.len() + b, parts);
                    let columns = columns(block);
                    let (source, panel) = panel.parts();
                    let tile = |panel| Tile {
                        x: &dy[row * dy_stride + start..],
                        x_stride: dy_stride,
                        panel: view(panel),
                        steps: panel::k_steps::<E>(outputs(start).len()),
                        y: out.at(row * k + columns.start),
                        y_stride: k,
                        rows: rows.len(),
                        cols: columns.len(),
                        bias: None,
                        accumulate: start > 0,
                        prefetch: Prefetch::none(dy),
                    };
                    // SAFETY: the tile lies in the rows and columns of this job.
                    unsafe {
                        match source {
                            Some(source) if i == 0 => {
                                tile(&[]).run_transposed(&kernel, source, panel, count > 1);
                            }
                            _ => tile(panel).run(&kernel),
                        }
                    }
                }
            }
        }
    }

    /// Prefetches part `part` of `of` parts of the stored weights of `outputs`, in the columns of
    /// `panels`.
    fn prefetch_part<E: Element>(
        &self,
        panels: &Range<usize>,
        outputs: Range<usize>,
        part: usize,
        of: usize,
    ) {
        let pieces = outputs.len().div_ceil(WIDTH) * panels.len();
        for piece in part * pieces / of..(part + 1) * pieces / of {
            let (group, block) = (piece / panels.len(), panels.start + piece % panels.len());
            let columns = block * WIDTH..((block + 1) * WIDTH).min(self.k);
            let steps = columns.start / E::GROUP..columns.end.div_ceil(E::GROUP);
            prefetch(self.weights.stored::<E>(outputs.start / WIDTH + group, steps));
        }
    }
}
