//! The supported architectures: one file a family, each turning a checkpoint's
//! configuration into a [`Config`] and saying under which names its tensors lie.

mod fields;
mod gemma;
mod gguf_names;
mod gpt2;
mod gpt_neox;
mod llama;
mod olmo;
mod phi;
mod qwen;
#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::gguf::{Header, Value};
use crate::weights::Weights;
pub(crate) use fields::Fields;
use std::path::Path;

/// A decoder and where its tensors are.
pub(crate) struct Description {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
}

/// How the rows of a stored matrix are to be taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Arrange {
    /// As they are.
    Rows,
    /// The matrix is stored `[k, n]` (GPT-2's Conv1D).
    Transposed,
    /// llama.cpp stores q and k of the Llama family with the two halves of a
    /// head interleaved; undo it, so that one rotation serves all.
    Interleaved,
    /// GPT-NeoX stores q, k and v head by head; gather all q, then all k, then all v.
    HeadThirds,
}

/// Where one matrix or norm lies: a name with `{}` for the layer, to which
/// `.weight` and `.bias` are added.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) bias: bool,
    pub(crate) arrange: Arrange,
}

impl Slot {
    fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), bias: false, arrange: Arrange::Rows }
    }

    fn biased(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    fn arranged(self, arrange: Arrange) -> Self {
        Self { arrange, ..self }
    }

    /// The name of the weight in a layer.
    pub(crate) fn weight(&self, layer: usize) -> String {
        format!("{}.weight", self.name.replace("{}", &layer.to_string()))
    }

    /// The name of the bias in a layer.
    pub(crate) fn bias(&self, layer: usize) -> String {
        format!("{}.bias", self.name.replace("{}", &layer.to_string()))
    }
}

/// The names of all tensors of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    pub(crate) embedding: Slot,
    pub(crate) position: Option<Slot>,
    pub(crate) final_norm: Slot,
    pub(crate) head: Slot,
    pub(crate) attn_norm: Option<Slot>,
    /// One fused matrix, or q, k and v.
    pub(crate) qkv: Vec<Slot>,
    pub(crate) qk_norms: Option<[Slot; 2]>,
    pub(crate) attn_out: Slot,
    pub(crate) post_attn_norm: Option<Slot>,
    pub(crate) mlp_norm: Option<Slot>,
    /// One matrix (plain, or gate and up fused), or gate and up.
    pub(crate) up: Vec<Slot>,
    pub(crate) down: Slot,
    pub(crate) post_mlp_norm: Option<Slot>,
    /// Added to norm weights (Gemma stores them around zero).
    pub(crate) norm_offset: f32,
}

type FromConfig = fn(&Fields<'_>, &Weights) -> Result<Description>;

/// `model_type` of config.json, the function that reads it, and what transformers
/// takes fields for that are absent.
const FAMILIES: &[(&str, FromConfig, &str)] = &[
    ("llama", llama::describe, "{}"),
    ("mistral", llama::describe, llama::MISTRAL),
    ("qwen2", qwen::describe, qwen::QWEN2),
    ("qwen3", qwen::describe, qwen::QWEN3),
    ("gemma2", gemma::describe, gemma::GEMMA2),
    ("gemma3_text", gemma::describe, gemma::GEMMA3),
    ("gemma3", gemma::describe, gemma::GEMMA3),
    ("olmo2", olmo::describe, r#"{"rms_norm_eps": 1e-5}"#),
    ("phi3", phi::describe, phi::DEFAULTS),
    ("gpt_neox", gpt_neox::describe, r#"{"rotary_pct": 0.25}"#),
    ("gpt2", gpt2::describe, "{}"),
];

/// The architectures that can be loaded, as `model_type` names them.
pub fn supported() -> Vec<&'static str> {
    FAMILIES.iter().map(|f| f.0).collect()
}

fn unknown(path: &Path, name: &str) -> Error {
    Error::Architecture { path: path.to_owned(), name: name.to_owned(), supported: supported().join(", ") }
}

/// Reads a Hugging Face `config.json`.
///
/// # Errors
/// When the file is broken, the architecture unknown or a field missing or impossible.
pub(crate) fn from_config(path: &Path, weights: &Weights) -> Result<Description> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| Error::config(path, format!("it is not JSON: {e}")))?;
    let name = match json.get("model_type").and_then(|t| t.as_str()) {
        Some(name) => name.to_owned(),
        None => return Err(Error::config(path, "it has no 'model_type'")),
    };
    let Some((_, describe, defaults)) = FAMILIES.iter().find(|f| f.0 == name) else {
        return Err(unknown(path, &name));
    };
    let defaults = serde_json::from_str(defaults).expect("the defaults are JSON");
    // Models of several modalities keep the language part in 'text_config'.
    let fields = Fields::new(path, json.get("text_config").unwrap_or(&json), &defaults);
    let description = describe(&fields, weights)?;
    description.config.check(path)?;
    Ok(description)
}

/// Reads the metadata of a GGUF file.
///
/// # Errors
/// As [`from_config`].
pub(crate) fn from_gguf(path: &Path, header: &Header, weights: &Weights) -> Result<Description> {
    let Some(name) = header.get("general.architecture").and_then(Value::as_str) else {
        return Err(Error::config(path, "its metadata has no 'general.architecture'"));
    };
    let description = gguf_names::describe(path, name, header, weights)?;
    description.config.check(path)?;
    Ok(description)
}
