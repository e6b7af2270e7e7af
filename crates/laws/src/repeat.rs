//! Loss with repeated data (arXiv 2305.16264), of which the two decay constants are fitted.
//!
//! `L = E + A/N'^alpha + B/D'^beta`, where repeated tokens and parameters beyond what the unique tokens are enough for
//! count less and less: `D' = U + U r_d (1 - e^(-(D/U - 1)/r_d))`, and N' likewise with r_n and the number of parameters
//! for which U is optimal.

use crate::law::{Coordinate, Law, ParameterSpec};

/// The names of the parameters.
pub const NAMES: [&str; 2] = ["r_d", "r_n"];

/// The published values.
pub const PUBLISHED: [f64; 2] = [15.387756, 5.309743];

/// A decay constant of this many epochs counts as no decay.
const ENDLESS: f64 = 1e6;

/// What the source fitted to runs without repetition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// ln A, of parameters.
    pub ln_a: f64,
    /// ln B, of data.
    pub ln_b: f64,
    /// ln E, the loss that remains.
    pub ln_e: f64,
    /// The exponent of parameters.
    pub alpha: f64,
    /// The exponent of data.
    pub beta: f64,
}

impl Default for Constants {
    fn default() -> Self {
        Self { ln_a: 6.255414, ln_b: 7.3049974, ln_e: 0.6254804, alpha: 0.3526596, beta: 0.3526596 }
    }
}

impl Constants {
    /// The number of parameters for which `unique` tokens are the optimal amount of data.
    pub fn parameters_for(&self, unique: f64) -> f64 {
        let Self { alpha, beta, ln_a, ln_b, .. } = *self;
        // With G = (alpha A / (beta B))^(1/(alpha + beta)), U = (C/6)^(alpha/(alpha+beta)) / G at the compute C for which U is
        // optimal, and the parameters are G (C/6)^(beta/(alpha+beta)) = G (U G)^(beta/alpha).
        let ln_g = ((alpha / beta).ln() + ln_a - ln_b) / (alpha + beta);
        (ln_g + beta / alpha * (unique.ln() + ln_g)).exp()
    }
}

/// The law; inputs are parameters, tokens and unique tokens.
#[derive(Clone, Debug)]
pub struct RepeatLaw {
    parameters: Vec<ParameterSpec>,
    /// What is not fitted.
    pub constants: Constants,
}

impl Default for RepeatLaw {
    fn default() -> Self {
        let spec = |index: usize| ParameterSpec {
            name: NAMES[index].to_owned(),
            coordinate: Coordinate::Log,
            start: 10.0,
            range: [1.0, 200.0],
            profile: true,
            limit: ENDLESS,
        };
        Self { parameters: (0..2).map(spec).collect(), constants: Constants::default() }
    }
}

/// What `base` and `excess` times as much again, decaying by `r`, are worth, and the derivative by ln r.
fn worth(base: f64, excess: f64, r: f64) -> (f64, f64) {
    let decayed = (-excess / r).exp();
    // r (1 - e^(-x/r)), without cancellation where r is large.
    let extra = -r * (-excess / r).exp_m1();
    (base * (1.0 + extra), base * (extra - excess * decayed))
}

impl Law for RepeatLaw {
    fn parameters(&self) -> &[ParameterSpec] {
        &self.parameters
    }

    fn predict(&self, inputs: &[f64], free: &[f64], gradient: &mut [f64]) -> f64 {
        let Constants { ln_a, ln_b, ln_e, alpha, beta } = self.constants;
        let [parameters, tokens, unique] = [inputs[0], inputs[1], inputs[2]];
        let unique = unique.min(tokens);
        let repeats = (tokens / unique - 1.0).max(0.0);
        let base = parameters.min(self.constants.parameters_for(unique));
        let excess = (parameters / base - 1.0).max(0.0);
        let (n, by_n) = worth(base, excess, free[1].exp());
        let (d, by_d) = worth(unique, repeats, free[0].exp());
        let (of_n, of_d) = ((ln_a - alpha * n.ln()).exp(), (ln_b - beta * d.ln()).exp());
        gradient[0] = -beta * of_d / d * by_d;
        gradient[1] = -alpha * of_n / n * by_n;
        ln_e.exp() + of_n + of_d
    }
}
