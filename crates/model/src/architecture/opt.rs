//! OPT: learned positions, of which the first two are unused, layer norms, ReLU. OPT-350m, which has its norms after
//! the sums and a narrow embedding, is refused.

use super::{Description, Fields, Layout, TensorRef, llama};
use crate::config::{Config, Multipliers, NormKind, Positions, QkNorm};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const DEFAULTS: &str = r#"{
    "max_position_embeddings": 2048, "do_layer_norm_before": true, "enable_bias": true,
    "layer_norm_elementwise_affine": true, "tie_word_embeddings": true
}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let (hidden, heads) = (f.usize("hidden_size")?, f.usize("num_attention_heads")?);
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
    let head_dim = hidden / heads.max(1);
    let config = Config {
        architecture: "opt".to_owned(),
        hidden,
        heads,
        kv_heads: heads,
        head_dim,
        intermediate: f.usize("ffn_dim")?,
        vocab: f.usize("vocab_size")?,
        context: f.usize("max_position_embeddings")?,
        layers: f.plain_layers("num_hidden_layers")?,
        positions: Positions::Learned,
        norm: NormKind::Layer,
        // transformers has no setting for it.
        norm_eps: 1e-5,
        pre_norm: true,
        post_norm: false,
        parallel: false,
        latent: None,
        attention_gate: false,
        qk_norm: QkNorm::None,
        activation: f.activation("activation_function", "relu")?,
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
    f.ignore(&["dropout", "activation_dropout", "layerdrop", "init_std"]);
    let bias = f.bool_or("enable_bias", true)?;
    let prefix = llama::prefix(weights, "embed_tokens", "model.decoder.");
    let tensor_ref = |name: &str| TensorRef::new(format!("{prefix}layers.{{}}.{name}")).biased(bias);
    let norm = |name: &str| Some(tensor_ref(name).biased(true));
    let layout = Layout {
        embedding: TensorRef::new(format!("{prefix}embed_tokens")),
        position: Some(TensorRef::new(format!("{prefix}embed_positions"))),
        first_position: 2,
        final_norm: Some(TensorRef::new(format!("{prefix}final_layer_norm")).biased(true)),
        head: TensorRef::new(format!("{}lm_head", llama::prefix(weights, "lm_head", ""))),
        attn_norm: norm("self_attn_layer_norm"),
        qkv: ["q", "k", "v"].map(|p| tensor_ref(&format!("self_attn.{p}_proj"))).to_vec(),
        qk_norms: None,
        latent: None,
        mixer: None,
        attn_gate: None,
        attn_out: tensor_ref("self_attn.out_proj"),
        post_attn_norm: None,
        mlp_norm: norm("final_layer_norm"),
        up: vec![tensor_ref("fc1")],
        down: tensor_ref("fc2"),
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
