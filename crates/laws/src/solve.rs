//! Levenberg-Marquardt over the coordinates of a law.

use crate::law::{Law, Rows};
use crate::objective::Objective;
use levenberg_marquardt::{LeastSquaresProblem, LevenbergMarquardt};
use nalgebra::storage::Owned;
use nalgebra::{DMatrix, DVector, Dyn};

/// What is minimised over what.
#[derive(Clone, Copy)]
pub struct Problem<'a> {
    /// The law.
    pub law: &'a dyn Law,
    /// The rows.
    pub rows: &'a Rows,
    /// The objective.
    pub objective: Objective,
    /// How often each row counts; once if none.
    pub weights: Option<&'a [f64]>,
    /// A parameter that is held at a coordinate.
    pub fixed: Option<(usize, f64)>,
}

/// Where a minimisation ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimum {
    /// The coordinates.
    pub free: Vec<f64>,
    /// The objective.
    pub objective: f64,
    /// The largest cosine of the angle between the residuals and their derivative by a parameter.
    pub slope: f64,
    /// Whether it is an optimum.
    pub converged: bool,
}

/// The cosine below which a gradient counts as zero. Rounding leaves about 1e-8.
const FLAT: f64 = 1e-5;

/// Residuals so small, relative to what is fitted, are rounding errors.
const EXACT: f64 = 1e-11;

/// The accuracy of a minimisation, relative to the sum of squares and to the parameters: that of the arithmetic.
const TOLERANCE: f64 = 4.0 * f64::EPSILON;

/// Evaluations of a minimisation, for each parameter.
const PATIENCE: usize = 200;

/// How often a minimisation is continued where it ended.
const CONTINUATIONS: usize = 50;

impl Problem<'_> {
    /// The residuals.
    pub fn residuals(&self, free: &[f64]) -> Vec<f64> {
        let mut gradient = vec![0.0; free.len()];
        let one = |row| {
            let predicted = self.law.predict(self.rows.row(row), free, &mut gradient);
            self.objective.loss.residual(predicted, self.rows.observed[row]).0
        };
        (0..self.rows.len()).map(one).collect()
    }

    /// The objective.
    pub fn value(&self, free: &[f64]) -> f64 {
        self.objective.of(&self.residuals(free), self.weights)
    }

    /// Residuals with their derivatives by all coordinates, `[rows, parameters]`.
    pub(crate) fn jacobian(&self, free: &[f64]) -> (Vec<f64>, DMatrix<f64>) {
        let mut matrix = DMatrix::zeros(self.rows.len(), free.len());
        let mut gradient = vec![0.0; free.len()];
        let mut residuals = Vec::with_capacity(self.rows.len());
        for row in 0..self.rows.len() {
            let predicted = self.law.predict(self.rows.row(row), free, &mut gradient);
            let (residual, slope) = self.objective.loss.residual(predicted, self.rows.observed[row]);
            residuals.push(residual);
            for (column, by) in gradient.iter().enumerate() {
                matrix[(row, column)] = slope * by;
            }
        }
        (residuals, matrix)
    }

    /// The gradient of the objective by the coordinates.
    pub fn gradient(&self, free: &[f64]) -> Vec<f64> {
        let (residuals, jacobian) = self.jacobian(free);
        let twice = if self.objective.loss.delta().is_some() { 1.0 } else { 2.0 };
        let total: f64 = self.weights.map_or(self.rows.len() as f64, |weights| weights.iter().sum());
        let factor = twice * self.objective.factor / if self.objective.mean { total } else { 1.0 };
        let weight = |row: usize| self.weights.map_or(1.0, |weights| weights[row]);
        let influence = |row: usize| factor * weight(row) * self.objective.loss.influence(residuals[row]).0;
        jacobian
            .column_iter()
            .map(|column| column.iter().enumerate().map(|(row, by)| influence(row) * by).sum())
            .collect()
    }

    /// Minimises from `start`. `None` if the law has no value there.
    pub fn minimise(&self, start: &[f64]) -> Option<Optimum> {
        self.minimise_to(start, TOLERANCE, CONTINUATIONS)
    }

    /// As [`minimise`](Self::minimise), to a few digits.
    pub(crate) fn minimise_roughly(&self, start: &[f64]) -> Option<Optimum> {
        self.minimise_to(start, 1e-6, 1)
    }

    fn minimise_to(&self, start: &[f64], tolerance: f64, continuations: usize) -> Option<Optimum> {
        let mut free = start.to_vec();
        if let Some((index, value)) = self.fixed {
            free[index] = value;
        }
        let usable = |residuals: &[f64]| residuals.iter().all(|r| r.is_finite() && r.abs() < 1e6);
        if self.rows.is_empty() || !usable(&self.residuals(&free)) {
            return None;
        }
        let active: Vec<usize> =
            (0..free.len()).filter(|index| self.fixed.is_none_or(|(fixed, _)| fixed != *index)).collect();
        let mut best = self.value(&free);
        for _ in 0..continuations {
            let step = Step { problem: *self, active: &active, free: free.clone() };
            let solver = LevenbergMarquardt::new().with_patience(PATIENCE).with_tol(tolerance);
            let (ended, _) = solver.minimize(step);
            let reached = self.value(&ended.free);
            let gain = best - reached;
            if reached.is_finite() && gain >= 0.0 {
                free = ended.free;
                best = reached;
            }
            if gain.is_nan() || gain <= 1e-13 * best {
                break;
            }
        }
        let slope = self.slope(&free, &active);
        Some(Optimum { free, objective: best, slope, converged: slope <= FLAT })
    }

    /// The largest cosine between the residuals and their derivatives by the active coordinates.
    pub(crate) fn slope(&self, free: &[f64], active: &[usize]) -> f64 {
        let (roots, jacobian) = self.roots(free, active);
        let length = roots.norm();
        if length <= EXACT * self.size() {
            return 0.0;
        }
        let cosine = |column: nalgebra::DVectorView<'_, f64>| {
            let own = column.norm();
            if own == 0.0 { 0.0 } else { column.dot(&roots).abs() / own / length }
        };
        // Not `f64::max`, which would pass over NaN.
        jacobian.column_iter().map(cosine).fold(0.0, |most, c| if c > most || c.is_nan() { c } else { most })
    }

    /// The length of residuals that are as large as what is fitted.
    fn size(&self) -> f64 {
        let squares = self.rows.observed.iter().map(|y| match self.objective.loss.takes_logarithms() {
            true => 1.0,
            false => y * y,
        });
        squares.sum::<f64>().sqrt()
    }

    /// Roots of the weighted losses with their derivatives by the active coordinates.
    fn roots(&self, free: &[f64], active: &[usize]) -> (DVector<f64>, DMatrix<f64>) {
        let (residuals, full) = self.jacobian(free);
        let mut roots = DVector::zeros(residuals.len());
        let mut jacobian = DMatrix::zeros(residuals.len(), active.len());
        for (row, residual) in residuals.into_iter().enumerate() {
            let weight = self.weights.map_or(1.0, |weights| weights[row]).sqrt();
            let (root, slope) = self.objective.loss.root(residual);
            roots[row] = weight * root;
            for (column, &index) in active.iter().enumerate() {
                jacobian[(row, column)] = weight * slope * full[(row, index)];
            }
        }
        (roots, jacobian)
    }
}

/// The problem as the solver sees it.
struct Step<'a> {
    problem: Problem<'a>,
    active: &'a [usize],
    free: Vec<f64>,
}

impl LeastSquaresProblem<f64, Dyn, Dyn> for Step<'_> {
    type ResidualStorage = Owned<f64, Dyn>;
    type JacobianStorage = Owned<f64, Dyn, Dyn>;
    type ParameterStorage = Owned<f64, Dyn>;

    fn set_params(&mut self, x: &DVector<f64>) {
        for (&index, value) in self.active.iter().zip(x.iter()) {
            self.free[index] = *value;
        }
    }

    fn params(&self) -> DVector<f64> {
        DVector::from_iterator(self.active.len(), self.active.iter().map(|&index| self.free[index]))
    }

    fn residuals(&self) -> Option<DVector<f64>> {
        let residuals = self.problem.residuals(&self.free);
        let weight = |row: usize| self.problem.weights.map_or(1.0, |weights| weights[row]).sqrt();
        let root = |(row, residual)| weight(row) * self.problem.objective.loss.root(residual).0;
        Some(DVector::from_iterator(residuals.len(), residuals.into_iter().enumerate().map(root)))
    }

    fn jacobian(&self) -> Option<DMatrix<f64>> {
        let (_, jacobian) = self.problem.roots(&self.free, self.active);
        jacobian.iter().all(|value| value.is_finite()).then_some(jacobian)
    }
}
