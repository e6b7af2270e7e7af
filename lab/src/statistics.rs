//! Means over seeds.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// A mean with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// The 95 % interval by Student's distribution; none of a single value.
    pub interval: Option<[f64; 2]>,
}

impl Mean {
    /// The mean of values, one of each seed; none without values.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let count = values.len() as f64;
        let value = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|v| (v - value).powi(2)).sum();
        let quantile = StudentsT::new(0.0, 1.0, count - 1.0).ok().map(|t| t.inverse_cdf(0.975));
        let half = quantile.map(|quantile| quantile * (squares / (count - 1.0) / count).sqrt());
        Some(Self { value, interval: half.map(|half| [value - half, value + half]) })
    }

    /// The mean and its interval with this many decimals.
    pub fn text(&self, decimals: usize) -> String {
        let value = self.value;
        match self.interval {
            Some([low, high]) => format!("{value:.decimals$} ({low:.decimals$} to {high:.decimals$})"),
            None => format!("{value:.decimals$}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_student() {
        let mean = Mean::of(&[1.0, 2.0, 3.0]).unwrap();
        // scipy.stats.t.interval(0.95, 2, loc=2, scale=1 / sqrt(3))
        let [low, high] = mean.interval.unwrap();
        assert_eq!(mean.value, 2.0);
        assert!((low + 0.484_137_711).abs() < 1e-6 && (high - 4.484_137_711).abs() < 1e-6, "{low} {high}");
        assert_eq!(mean.text(2), "2.00 (-0.48 to 4.48)");
        assert_eq!(Mean::of(&[4.0]), Some(Mean { value: 4.0, interval: None }));
        assert_eq!(Mean::of(&[]), None);
    }
}
