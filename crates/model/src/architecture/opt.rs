//! OPT: learned positions, of which the first two are unused, layer norms, ReLU. OPT-350m, which has its norms after
//! the sums and a narrow embedding, is refused.

use super::plain::{Names, Sizes};
use super::{Description, Fields, Layout};
use crate::config::Config;
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const DEFAULTS: &str = r#"{
    "max_position_embeddings": 2048, "do_layer_norm_before": true, "enable_bias": true,
    "layer_norm_elementwise_affine": true, "tie_word_embeddings": true
}"#;

const NAMES: Names<'_> = Names {
    prefix: "model.decoder.",
    embedding: "embed_tokens",
    final_norm: "final_layer_norm",
    head: "lm_head",
    layer: "layers.{}.",
    attn_norm: "self_attn_layer_norm",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    attn_out: "self_attn.out_proj",
    mlp_norm: "final_layer_norm",
    up: &["fc1"],
    down: "fc2",
};

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let hidden = f.usize("hidden_size")?;
    for (name, only) in [
        ("do_layer_norm_before", true),
        ("layer_norm_elementwise_affine", true),
        ("_remove_final_layer_norm", false),
    ] {
        if f.bool_or(name, only)? != only {
            return f.fail(format!("'{name}' is {}, which is not supported", !only));
        }
    }
    if f.opt_usize("word_embed_proj_dim")?.is_some_and(|width| width != hidden) {
        return f.fail("'word_embed_proj_dim' differs from 'hidden_size', which is not supported");
    }
    let sizes = Sizes {
        hidden,
        heads: f.usize("num_attention_heads")?,
        intermediate: f.usize("ffn_dim")?,
        vocab: f.usize("vocab_size")?,
        context: f.usize("max_position_embeddings")?,
        layers: f.plain_layers("num_hidden_layers")?,
    };
    let config = Config {
        activation: f.activation("activation_function", "relu")?,
        tied: f.bool_or("tie_word_embeddings", true)?,
        // transformers has no setting for it.
        norm_eps: 1e-5,
        ..sizes.config("opt")
    };
    f.ignore(&["dropout", "activation_dropout", "layerdrop", "init_std"]);
    let layout = Layout {
        position: Some(NAMES.outer(weights, "embed_positions")),
        first_position: 2,
        ..NAMES.layout(weights, true, f.bool_or("enable_bias", true)?)
    };
    Ok(Description::new(config, layout))
}
