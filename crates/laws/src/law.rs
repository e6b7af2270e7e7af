//! What the engine knows of a law, and the rows that it is fitted to.

use fathom_results::Named;

/// The coordinate in which a parameter is fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinate {
    /// Its logarithm; the parameter is positive.
    Log,
    /// Itself.
    Linear,
}

impl Coordinate {
    /// The coordinate of a value.
    pub fn to_free(self, value: f64) -> f64 {
        if self == Self::Log { value.ln() } else { value }
    }

    /// The value at a coordinate.
    pub fn to_value(self, free: f64) -> f64 {
        if self == Self::Log { free.exp() } else { free }
    }

    /// The derivative of the value by the coordinate.
    pub fn slope(self, value: f64) -> f64 {
        if self == Self::Log { value } else { 1.0 }
    }
}

/// A parameter of a law.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterSpec {
    /// Its name in results.
    pub name: String,
    /// How it is fitted.
    pub coordinate: Coordinate,
    /// Where the first start has it.
    pub start: f64,
    /// Where further starts are drawn from, uniformly in its coordinate.
    pub range: [f64; 2],
    /// Whether its profile is made.
    pub profile: bool,
    /// A value beyond which it makes no difference; intervals end there.
    pub limit: f64,
}

/// A law: a function of the inputs of a row and of parameters.
///
/// Parameters are passed as coordinates ("free"): logarithms of those that are positive.
pub trait Law: Sync {
    /// The parameters, in order.
    fn parameters(&self) -> &[ParameterSpec];

    /// The predicted value of a row, and its derivative by each coordinate into `gradient`. What cannot be computed is
    /// NaN.
    fn predict(&self, inputs: &[f64], free: &[f64], gradient: &mut [f64]) -> f64;

    /// The coordinates of parameter values.
    fn to_free(&self, values: &[f64]) -> Vec<f64> {
        self.parameters().iter().zip(values).map(|(p, &value)| p.coordinate.to_free(value)).collect()
    }

    /// The parameter values at coordinates.
    fn to_values(&self, free: &[f64]) -> Vec<f64> {
        self.parameters().iter().zip(free).map(|(p, &free)| p.coordinate.to_value(free)).collect()
    }

    /// The parameter values with their names.
    fn named(&self, free: &[f64]) -> Named<f64> {
        self.parameters().iter().map(|p| p.name.clone()).zip(self.to_values(free)).collect()
    }

    /// The predicted value of a row.
    fn value(&self, inputs: &[f64], free: &[f64]) -> f64 {
        self.predict(inputs, free, &mut vec![0.0; free.len()])
    }
}

/// The rows that a law is fitted to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Inputs of a row.
    pub width: usize,
    /// The inputs, `[rows][width]`.
    pub inputs: Vec<f64>,
    /// The observed values, `[rows]`.
    pub observed: Vec<f64>,
    /// The row of the table, from 1.
    pub numbers: Vec<usize>,
    /// The group of each row, from 0; rows of a group are resampled together.
    pub groups: Vec<usize>,
}

impl Rows {
    /// Rows of columns of inputs, each a group of its own.
    pub fn new(columns: &[&[f64]], observed: &[f64]) -> Self {
        let rows = observed.len();
        let inputs = (0..rows).flat_map(|row| columns.iter().map(move |column| column[row])).collect();
        Self {
            width: columns.len(),
            inputs,
            observed: observed.to_vec(),
            numbers: (1..=rows).collect(),
            groups: (0..rows).collect(),
        }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.observed.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.observed.is_empty()
    }

    /// The inputs of a row.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.inputs[row * self.width..(row + 1) * self.width]
    }

    /// The rows for which `keep` is true, by index.
    pub fn filtered(&self, keep: impl Fn(usize) -> bool) -> Self {
        let kept: Vec<usize> = (0..self.len()).filter(|&row| keep(row)).collect();
        Self {
            width: self.width,
            inputs: kept.iter().flat_map(|&row| self.row(row).to_vec()).collect(),
            observed: kept.iter().map(|&row| self.observed[row]).collect(),
            numbers: kept.iter().map(|&row| self.numbers[row]).collect(),
            groups: kept.iter().map(|&row| self.groups[row]).collect(),
        }
    }

    /// The groups that occur, ascending.
    pub(crate) fn distinct_groups(&self) -> Vec<usize> {
        let mut groups = self.groups.clone();
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}
