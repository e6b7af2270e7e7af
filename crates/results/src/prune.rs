//! The types of `prune.json`: which layers can go, and what that costs on held-out text.

use crate::folder::PRUNE;
use crate::text::counted;
use crate::{Error, ModelInfo, Resources, Result, SkipPart, Work, null, version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The newest version of `prune.json` that this crate reads and the one it writes.
pub const PRUNE_SCHEMA_VERSION: u32 = 1;

/// More layers than any model has.
pub(crate) const LAYERS: usize = 1 << 14;

/// How candidates for removal are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PruneMethod {
    /// The units of least block influence (arXiv 2403.03853).
    Influence,
    /// The contiguous block of least angular distance (arXiv 2403.17887).
    Angular,
    /// The units whose bypass changes the output least, by the skip probe.
    Output,
    /// The contiguous block whose removal raises the calibration loss least.
    Block,
    /// One unit after the other, each time the one whose removal raises the calibration loss least (arXiv 2402.09025).
    Greedy,
    /// The user's own choice.
    Layers,
}

impl PruneMethod {
    /// The methods that choose, in the order of results.
    pub const CHOOSING: [Self; 5] = [Self::Influence, Self::Angular, Self::Output, Self::Block, Self::Greedy];

    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Influence => "influence",
            Self::Angular => "angular",
            Self::Output => "output",
            Self::Block => "block",
            Self::Greedy => "greedy",
            Self::Layers => "layers",
        }
    }

    /// How it chooses, in a few words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Influence => "the units of least block influence",
            Self::Angular => "the block of least angular distance",
            Self::Output => "the units whose bypass changes the output least",
            Self::Block => "the block whose removal costs least on the calibration text",
            Self::Greedy => "one by one, the unit whose removal costs least on the calibration text",
            Self::Layers => "your own choice",
        }
    }
}

/// Everything in `prune.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pruning {
    /// The version of the format, [`PRUNE_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The model.
    pub model: ModelInfo,
    /// What is removed of a layer.
    pub unit: SkipPart,
    /// The texts that candidates were chosen on.
    pub calibration: TextSet,
    /// The texts that the candidates were measured on.
    pub heldout: TextSet,
    /// The multiple-choice questions, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<TextSet>,
    /// What the methods that do not search read off the clean runs.
    pub scores: UnitScores,
    /// The searches, in order.
    pub searches: Vec<SearchStep>,
    /// The whole model on the held-out texts.
    pub full: Measured,
    /// The candidates, by method, then by the number of units removed.
    pub candidates: Vec<Candidate>,
    /// The recommendation.
    pub choice: Choice,
    /// The exported model, if one was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<Exported>,
    /// Counted work: `calibration`, `search`, `fit`, `proof`, `choices`.
    pub cost: BTreeMap<String, Work>,
    /// Time and memory: what differs between two runs of the same job.
    pub resources: PruneResources,
}

/// A set of texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TextSet {
    /// The id of the set.
    pub id: String,
    /// Texts.
    pub texts: usize,
    /// Tokens whose prediction is scored.
    pub tokens: u64,
    /// SHA-256 of the texts.
    pub sha256: String,
}

impl fmt::Display for TextSet {
    /// `prose, 33 texts, 4414 tokens`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.id, counted(self.texts as u64, "text"), counted(self.tokens, "token"))
    }
}

/// Scores of units, `[L]`; what no method asked for is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UnitScores {
    /// Block influence.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "null::some_numbers")]
    pub influence: Option<Vec<f64>>,
    /// Mean angular distance over all tokens, `[n - 1][l]`, of the block of n layers from l on.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null::matrix")]
    pub angular: Vec<Vec<f64>>,
    /// Mean change of the output distribution when the unit is bypassed at all positions but the first.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "null::some_numbers")]
    pub output: Option<Vec<f64>>,
}

/// The outcome of a search for one removal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchStep {
    /// Greedy or block.
    pub method: PruneMethod,
    /// The removal that was found, half-open ranges of layers.
    pub removed: Vec<[usize; 2]>,
    /// Its loss on the calibration texts, in nats per token.
    #[serde(deserialize_with = "null::number")]
    pub loss: f64,
    /// Candidates that were compared.
    pub candidates: usize,
    /// Candidates that were not clearly worse after some of the texts, and were compared on all of them.
    pub finalists: usize,
    /// The work of the search; naive is a forward pass from the embedding for each candidate and text.
    pub work: Work,
}

impl SearchStep {
    /// The number of units removed.
    pub fn count(&self) -> usize {
        count(&self.removed)
    }
}

/// The layers of half-open ranges.
fn count(ranges: &[[usize; 2]]) -> usize {
    ranges.iter().map(|[start, end]| end.saturating_sub(*start)).sum()
}

/// A value with its 95 % bootstrap interval over texts; none with fewer than two texts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimated {
    /// The value on all texts.
    #[serde(deserialize_with = "null::number")]
    pub value: f64,
    /// The ends.
    #[serde(default, deserialize_with = "null::interval")]
    pub interval: Option<[f64; 2]>,
}

/// A model on the held-out texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Negative log-likelihood per token, in nats.
    pub nll: Estimated,
    /// `exp(nll)`.
    #[serde(deserialize_with = "null::number")]
    pub perplexity: f64,
    /// The share of multiple-choice questions that are answered rightly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Accuracy>,
    /// Parameters of the model.
    pub parameters: u64,
    /// Bytes of its weights in memory.
    pub bytes: u64,
    /// Multiply-adds of the matrix products for a token, the head included.
    pub macs_per_token: u64,
}

/// Shares of multiple-choice questions answered rightly, as lm-evaluation-harness counts them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// By the largest summed log-likelihood of a choice.
    pub acc: Estimated,
    /// By the largest log-likelihood per unit of the choice's length.
    pub acc_norm: Estimated,
}

/// A removal that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// How it was chosen.
    pub method: PruneMethod,
    /// What is removed of each layer.
    pub unit: SkipPart,
    /// The layers, as half-open ranges.
    pub removed: Vec<[usize; 2]>,
    /// The linear map that replaces the block, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<LinearMap>,
    /// What is left of the model.
    #[serde(flatten)]
    pub measured: Measured,
    /// The rise in negative log-likelihood per token, in nats, paired text by text.
    pub nll_increase: Estimated,
    /// `KL(full || pruned)` per token, in nats.
    #[serde(deserialize_with = "null::number")]
    pub kl: f64,
    /// The share of tokens at which both models predict the same.
    #[serde(deserialize_with = "null::number")]
    pub top1_agreement: f64,
    /// The change of `accuracy.acc_norm`, paired question by question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy_change: Option<Estimated>,
}

impl Candidate {
    /// The number of units removed.
    pub fn count(&self) -> usize {
        count(&self.removed)
    }
}

/// A linear replacement (arXiv 2505.02819).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearMap {
    /// The layer whose down projection it is merged into.
    pub layer: usize,
    /// The ridge penalty, chosen by held-out error.
    pub penalty: f64,
    /// The squared error of what the MLP and the block add together, in shares of its square length, on texts that the map was
    /// not fitted to.
    #[serde(deserialize_with = "null::number")]
    pub error: f64,
    /// The same without a map.
    #[serde(deserialize_with = "null::number")]
    pub error_without: f64,
}

/// The recommendation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Index of the candidate; none if nothing is recommended.
    pub index: Option<usize>,
    /// Why, in a sentence.
    pub reason: String,
}

/// A model that was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exported {
    /// `hf` or `gguf`.
    pub format: String,
    /// What opens as a model, relative to the results folder.
    pub path: String,
    /// The layers that it lacks, as half-open ranges. A later run of the same job may recommend others.
    pub removed: Vec<[usize; 2]>,
    /// The linear map in their place, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<LinearMap>,
    /// The model that it was made of: a path, or a name of the hub.
    pub source: String,
    /// SHA-256 of its files of weights.
    pub sha256: Vec<String>,
    /// Bytes of its weights.
    pub bytes: u64,
    /// Tokens on which it was loaded again and its logits compared with those of the run in memory.
    pub verified_tokens: usize,
    /// The largest difference of a logit; 0 if all are equal bit for bit.
    #[serde(deserialize_with = "null::number")]
    pub largest_difference: f64,
}

/// Time and memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PruneResources {
    /// By stage, as in [`Pruning::cost`].
    #[serde(default)]
    pub stages: BTreeMap<String, Resources>,
    /// Tokens of the prefill that was timed.
    #[serde(default)]
    pub prefill_tokens: usize,
    /// Seconds of the prefill with that many units removed: through all layers, without the head.
    #[serde(default)]
    pub prefill_seconds: BTreeMap<usize, f64>,
}

/// A line of `samples.jsonl` of a pruning: what later runs need not do again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PruneLine {
    /// Scores of units on the calibration texts.
    Scores {
        /// The scores.
        scores: UnitScores,
        /// The work they took.
        work: Work,
    },
    /// A finished search.
    Search(SearchStep),
    /// A held-out text.
    Text {
        /// Its id.
        id: String,
        /// Tokens whose prediction is scored.
        tokens: u64,
        /// Each variant on it.
        variants: Vec<VariantScore>,
        /// The work.
        work: Work,
    },
    /// A multiple-choice question.
    Question {
        /// Its id.
        id: String,
        /// The right choice.
        label: usize,
        /// The log-likelihoods of the choices by each variant.
        variants: Vec<VariantChoices>,
        /// The work.
        work: Work,
    },
}

/// A variant of the model on a text, sums over its tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VariantScore {
    /// The variant: layers as in `3,7..9`, empty for the whole model, `+linear` at the end with a replacement.
    pub variant: String,
    /// Negative log-likelihood.
    #[serde(deserialize_with = "null::number")]
    pub nll: f64,
    /// `KL(full || pruned)`.
    #[serde(deserialize_with = "null::number")]
    pub kl: f64,
    /// Tokens at which both predict the same.
    pub agreements: u64,
}

/// A variant of the model on a question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VariantChoices {
    /// The variant, as in [`VariantScore`].
    pub variant: String,
    /// The summed log-likelihood of each choice.
    #[serde(deserialize_with = "null::numbers")]
    pub log_likelihoods: Vec<f64>,
}

impl Pruning {
    /// Reads `prune.json`.
    ///
    /// # Errors
    /// When the file cannot be read, was written by a later version, or contradicts itself.
    pub fn read(path: &Path) -> Result<Self> {
        let pruning: Self = version::read(path, PRUNE_SCHEMA_VERSION)?;
        pruning.check()?;
        Ok(pruning)
    }

    /// Checks that layers and indices exist.
    fn check(&self) -> Result<()> {
        let wrong = |field: &str, problem: &str| {
            Err(Error::Inconsistent { file: PRUNE, field: field.to_owned(), problem: problem.to_owned() })
        };
        if self.model.layers > LAYERS {
            return wrong("model.layers", "is more than any model has");
        }
        let removals = self.candidates.iter().map(|c| &c.removed);
        let others = self.searches.iter().map(|s| &s.removed).chain(self.export.iter().map(|e| &e.removed));
        for removed in removals.chain(others) {
            let ascending = removed.windows(2).all(|pair| pair[0][1] < pair[1][0]);
            let exist = removed.iter().all(|[start, end]| start < end && *end <= self.model.layers);
            if removed.is_empty() || !ascending || !exist {
                return wrong("removed", "is not an ascending list of ranges of the model's layers");
            }
        }
        match self.choice.index {
            Some(index) if index >= self.candidates.len() => wrong("choice.index", "names no candidate"),
            _ => Ok(()),
        }
    }
}
