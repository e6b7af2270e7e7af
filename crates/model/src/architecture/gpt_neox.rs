//! GPT-NeoX and Pythia: layer norms with bias, attention and MLP in parallel (or in sequence), part of each
//! head rotated, q, k, v stored head by head.

use super::fields::RopePlace;
use super::plain::{Names, Sizes};
use super::{Description, Fields, RowOrder, llama};
use crate::config::{Config, Positions};
use crate::error::Result;
use crate::weights::Weights;

/// Old names of the base and the rotated share.
const ROPE: RopePlace = RopePlace {
    kind: None,
    theta: (&["rotary_emb_base", "rope_theta"], 10_000.0),
    share: Some((&["rotary_pct", "partial_rotary_factor"], 0.25)),
};

const NAMES: Names<'_> = Names {
    prefix: "gpt_neox.",
    embedding: "embed_in",
    final_norm: "final_layer_norm",
    head: "embed_out",
    layer: "layers.{}.",
    attn_norm: "input_layernorm",
    qkv: &["attention.query_key_value"],
    attn_out: "attention.dense",
    mlp_norm: "post_attention_layernorm",
    up: &["mlp.dense_h_to_4h"],
    down: "mlp.dense_4h_to_h",
};

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let sizes = Sizes {
        hidden: f.usize("hidden_size")?,
        heads: f.usize("num_attention_heads")?,
        intermediate: f.usize("intermediate_size")?,
        vocab: f.usize("vocab_size")?,
        context: f.opt_usize("max_position_embeddings")?.unwrap_or(2048),
        layers: f.plain_layers("num_hidden_layers")?,
    };
    let mut config = Config {
        norm_eps: f.f64_or("layer_norm_eps", 1e-5)? as f32,
        parallel: f.bool_or("use_parallel_residual", true)?,
        activation: f.activation("hidden_act", "gelu")?,
        tied: f.bool_or("tie_word_embeddings", false)?,
        ..sizes.config("gpt_neox")
    };
    config.positions = Positions::Rotary(vec![f.rope(&ROPE, config.head_dim)?]);
    let mut d = Description::new(config, NAMES.layout(weights, true, true));
    d.layout.qkv[0].order = RowOrder::PerHeadQkv;
    llama::set_attention_bias(&mut d, f.bool_or("attention_bias", true)?);
    Ok(d)
}
