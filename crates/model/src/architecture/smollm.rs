//! SmolLM3: Llama in which every fourth layer, or those that a list marks, does not rotate queries and keys.

use super::{Description, Fields, llama};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const DEFAULTS: &str = r#"{
    "num_key_value_heads": 4, "max_position_embeddings": 32768, "tie_word_embeddings": true,
    "rope_theta": 2000000.0, "no_rope_layer_interval": 4
}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    llama::attention_bias(f, &mut d)?;
    llama::mlp_bias(f, &mut d)?;
    let depth = d.config.depth();
    let interval = f.usize("no_rope_layer_interval")?;
    let rotated: Vec<bool> = match f.counts("no_rope_layers")? {
        Some(marks) if marks.len() < depth => {
            return f.fail(format!("'no_rope_layers' does not mark {depth} layers"));
        }
        Some(marks) => marks.iter().map(|mark| *mark != 0).collect(),
        None => (1..=depth).map(|l| !l.is_multiple_of(interval)).collect(),
    };
    let sliding = f.bool_or("use_sliding_window", false)?;
    d.config.layers = f.layers(depth, f.opt_usize("sliding_window")?, 0, |l| sliding && !rotated[l])?;
    for (layer, rotated) in d.config.layers.iter_mut().zip(rotated) {
        layer.rope = layer.rope.filter(|_| rotated);
    }
    Ok(d)
}
