//! Linear and affine maps of least squared error, from sums over tokens.
//!
//! Rows of inputs X and outputs Z stream by; only `X'X`, `X'Z` and column sums are kept, in f64, so memory does not grow
//! with the tokens. The ridge penalty is chosen by the error on a fifth of the texts.

mod cholesky;

use cholesky::Factor;
use nalgebra::{DMatrix, DVector};
use rayon::prelude::*;
use std::ops::Range;

/// Ridge penalties that are tried, in shares of the mean eigenvalue of the Gram matrix.
pub const PENALTIES: [f64; 7] = [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1];

/// Of how many texts one is held out to choose the penalty.
const HELD_OUT: usize = 5;

/// Columns of a product that one job computes.
const COLUMNS: usize = 64;

/// Whether a map adds a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intercept {
    /// `Z = X A`.
    None,
    /// `Z = X A + b`; the penalty does not touch b.
    Fitted,
}

/// Sums over tokens from which a map is solved in least squares.
#[derive(Clone, Debug)]
pub struct Gram {
    intercept: Intercept,
    tokens: f64,
    /// `X'X`, `[k, k]`, the lower triangle only.
    xx: DMatrix<f64>,
    /// `X'Z`, `[k, n]`.
    xz: DMatrix<f64>,
    /// Column sums of X, `[k]`.
    x: DVector<f64>,
    /// Column sums of Z, `[n]`.
    z: DVector<f64>,
    /// The sum of squares of each column of Z, `[n]`.
    zz: DVector<f64>,
}

impl Gram {
    /// No tokens yet, for maps from rows of width `k` to rows of width `n`.
    pub fn new(k: usize, n: usize, intercept: Intercept) -> Self {
        let (x, z, zz) = (DVector::zeros(k), DVector::zeros(n), DVector::zeros(n));
        Self { intercept, tokens: 0.0, xx: DMatrix::zeros(k, k), xz: DMatrix::zeros(k, n), x, z, zz }
    }

    /// Bytes of one Gram matrix.
    pub fn bytes(k: usize, n: usize) -> u64 {
        8 * (k * (k + n + 1) + 2 * n) as u64
    }

    /// Adds tokens.
    ///
    /// # Shapes
    /// `x [tokens, k]`, `z [tokens, n]`, row-major.
    pub fn add(&mut self, x: &[f32], z: &[f32]) {
        let (k, n) = self.xz.shape();
        // Row-major [tokens, k] is column-major [k, tokens].
        let transposed = |x: &[f32], width: usize| {
            DMatrix::from_iterator(width, x.len() / width.max(1), x.iter().map(|x| f64::from(*x)))
        };
        let (xt, zt) = (transposed(x, k), transposed(z, n));
        let rows = xt.transpose();
        add_product(&mut self.xx, &xt, &rows, true);
        add_product(&mut self.xz, &xt, &zt.transpose(), false);
        self.x += xt.column_sum();
        self.z += zt.column_sum();
        zt.column_iter().for_each(|row| self.zz.zip_apply(&row, |sum, z| *sum += z * z));
        self.tokens += xt.ncols() as f64;
    }

    /// The sums over the tokens of both.
    pub fn add_all(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.xx += &other.xx;
        self.xz += &other.xz;
        self.x += &other.x;
        self.z += &other.z;
        self.zz += &other.zz;
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens as u64
    }

    /// The width of inputs, k.
    pub fn inputs(&self) -> usize {
        self.xx.nrows()
    }

    /// Solves `(X'X + penalty tr(X'X)/k I) A = X'Z`, about the means where there is an intercept. `None` where that has
    /// no solution.
    pub fn solve(&self, penalty: f64) -> Option<Map> {
        Some(self.factorise(penalty)?.solve(self, 0..self.xz.ncols()))
    }

    /// Prepares to solve for this penalty.
    pub fn factorise(&self, penalty: f64) -> Option<Solver> {
        let mut matrix = self.xx.clone();
        if self.centres() {
            let scale = -1.0 / self.tokens;
            matrix.ger(scale, &self.x, &self.x, 1.0);
        }
        let k = matrix.nrows();
        let ridge = penalty * matrix.trace() / k.max(1) as f64;
        (0..k).for_each(|i| matrix[(i, i)] += ridge);
        Some(Solver { factor: Factor::new(matrix)? })
    }

    fn centres(&self) -> bool {
        self.intercept == Intercept::Fitted && self.tokens > 0.0
    }

    /// The sum of squares of Z, of all columns.
    pub fn total(&self) -> f64 {
        self.zz.sum()
    }

    /// The squared error of a map over the tokens of these sums, column by column, `[n]`.
    pub fn squared_errors(&self, map: &Map) -> Vec<f64> {
        let (a, b) = (&map.weight, &map.bias);
        let mut product = DMatrix::zeros(a.nrows(), a.ncols());
        let mut full = self.xx.clone();
        full.fill_upper_triangle_with_lower_triangle();
        add_product(&mut product, &full, a, false);
        let of_column = |j: usize| {
            let (a, xz) = (a.column(j), self.xz.column(j));
            let square = product.column(j).dot(&a) - 2.0 * xz.dot(&a) + self.zz[j];
            square + b[j] * (2.0 * self.x.dot(&a) - 2.0 * self.z[j] + self.tokens * b[j])
        };
        (0..a.ncols()).into_par_iter().map(of_column).collect()
    }

    /// `|X A + b - Z|^2 / |Z|^2` over the tokens of these sums.
    pub fn error(&self, map: &Map) -> f64 {
        self.squared_errors(map).iter().sum::<f64>() / self.total()
    }
}

/// A factorised Gram matrix.
pub struct Solver {
    factor: Factor,
}

impl Solver {
    /// The map to some columns of the outputs of `gram`, whose inputs are those that this was made of.
    pub fn solve(&self, gram: &Gram, columns: Range<usize>) -> Map {
        let mut weight = gram.xz.columns_range(columns.clone()).into_owned();
        let (centres, z) = (gram.centres(), gram.z.rows_range(columns));
        if centres {
            weight.ger(-1.0 / gram.tokens, &gram.x, &z, 1.0);
        }
        self.factor.solve(&mut weight);
        let mut bias = DVector::zeros(weight.ncols());
        if centres {
            bias = (z - weight.tr_mul(&gram.x)) / gram.tokens;
        }
        Map { weight, bias }
    }
}

/// A map `z = x A + b` of row vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// A, `[k, n]`.
    weight: DMatrix<f64>,
    /// b, `[n]`; zeros without an intercept.
    bias: DVector<f64>,
}

impl Map {
    /// The identity on rows of width `k`.
    pub fn identity(k: usize) -> Self {
        Self { weight: DMatrix::identity(k, k), bias: DVector::zeros(k) }
    }

    /// A, `[k, n]`, row-major.
    pub fn weight(&self) -> Vec<f64> {
        // Column-major is the transpose of row-major.
        self.weight.transpose().as_slice().to_vec()
    }

    /// A transposed, `[n, k]`, row-major: the weights of a linear layer.
    pub fn transposed(&self) -> &[f64] {
        self.weight.as_slice()
    }

    /// b, `[n]`.
    pub fn bias(&self) -> &[f64] {
        self.bias.as_slice()
    }

    /// Whether all numbers are finite.
    pub fn is_finite(&self) -> bool {
        self.weight.iter().chain(&self.bias).all(|x| x.is_finite())
    }
}

/// `sum += a b`, in parallel by columns, or the lower triangle of it; every column is one fixed chain of operations.
pub(crate) fn add_product(sum: &mut DMatrix<f64>, a: &DMatrix<f64>, b: &DMatrix<f64>, lower: bool) {
    let rows = sum.nrows();
    if rows == 0 {
        return;
    }
    let jobs = sum.as_mut_slice().par_chunks_mut(COLUMNS * rows).enumerate();
    jobs.for_each(|(i, columns)| {
        let count = columns.len() / rows;
        let first = if lower { i * COLUMNS } else { 0 };
        let mut part = nalgebra::DMatrixViewMut::from_slice(columns, rows, count);
        let mut part = part.rows_mut(first, rows - first);
        part.gemm(1.0, &a.rows(first, rows - first), &b.columns(i * COLUMNS, count), 1.0);
    });
}

/// A fit over texts, some of which are held out to choose the penalty.
#[derive(Clone, Debug)]
pub struct Fit {
    /// Texts to fit, and texts to choose the penalty.
    grams: [Gram; 2],
    texts: usize,
}

/// A fitted map.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// The map.
    pub map: Map,
    /// The penalty, one of [`PENALTIES`].
    pub penalty: f64,
    /// `|X A + b - Z|^2 / |Z|^2` on the texts that were held out to choose it.
    pub error: f64,
}

/// Whether the text of this index is held out to choose the penalty.
pub fn is_held_out(text: usize) -> bool {
    text % HELD_OUT == HELD_OUT - 1
}

impl Fit {
    /// A fit without texts.
    pub fn new(k: usize, n: usize, intercept: Intercept) -> Self {
        let gram = || Gram::new(k, n, intercept);
        Self { grams: [gram(), gram()], texts: 0 }
    }

    /// Bytes of a fit, and of solving it.
    pub fn bytes(k: usize, n: usize) -> u64 {
        // Both grams, their sum, and a factor with its solution and the products for its error.
        4 * Gram::bytes(k, n) + 16 * (k * n) as u64
    }

    /// Adds the tokens of a text.
    ///
    /// # Shapes
    /// As [`Gram::add`].
    pub fn add(&mut self, x: &[f32], z: &[f32]) {
        self.grams[usize::from(is_held_out(self.texts))].add(x, z);
        self.texts += 1;
    }

    /// The sums that judge maps: those of the texts that are held out, or of all where too few are there.
    pub fn judge(&self) -> &Gram {
        let [fitted, held_out] = &self.grams;
        if held_out.total() > 0.0 { held_out } else { fitted }
    }

    /// For each block of `width` output columns the penalty of least error, and the error; none where no penalty gives
    /// one.
    pub fn choose(&self, width: usize) -> Vec<Option<(f64, f64)>> {
        let (fitted, judge) = (&self.grams[0], self.judge());
        let mut best = vec![None; fitted.xz.ncols() / width.max(1)];
        for penalty in PENALTIES {
            let Some(map) = fitted.solve(penalty) else { continue };
            let (errors, totals) = (judge.squared_errors(&map), judge.zz.as_slice());
            let blocks = errors.chunks(width).zip(totals.chunks(width));
            for (best, (errors, totals)) in best.iter_mut().zip(blocks) {
                let error = errors.iter().sum::<f64>() / totals.iter().sum::<f64>();
                if error.is_finite() && best.is_none_or(|(_, least)| error < least) {
                    *best = Some((penalty, error));
                }
            }
        }
        best
    }

    /// Chooses the penalty by the error on a fifth of the texts, and solves for all of them. `None` where the problem
    /// has no solution.
    pub fn solve(&self) -> Option<Fitted> {
        let (penalty, error) = self.choose(self.grams[0].xz.ncols()).first().copied().flatten()?;
        let mut all = self.grams[0].clone();
        all.add_all(&self.grams[1]);
        let map = all.solve(penalty)?;
        map.is_finite().then_some(Fitted { map, penalty, error })
    }
}

#[cfg(test)]
pub(crate) mod tests;
