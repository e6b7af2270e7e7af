//! What single experts add, in mixtures of experts.

use crate::null;
use serde::{Deserialize, Serialize};

/// The experts of each layer that has some. Rows are layers, in the order of [`Self::layers`]; columns are the experts
/// that tokens choose from, and the shared one last, if there is one.
///
/// In a sample means are over the tokens of a prompt, in results over all tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Experts {
    /// The layers that have experts.
    pub layers: Vec<usize>,
    /// Whether the last column is an expert that every token takes beside its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// Experts that a token takes, without the shared one.
    pub active: usize,
    /// Tokens that take each expert, `[layers][experts]`.
    pub tokens: Vec<Vec<usize>>,
    /// The mean weight over the tokens that take an expert, `[layers][experts]`; NaN (`null` in files) where none does.
    #[serde(deserialize_with = "null::matrix")]
    pub weight: Vec<Vec<f64>>,
    /// The norm of what an expert adds over that of all experts' sum, the mean over the tokens that take it,
    /// `[layers][experts]`; NaN where none does.
    #[serde(deserialize_with = "null::matrix")]
    pub relative_norm: Vec<Vec<f64>>,
    /// The part of the experts' sum that an expert adds along it: the scalar product of both over the squared norm of
    /// the sum, the mean over all tokens, where those that do not take the expert count as 0, `[layers][experts]`. The
    /// experts of a layer add up to 1.
    #[serde(deserialize_with = "null::matrix")]
    pub share: Vec<Vec<f64>>,
    /// Tokens left out of `relative_norm` and `share` because their experts add nothing, `[layers]`; absent where there
    /// are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<usize>,
}

impl Experts {
    /// The experts that tokens choose from.
    pub fn routed(&self) -> usize {
        self.tokens.first().map_or(0, Vec::len).saturating_sub(self.shared.into())
    }

    /// For each of [`Self::layers`], the number of experts that would be taken equally often at the entropy of the
    /// choices: the exponential of the entropy of the shares of choices. All experts where the router is balanced.
    pub fn used(&self) -> Vec<f64> {
        let of_layer = |tokens: &Vec<usize>| {
            let counts = tokens.iter().take(self.routed()).filter(|n| **n > 0).map(|n| *n as f64);
            let total: f64 = counts.clone().sum();
            counts.map(|n| -n / total * (n / total).ln()).sum::<f64>().exp()
        };
        self.tokens.iter().map(of_layer).collect()
    }

    /// The share of the tokens that take each expert, `[layers][experts]`.
    pub fn load(&self) -> Vec<Vec<f64>> {
        let of_layer = |tokens: &Vec<usize>| {
            let choices: usize = tokens.iter().take(self.routed()).sum();
            let all = choices as f64 / self.active.max(1) as f64;
            tokens.iter().map(|n| *n as f64 / all).collect()
        };
        self.tokens.iter().map(of_layer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_that_are_used_are_counted_by_entropy() {
        let tokens = vec![vec![5, 5, 5, 5, 20], vec![20, 0, 0, 0, 20], vec![10, 10, 0, 0, 20]];
        let experts =
            Experts { layers: vec![1, 2, 3], shared: true, active: 1, tokens, ..Experts::default() };
        assert_eq!(experts.routed(), 4);
        for (found, want) in experts.used().into_iter().zip([4.0, 1.0, 2.0]) {
            assert!((found - want).abs() < 1e-12, "{found}");
        }
        assert_eq!(experts.load()[1], [1.0, 0.0, 0.0, 0.0, 1.0]);
    }
}
