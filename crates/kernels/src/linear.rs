//! Linear layers over weights that are packed once.

use crate::panel::{self, Element, Tile, WIDTH};
use crate::{Isa, product};
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// How packed weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// bfloat16: half the memory; products and sums are still made in `f32`.
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

enum Panels {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

/// `y = x W^T + b` with `W [n, k]` packed into panels.
pub struct Linear {
    n: usize,
    k: usize,
    panels: Panels,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Packs `n` rows of `k` weights. `fill(rows, block)` writes the weights of the
    /// given rows (at most [`WIDTH`] of them) row-major into `block`; it is
    /// called from many threads, so that reading and dequantising run in parallel
    /// and no second copy of the whole matrix ever exists.
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
        assert!(n > 0 && k > 0, "a linear layer must have inputs and outputs");
        assert!(bias.as_ref().is_none_or(|b| b.len() == n), "the bias must have one element a row");
        let panels = match dtype {
            Dtype::F32 => Panels::F32(pack_panels(n, k, fill)?),
            Dtype::Bf16 => Panels::Bf16(pack_panels(n, k, fill)?),
        };
        Ok(Self { n, k, panels, bias })
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
        match &self.panels {
            Panels::F32(p) => std::mem::size_of_val(&p[..]),
            Panels::Bf16(p) => std::mem::size_of_val(&p[..]),
        }
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
        assert!(isa <= Isa::get().max(*Isa::available().last().expect("portable is always there")));
        assert_eq!(x.len() % self.k, 0, "x must hold whole rows of {}", self.k);
        let m = x.len() / self.k;
        assert_eq!(y.len(), product(m, self.n), "y must be [{m}, {}]", self.n);
        match &self.panels {
            Panels::F32(p) => self.multiply(isa, p, x, m, y),
            Panels::Bf16(p) => self.multiply(isa, p, x, m, y),
        }
    }

    fn multiply<E: Element>(&self, isa: Isa, panels: &[E], x: &[f32], m: usize, y: &mut [f32]) {
        let (n, k) = (self.n, self.k);
        let out = Shared(y.as_mut_ptr());
        let one_panel = |p: usize| {
            let cols = (n - p * WIDTH).min(WIDTH);
            for rows in panel::row_tiles(isa, m) {
                let tile = Tile {
                    x: &x[rows.start * k..rows.end * k],
                    x_stride: k,
                    panel: &panels[p * k * WIDTH..(p + 1) * k * WIDTH],
                    panel_stride: WIDTH,
                    k,
                    y: out.at(rows.start * n + p * WIDTH),
                    y_stride: n,
                    rows: rows.len(),
                    cols,
                    bias: self.bias.as_deref().map(|b| &b[p * WIDTH..p * WIDTH + cols]),
                    accumulate: false,
                };
                // SAFETY: y holds m rows of n elements; this job alone writes columns
                // p * WIDTH .. p * WIDTH + cols.
                unsafe { tile.run(isa) };
            }
        };
        let count = n.div_ceil(WIDTH);
        // A job below some hundred thousand products costs more to hand out than to do.
        let panels_a_job = (300_000 / (m * k * WIDTH).max(1)).max(1);
        if count <= panels_a_job {
            (0..count).for_each(one_panel);
        } else {
            (0..count).into_par_iter().with_min_len(panels_a_job).for_each(one_panel);
        }
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
        assert!(isa <= Isa::get().max(*Isa::available().last().expect("portable is always there")));
        assert_eq!(dy.len() % self.n, 0, "dy must hold whole rows of {}", self.n);
        let m = dy.len() / self.n;
        assert_eq!(dx.len(), product(m, self.k), "dx must be [{m}, {}]", self.k);
        match &self.panels {
            Panels::F32(p) => self.multiply_back(isa, p, dy, m, dx),
            Panels::Bf16(p) => self.multiply_back(isa, p, dy, m, dx),
        }
    }

    fn multiply_back<E: Element>(&self, isa: Isa, panels: &[E], dy: &[f32], m: usize, dx: &mut [f32]) {
        let (n, k) = (self.n, self.k);
        if m == 0 {
            return;
        }
        dx.fill(0.0);
        let out = Shared(dx.as_mut_ptr());
        let groups = m.div_ceil(ROWS_A_BACKWARD_JOB);
        let one_job = |scratch: &mut Vec<f32>, job: usize| {
            let (block, group) = (job / groups, job % groups);
            let cols = (k - block * WIDTH).min(WIDTH);
            let (first, last) = (group * m / groups, (group + 1) * m / groups);
            for start in (0..n).step_by(BACKWARD_DEPTH) {
                let depth = (n - start).min(BACKWARD_DEPTH);
                transpose(panels, k, block * WIDTH..block * WIDTH + cols, start..start + depth, scratch);
                for rows in panel::row_tiles(isa, last - first) {
                    let row = first + rows.start;
                    let tile = Tile {
                        x: &dy[row * n + start..(first + rows.end - 1) * n + start + depth],
                        x_stride: n,
                        panel: &scratch[..],
                        panel_stride: WIDTH,
                        k: depth,
                        y: out.at(row * k + block * WIDTH),
                        y_stride: k,
                        rows: rows.len(),
                        cols,
                        bias: None,
                        accumulate: true,
                    };
                    // SAFETY: dx holds m rows of k elements, all initialised; this job alone
                    // touches columns block * WIDTH .. + cols of rows first..last.
                    unsafe { tile.run(isa) };
                }
            }
        };
        (0..k.div_ceil(WIDTH) * groups).into_par_iter().for_each_init(Vec::new, one_job);
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
        let start = row / WIDTH * self.k * WIDTH + row % WIDTH;
        match &self.panels {
            Panels::F32(p) => copy_row(&p[start..], out),
            Panels::Bf16(p) => copy_row(&p[start..], out),
        }
    }
}

/// Rows of weights that are turned over at once on the way back: few enough to
/// stay in the second-level cache.
const BACKWARD_DEPTH: usize = 512;

/// Rows of a gradient that share one turning over of the weights.
const ROWS_A_BACKWARD_JOB: usize = 1024;

/// Writes columns `columns` of rows `rows` of the packed matrix as one panel over the
/// rows: `panel[r * WIDTH + c] = W[rows.start + r][columns.start + c]`.
/// `rows` starts at a multiple of [`WIDTH`], and at most `WIDTH` columns are taken.
fn transpose<E: Element>(
    panels: &[E],
    k: usize,
    columns: Range<usize>,
    rows: Range<usize>,
    panel: &mut Vec<f32>,
) {
    panel.resize(rows.len().div_ceil(WIDTH) * WIDTH * WIDTH, 0.0);
    for (i, block) in panel.chunks_exact_mut(WIDTH * WIDTH).enumerate() {
        let start = ((rows.start / WIDTH + i) * k + columns.start) * WIDTH;
        let (from, _) = panels[start..start + columns.len() * WIDTH].as_chunks::<WIDTH>();
        let (to, _) = block.as_chunks_mut::<WIDTH>();
        // Columns that do not exist keep what an earlier block left there; the
        // kernel's sums over them are never written.
        for (r, to) in to.iter_mut().enumerate() {
            for (to, from) in to.iter_mut().zip(from) {
                *to = from[r].to_f32();
            }
        }
    }
}

fn copy_row<E: Element>(panel: &[E], out: &mut [f32]) {
    for (to, from) in out.iter_mut().zip(panel.iter().step_by(WIDTH)) {
        *to = from.to_f32();
    }
}

fn pack_panels<E: Element, Err: Send>(
    n: usize,
    k: usize,
    fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), Err> + Sync,
) -> Result<Vec<E>, Err> {
    let size = product(k, WIDTH);
    let mut panels = vec![E::default(); product(n.div_ceil(WIDTH), size)];
    panels.par_chunks_exact_mut(size).enumerate().try_for_each_init(
        || vec![0.0f32; size],
        |block, (p, panel)| {
            let rows = p * WIDTH..((p + 1) * WIDTH).min(n);
            let count = rows.len();
            fill(rows, &mut block[..count * k])?;
            panel::pack(block, k, count, k, panel);
            Ok(())
        },
    )?;
    Ok(panels)
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_a_naive_product(m in 1usize..40, n in 1usize..100, k in 1usize..90, seed: u32, bias: bool, half: bool) {
            let dtype = if half { Dtype::Bf16 } else { Dtype::F32 };
            let x = numbers(m * k, seed);
            let mut w = numbers(n * k, seed ^ 7);
            if half {
                for w in &mut w { *w = bf16::from_f32(*w).to_f32(); }
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
            let dy = numbers(m * n, seed);
            let mut w = numbers(n * k, seed ^ 7);
            if half {
                for w in &mut w { *w = bf16::from_f32(*w).to_f32(); }
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
