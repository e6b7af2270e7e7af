//! The singular vectors that a matrix has in common in all layers.

use crate::least_squares::add_product;
use faer::{Mat, Par, Side};
use nalgebra::DMatrix;

/// Singular values below this share of the largest are dropped: squares of them are rounding errors of the Gram matrix.
const SMALLEST: f64 = 1e-7;

/// `[W_0 .. W_{L-1}] = U S [V_0' .. V_{L-1}']`, a thin singular value decomposition of matrices `[d1, d2]` side by side.
pub(super) struct Spectrum {
    /// `U S`, `[d1, r]`.
    us: DMatrix<f64>,
    /// `S^-1 U'`, `[r, d1]`.
    projection: DMatrix<f64>,
}

/// The Gram matrix `sum W_i W_i'` `[d1, d1]`.
pub(super) struct Gram(DMatrix<f64>);

impl Gram {
    pub(super) fn new(d1: usize) -> Self {
        Self(DMatrix::zeros(d1, d1))
    }

    /// Adds a matrix.
    ///
    /// # Shapes
    /// `w [d1, d2]`, row-major.
    pub(super) fn add(&mut self, w: &[f32], d2: usize) {
        let w = matrix(w, d2);
        add_product(&mut self.0, &w, &w.transpose(), true);
    }

    /// The decomposition; `None` if the eigenvalues are not found.
    pub(super) fn decompose(self) -> Option<Spectrum> {
        let n = self.0.nrows();
        // On one thread, so that no bit depends on their number.
        faer::set_global_parallelism(Par::Seq);
        let gram = Mat::from_fn(n, n, |i, j| self.0[(i.max(j), i.min(j))]);
        let eigen = gram.self_adjoint_eigen(Side::Lower).ok()?;
        let value = |k: usize| eigen.S()[k].max(0.0).sqrt();
        let largest = (0..n).map(value).fold(0.0, f64::max);
        // The largest first.
        let kept: Vec<usize> = (0..n).rev().filter(|k| value(*k) > SMALLEST * largest).collect();
        let vectors = eigen.U();
        // A singular vector has no sign of its own; its largest component is positive here.
        let sign = |k: usize| {
            let column = (0..n).map(|i| vectors[(i, k)]);
            let largest = column.fold(0.0f64, |best, x| if x.abs() > best.abs() { x } else { best });
            if largest < 0.0 { -1.0 } else { 1.0 }
        };
        let signs: Vec<f64> = kept.iter().map(|k| sign(*k)).collect();
        let us = DMatrix::from_fn(n, kept.len(), |i, j| signs[j] * vectors[(i, kept[j])] * value(kept[j]));
        let projection =
            DMatrix::from_fn(kept.len(), n, |i, j| signs[i] * vectors[(j, kept[i])] / value(kept[i]));
        Some(Spectrum { us, projection })
    }
}

impl Spectrum {
    /// Bytes that a decomposition takes at most.
    pub(super) fn bytes(d1: usize) -> u64 {
        // The Gram matrix twice, its vectors, their working space, and both factors.
        8 * 6 * (d1 * d1) as u64
    }

    /// The number of singular values that are kept, r.
    pub(super) fn rank(&self) -> usize {
        self.us.ncols()
    }

    /// The columns of one of the matrices in the decomposition.
    ///
    /// # Shapes
    /// `w [d1, d2]`, row-major; the result is `V_i [d2, r]`, of which a column is a row of `V_i'`.
    pub(super) fn right(&self, w: &[f32], d2: usize) -> DMatrix<f32> {
        let w = matrix(w, d2);
        let mut v = DMatrix::zeros(d2, self.rank());
        add_product(&mut v, &w.transpose(), &self.projection.transpose(), false);
        v.map(|x| x as f32)
    }

    /// `U S V_i'`.
    ///
    /// # Shapes
    /// `v [d2, r]`; the result is `[d1, d2]`, row-major.
    pub(super) fn restore(&self, v: &DMatrix<f32>) -> Vec<f32> {
        // Column-major [d2, d1] is row-major [d1, d2].
        let mut w = DMatrix::zeros(v.nrows(), self.us.nrows());
        add_product(&mut w, &v.map(f64::from), &self.us.transpose(), false);
        w.iter().map(|x| *x as f32).collect()
    }
}

/// A row-major matrix of rows of width `d2`.
fn matrix(w: &[f32], d2: usize) -> DMatrix<f64> {
    DMatrix::from_row_iterator(w.len() / d2.max(1), d2, w.iter().map(|x| f64::from(*x)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::least_squares::tests::numbers;

    fn decomposed(matrices: &[Vec<f32>], d1: usize, d2: usize) -> Spectrum {
        let mut gram = Gram::new(d1);
        matrices.iter().for_each(|w| gram.add(w, d2));
        gram.decompose().unwrap()
    }

    #[test]
    fn matrices_are_restored() {
        // Fewer and more rows than all columns together.
        for (d1, d2, layers) in [(40, 24, 5), (90, 12, 4)] {
            let matrices: Vec<Vec<f32>> = (0..layers).map(|i| numbers(d1 * d2, i as u32 + 1)).collect();
            let spectrum = decomposed(&matrices, d1, d2);
            assert_eq!(spectrum.rank(), d1.min(layers * d2));
            for w in &matrices {
                let restored = spectrum.restore(&spectrum.right(w, d2));
                let norm = |w: &[f32]| w.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                let gaps: Vec<f32> = restored.iter().zip(w).map(|(a, b)| a - b).collect();
                assert!(norm(&gaps) < 1e-5 * norm(w), "{}", norm(&gaps) / norm(w));
            }
        }
    }

    #[test]
    fn right_vectors_are_orthonormal_over_all_layers() {
        let (d1, d2) = (20, 15);
        let matrices: Vec<Vec<f32>> = (0..4).map(|i| numbers(d1 * d2, i + 9)).collect();
        let spectrum = decomposed(&matrices, d1, d2);
        let mut sum = DMatrix::<f64>::zeros(d1, d1);
        for w in &matrices {
            let v = spectrum.right(w, d2).map(f64::from);
            sum += v.transpose() * v;
        }
        assert!((sum - DMatrix::identity(d1, d1)).amax() < 1e-5);
    }
}
