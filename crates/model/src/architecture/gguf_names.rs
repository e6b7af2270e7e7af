//! GGUF files: all families under llama.cpp's uniform keys and tensor names.
//!
//! What these files do not say follows llama.cpp: Gemma's attention scale and
//! its pattern of local layers, the base of Gemma 3's local rotation.

use super::{Arrange, Description, Layout, Slot, unknown};
use crate::config::{Config, Layer, NormKind, Positions, QkNorm, Rope, RopeScaling};
use crate::error::{Error, Result};
use crate::gguf::{Header, Value};
use crate::weights::Weights;
use fathom_kernels::elementwise::Activation;
use std::path::Path;

/// llama.cpp's architecture and the name that Hugging Face uses.
const NAMES: &[(&str, &str)] = &[
    ("llama", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("gemma2", "gemma2"),
    ("gemma3", "gemma3_text"),
    ("olmo2", "olmo2"),
    ("phi3", "phi3"),
    ("gptneox", "gpt_neox"),
    ("gpt2", "gpt2"),
];

/// The metadata of one architecture.
struct Keys<'a> {
    path: &'a Path,
    arch: &'a str,
    header: &'a Header,
}

impl Keys<'_> {
    fn get<T>(&self, key: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        let key = format!("{}.{key}", self.arch);
        match self.header.get(&key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(Error::config(self.path, format!("the metadata '{key}' has the wrong type"))),
            },
        }
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        self.get(key, Value::as_usize)
    }

    fn needed(&self, key: &str) -> Result<usize> {
        self.count(key)?
            .ok_or_else(|| Error::config(self.path, format!("the metadata '{}.{key}' is missing", self.arch)))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, Value::as_f64)
    }
}

pub(super) fn describe(path: &Path, arch: &str, header: &Header, weights: &Weights) -> Result<Description> {
    let Some((_, name)) = NAMES.iter().find(|n| n.0 == arch) else {
        return Err(unknown(path, arch));
    };
    let keys = Keys { path, arch, header };
    let (hidden, heads) = (keys.needed("embedding_length")?, keys.needed("attention.head_count")?);
    let head_dim = keys.count("attention.key_length")?.unwrap_or(hidden / heads.max(1));
    let depth = keys.needed("block_count")?;
    if depth > 1 << 14 {
        return Err(Error::config(path, format!("{depth} layers are more than any model has")));
    }
    let Some([vocab, _]) = weights.shape("token_embd.weight") else {
        return Err(Error::MissingTensor { path: path.to_owned(), name: "token_embd.weight".into() });
    };
    let gemma = arch.starts_with("gemma");
    let layer_norm = matches!(arch, "gptneox" | "gpt2");
    let eps = if layer_norm { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
    let config = Config {
        architecture: (*name).to_owned(),
        hidden,
        heads,
        kv_heads: keys.count("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        intermediate: keys.needed("feed_forward_length")?,
        vocab: *vocab,
        context: keys.needed("context_length")?,
        layers: layers(&keys, depth)?,
        positions: positions(&keys, weights, head_dim)?,
        norm: if layer_norm { NormKind::Layer } else { NormKind::Rms },
        norm_eps: keys.number(eps)?.unwrap_or(1e-5) as f32,
        pre_norm: arch != "olmo2",
        post_norm: gemma || arch == "olmo2",
        parallel: arch == "gptneox" && keys.get("use_parallel_residual", Value::as_bool)?.unwrap_or(true),
        qk_norm: match arch {
            "qwen3" | "gemma3" => QkNorm::Head,
            "olmo2" => QkNorm::Full,
            _ => QkNorm::None,
        },
        activation: match arch {
            "gptneox" => Activation::GeluErf,
            "gpt2" | "gemma2" | "gemma3" => Activation::GeluTanh,
            _ => Activation::Silu,
        },
        gated: !layer_norm,
        attention_scale: attention_scale(&keys, hidden, heads, head_dim, depth)?,
        attention_softcap: keys.number("attn_logit_softcapping")?.map(|cap| cap as f32),
        final_softcap: keys.number("final_logit_softcapping")?.map(|cap| cap as f32),
        embedding_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
        tied: !weights.has("output.weight"),
    };
    let layout = layout(arch, &config, weights);
    Ok(Description { config, layout })
}

/// One over the root of the head's width, but for the two largest Gemmas, whose
/// scale comes from the width of the stream.
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
    Ok(1.0 / (width as f32).sqrt())
}

fn layers(keys: &Keys<'_>, depth: usize) -> Result<Vec<Layer>> {
    let window = keys.count("attention.sliding_window")?.filter(|w| *w > 0);
    let pattern = match keys.arch {
        "gemma2" => 2,
        "gemma3" => keys.count("attention.sliding_window_pattern")?.unwrap_or(6),
        // Phi-3's window holds everywhere; the others have none.
        "phi3" => usize::MAX,
        _ => return Ok(vec![Layer { window: None, rope: 0 }; depth]),
    };
    let local_rope = usize::from(keys.arch == "gemma3");
    let layer = |l: usize| match window {
        Some(_) if !(l + 1).is_multiple_of(pattern) => Layer { window, rope: local_rope },
        _ => Layer { window: None, rope: 0 },
    };
    Ok((0..depth).map(layer).collect())
}

fn positions(keys: &Keys<'_>, weights: &Weights, head_dim: usize) -> Result<Positions> {
    if keys.arch == "gpt2" {
        return Ok(Positions::Learned);
    }
    let dim = keys.count("rope.dimension_count")?.unwrap_or(head_dim);
    // llama.cpp's order of the Llama family's rows pairs all dimensions of a head.
    if keys.arch == "llama" && (dim != head_dim || !dim.is_multiple_of(2)) {
        return Err(Error::config(
            keys.path,
            format!(
                "the metadata 'llama.rope.dimension_count' is {dim}; it must be even and the whole width of a head, which is {head_dim}"
            ),
        ));
    }
    let theta = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
    let rope = Rope { dim, theta, scaling: rope_scaling(keys, weights, dim)? };
    if keys.arch == "gemma3" {
        let theta = keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
        return Ok(Positions::Rotary(vec![rope, Rope { dim, theta, scaling: RopeScaling::None }]));
    }
    Ok(Positions::Rotary(vec![rope]))
}

fn rope_scaling(keys: &Keys<'_>, weights: &Weights, dim: usize) -> Result<RopeScaling> {
    let context = keys.needed("context_length")?;
    let original = keys.count("rope.scaling.original_context_length")?.unwrap_or(context);
    if weights.has("rope_freqs.weight") {
        return Ok(RopeScaling::Divisors(weights.vector("rope_freqs.weight", dim / 2)?));
    }
    if weights.has("rope_factors_long.weight") {
        let stretch = context as f64 / original.max(1) as f64;
        let default = if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / (original as f64).ln()).sqrt() };
        return Ok(RopeScaling::Long {
            short: weights.vector("rope_factors_short.weight", dim / 2)?,
            long: weights.vector("rope_factors_long.weight", dim / 2)?,
            original,
            attention_factor: keys.number("rope.scaling.attn_factor")?.unwrap_or(default),
        });
    }
    let factor = keys.number("rope.scaling.factor")?.unwrap_or(1.0);
    match keys.get("rope.scaling.type", |v| v.as_str().map(str::to_owned))?.as_deref() {
        None | Some("none") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear(factor)),
        Some("yarn") => Ok(RopeScaling::Yarn {
            factor,
            original: original as f64,
            beta_fast: keys.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: keys.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            attention_factor: if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 },
            truncate: true,
        }),
        Some(other) => Err(Error::config(
            keys.path,
            format!("the rotary scaling '{other}' is not supported (linear and yarn are)"),
        )),
    }
}

fn layout(arch: &str, config: &Config, weights: &Weights) -> Layout {
    let plain = |name: &str| Slot::new(format!("blk.{{}}.{name}"));
    // Whether a matrix has a bias is the same in every layer, so the first one tells.
    let slot = |name: &str| {
        let slot = plain(name);
        let bias = weights.has(&slot.bias(0));
        slot.biased(bias)
    };
    let whole = |name: &str| Slot::new(name).biased(weights.has(&format!("{name}.bias")));
    let turned =
        |name: &str| slot(name).arranged(if arch == "llama" { Arrange::Interleaved } else { Arrange::Rows });
    let fused = weights.has("blk.0.attn_qkv.weight");
    let separate_gate = config.gated && weights.has("blk.0.ffn_gate.weight");
    let pre = config.pre_norm;
    Layout {
        embedding: Slot::new("token_embd"),
        position: (arch == "gpt2").then(|| Slot::new("position_embd")),
        final_norm: whole("output_norm"),
        head: Slot::new("output"),
        attn_norm: pre.then(|| slot("attn_norm")),
        qkv: if fused {
            vec![slot("attn_qkv")]
        } else {
            vec![turned("attn_q"), turned("attn_k"), slot("attn_v")]
        },
        qk_norms: (config.qk_norm != QkNorm::None).then(|| [plain("attn_q_norm"), plain("attn_k_norm")]),
        attn_out: slot("attn_output"),
        post_attn_norm: config.post_norm.then(|| plain("post_attention_norm")),
        mlp_norm: pre.then(|| slot("ffn_norm")),
        up: if separate_gate { vec![slot("ffn_gate"), slot("ffn_up")] } else { vec![slot("ffn_up")] },
        down: slot("ffn_down"),
        post_mlp_norm: config.post_norm.then(|| plain("post_ffw_norm")),
        norm_offset: 0.0,
    }
}
