//! Weights of two training sets, of short and of long solutions, from what a development set shows (TL;DR, arXiv 2506.02678).
//!
//! A model that is trained on long chains of thought should answer shortly where that is enough. Every few steps, the mean
//! length T of its answers and their accuracy A are measured on a development set, and the weights α of the two sets
//! change:
//!
//! b_short = max((T - T_S) / |T_L - T_S|, 0), b_long = max((A_L - A) / |A_L - A_S|, 0),
//! α ← softmax(ln α + η b), then α ← (1 - c) α + c / 2.
//!
//! T_S, A_S and T_L, A_L are lengths and accuracies of models that were trained on short or on long solutions alone.

use serde::{Deserialize, Serialize};

/// Length and accuracy that training on one of the two sets alone leads to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// The mean length of answers, in tokens.
    pub length: f64,
    /// The share of right answers, from 0 to 1.
    pub accuracy: f64,
}

/// The weights of short and of long solutions; they add up to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Of short solutions.
    pub short: f64,
    /// Of long ones.
    pub long: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { short: 0.5, long: 0.5 }
    }
}

/// The controller of the weights. It has no state of its own: each step maps weights and a measurement to weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Controller {
    short: Bound,
    long: Bound,
    rate: f64,
    floor: f64,
}

impl Controller {
    /// The paper's η.
    pub const RATE: f64 = 4.0;
    /// The paper's c.
    pub const FLOOR: f64 = 1e-4;

    /// A controller between two bounds, with the paper's rate and floor.
    ///
    /// # Errors
    /// When a length or an accuracy is out of range, or the bounds do not differ in one of them: the rule divides by the
    /// differences.
    pub fn new(short: Bound, long: Bound) -> Result<Self, String> {
        for (name, bound) in [("short", short), ("long", long)] {
            check_measured(bound).map_err(|what| format!("{name}: {what}"))?;
        }
        if short.length == long.length {
            return Err(format!("both lengths are {}; give those of two different models", short.length));
        }
        if short.accuracy == long.accuracy {
            return Err(format!(
                "both accuracies are {}; give those of two different models",
                short.accuracy
            ));
        }
        Ok(Self { short, long, rate: Self::RATE, floor: Self::FLOOR })
    }

    /// Another η: how fast weights move.
    ///
    /// # Errors
    /// When it is negative or not a number.
    pub fn rate(self, rate: f64) -> Result<Self, String> {
        if !(rate.is_finite() && rate >= 0.0) {
            return Err(format!("the rate is {rate}; give a number from 0 up"));
        }
        Ok(Self { rate, ..self })
    }

    /// Another c: twice the least weight that a set keeps.
    ///
    /// # Errors
    /// When it is not between 0 and 1.
    pub fn floor(self, floor: f64) -> Result<Self, String> {
        if !(0.0..=1.0).contains(&floor) {
            return Err(format!("the floor is {floor}; give a number from 0 to 1"));
        }
        Ok(Self { floor, ..self })
    }

    /// The weights after a measurement of length and accuracy on the development set.
    ///
    /// # Errors
    /// When a number is out of range, or the weights do not add up to 1.
    pub fn step(&self, weights: Weights, measured: Bound) -> Result<Weights, String> {
        check_measured(measured)?;
        check_weights(weights)?;
        let over = |excess: f64, scale: f64| (excess / scale.abs()).max(0.0);
        let short = over(measured.length - self.short.length, self.long.length - self.short.length);
        let long = over(self.long.accuracy - measured.accuracy, self.long.accuracy - self.short.accuracy);
        // The softmax of two numbers is a logistic function of their difference, which cannot overflow.
        let difference = weights.long.ln() - weights.short.ln() + self.rate * (long - short);
        let [short, long] = [1.0 / (1.0 + difference.exp()), 1.0 / (1.0 + (-difference).exp())];
        let mixed = |weight: f64| (1.0 - self.floor) * weight + self.floor / 2.0;
        Ok(Weights { short: mixed(short), long: mixed(long) })
    }
}

fn check_measured(Bound { length, accuracy }: Bound) -> Result<(), String> {
    if !(length.is_finite() && length >= 0.0) {
        return Err(format!("the length is {length}; give a mean number of tokens"));
    }
    if !(0.0..=1.0).contains(&accuracy) {
        return Err(format!("the accuracy is {accuracy}; give a share from 0 to 1"));
    }
    Ok(())
}

fn check_weights(Weights { short, long }: Weights) -> Result<(), String> {
    if !(short >= 0.0 && long >= 0.0 && (short + long - 1.0).abs() < 1e-6) {
        return Err(format!("the weights {short} and {long} do not add up to 1"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bounds of the paper's 7B run.
    fn paper() -> Controller {
        let bound = |length, accuracy| Bound { length, accuracy };
        Controller::new(bound(1120.9, 0.289), bound(7379.6, 0.756)).unwrap()
    }

    #[test]
    fn steps_of_the_published_rule() {
        let check = |before: [f64; 2], length: f64, accuracy: f64, after: [f64; 2], digits: f64| {
            let weights = Weights { short: before[0], long: before[1] };
            let found = paper().step(weights, Bound { length, accuracy }).unwrap();
            assert!(
                (found.short - after[0]).abs() < digits && (found.long - after[1]).abs() < digits,
                "{found:?}"
            );
            assert!((found.short + found.long - 1.0).abs() < 1e-15);
        };
        check([0.5, 0.5], 7379.6, 0.756, [0.981_965_59, 0.018_034_41], 5e-9);
        check([0.5, 0.5], 3000.0, 0.70, [0.672_874_81, 0.327_125_19], 5e-9);
        check([0.9, 0.1], 1500.0, 0.60, [0.750_857_11, 0.249_142_89], 5e-9);
        // Short and right enough: only the floor moves the weights.
        check([0.3, 0.7], 1000.0, 0.80, [0.300_02, 0.699_98], 1e-12);
    }

    #[test]
    fn weights_stay_within_the_floor_however_far_a_measurement_is() {
        let far = Bound { length: 1e300, accuracy: 0.756 };
        let mut weights = Weights::default();
        for _ in 0..3 {
            weights = paper().step(weights, far).unwrap();
        }
        assert_eq!(weights.long, Controller::FLOOR / 2.0);
        // A set that was left out comes back.
        let gone = Weights { short: 1.0, long: 0.0 };
        let back = paper().floor(0.1).unwrap().step(gone, Bound { length: 1000.0, accuracy: 0.289 }).unwrap();
        assert!((back.long - 0.05).abs() < 1e-12, "{back:?}");
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let bound = |length, accuracy| Bound { length, accuracy };
        let refuse = |found: Result<Controller, String>, part: &str| {
            let message = found.unwrap_err();
            assert!(message.contains(part), "{message}");
        };
        refuse(Controller::new(bound(5.0, 0.2), bound(5.0, 0.3)), "both lengths are 5");
        refuse(Controller::new(bound(5.0, 0.3), bound(9.0, 0.3)), "both accuracies are 0.3");
        refuse(Controller::new(bound(f64::NAN, 0.3), bound(9.0, 0.3)), "short: the length is NaN");
        refuse(Controller::new(bound(5.0, 0.3), bound(9.0, 30.0)), "long: the accuracy is 30");
        refuse(paper().rate(-1.0), "the rate is -1");
        refuse(paper().floor(2.0), "the floor is 2");
        let weights = Weights { short: 0.5, long: 0.6 };
        assert!(paper().step(weights, bound(5.0, 0.3)).unwrap_err().contains("add up to 1"));
        assert!(paper().step(Weights::default(), bound(5.0, -0.3)).unwrap_err().contains("accuracy is -0.3"));
    }
}
