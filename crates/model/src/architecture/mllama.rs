//! Llama 3.2 Vision: a Llama between whose layers others attend to images. Without an image these are left out, and what
//! is left is a Llama whose embedding has rows for marks of images behind those of its vocabulary.
//!
//! Tensors: those of Llama, under the numbers that layers have among all.

use super::fields::RopePlace;
use super::llama::{self, Base};
use super::{Description, Fields, Layout};
use crate::error::Result;
use crate::weights::Weights;
use std::sync::Arc;

/// Defaults of transformers.
pub(super) const DEFAULTS: &str = r#"{
    "model_type": "mllama_text_model", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072, "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38]
}"#;

/// Rows of the embedding for marks of images.
const MARKS: usize = 8;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let rope = RopePlace { theta: (&["rope_theta"], 500_000.0), ..RopePlace::USUAL };
    let mut d = llama::base_with(f, weights, &Base { rope, ..Base::USUAL })?;
    f.ignore(&["dropout"]);
    let crossing = f.counts("cross_attention_layers")?.unwrap_or_default();
    let (left_out, kept): (Vec<usize>, Vec<usize>) =
        (0..d.config.depth()).partition(|l| crossing.contains(l));
    d.layout.embedding.more_rows = MARKS;
    if left_out.is_empty() {
        return Ok(d);
    }
    d.config.layers.truncate(kept.len());
    let numbers = |all: &[usize]| all.iter().map(ToString::to_string).collect::<Vec<String>>().join(", ");
    d.warnings.push(format!(
        "layers {} attend to images and are left out, as for a text without images; the other {} are numbered from 0 to {}",
        numbers(&left_out),
        kept.len(),
        kept.len().saturating_sub(1)
    ));
    let before = d.layout.layer_prefix().to_owned();
    let prefixes: Vec<String> = left_out.iter().map(|l| format!("{before}{l}.")).collect();
    let is_left_out = |name: &&str| prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
    d.read.extend(weights.names().into_iter().filter(is_left_out).map(str::to_owned));
    renumber(&mut d.layout, &kept.into());
    Ok(d)
}

/// Gives the tensors of layers the numbers of those that are kept.
fn renumber(layout: &mut Layout, kept: &Arc<[usize]>) {
    let norms = layout.attn_norm.iter_mut().chain(&mut layout.mlp_norm);
    let matrices = layout.qkv.iter_mut().chain([&mut layout.attn_out]).chain(&mut layout.up);
    let all = norms.chain(matrices).chain([&mut layout.down]);
    all.for_each(|tensor_ref| tensor_ref.numbers = Some(Arc::clone(kept)));
}
