//! BLOOM: ALiBi, layer norms, one of them on the embedding, q, k and v fused head by head, GELU.

use super::plain::{Names, Sizes};
use super::{Description, Fields, RowOrder, alibi, experts};
use crate::config::Config;
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

/// The names of the tensors, which Falcon shares.
pub(super) const NAMES: Names<'_> = Names {
    prefix: "transformer.",
    embedding: "word_embeddings",
    final_norm: "ln_f",
    head: "lm_head",
    layer: "h.{}.",
    attn_norm: "input_layernorm",
    qkv: &["self_attention.query_key_value"],
    attn_out: "self_attention.dense",
    mlp_norm: "post_attention_layernorm",
    up: &["mlp.dense_h_to_4h"],
    down: "mlp.dense_4h_to_h",
};

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
    let sizes = Sizes {
        hidden,
        heads,
        intermediate,
        vocab: f.usize("vocab_size")?,
        context: f.usize("seq_length")?,
        layers: f.plain_layers(depth)?,
    };
    let config = Config {
        positions: alibi::positions(heads, alibi::USUAL),
        norm_eps: f.f64_or("layer_norm_epsilon", 1e-5)? as f32,
        activation: Activation::GeluTanh,
        tied: f.bool_or("tie_word_embeddings", true)?,
        ..sizes.config("bloom")
    };
    let mut layout = NAMES.layout(weights, true, true);
    layout.embedding_norm = Some(NAMES.outer(weights, "word_embeddings_layernorm").biased(true));
    layout.qkv[0].order = RowOrder::PerHeadQkv;
    Ok(Description::new(config, layout))
}
