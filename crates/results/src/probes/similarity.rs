//! How the residual streams at different depths resemble each other.

use crate::null;
use serde::{Deserialize, Serialize};

/// Block influence (arXiv 2403.03853) and angular distance of blocks (arXiv 2403.17887), on one prompt and over
/// all prompts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Similarity {
    /// `1 - mean cos(h_l, h_{l+1})`, `[L]`.
    #[serde(deserialize_with = "null::numbers")]
    pub block_influence: Vec<f64>,
    /// `arccos(cos(h_l, h_{l+n})) / pi` at the last token, `[n - 1][l]` with `l <= L - n`; NaN (`null` in files)
    /// where a stream is zero. Rows may be padded.
    #[serde(deserialize_with = "null::matrix")]
    pub angular_last: Vec<Vec<f64>>,
    /// The same as a mean over all tokens.
    #[serde(deserialize_with = "null::matrix")]
    pub angular_mean: Vec<Vec<f64>>,
    /// Tokens left out of the means, `[n - 1][l]`, because one of their streams is zero; empty where there are
    /// none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<Vec<usize>>,
}
