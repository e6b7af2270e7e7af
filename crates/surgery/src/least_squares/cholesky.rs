//! A Cholesky factorisation in blocks, and solutions with many right-hand sides.
//!
//! nalgebra's own works column by column, on one thread. Here nearly all work is in products of blocks, on all threads.

use nalgebra::{DMatrix, DMatrixViewMut};
use rayon::prelude::*;

/// Rows and columns of a block.
const BLOCK: usize = 64;

/// Columns of right-hand sides that one job solves.
const COLUMNS: usize = 64;

/// The lower triangular L with `L L' = M`.
pub(super) struct Factor {
    /// L; above the diagonal are numbers without meaning.
    l: DMatrix<f64>,
    /// The inverses of the blocks on the diagonal.
    inverses: Vec<DMatrix<f64>>,
}

impl Factor {
    /// Factorises a symmetric matrix whose lower triangle is given. `None` if it is not positive definite.
    pub(super) fn new(mut m: DMatrix<f64>) -> Option<Self> {
        let n = m.nrows();
        let mut inverses = Vec::new();
        for start in (0..n).step_by(BLOCK) {
            let width = BLOCK.min(n - start);
            let end = start + width;
            let inverse = invert_lower(&factorise(m.view((start, start), (width, width)).into_owned())?);
            let mut panel = m.view((end, start), (n - end, width)).into_owned();
            // L21 = M21 L11'^-1.
            panel *= inverse.transpose();
            m.view_mut((end, start), (n - end, width)).copy_from(&panel);
            let across = panel.transpose();
            let rest = &mut m.as_mut_slice()[end * n..];
            rest.par_chunks_mut(BLOCK * n).enumerate().for_each(|(i, columns)| {
                let count = columns.len() / n;
                let (above, below) = (i * BLOCK, n - end - i * BLOCK);
                let mut part = DMatrixViewMut::from_slice(columns, n, count);
                let mut part = part.rows_mut(end + above, below);
                part.gemm(-1.0, &panel.rows(above, below), &across.columns(above, count), 1.0);
            });
            inverses.push(inverse);
        }
        Some(Self { l: m, inverses })
    }

    /// Replaces B by the solution X of `L L' X = B`.
    pub(super) fn solve(&self, b: &mut DMatrix<f64>) {
        let n = b.nrows();
        if n == 0 {
            return;
        }
        b.as_mut_slice().par_chunks_mut(COLUMNS * n).for_each(|columns| {
            let count = columns.len() / n;
            let mut x = DMatrixViewMut::from_slice(columns, n, count);
            for (i, inverse) in self.inverses.iter().enumerate() {
                let (start, width) = (i * BLOCK, inverse.nrows());
                let (known, mut rest) = x.rows_range_pair_mut(0..start, start..n);
                let mut own = rest.rows_mut(0, width);
                own.gemm(-1.0, &self.l.view((start, 0), (width, start)), &known, 1.0);
                let solved = inverse * &own;
                own.copy_from(&solved);
            }
            for (i, inverse) in self.inverses.iter().enumerate().rev() {
                let (start, width) = (i * BLOCK, inverse.nrows());
                let end = start + width;
                let (mut own, known) = x.rows_range_pair_mut(start..end, end..n);
                own.gemm_tr(-1.0, &self.l.view((end, start), (n - end, width)), &known, 1.0);
                let solved = inverse.tr_mul(&own);
                own.copy_from(&solved);
            }
        });
    }
}

/// The factor of a small matrix.
fn factorise(block: DMatrix<f64>) -> Option<DMatrix<f64>> {
    let mut full = block;
    full.fill_upper_triangle_with_lower_triangle();
    Some(full.cholesky()?.unpack())
}

fn invert_lower(l: &DMatrix<f64>) -> DMatrix<f64> {
    let mut inverse = DMatrix::identity(l.nrows(), l.nrows());
    // The diagonal of a Cholesky factor is positive.
    l.solve_lower_triangular_mut(&mut inverse);
    inverse
}
