//! A line of samples.jsonl: what was measured on one prompt or question-answer pair.

use crate::{
    AnglesSample, ContributionsSample, Experts, Gradients, LensCurves, MaskedSample, Order, Probe,
    SettlingSample, Similarity, SkipSample, WorkByProbe,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the format of samples.jsonl and of what its numbers mean. Samples of different
/// versions are not mixed.
pub const SAMPLES_VERSION: u32 = 2;

/// A question and its answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QaPair {
    /// The text before the answer.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// Tokens of the answer, at the end of the text.
    pub answer_tokens: usize,
}

/// What was measured on one prompt or question-answer pair: a line of samples.jsonl.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Id of the prompt.
    pub id: String,
    /// Difficulty, level or the like.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
    /// The first 16 hexadecimal digits of the SHA-256 of the prompt's text; absent from older files and
    /// from question-answer pairs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub text_sha256: Option<String>,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The text of each token.
    pub pieces: Vec<String>,
    /// What was hidden, where a model predicts masked tokens; [`Self::tokens`] has the masks.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub masked: Option<MaskedSample>,
    /// Why the prompt could not be measured, where the model overflows on it. Such a sample has no probes and
    /// enters no statistic.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failed: Option<String>,
    /// What was done for it, by probe.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub work: WorkByProbe,
    /// What each sublayer adds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub contributions: Option<ContributionsSample>,
    /// Means of the logit lens over the tokens.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lens: Option<LensCurves>,
    /// How layers resemble each other.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub similarity: Option<Similarity>,
    /// How far the stream turns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub angles: Option<AnglesSample>,
    /// What single experts add.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub experts: Option<Experts>,
    /// Settling layers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub settling: Option<SettlingSample>,
    /// Effects of bypassing layers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub skip: Option<SkipSample>,
    /// Effects of another order of layers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub order: Option<Order>,
    /// The question and answer, where the line is of a question-answer pair.
    #[serde(rename = "asked", skip_serializing_if = "Option::is_none", default)]
    pub qa: Option<QaPair>,
    /// Effects of erasing tokens, `[L + 1][T]`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub erasure: Option<Vec<Vec<f64>>>,
    /// Integrated gradients, one element a site.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gradients: Option<Vec<Gradients>>,
}

impl Sample {
    /// Whether a probe has been measured on this prompt, or cannot be.
    pub fn has(&self, probe: Probe) -> bool {
        if self.failed.is_some() {
            return true;
        }
        match probe {
            Probe::Contributions => self.contributions.is_some(),
            Probe::Lens => self.lens.is_some(),
            Probe::Similarity => self.similarity.is_some(),
            Probe::Angles => self.angles.is_some(),
            Probe::Experts => self.experts.is_some(),
            Probe::Settling => self.settling.is_some(),
            Probe::Skip => self.skip.is_some(),
            Probe::Order => self.order.is_some(),
            Probe::Erasure => self.erasure.is_some(),
            Probe::Gradients => self.gradients.is_some(),
        }
    }

    /// Takes over the probes that `later` has: a resumed run may add probes to a
    /// prompt that was measured before.
    pub fn merge(&mut self, later: Self) {
        later.work.iter().for_each(|(name, work)| work.add_to(&mut self.work, name));
        self.failed = later.failed.or(self.failed.take());
        self.text_sha256 = later.text_sha256.or(self.text_sha256.take());
        self.masked = later.masked.or(self.masked.take());
        self.contributions = later.contributions.or(self.contributions.take());
        self.lens = later.lens.or(self.lens.take());
        self.similarity = later.similarity.or(self.similarity.take());
        self.angles = later.angles.or(self.angles.take());
        self.experts = later.experts.or(self.experts.take());
        self.settling = later.settling.or(self.settling.take());
        self.skip = later.skip.or(self.skip.take());
        self.order = later.order.or(self.order.take());
        self.erasure = later.erasure.or(self.erasure.take());
        self.gradients = later.gradients.or(self.gradients.take());
    }
}
