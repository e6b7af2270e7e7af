//! The logit lens.

use crate::null;
use serde::{Deserialize, Serialize};

/// The logit lens over levels, on one prompt (means over its tokens) and over all prompts. Each curve has
/// length L + 1: level l reads the stream that enters layer l, level L the model's output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LensCurves {
    /// KL(p_l || p) in nats.
    #[serde(deserialize_with = "null::numbers")]
    pub kl_lens_final: Vec<f64>,
    /// KL(p || p_l) in nats.
    #[serde(deserialize_with = "null::numbers")]
    pub kl_final_lens: Vec<f64>,
    /// Jensen-Shannon divergence of p_l and p in bits.
    #[serde(deserialize_with = "null::numbers")]
    pub jsd_bits: Vec<f64>,
    /// Share of the five most likely tokens that p_l and p have in common.
    #[serde(deserialize_with = "null::numbers")]
    pub overlap: Vec<f64>,
    /// Share of tokens whose most likely token is the same.
    #[serde(deserialize_with = "null::numbers")]
    pub top1_agreement: Vec<f64>,
    /// Entropy of p_l in nats.
    #[serde(deserialize_with = "null::numbers")]
    pub entropy: Vec<f64>,
    /// Cross-entropy in nats of the token that really follows, over the tokens that have one: all but the last of each
    /// prompt. Empty for a prompt of one token, for samples of versions that did not have it, and for a run with such
    /// samples.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null::numbers")]
    pub nll: Vec<f64>,
    /// [`Self::kl_lens_final`] divided by ln V, where V is the size of the vocabulary, to compare models of different
    /// vocabularies. In the results of masked models; empty elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null::numbers")]
    pub kl_over_ln_vocab: Vec<f64>,
}

impl LensCurves {
    /// All curves that are there, with the names they have in files.
    pub fn curves(&self) -> impl Iterator<Item = (&'static str, &[f64])> {
        [
            ("kl_lens_final", self.kl_lens_final.as_slice()),
            ("kl_final_lens", &self.kl_final_lens),
            ("jsd_bits", &self.jsd_bits),
            ("overlap", &self.overlap),
            ("top1_agreement", &self.top1_agreement),
            ("entropy", &self.entropy),
            ("nll", &self.nll),
            ("kl_over_ln_vocab", &self.kl_over_ln_vocab),
        ]
        .into_iter()
        .filter(|(name, curve)| !["nll", "kl_over_ln_vocab"].contains(name) || !curve.is_empty())
    }

    /// The curves that are means over all tokens, in the order of the fields, to be changed: all but [`Self::nll`] and
    /// [`Self::kl_over_ln_vocab`].
    pub fn curves_mut(&mut self) -> [&mut Vec<f64>; 6] {
        [
            &mut self.kl_lens_final,
            &mut self.kl_final_lens,
            &mut self.jsd_bits,
            &mut self.overlap,
            &mut self.top1_agreement,
            &mut self.entropy,
        ]
    }
}
