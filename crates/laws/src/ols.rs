//! Ordinary least squares.

use crate::error::{Error, Result};
use nalgebra::{DMatrix, DVector};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// A linear regression; the intercept, if any, is a column of ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Ols {
    /// A coefficient for each column.
    pub coefficients: Vec<f64>,
    /// Their standard errors.
    pub errors: Vec<f64>,
    /// The residuals, observed less predicted.
    pub residuals: Vec<f64>,
    /// Degrees of freedom of the residuals.
    pub freedom: usize,
    /// The standard deviation of the residuals.
    pub deviation: f64,
    /// The condition number of the columns, each scaled to unit length.
    pub condition: f64,
    /// `s^2 (X'X)^-1`, `[columns][columns]`.
    pub covariance: Vec<Vec<f64>>,
}

/// The condition number from which columns count as linearly dependent.
const DEPENDENT: f64 = 1e12;

impl Ols {
    /// Fits `observed` to columns by a QR decomposition with one step of refinement.
    ///
    /// # Errors
    /// [`Error::Undetermined`] if there are no more rows than columns, or columns are linearly dependent.
    pub fn fit(columns: &[&[f64]], observed: &[f64], names: &[&str]) -> Result<Self> {
        let (rows, count) = (observed.len(), columns.len());
        if rows <= count {
            return Err(Error::Undetermined(format!(
                "too few rows ({rows}) for {count} coefficients; standard errors need at least {}",
                count + 1
            )));
        }
        let lengths: Vec<f64> =
            columns.iter().map(|column| column.iter().map(|x| x * x).sum::<f64>().sqrt()).collect();
        if let Some(zero) = lengths.iter().position(|length| *length == 0.0 || !length.is_finite()) {
            return Err(Error::Undetermined(format!("the term '{}' is 0 in all rows", names[zero])));
        }
        let design = DMatrix::from_fn(rows, count, |row, column| columns[column][row] / lengths[column]);
        let y = DVector::from_column_slice(observed);
        let singular = design.singular_values();
        let condition = singular.max() / singular.min();
        if !condition.is_finite() || condition > DEPENDENT {
            return Err(Error::Undetermined(format!(
                "the terms {} are linearly dependent, so their coefficients are not determined; leave one out",
                crate::error::quoted(names.iter().copied())
            )));
        }
        let qr = design.clone().qr();
        let (q, r) = (qr.q(), qr.r());
        let solve = |right: &DVector<f64>| r.solve_upper_triangular(&q.tr_mul(right));
        let dependent = || Error::Undetermined("the terms are linearly dependent".to_owned());
        let mut scaled = solve(&y).ok_or_else(dependent)?;
        scaled += solve(&(&y - &design * &scaled)).ok_or_else(dependent)?;
        let residuals = &y - &design * &scaled;
        let freedom = rows - count;
        let variance = residuals.norm_squared() / freedom as f64;
        let inverse = r.solve_upper_triangular(&DMatrix::identity(count, count)).ok_or_else(dependent)?;
        let scaled_covariance = &inverse * inverse.transpose() * variance;
        let covariance: Vec<Vec<f64>> = (0..count)
            .map(|i| (0..count).map(|j| scaled_covariance[(i, j)] / lengths[i] / lengths[j]).collect())
            .collect();
        Ok(Self {
            coefficients: scaled.iter().zip(&lengths).map(|(value, length)| value / length).collect(),
            errors: (0..count).map(|index| covariance[index][index].sqrt()).collect(),
            residuals: residuals.iter().copied().collect(),
            freedom,
            deviation: variance.sqrt(),
            condition,
            covariance,
        })
    }

    /// The half width of the 95 % interval of a coefficient, in standard errors.
    pub fn quantile(&self) -> f64 {
        self.student().inverse_cdf(0.975)
    }

    /// The two-sided p-value of a coefficient's distance from 0 in standard errors.
    pub fn p_value(&self, t: f64) -> f64 {
        (2.0 * self.student().sf(t.abs())).min(1.0)
    }

    fn student(&self) -> StudentsT {
        StudentsT::new(0.0, 1.0, self.freedom as f64).expect("there are degrees of freedom")
    }
}
