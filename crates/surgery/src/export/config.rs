//! A config.json for the layers of the result.

use super::Job;
use fathom_model::Config;
use fathom_model::config::{Mixer, Mlp};
use serde_json::{Map, Value, json};

/// Fields with the number of layers.
const COUNTS: [&str; 4] = ["num_hidden_layers", "n_layer", "n_layers", "num_layers"];

/// Lists with an entry per layer.
const PER_LAYER: &[&str] = &[
    "attention_types",
    "head_dim",
    "intermediate_size",
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "no_rope_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rope_theta",
    "sliding_window",
];

/// Lists that have as many entries as there are layers by chance alone.
const NOT_PER_LAYER: &[&str] = &[
    "architectures",
    "attn_layer_indices",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "eos_token_id",
    "forced_decoder_ids",
    "keys_to_ignore_at_inference",
    "mlp_only_layers",
    "mlp_multipliers",
    "moe_layers",
    "mrope_section",
    "pad_token_id",
    "ssm_multipliers",
    "suppress_tokens",
    "time_step_limit",
    "weight_block_size",
];

/// Objects about something other than the layers of the decoder.
const OTHER_OBJECTS: &[&str] = &[
    "audio_config",
    "auto_map",
    "id2label",
    "label2id",
    "rope_parameters",
    "rope_scaling",
    "speech_config",
    "task_specific_params",
    "vision_config",
];

/// Objects with names of tensors and modules.
const WITH_NAMES: [&str; 2] = ["compression_config", "quantization_config"];

/// The default of transformers for Qwen's `max_window_layers`.
const MAX_WINDOW_LAYERS: usize = 28;

/// Fields with the period of the global layers of Gemma 3, Cohere 2 and EXAONE 4.
const PATTERNS: [&str; 2] = ["sliding_window_pattern", "_sliding_window_pattern"];

/// Cuts every setting per layer. Says in `warnings` what was cut on suspicion.
pub(super) fn cut(json: &mut Value, job: &Job<'_>, prefix: &str, warnings: &mut Vec<String>) {
    if job.is_whole() {
        return;
    }
    let cut = Cut { job, prefix };
    if let Some(map) = json.as_object_mut() {
        cut.object(map, "", warnings);
    }
    let nested = json.get("text_config").is_some_and(Value::is_object);
    let decoder = if nested { json.get_mut("text_config") } else { Some(json) };
    if let Some(map) = decoder.and_then(Value::as_object_mut) {
        cut.decoder(map, warnings);
    }
}

struct Cut<'a> {
    job: &'a Job<'a>,
    prefix: &'a str,
}

impl Cut<'_> {
    /// Counts and lists of an object and of those inside it.
    fn object(&self, map: &mut Map<String, Value>, scope: &str, warnings: &mut Vec<String>) {
        let depth = self.job.depth();
        for (name, value) in map.iter_mut() {
            let known = |names: &[&str]| names.contains(&name.as_str());
            match value {
                Value::Number(_) if known(&COUNTS) && *value == json!(depth) => {
                    *value = json!(self.job.layers.len());
                }
                Value::Number(n) if name == "max_window_layers" => {
                    if let Some(first) = n.as_u64().and_then(|n| usize::try_from(n).ok()) {
                        *value = json!(self.first_windowed(first));
                    }
                }
                Value::Array(list) if list.len() == depth && !known(NOT_PER_LAYER) => {
                    if !known(PER_LAYER) {
                        warnings.push(format!(
                            "'{scope}{name}' of config.json has an entry for each of the {depth} layers, it seems, and was given one for each layer of the result"
                        ));
                    }
                    *list = self.job.layers.iter().map(|layer| list[*layer].clone()).collect();
                }
                Value::Object(inner) if known(&WITH_NAMES) => self.names(inner),
                Value::Object(inner) if !known(OTHER_OBJECTS) => {
                    self.object(inner, &format!("{scope}{name}."), warnings);
                }
                _ => {}
            }
        }
    }

    /// Where the layers with a window begin, given where they did.
    fn first_windowed(&self, first: usize) -> usize {
        match first >= self.job.depth() {
            // No layer had one.
            true => first.max(self.job.layers.len()),
            // Layers with a window follow those without; what they would otherwise be read as is noticed when the
            // result is opened.
            false => self.job.layers.iter().filter(|layer| **layer < first).count(),
        }
    }

    /// Renumbers the layers in lists of names, and drops the names of layers that are removed.
    fn names(&self, map: &mut Map<String, Value>) {
        for value in map.values_mut() {
            match value {
                Value::Object(inner) => self.names(inner),
                Value::Array(list) => {
                    let renamed = std::mem::take(list).into_iter().flat_map(|item| match item.as_str() {
                        Some(name) => {
                            placed(self.job, self.prefix, name).into_iter().map(|p| p.name.into()).collect()
                        }
                        None => vec![item],
                    });
                    *list = renamed.collect();
                }
                _ => {}
            }
        }
    }

    /// Settings of the decoder that are implied by the number of a layer.
    fn decoder(&self, map: &mut Map<String, Value>, warnings: &mut Vec<String>) {
        let source = self.job.checkpoint.config();
        if !COUNTS.iter().any(|name| map.contains_key(*name)) {
            map.insert(COUNTS[0].into(), json!(self.job.layers.len()));
        }
        let qwen = matches!(source.architecture.as_str(), "qwen2" | "qwen3" | "qwen2_moe" | "qwen3_moe");
        let deepest = source.depth().max(self.job.layers.len());
        if qwen && !map.contains_key("max_window_layers") && deepest > MAX_WINDOW_LAYERS {
            map.insert("max_window_layers".into(), json!(self.first_windowed(MAX_WINDOW_LAYERS)));
        }
        // Where all layers mix positions alike, the family says how.
        if source.layers.iter().any(|layer| layer.mixer != source.layers[0].mixer) {
            self.mixers(map, source);
        }
        match source.architecture.as_str() {
            "gemma2" | "gpt_oss" => self.alternating(map, source, 2, warnings),
            "gemma3_text" | "gemma3" => self.alternating(map, source, 6, warnings),
            "olmo3" | "cohere2" | "exaone4" => self.alternating(map, source, 4, warnings),
            "llama4_text" | "llama4" => {
                let kept = self.job.layers.iter().enumerate();
                let mixed =
                    kept.filter(|(_, layer)| source.layers[**layer].mlp != Mlp::Dense).map(|(i, _)| i);
                map.insert("moe_layers".into(), mixed.collect());
                self.rotating(map, source);
            }
            "smollm3" => self.rotating(map, source),
            // Every layer but those named has experts.
            "qwen2_moe" | "qwen3_moe" | "qwen3_next" => {
                let kept = self.job.layers.iter().enumerate();
                let dense =
                    kept.filter(|(_, layer)| source.layers[**layer].mlp == Mlp::Dense).map(|(i, _)| i);
                map.insert("mlp_only_layers".into(), dense.collect());
                map.insert("decoder_sparse_step".into(), json!(1));
            }
            "lfm2_moe" => {
                map.insert("num_dense_layers".into(), json!(self.job.dense()));
            }
            "glm4_moe" | "deepseek_v2" | "deepseek_v3" => {
                map.insert("first_k_dense_replace".into(), json!(self.job.dense()));
            }
            // What a layer adds is divided by the root of the number of layers.
            "minicpm" => {
                let scale = map.get("scale_depth").and_then(Value::as_f64).unwrap_or(1.0);
                let share = self.job.layers.len() as f64 / self.job.depth() as f64;
                map.insert("scale_depth".into(), json!(scale * share.sqrt()));
            }
            _ => {}
        }
    }

    /// Marks the layers that rotate.
    fn rotating(&self, map: &mut Map<String, Value>, source: &Config) {
        let rotates = |layer: &usize| usize::from(source.layers[*layer].rope.is_some());
        map.insert("no_rope_layers".into(), self.job.layers.iter().map(rotates).collect());
    }

    /// Names how each layer mixes positions.
    fn mixers(&self, map: &mut Map<String, Value>, source: &Config) {
        if source.architecture == "bamba" {
            let kept = self.job.layers.iter().enumerate();
            let attends = kept.filter(|(_, layer)| source.has_attention(**layer)).map(|(i, _)| i);
            map.insert("attn_layer_indices".into(), attends.collect());
            return;
        }
        // A letter for each layer.
        if let Some(pattern) = map.get("hybrid_override_pattern").and_then(Value::as_str) {
            let letters: Vec<char> = pattern.chars().collect();
            let kept = self.job.layers.iter().filter_map(|layer| letters.get(*layer));
            map.insert("hybrid_override_pattern".into(), kept.collect::<String>().into());
            return;
        }
        // Where they are named already, those that are left are named by now.
        if map.contains_key("layer_types") || map.contains_key("layers_block_type") {
            return;
        }
        ["full_attention_interval", "full_attn_idxs"].iter().for_each(|name| {
            map.shift_remove(*name);
        });
        let kind = |layer: &usize| match source.layers[*layer].mixer {
            Mixer::Attention | Mixer::Both(_) | Mixer::None => "full_attention",
            Mixer::Recurrence(_) => "linear_attention",
            Mixer::Convolution(_) => "conv",
        };
        map.insert("layer_types".into(), self.job.layers.iter().map(kind).collect());
    }

    /// Names the kind of each layer where the number of a layer no longer tells it.
    fn alternating(
        &self,
        map: &mut Map<String, Value>,
        source: &Config,
        usual: u64,
        warnings: &mut Vec<String>,
    ) {
        let stated = PATTERNS.iter().find_map(|name| map.get(*name)?.as_u64());
        let period = stated.filter(|_| source.architecture != "gemma2").unwrap_or(usual);
        let is_local = |layer: &usize| source.layers[*layer].window.is_some();
        let local: Vec<bool> = self.job.layers.iter().map(is_local).collect();
        let periodic = (1u64..).zip(&local).all(|(n, local)| n.is_multiple_of(period.max(1)) != *local);
        // Without any window there is nothing to tell apart.
        if periodic || source.layers.iter().all(|layer| layer.window.is_none()) {
            return;
        }
        PATTERNS.iter().for_each(|name| {
            map.shift_remove(*name);
        });
        let kind = |local: &bool| if *local { "sliding_attention" } else { "full_attention" };
        map.insert("layer_types".into(), local.iter().map(kind).collect());
        warnings.push(
            "local and global layers no longer alternate regularly, so config.json names the kind of each layer in 'layer_types'; versions of transformers that do not read this field give layers the wrong window".into(),
        );
    }
}

/// A tensor in the result.
pub(super) struct Placed {
    /// Its name, with the new number of its layer.
    pub(super) name: String,
    /// The layer of the result; none outside the layers.
    pub(super) layer: Option<usize>,
}

/// Where a tensor of the source is in the result: nowhere if its layer is removed, and once outside the layers.
pub(super) fn placed(job: &Job<'_>, prefix: &str, name: &str) -> Vec<Placed> {
    match layer_of(prefix, name) {
        None => vec![Placed { name: name.to_owned(), layer: None }],
        Some((layer, rest)) => job
            .places(layer)
            .map(|place| Placed { name: format!("{prefix}{place}{rest}"), layer: Some(place) })
            .collect(),
    }
}

/// The layer in a name, and what follows its number.
pub(crate) fn layer_of<'n>(prefix: &str, name: &'n str) -> Option<(usize, &'n str)> {
    let rest = name.strip_prefix(prefix)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let ends = rest[end..].is_empty() || rest[end..].starts_with('.');
    Some((rest[..end].parse().ok().filter(|_| ends)?, &rest[end..]))
}
