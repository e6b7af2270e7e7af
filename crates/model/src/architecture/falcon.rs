//! Falcon: layer norms, attention and MLP in parallel (or in sequence), one key head (7B) or a few (40B, 11B), q, k
//! and v fused key head by key head. Falcon-RW has ALiBi instead of a rotation.

use super::fields::RopePlace;
use super::plain::{Names, Sizes};
use super::{Description, Fields, RowOrder, alibi, bloom};
use crate::config::{Config, Positions};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const DEFAULTS: &str = r#"{
    "max_position_embeddings": 2048, "layer_norm_epsilon": 1e-5, "multi_query": true, "parallel_attn": true,
    "tie_word_embeddings": true
}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let (hidden, heads) = (f.usize("hidden_size")?, f.usize("num_attention_heads")?);
    let new = f.bool_or("new_decoder_architecture", false)?;
    let (one_key, parallel) = (f.bool_or("multi_query", true)?, f.bool_or("parallel_attn", true)?);
    let key_heads = f.opt_usize("num_kv_heads")?.unwrap_or(heads);
    let norms = f.opt_usize("num_ln_in_parallel_attn")?.unwrap_or(if new { 2 } else { 1 });
    let sizes = Sizes {
        hidden,
        heads,
        intermediate: f.opt_usize("ffn_hidden_size")?.unwrap_or(4 * hidden),
        vocab: f.usize("vocab_size")?,
        context: f.usize("max_position_embeddings")?,
        layers: f.plain_layers("num_hidden_layers")?,
    };
    let mut config = Config {
        kv_heads: match (new, one_key) {
            (true, _) => key_heads,
            (false, true) => 1,
            (false, false) => heads,
        },
        norm_eps: f.f64_or("layer_norm_epsilon", 1e-5)? as f32,
        parallel: new || parallel,
        activation: f.activation("activation", "gelu")?,
        tied: f.bool_or("tie_word_embeddings", true)?,
        ..sizes.config("falcon")
    };
    // transformers writes a rotation whether there is one or not.
    let rope = f.rope(&RopePlace::USUAL, config.head_dim)?;
    config.positions = match f.bool_or("alibi", false)? {
        true => alibi::rounded_positions(heads),
        false => Positions::Rotary(vec![rope]),
    };
    let [attn_norm, mlp_norm] = match (config.parallel, new && norms == 2) {
        (true, true) => ["ln_attn", "ln_mlp"],
        (true, false) => ["input_layernorm", "input_layernorm"],
        (false, _) => ["input_layernorm", "post_attention_layernorm"],
    };
    let names = Names { attn_norm, mlp_norm, ..bloom::NAMES };
    let mut layout = names.layout(weights, true, f.bool_or("bias", false)?);
    layout.qkv[0].order = RowOrder::PerHeadQkv;
    Ok(Description::new(config, layout))
}
