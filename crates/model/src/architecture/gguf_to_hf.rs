//! The config.json of a model that was read from a GGUF file.

use super::Description;
use crate::config::{Config, Positions, Rope, RopeScaling};
use crate::convert::{ROPE_TOLERANCE, largest_gap};
use crate::error::{Error, Result};
use crate::gguf::{Header, Value as Metadata};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The class of transformers for each architecture.
const CLASSES: &[(&str, &str)] = &[
    ("llama", "LlamaForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("gemma2", "Gemma2ForCausalLM"),
    ("gemma3_text", "Gemma3ForCausalLM"),
    ("olmo2", "Olmo2ForCausalLM"),
    ("phi3", "Phi3ForCausalLM"),
    ("gpt_neox", "GPTNeoXForCausalLM"),
    ("gpt2", "GPT2LMHeadModel"),
];

/// The configuration, in the fields that transformers 4 writes and 5 reads too.
///
/// # Errors
/// When a setting has no place in it.
pub(crate) fn config(path: &Path, header: &Header, d: &Description) -> Result<Value> {
    let c = &d.config;
    let Some((_, class)) = CLASSES.iter().find(|known| known.0 == c.architecture) else {
        return Err(Error::config(path, format!("'{}' has no form of transformers here", c.architecture)));
    };
    let mut fields = Map::new();
    fields.insert("architectures".into(), json!([class]));
    fields.insert("model_type".into(), json!(c.architecture));
    fields.extend(match c.architecture.as_str() {
        "gpt2" => gpt2(c),
        "gpt_neox" => gpt_neox(c),
        _ => gated(c),
    });
    family(&mut fields, d);
    fields.extend(rotation(path, c)?);
    for (name, key) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        let id = header.get(&format!("tokenizer.ggml.{key}_token_id")).and_then(Metadata::as_usize);
        fields.insert(name.into(), json!(id));
    }
    fields.insert("tie_word_embeddings".into(), json!(c.tied));
    fields.insert("use_cache".into(), json!(true));
    Ok(Value::Object(fields))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// A number of 32 bits in its shortest form: 1e-5, not 9.999999747378752e-6.
fn short(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, |x| json!(x))
}

fn gpt2(c: &Config) -> Map<String, Value> {
    object(json!({
        "vocab_size": c.vocab, "n_embd": c.hidden, "n_head": c.heads, "n_layer": c.depth(),
        "n_positions": c.context, "n_inner": c.intermediate, "activation_function": "gelu_new",
        "layer_norm_epsilon": short(c.norm_eps),
    }))
}

fn gpt_neox(c: &Config) -> Map<String, Value> {
    object(json!({
        "vocab_size": c.vocab, "hidden_size": c.hidden, "num_attention_heads": c.heads,
        "num_hidden_layers": c.depth(), "intermediate_size": c.intermediate,
        "max_position_embeddings": c.context, "hidden_act": "gelu", "layer_norm_eps": short(c.norm_eps),
        "use_parallel_residual": c.parallel,
    }))
}

/// The fields of Llama and its relatives.
fn gated(c: &Config) -> Map<String, Value> {
    let mut fields = object(json!({
        "vocab_size": c.vocab, "hidden_size": c.hidden, "intermediate_size": c.intermediate,
        "num_hidden_layers": c.depth(), "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads,
        "max_position_embeddings": c.context, "hidden_act": "silu", "rms_norm_eps": short(c.norm_eps),
    }));
    // Gemma and Qwen3 have defaults of their own.
    if c.head_dim * c.heads != c.hidden || !matches!(c.architecture.as_str(), "olmo2" | "phi3" | "qwen2") {
        fields.insert("head_dim".into(), json!(c.head_dim));
    }
    fields
}

/// What is the architecture's own.
fn family(fields: &mut Map<String, Value>, d: &Description) {
    let c = &d.config;
    let window = c.layers.iter().find_map(|layer| layer.window);
    let attention_bias = d.layout.qkv.iter().any(|part| part.bias);
    let own = match c.architecture.as_str() {
        "llama" => json!({ "attention_bias": attention_bias, "mlp_bias": d.layout.down.bias }),
        "qwen2" => json!({ "use_sliding_window": false, "sliding_window": null }),
        "qwen3" => {
            json!({ "use_sliding_window": false, "sliding_window": null, "attention_bias": attention_bias })
        }
        "olmo2" => json!({ "attention_bias": attention_bias }),
        "gpt_neox" => json!({ "attention_bias": attention_bias }),
        "phi3" => json!({ "sliding_window": window }),
        "gemma2" | "gemma3_text" => json!({
            "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": query_scalar(c), "sliding_window": window,
            "layer_types": layer_types(c), "attention_bias": attention_bias,
            "attn_logit_softcapping": c.attention_softcap.map(short),
            "final_logit_softcapping": c.final_softcap.map(short),
        }),
        _ => json!({}),
    };
    fields.extend(object(own));
}

/// The names in transformers of the kinds of layers.
fn layer_types(c: &Config) -> Vec<&'static str> {
    let kind = |window: Option<usize>| if window.is_some() { "sliding_attention" } else { "full_attention" };
    c.layers.iter().map(|layer| kind(layer.window)).collect()
}

/// The number whose inverse square root is the scale of attention.
fn query_scalar(c: &Config) -> Value {
    let candidates = [c.head_dim, c.hidden / c.heads];
    match candidates.iter().find(|n| 1.0 / (**n as f64).sqrt() as f32 == c.attention_scale) {
        Some(n) => json!(n),
        None => json!(f64::from(c.attention_scale).powi(-2)),
    }
}

fn rotation(path: &Path, c: &Config) -> Result<Map<String, Value>> {
    let Positions::Rotary(ropes) = &c.positions else { return Ok(Map::new()) };
    let Some(rope) = ropes.first() else { return Ok(Map::new()) };
    let theta = if c.architecture == "gpt_neox" { "rotary_emb_base" } else { "rope_theta" };
    let mut fields = object(json!({ theta: rope.theta }));
    if let Some(local) = ropes.get(1) {
        fields.insert("rope_local_base_freq".into(), json!(local.theta));
    }
    let share = json!(rope.dim as f64 / c.head_dim as f64);
    match c.architecture.as_str() {
        "gpt_neox" => fields.extend(object(json!({ "rotary_pct": share }))),
        "phi3" => fields.extend(object(json!({ "partial_rotary_factor": share }))),
        _ => {}
    }
    if let RopeScaling::Long { original, .. } = rope.scaling {
        fields.insert("original_max_position_embeddings".into(), json!(original));
    }
    if let Some(scaling) = scaling(path, rope)? {
        fields.insert("rope_scaling".into(), scaling);
    }
    Ok(fields)
}

fn scaling(path: &Path, rope: &Rope) -> Result<Option<Value>> {
    Ok(Some(match &rope.scaling {
        RopeScaling::None => return Ok(None),
        RopeScaling::Linear(factor) => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Yarn { factor, original, beta_fast, beta_slow, attention_factor, .. } => json!({
            "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original,
            "beta_fast": beta_fast, "beta_slow": beta_slow, "attention_factor": attention_factor,
        }),
        RopeScaling::Long { short, long, attention_factor, .. } => json!({
            "rope_type": "longrope", "attention_factor": attention_factor,
            "short_factor": short.iter().map(|x| self::short(*x)).collect::<Vec<_>>(),
            "long_factor": long.iter().map(|x| self::short(*x)).collect::<Vec<_>>(),
        }),
        RopeScaling::Divisors(divisors) => match llama3(rope, divisors) {
            Some(scaling) => scaling,
            None => {
                return Err(Error::config(
                    path,
                    "the divisors of its rotary frequencies, 'rope_freqs.weight', are not those of Llama 3's formula, and a config.json has no place for others; export GGUF",
                ));
            }
        },
        other => return Err(Error::config(path, format!("the rotary scaling {other:?} has no place here"))),
    }))
}

/// Llama 3's scaling whose frequencies the divisors give.
fn llama3(rope: &Rope, divisors: &[f32]) -> Option<Value> {
    let factor = f64::from(divisors.iter().copied().fold(0.0, f32::max));
    let (low, high) = (1.0, 4.0);
    let originals = (4..=20).map(|power| f64::from(1u32 << power));
    let scaled = originals.map(|original| RopeScaling::Llama3 { factor, low, high, original });
    let gap = |scaling: &RopeScaling| largest_gap(rope, &Rope { scaling: scaling.clone(), ..rope.clone() });
    let best = scaled.min_by(|a, b| gap(a).total_cmp(&gap(b)))?;
    match best {
        RopeScaling::Llama3 { original, .. } if gap(&best) <= ROPE_TOLERANCE => Some(json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original as u64,
        })),
        _ => None,
    }
}
