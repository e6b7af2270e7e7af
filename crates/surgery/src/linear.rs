//! Linear replacement of a block of layers (ReplaceMe, arXiv 2505.02819): the MLP before the block takes over what a
//! linear map of its output can do of the block's work.
//!
//! Block `[a, b)` is removed. Layer a - 1 leaves `h_a = y + m`, m the output of its MLP. The map T with
//! `m T = h_b - y` in least squares over the calibration tokens is merged into the down projection, so the architecture
//! and the number of parameters stay what they are.

use fathom_model::config::Mlp;
use fathom_model::{Backend, DownProjection, Model, Trace};
use nalgebra::{Cholesky, DMatrix, Dyn};
use rayon::prelude::*;
use std::ops::Range;

/// Ridge penalties that are tried, in shares of the mean eigenvalue of the Gram matrix.
pub const PENALTIES: [f64; 7] = [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1];

/// Of how many texts one is held out to choose the penalty.
const HELD_OUT: usize = 5;

/// Columns of a product that one job computes.
const COLUMNS: usize = 64;

/// Why a block cannot be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReplaceable {
    /// The block begins at layer 0.
    #[error("no MLP comes before layer 0 to take over its work; keep layer 0")]
    NoLayerBefore,
    /// The MLP's output is normalised before it is added.
    #[error(
        "this architecture normalises the MLP's output before it is added to the residual stream, so a linear map cannot \
         be merged into the down projection"
    )]
    PostNorm,
    /// The MLP before the block is a mixture of experts.
    #[error(
        "layer {0} is a mixture of experts, and no single down projection could take over the work of a block; leave the \
         replacement out"
    )]
    Experts(usize),
    /// The least-squares problem has no solution.
    #[error("the activations before the block are not finite or vanish, so no linear map can be fitted")]
    Singular,
}

/// Sums over tokens from which `M T = Z` is solved in least squares.
#[derive(Clone, Debug)]
pub struct Gram {
    /// `M'M`, `[d, d]`.
    mm: DMatrix<f64>,
    /// `M'Z`, `[d, d]`.
    mz: DMatrix<f64>,
    /// The sum of squares of Z.
    zz: f64,
}

impl Gram {
    /// No tokens yet; `d` is the width of the residual stream.
    pub fn new(d: usize) -> Self {
        Self { mm: DMatrix::zeros(d, d), mz: DMatrix::zeros(d, d), zz: 0.0 }
    }

    /// Adds tokens.
    ///
    /// # Shapes
    /// `m`, `z [tokens, d]`, row-major.
    pub fn add(&mut self, m: &[f32], z: &[f32]) {
        let d = self.mm.nrows();
        // Row-major [tokens, d] is column-major [d, tokens].
        let transposed = |x: &[f32]| DMatrix::from_iterator(d, x.len() / d, x.iter().map(|x| f64::from(*x)));
        let (mt, zt) = (transposed(m), transposed(z));
        add_product(&mut self.mm, &mt, &mt.transpose());
        add_product(&mut self.mz, &mt, &zt.transpose());
        self.zz += zt.norm_squared();
    }

    /// The sums over the tokens of both.
    fn joined(&self, other: &Self) -> Self {
        Self { mm: &self.mm + &other.mm, mz: &self.mz + &other.mz, zz: self.zz + other.zz }
    }

    /// `(M'M + penalty tr(M'M)/d I)^-1 M'Z`, `[d, d]`.
    fn solve(&self, penalty: f64) -> Option<DMatrix<f64>> {
        let d = self.mm.nrows();
        let mut matrix = self.mm.clone();
        let ridge = penalty * matrix.trace() / d as f64;
        (0..d).for_each(|i| matrix[(i, i)] += ridge);
        let cholesky: Cholesky<f64, Dyn> = Cholesky::new(matrix)?;
        let map = cholesky.solve(&self.mz);
        map.iter().all(|x| x.is_finite()).then_some(map)
    }

    /// `|M T - Z|^2 / |Z|^2` over the tokens of this Gram matrix.
    fn error(&self, map: &DMatrix<f64>) -> f64 {
        let quadratic = (&self.mm * map).dot(map) - 2.0 * self.mz.dot(map);
        (quadratic + self.zz) / self.zz
    }
}

/// `sum += a b`, in parallel by columns; every column is one fixed chain of operations.
fn add_product(sum: &mut DMatrix<f64>, a: &DMatrix<f64>, b: &DMatrix<f64>) {
    let d = sum.nrows();
    let jobs = sum.as_mut_slice().par_chunks_mut(COLUMNS * d).enumerate();
    jobs.for_each(|(i, columns)| {
        let count = columns.len() / d;
        let mut part = nalgebra::DMatrixViewMut::from_slice(columns, d, count);
        part.gemm(1.0, a, &b.columns(i * COLUMNS, count), 1.0);
    });
}

/// Fits a linear replacement of a block over calibration texts.
pub struct Fit {
    block: Range<usize>,
    /// Texts to fit, and texts to choose the penalty.
    grams: [Gram; 2],
    texts: usize,
}

/// A fitted replacement.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// The layer whose down projection changes.
    pub layer: usize,
    /// The map T, `[d, d]`, row-major.
    pub map: Vec<f64>,
    /// The penalty, one of [`PENALTIES`].
    pub penalty: f64,
    /// `|m T - (h_b - y)|^2 / |h_b - y|^2` on the texts that were held out to choose it.
    pub error: f64,
    /// The same without a replacement, T the identity.
    pub error_without: f64,
}

impl Fit {
    /// A fit without texts.
    ///
    /// # Errors
    /// When the model's MLP cannot take over the work of a block.
    pub fn new<B: Backend>(model: &Model<B>, block: Range<usize>) -> Result<Self, NotReplaceable> {
        if block.start == 0 {
            return Err(NotReplaceable::NoLayerBefore);
        }
        if model.config().post_norm {
            return Err(NotReplaceable::PostNorm);
        }
        if model.config().layers[block.start - 1].mlp != Mlp::Dense {
            return Err(NotReplaceable::Experts(block.start - 1));
        }
        let gram = || Gram::new(model.config().hidden);
        Ok(Self { block, grams: [gram(), gram()], texts: 0 })
    }

    /// Bytes of a fit for a stream of width `d`, and of solving it.
    pub fn bytes(d: usize) -> u64 {
        8 * 7 * (d * d) as u64
    }

    /// Adds a clean run.
    pub fn add<B: Backend>(&mut self, on: &B, trace: &Trace<B>) {
        let l = self.block.start - 1;
        let mut y = on.empty();
        on.add(&trace.resid[l], &trace.attn_out[l], &mut y);
        let mut z = on.empty();
        on.subtract(&trace.resid[self.block.end], &y, &mut z);
        let all = |buffer: &B::Buffer| on.download(buffer, 0..on.len(buffer));
        let held_out = usize::from(self.texts % HELD_OUT == HELD_OUT - 1);
        self.grams[held_out].add(&all(&trace.mlp_out[l]), &all(&z));
        self.texts += 1;
    }

    /// Chooses the penalty by the error on a fifth of the texts, and solves for all of them.
    ///
    /// # Errors
    /// When the least-squares problem cannot be solved.
    pub fn solve(&self) -> Result<Fitted, NotReplaceable> {
        let [fitted, held_out] = &self.grams;
        // Too few texts to hold some out.
        let judge = if held_out.zz > 0.0 { held_out } else { fitted };
        let errors =
            PENALTIES.iter().filter_map(|penalty| Some((*penalty, judge.error(&fitted.solve(*penalty)?))));
        let best = errors.filter(|(_, error)| error.is_finite()).min_by(|a, b| a.1.total_cmp(&b.1));
        let (penalty, error) = best.ok_or(NotReplaceable::Singular)?;
        let map = fitted.joined(held_out).solve(penalty).ok_or(NotReplaceable::Singular)?;
        let d = map.nrows();
        Ok(Fitted {
            layer: self.block.start - 1,
            // Column-major is the transpose of row-major.
            map: map.transpose().as_slice().to_vec(),
            penalty,
            error,
            error_without: judge.error(&DMatrix::identity(d, d)),
        })
    }
}

impl Fitted {
    /// The down projection with the map merged: `W' = T^T W`, `b' = T^T b`.
    pub fn merged(&self, down: &DownProjection) -> DownProjection {
        let d = self.map.len().isqrt();
        let f = down.weight.len() / d;
        let mut weight = vec![0.0; d * f];
        weight.par_chunks_mut(f).enumerate().for_each(|(j, row)| {
            let mut sums = vec![0.0f64; f];
            for (i, from) in down.weight.chunks_exact(f).enumerate() {
                let t = self.map[i * d + j];
                sums.iter_mut().zip(from).for_each(|(sum, w)| *sum += t * f64::from(*w));
            }
            row.iter_mut().zip(&sums).for_each(|(w, sum)| *w = *sum as f32);
        });
        let bias = down.bias.as_ref().map(|bias| {
            let column =
                |j: usize| bias.iter().enumerate().map(|(i, b)| self.map[i * d + j] * f64::from(*b)).sum();
            (0..d)
                .map(|j| {
                    let sum: f64 = column(j);
                    sum as f32
                })
                .collect()
        });
        DownProjection { weight, bias }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between -1 and 1.
    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    fn product(m: &[f32], t: &[f64], d: usize) -> Vec<f32> {
        m.chunks(d)
            .flat_map(|row| {
                (0..d).map(move |j| (0..d).map(|i| f64::from(row[i]) * t[i * d + j]).sum::<f64>() as f32)
            })
            .collect()
    }

    #[test]
    fn a_linear_block_is_found_exactly() {
        for d in [5, 67] {
            let t: Vec<f64> = numbers(d * d, 7).into_iter().map(f64::from).collect();
            let mut gram = Gram::new(d);
            for seed in 0..4 {
                let m = numbers(40 * d, seed);
                gram.add(&m, &product(&m, &t, d));
            }
            let map = gram.solve(0.0).unwrap();
            for i in 0..d {
                for j in 0..d {
                    assert!((map[(i, j)] - t[i * d + j]).abs() < 1e-5, "{d}: {i}, {j}");
                }
            }
            assert!(gram.error(&map) < 1e-10);
            // With a penalty the map satisfies the normal equations of the ridge.
            let ridge = gram.solve(0.1).unwrap();
            let penalty = 0.1 * gram.mm.trace() / d as f64;
            let left = &gram.mm * &ridge + &ridge * penalty;
            assert!((left - &gram.mz).amax() < 1e-9 * gram.mz.amax());
        }
    }

    #[test]
    fn the_error_is_that_of_the_residuals() {
        let d = 6;
        let (m, z) = (numbers(30 * d, 1), numbers(30 * d, 2));
        let mut gram = Gram::new(d);
        gram.add(&m, &z);
        let map = gram.solve(1e-3).unwrap();
        let t = map.transpose().as_slice().to_vec();
        let predicted = product(&m, &t, d);
        let squares = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
        let residual = squares(&mut predicted.iter().zip(&z).map(|(a, b)| f64::from(a - b)));
        let expected = residual / squares(&mut z.iter().map(|z| f64::from(*z)));
        assert!((gram.error(&map) - expected).abs() < 1e-6);
    }

    #[test]
    fn nothing_fits_what_vanishes() {
        let mut gram = Gram::new(3);
        gram.add(&[0.0; 9], &[1.0; 9]);
        assert!(gram.solve(0.1).is_none());
        gram.add(&[f32::NAN; 9], &[1.0; 9]);
        assert!(gram.solve(0.1).is_none());
    }

    #[test]
    fn a_merged_projection_is_the_map_after_it() {
        let (d, f) = (3, 4);
        let map: Vec<f64> = numbers(d * d, 1).into_iter().map(f64::from).collect();
        let down = DownProjection { weight: numbers(d * f, 2), bias: Some(numbers(d, 3)) };
        let fitted = Fitted { layer: 0, map: map.clone(), penalty: 0.0, error: 0.0, error_without: 1.0 };
        let merged = fitted.merged(&down);
        let apply = |p: &DownProjection, g: &[f32]| -> Vec<f32> {
            let row = |j: usize| g.iter().zip(&p.weight[j * f..(j + 1) * f]).map(|(g, w)| g * w).sum::<f32>();
            (0..d).map(|j| row(j) + p.bias.as_ref().unwrap()[j]).collect()
        };
        let g = numbers(f, 4);
        let expected = product(&apply(&down, &g), &map, d);
        for (a, b) in apply(&merged, &g).iter().zip(&expected) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }
}
