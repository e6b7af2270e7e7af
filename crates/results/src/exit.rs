//! The types of `exit.json`: what a model saves when tokens leave it early.

use crate::folder::EXIT;
use crate::{Error, Estimated, ModelInfo, Resources, Result, TextSet, Work, null, version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The newest version of `exit.json` that this crate reads and the one it writes.
pub const EXIT_SCHEMA_VERSION: u32 = 1;

/// How a level predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitHead {
    /// The final norm and the unembedding on the stream as it is.
    Lens,
    /// The same after an affine map to the last level (arXiv 2303.09435).
    Linear,
}

impl ExitHead {
    /// All heads.
    pub const ALL: [Self; 2] = [Self::Lens, Self::Linear];

    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lens => "lens",
            Self::Linear => "linear",
        }
    }
}

/// How sure a prediction is of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// The largest probability.
    Prob,
    /// The largest minus the second largest probability (arXiv 2207.07061).
    Margin,
    /// The negative entropy, in nats.
    Entropy,
}

impl Confidence {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Prob, Self::Margin, Self::Entropy];

    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prob => "prob",
            Self::Margin => "margin",
            Self::Entropy => "entropy",
        }
    }

    /// What is compared with a threshold, in words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Prob => "largest probability",
            Self::Margin => "margin between the two largest probabilities",
            Self::Entropy => "negative entropy",
        }
    }
}

/// Everything in `exit.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exiting {
    /// The version of the format, [`EXIT_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The model.
    pub model: ModelInfo,
    /// The texts that maps were fitted to and the rule was chosen on.
    pub fit: TextSet,
    /// The texts that thresholds were calibrated on.
    pub calibration: TextSet,
    /// The texts that everything was measured on.
    pub heldout: TextSet,
    /// The largest share of tokens of a text whose prediction may change, on average.
    pub epsilon: f64,
    /// The probability with which a calibrated threshold may fail to keep that.
    pub delta: f64,
    /// The loss of the whole model on the held-out texts, in nats per token.
    pub full_nll: Estimated,
    /// What layers and heads cost.
    pub costs: ExitCosts,
    /// Every head at every level from 0 to L - 1, on the held-out texts.
    pub levels: Vec<ExitLevel>,
    /// Every head, confidence and set of levels at `epsilon`.
    pub rules: Vec<ExitRule>,
    /// For each of some values of epsilon the rule that was chosen on the fitting texts; none where no threshold keeps it.
    pub by_epsilon: Vec<EpsilonRule>,
    /// The first layers and a head as the draft model of the whole.
    pub speculation: Vec<Speculation>,
    /// The recommendation.
    pub choice: ExitChoice,
    /// Where the tokens of a held-out text leave the model by the chosen rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<ExitExample>,
    /// Counted work: `fit`, `measure`.
    pub cost: BTreeMap<String, Work>,
    /// Time and memory by stage: what differs between two runs of the same job.
    pub resources: BTreeMap<String, Resources>,
}

/// Multiply-adds of a token, averaged over the held-out texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExitCosts {
    /// Each layer with its attention, `[L]`.
    pub layers: Vec<f64>,
    /// The projections to keys and values of each layer, `[L]`: what a token that left early still costs there, because
    /// later tokens may read them (state copying, arXiv 2207.07061).
    pub key_values: Vec<f64>,
    /// The unembedding.
    pub head: f64,
    /// An affine map.
    pub map: f64,
}

impl ExitCosts {
    /// The whole model.
    pub fn full(&self) -> f64 {
        self.layers.iter().sum::<f64>() + self.head
    }

    /// Looking at a level with a head.
    pub fn look(&self, head: ExitHead) -> f64 {
        match head {
            ExitHead::Lens => self.head,
            ExitHead::Linear => self.head + self.map,
        }
    }
}

/// A head at a level, means over held-out tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitLevel {
    /// Layers that were run.
    pub level: usize,
    /// How it predicts.
    pub head: ExitHead,
    /// The share of tokens whose most likely continuation is that of the whole model.
    #[serde(deserialize_with = "null::number")]
    pub agreement: f64,
    /// The loss, in nats per token.
    #[serde(deserialize_with = "null::number")]
    pub nll: f64,
    /// The mean of `sum over tokens v of min(p_level(v), p(v))`: the share of sampled tokens that speculative decoding
    /// accepts (arXiv 2211.17192).
    #[serde(deserialize_with = "null::number")]
    pub acceptance: f64,
    /// The ridge penalty of the map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub penalty: Option<f64>,
    /// The squared error of the map in shares of the square length of the last level, on texts it was not fitted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map_error: Option<f64>,
}

/// Leaving at the first of some levels whose confidence reaches a threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitRule {
    /// How levels predict.
    pub head: ExitHead,
    /// What is compared with the threshold.
    pub confidence: Confidence,
    /// The levels at which tokens may leave, ascending.
    pub levels: Vec<usize>,
    /// The share of tokens that may change.
    pub epsilon: f64,
    /// The probability of failing to keep that.
    pub delta: f64,
    /// The lowest threshold that was certified; none if none was.
    pub threshold: Option<f64>,
    /// The measurements at that threshold.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<ExitMeasured>,
}

/// A rule at its threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitMeasured {
    /// The p-value of "the risk is above epsilon" at the threshold (Hoeffding and Bentkus, arXiv 2110.01052).
    pub p_value: f64,
    /// The mean share of changed tokens of a calibration text.
    pub risk_calibration: f64,
    /// The same on held-out texts.
    pub risk_heldout: Estimated,
    /// The mean level at which tokens leave, L for those that do not.
    pub mean_level: f64,
    /// The share of tokens that leave at each level, `[L + 1]`, the last those that do not.
    pub shares: Vec<f64>,
    /// The loss, in nats per token.
    #[serde(deserialize_with = "null::number")]
    pub nll: f64,
    /// The share of multiply-adds saved, heads, maps and state copying counted; negative where they cost more.
    pub net_saving: Estimated,
}

/// The chosen rule for a value of epsilon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpsilonRule {
    /// The share of tokens that may change.
    pub epsilon: f64,
    /// The rule.
    pub rule: Option<ExitRule>,
}

/// The first layers of a model and a head as its draft.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speculation {
    /// Layers of the draft.
    pub level: usize,
    /// Its head.
    pub head: ExitHead,
    /// The multiply-adds of a drafted token in shares of one of the whole model.
    pub cost_ratio: f64,
    /// The acceptance rate of sampling, on the held-out texts.
    #[serde(deserialize_with = "null::number")]
    pub alpha: f64,
    /// Tokens that are drafted at a time: the best for sampling, on the fitting and calibration texts.
    pub draft: usize,
    /// The expected speed-up of sampling, by `(1 - alpha^(k + 1)) / ((1 - alpha) (k c + 1))`.
    pub speedup: Estimated,
    /// The best number of tokens for greedy decoding.
    pub greedy_draft: usize,
    /// The speed-up of greedy decoding, from runs of agreeing tokens.
    pub greedy_speedup: Estimated,
    /// The share of positions from which exactly n tokens in a row agree; the last entry is for that many or more.
    pub runs: Vec<f64>,
}

/// The recommendation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitChoice {
    /// Index of the rule that was chosen on the fitting texts; none if none was certified.
    pub rule: Option<usize>,
    /// Index of the best draft.
    pub speculation: Option<usize>,
    /// Whether leaving early saves multiply-adds on the held-out texts, interval included.
    pub pays: bool,
    /// Why, in words.
    pub reason: String,
}

/// A text whose tokens leave the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitExample {
    /// The id of the text.
    pub id: String,
    /// Its tokens, as texts.
    pub pieces: Vec<String>,
    /// The level at which each leaves; L for those that do not.
    pub levels: Vec<usize>,
    /// Whether its prediction stays.
    pub agrees: Vec<bool>,
    /// The confidence at each level, `[L][tokens]`.
    #[serde(deserialize_with = "null::matrix")]
    pub confidence: Vec<Vec<f64>>,
}

impl ExitExample {
    /// Keeps the first tokens.
    pub fn truncate(&mut self, tokens: usize) {
        self.pieces.truncate(tokens);
        self.levels.truncate(tokens);
        self.agrees.truncate(tokens);
        self.confidence.iter_mut().for_each(|row| row.truncate(tokens));
    }
}

/// A line of `samples.jsonl` of early exits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ExitLine {
    /// The maps of the linear heads.
    Maps {
        /// One a level; none where no map could be fitted.
        maps: Vec<Option<ExitMap>>,
        /// The work of fitting them.
        work: Work,
    },
    /// A text.
    Text(ExitSample),
}

/// A fitted map of a linear head.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitMap {
    /// The ridge penalty.
    pub penalty: f64,
    /// As [`ExitLevel::map_error`].
    #[serde(deserialize_with = "null::number")]
    pub error: f64,
}

/// The heads on the tokens of a text that have a follower. Numbers have four digits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExitSample {
    /// The id of the text.
    pub id: String,
    /// The loss of the whole model, `[tokens]`.
    #[serde(deserialize_with = "null::numbers")]
    pub nll: Vec<f64>,
    /// The heads.
    pub heads: BTreeMap<ExitHead, HeadValues>,
    /// The work.
    pub work: Work,
}

/// A head on a text; matrices are `[levels][tokens]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeadValues {
    /// The largest probability.
    #[serde(deserialize_with = "null::matrix")]
    pub prob: Vec<Vec<f64>>,
    /// The largest minus the second largest probability.
    #[serde(deserialize_with = "null::matrix")]
    pub margin: Vec<Vec<f64>>,
    /// The entropy, in nats.
    #[serde(deserialize_with = "null::matrix")]
    pub entropy: Vec<Vec<f64>>,
    /// `1` where the most likely token is that of the whole model, `0` elsewhere: a string a level.
    pub agrees: Vec<String>,
    /// The loss, in nats.
    #[serde(deserialize_with = "null::matrix")]
    pub nll: Vec<Vec<f64>>,
    /// `sum over tokens v of min(p_level(v), p(v))`.
    #[serde(deserialize_with = "null::matrix")]
    pub acceptance: Vec<Vec<f64>>,
}

impl ExitSample {
    /// Whether every head has values for `levels` levels and `tokens` tokens.
    pub fn fits(&self, levels: usize, tokens: usize) -> bool {
        let of_head = |h: &HeadValues| {
            let matrices = [&h.prob, &h.margin, &h.entropy, &h.nll, &h.acceptance];
            matrices.iter().all(|m| m.len() == levels && m.iter().all(|row| row.len() == tokens))
                && h.agrees.len() == levels
                && h.agrees.iter().all(|row| row.len() == tokens)
        };
        self.nll.len() == tokens && self.heads.values().all(of_head)
    }
}

impl Exiting {
    /// Reads `exit.json`.
    ///
    /// # Errors
    /// When the file cannot be read, was written by a later version, or contradicts itself.
    pub fn read(path: &Path) -> Result<Self> {
        let exiting: Self = version::read(path, EXIT_SCHEMA_VERSION)?;
        exiting.check()?;
        Ok(exiting)
    }

    /// The rule that was chosen.
    pub fn chosen(&self) -> Option<&ExitRule> {
        self.rules.get(self.choice.rule?)
    }

    /// Checks that levels and indices exist.
    fn check(&self) -> Result<()> {
        let wrong = |field: &str, problem: &str| {
            Err(Error::Inconsistent { file: EXIT, field: field.to_owned(), problem: problem.to_owned() })
        };
        let depth = self.model.layers;
        if depth > crate::prune::LAYERS {
            return wrong("model.layers", "is more than any model has");
        }
        let rules = || self.rules.iter().chain(self.by_epsilon.iter().filter_map(|e| e.rule.as_ref()));
        let levels = self.levels.iter().map(|l| l.level).chain(self.speculation.iter().map(|s| s.level));
        if levels.chain(rules().flat_map(|rule| rule.levels.iter().copied())).any(|level| level >= depth) {
            return wrong("levels", "names a level that the model does not have");
        }
        if rules().filter_map(|rule| rule.measured.as_ref()).any(|m| m.shares.len() != depth + 1) {
            return wrong("shares", "does not have an entry for each level");
        }
        if let Some(example) = &self.example {
            let tokens = example.pieces.len();
            let rows = example.confidence.iter().all(|row| row.len() == tokens);
            if example.levels.len() != tokens || example.agrees.len() != tokens || !rows {
                return wrong("example", "does not have an entry for each token");
            }
        }
        let is_missing = |index: Option<usize>, count: usize| index.is_some_and(|index| index >= count);
        match (
            is_missing(self.choice.rule, self.rules.len()),
            is_missing(self.choice.speculation, self.speculation.len()),
        ) {
            (false, false) => Ok(()),
            _ => wrong("choice", "names no rule or draft"),
        }
    }
}
