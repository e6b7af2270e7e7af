//! What each sublayer adds to the residual stream (arXiv 2505.13898).

use crate::null;
use serde::{Deserialize, Serialize};

/// One value for each part of a layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parts<T> {
    /// The attention sublayer: a against h.
    pub attn: T,
    /// The MLP sublayer: m against h + a.
    pub mlp: T,
    /// The whole layer: D = a + m against h.
    pub layer: T,
}

/// A quantity on one prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PerToken {
    /// Mean over the tokens that have a value, `[L]`; 0 where none has, and NaN (`null` in files) where the layer has no
    /// such sublayer.
    #[serde(deserialize_with = "null::numbers")]
    pub mean: Vec<f64>,
    /// Every token's value to five digits, `[L][T]`; NaN (`null` in files) where the residual stream is zero, so
    /// that nothing can be relative to it. A layer without the sublayer has no tokens.
    #[serde(deserialize_with = "null::matrix")]
    pub tokens: Vec<Vec<f64>>,
}

impl PerToken {
    /// The number of tokens that have a value at a layer.
    pub fn count(&self, layer: usize) -> usize {
        self.tokens.get(layer).map_or(0, |tokens| tokens.iter().filter(|x| !x.is_nan()).count())
    }
}

/// The probe on one prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContributionsSample {
    /// The norm of what is added over the norm of the stream it is added to.
    pub relative_norm: Parts<PerToken>,
    /// The cosine between what is added and the stream it is added to.
    pub cosine: Parts<PerToken>,
}

/// A curve over layers, summarised over tokens in two ways.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeanMedian {
    /// The mean over tokens, `[L]`; NaN where the layer has no such sublayer.
    #[serde(deserialize_with = "null::numbers")]
    pub mean: Vec<f64>,
    /// The median over tokens, `[L]`: a few tokens, mostly the first, have enormous norms and pull the mean.
    #[serde(deserialize_with = "null::numbers")]
    pub median: Vec<f64>,
}

/// The probe over all prompts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Contributions {
    /// The norm of what is added over the norm of the stream it is added to.
    pub relative_norm: Parts<MeanMedian>,
    /// The cosine between what is added and the stream it is added to.
    pub cosine: Parts<MeanMedian>,
    /// Tokens left out of both, `[L]`, because the stream is zero there; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<Parts<Vec<usize>>>,
}

impl Parts<Vec<usize>> {
    /// A sentence that says how many tokens are left out, and at which layers.
    pub fn sentence(&self) -> String {
        let most = self.attn.iter().chain(&self.mlp).max().copied().unwrap_or(0);
        let layers: Vec<String> = (0..self.attn.len())
            .filter(|l| self.attn[*l] > 0 || self.mlp.get(*l).is_some_and(|n| *n > 0))
            .map(|l| l.to_string())
            .collect();
        let tokens = if most == 1 { "1 token is".to_owned() } else { format!("{most} tokens are") };
        let plural = if layers.len() == 1 { "" } else { "s" };
        format!(
            "{tokens} left out of relative norms and cosines, because the residual stream is zero there (layer{plural} {})",
            layers.join(", ")
        )
    }
}
