//! Settings that the forward pass does not honour: refused if they are known to change it, named in a
//! warning if they are unknown.

use super::{Fields, mixtures_of_experts};
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// Fields of config.json that do not affect measurements: training, generation, bookkeeping.
const HARMLESS: &[&str] = &[
    // Written by transformers into every configuration.
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_experts_implementation",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "auto_map",
    "cache_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "finetuning_task",
    "id2label",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "problem_type",
    "return_dict",
    "task_specific_params",
    "tf_legacy_loss",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "use_bfloat16",
    "use_return_dict",
    // Tokens.
    "begin_suppress_tokens",
    "bos_token_id",
    "boi_token_index",
    "decoder_start_token_id",
    "eod_token_id",
    "eoi_token_index",
    "eos_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "image_token_id",
    "image_token_index",
    "pad_token_id",
    "prefix",
    "sep_token_id",
    "suppress_tokens",
    "video_token_id",
    "vision_end_token_id",
    "vision_start_token_id",
    "vision_token_id",
    // Generation.
    "bad_words_ids",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "use_cache",
    // Training.
    "_flash_attn_2_enabled",
    "activation_dropout",
    "attention_dropout",
    "attention_dropout_prob",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "classifier_dropout",
    "condition_on_chain",
    "condition_on_species",
    "embd_pdrop",
    "embedding_dropout",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "initializer_range",
    "neftune_noise_alpha",
    "resid_dropout",
    "residual_dropout",
    "resid_pdrop",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "unsloth_fixed",
    "unsloth_version",
    "use_flash_attention_2",
    // Only the order of sums.
    "n_ctx",
    "pretraining_tp",
    "reorder_and_upcast_attn",
    "tie_encoder_decoder",
    // Parts of multimodal models that text does not reach.
    "audio_config",
    "mm_tokens_per_image",
    "vision_config",
];

/// Fields with the number of experts per layer.
const EXPERTS: &[&str] = &["num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"];

/// Refuses unsupported settings that change the forward pass. They are checked first, because they would
/// otherwise show as missing tensors. `json` is the whole configuration.
pub(super) fn refuse(path: &Path, json: &Value) -> Result<()> {
    for part in [json].into_iter().chain(json.get("text_config")) {
        let model_type = part.get("model_type").and_then(Value::as_str).unwrap_or_default();
        refuse_quantised(path, part, model_type)?;
        refuse_gemma(path, model_type)?;
        let bad = |what: String| Err(Error::config(path, what));
        let has_experts = super::EXPERT_FAMILIES.iter().any(|family| family.0 == model_type)
            || super::OTHERS_WITH_EXPERTS.contains(&model_type);
        if let Some((name, count)) = EXPERTS.iter().find_map(|name| Some((name, part.get(name)?.as_u64()?)))
            && count > 1
            && !has_experts
        {
            return bad(format!(
                "the model is a mixture of experts ('{name}' is {count}), which is not supported for '{model_type}'; choose one of {}",
                mixtures_of_experts().join(", ")
            ));
        }
        let is = |name: &str, value: bool| part.get(name) == Some(&Value::Bool(value));
        if is("is_causal", false) {
            return bad("'is_causal' is false: attention sees the whole text, which is not supported; choose a causal model".into());
        }
        let sees_both_sides =
            part.get("use_bidirectional_attention").is_some_and(|v| !is_off(v) && v != "vision");
        if sees_both_sides && model_type != "gemma3_text" {
            return bad("'use_bidirectional_attention' is set: attention sees the whole text, which is not supported; choose a causal model".into());
        }
        for name in ["is_encoder_decoder", "add_cross_attention", "alibi"] {
            if is(name, true) && (name, model_type) != ("alibi", "falcon") {
                return bad(format!("'{name}' is true, which is not supported; choose a decoder without it"));
            }
        }
        for name in ["pruned_heads", "per_layer_config"] {
            let is_read = name == "per_layer_config" && GEMMA4.contains(&model_type);
            if !is_read && part.get(name).is_some_and(|v| !is_off(v)) {
                return bad(format!("'{name}' makes layers differ, which is not supported"));
            }
        }
    }
    Ok(())
}

/// The text models of Gemma 4.
const GEMMA4: [&str; 2] = ["gemma4_text", "gemma4_unified_text"];

/// Refuses Gemma 3n.
fn refuse_gemma(path: &Path, model_type: &str) -> Result<()> {
    if model_type.starts_with("gemma3n") {
        return Err(Error::config(
            path,
            "in Gemma 3n every layer replaces four streams by learned mixtures of them (AltUp), so layers do not add to one stream, which is what is measured; choose another model",
        ));
    }
    Ok(())
}

/// Refuses weights in an unsupported quantised format.
fn refuse_quantised(path: &Path, json: &Value, model_type: &str) -> Result<()> {
    let Some((name, settings)) = ["quantization_config", "compression_config"]
        .into_iter()
        .find_map(|name| Some((name, json.get(name).filter(|v| !v.is_null())?)))
    else {
        return Ok(());
    };
    let flag = |name: &str| settings.get(name) == Some(&Value::Bool(true));
    let method = match settings.get("quant_method").and_then(Value::as_str) {
        Some(method) => method,
        None if flag("load_in_4bit") || flag("load_in_8bit") => "bitsandbytes",
        None => "of an unnamed method",
    };
    match method {
        "fp8" => fp8_block(path, json).map(|_| ()),
        // 4-bit floats of experts.
        "mxfp4" if model_type == "gpt_oss" => Ok(()),
        // 8-bit floats with a scale per row or matrix.
        "compressed-tensors"
            if settings.get("format").is_some_and(|f| f == "float-quantized" || f == "naive-quantized") =>
        {
            Ok(())
        }
        _ => {
            let title = match method {
                "gptq" => "GPTQ",
                "awq" => "AWQ",
                other => other,
            };
            Err(Error::config(
                path,
                format!(
                    "the weights are quantised: {title} ('{name}'), which is not read; use the model's original weights or a GGUF file of it"
                ),
            ))
        }
    }
}

/// The rows and columns that share a scale in matrices of 8-bit floats, if a configuration has them.
///
/// # Errors
/// When the value is impossible.
pub(super) fn fp8_block(path: &Path, json: &Value) -> Result<Option<[usize; 2]>> {
    let Some(block) = json.pointer("/quantization_config/weight_block_size").filter(|v| !v.is_null()) else {
        return Ok(None);
    };
    let count = |v: &Value| v.as_u64().and_then(|v| usize::try_from(v).ok()).filter(|v| *v > 0);
    match block.as_array().map(Vec::as_slice) {
        Some([rows, columns]) if count(rows).is_some() && count(columns).is_some() => {
            Ok(count(rows).zip(count(columns)).map(|(r, c)| [r, c]))
        }
        _ => Err(Error::config(
            path,
            format!("'quantization_config.weight_block_size' is {block}, which is not a pair of counts"),
        )),
    }
}

/// Whether a value leaves a setting off.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The fields that are set, were not read, and are not known to be harmless, sorted.
pub(super) fn unknown(fields: &Fields<'_>) -> Vec<String> {
    let mut names = Vec::new();
    gather(fields, fields.all(), "", &mut names);
    names.sort();
    names
}

fn gather<'a>(
    fields: &Fields<'_>,
    object: impl Iterator<Item = (&'a String, &'a Value)>,
    scope: &str,
    names: &mut Vec<String>,
) {
    for (name, value) in object {
        let full = format!("{scope}{name}");
        // transformers writes the fields of every configuration into that of MPT's attention too.
        let whole = scope.is_empty() || scope == "attn_config.";
        let harmless = whole && HARMLESS.contains(&name.as_str());
        match value {
            value if harmless || is_off(value) || KNOWN_ELSEWHERE.contains(&full.as_str()) => {}
            Value::Object(inner) if fields.was_read(&full) => {
                gather(fields, inner.iter(), &format!("{full}."), names);
            }
            _ if fields.was_read(&full) => {}
            _ => names.push(full),
        }
    }
}

/// Fields that [`refuse`] checks.
const KNOWN_ELSEWHERE: &[&str] = &[
    "compression_config",
    "is_causal",
    "moe_num_experts",
    "n_routed_experts",
    "num_experts",
    "num_local_experts",
    "quantization_config",
    "use_bidirectional_attention",
];
