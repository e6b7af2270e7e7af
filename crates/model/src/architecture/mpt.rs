//! MPT: ALiBi, layer norms and matrices without biases, q, k and v fused, GELU.

use super::{Description, Fields, Layout, TensorRef, alibi, experts, llama};
use crate::config::{Config, Multipliers, NormKind, QkNorm};
use crate::error::Result;
use crate::weights::Weights;
use fathom_kernels::elementwise::Activation;

/// Defaults of transformers.
pub(super) const DEFAULTS: &str =
    r#"{"max_seq_len": 2048, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true, "no_bias": true}"#;

/// Fields about training, initial weights and implementations.
const UNUSED: &[&str] = &[
    "emb_pdrop",
    "embedding_fraction",
    "init_config",
    "init_device",
    // There are no learned positions beside ALiBi.
    "learned_pos_emb",
    "tokenizer_name",
    "verbose",
];

/// Factor on the logits and kinds of norms, which transformers does not read.
fn check(f: &Fields<'_>) -> Result<()> {
    if !f.bool_or("no_bias", true)? {
        return f.fail("'no_bias' is false, which is not supported");
    }
    if f.has("logit_scale") {
        return f.fail("'logit_scale' is set, which is not supported");
    }
    if let Some(other) = f.opt_str("norm_type")?.filter(|kind| !kind.ends_with("layernorm")) {
        return f.fail(format!(
            "the norm '{other}' is not supported (layernorm and low_precision_layernorm are)"
        ));
    }
    match f.opt_usize("expansion_ratio")?.unwrap_or(4) {
        4 => Ok(()),
        other => f.fail(format!("'expansion_ratio' is {other}, which is not supported; only 4 is")),
    }
}

/// The scale of attention, if one is set, and the largest exponent of the slopes.
fn attention(f: &Fields<'_>) -> Result<(Option<f64>, f64)> {
    let Some(of) = f.object("attn_config")? else { return Ok((None, alibi::USUAL)) };
    of.ignore(&["attn_impl", "attn_pdrop", "attn_uses_sequence_id", "model_type"]);
    for (name, only) in [("alibi", true), ("prefix_lm", false), ("qk_ln", false)] {
        if of.bool_or(name, only)? != only {
            return f.fail(format!("'attn_config.{name}' is {}, which is not supported", !only));
        }
    }
    if let Some(other) = of.opt_str("attn_type")?.filter(|kind| *kind != "multihead_attention") {
        return f.fail(format!(
            "'attn_config.attn_type' is '{other}', which is not supported; only 'multihead_attention' is"
        ));
    }
    if of.opt_f64("clip_qkv")?.is_some_and(|limit| limit != 0.0) {
        return f.fail("'attn_config.clip_qkv' limits queries, keys and values, which is not supported");
    }
    Ok((of.opt_f64("softmax_scale")?, of.f64_or("alibi_bias_max", alibi::USUAL)?))
}

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let hidden = experts::either(f, ["d_model", "hidden_size"])?;
    let heads = experts::either(f, ["n_heads", "num_attention_heads"])?;
    let depth = if f.has("n_layers") { "n_layers" } else { "num_hidden_layers" };
    check(f)?;
    f.ignore(UNUSED);
    f.ignore(&["num_hidden_layers"]);
    let (scale, max) = attention(f)?;
    let head_dim = hidden / heads.max(1);
    let config = Config {
        architecture: "mpt".to_owned(),
        hidden,
        heads,
        kv_heads: heads,
        head_dim,
        intermediate: 4 * hidden,
        vocab: f.usize("vocab_size")?,
        context: f.usize("max_seq_len")?,
        layers: f.plain_layers(depth)?,
        positions: alibi::positions(heads, max),
        norm: NormKind::Layer,
        norm_eps: f.f64_or("layer_norm_epsilon", 1e-5)? as f32,
        pre_norm: true,
        post_norm: false,
        parallel: false,
        latent: None,
        attention_gate: false,
        qk_norm: QkNorm::None,
        activation: Activation::GeluErf,
        gated: false,
        attention_scale: scale.map_or(1.0 / (head_dim as f32).sqrt(), |scale| scale as f32),
        attention_softcap: None,
        final_softcap: None,
        embedding_scale: 1.0,
        residual_scale: 1.0,
        multipliers: Multipliers::NONE,
        logit_scale: 1.0,
        encoder: None,
        tied: f.bool_or("tie_word_embeddings", true)?,
    };
    let prefix = llama::prefix(weights, "wte", "transformer.");
    let outer = |name: &str| TensorRef::new(format!("{prefix}{name}"));
    let tensor_ref = |name: &str| outer(&format!("blocks.{{}}.{name}"));
    let layout = Layout {
        embedding: outer("wte"),
        embedding_norm: None,
        position: None,
        first_position: 0,
        final_norm: Some(outer("norm_f")),
        head: TensorRef::new(format!("{}lm_head", llama::prefix(weights, "lm_head", ""))),
        normalised_head: false,
        attn_norm: Some(tensor_ref("norm_1")),
        first_attn_norm: 0,
        qkv: vec![tensor_ref("attn.Wqkv")],
        qk_norms: None,
        sinks: None,
        latent: None,
        mixer: None,
        attn_gate: None,
        attn_out: tensor_ref("attn.out_proj"),
        post_attn_norm: None,
        mlp_norm: Some(tensor_ref("norm_2")),
        up: vec![tensor_ref("ffn.up_proj")],
        down: tensor_ref("ffn.down_proj"),
        experts: None,
        post_mlp_norm: None,
        norm_offset: 0.0,
        encoder: None,
    };
    let mut d = Description::new(config, layout);
    if max != alibi::USUAL {
        d.warnings.push(format!(
            "'attn_config.alibi_bias_max' is {max} and is honoured; transformers takes {} whatever it says",
            alibi::USUAL
        ));
    }
    Ok(d)
}
