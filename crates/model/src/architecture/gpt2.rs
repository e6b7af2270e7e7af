//! GPT-2: learned positions, layer norms with bias, matrices stored transposed.

use super::plain::{Names, Sizes};
use super::{Description, Fields, Layout, RowOrder};
use crate::config::Config;
use crate::error::Result;
use crate::weights::Weights;

const NAMES: Names<'_> = Names {
    // The first published files omit it.
    prefix: "transformer.",
    embedding: "wte",
    final_norm: "ln_f",
    head: "lm_head",
    layer: "h.{}.",
    attn_norm: "ln_1",
    qkv: &["attn.c_attn"],
    attn_out: "attn.c_proj",
    mlp_norm: "ln_2",
    up: &["mlp.c_fc"],
    down: "mlp.c_proj",
};

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let hidden = f.usize("n_embd")?;
    if f.bool_or("scale_attn_by_inverse_layer_idx", false)? {
        return f.fail("'scale_attn_by_inverse_layer_idx' is not supported");
    }
    let sizes = Sizes {
        hidden,
        heads: f.usize("n_head")?,
        intermediate: f.opt_usize("n_inner")?.unwrap_or(4 * hidden),
        vocab: f.usize("vocab_size")?,
        context: f.opt_usize("n_positions")?.unwrap_or(1024),
        layers: f.plain_layers("n_layer")?,
    };
    let mut config = Config {
        norm_eps: f.f64_or("layer_norm_epsilon", 1e-5)? as f32,
        activation: f.activation("activation_function", "gelu_new")?,
        tied: f.bool_or("tie_word_embeddings", true)?,
        ..sizes.config("gpt2")
    };
    if !f.bool_or("scale_attn_weights", true)? {
        config.attention_scale = 1.0;
    }
    let mut layout =
        Layout { position: Some(NAMES.outer(weights, "wpe")), ..NAMES.layout(weights, true, true) };
    let Layout { qkv, attn_out, up, down, .. } = &mut layout;
    for matrix in [&mut qkv[0], attn_out, &mut up[0], down] {
        matrix.order = RowOrder::Transposed;
    }
    Ok(Description::new(config, layout))
}
