//! BLOOM: ALiBi, layer norms, one of them on the embedding, q, k and v fused head by head, GELU.

use super::{Description, Fields, Layout, RowOrder, TensorRef, alibi, experts, llama};
use crate::config::{Config, Multipliers, NormKind, QkNorm};
use crate::error::Result;
use crate::weights::Weights;
use fathom_kernels::elementwise::Activation;

/// Defaults of transformers. The configuration has no length; BLOOM was trained on texts of this one.
pub(super) const DEFAULTS: &str =
    r#"{"layer_norm_epsilon": 1e-5, "seq_length": 2048, "tie_word_embeddings": true}"#;

/// Fields that have no effect, or only on the order of sums.
const UNUSED: &[&str] = &[
    "attention_softmax_in_fp32",
    "bias_dropout_fusion",
    "masked_softmax_fusion",
    "offset_alibi",
    "skip_bias_add",
    "skip_bias_add_qkv",
    "slow_but_exact",
    "unk_token_id",
];

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let hidden = experts::either(f, ["n_embed", "hidden_size"])?;
    let heads = experts::either(f, ["n_head", "num_attention_heads"])?;
    let depth = if f.has("n_layer") { "n_layer" } else { "num_hidden_layers" };
    f.ignore(UNUSED);
    f.ignore(&["num_hidden_layers"]);
    if f.bool_or("apply_residual_connection_post_layernorm", false)? {
        return f.fail("'apply_residual_connection_post_layernorm' is true, which is not supported");
    }
    let intermediate = 4 * hidden;
    if let Some(other) = f.opt_usize("n_inner")?.filter(|width| *width != intermediate) {
        return f.fail(format!("'n_inner' is {other}, which is not supported; only {intermediate} is"));
    }
    let head_dim = hidden / heads.max(1);
    let config = Config {
        architecture: "bloom".to_owned(),
        hidden,
        heads,
        kv_heads: heads,
        head_dim,
        intermediate,
        vocab: f.usize("vocab_size")?,
        context: f.usize("seq_length")?,
        layers: f.plain_layers(depth)?,
        positions: alibi::positions(heads, alibi::USUAL),
        norm: NormKind::Layer,
        norm_eps: f.f64_or("layer_norm_epsilon", 1e-5)? as f32,
        pre_norm: true,
        post_norm: false,
        parallel: false,
        latent: None,
        attention_gate: false,
        qk_norm: QkNorm::None,
        activation: Activation::GeluTanh,
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
    let prefix = llama::prefix(weights, "word_embeddings", "transformer.");
    let outer = |name: &str| TensorRef::new(format!("{prefix}{name}"));
    let tensor_ref = |name: &str| outer(&format!("h.{{}}.{name}")).biased(true);
    let layout = Layout {
        embedding: outer("word_embeddings"),
        embedding_norm: Some(outer("word_embeddings_layernorm").biased(true)),
        position: None,
        first_position: 0,
        final_norm: Some(outer("ln_f").biased(true)),
        head: TensorRef::new(format!("{}lm_head", llama::prefix(weights, "lm_head", ""))),
        normalised_head: false,
        attn_norm: Some(tensor_ref("input_layernorm")),
        first_attn_norm: 0,
        qkv: vec![tensor_ref("self_attention.query_key_value").ordered(RowOrder::PerHeadQkv)],
        qk_norms: None,
        sinks: None,
        latent: None,
        mixer: None,
        attn_gate: None,
        attn_out: tensor_ref("self_attention.dense"),
        post_attn_norm: None,
        mlp_norm: Some(tensor_ref("post_attention_layernorm")),
        up: vec![tensor_ref("mlp.dense_h_to_4h")],
        down: tensor_ref("mlp.dense_4h_to_h"),
        experts: None,
        post_mlp_norm: None,
        norm_offset: 0.0,
        encoder: None,
    };
    Ok(Description::new(config, layout))
}
