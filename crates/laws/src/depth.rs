//! Loss by width, layers and data (arXiv 2602.05970): `L = c_m/m^a_m + c_l/l^a_l + c_d/D^a_d + L0`.
//!
//! The law takes layers in hundredths and tokens in millions, as the source does.

use crate::law::{Coordinate, Law, ParameterSpec};

/// The unit of layers: one hundredth.
pub const LAYER_UNIT: f64 = 0.01;

/// The unit of data: a million tokens.
pub const TOKEN_UNIT: f64 = 1e6;

/// The names of the parameters, in the order of the coordinates.
pub const NAMES: [&str; 7] = ["c_m", "c_l", "c_d", "a_m", "a_l", "a_d", "l0"];

/// Where the source starts.
pub const START: [f64; 7] = [200.0, 200.0, 10.0, 1.0, 1.0, 0.33, 1.69];

/// The published parameters.
pub const PUBLISHED: [f64; 7] = [333.381, 1284.368, 8.48674, 0.976914, 1.201390, 0.299096, 1.750327];

/// The law; inputs are the width, the layers and the tokens.
#[derive(Clone, Debug)]
pub struct DepthLaw {
    parameters: Vec<ParameterSpec>,
    /// Subtracted from the number of layers.
    pub offset: f64,
}

impl DepthLaw {
    /// The law with `layers - offset` for layers.
    pub fn new(offset: f64) -> Self {
        let ranges = [[20.0, 5e3], [20.0, 5e4], [2.0, 50.0], [0.6, 1.4], [0.6, 2.0], [0.2, 0.5], [1.0, 2.0]];
        let spec = |index: usize| ParameterSpec {
            name: NAMES[index].to_owned(),
            coordinate: if index < 3 { Coordinate::Log } else { Coordinate::Linear },
            start: START[index],
            range: ranges[index],
            profile: (3..6).contains(&index),
            limit: f64::INFINITY,
        };
        Self { parameters: (0..7).map(spec).collect(), offset }
    }

    /// The inputs in the units of the law.
    pub fn scaled(&self, inputs: &[f64]) -> [f64; 3] {
        [inputs[0], (inputs[1] - self.offset) / LAYER_UNIT, inputs[2] / TOKEN_UNIT]
    }
}

impl Law for DepthLaw {
    fn parameters(&self) -> &[ParameterSpec] {
        &self.parameters
    }

    fn predict(&self, inputs: &[f64], free: &[f64], gradient: &mut [f64]) -> f64 {
        let mut loss = free[6];
        gradient[6] = 1.0;
        for (index, x) in self.scaled(inputs).into_iter().enumerate() {
            let logarithm = x.ln();
            let term = (free[index] - free[3 + index] * logarithm).exp();
            gradient[index] = term;
            gradient[3 + index] = -term * logarithm;
            loss += term;
        }
        loss
    }
}
