//! What is trained, on what and how: a recipe, as TOML.

use crate::settings;
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A training run of a small decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recipe {
    /// The name of the run.
    pub name: String,
    /// The seed of initial weights, order of texts and dropout.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Texts and tokens.
    pub data: Data,
    /// The decoder.
    pub model: Model,
    /// The steps.
    pub training: Training,
}

/// Texts and tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Data {
    /// A prompt set, a file of texts, or a folder of such files.
    pub texts: String,
    /// The share of the texts that is held out, chosen by a hash of the text.
    pub validation: f64,
    /// The number of training tokens that may be seen; the rest of the budget repeats them. All of them if absent.
    pub unique: Option<usize>,
    /// The size of the vocabulary: 257 is bytes and the token between texts; more is byte-pair encoding, trained on the training
    /// texts.
    pub vocabulary: usize,
}

impl Default for Data {
    fn default() -> Self {
        Self { texts: "prose".to_owned(), validation: 0.1, unique: None, vocabulary: Self::BYTES }
    }
}

impl Data {
    /// Every byte, and the token between texts.
    pub const BYTES: usize = 257;
}

/// A decoder as Llama's: RMSNorm, rotary embeddings, SwiGLU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Model {
    /// The width of the residual stream.
    pub width: usize,
    /// The number of layers.
    pub layers: usize,
    /// The number of attention heads.
    pub heads: usize,
    /// The inner width of the MLP; 8/3 of the width, rounded up to a multiple of 8, if absent.
    pub inner: Option<usize>,
    /// The longest text, in tokens.
    pub context: usize,
    /// Whether the head shares the embedding's weights.
    #[serde(default = "yes")]
    pub tied: bool,
    /// Whether all layers share one set of weights.
    #[serde(default)]
    pub shared_layers: bool,
    /// Makes every MLP a mixture of that many experts, each of the inner width, as in Mixtral (arXiv 2401.04088).
    pub experts: Option<usize>,
    /// How many experts a token takes; 2 if absent.
    pub experts_per_token: Option<usize>,
    /// The weight of the loss that spreads tokens over experts (Switch, arXiv 2101.03961); 0.01 if absent.
    pub balance: Option<f64>,
}

impl Model {
    /// The inner width of the MLP.
    pub fn inner(&self) -> usize {
        self.inner.unwrap_or_else(|| self.width.saturating_mul(8).div_ceil(3).saturating_add(7) / 8 * 8)
    }

    /// The weight of the loss that spreads tokens over experts, unless the recipe has another.
    pub(crate) const BALANCE: f64 = 0.01;

    /// The number of experts and how many a token takes, of a mixture.
    pub fn mixture(&self) -> Option<(usize, usize)> {
        self.experts.map(|experts| (experts, self.experts_per_token.unwrap_or(2)))
    }

    fn check_experts(&self) -> Result<()> {
        let Some((experts, taken)) = self.mixture() else {
            let given = [
                ("experts-per-token", self.experts_per_token.is_some()),
                ("balance", self.balance.is_some()),
            ];
            if let Some((key, _)) = given.iter().find(|(_, given)| *given) {
                bail!("model.{key} is given without model.experts");
            }
            return Ok(());
        };
        if experts == 0 || taken == 0 || taken > experts {
            bail!(
                "model.experts is {experts} and model.experts-per-token {taken}; a token takes 1 to all of them"
            );
        }
        if let Some(balance) = self.balance.filter(|balance| !(balance.is_finite() && *balance >= 0.0)) {
            bail!("model.balance is {balance}; give 0 or a positive number");
        }
        Ok(())
    }
}

/// The steps: AdamW with warm-up and cosine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Training {
    /// The budget: tokens that are trained on, repeated ones counted again.
    pub tokens: usize,
    /// Sequences of a step.
    pub batch: usize,
    /// The largest learning rate.
    #[serde(default = "default_rate")]
    pub learning_rate: f64,
    /// The share of the steps over which it rises.
    #[serde(default = "default_warmup")]
    pub warmup: f64,
    /// Where it ends, as a share of the largest.
    #[serde(default = "default_warmup")]
    pub last_rate: f64,
    /// Weight decay, of matrices only.
    #[serde(default = "default_decay")]
    pub weight_decay: f64,
    /// The largest norm of the gradient of all weights together.
    #[serde(default = "default_clip")]
    pub clip: f64,
    /// The share of activations that are dropped: after the embedding, in attention, and of what each sublayer adds.
    #[serde(default)]
    pub dropout: f64,
    /// The epoch from which on they are, counted from 0.
    #[serde(default)]
    pub dropout_from: usize,
    /// The step from which on they are, counted from 0.
    #[serde(default)]
    pub dropout_from_step: usize,
    /// Label smoothing.
    #[serde(default)]
    pub label_smoothing: f64,
    /// How many times the held-out loss is measured.
    #[serde(default = "default_evaluations")]
    pub evaluations: usize,
    /// How many checkpoints are kept, evenly spaced, the last at the end.
    #[serde(default = "one")]
    pub checkpoints: usize,
}

impl Training {
    /// A budget and a batch, and for all else the values that a recipe without them has.
    pub(crate) fn of(tokens: usize, batch: usize) -> Self {
        Self {
            tokens,
            batch,
            learning_rate: default_rate(),
            warmup: default_warmup(),
            last_rate: default_warmup(),
            weight_decay: default_decay(),
            clip: default_clip(),
            dropout: 0.0,
            dropout_from: 0,
            dropout_from_step: 0,
            label_smoothing: 0.0,
            evaluations: default_evaluations(),
            checkpoints: one(),
        }
    }
}

fn default_seed() -> u64 {
    1
}
fn yes() -> bool {
    true
}
fn one() -> usize {
    1
}
fn default_rate() -> f64 {
    1e-3
}
fn default_warmup() -> f64 {
    0.05
}
fn default_decay() -> f64 {
    0.1
}
fn default_clip() -> f64 {
    1.0
}
fn default_evaluations() -> usize {
    20
}

impl Recipe {
    /// The largest size that is taken for meant.
    const MOST: usize = 1 << 16;

    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// When the file cannot be read; every key that is not understood, all at once; a value that makes no sense, by its key.
    pub fn read(path: &Path) -> Result<Self> {
        settings::read(path, Self::check)
    }

    /// The share of activations that is dropped in a step of an epoch, both counted from 0.
    pub fn dropout(&self, step: usize, epoch: usize) -> f64 {
        let begun = epoch >= self.training.dropout_from && step >= self.training.dropout_from_step;
        if begun { self.training.dropout } else { 0.0 }
    }

    /// The number of steps that the budget allows.
    pub fn steps(&self) -> usize {
        self.training.tokens / (self.training.batch * self.model.context)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let Self { data, model, training, .. } = self;
        let positive = [
            ("model.width", model.width),
            ("model.layers", model.layers),
            ("model.heads", model.heads),
            ("model.context", model.context),
            ("training.batch", training.batch),
            ("training.evaluations", training.evaluations),
            ("training.checkpoints", training.checkpoints),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            bail!("{key} is 0; give at least 1");
        }
        let limits = [
            ("model.width", model.width),
            ("model.layers", model.layers),
            ("model.inner", model.inner()),
            ("model.context", model.context),
            ("model.experts", model.experts.unwrap_or(1)),
            ("training.batch", training.batch),
        ];
        if let Some((key, value)) = limits.iter().find(|(_, value)| *value > Self::MOST) {
            bail!("{key} is {value}; give at most {}", Self::MOST);
        }
        if model.width % (2 * model.heads) != 0 {
            bail!(
                "model.width ({}) is not a multiple of twice model.heads ({}): rotary embeddings turn pairs of a head",
                model.width,
                model.heads
            );
        }
        model.check_experts()?;
        if data.vocabulary < Data::BYTES {
            bail!(
                "data.vocabulary is {}; give at least {}, all bytes and the token between texts",
                data.vocabulary,
                Data::BYTES
            );
        }
        let shares = [
            ("data.validation", data.validation),
            ("training.warmup", training.warmup),
            ("training.last-rate", training.last_rate),
            ("training.dropout", training.dropout),
            ("training.label-smoothing", training.label_smoothing),
        ];
        if let Some((key, value)) = shares.iter().find(|(_, value)| !(0.0..1.0).contains(value)) {
            bail!("{key} is {value}; give a share from 0 to below 1");
        }
        if data.validation == 0.0 {
            bail!("data.validation is 0; without held-out texts nothing says what was learned");
        }
        let numbers = [
            ("training.learning-rate", training.learning_rate),
            ("training.clip", training.clip),
            ("training.weight-decay", training.weight_decay + f64::MIN_POSITIVE),
        ];
        if let Some((key, _)) = numbers.iter().find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
            bail!("{key} must be a positive number");
        }
        if self.steps() == 0 {
            bail!(
                "training.tokens ({}) is less than a step: training.batch ({}) sequences of model.context ({}) tokens",
                training.tokens,
                training.batch,
                model.context
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = 'a'\n[data]\n[model]\nwidth = 32\nlayers = 2\nheads = 2\ncontext = 16\n[training]\ntokens = 640\nbatch = 4\n";

    fn parsed(text: &str) -> Result<Recipe> {
        let recipe: Recipe = settings::parse(text)?;
        recipe.check()?;
        Ok(recipe)
    }

    #[test]
    fn what_is_left_out_has_defaults() {
        let recipe = parsed(SMALL).unwrap();
        assert_eq!((recipe.steps(), recipe.model.inner(), recipe.seed), (10, 88, 1));
        assert_eq!((recipe.data.texts.as_str(), recipe.data.vocabulary), ("prose", 257));
    }

    #[test]
    fn dropout_begins_with_an_epoch_or_a_step() {
        let shares = |keys: &str| {
            let recipe = parsed(&SMALL.replace("batch = 4", &format!("batch = 4\n{keys}"))).unwrap();
            [(0, 0), (4, 1), (5, 1), (9, 2)].map(|(step, epoch)| recipe.dropout(step, epoch))
        };
        assert_eq!(shares("dropout = 0.1"), [0.1; 4]);
        assert_eq!(shares("dropout = 0.1\ndropout-from = 2"), [0.0, 0.0, 0.0, 0.1]);
        assert_eq!(shares("dropout = 0.1\ndropout-from-step = 5"), [0.0, 0.0, 0.1, 0.1]);
        assert_eq!(shares("dropout-from = 1"), [0.0; 4]);
    }

    #[test]
    fn all_unknown_keys_are_named_at_once() {
        let text =
            SMALL.replace("layers = 2", "layers = 2\nlayer = 3").replace("batch = 4", "batch = 4\nlr = 1");
        let message = format!("{:#}", parsed(&text).unwrap_err());
        assert!(message.contains("model.layer, training.lr"), "{message}");
    }

    #[test]
    fn values_that_make_no_sense_are_named() {
        let refuse = |from: &str, to: &str, part: &str| {
            let message = format!("{:#}", parsed(&SMALL.replace(from, to)).unwrap_err());
            assert!(message.contains(part), "{message}");
        };
        refuse("heads = 2", "heads = 3", "model.width (32)");
        refuse("tokens = 640", "tokens = 63", "less than a step");
        refuse("batch = 4", "batch = 0", "training.batch is 0");
        refuse("[data]", "[data]\nvocabulary = 256", "data.vocabulary is 256");
        refuse("batch = 4", "batch = 4\ndropout = 1.0", "training.dropout is 1");
        refuse("batch = 4", "batch = 4\nlearning-rate = nan", "training.learning-rate");
        refuse("width = 32", "width = 'wide'", "width");
        refuse(
            "width = 32",
            "width = 4611686018427387904",
            "model.width is 4611686018427387904; give at most 65536",
        );
        refuse("layers = 2", "layers = 2\ninner = 9223372036854775807", "model.inner is");
        refuse("layers = 2", "layers = 2\nexperts = 2\nexperts-per-token = 3", "model.experts is 2");
        refuse("layers = 2", "layers = 2\nbalance = 0.1", "model.balance is given without model.experts");
        refuse("layers = 2", "layers = 2\nexperts = 2\nbalance = -1.0", "model.balance is -1");
    }
}
