//! Linear layers over weights that are packed once.

use crate::cpu::multiversion;
use crate::memory::{LINE, Lines, view, view_mut};
use crate::panel::{self, Element, Sizes, WIDTH};
use crate::storage::{Blocks, Source, Storage};
use crate::tile::{Ahead, Kernel, Multiply, Tile, fetch};
use crate::turned::Turned;
use crate::{Isa, product};
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
    pub fn pack_blocks<Err: Send>(
        n: usize,
        k: usize,
        columns: usize,
        dtype: Dtype,
        bias: Option<Vec<f32>>,
        fill: impl Fn(Range<usize>, Blocks<'_>) -> Result<(), Err> + Sync,
    ) -> Result<Self, Err> {
        check(n, k, bias.as_deref());
        let weights = match dtype {
            Dtype::F32 => Storage::blocks::<f32, _>(n, k, columns, fill)?,
            Dtype::Bf16 => Storage::blocks::<bf16, _>(n, k, columns, fill)?,
        };
        Ok(Self { n, k, dtype, weights, bias })
    }

    /// Whether this machine multiplies quantised weights of `k` inputs as fast as others, so that
    /// [`Self::pack_blocks`] loses nothing: AMX takes less time for products than panels take
    /// to be made.
    pub fn takes_blocks(k: usize, dtype: Dtype) -> bool {
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
        assert_eq!(y.len(), product(m, self.n), "y must be [{m}, {}]", self.n);
        match self.dtype {
            Dtype::F32 if apart(m, self.k) => self.multiply(isa, x, self.k, m, y),
            Dtype::F32 => copied::<f32, _>(x, self.k, |x, stride| self.multiply(isa, x, stride, m, y)),
            Dtype::Bf16 => copied::<bf16, _>(x, self.k, |x, stride| self.multiply(isa, x, stride, m, y)),
        }
    }

    /// Rows go by in groups, so that their part of a chain stays in the second-level cache
    /// while the panels of a job pass.
    fn multiply<E: Multiply>(&self, isa: Isa, x: &[E], x_stride: usize, m: usize, y: &mut [f32]) {
        let out = Shared(y.as_mut_ptr());
        let panels = self.n.div_ceil(WIDTH);
        let sizes = Sizes::of::<E>(isa);
        let groups = m.div_ceil(sizes.rows_a_group::<E>(x_stride));
        let shares = shares(panels, m * self.k, sizes.panels_a_job);
        let one_job = |job: usize| {
            let (share, group) = (job / groups, job % groups);
            let job = Job {
                panels: share * panels / shares..(share + 1) * panels / shares,
                rows: group * m / groups..(group + 1) * m / groups,
            };
            let mut room = PANELS.take();
            // SAFETY: y holds m rows of n elements; this job alone writes these rows in the
            // columns of its panels.
            unsafe { self.one_job(isa, x, x_stride, &job, &mut room, out) };
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
    unsafe fn one_job<E: Multiply>(
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
            let bytes_a_step = size_of_val(next).div_ceil((tiles.len() * chain.len()).max(1));
            let columns = p * WIDTH..((p + 1) * WIDTH).min(self.n);
            let last = chain.end == panel::steps::<E>(self.k);
            if !self.weights.is_panels() {
                room.resize(product(chain.len(), WIDTH));
            }
            let is_read = tiles.len() > 1;
            for (i, rows) in tiles.enumerate() {
                let row = job.rows.start + rows.start;
                let from = next.as_ptr().cast::<u8>().wrapping_add(i * bytes_a_step * chain.len());
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
                    ahead: if next.is_empty() { Ahead::nothing(x) } else { Ahead { from, bytes_a_step } },
                };
                // SAFETY: the tile lies in the rows and columns of this job.
                unsafe {
                    match self.weights.source(*p, chain.clone()) {
                        Source::Panels(panel) => tile(panel).run(&kernel),
                        // The first tile makes the panel, which the others find in the cache.
                        source if i == 0 => tile(&[]).run_making(&kernel, source, room, is_read),
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
        let (steps, sizes) = (panel::steps::<E>(self.k), Sizes::of::<E>(isa));
        let few = sizes.fit::<E>(job.rows.len(), x_stride);
        let whole = few && (self.weights.is_panels() || steps <= sizes.most_made);
        let chains: Vec<Range<usize>> = panel::chains::<E>(steps, sizes.steps_a_tile(whole, steps)).collect();
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
        assert_eq!(dx.len(), product(m, self.k), "dx must be [{m}, {}]", self.k);
        match self.dtype {
            Dtype::F32 if apart(m, self.n) => self.multiply_back(isa, dy, self.n, m, dx),
            Dtype::F32 => {
                copied::<f32, _>(dy, self.n, |dy, stride| self.multiply_back(isa, dy, stride, m, dx))
            }
            Dtype::Bf16 => {
                copied::<bf16, _>(dy, self.n, |dy, stride| self.multiply_back(isa, dy, stride, m, dx))
            }
        }
    }

    fn multiply_back<E: Multiply>(&self, isa: Isa, dy: &[E], dy_stride: usize, m: usize, dx: &mut [f32]) {
        let out = Shared(dx.as_mut_ptr());
        let blocks = self.k.div_ceil(WIDTH);
        let sizes = Sizes::of::<E>(isa);
        let groups = m.div_ceil(sizes.rows_a_backward_job);
        let shares = shares(blocks, m * self.n, sizes.panels_a_job);
        let one_job = |job: usize| {
            let (share, group) = (job / groups, job % groups);
            let job = Job {
                panels: share * blocks / shares..(share + 1) * blocks / shares,
                rows: group * m / groups..(group + 1) * m / groups,
            };
            let mut turned = TURNED.take();
            turned.resize_with(job.panels.len().max(turned.len()), Turned::default);
            // SAFETY: dx holds m rows of k elements; this job alone writes these rows in the
            // columns of its blocks.
            unsafe { self.one_job_back(isa, dy, dy_stride, &job, &mut turned, out) };
            TURNED.set(turned);
        };
        (0..shares * groups).into_par_iter().with_max_len(1).for_each(one_job);
    }

    /// Panels of a job are blocks of [`WIDTH`] inputs here. They are made anew from the weights,
    /// some outputs at a time, and serve all rows of the job.
    ///
    /// # Safety
    /// `out` must hold the job's rows of `k` elements, in whose columns of the job's blocks
    /// nobody else writes; `isa` must be available.
    unsafe fn one_job_back<E: Multiply>(
        &self,
        isa: Isa,
        dy: &[E],
        dy_stride: usize,
        job: &Job,
        turned: &mut [Turned],
        out: Shared,
    ) {
        let (n, k) = (self.n, self.k);
        let most = Sizes::of::<E>(isa).backward_steps * E::GROUP;
        let kernel = Kernel::new(isa, job.rows.len());
        let columns = |block: usize| block * WIDTH..((block + 1) * WIDTH).min(k);
        let outputs = |start: usize| start..(start + most).min(n);
        for start in (0..n).step_by(most) {
            for (block, turned) in job.panels.clone().zip(&mut *turned) {
                turned.turn(isa, &kernel, &self.weights, columns(block), outputs(start));
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
                        steps: panel::steps::<E>(outputs(start).len()),
                        y: out.at(row * k + columns.start),
                        y_stride: k,
                        rows: rows.len(),
                        cols: columns.len(),
                        bias: None,
                        accumulate: start > 0,
                        ahead: Ahead::nothing(dy),
                    };
                    // SAFETY: the tile lies in the rows and columns of this job.
                    unsafe {
                        match raw {
                            Some(raw) if i == 0 => tile(&[]).run_turned(&kernel, raw, panel, count > 1),
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
fn shares(panels: usize, work_a_column: usize, most_a_job: usize) -> usize {
    // A job below some hundred thousand products costs more to hand out than to do.
    let least = 300_000usize.div_ceil((work_a_column * WIDTH).max(1));
    let most = panels.div_ceil(least);
    panels.div_ceil(most_a_job).next_multiple_of(rayon::current_num_threads()).min(most)
}

/// Whether `m` rows of so many floats can be read where they are. The rows of a tile want the same
/// place in the first-level cache when they are a multiple of its pages apart, where there is room
/// for fewer lines than a tile has rows.
fn apart(m: usize, width: usize) -> bool {
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
    static TURNED: Cell<Vec<Turned>> = const { Cell::new(Vec::new()) };
}

/// Hands on a copy of rows of `width` floats as elements, in whole blocks, and the elements from
/// one row to the next.
fn copied<E: Element, T>(rows: &[f32], width: usize, then: impl FnOnce(&[E], usize) -> T) -> T {
    // An odd number of lines of memory: rows a power of two apart would all want the same few
    // places in the caches.
    let line = LINE / size_of::<E>();
    let stride = product((panel::steps::<E>(width) * E::GROUP).div_ceil(line) | 1, line);
    // The room is taken and given back, because the thread may be lent to another call
    // while this one waits for its jobs.
    let mut room = COPIES.take();
    room.resize(product(rows.len() / width, stride) * size_of::<E>() / size_of::<u32>());
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn linear(n: usize, k: usize, dtype: Dtype, w: &[f32], bias: Option<Vec<f32>>) -> Linear {
        Linear::pack(n, k, dtype, bias, |rows, block| {
            block.copy_from_slice(&w[rows.start * k..rows.end * k]);
            Ok::<(), ()>(())
        })
        .unwrap()
    }

    /// The product in f64 and, beside each element, the sum of the sizes of its terms.
    fn naive(x: &[f32], w: &[f32], bias: Option<&[f32]>, m: usize, n: usize, k: usize) -> Vec<(f64, f64)> {
        let mut y = Vec::with_capacity(m * n);
        for i in 0..m {
            for j in 0..n {
                let (mut sum, mut size) =
                    bias.map_or((0.0, 0.0), |b| (f64::from(b[j]), f64::from(b[j].abs())));
                for kk in 0..k {
                    let term = f64::from(x[i * k + kk]) * f64::from(w[j * k + kk]);
                    sum += term;
                    size += term.abs();
                }
                y.push((sum, size));
            }
        }
        y
    }

    /// The product of a row must be the same bits whatever stands beside it, and whoever computes.
    #[track_caller]
    fn check_rows(layer: &Linear) {
        const MOST: usize = 100;
        let (n, k, dtype) = (layer.n, layer.k, layer.dtype);
        let threads = |count| rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap();
        let (one, three) = (threads(1), threads(3));
        let (x, dy) = (numbers(MOST * k, 3), numbers(MOST * n, 4));
        for isa in Isa::available() {
            let (mut y, mut dx) = (vec![f32::NAN; MOST * n], vec![f32::NAN; MOST * k]);
            one.install(|| layer.forward_with(isa, &x, &mut y));
            one.install(|| layer.backward_with(isa, &dy, &mut dx));
            for m in [1, 2, 15, 16, 17, 31, 33, MOST] {
                let from = MOST - m;
                let (mut y_part, mut dx_part) = (vec![f32::NAN; m * n], vec![f32::NAN; m * k]);
                three.install(|| layer.forward_with(isa, &x[from * k..], &mut y_part));
                three.install(|| layer.backward_with(isa, &dy[from * n..], &mut dx_part));
                assert_eq!(y_part, y[from * n..], "{isa:?}, {m} rows forward, {n} {k} {dtype:?}");
                assert_eq!(dx_part, dx[from * k..], "{isa:?}, {m} rows backward, {n} {k} {dtype:?}");
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_whatever_stands_beside_it() {
        let check = |n: usize, k: usize, dtype| {
            check_rows(&linear(n, k, dtype, &numbers(n * k, 1), Some(numbers(n, 2))));
        };
        for (n, k) in [(1, 1), (3, 31), (33, 32), (45, 700), (700, 45), (64, 257)] {
            check(n, k, Dtype::F32);
            check(n, k, Dtype::Bf16);
        }
        // A page long, rows are copied if there are many.
        check(33, 1024, Dtype::F32);
        check(1024, 33, Dtype::F32);
        // So long are rows that a few stay in the cache as a whole, and many do not.
        check(33, 4300, Dtype::F32);
        check(33, 8600, Dtype::Bf16);
    }

    #[test]
    fn long_chains_agree_with_a_naive_product() {
        for (m, n, k) in
            [(1, 37, 1001), (33, 65, 640), (50, 3, 2049), (70, 1, 1), (30, 40, 1024), (30, 1024, 40)]
        {
            let (mut x, mut w, mut dy) = (numbers(m * k, 1), numbers(n * k, 2), numbers(m * n, 3));
            let halves = x.iter_mut().chain(&mut w).chain(&mut dy);
            halves.for_each(|v| *v = bf16::from_f32(*v).to_f32());
            let bias = numbers(n, 4);
            let layers = [Dtype::F32, Dtype::Bf16].map(|dtype| linear(n, k, dtype, &w, Some(bias.clone())));
            let turned: Vec<f32> = (0..n * k).map(|i| w[i % n * k + i / n]).collect();
            let (forward, backward) =
                (naive(&x, &w, Some(&bias), m, n, k), naive(&dy, &turned, None, m, k, n));
            for (isa, layer) in
                Isa::available().into_iter().flat_map(|isa| layers.iter().map(move |l| (isa, l)))
            {
                let (mut y, mut dx) = (vec![f32::NAN; m * n], vec![f32::NAN; m * k]);
                layer.forward_with(isa, &x, &mut y);
                layer.backward_with(isa, &dy, &mut dx);
                for (got, (want, size)) in y.iter().zip(&forward).chain(dx.iter().zip(&backward)) {
                    let error = (f64::from(*got) - want).abs();
                    assert!(error <= 2e-6 * size + 1e-12, "{isa:?}: {got} against {want}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_in_its_row_and_column() {
        let (m, n, k) = (35, 67, 75);
        let mut w = numbers(n * k, 1);
        (0..n).for_each(|j| w[j * k + 74] = f32::NAN);
        let layer = linear(n, k, Dtype::Bf16, &w, None);
        for isa in Isa::available() {
            let mut dx = vec![0.0; m * k];
            layer.backward_with(isa, &numbers(m * n, 2), &mut dx);
            for (i, dx) in dx.iter().enumerate() {
                assert_eq!(dx.is_nan(), i % k == 74, "{isa:?}: column {} is {dx}", i % k);
            }
        }
        let mut x = numbers(m * k, 3);
        x[16 * k + 3] = f32::NAN;
        let layer = linear(n, k, Dtype::Bf16, &numbers(n * k, 4), None);
        for isa in Isa::available() {
            let mut y = vec![0.0; m * n];
            layer.forward_with(isa, &x, &mut y);
            for (i, y) in y.iter().enumerate() {
                assert_eq!(y.is_nan(), i / n == 16, "{isa:?}: row {} is {y}", i / n);
            }
            // The same room now holds shorter rows, whose padding must be zero.
            let short = linear(n, 5, Dtype::Bf16, &numbers(n * 5, 5), None);
            layer.forward_with(isa, &vec![f32::NAN; m * k], &mut y);
            short.forward_with(isa, &numbers(m * 5, 6), &mut y);
            assert!(y.iter().all(|y| y.is_finite()), "{isa:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_a_naive_product(m in 1usize..40, n in 1usize..100, k in 1usize..90, seed: u32, bias: bool, half: bool) {
            let dtype = if half { Dtype::Bf16 } else { Dtype::F32 };
            let (mut x, mut w) = (numbers(m * k, seed), numbers(n * k, seed ^ 7));
            if half {
                x.iter_mut().chain(&mut w).for_each(|v| *v = bf16::from_f32(*v).to_f32());
            }
            let bias = bias.then(|| numbers(n, seed ^ 9));
            let layer = linear(n, k, dtype, &w, bias.clone());
            let expected = naive(&x, &w, bias.as_deref(), m, n, k);
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; m * n];
                layer.forward_with(isa, &x, &mut y);
                for (got, (want, size)) in y.iter().zip(&expected) {
                    prop_assert!((f64::from(*got) - want).abs() <= 1e-6 * size + 1e-12, "{isa:?}: {got} against {want}");
                }
            }
        }

        #[test]
        fn backward_agrees_with_a_naive_product(m in 1usize..40, n in 1usize..1100, k in 1usize..70, seed: u32, half: bool) {
            let dtype = if half { Dtype::Bf16 } else { Dtype::F32 };
            let (mut dy, mut w) = (numbers(m * n, seed), numbers(n * k, seed ^ 7));
            if half {
                dy.iter_mut().chain(&mut w).for_each(|v| *v = bf16::from_f32(*v).to_f32());
            }
            let layer = linear(n, k, dtype, &w, Some(numbers(n, seed ^ 9)));
            let turned: Vec<f32> = (0..n * k).map(|i| w[i % n * k + i / n]).collect();
            let expected = naive(&dy, &turned, None, m, k, n);
            for isa in Isa::available() {
                let mut dx = vec![f32::NAN; m * k];
                layer.backward_with(isa, &dy, &mut dx);
                for (got, (want, size)) in dx.iter().zip(&expected) {
                    prop_assert!((f64::from(*got) - want).abs() <= 2e-6 * size + 1e-12, "{isa:?}: {got} against {want}");
                }
                let mut one = vec![0.0; k];
                layer.backward_with(isa, &dy[(m - 1) * n..], &mut one);
                prop_assert_eq!(&dx[(m - 1) * k..], &one[..]);
            }
        }

        #[test]
        fn a_row_does_not_depend_on_its_batch(m in 2usize..60, n in 1usize..70, k in 1usize..70, seed: u32) {
            let x = numbers(m * k, seed);
            let w = numbers(n * k, seed ^ 3);
            let layer = linear(n, k, Dtype::F32, &w, None);
            for isa in Isa::available() {
                let mut all = vec![0.0; m * n];
                layer.forward_with(isa, &x, &mut all);
                for i in 0..m {
                    let mut one = vec![0.0; n];
                    layer.forward_with(isa, &x[i * k..(i + 1) * k], &mut one);
                    prop_assert_eq!(&all[i * n..(i + 1) * n], &one[..]);
                }
            }
        }
    }

    #[test]
    fn rows_are_read_back() {
        let (n, k) = (45, 17);
        let w = numbers(n * k, 5);
        let layer = linear(n, k, Dtype::F32, &w, None);
        let mut row = vec![0.0; k];
        for i in 0..n {
            layer.row(i, &mut row);
            assert_eq!(row, w[i * k..(i + 1) * k]);
        }
    }

    /// Weights that are stored in less memory must give the very bits that they give as panels.
    #[track_caller]
    fn check_form<E: Element>(n: usize, k: usize, w: &[f32], stored: Linear, bytes_a_weight: f64) {
        let Ok(weights) = Storage::panels::<E, ()>(n, k, |rows, block| {
            block.copy_from_slice(&w[rows.start * k..rows.end * k]);
            Ok(())
        }) else {
            panic!("packing from memory cannot fail")
        };
        let panels = Linear { n, k, dtype: stored.dtype, weights, bias: stored.bias.clone() };
        check_rows(&stored);
        assert_eq!(stored.bytes() as f64, bytes_a_weight * (n.next_multiple_of(WIDTH) * k) as f64);
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for (isa, m) in Isa::available().into_iter().flat_map(|isa| [1, 14, 15, 100].map(|m| (isa, m))) {
            let (x, dy) = (numbers(m * k, 1), numbers(m * n, 2));
            let run = |layer: &Linear| {
                let (mut y, mut dx) = (vec![f32::NAN; m * n], vec![f32::NAN; m * k]);
                layer.forward_with(isa, &x, &mut y);
                layer.backward_with(isa, &dy, &mut dx);
                [bits(&y), bits(&dx)]
            };
            assert!(run(&stored) == run(&panels), "{isa:?}, {m} rows, {n} by {k}, {bytes_a_weight} bytes");
        }
        for i in 0..n {
            let mut row = vec![f32::NAN; k];
            stored.row(i, &mut row);
            let w = w[i * k..(i + 1) * k].iter().map(|w| E::from_f32(*w).to_f32());
            assert_eq!(bits(&row), bits(&w.collect::<Vec<_>>()));
        }
    }

    /// Widths below and above a chain, odd ones, some so large that a part of the rows goes by at once, and one
    /// whose panels are too large to be made as a whole.
    const SHAPES: [(usize, usize); 6] = [(1, 1), (33, 31), (70, 352), (65, 1024), (40, 4300), (33, 8640)];

    #[test]
    fn weights_of_16_bits_take_two_bytes_and_lose_nothing() {
        for (n, k) in SHAPES {
            let bias = Some(numbers(n, 3));
            let upper: Vec<f32> = numbers(n * k, 4).iter().map(|w| bf16::from_f32(*w).to_f32()).collect();
            check_form::<f32>(n, k, &upper, linear(n, k, Dtype::F32, &upper, bias.clone()), 2.0);
            // Some of these are subnormal as 16-bit floats.
            let half = |w: &f32| half::f16::from_f32(w.powi(9)).to_f32();
            let halves: Vec<f32> = numbers(n * k, 5).iter().map(half).collect();
            check_form::<f32>(n, k, &halves, linear(n, k, Dtype::F32, &halves, bias), 2.0);
        }
    }

    #[test]
    fn one_weight_with_more_digits_keeps_all_in_full() {
        let (n, k) = (70, 40);
        for weight in [1.0 + f32::EPSILON, f32::MIN_POSITIVE, 1e38, 0.1] {
            let mut w = vec![0.5; n * k];
            *w.last_mut().unwrap() = weight;
            let bytes = if weight == f32::MIN_POSITIVE { 2.0 } else { 4.0 };
            let stored = linear(n, k, Dtype::F32, &w, None);
            assert_eq!(stored.bytes() as f64, bytes * (96 * k) as f64, "{weight}");
        }
    }

    #[test]
    fn quantised_weights_are_multiplied_as_they_are() {
        // Blocks of 24 and 96 columns begin and end within steps, chains and the blocks of the way back.
        for (n, k, columns) in [
            (1, 4, 4),
            (40, 96, 12),
            (70, 352, 32),
            (350, 1152, 24),
            (65, 1024, 16),
            (66, 768, 96),
            (40, 4320, 16),
            (33, 8640, 32),
        ] {
            let count = k / columns;
            // A value times its scale is exact, as formats have it.
            let value = |j: usize, kk: usize| ((j * 89 + kk * 57) % 256) as u8 as i8;
            let scale = |j: usize, b: usize| ((j * 31 + b * 17) % 100) as f32 / 1024.0 - 0.05;
            let scale = |j: usize, b: usize| bf16::from_f32(scale(j, b)).to_f32();
            let offset = |j: usize, b: usize| ((j + b * 7) % 13) as f32 / 7.0;
            let weight = |i: usize| {
                let (j, kk) = (i / k, i % k);
                f32::from(value(j, kk)).mul_add(scale(j, kk / columns), offset(j, kk / columns))
            };
            let w: Vec<f32> = (0..n * k).map(weight).collect();
            let pack = |dtype| {
                let stored =
                    Linear::pack_blocks(n, k, columns, dtype, Some(numbers(n, 1)), |rows, blocks| {
                        let place = |i: usize, width: usize| (rows.start + i / width, i % width);
                        for (i, v) in blocks.values.iter_mut().enumerate() {
                            *v = value(place(i, k).0, place(i, k).1);
                        }
                        for (i, (s, o)) in blocks.scales.iter_mut().zip(blocks.offsets).enumerate() {
                            let (j, b) = place(i, count);
                            (*s, *o) = (scale(j, b), offset(j, b));
                        }
                        Ok::<(), ()>(())
                    });
                stored.unwrap()
            };
            let bytes = 1.0 + 8.0 / columns as f64;
            check_form::<f32>(n, k, &w, pack(Dtype::F32), bytes);
            if k.is_multiple_of(WIDTH) {
                check_form::<bf16>(n, k, &w, pack(Dtype::Bf16), bytes);
            }
        }
    }

    #[test]
    #[should_panic(expected = "blocks must fill rows")]
    fn blocks_that_do_not_fill_rows_are_refused() {
        let _ = Linear::pack_blocks(4, 40, 16, Dtype::F32, None, |_, _| Ok::<(), ()>(()));
    }

    #[test]
    fn an_error_while_packing_comes_through() {
        let result =
            Linear::pack(
                40,
                4,
                Dtype::F32,
                None,
                |rows, _| if rows.start == 32 { Err("bad") } else { Ok(()) },
            );
        assert_eq!(result.err(), Some("bad"));
    }
}
