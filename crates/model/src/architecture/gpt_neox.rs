//! GPT-NeoX and Pythia: layer norms with bias, attention and MLP in parallel (or in sequence), part of each
//! head rotated, q, k, v stored head by head.

use super::fields::RopePlace;
use super::{Description, Fields, Layout, RowOrder, TensorRef, llama};
use crate::config::{Config, Multipliers, NormKind, Positions, QkNorm};
use crate::error::Result;
use crate::weights::Weights;

/// Old names of the base and the rotated share.
const ROPE: RopePlace = RopePlace {
    kind: None,
    theta: (&["rotary_emb_base", "rope_theta"], 10_000.0),
    share: Some((&["rotary_pct", "partial_rotary_factor"], 0.25)),
};

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let (hidden, heads) = (f.usize("hidden_size")?, f.usize("num_attention_heads")?);
    let head_dim = hidden / heads.max(1);
    let config = Config {
        architecture: "gpt_neox".to_owned(),
        hidden,
        heads,
        kv_heads: heads,
        head_dim,
        intermediate: f.usize("intermediate_size")?,
        vocab: f.usize("vocab_size")?,
        context: f.opt_usize("max_position_embeddings")?.unwrap_or(2048),
        layers: f.plain_layers("num_hidden_layers")?,
        positions: Positions::Rotary(vec![f.rope(&ROPE, head_dim)?]),
        norm: NormKind::Layer,
        norm_eps: f.f64_or("layer_norm_eps", 1e-5)? as f32,
        pre_norm: true,
        post_norm: false,
        parallel: f.bool_or("use_parallel_residual", true)?,
        latent: None,
        attention_gate: false,
        qk_norm: QkNorm::None,
        activation: f.activation("hidden_act", "gelu")?,
        gated: false,
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
        attention_softcap: None,
        final_softcap: None,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        multipliers: Multipliers::NONE,
        logit_scale: 1.0,
        encoder: None,
        tied: f.bool_or("tie_word_embeddings", false)?,
    };
    let attention_bias = f.bool_or("attention_bias", true)?;
    let prefix = llama::prefix(weights, "embed_in", "gpt_neox.");
    let tensor_ref = |name: &str| TensorRef::new(format!("{prefix}layers.{{}}.{name}")).biased(true);
    let layout = Layout {
        embedding: TensorRef::new(format!("{prefix}embed_in")),
        position: None,
        first_position: 0,
        final_norm: Some(TensorRef::new(format!("{prefix}final_layer_norm")).biased(true)),
        head: TensorRef::new(format!("{}embed_out", llama::prefix(weights, "embed_out", ""))),
        attn_norm: Some(tensor_ref("input_layernorm")),
        qkv: vec![
            tensor_ref("attention.query_key_value").biased(attention_bias).ordered(RowOrder::PerHeadQkv),
        ],
        qk_norms: None,
        latent: None,
        mixer: None,
        attn_gate: None,
        attn_out: tensor_ref("attention.dense").biased(attention_bias),
        post_attn_norm: None,
        mlp_norm: Some(tensor_ref("post_attention_layernorm")),
        up: vec![tensor_ref("mlp.dense_h_to_4h")],
        down: tensor_ref("mlp.dense_4h_to_h"),
        experts: None,
        first_attn_norm: 0,
        sinks: None,
        embedding_norm: None,
        normalised_head: false,
        post_mlp_norm: None,
        norm_offset: 0.0,
        encoder: None,
    };
    Ok(Description::new(config, layout))
}
