//! How far the residual stream turns from layer to layer (arXiv 2602.05970).

use crate::null;
use serde::{Deserialize, Serialize};

/// The probe on one prompt: means over its tokens. Angles are in radians. A token with a stream of length zero has no
/// angles and is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnglesSample {
    /// `theta_l`, the angle between `h_l` and `h_{l+1}`, `[L]`.
    #[serde(deserialize_with = "null::numbers")]
    pub step: Vec<f64>,
    /// The angle between what layers l and l + 1 add, `[L - 1]`.
    #[serde(deserialize_with = "null::numbers")]
    pub updates: Vec<f64>,
    /// The angle between `h_l` and `h_L`, `[L]`.
    #[serde(deserialize_with = "null::numbers")]
    pub to_end: Vec<f64>,
    /// The loss in nats per token when `h_l` goes through the last layer, the final norm and the head, `[L]`; the last
    /// value is the model's own. Empty for a text of one token.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null::numbers")]
    pub last_layer_nll: Vec<f64>,
    /// The mean of `theta_i theta_j`, row i from j = i on, `[L][L - i]`.
    #[serde(deserialize_with = "null::matrix")]
    pub products: Vec<Vec<f64>>,
    /// The layer around which each token turns, `sum_l l theta_l / sum_l theta_l`, `[T]`; NaN (`null` in files) for a
    /// token that is left out.
    #[serde(deserialize_with = "null::numbers")]
    pub centre: Vec<f64>,
    /// Tokens left out of all means.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: usize,
    /// Tokens left out of `updates`: those, and tokens to which some layer adds nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub updates_left_out: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The probe over all prompts, every token with equal weight. Angles are in radians.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Angles {
    /// `theta_l`, the angle between `h_l` and `h_{l+1}`, `[L]`.
    #[serde(deserialize_with = "null::numbers")]
    pub step: Vec<f64>,
    /// The angle between what layers l and l + 1 add, `[L - 1]`.
    #[serde(deserialize_with = "null::numbers")]
    pub updates: Vec<f64>,
    /// The angle between `h_l` and `h_L`, `[L]`.
    #[serde(deserialize_with = "null::numbers")]
    pub to_end: Vec<f64>,
    /// The loss in nats per token when `h_l` goes through the last layer, the final norm and the head, `[L]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null::numbers")]
    pub last_layer_nll: Vec<f64>,
    /// `theta_l` against `1 / l`; none for models of fewer than five layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<AngleFit>,
    /// The first principal components of the vectors `theta` of single tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<AngleComponent>,
    /// The mean layer around which tokens turn, by their position in the prompt from 0 on.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null::numbers")]
    pub centre_by_position: Vec<f64>,
    /// Tokens left out of all means.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: usize,
    /// Tokens left out of `updates`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub updates_left_out: usize,
}

/// `theta = intercept + slope / l` by least squares, l the number of the layer counted from 1, over all layers but the
/// first and the last.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AngleFit {
    /// Radians.
    #[serde(deserialize_with = "null::number")]
    pub intercept: f64,
    /// Radians.
    #[serde(deserialize_with = "null::number")]
    pub slope: f64,
    /// The share of the variance over layers that the line explains.
    #[serde(deserialize_with = "null::number")]
    pub r2: f64,
}

/// A principal component of the angles of single tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AngleComponent {
    /// Its share of the variance over tokens.
    #[serde(deserialize_with = "null::number")]
    pub share: f64,
    /// Its weights, of length 1, `[L]`; the largest one is positive.
    #[serde(deserialize_with = "null::numbers")]
    pub weights: Vec<f64>,
}
