//! The files of reference values.

use serde::Deserialize;
use std::collections::BTreeMap;

/// Reference values of one model on some prompts.
#[derive(Deserialize)]
pub(super) struct Golden {
    pub(super) prompts: Vec<String>,
    pub(super) tokens: Option<Vec<Vec<u32>>>,
    /// For a masked model, the tokens that the masks of each prompt hide, in order.
    pub(super) masked: Option<Vec<Vec<u32>>>,
    pub(super) logits: Option<Vec<Logits>>,
    pub(super) contributions: Option<BTreeMap<String, Vec<f64>>>,
    pub(super) lens: Option<BTreeMap<String, Vec<f64>>>,
    /// The t of the skip probe, by prompt.
    pub(super) positions: Option<Vec<Vec<usize>>>,
    pub(super) effects: Option<Effects>,
    pub(super) current: Option<Effects>,
    pub(super) local: Option<Effects>,
    pub(super) erasure: Option<Vec<Erasure>>,
    pub(super) ig: Option<Vec<Gradients>>,
}

/// What the model predicts on one prompt.
#[derive(Deserialize)]
pub(super) struct Logits {
    pub(super) nll: Vec<f64>,
}

/// Effects of skipping layers, maxima over positions and prompts.
#[derive(Deserialize)]
pub(super) struct Effects {
    /// `[L][L]`, skipped layer first.
    pub(super) layer: Vec<Vec<f64>>,
    /// `[L]`.
    pub(super) out: Vec<f64>,
}

/// Erasure of one question-answer pair.
#[derive(Deserialize)]
pub(super) struct Erasure {
    pub(super) tokens: Vec<u32>,
    /// Tokens of the answer.
    pub(super) alen: usize,
    /// `[L + 1][T]`.
    pub(super) map: Vec<Vec<f64>>,
}

/// Integrated gradients of one question-answer pair at the stream that leaves each
/// layer, from the mean of the positions.
#[derive(Deserialize)]
pub(super) struct Gradients {
    pub(super) tokens: Vec<u32>,
    /// Tokens of the answer.
    pub(super) alen: usize,
    /// Steps of the left sum.
    pub(super) steps: u32,
    /// `[L][T]`.
    pub(super) map: Vec<Vec<f64>>,
}
