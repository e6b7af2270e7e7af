//! The types of `results.json`, schema version 1, and its reader.
//!
//! Every array is indexed by layer: length L for what a layer does, L + 1 for what can be read before
//! each layer and after the last. A number that could not be measured (NaN or infinite) is written as
//! `null` and read back as NaN, because JSON has no such numbers.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The newest version of `results.json` this crate reads and the one it writes.
pub const SCHEMA_VERSION: u32 = 1;

/// More layers than any model has; a larger number in a file is damage, and would only exhaust memory.
const MAX_LAYERS: usize = 10_000;

/// Everything in `results.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The version of the format, [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The model that was measured.
    pub model: Model,
    /// The prompts it was measured on.
    pub data: Data,
    /// The curves, one entry per probe that ran.
    #[serde(default)]
    pub probes: Probes,
    /// The effective depth by every rule.
    #[serde(default)]
    pub depth: Vec<DepthRow>,
    /// How sure the depth is: other thresholds, fewer prompts, resamples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncertainty: Option<Uncertainty>,
    /// What was done for each probe, by the probe's name: a function of the samples.
    #[serde(default)]
    pub cost: BTreeMap<String, Cost>,
    /// Time and memory of each probe, by the probe's name: all that differs between two runs of the same
    /// measurement.
    #[serde(default)]
    pub resources: BTreeMap<String, Resources>,
}

/// The model that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// The identifier or path the user gave.
    pub id: String,
    /// The commit of the weights, where known.
    #[serde(default)]
    pub revision: Option<String>,
    /// The architecture's name.
    pub architecture: String,
    /// The number of layers L.
    pub layers: usize,
    /// The width of the residual stream.
    pub hidden: usize,
    /// The size of the vocabulary.
    pub vocab: usize,
    /// The number of parameters.
    pub parameters: u64,
    /// The number type of weights and products.
    pub dtype: String,
}

/// The prompts a model was measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// The data set's identifier or file.
    pub id: String,
    /// The number of prompts.
    pub prompts: usize,
    /// The number of question-answer pairs.
    #[serde(default)]
    pub pairs: usize,
    /// The number of tokens in all prompts.
    pub tokens: u64,
    /// Prompts and pairs that could not be measured, and are in no statistic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<Failed>,
}

/// A prompt or pair that could not be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    /// Its id.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// The curves, one entry per probe; a probe that did not run is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Probes {
    /// What each layer adds to the residual stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contributions: Option<Contributions>,
    /// The output distribution read off after each layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lens: Option<Lens>,
    /// How far the residual stream turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity: Option<Similarity>,
    /// The layer at which each token's prediction settles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settling: Option<Settling>,
    /// What later layers and the output lose when a layer is bypassed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<Skip>,
    /// What the answer loses when a token's stream is erased before a layer, one entry a pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erasure: Option<Vec<Erasure>>,
    /// What the answer owes to each token at each layer, one entry a pair and site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradients: Option<Vec<Gradients>>,
    /// Probes without a type here, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What attention, MLP and the whole layer add to the residual stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contributions {
    /// The length of what is added over the length of the stream it is added to.
    pub relative_norm: Parts<Summary>,
    /// The cosine between what is added and the stream it is added to.
    pub cosine: Parts<Summary>,
    /// Tokens left out of both at each layer, because the stream has no length there; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<Parts<Vec<u64>>>,
}

impl Parts<Vec<u64>> {
    /// Says how many tokens are left out, and where.
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

/// One value for each part of a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parts<T> {
    /// The attention sublayer.
    pub attn: T,
    /// The MLP sublayer.
    pub mlp: T,
    /// Both together.
    pub layer: T,
}

/// A curve over layers, summarised over tokens in two ways. Both have length L.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The mean over tokens.
    #[serde(deserialize_with = "numbers")]
    pub mean: Vec<f64>,
    /// The median over tokens, which a few huge tokens cannot pull.
    #[serde(deserialize_with = "numbers")]
    pub median: Vec<f64>,
}

/// The output distribution read off the stream entering layer l, against the model's output. All have
/// length L + 1; the last entry compares the output with itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lens {
    /// KL(p_l || p) in nats.
    #[serde(deserialize_with = "numbers")]
    pub kl_lens_final: Vec<f64>,
    /// KL(p || p_l) in nats.
    #[serde(deserialize_with = "numbers")]
    pub kl_final_lens: Vec<f64>,
    /// Jensen-Shannon divergence in bits.
    #[serde(deserialize_with = "numbers")]
    pub jsd_bits: Vec<f64>,
    /// The share of the five likeliest tokens in common.
    #[serde(deserialize_with = "numbers")]
    pub overlap: Vec<f64>,
    /// The share of positions with the same likeliest token.
    #[serde(deserialize_with = "numbers")]
    pub top1_agreement: Vec<f64>,
    /// The entropy of p_l in nats.
    #[serde(deserialize_with = "numbers")]
    pub entropy: Vec<f64>,
}

/// How far the residual stream turns within a layer and over blocks of layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Similarity {
    /// Tokens left out of the means, `[n - 1][l]`, because a stream is zero; empty where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<Vec<u64>>,
    /// One minus the mean cosine between the streams entering and leaving a layer, length L.
    #[serde(deserialize_with = "numbers")]
    pub block_influence: Vec<f64>,
    /// Angle over pi between the streams n layers apart at the last token, `[n - 1][l]`; row n has L + 1 - n
    /// entries, or more when padded.
    #[serde(deserialize_with = "matrix")]
    pub angular_last: Vec<Vec<f64>>,
    /// The same over all tokens.
    #[serde(deserialize_with = "matrix")]
    pub angular_mean: Vec<Vec<f64>>,
}

/// The level at which each token's prediction first comes close to the output: the first at which the
/// running minimum of the divergence is at or below the threshold. A later rise does not unsettle it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settling {
    /// The mean over tokens.
    #[serde(deserialize_with = "number")]
    pub mean_settle_layer: f64,
    /// The share of tokens that settle at `deep_layer` or later.
    #[serde(deserialize_with = "number")]
    pub deep_thinking_ratio: f64,
    /// The divergence at or below which a prediction counts as settled, in bits.
    #[serde(deserialize_with = "number")]
    pub threshold_bits: f64,
    /// The first layer that counts as deep.
    pub deep_layer: usize,
    /// The number of tokens that settle at level 0..=L, length L + 1: before the first layer, ..., after
    /// the last.
    pub histogram: Vec<u64>,
}

/// What later layers and the output lose when a layer is bypassed, by where the bypass holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Skip {
    /// Bypassed at the positions before one, read from there on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub future: Option<Skipped>,
    /// Bypassed and read at all positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Skipped>,
    /// As `future`, but each later layer misses only what the layer added and nothing propagates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<Skipped>,
}

/// The effects of a bypass by what is bypassed; a part that was not measured is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    /// The whole layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<Effects>,
    /// Its attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attn: Option<Effects>,
    /// Its MLP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp: Option<Effects>,
}

/// The effects of bypassing each layer, over prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Effects {
    /// How much what a later layer adds changes, relative to its length.
    pub layer_effect: LayerEffect,
    /// How far the output distribution moves; absent where the output is not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_effect: Option<OutputEffect>,
}

/// The effect on later layers, L x L, the bypassed layer first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerEffect {
    /// The largest of any prompt.
    #[serde(deserialize_with = "matrix")]
    pub max: Vec<Vec<f64>>,
    /// The mean over prompts.
    #[serde(deserialize_with = "matrix")]
    pub mean: Vec<Vec<f64>>,
}

/// The effect on the output, length L.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputEffect {
    /// The largest of any prompt.
    #[serde(deserialize_with = "numbers")]
    pub max: Vec<f64>,
    /// The mean over prompts.
    #[serde(deserialize_with = "numbers")]
    pub mean: Vec<f64>,
}

/// What the answer of one pair loses when a token's stream is erased before a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Erasure {
    /// The question.
    pub question: String,
    /// The answer whose probability is read.
    pub answer: String,
    /// The texts of the T tokens.
    pub tokens: Vec<String>,
    /// The effect of erasing each token before each layer and after the last, (L + 1) x T.
    #[serde(deserialize_with = "matrix")]
    pub effect: Vec<Vec<f64>>,
}

/// What the answer of one pair owes to each token at each layer, by integrated gradients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gradients {
    /// The question.
    pub question: String,
    /// The answer whose probability is read.
    pub answer: String,
    /// The texts of the T tokens.
    pub tokens: Vec<String>,
    /// Where in a layer the gradient is taken.
    pub site: String,
    /// Where the path of integration begins.
    pub baseline: String,
    /// The rule of integration.
    pub quadrature: String,
    /// The attribution, L x T.
    #[serde(deserialize_with = "matrix")]
    pub attribution: Vec<Vec<f64>>,
    /// By how much the attributions of a layer miss the change they should add up to, length L.
    #[serde(deserialize_with = "numbers")]
    pub completeness_error: Vec<f64>,
    /// The same with the errors of the intervals of integration as absolute values, so that none cancel,
    /// length L; absent for rules without intervals and from older files.
    #[serde(default, deserialize_with = "some_numbers", skip_serializing_if = "Option::is_none")]
    pub interval_error: Option<Vec<f64>>,
    /// The nodes that the integration took, length L.
    pub nodes: Vec<u64>,
}

/// How sure the effective depths are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Uncertainty {
    /// The number of prompts.
    pub prompts: usize,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// The seed of the resamples.
    pub seed: u64,
    /// One entry a rule.
    pub rules: Vec<RuleUncertainty>,
}

/// How sure one rule is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleUncertainty {
    /// The rule's name.
    pub rule: String,
    /// The depth at other thresholds; empty for rules without one.
    pub sweep: Vec<SweepPoint>,
    /// The interval against the number of prompts.
    pub by_prompts: Vec<Width>,
    /// The values over the resamples of all prompts.
    #[serde(default)]
    pub histogram: Option<Resamples>,
}

/// The depth at one threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepPoint {
    /// The threshold.
    pub threshold: f64,
    /// The effective depth.
    #[serde(default)]
    pub value: Option<f64>,
    /// The share of the layers that are used.
    #[serde(default)]
    pub ratio: Option<f64>,
    /// The depth on the mean effect over prompts, for rules that read the largest.
    #[serde(default)]
    pub mean: Option<f64>,
    /// The 95 % interval of the mean where there is one, or else of the value.
    #[serde(default, deserialize_with = "interval")]
    pub interval: Option<[f64; 2]>,
}

/// The interval that a number of prompts would give.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Width {
    /// Prompts drawn for each resample.
    pub prompts: usize,
    /// The 95 % interval of what the depth table has an interval of.
    #[serde(default, deserialize_with = "interval")]
    pub interval: Option<[f64; 2]>,
    /// The interval's width in layers.
    #[serde(default)]
    pub width: Option<f64>,
    /// The share of the resamples in which the rule finds nothing.
    #[serde(deserialize_with = "number")]
    pub none_share: f64,
}

/// How often the values of resamples fall where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resamples {
    /// The ends of the bins in ascending order, one more than there are bins.
    pub edges: Vec<f64>,
    /// Values in each bin.
    pub counts: Vec<u64>,
    /// Resamples in which the rule finds nothing.
    pub none: u64,
}

/// The effective depth by one rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DepthRow {
    /// The rule's name.
    pub rule: String,
    /// The rule's threshold, where it has one.
    #[serde(default)]
    pub threshold: Option<f64>,
    /// The effective depth as the rule gives it, or nothing when the rule found none.
    #[serde(default)]
    pub value: Option<f64>,
    /// The number of layers that the value says are used; older files have the ratio alone.
    #[serde(default)]
    pub layers_used: Option<f64>,
    /// The share of the layers that are used, `layers_used / L`.
    #[serde(default)]
    pub ratio: Option<f64>,
    /// What the rule gives on the mean effect over prompts, for rules whose value is read off the largest
    /// effect of any prompt.
    #[serde(default)]
    pub mean: Option<f64>,
    /// The 95 % bootstrap interval of what `interval_of` names; nothing when an end of it is not a number.
    #[serde(default, deserialize_with = "interval")]
    pub interval: Option<[f64; 2]>,
    /// What the interval is of: "value" or "mean"; absent without an interval, and from older files, whose
    /// intervals are of the value.
    #[serde(default)]
    pub interval_of: Option<String>,
    /// Why there is no value, or a remark on it.
    #[serde(default)]
    pub reason: Option<String>,
    /// Why the value should not be taken at its word, where there is a reason.
    #[serde(default)]
    pub caution: Option<String>,
}

/// What was done for one probe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Edited runs that were asked for.
    #[serde(default)]
    pub edits: u64,
    /// Texts or parts of texts that went through layers.
    #[serde(default)]
    pub runs: u64,
    /// Multiply-adds carried out.
    #[serde(rename = "madds")]
    pub macs: u64,
    /// Multiply-adds that one full run per edit would have taken.
    #[serde(rename = "madds_naive")]
    pub macs_naive: u64,
}

/// What one probe took of the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Wall-clock seconds.
    #[serde(default)]
    pub seconds: f64,
    /// The most memory in use, in bytes.
    #[serde(default)]
    pub peak_bytes: u64,
}

impl Results {
    /// Reads and checks a `results.json`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read, [`Error::Json`] for broken JSON or a missing field,
    /// [`Error::NoSchema`] and [`Error::NewerSchema`] for files this crate must not interpret, and
    /// [`Error::Inconsistent`] when an array does not fit the number of layers.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|source| Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Parses and checks the content of a `results.json`; `path` only names it in errors.
    ///
    /// # Errors
    ///
    /// As [`Results::read`].
    pub fn parse(text: &[u8], path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            #[serde(default)]
            schema_version: Value,
        }
        let json = |source| Error::Json { path: path.to_owned(), source };
        // The version is read on its own first: a newer file may lack fields that this version requires.
        let version: Version = serde_json::from_slice(text).map_err(json)?;
        match version.schema_version.as_u64() {
            None | Some(0) => return Err(Error::NoSchema { path: path.to_owned() }),
            Some(found) if found > u64::from(SCHEMA_VERSION) => {
                return Err(Error::NewerSchema { path: path.to_owned(), found, supported: SCHEMA_VERSION });
            }
            Some(_) => {}
        }
        let mut results: Self = serde_json::from_slice(text).map_err(json)?;
        if results.resources.is_empty() {
            /// Files of earlier versions have times and memory beside the counts.
            #[derive(Deserialize)]
            struct Earlier {
                #[serde(default)]
                cost: BTreeMap<String, Resources>,
            }
            results.resources = serde_json::from_slice::<Earlier>(text).map_err(json)?.cost;
        }
        results.validate()?;
        Ok(results)
    }

    /// Checks that every array has the length that the number of layers asks for.
    ///
    /// # Errors
    ///
    /// [`Error::Inconsistent`] naming the first field that does not fit.
    pub fn validate(&self) -> Result<()> {
        let layers = self.model.layers;
        if layers == 0 || layers > MAX_LAYERS {
            return Err(inconsistent("model.layers", format!("is {layers}, not between 1 and {MAX_LAYERS}")));
        }
        for (field, found, expected) in self.lengths() {
            if found != expected {
                let problem = format!("has {found} values where {layers} layers need {expected}");
                return Err(inconsistent(&field, problem));
            }
        }
        if let Some(similarity) = &self.probes.similarity {
            similarity.validate(layers)?;
        }
        for (field, effects) in self.probes.skip.iter().flat_map(Skip::effects) {
            effects.validate(&format!("probes.skip.{field}"), layers)?;
        }
        for (index, pair) in self.probes.erasure.iter().flatten().enumerate() {
            let field = format!("probes.erasure[{index}].effect");
            rectangle(&field, &pair.effect, (layers + 1, "layers"), (pair.tokens.len(), "tokens"))?;
        }
        for (index, pair) in self.probes.gradients.iter().flatten().enumerate() {
            pair.validate(&format!("probes.gradients[{index}]"), layers)?;
        }
        self.uncertainty.as_ref().map_or(Ok(()), Uncertainty::validate)
    }

    /// Every per-layer array as (field, length found, length expected).
    fn lengths(&self) -> Vec<(String, usize, usize)> {
        let layers = self.model.layers;
        let mut all = Vec::new();
        if let Some(contributions) = &self.probes.contributions {
            let quantities =
                [("relative_norm", &contributions.relative_norm), ("cosine", &contributions.cosine)];
            for (quantity, parts) in quantities {
                for (part, summary) in [("attn", &parts.attn), ("mlp", &parts.mlp), ("layer", &parts.layer)] {
                    let field = format!("probes.contributions.{quantity}.{part}");
                    all.push((format!("{field}.mean"), summary.mean.len(), layers));
                    all.push((format!("{field}.median"), summary.median.len(), layers));
                }
            }
        }
        if let Some(lens) = &self.probes.lens {
            all.extend(
                lens.curves().map(|(name, curve)| (format!("probes.lens.{name}"), curve.len(), layers + 1)),
            );
        }
        if let Some(similarity) = &self.probes.similarity {
            let found = similarity.block_influence.len();
            all.push(("probes.similarity.block_influence".to_owned(), found, layers));
        }
        if let Some(settling) = &self.probes.settling {
            all.push(("probes.settling.histogram".to_owned(), settling.histogram.len(), layers + 1));
        }
        all
    }
}

impl DepthRow {
    /// The number of layers of `layers` that the value says are used. Rules differ in how they count, so
    /// it is read and never worked out from the value.
    pub(crate) fn used(&self, layers: usize) -> Option<f64> {
        self.layers_used.or_else(|| Some(self.ratio? * layers as f64))
    }

    /// The number that the interval is of: the mean where there is one, or else the value.
    pub(crate) fn estimate(&self) -> Option<f64> {
        self.mean.or(self.value)
    }

    /// The number of layers of `layers` that a number of the same kind as the value says are used.
    pub(crate) fn used_by(&self, number: f64, layers: usize) -> Option<f64> {
        Some(number + (self.used(layers)? - self.value?))
    }
}

impl Lens {
    /// All curves with the names they have in the file.
    pub fn curves(&self) -> impl Iterator<Item = (&'static str, &[f64])> {
        [
            ("kl_lens_final", self.kl_lens_final.as_slice()),
            ("kl_final_lens", &self.kl_final_lens),
            ("jsd_bits", &self.jsd_bits),
            ("overlap", &self.overlap),
            ("top1_agreement", &self.top1_agreement),
            ("entropy", &self.entropy),
        ]
        .into_iter()
    }
}

impl Similarity {
    /// Blocks of n layers start at layers 0..=L-n, so row n needs L + 1 - n entries; padding is allowed.
    fn validate(&self, layers: usize) -> Result<()> {
        for (name, rows) in [("angular_last", &self.angular_last), ("angular_mean", &self.angular_mean)] {
            let field = format!("probes.similarity.{name}");
            if rows.len() > layers {
                let problem = format!("has {} rows for {layers} layers", rows.len());
                return Err(inconsistent(&field, problem));
            }
            for (index, row) in rows.iter().enumerate() {
                if row.len() < layers - index || row.len() > layers + 1 {
                    let (found, least) = (row.len(), layers - index);
                    let problem = format!("has {found} values where {layers} layers need at least {least}");
                    return Err(inconsistent(&format!("{field}[{index}]"), problem));
                }
            }
        }
        Ok(())
    }
}

impl Skip {
    /// Everything measured, each with its mode and part joined by a dot.
    pub fn effects(&self) -> impl Iterator<Item = (String, &Effects)> {
        let modes = [("future", &self.future), ("current", &self.current), ("local", &self.local)];
        modes.into_iter().flat_map(|(mode, skipped)| {
            let parts =
                skipped.iter().flat_map(|s| [("layer", &s.layer), ("attn", &s.attn), ("mlp", &s.mlp)]);
            parts.filter_map(move |(part, effects)| Some((format!("{mode}.{part}"), effects.as_ref()?)))
        })
    }
}

impl Effects {
    fn validate(&self, field: &str, layers: usize) -> Result<()> {
        let size = (layers, "layers");
        rectangle(&format!("{field}.layer_effect.max"), &self.layer_effect.max, size, size)?;
        rectangle(&format!("{field}.layer_effect.mean"), &self.layer_effect.mean, size, size)?;
        let Some(output) = &self.output_effect else { return Ok(()) };
        fits(&format!("{field}.output_effect.max"), output.max.len(), size)?;
        fits(&format!("{field}.output_effect.mean"), output.mean.len(), size)
    }
}

impl Gradients {
    fn validate(&self, field: &str, layers: usize) -> Result<()> {
        let size = (layers, "layers");
        rectangle(&format!("{field}.attribution"), &self.attribution, size, (self.tokens.len(), "tokens"))?;
        fits(&format!("{field}.completeness_error"), self.completeness_error.len(), size)?;
        if let Some(errors) = &self.interval_error {
            fits(&format!("{field}.interval_error"), errors.len(), size)?;
        }
        fits(&format!("{field}.nodes"), self.nodes.len(), size)
    }
}

impl Uncertainty {
    fn validate(&self) -> Result<()> {
        for (index, rule) in self.rules.iter().enumerate() {
            let Some(found) = &rule.histogram else { continue };
            let field = format!("uncertainty.rules[{index}].histogram");
            let (edges, bins) = (&found.edges, found.counts.len());
            if bins == 0 || bins > MAX_LAYERS {
                let problem = format!("has {bins} bins, not between 1 and {MAX_LAYERS}");
                return Err(inconsistent(&field, problem));
            }
            fits(&format!("{field}.edges"), edges.len(), (bins + 1, "ends of bins"))?;
            // Ends of bins are the same where values differ by a rounding error.
            let ascending = edges.windows(2).all(|pair| pair[0] <= pair[1]);
            if !ascending || edges.iter().any(|edge| !edge.is_finite()) {
                return Err(inconsistent(&format!("{field}.edges"), "does not ascend".to_owned()));
            }
        }
        Ok(())
    }
}

/// Checks the size of a matrix, each side given with what it counts.
fn rectangle(field: &str, rows: &[Vec<f64>], down: (usize, &str), across: (usize, &str)) -> Result<()> {
    fits(field, rows.len(), down)?;
    rows.iter().enumerate().try_for_each(|(i, row)| fits(&format!("{field}[{i}]"), row.len(), across))
}

fn fits(field: &str, found: usize, (expected, what): (usize, &str)) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(inconsistent(
        field,
        format!("has {found} values where {expected} are needed, one for each of the {what}"),
    ))
}

fn inconsistent(field: &str, problem: String) -> Error {
    Error::Inconsistent { field: field.to_owned(), problem }
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<[f64; 2]>, D::Error> {
    match Option::<[Option<f64>; 2]>::deserialize(deserializer)? {
        Some([Some(low), Some(high)]) => Ok(Some([low, high])),
        _ => Ok(None),
    }
}

fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<f64>, D::Error> {
    Ok(nan_for_null(Vec::deserialize(deserializer)?))
}

fn some_numbers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Vec<f64>>, D::Error> {
    Ok(Option::<Vec<Option<f64>>>::deserialize(deserializer)?.map(nan_for_null))
}

fn matrix<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<Vec<f64>>, D::Error> {
    Ok(Vec::deserialize(deserializer)?.into_iter().map(nan_for_null).collect())
}

fn nan_for_null(values: Vec<Option<f64>>) -> Vec<f64> {
    values.into_iter().map(|value| value.unwrap_or(f64::NAN)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_round_trip_through_json_changes_nothing() {
        let mut results = fixture::results();
        results
            .probes
            .other
            .insert("steering".to_owned(), serde_json::json!({"future": {"layer": [1, null]}}));
        results.cost.get_mut("lens").unwrap().macs = u64::MAX;
        let text = serde_json::to_vec_pretty(&results).unwrap();
        assert_eq!(Results::parse(&text, Path::new("results.json")).unwrap(), results);
    }

    #[test]
    fn the_file_has_the_field_names_of_the_format() {
        let value = serde_json::to_value(fixture::results()).unwrap();
        for pointer in [
            "/schema_version",
            "/model/revision",
            "/probes/contributions/relative_norm/attn/mean/0",
            "/probes/contributions/cosine/layer/median/29",
            "/probes/lens/kl_lens_final/30",
            "/probes/similarity/angular_last/29/0",
            "/probes/settling/histogram/30",
            "/probes/skip/future/layer/layer_effect/max/29/29",
            "/probes/skip/future/layer/output_effect/mean/29",
            "/probes/erasure/5/effect/30/4",
            "/probes/gradients/0/attribution/29/4",
            "/probes/gradients/0/completeness_error/29",
            "/uncertainty/rules/0/histogram/edges/3",
            "/depth/0/interval/1",
            "/cost/lens/madds_naive",
        ] {
            assert!(value.pointer(pointer).is_some(), "{pointer}");
        }
    }

    #[test]
    fn a_probe_that_did_not_run_is_absent_from_the_file() {
        let mut results = fixture::results();
        results.probes = Probes::default();
        let value = serde_json::to_value(&results).unwrap();
        assert_eq!(value["probes"], serde_json::json!({}));
    }

    #[test]
    fn numbers_json_cannot_hold_come_back_as_nan() {
        let mut results = fixture::results();
        results.probes.lens.as_mut().unwrap().entropy[3] = f64::INFINITY;
        results.depth[0].interval = Some([f64::NAN, 2.0]);
        results.probes.erasure.as_mut().unwrap()[0].effect[1][2] = f64::NAN;
        let text = serde_json::to_vec(&results).unwrap();
        let back = Results::parse(&text, Path::new("x")).unwrap();
        assert!(back.probes.lens.unwrap().entropy[3].is_nan());
        assert!(back.probes.erasure.unwrap()[0].effect[1][2].is_nan());
        assert_eq!((back.depth[0].interval, back.depth[1].interval), (None, Some([22.0, 23.5])));
    }

    #[track_caller]
    fn refuse(text: &str, sentence: &str) {
        let message = Results::parse(text.as_bytes(), Path::new("results.json")).unwrap_err().to_string();
        assert!(message.contains(sentence), "{message}");
    }

    #[test]
    fn files_that_must_not_be_interpreted_are_refused() {
        refuse(r#"{"schema_version": 2, "unheard_of": 1}"#, "schema_version 2");
        refuse(r#"{"schema_version": 99999999999}"#, "use a newer fathom");
        refuse(r#"{"schema_version": "1"}"#, "not a fathom results file");
        refuse(r#"{"name": "left-pad"}"#, "not a fathom results file");
        refuse("{\"schema_version\": 1,\n \"model\": {\"id\": ", "line 2");
        refuse(r#"{"schema_version": 1}"#, "missing field `model`");
        refuse("", "EOF");
    }

    #[test]
    fn arrays_that_do_not_fit_the_layers_are_named() {
        let mut results = fixture::results();
        results.probes.lens.as_mut().unwrap().overlap.pop();
        let text = serde_json::to_string(&results).unwrap();
        refuse(&text, "probes.lens.overlap has 30 values where 30 layers need 31");
        let mut results = fixture::results();
        results.probes.similarity.as_mut().unwrap().angular_mean[4].clear();
        refuse(&serde_json::to_string(&results).unwrap(), "probes.similarity.angular_mean[4]");
        fn changed(change: impl Fn(&mut Results)) -> String {
            let mut results = fixture::results();
            change(&mut results);
            serde_json::to_string(&results).unwrap()
        }
        let future = |results: &mut Results| results.probes.skip.take().unwrap().future.unwrap();
        let text = changed(|results| {
            let mut future = future(results);
            future.layer.as_mut().unwrap().layer_effect.mean[2].push(0.0);
            results.probes.skip = Some(Skip { future: Some(future), ..Skip::default() });
        });
        refuse(&text, "probes.skip.future.layer.layer_effect.mean[2] has 31 values where 30 are needed");
        let text = changed(|results| {
            let mut future = future(results);
            future.layer.as_mut().unwrap().output_effect.as_mut().unwrap().max.clear();
            results.probes.skip = Some(Skip { future: Some(future), ..Skip::default() });
        });
        refuse(&text, "probes.skip.future.layer.output_effect.max");
        let text = changed(|results| drop(results.probes.erasure.as_mut().unwrap()[1].effect.pop()));
        refuse(&text, "probes.erasure[1].effect has 30 values where 31 are needed");
        let text = changed(|results| drop(results.probes.erasure.as_mut().unwrap()[1].tokens.pop()));
        refuse(
            &text,
            "probes.erasure[1].effect[0] has 5 values where 4 are needed, one for each of the tokens",
        );
        let text = changed(|results| results.probes.gradients.as_mut().unwrap()[0].attribution[7].clear());
        refuse(&text, "probes.gradients[0].attribution[7]");
        let text = changed(|results| results.probes.gradients.as_mut().unwrap()[0].nodes.truncate(3));
        refuse(&text, "probes.gradients[0].nodes");
        let text = changed(|results| {
            results.probes.gradients.as_mut().unwrap()[0].interval_error.as_mut().unwrap().truncate(3);
        });
        refuse(&text, "probes.gradients[0].interval_error");
        let histogram = |results: &mut Results, edges: &[f64]| {
            results.uncertainty.as_mut().unwrap().rules[1].histogram.as_mut().unwrap().edges = edges.to_vec();
        };
        refuse(&changed(|results| histogram(results, &[1.0, 2.0])), "uncertainty.rules[1].histogram.edges");
        refuse(&changed(|results| histogram(results, &[1.0, 2.0, 1.5])), "does not ascend");
        let mut results = fixture::results();
        results.model.layers = usize::MAX;
        refuse(&serde_json::to_string(&results).unwrap(), "model.layers");
    }
}
