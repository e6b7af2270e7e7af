//! What is kept of each prompt, and all prompts together.

use crate::cost::{Counted, count};
use crate::gradients::Gradients;
use crate::text::Asked;
use crate::{contributions, lens, settling, similarity, skip};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the format of samples.jsonl and of what its numbers mean. Samples of different
/// versions are not mixed.
pub const SAMPLES_VERSION: u32 = 2;

/// One prompt: a line of samples.jsonl.
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
    /// Why the prompt could not be measured, where the model overflows on it. Such a sample has no probes and
    /// enters no statistic.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failed: Option<String>,
    /// What was done for it, by probe.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub work: Counted,
    /// What each sublayer adds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub contributions: Option<contributions::Sample>,
    /// Means of the logit lens over the tokens.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lens: Option<lens::Curves>,
    /// How layers resemble each other.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub similarity: Option<similarity::Similarity>,
    /// Settling layers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub settling: Option<settling::Sample>,
    /// Effects of bypassing layers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub skip: Option<skip::Sample>,
    /// What was asked, where the line is of a question-answer pair.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub asked: Option<Asked>,
    /// Effects of erasing tokens, `[L + 1][T]`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub erasure: Option<Vec<Vec<f64>>>,
    /// Integrated gradients, one element a site.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gradients: Option<Vec<Gradients>>,
}

/// All prompts together: `probes` of results.json.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// What each sublayer adds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contributions: Option<contributions::Summary>,
    /// The logit lens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lens: Option<lens::Curves>,
    /// How layers resemble each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity: Option<similarity::Similarity>,
    /// Settling layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settling: Option<settling::Summary>,
    /// Effects of bypassing layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip: Option<skip::Summary>,
    /// Effects of erasing tokens, pair by pair.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub erasure: Vec<OfPair<Erasure>>,
    /// Integrated gradients, pair by pair and site by site.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gradients: Vec<OfPair<Gradients>>,
}

/// A probe on one pair: an element of `probes.erasure` or `probes.gradients`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OfPair<T> {
    /// The text before the answer.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// The text of each token.
    pub tokens: Vec<String>,
    /// What was measured.
    #[serde(flatten)]
    pub measured: T,
}

/// Effects of erasing tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Erasure {
    /// `[L + 1][T]`.
    pub effect: Vec<Vec<f64>>,
}

impl Summary {
    /// Puts the samples of a model with `depth` layers together, prompts and pairs. A probe that
    /// no sample has is absent.
    pub fn of(samples: &[Sample], depth: usize) -> Self {
        fn some<T>(parts: Vec<T>) -> Option<Vec<T>> {
            (!parts.is_empty()).then_some(parts)
        }
        let weighed = |s: &'_ Sample| s.tokens.len();
        Self {
            contributions: some(samples.iter().filter_map(|s| s.contributions.as_ref()).collect())
                .map(|s| contributions::summarise(&s)),
            lens: some(samples.iter().filter_map(|s| Some((s.lens.as_ref()?, weighed(s)))).collect())
                .map(|s| lens::summarise(&s)),
            similarity: some(
                samples.iter().filter_map(|s| Some((s.similarity.as_ref()?, weighed(s)))).collect(),
            )
            .map(|s| similarity::summarise(&s)),
            settling: some(samples.iter().filter_map(|s| s.settling.as_ref()).collect())
                .map(|s| settling::summarise(&s, depth)),
            skip: some(samples.iter().filter_map(|s| s.skip.as_ref()).collect()).map(|s| skip::summarise(&s)),
            erasure: samples
                .iter()
                .filter_map(|s| Some(of_pair(s, Erasure { effect: s.erasure.clone()? })))
                .collect(),
            gradients: samples
                .iter()
                .flat_map(|s| s.gradients.iter().flatten().map(|g| of_pair(s, g.clone())))
                .collect(),
        }
    }
}

impl Sample {
    /// Whether a probe has been measured on this prompt, or cannot be.
    pub fn has(&self, probe: crate::Probe) -> bool {
        if self.failed.is_some() {
            return true;
        }
        match probe {
            crate::Probe::Contributions => self.contributions.is_some(),
            crate::Probe::Lens => self.lens.is_some(),
            crate::Probe::Similarity => self.similarity.is_some(),
            crate::Probe::Settling => self.settling.is_some(),
            crate::Probe::Skip => self.skip.is_some(),
            crate::Probe::Erasure => self.erasure.is_some(),
            crate::Probe::Gradients => self.gradients.is_some(),
        }
    }

    /// Takes over the probes that `later` has: a resumed run may add probes to a
    /// prompt that was measured before.
    pub fn merge(&mut self, later: Self) {
        later.work.iter().for_each(|(name, work)| count(&mut self.work, name, *work));
        self.failed = later.failed.or(self.failed.take());
        self.text_sha256 = later.text_sha256.or(self.text_sha256.take());
        self.contributions = later.contributions.or(self.contributions.take());
        self.lens = later.lens.or(self.lens.take());
        self.similarity = later.similarity.or(self.similarity.take());
        self.settling = later.settling.or(self.settling.take());
        self.skip = later.skip.or(self.skip.take());
        self.erasure = later.erasure.or(self.erasure.take());
        self.gradients = later.gradients.or(self.gradients.take());
    }
}

fn of_pair<T>(sample: &Sample, measured: T) -> OfPair<T> {
    let Asked { question, answer, .. } = sample.asked.clone().unwrap_or_default();
    OfPair { question, answer, tokens: sample.pieces.clone(), measured }
}
