//! The level at which each token's prediction settles (arXiv 2602.13517).

use crate::null;
use serde::{Deserialize, Serialize};

/// Jensen-Shannon divergence in bits at or below which a prediction counts as settled.
pub const SETTLING_THRESHOLD_BITS: f64 = 0.5;

/// The probe on one prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SettlingSample {
    /// For each token the first level, 0 to L, at which the running minimum of the divergence is at or below the
    /// threshold.
    pub layers: Vec<usize>,
}

/// The probe over all prompts. A token settles at the first level at which the running minimum of the divergence
/// is at or below the threshold; a later rise does not unsettle it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settling {
    /// The mean settling level over tokens.
    #[serde(deserialize_with = "null::number")]
    pub mean_settle_layer: f64,
    /// The share of tokens that settle at `deep_layer` or later.
    #[serde(deserialize_with = "null::number")]
    pub deep_thinking_ratio: f64,
    /// The Jensen-Shannon divergence in bits at or below which a prediction counts as settled.
    #[serde(deserialize_with = "null::number")]
    pub threshold_bits: f64,
    /// The first level that counts as deep, ceil(0.85 L).
    pub deep_layer: usize,
    /// The number of tokens that settle at each level, `[L + 1]`: before the first layer, ..., after the last.
    pub histogram: Vec<u64>,
}
