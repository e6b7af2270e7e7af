//! Value-based reinforcement learning (arXiv 2508.14881): the environment steps to a return, and the batch size, by
//! updates per step and critic parameters.

use crate::law::{Coordinate, Law, ParameterSpec, Rows};

/// The names of the parameters of [`StepsLaw`].
pub const STEPS_NAMES: [&str; 5] = ["a", "alpha", "b", "beta", "d_min"];

/// The names of the parameters of [`BatchLaw`].
pub const BATCH_NAMES: [&str; 4] = ["a", "alpha", "b", "beta"];

/// FLOP per update, parameter and row of a batch.
pub const FLOP: f64 = 10.0;

/// The batch size with which compute is counted.
pub const BATCH: f64 = 256.0;

/// `softplus(0)`, where the source starts.
const SOFTPLUS: f64 = std::f64::consts::LN_2;

/// `D = d_min (1 + (a/sigma)^alpha + (b/N)^beta)`; inputs are sigma, updates per step, and N, critic parameters.
#[derive(Clone, Debug)]
pub struct StepsLaw {
    parameters: Vec<ParameterSpec>,
}

impl StepsLaw {
    /// The law, with the source's start for these rows: each input as a power of itself that runs from 1/2 to 2, the
    /// response divided by its mean, and all parameters `softplus(0)`.
    pub fn new(rows: &Rows) -> Self {
        let mean = rows.observed.iter().sum::<f64>() / rows.len().max(1) as f64;
        let [sigma, size] = [0, 1].map(|column| Scaling::of(rows, column));
        let values = [sigma.scale(), sigma.exponent(), size.scale(), size.exponent(), SOFTPLUS * mean];
        let spec = |index: usize| ParameterSpec {
            name: STEPS_NAMES[index].to_owned(),
            coordinate: Coordinate::Log,
            start: values[index],
            range: [values[index] / 4.0, values[index] * 4.0],
            profile: matches!(index, 1 | 3),
            limit: f64::INFINITY,
        };
        Self { parameters: (0..5).map(spec).collect() }
    }
}

/// An input as a power of itself.
struct Scaling {
    middle: f64,
    spread: f64,
}

impl Scaling {
    fn of(rows: &Rows, column: usize) -> Self {
        let logarithms = (0..rows.len()).map(|row| rows.row(row)[column].ln());
        let (low, high) =
            logarithms.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        Self { middle: 0.5 * (low + high), spread: (high - low) / (2.0 * std::f64::consts::LN_2) }
    }

    /// The start of a scale: `softplus(0)^s e^m`.
    fn scale(&self) -> f64 {
        SOFTPLUS.powf(self.spread) * self.middle.exp()
    }

    /// The start of an exponent: `softplus(0) / s`.
    fn exponent(&self) -> f64 {
        SOFTPLUS / self.spread
    }
}

impl Law for StepsLaw {
    fn parameters(&self) -> &[ParameterSpec] {
        &self.parameters
    }

    fn predict(&self, inputs: &[f64], free: &[f64], gradient: &mut [f64]) -> f64 {
        let d_min = free[4].exp();
        let mut sum = 1.0;
        for (index, x) in inputs.iter().enumerate() {
            let (logarithm, exponent) = (free[2 * index] - x.ln(), free[2 * index + 1].exp());
            let term = (exponent * logarithm).exp();
            gradient[2 * index] = d_min * term * exponent;
            gradient[2 * index + 1] = d_min * term * exponent * logarithm;
            sum += term;
        }
        gradient[4] = d_min * sum;
        d_min * sum
    }
}

/// `B = a / (sigma^alpha (1 + (b/N)^beta))`; inputs as of [`StepsLaw`].
#[derive(Clone, Debug)]
pub struct BatchLaw {
    parameters: Vec<ParameterSpec>,
}

impl BatchLaw {
    /// The law, with a start for these rows.
    pub fn new(rows: &Rows) -> Self {
        let mean = rows.observed.iter().sum::<f64>() / rows.len().max(1) as f64;
        let size = Scaling::of(rows, 1);
        let values = [2.0 * mean, 0.5, size.middle.exp(), 0.5];
        let spec = |index: usize| ParameterSpec {
            name: BATCH_NAMES[index].to_owned(),
            coordinate: if index == 1 { Coordinate::Linear } else { Coordinate::Log },
            start: values[index],
            range: [values[index] / 4.0, values[index] * 4.0],
            profile: matches!(index, 1 | 3),
            limit: f64::INFINITY,
        };
        Self { parameters: (0..4).map(spec).collect() }
    }
}

impl Law for BatchLaw {
    fn parameters(&self) -> &[ParameterSpec] {
        &self.parameters
    }

    fn predict(&self, inputs: &[f64], free: &[f64], gradient: &mut [f64]) -> f64 {
        let [sigma, size] = [inputs[0].ln(), free[2] - inputs[1].ln()];
        let exponent = free[3].exp();
        let term = (exponent * size).exp();
        let batch = (free[0] - free[1] * sigma).exp() / (1.0 + term);
        let share = term / (1.0 + term);
        gradient[0] = batch;
        gradient[1] = -sigma * batch;
        gradient[2] = -batch * share * exponent;
        gradient[3] = -batch * share * exponent * size;
        batch
    }
}
