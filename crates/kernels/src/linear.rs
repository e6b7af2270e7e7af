//! Linear layers over weights that are packed once.

use crate::cpu::multiversion;
use crate::memory::{LINE, Lines, view, view_mut};
use crate::panel::{self, Blocking, Element, WIDTH};
use crate::storage::{QuantBlocks, Storage, StoredPanel};
use crate::tile::{Kernel, Multiply, Prefetch, Tile, fetch};
use crate::transposed::TransposedPanel;
use crate::{Isa, checked_area};
use half::bf16;
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// How weights are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// As 32-bit floats. They may be stored as something smaller that has the same values.
    F32,
    /// As bfloat16, to which inputs are rounded as well; their products are added up in `f32`.
    Bf16,
}

impl Dtype {
    /// The name used on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// `y = x W^T + b` with `W [n, k]`.
pub struct Linear {
    n: usize,
    k: usize,
    dtype: Dtype,
    weights: Storage,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Packs `n` rows of `k` weights. `fill(rows, block)` writes the weights of the
    /// given rows (at most 32 of them) row-major into `block`; it is
    /// called from many threads, so that reading and dequantising run in parallel
    /// and no second copy of the whole matrix ever exists. It may be called again for the same
    /// rows: for [`Dtype::F32`] the smallest form in which no weight loses a bit is found by trying.
    ///
    /// # Errors
    /// The first error that `fill` returns.
    ///
    /// # Panics
    /// When `n` or `k` is 0, the matrix is larger than any memory, or the bias has not
    /// `n` elements.
    pub fn pack<Err: Send>(
        n: usize,
        k: usize,
        dtype: Dtype,
        bias: Option<Vec<f32>>,
        fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), Err> + Sync,
    ) -> Result<Self, Err> {
        check(n, k, bias.as_deref());
        let weights = match dtype {
            Dtype::F32 => Storage::floats(n, k, fill)?,
            Dtype::Bf16 => Storage::panels::<bf16, _>(n, k, fill)?,
        };
        Ok(Self { n, k, dtype, weights, bias })
    }

    /// Packs `n` rows of `k` quantised weights in blocks of `columns`.
    /// `fill(rows, blocks)` writes the given rows, as with [`Self::pack`].
    ///
    /// # Errors
    /// The first error that `fill` returns.
    ///
    /// # Panics
    /// As [`Self::pack`], when `columns` is not a multiple of 4 that divides `k`, when a scale or an
    /// offset is not finite, and for [`Dtype::Bf16`] when 32 does not divide `k`.
    pub fn pack_quantised<Err: Send>(
        n: usize,
        k: usize,
        columns: usize,
        dtype: Dtype,
        bias: Option<Vec<f32>>,
        fill: impl Fn(Range<usize>, QuantBlocks<'_>) -> Result<(), Err> + Sync,
    ) -> Result<Self, Err> {
        check(n, k, bias.as_deref());
        let weights = match dtype {
            Dtype::F32 => Storage::blocks::<f32, _>(n, k, columns, fill)?,
            Dtype::Bf16 => Storage::blocks::<bf16, _>(n, k, columns, fill)?,
        };
        Ok(Self { n, k, dtype, weights, bias })
    }

    /// Whether this machine multiplies quantised weights of `k` inputs as fast as others, so that
    /// [`Self::pack_quantised`] loses nothing: AMX takes less time for products than panels take
    /// to be made.
    pub fn supports_quantised(k: usize, dtype: Dtype) -> bool {
        match dtype {
            Dtype::F32 => true,
            Dtype::Bf16 => k.is_multiple_of(WIDTH) && !Isa::get().has_tiles::<bf16>(),
        }
    }

    /// Outputs a row, `n`.
    pub fn outputs(&self) -> usize {
        self.n
    }

    /// Inputs a row, `k`.
    pub fn inputs(&self) -> usize {
        self.k
    }

    /// Number of weights and biases.
    pub fn parameters(&self) -> usize {
        self.n * self.k + self.bias.as_ref().map_or(0, Vec::len)
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// Multiplies: `y = x W^T + b`.
    ///
    /// # Shapes
    /// `x [m, k]`, `y [m, n]`; `m` is `x.len() / k`.
    ///
    /// # Panics
    /// When the lengths do not fit.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        self.forward_with(Isa::get(), x, y);
    }

    /// [`Self::forward`] on a stated instruction set, for tests and benchmarks.
    ///
    /// # Panics
    /// When the lengths do not fit or the machine lacks the instruction set.
    pub fn forward_with(&self, isa: Isa, x: &[f32], y: &mut [f32]) {
        assert!(isa.is_available(), "{} is not available", isa.name());
        assert_eq!(x.len() % self.k, 0, "x must hold whole rows of {}", self.k);
        let m = x.len() / self.k;
        assert_eq!(y.len(), checked_area(m, self.n), "y must be [{m}, {}]", self.n);
        match self.dtype {
            Dtype::F32 if avoids_set_conflicts(m, self.k) => self.multiply(isa, x, self.k, m, y),
            Dtype::F32 => {
                with_padded_copy::<f32, _>(x, self.k, |x, stride| self.multiply(isa, x, stride, m, y))
            }
            Dtype::Bf16 => {
                with_padded_copy::<bf16, _>(x, self.k, |x, stride| self.multiply(isa, x, stride, m, y))
            }
        }
    }

    /// Rows go by in groups, so that their part of a chain stays in the second-level cache
    /// while the panels of a job pass.
    fn multiply<E: Multiply>(&self, isa: Isa, x: &[E], x_stride: usize, m: usize, y: &mut [f32]) {
        let out = Shared(y.as_mut_ptr());
        let panels = self.n.div_ceil(WIDTH);
        let blocking = Blocking::of::<E>(isa);
        let groups = m.div_ceil(blocking.rows_per_group::<E>(x_stride));
        let shares = split_panels(panels, m * self.k, blocking.panels_per_job);
        let one_job = |job: usize| {
            let (share, group) = (job / groups, job % groups);
            let job = Job {
                panels: share * panels / shares..(share + 1) * panels / shares,
                rows: group * m / groups..(group + 1) * m / groups,
            };
            let mut room = PANELS.take();
            // SAFETY: y holds m rows of n elements; this job alone writes these rows in the
            // columns of its panels.
            unsafe { self.run_job(isa, x, x_stride, &job, &mut room, out) };
            PANELS.set(room);
        };
        match shares * groups {
            0 => {}
            1 => one_job(0),
            jobs => (0..jobs).into_par_iter().with_max_len(1).for_each(one_job),
        }
    }

    /// # Safety
    /// `out` must hold the job's rows of `n` elements, in whose columns of the job's panels
    /// nobody else writes; `isa` must be available.
    unsafe fn run_job<E: Multiply>(
        &self,
        isa: Isa,
        x: &[E],
        x_stride: usize,
        job: &Job,
        room: &mut Lines,
        out: Shared,
    ) {
        let kernel = Kernel::new(isa, job.rows.len());
        let parts = self.parts::<E>(isa, x_stride, job);
        for (i, (p, chain)) in parts.iter().enumerate() {
            // While the rows pass, what comes next is fetched, a part with each tile.
            let next = match parts.get(i + 1) {
                Some((p, chain)) => self.weights.stored(*p, chain.clone()),
                None if job.panels.end * WIDTH < self.n => {
                    self.weights.stored(job.panels.end, parts[0].1.clone())
                }
                None => &[],
            };
            let tiles = kernel.row_tiles();
            let bytes_per_step = size_of_val(next).div_ceil((tiles.len() * chain.len()).max(1));
            let columns = p * WIDTH..((p + 1) * WIDTH).min(self.n);
            let last = chain.end == panel::k_steps::<E>(self.k);
            if !self.weights.is_panels() {
                room.resize(checked_area(chain.len(), WIDTH));
            }
            let reused = tiles.len() > 1;
            for (i, rows) in tiles.enumerate() {
                let row = job.rows.start + rows.start;
                let from = next.as_ptr().cast::<u8>().wrapping_add(i * bytes_per_step * chain.len());
                let tile = |panel| Tile {
                    x: &x[row * x_stride + chain.start * E::GROUP..],
                    x_stride,
                    panel: view(panel),
                    steps: chain.len(),
                    y: out.at(row * self.n + columns.start),
                    y_stride: self.n,
                    rows: rows.len(),
                    cols: columns.len(),
                    bias: self.bias.as_deref().filter(|_| last).map(|b| &b[columns.clone()]),
                    accumulate: chain.start > 0,
                    prefetch: if next.is_empty() {
                        Prefetch::none(x)
                    } else {
                        Prefetch { from, bytes_per_step }
                    },
                };
                // SAFETY: the tile lies in the rows and columns of this job.
                unsafe {
                    match self.weights.source(*p, chain.clone()) {
                        StoredPanel::Packed(panel) => tile(panel).run(&kernel),
                        // The first tile makes the panel, which the others find in the cache.
                        source if i == 0 => tile(&[]).run_packing(&kernel, source, room, reused),
                        _ => tile(room).run(&kernel),
                    }
                }
            }
        }
    }

    /// The parts of the job's panels in the order in which its rows go by them: panel and steps.
    ///
    /// Few rows stay in the cache as a whole, so that panels can be read from end to end,
    /// as memory likes it; of many rows only the part that one chain reads stays there.
    fn parts<E: Element>(&self, isa: Isa, x_stride: usize, job: &Job) -> Vec<(usize, Range<usize>)> {
        let (steps, blocking) = (panel::k_steps::<E>(self.k), Blocking::of::<E>(isa));
        let few = blocking.fit::<E>(job.rows.len(), x_stride);
        let whole = few && (self.weights.is_panels() || steps <= blocking.max_decoded_steps);
        let chains: Vec<Range<usize>> =
            panel::chains::<E>(steps, blocking.steps_per_tile(whole, steps)).collect();
        let panels = job.panels.clone();
        if few {
            return panels.flat_map(|p| chains.iter().map(move |chain| (p, chain.clone()))).collect();
        }
        chains.iter().flat_map(|chain| panels.clone().map(|p| (p, chain.clone()))).collect()
    }

    /// The gradient of the input from that of the output: `dx = dy W`.
    ///
    /// # Shapes
    /// `dy [m, n]`, `dx [m, k]`; `m` is `dy.len() / n`.
    ///
    /// # Panics
    /// When the lengths do not fit.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32]) {
        self.backward_with(Isa::get(), dy, dx);
    }

    /// [`Self::backward`] on a stated instruction set, for tests and benchmarks.
    ///
    /// # Panics
    /// When the lengths do not fit or the machine lacks the instruction set.
    pub fn backward_with(&self, isa: Isa, dy: &[f32], dx: &mut [f32]) {
        assert!(isa.is_available(), "{} is not available", isa.name());
        assert_eq!(dy.len() % self.n, 0, "dy must hold whole rows of {}", self.n);
        let m = dy.len() / self.n;
        assert_eq!(dx.len(), checked_area(m, self.k), "dx must be [{m}, {}]", self.k);
        match self.dtype {
            Dtype::F32 if avoids_set_conflicts(m, self.n) => self.multiply_backward(isa, dy, self.n, m, dx),
            Dtype::F32 => with_padded_copy::<f32, _>(dy, self.n, |dy, stride| {
                self.multiply_backward(isa, dy, stride, m, dx)
            }),
            Dtype::Bf16 => with_padded_copy::<bf16, _>(dy, self.n, |dy, stride| {
                self.multiply_backward(isa, dy, stride, m, dx)
            }),
        }
    }

    fn multiply_backward<E: Multiply>(&self, isa: Isa, dy: &[E], dy_stride: usize, m: usize, dx: &mut [f32]) {
        let out = Shared(dx.as_mut_ptr());
        let blocks = self.k.div_ceil(WIDTH);
        let blocking = Blocking::of::<E>(isa);
        let groups = m.div_ceil(blocking.rows_per_backward_job);
        let shares = split_panels(blocks, m * self.n, blocking.panels_per_job);
        let one_job = |job: usize| {
            let (share, group) = (job / groups, job % groups);
            let job = Job {
                panels: share * blocks / shares..(share + 1) * blocks / shares,
                rows: group * m / groups..(group + 1) * m / groups,
            };
            let mut turned = TRANSPOSED.take();
            turned.resize_with(job.panels.len().max(turned.len()), TransposedPanel::default);
            // SAFETY: dx holds m rows of k elements; this job alone writes these rows in the
            // columns of its blocks.
            unsafe { self.run_backward_job(isa, dy, dy_stride, &job, &mut turned, out) };
            TRANSPOSED.set(turned);
        };
        (0..shares * groups).into_par_iter().with_max_len(1).for_each(one_job);
    }

    /// Panels of a job are blocks of [`WIDTH`] inputs here. They are made anew from the weights,
    /// some outputs at a time, and serve all rows of the job.
    ///
    /// # Safety
    /// `out` must hold the job's rows of `k` elements, in whose columns of the job's blocks
    /// nobody else writes; `isa` must be available.
    unsafe fn run_backward_job<E: Multiply>(
        &self,
        isa: Isa,
        dy: &[E],
        dy_stride: usize,
        job: &Job,
        turned: &mut [TransposedPanel],
        out: Shared,
    ) {
        let (n, k) = (self.n, self.k);
        let most = Blocking::of::<E>(isa).backward_steps * E::GROUP;
        let kernel = Kernel::new(isa, job.rows.len());
        let columns = |block: usize| block * WIDTH..((block + 1) * WIDTH).min(k);
        let outputs = |start: usize| start..(start + most).min(n);
        for start in (0..n).step_by(most) {
            for (block, turned) in job.panels.clone().zip(&mut *turned) {
                turned.prepare(isa, &kernel, &self.weights, columns(block), outputs(start));
            }
            // While the rows pass, what is turned over next is fetched, a part with each tile.
            let next = outputs(outputs(start).end);
            let tiles = kernel.row_tiles();
            let count = tiles.len();
            let parts = count * job.panels.len();
            for (i, rows) in tiles.enumerate() {
                let row = job.rows.start + rows.start;
                for (b, (block, turned)) in job.panels.clone().zip(&mut *turned).enumerate() {
                    self.fetch_part::<E>(&job.panels, next.clone(), i * job.panels.len() + b, parts);
                    let columns = columns(block);
                    let (raw, panel) = turned.parts();
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
                        match raw {
                            Some(raw) if i == 0 => tile(&[]).run_transposed(&kernel, raw, panel, count > 1),
                            _ => tile(panel).run(&kernel),
                        }
                    }
                }
            }
        }
    }

    /// Fetches one of so many parts of what is stored of some outputs, blocks of [`WIDTH`] of them, in the
    /// columns of these panels.
    fn fetch_part<E: Element>(&self, panels: &Range<usize>, outputs: Range<usize>, part: usize, of: usize) {
        let pieces = outputs.len().div_ceil(WIDTH) * panels.len();
        for piece in part * pieces / of..(part + 1) * pieces / of {
            let (group, block) = (piece / panels.len(), panels.start + piece % panels.len());
            let columns = block * WIDTH..((block + 1) * WIDTH).min(self.k);
            let steps = columns.start / E::GROUP..columns.end.div_ceil(E::GROUP);
            fetch(self.weights.stored(outputs.start / WIDTH + group, steps));
        }
    }

    /// Reads one row of the weights back: an embedding look-up when the embedding
    /// is tied to the head.
    ///
    /// # Shapes
    /// `out [k]`.
    ///
    /// # Panics
    /// When `row >= n` or `out` is not `k` long.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n && out.len() == self.k);
        match self.dtype {
            Dtype::F32 => self.weights.row::<f32>(row, out),
            Dtype::Bf16 => self.weights.row::<bf16>(row, out),
        }
    }
}

/// # Panics
/// When a layer cannot have this shape.
fn check(n: usize, k: usize, bias: Option<&[f32]>) {
    assert!(n > 0 && k > 0, "a linear layer must have inputs and outputs");
    assert!(bias.is_none_or(|b| b.len() == n), "the bias must have one element a row");
}

/// Some rows times some panels.
struct Job {
    panels: Range<usize>,
    rows: Range<usize>,
}

/// In how many jobs panels are shared: enough for all threads, but none too small, and none too
/// large for the caches.
fn split_panels(panels: usize, macs_per_column: usize, max_per_job: usize) -> usize {
    // A job below some hundred thousand products costs more to hand out than to do.
    let least = 300_000usize.div_ceil((macs_per_column * WIDTH).max(1));
    let most = panels.div_ceil(least);
    panels.div_ceil(max_per_job).next_multiple_of(rayon::current_num_threads()).min(most)
}

/// Whether `m` rows of so many floats can be read where they are. The rows of a tile want the same
/// place in the first-level cache when they are a multiple of its pages apart, where there is room
/// for fewer lines than a tile has rows.
fn avoids_set_conflicts(m: usize, width: usize) -> bool {
    const PAGE: usize = 4096;
    const FEW: usize = 16;
    m <= FEW || !(width * size_of::<f32>()).is_multiple_of(PAGE)
}

thread_local! {
    /// Copies of inputs, kept from call to call.
    static COPIES: Cell<Lines> = const { Cell::new(Lines::new()) };
    /// Panels of a job, made of stored weights.
    static PANELS: Cell<Lines> = const { Cell::new(Lines::new()) };
    /// Panels of a job on the way back.
    static TRANSPOSED: Cell<Vec<TransposedPanel>> = const { Cell::new(Vec::new()) };
}

/// Hands on a copy of rows of `width` floats as elements, in whole blocks, and the elements from
/// one row to the next.
fn with_padded_copy<E: Element, T>(rows: &[f32], width: usize, then: impl FnOnce(&[E], usize) -> T) -> T {
    // An odd number of lines of memory: rows a power of two apart would all want the same few
    // places in the caches.
    let line = LINE / size_of::<E>();
    let stride = checked_area((panel::k_steps::<E>(width) * E::GROUP).div_ceil(line) | 1, line);
    // The room is taken and given back, because the thread may be lent to another call
    // while this one waits for its jobs.
    let mut room = COPIES.take();
    room.resize(checked_area(rows.len() / width, stride) * size_of::<E>() / size_of::<u32>());
    let elements: &mut [E] = view_mut(&mut room);
    let least = 16_384usize.div_ceil(width);
    let pairs = elements.par_chunks_exact_mut(stride).zip(rows.par_chunks_exact(width));
    pairs.with_min_len(least).for_each(|(to, from)| {
        to[width..].fill(E::default());
        E::round(from, to);
    });
    let result = then(view(&room), stride);
    COPIES.set(room);
    result
}

multiversion! {
    /// The nearest bfloat16 of each float, ties to even.
    pub(crate) fn round(from: &[f32], to: &mut [bf16]) {
        for (to, from) in to.iter_mut().zip(from) {
            // What is not a number stays so; rounding could make it infinite.
            let bits = if from.is_nan() { from.to_bits() >> 16 | 0x40 } else { panel::nearest(*from) };
            *to = bf16::from_bits(bits as u16);
        }
    }
}

/// A pointer that jobs share, each writing its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub(crate) *mut f32);

// SAFETY: the jobs that get the pointer write disjoint parts of one buffer that
// outlives them; each user says which part.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The pointer `offset` elements on; not dereferenced here.
    pub(crate) fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

#[cfg(test)]
mod tests;
