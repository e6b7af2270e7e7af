//! Falcon: layer norms, attention and MLP in parallel (or in sequence), one key head (7B) or a few (40B, 11B), q, k
//! and v fused key head by key head. Falcon-RW has ALiBi instead of a rotation.

use super::fields::RopePlace;
use super::{Description, Fields, Layout, RowOrder, TensorRef, alibi, llama};
use crate::config::{Config, Multipliers, NormKind, Positions, QkNorm};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const DEFAULTS: &str = r#"{
    "max_position_embeddings": 2048, "layer_norm_epsilon": 1e-5, "multi_query": true, "parallel_attn": true,
    "tie_word_embeddings": true
}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let (hidden, heads) = (f.usize("hidden_size")?, f.usize("num_attention_heads")?);
    let head_dim = hidden / heads.max(1);
    let new = f.bool_or("new_decoder_architecture", false)?;
    let (one_key, parallel) = (f.bool_or("multi_query", true)?, f.bool_or("parallel_attn", true)?);
    let key_heads = f.opt_usize("num_kv_heads")?.unwrap_or(heads);
    let norms = f.opt_usize("num_ln_in_parallel_attn")?.unwrap_or(if new { 2 } else { 1 });
    // transformers writes a rotation whether there is one or not.
    let rope = f.rope(&RopePlace::USUAL, head_dim)?;
    let config = Config {
        architecture: "falcon".to_owned(),
        hidden,
        heads,
        kv_heads: match (new, one_key) {
            (true, _) => key_heads,
            (false, true) => 1,
            (false, false) => heads,
        },
        head_dim,
        intermediate: f.opt_usize("ffn_hidden_size")?.unwrap_or(4 * hidden),
        vocab: f.usize("vocab_size")?,
        context: f.usize("max_position_embeddings")?,
        layers: f.plain_layers("num_hidden_layers")?,
        positions: match f.bool_or("alibi", false)? {
            true => alibi::rounded_positions(heads),
            false => Positions::Rotary(vec![rope]),
        },
        norm: NormKind::Layer,
        norm_eps: f.f64_or("layer_norm_epsilon", 1e-5)? as f32,
        pre_norm: true,
        post_norm: false,
        parallel: new || parallel,
        latent: None,
        attention_gate: false,
        qk_norm: QkNorm::None,
        activation: f.activation("activation", "gelu")?,
        gated: false,
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
        attention_softcap: None,
        final_softcap: None,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        multipliers: Multipliers::NONE,
        logit_scale: 1.0,
        encoder: None,
        tied: f.bool_or("tie_word_embeddings", true)?,
    };
    let bias = f.bool_or("bias", false)?;
    let prefix = llama::prefix(weights, "word_embeddings", "transformer.");
    let tensor_ref = |name: &str| TensorRef::new(format!("{prefix}h.{{}}.{name}")).biased(bias);
    let [attn_norm, mlp_norm] = match (config.parallel, new && norms == 2) {
        (true, true) => ["ln_attn", "ln_mlp"],
        (true, false) => ["input_layernorm", "input_layernorm"],
        (false, _) => ["input_layernorm", "post_attention_layernorm"],
    };
    let layout = Layout {
        embedding: TensorRef::new(format!("{prefix}word_embeddings")),
        position: None,
        first_position: 0,
        final_norm: Some(TensorRef::new(format!("{prefix}ln_f")).biased(true)),
        head: TensorRef::new(format!("{}lm_head", llama::prefix(weights, "lm_head", ""))),
        attn_norm: Some(tensor_ref(attn_norm).biased(true)),
        qkv: vec![tensor_ref("self_attention.query_key_value").ordered(RowOrder::PerHeadQkv)],
        qk_norms: None,
        latent: None,
        mixer: None,
        attn_gate: None,
        attn_out: tensor_ref("self_attention.dense"),
        post_attn_norm: None,
        mlp_norm: Some(tensor_ref(mlp_norm).biased(true)),
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
