//! What an answer loses when a token's residual is erased (arXiv 2505.13898).

use crate::null;
use serde::{Deserialize, Serialize};

/// The probe on one question-answer pair.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ErasurePair {
    /// The text before the answer.
    pub question: String,
    /// The answer whose probability is read.
    pub answer: String,
    /// The text of each of the T tokens.
    pub tokens: Vec<String>,
    /// The effect of erasing each token before each layer and after the last, `[L + 1][T]`.
    #[serde(deserialize_with = "null::matrix")]
    pub effect: Vec<Vec<f64>>,
}
