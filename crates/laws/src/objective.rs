//! Residuals, what a fit minimises of them, and the least-squares form that the solver needs.

use crate::error::{Result, invalid};

/// What is minimised of a prediction p and an observation y.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// `(ln p - ln y)^2`.
    SquaredLog,
    /// Huber's loss of `ln p - ln y`: `r^2 / 2` up to delta, `delta (|r| - delta / 2)` beyond.
    HuberLog {
        /// Where it becomes linear.
        delta: f64,
    },
    /// `(p - y)^2`.
    Squared,
}

/// What stands for the residual of a prediction that has no logarithm: so large that no step towards it is taken.
const IMPOSSIBLE: f64 = 1e12;

impl Loss {
    /// Reads `squared-log`, `squared`, `huber-log` (delta 1e-3) or `huber-log:DELTA`.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, delta) = text.split_once(':').map_or((text, None), |(name, delta)| (name, Some(delta)));
        match (name, delta) {
            ("squared-log", None) => Ok(Self::SquaredLog),
            ("squared", None) => Ok(Self::Squared),
            ("huber-log", None) => Ok(Self::HuberLog { delta: 1e-3 }),
            ("huber-log", Some(delta)) => match delta.parse::<f64>() {
                Ok(delta) if delta > 0.0 && delta.is_finite() => Ok(Self::HuberLog { delta }),
                _ => invalid!("objective '{text}': the number after the colon must be positive"),
            },
            _ => invalid!(
                "there is no objective '{text}'; choose squared-log, huber-log, huber-log:DELTA or squared"
            ),
        }
    }

    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::SquaredLog => "squared-log",
            Self::HuberLog { .. } => "huber-log",
            Self::Squared => "squared",
        }
    }

    /// Where it becomes linear, if it does.
    pub fn delta(self) -> Option<f64> {
        if let Self::HuberLog { delta } = self { Some(delta) } else { None }
    }

    /// Whether predictions and observations must be positive.
    pub fn takes_logarithms(self) -> bool {
        self != Self::Squared
    }

    /// The residual and its derivative by the prediction.
    pub fn residual(self, predicted: f64, observed: f64) -> (f64, f64) {
        match self {
            Self::Squared if predicted.is_finite() => (predicted - observed, 1.0),
            Self::SquaredLog | Self::HuberLog { .. } if predicted > 0.0 && predicted.is_finite() => {
                (predicted.ln() - observed.ln(), predicted.recip())
            }
            _ => (IMPOSSIBLE, 0.0),
        }
    }

    /// What is summed, of a residual.
    pub fn of(self, residual: f64) -> f64 {
        match self {
            Self::SquaredLog | Self::Squared => residual * residual,
            Self::HuberLog { delta } if residual.abs() <= delta => 0.5 * residual * residual,
            Self::HuberLog { delta } => delta * (residual.abs() - 0.5 * delta),
        }
    }

    /// A number whose square is [`of`](Self::of) up to a constant factor, and its derivative by the residual.
    pub(crate) fn root(self, residual: f64) -> (f64, f64) {
        match self {
            Self::HuberLog { delta } if residual.abs() > delta => {
                let root = (delta * (2.0 * residual.abs() - delta)).sqrt();
                (root.copysign(residual), delta / root)
            }
            _ => (residual, 1.0),
        }
    }

    /// The derivative of the loss by the residual, in the units of a residual, and whether the residual lies where the
    /// loss is quadratic.
    pub(crate) fn influence(self, residual: f64) -> (f64, bool) {
        match self {
            Self::HuberLog { delta } if residual.abs() > delta => (delta.copysign(residual), false),
            _ => (residual, true),
        }
    }
}

/// The loss of one row, the factor before the sum over rows, and whether it is a mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// The loss.
    pub loss: Loss,
    /// The factor.
    pub factor: f64,
    /// Whether the sum is divided by the number of rows.
    pub mean: bool,
}

impl Objective {
    /// The objective of residuals with weights (all 1 if none).
    pub fn of(&self, residuals: &[f64], weights: Option<&[f64]>) -> f64 {
        let weight = |row: usize| weights.map_or(1.0, |weights| weights[row]);
        let sum: f64 =
            residuals.iter().enumerate().map(|(row, &residual)| weight(row) * self.loss.of(residual)).sum();
        let count = if self.mean { (0..residuals.len()).map(weight).sum() } else { 1.0 };
        self.factor * sum / count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn roots_square_to_the_loss_and_have_its_derivative() {
        let huber = Loss::HuberLog { delta: 0.01 };
        for (loss, factor) in [(Loss::SquaredLog, 1.0), (Loss::Squared, 1.0), (huber, 0.5)] {
            for residual in [-3.0, -0.02, -0.004, 0.0, 0.009, 0.5] {
                let (root, slope) = loss.root(residual);
                assert_relative_eq!(factor * root * root, loss.of(residual), max_relative = 1e-12);
                let h = 1e-7;
                let numeric = (loss.root(residual + h).0 - loss.root(residual - h).0) / (2.0 * h);
                assert_relative_eq!(slope, numeric, max_relative = 1e-5);
                let numeric = (loss.of(residual + h) - loss.of(residual - h)) / (2.0 * h);
                let (influence, _) = loss.influence(residual);
                let twice = if loss == huber { 1.0 } else { 2.0 };
                assert_relative_eq!(twice * influence, numeric, epsilon = 1e-7, max_relative = 1e-6);
            }
        }
    }

    #[test]
    fn names_are_read_back_and_others_refused() {
        for loss in [Loss::SquaredLog, Loss::Squared, Loss::HuberLog { delta: 1e-3 }] {
            assert_eq!(Loss::parse(loss.name()), Ok(loss));
        }
        assert_eq!(Loss::parse("huber-log:0.05"), Ok(Loss::HuberLog { delta: 0.05 }));
        for wrong in ["huber", "huber-log:0", "huber-log:nan", "squared:1", ""] {
            assert!(Loss::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn impossible_predictions_have_a_residual_that_no_step_leads_to() {
        for predicted in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Loss::SquaredLog.residual(predicted, 2.0), (IMPOSSIBLE, 0.0));
        }
        assert_eq!(Loss::Squared.residual(-1.0, 2.0), (-3.0, 1.0));
        assert_eq!(Loss::Squared.residual(f64::NAN, 2.0).0, IMPOSSIBLE);
    }
}
