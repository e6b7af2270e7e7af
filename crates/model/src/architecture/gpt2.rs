//! GPT-2: learned positions, layer norms with bias, matrices stored transposed.

use super::{Description, Fields, Layout, RowOrder, TensorRef, llama};
use crate::config::{Config, Multipliers, NormKind, Positions, QkNorm};
use crate::error::Result;
use crate::weights::Weights;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let (hidden, heads) = (f.usize("n_embd")?, f.usize("n_head")?);
    let head_dim = hidden / heads.max(1);
    if f.bool_or("scale_attn_by_inverse_layer_idx", false)? {
        return f.fail("'scale_attn_by_inverse_layer_idx' is not supported");
    }
    let scaled = f.bool_or("scale_attn_weights", true)?;
    let config = Config {
        architecture: "gpt2".to_owned(),
        hidden,
        heads,
        kv_heads: heads,
        head_dim,
        intermediate: f.opt_usize("n_inner")?.unwrap_or(4 * hidden),
        vocab: f.usize("vocab_size")?,
        context: f.opt_usize("n_positions")?.unwrap_or(1024),
        layers: f.plain_layers("n_layer")?,
        positions: Positions::Learned,
        norm: NormKind::Layer,
        norm_eps: f.f64_or("layer_norm_epsilon", 1e-5)? as f32,
        pre_norm: true,
        post_norm: false,
        parallel: false,
        latent: None,
        attention_gate: false,
        qk_norm: QkNorm::None,
        activation: f.activation("activation_function", "gelu_new")?,
        gated: false,
        attention_scale: if scaled { 1.0 / (head_dim as f32).sqrt() } else { 1.0 },
        attention_softcap: None,
        final_softcap: None,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        multipliers: Multipliers::NONE,
        logit_scale: 1.0,
        encoder: None,
        tied: f.bool_or("tie_word_embeddings", true)?,
    };
    // The first published files omit the prefix.
    let prefix = llama::prefix(weights, "wte", "transformer.");
    let tensor_ref = |name: &str| TensorRef::new(format!("{prefix}h.{{}}.{name}")).biased(true);
    let matrix = |name: &str| tensor_ref(name).ordered(RowOrder::Transposed);
    let layout = Layout {
        embedding: TensorRef::new(format!("{prefix}wte")),
        position: Some(TensorRef::new(format!("{prefix}wpe"))),
        first_position: 0,
        final_norm: Some(TensorRef::new(format!("{prefix}ln_f")).biased(true)),
        head: TensorRef::new(format!("{}lm_head", llama::prefix(weights, "lm_head", ""))),
        attn_norm: Some(tensor_ref("ln_1")),
        qkv: vec![matrix("attn.c_attn")],
        qk_norms: None,
        latent: None,
        mixer: None,
        attn_gate: None,
        attn_out: matrix("attn.c_proj"),
        post_attn_norm: None,
        mlp_norm: Some(tensor_ref("ln_2")),
        up: vec![matrix("mlp.c_fc")],
        down: matrix("mlp.c_proj"),
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
