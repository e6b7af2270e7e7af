//! GGUF files: all families under llama.cpp's uniform keys and tensor names.
//!
//! Settings missing from these files follow llama.cpp: Gemma's attention scale and pattern of local layers,
//! and the base of Gemma 3's local rotation.

use super::gguf_families::{
    Alibi, Factors, GGUF_FAMILIES, GgufFamily, Mixing, Mixture, Norms, Residual, Windows,
};
use super::{
    Description, Layout, RowOrder, TensorRef, alibi, gguf_experts, gguf_gemma4, gguf_latent, gguf_mixers,
    unknown,
};
use crate::config::{
    Config, Latent, Layer, Mlp, Multipliers, NormKind, Positions, QkNorm, Rope, RopeScaling, Score,
    Temperature,
};
use crate::error::{Error, Result};
use crate::gguf::{Header, Value};
use crate::weights::Weights;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

/// Keys of an architecture that do not affect measurements.
const HARMLESS: &[&str] = &[
    "n_deepstack_layers",
    "pooling_type",
    "rope.dimension_sections",
    "rope.scaling.finetuned",
    "tensor_data_layout",
    "vocab_size",
];

/// Prefixes of keys about the file, its tokenizer (which has its own reader) or its origin.
const OTHER_KEYS: [&str; 6] = ["general.", "tokenizer.", "split.", "quantize.", "imatrix.", "training."];

/// Keys that change the forward pass unless they have this value.
const ONLY: &[(&str, f64)] =
    &[("attention.clamp_kqv", 0.0), ("nextn_predict_layers", 0.0), ("rope.scaling.yarn_ext_factor", 1.0)];

/// As [`ONLY`], for architectures without latent attention.
const NO_MULTIPLIER: (&str, f64) = ("rope.scaling.yarn_log_multiplier", 0.0);

/// The largest exponent of the slopes of ALiBi; 0 without it.
const MAX_ALIBI_BIAS: &str = "attention.max_alibi_bias";

/// As [`ONLY`], for architectures that have no such factors.
const FACTORS: [(&str, f64); 3] = [("embedding_scale", 1.0), ("logit_scale", 1.0), ("residual_scale", 1.0)];

/// The metadata of one architecture. Records which keys were read.
pub(super) struct Keys<'a> {
    path: &'a Path,
    pub(super) arch: &'a str,
    header: &'a Header,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Keys<'a> {
    pub(super) fn fail<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(Error::config(self.path, what))
    }

    fn value(&self, key: &str) -> (String, Option<&'a Value>) {
        let key = format!("{}.{key}", self.arch);
        let value = self.header.get(&key);
        self.read.borrow_mut().insert(key.clone());
        (key, value)
    }

    /// Whether there is a key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.header.get(&format!("{}.{key}", self.arch)).is_some()
    }

    /// A count for each layer, or one for all.
    pub(super) fn needed_counts(&self, key: &str, depth: usize) -> Result<Vec<usize>> {
        let Some(Value::Numbers(numbers)) = self.value(key).1 else {
            return Ok(vec![self.needed(key)?; depth]);
        };
        let counts: Option<Vec<usize>> = numbers.iter().map(|number| number.as_usize()).collect();
        match counts.filter(|counts| counts.len() == depth) {
            Some(counts) => Ok(counts),
            None => self
                .fail(format!("the metadata '{}.{key}' has no count for each of {depth} layers", self.arch)),
        }
    }

    fn get<T>(&self, key: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.value(key) {
            (_, None) => Ok(None),
            (key, Some(value)) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => self.fail(format!("the metadata '{key}' has the wrong type")),
            },
        }
    }

    /// A count, or an array of equal counts, one per layer.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>> {
        self.count_where(key, |_| true)
    }

    /// A count, or an array of counts that are equal in the layers that have some; none where no layer has.
    fn count_of_some(&self, key: &str) -> Result<Option<usize>> {
        self.count_where(key, |value| value.as_usize() != Some(0))
    }

    fn count_where(&self, key: &str, matters: impl Fn(&Value) -> bool) -> Result<Option<usize>> {
        let (name, value) = self.value(key);
        let Some(Value::Numbers(numbers)) = value else { return self.get(key, Value::as_usize) };
        let layers = self.get("block_count", Value::as_usize)?;
        if let Some(layers) = layers.filter(|layers| *layers != numbers.len()) {
            return self
                .fail(format!("the metadata '{name}' is an array of {} for {layers} layers", numbers.len()));
        }
        let mut values = numbers.iter().filter(matters);
        let first = values.next();
        if first.is_none() && !numbers.is_empty() {
            return Ok(None);
        }
        match first.as_ref().and_then(Value::as_usize) {
            None => self.fail(format!("the metadata '{name}' has the wrong type")),
            same if values.all(|v| Some(&v) == first.as_ref()) => Ok(same),
            _ => self.fail(format!(
                "the metadata '{name}' differs from layer to layer, which is not supported; it must be the same in all"
            )),
        }
    }

    pub(super) fn needed(&self, key: &str) -> Result<usize> {
        match self.count(key)? {
            Some(count) => Ok(count),
            None => self.fail(format!("the metadata '{}.{key}' is missing", self.arch)),
        }
    }

    pub(super) fn needed_number(&self, key: &str) -> Result<f64> {
        match self.number(key)? {
            Some(number) => Ok(number),
            None => self.fail(format!("the metadata '{}.{key}' is missing", self.arch)),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, Value::as_f64)
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, Value::as_bool)
    }

    /// Whether keys and values are projections of latent vectors.
    fn is_latent(&self) -> bool {
        self.arch == "deepseek2"
    }

    /// Refuses unsupported settings that change the forward pass.
    fn refuse(&self, family: Option<&GgufFamily>) -> Result<()> {
        let has_experts = family.is_some_and(|family| family.mixture != Mixture::Never);
        if let Some(count) = self.count("expert_count")?.filter(|count| *count > 1 && !has_experts) {
            return self.fail(format!(
                "the model is a mixture of experts ('{}.expert_count' is {count}), which is not supported for this architecture; choose a dense model",
                self.arch
            ));
        }
        if self.flag("attention.causal")? == Some(false) {
            return self.fail(format!(
                "'{}.attention.causal' is false: attention sees the whole text, which is not supported; choose a causal model",
                self.arch
            ));
        }
        let factors = match family.map(|family| family.factors) {
            Some(Factors::Granite | Factors::MiniCpm) => &[][..],
            Some(Factors::Cohere) => &FACTORS[..1],
            _ => &FACTORS[..],
        };
        let no_slopes = family.is_none_or(|family| family.alibi == Alibi::Never);
        let slopes = if no_slopes { &[(MAX_ALIBI_BIAS, 0.0)][..] } else { &[] };
        let multiplier = if self.is_latent() { &[][..] } else { &[NO_MULTIPLIER] };
        for (key, only) in ONLY.iter().chain(factors).chain(slopes).chain(multiplier) {
            if let Some(value) = self.number(key)?.filter(|value| value != only) {
                return self.fail(format!(
                    "'{}.{key}' is {value}, which is not supported; only {only} is",
                    self.arch
                ));
            }
        }
        Ok(())
    }

    /// The keys that were not read and are not known to be harmless, sorted.
    fn unknown(&self) -> Vec<&str> {
        let read = self.read.borrow();
        let harmless = |key: &str| {
            let own = key.strip_prefix(self.arch).and_then(|rest| rest.strip_prefix('.'));
            let follows = |own| gguf_experts::FOLLOW.contains(&own) || gguf_mixers::FOLLOW.contains(&own);
            own.is_some_and(|own| HARMLESS.contains(&own) || follows(own))
                || OTHER_KEYS.iter().any(|other| key.starts_with(other))
        };
        let is_off = |value: &Value| *value == Value::Bool(false) || value.as_f64() == Some(0.0);
        let known = |key: &str, value: &Value| read.contains(key) || harmless(key) || is_off(value);
        let keys = self.header.metadata.iter().filter(|(key, value)| !known(key, value));
        let mut keys: Vec<&str> = keys.map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        keys
    }
}

/// Refuses files that say they are something other than a model.
fn check_type(path: &Path, header: &Header) -> Result<()> {
    match header.get("general.type").and_then(Value::as_str) {
        None | Some("model") => Ok(()),
        Some("adapter") => Err(Error::config(
            path,
            "it is an adapter (LoRA), not a model; merge it into its base model (llama.cpp's llama-export-lora) and give that",
        )),
        Some(other) => Err(Error::config(
            path,
            format!(
                "it is of the type '{other}' ('general.type'), not a model; give the file of the language model"
            ),
        )),
    }
}

pub(super) fn describe(path: &Path, header: &Header, weights: &Weights) -> Result<Description> {
    check_type(path, header)?;
    let Some(arch) = header.get("general.architecture").and_then(Value::as_str) else {
        return Err(Error::config(
            path,
            "its metadata has no 'general.architecture'; convert the model again",
        ));
    };
    let keys = Keys { path, arch, header, read: RefCell::default() };
    let family = GGUF_FAMILIES.iter().find(|family| family.arch == arch);
    keys.refuse(family)?;
    let Some(family) = family else {
        return Err(unknown(path, arch, &super::gguf_architectures()));
    };
    let (hidden, heads) = (keys.needed("embedding_length")?, keys.needed("attention.head_count")?);
    let latent = keys.is_latent().then(|| gguf_latent::read(&keys)).transpose()?;
    let head_dim = head_dim(&keys, latent.as_ref(), hidden.checked_div(heads).unwrap_or(0))?;
    let depth = keys.needed("block_count")?;
    if depth > 1 << 14 {
        return Err(Error::config(path, format!("{depth} layers are more than any model has")));
    }
    weights.require("token_embd.weight")?;
    let Some([vocab, _]) = weights.shape("token_embd.weight") else {
        return keys.fail("'token_embd.weight' is not a matrix; convert the model again");
    };
    let eps = match family.norm {
        NormKind::Layer => "attention.layer_norm_epsilon",
        NormKind::Rms => "attention.layer_norm_rms_epsilon",
    };
    let mut layers = layers(&keys, family, depth)?;
    let experts = gguf_experts::read(&keys, family, weights, &mut layers)?;
    let mixer = gguf_mixers::read(&keys, family, weights, hidden, &mut layers)?;
    let windowed = layers.iter().any(|layer| layer.window.is_some());
    let has = |name: &str| has_in_some(weights, depth, name);
    let [embedding_scale, residual_scale, logit_scale] = factors(&keys, family, hidden)?;
    // Files of models with ALiBi may describe a rotation all the same.
    let mut rotary = positions(&keys, weights, head_dim, windowed)?;
    let attention_scale = match (&latent, &mut rotary) {
        (Some(latent), Positions::Rotary(ropes)) => gguf_latent::scale(&keys, latent, &mut ropes[0].scaling)?,
        _ => attention_scale(&keys, hidden, heads, head_dim, depth)?,
    };
    let sigmoids = layers
        .iter()
        .any(|layer| layer.mlp.experts().is_some_and(|experts| experts.routing.score == Score::Sigmoid));
    let config = Config {
        architecture: match arch {
            "olmo2" if windowed => "olmo3",
            "llama" if experts.is_some() => "mixtral",
            "deepseek2" if sigmoids => "deepseek_v3",
            _ => family.name,
        }
        .to_owned(),
        hidden,
        heads,
        kv_heads: match arch {
            gguf_gemma4::ARCH => gguf_gemma4::key_heads(&keys, &layers)?,
            _ => kv_heads(&keys, family, heads)?,
        },
        head_dim,
        intermediate: match family.mixing {
            _ if arch == gguf_gemma4::ARCH => gguf_gemma4::mlp_width(&keys, depth)?,
            Mixing::OneEach => keys.count_of_some("feed_forward_length")?.unwrap_or(0),
            _ => keys.needed("feed_forward_length")?,
        },
        token_inputs: None,
        vocab: *vocab,
        context: keys.needed("context_length")?,
        layers,
        positions: match max_alibi_bias(&keys, family, depth)? {
            Some(max) => alibi::positions(heads, max),
            None => rotary,
        },
        norm: family.norm,
        norm_eps: keys.needed_number(eps)? as f32,
        pre_norm: family.norms != Norms::Behind,
        post_norm: family.norms != Norms::Before,
        parallel: match family.residual {
            Residual::Serial => false,
            Residual::Parallel => true,
            Residual::ByKey => keys.flag("use_parallel_residual")?.unwrap_or(true),
            Residual::ByNorms => {
                keys.flag("use_parallel_residual")?;
                !has("ffn_norm")
            }
        },
        latent,
        attention_gate: family.gated_attention(),
        qk_norm: match family.qk_norm {
            QkNorm::OwnHead | QkNorm::Head if !has("attn_q_norm") => QkNorm::None,
            // As in llama.cpp: Maverick has none.
            QkNorm::UnitRotated if keys.count("expert_count")? == Some(128) => QkNorm::None,
            usual => usual,
        },
        activation: family.activation,
        gated: family.gated,
        attention_scale,
        attention_softcap: keys.number("attn_logit_softcapping")?.map(|cap| cap as f32),
        final_softcap: keys.number("final_logit_softcapping")?.map(|cap| cap as f32),
        embedding_scale,
        residual_scale,
        multipliers: Multipliers::NONE,
        logit_scale,
        encoder: None,
        tied: !weights.has("output.weight"),
    };
    let layout = Layout { experts, mixer, ..layout(family, &config, weights) };
    let mut description = Description::new(config, layout);
    description.read = ROPE_FACTORS.map(str::to_owned).to_vec();
    if arch == gguf_gemma4::ARCH {
        gguf_gemma4::complete(&keys, weights, &mut description)?;
    }
    if family.mixing == Mixing::Both && description.config.tied {
        description.warnings.push(format!(
            "{}: the head is tied to the embedding, which is stored multiplied by a number that the file does not have, so \
             logits differ from those of the original if that is not the number on its logits",
            path.display()
        ));
    }
    let unknown = keys.unknown();
    if !unknown.is_empty() {
        description.warnings.push(format!(
            "{}: {} not known and not honoured: '{}'",
            path.display(),
            if unknown.len() == 1 { "this key of the metadata is" } else { "these keys of the metadata are" },
            unknown.join("', '")
        ));
    }
    Ok(description)
}

/// Whether some layer has a weight of this name.
fn has_in_some(weights: &Weights, depth: usize, name: &str) -> bool {
    (0..depth).any(|l| weights.has(&format!("blk.{l}.{name}.weight")))
}

/// The width of queries and keys.
fn head_dim(keys: &Keys<'_>, latent: Option<&Latent>, default: usize) -> Result<usize> {
    if let Some(latent) = latent {
        return Ok(latent.width());
    }
    let head_dim = keys.count("attention.key_length")?.unwrap_or(default);
    match keys.count("attention.value_length")?.filter(|width| *width != head_dim) {
        None => Ok(head_dim),
        Some(width) => keys.fail(format!(
            "'{}.attention.value_length' is {width} where keys have {head_dim}, which is not supported",
            keys.arch
        )),
    }
}

/// Heads of keys and values.
fn kv_heads(keys: &Keys<'_>, family: &GgufFamily, heads: usize) -> Result<usize> {
    const KEY: &str = "attention.head_count_kv";
    Ok(match family.mixing {
        // In the form that multiplies latent vectors there is one.
        Mixing::Attention if keys.is_latent() => {
            keys.count(KEY)?;
            heads
        }
        Mixing::Attention => keys.count(KEY)?.unwrap_or(heads),
        // Layers without attention have none.
        _ => keys.count_of_some(KEY)?.unwrap_or(heads),
    })
}

/// Tensors with divisors of rotary frequencies.
const ROPE_FACTORS: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];

/// One over the square root of the head's width, except for the two largest Gemmas, whose scale depends on
/// the width of the residual stream.
fn attention_scale(
    keys: &Keys<'_>,
    hidden: usize,
    heads: usize,
    head_dim: usize,
    depth: usize,
) -> Result<f32> {
    if let Some(scale) = keys.number("attention.scale")? {
        return Ok(scale as f32);
    }
    let widest = matches!((keys.arch, depth), ("gemma2", 46) | ("gemma3", 62));
    let width = if widest { hidden / heads.max(1) } else { head_dim };
    // Models without attention have no heads.
    Ok(1.0 / (width.max(1) as f32).sqrt())
}

/// The factors on the embedding, on what sublayers add, and on the logits.
fn factors(keys: &Keys<'_>, family: &GgufFamily, hidden: usize) -> Result<[f32; 3]> {
    let key = |key| match family.factors {
        Factors::MiniCpm => keys.needed_number(key),
        _ => Ok(keys.number(key)?.unwrap_or(1.0)),
    };
    Ok(match family.factors {
        Factors::None => [1.0; 3],
        Factors::Gemma => [(hidden as f32).sqrt(), 1.0, 1.0],
        Factors::Cohere => [1.0, 1.0, keys.needed_number("logit_scale")? as f32],
        Factors::Granite | Factors::MiniCpm => {
            [key("embedding_scale")? as f32, key("residual_scale")? as f32, 1.0 / key("logit_scale")? as f32]
        }
    })
}

fn layers(keys: &Keys<'_>, family: &GgufFamily, depth: usize) -> Result<Vec<Layer>> {
    const WINDOW: &str = "attention.sliding_window";
    let window = match family.windows {
        // The key stays unread and is named in a warning.
        Windows::Never | Windows::Unrotated(_) => None,
        _ => keys.count(WINDOW)?.filter(|w| *w > 0),
    };
    let group = match family.windows {
        Windows::Groups(n) | Windows::OwnRotation(n) | Windows::OnlyLocalRotate(n) => Some(n),
        _ => None,
    };
    if family.windows == Windows::Chunks {
        return chunked_layers(keys, depth);
    }
    let local = local_layers(keys, group, depth)?;
    // Granite's files turn the rotation off by this key.
    let rotates =
        !(family.factors == Factors::Granite && keys.flag("rope.scaling.finetuned")? == Some(false));
    let layer = |(l, local): (usize, bool)| {
        let local = local && window.is_some();
        let rope = match family.windows {
            Windows::OwnRotation(_) => Some(usize::from(local)),
            Windows::OnlyLocalRotate(_) if window.is_some() => local.then_some(0),
            Windows::Unrotated(n) => (!(l + 1).is_multiple_of(n)).then_some(0),
            _ => rotates.then_some(0),
        };
        Layer { window: window.filter(|_| local), rope, ..Layer::default() }
    };
    Ok(local.into_iter().enumerate().map(layer).collect())
}

/// The layers of Llama 4. Files do not say how long chunks are, which layers do not rotate and how their queries grow:
/// llama.cpp has the numbers of the published models.
fn chunked_layers(keys: &Keys<'_>, depth: usize) -> Result<Vec<Layer>> {
    const CHUNK: usize = 8192;
    const GROUP: usize = 4;
    if keys.count("attention.sliding_window")? == Some(0) {
        return keys.fail(format!(
            "'{}.attention.sliding_window' is 0: attention has no chunks, which is not supported for this architecture",
            keys.arch
        ));
    }
    let temperature = Some(Temperature { floor: CHUNK, scale: 0.1 });
    let layer = |(l, local): (usize, bool)| {
        let rotates = !(l + 1).is_multiple_of(GROUP);
        Layer {
            chunk: local.then_some(CHUNK),
            rope: rotates.then_some(0),
            temperature: temperature.filter(|_| !rotates),
            ..Layer::default()
        }
    };
    Ok(local_layers(keys, Some(GROUP), depth)?.into_iter().enumerate().map(layer).collect())
}

/// Which layers have a sliding window, if there is one: all but the last in each group of the length that
/// the pattern gives, or those that it marks. Without groups all do.
fn local_layers(keys: &Keys<'_>, group: Option<usize>, depth: usize) -> Result<Vec<bool>> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    let in_groups =
        |pattern: usize| (0..depth).map(|l| pattern == 0 || !(l + 1).is_multiple_of(pattern)).collect();
    let Some(default) = group else { return Ok(vec![true; depth]) };
    let Some(Value::Numbers(marks)) = keys.value(PATTERN).1 else {
        return Ok(in_groups(keys.count(PATTERN)?.unwrap_or(default)));
    };
    let marks: Option<Vec<bool>> = marks.iter().map(|mark| mark.as_bool()).collect();
    match marks.filter(|marks| marks.len() == depth) {
        Some(marks) => Ok(marks),
        None => keys.fail(format!("the metadata '{}.{PATTERN}' does not mark {depth} layers", keys.arch)),
    }
}

/// The largest exponent of the slopes of ALiBi, if the model has them.
fn max_alibi_bias(keys: &Keys<'_>, family: &GgufFamily, depth: usize) -> Result<Option<f64>> {
    let key = || keys.number(MAX_ALIBI_BIAS).map(|max| max.filter(|max| *max > 0.0));
    match family.alibi {
        Alibi::Never => Ok(None),
        Alibi::Always(max) => Ok(Some(max)),
        Alibi::ByKey => match key()? {
            Some(max) => Ok(Some(max)),
            None => keys.fail(format!(
                "'{}.{MAX_ALIBI_BIAS}' is missing or 0: positions are learned, which is not supported for this architecture",
                keys.arch
            )),
        },
        Alibi::InDepth(deep, max) => Ok(key()?.or((depth == deep).then_some(max))),
    }
}

fn positions(keys: &Keys<'_>, weights: &Weights, head_dim: usize, windowed: bool) -> Result<Positions> {
    if keys.arch == "gpt2" {
        return Ok(Positions::Learned);
    }
    if head_dim == 0 {
        return Ok(Positions::Rotary(Vec::new()));
    }
    let dim = keys.count("rope.dimension_count")?.unwrap_or(head_dim);
    // llama.cpp's row order in the Llama family pairs all dimensions of a head.
    if keys.arch == "llama" && (dim != head_dim || !dim.is_multiple_of(2)) {
        return Err(Error::config(
            keys.path,
            format!(
                "the metadata 'llama.rope.dimension_count' is {dim}; it must be even and the whole width of a head, which is {head_dim}"
            ),
        ));
    }
    if keys.arch == "granitehybrid" && dim != head_dim && keys.flag("rope.scaling.finetuned")? != Some(false)
    {
        // The converter orders the rows of whole heads as if all of them rotated.
        return keys.fail(format!(
            "'granitehybrid.rope.dimension_count' is {dim} where heads have {head_dim}: it is a Bamba, whose files are not supported; use the model's original weights"
        ));
    }
    let theta = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
    let rope = Rope { dim, theta, scaling: rope_scaling(keys, weights, dim)? };
    if keys.arch == "olmo2" && windowed && rope.scaling != RopeScaling::None {
        // Only the global layers' rotation would be scaled, and readers differ in the factor on attention.
        return keys.fail("a scaled rotation together with a sliding window is not supported for OLMo 3 in GGUF files; use the model's original weights");
    }
    if keys.arch == gguf_gemma4::ARCH {
        return gguf_gemma4::positions(keys, rope);
    }
    if keys.arch == "gemma3" {
        let theta = keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
        return Ok(Positions::Rotary(vec![rope, Rope { dim, theta, scaling: RopeScaling::None }]));
    }
    Ok(Positions::Rotary(vec![rope]))
}

fn rope_scaling(keys: &Keys<'_>, weights: &Weights, dim: usize) -> Result<RopeScaling> {
    let context = keys.needed("context_length")?;
    let original = keys.count("rope.scaling.original_context_length")?.unwrap_or(context);
    // As in llama.cpp: an older key may hold the factor, zero means none, and a factor without a type is
    // a linear one.
    let old = keys.number("rope.scale_linear")?;
    let factor = keys.number("rope.scaling.factor")?.or(old).filter(|f| *f != 0.0).unwrap_or(1.0);
    let kind = keys.get("rope.scaling.type", |v| v.as_str().map(str::to_owned))?;
    let kind = kind.as_deref().unwrap_or("linear");
    let attention = keys.number("rope.scaling.attn_factor")?;
    let betas = [("rope.scaling.yarn_beta_fast", 32.0), ("rope.scaling.yarn_beta_slow", 1.0)];
    let [beta_fast, beta_slow] = betas.map(|(key, default)| keys.number(key).map(|v| v.unwrap_or(default)));
    if weights.has("rope_factors_long.weight") {
        let stretch = context as f64 / original.max(1) as f64;
        let default = if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / (original as f64).ln()).sqrt() };
        return Ok(RopeScaling::Long {
            short: weights.vector("rope_factors_short.weight", dim / 2)?,
            long: weights.vector("rope_factors_long.weight", dim / 2)?,
            original,
            attention_factor: attention.unwrap_or(default),
        });
    }
    if weights.has("rope_freqs.weight") {
        let mut divisors = weights.vector("rope_freqs.weight", dim / 2)?;
        match kind {
            "linear" => divisors.iter_mut().for_each(|d| *d *= factor as f32),
            "none" => {}
            other => {
                return keys.fail(format!(
                    "the rotary scaling '{other}' together with 'rope_freqs.weight' is not supported"
                ));
            }
        }
        return Ok(RopeScaling::Divisors(divisors));
    }
    if kind != "yarn" && attention.is_some_and(|factor| factor != 1.0) {
        return keys.fail(format!(
            "'{}.rope.scaling.attn_factor' is supported with yarn and longrope only",
            keys.arch
        ));
    }
    match kind {
        "none" => Ok(RopeScaling::None),
        "linear" if factor == 1.0 => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear(factor)),
        "yarn" => Ok(RopeScaling::Yarn {
            factor,
            original: original as f64,
            beta_fast: beta_fast?,
            beta_slow: beta_slow?,
            attention_factor: attention.unwrap_or(1.0)
                * if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 },
            // Of this family, whose ends of the ramp are no whole dimensions, files do not say so.
            truncate: keys.arch != "gpt-oss",
        }),
        other => keys.fail(format!(
            "the rotary scaling '{other}' is not supported (linear, yarn and longrope with its factors are)"
        )),
    }
}

fn layout(family: &GgufFamily, config: &Config, weights: &Weights) -> Layout {
    let plain = |name: &str| TensorRef::new(format!("blk.{{}}.{name}"));
    // Layers of a kind have the same biases, so one of them decides.
    let depth = config.depth();
    let tensor_ref = |name: &str| {
        let tensor_ref = plain(name);
        let bias = (0..depth).any(|l| weights.has(&tensor_ref.bias(l)));
        tensor_ref.biased(bias)
    };
    let whole = |name: &str| TensorRef::new(name).biased(weights.has(&format!("{name}.bias")));
    let turned = |name: &str| {
        tensor_ref(name).ordered(if family.side_by_side {
            RowOrder::InterleavedHalves
        } else {
            RowOrder::AsStored
        })
    };
    let has = |name: &str| has_in_some(weights, depth, name);
    // Falcon 40B's norm before attention is the second; Seed-OSS names the norm before its MLP as others name one
    // behind attention. Where attention and MLP are parallel, one norm may be before both.
    let attn_norm = if has("attn_norm_2") { "attn_norm_2" } else { "attn_norm" };
    let mlp_norm = match family.arch {
        "seed_oss" | "glm4moe" | "gpt-oss" | "qwen3next" | "qwen35" | "qwen35moe" => "post_attention_norm",
        "nemotron_h" | "nemotron_h_moe" => "attn_norm",
        _ if config.parallel && !has("ffn_norm") => "attn_norm",
        _ => "ffn_norm",
    };
    // The recurrences of Qwen have a matrix of this name too.
    let fused = has("attn_qkv") && !has("attn_q");
    // Falcon-H1's norm before the MLP has a name without an end.
    let has_bare_norm = (0..depth).any(|l| weights.has(&format!("blk.{l}.{mlp_norm}")));
    let mlp_norm = match has_bare_norm {
        true => plain(mlp_norm).bare(),
        false => tensor_ref(mlp_norm),
    };
    let queries = turned("attn_q");
    let half = |gates| queries.clone().ordered(RowOrder::HeadHalves { gates });
    let dense = config.layers.iter().position(|layer| layer.mlp == Mlp::Dense).unwrap_or(0);
    let separate_gate = config.gated && weights.has(&format!("blk.{dense}.ffn_gate.weight"));
    let pre = config.pre_norm;
    Layout {
        embedding: TensorRef::new("token_embd"),
        position: (family.arch == "gpt2").then(|| TensorRef::new("position_embd")),
        first_position: 0,
        // LFM2's norm before the head has another name.
        final_norm: Some(whole(match weights.has("output_norm.weight") {
            false if family.mixing == Mixing::Convolution => "token_embd_norm",
            _ => "output_norm",
        })),
        head: whole("output"),
        attn_norm: pre.then(|| tensor_ref(attn_norm)),
        qkv: match () {
            () if config.latent.is_some() => vec![],
            () if fused => vec![tensor_ref("attn_qkv")],
            () if config.attention_gate => vec![half(false), turned("attn_k"), tensor_ref("attn_v")],
            () => vec![queries.clone(), turned("attn_k"), tensor_ref("attn_v")],
        },
        latent: config.latent.as_ref().map(|of| gguf_latent::names(of, weights, tensor_ref)),
        mixer: None,
        attn_gate: config.attention_gate.then(|| half(true)),
        qk_norms: (!matches!(config.qk_norm, QkNorm::None | QkNorm::UnitRotated))
            .then(|| ["attn_q_norm", "attn_k_norm"].map(turned)),
        attn_out: tensor_ref("attn_output"),
        post_attn_norm: config.post_norm.then(|| plain("post_attention_norm")),
        mlp_norm: (pre && (0..depth).any(|l| config.has_mlp(l))).then_some(mlp_norm),
        up: if separate_gate {
            vec![tensor_ref("ffn_gate"), tensor_ref("ffn_up")]
        } else {
            vec![tensor_ref("ffn_up")]
        },
        down: tensor_ref("ffn_down"),
        experts: None,
        first_attn_norm: 0,
        layer_scalar: None,
        token_inputs: None,
        beside: None,
        sinks: has("attn_sinks").then(|| plain("attn_sinks")),
        embedding_norm: (family.arch == "bloom").then(|| whole("token_embd_norm")),
        normalised_head: false,
        post_mlp_norm: config.post_norm.then(|| plain("post_ffw_norm")),
        norm_offset: 0.0,
        encoder: None,
    }
}
