//! What is kept of each prompt, and all prompts together.

use crate::{contributions, erasure, lens, settling, similarity, skip};
use serde::{Deserialize, Serialize};

/// One prompt: a line of samples.jsonl.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Id of the prompt.
    pub id: String,
    /// Difficulty, level or the like.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The text of each token.
    pub pieces: Vec<String>,
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
    /// Effects of erasing tokens, where the line is of a question-answer pair.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub erasure: Option<erasure::Sample>,
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
    pub erasure: Vec<Erasure>,
}

/// The erasure probe on one pair: an element of `probes.erasure` of results.json.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Erasure {
    /// The text before the answer.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// The text of each token.
    pub tokens: Vec<String>,
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
            erasure: samples.iter().filter_map(pair).collect(),
        }
    }
}

impl Sample {
    /// Whether a probe has been measured on this prompt.
    pub fn has(&self, probe: crate::Probe) -> bool {
        match probe {
            crate::Probe::Contributions => self.contributions.is_some(),
            crate::Probe::Lens => self.lens.is_some(),
            crate::Probe::Similarity => self.similarity.is_some(),
            crate::Probe::Settling => self.settling.is_some(),
            crate::Probe::Skip => self.skip.is_some(),
            crate::Probe::Erasure => self.erasure.is_some(),
        }
    }

    /// Takes over the probes that `later` has: a resumed run may add probes to a
    /// prompt that was measured before.
    pub fn merge(&mut self, later: Self) {
        self.contributions = later.contributions.or(self.contributions.take());
        self.lens = later.lens.or(self.lens.take());
        self.similarity = later.similarity.or(self.similarity.take());
        self.settling = later.settling.or(self.settling.take());
        self.skip = later.skip.or(self.skip.take());
        self.erasure = later.erasure.or(self.erasure.take());
    }
}

fn pair(sample: &Sample) -> Option<Erasure> {
    let erasure = sample.erasure.as_ref()?;
    Some(Erasure {
        question: erasure.question.clone(),
        answer: erasure.answer.clone(),
        tokens: sample.pieces.clone(),
        effect: erasure.effect.clone(),
    })
}
