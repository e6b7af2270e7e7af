//! Families that differ from Llama in one or two things: Hunyuan (norms on q and k behind the rotation), ERNIE 4.5
//! (rotated pairs side by side), Seed-OSS (biases), Nemotron (layer norms stored around zero, squared ReLU).

use super::fields::RopePlace;
use super::llama::Base;
use super::{Description, Fields, llama};
use crate::config::QkNorm;
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const HUNYUAN: &str = r#"{"max_position_embeddings": 2048, "rms_norm_eps": 1e-5}"#;

/// As [`HUNYUAN`].
pub(super) const ERNIE: &str = r#"{
    "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "tie_word_embeddings": true
}"#;

/// As [`HUNYUAN`].
pub(super) const SEED_OSS: &str = r#"{
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 524288, "attention_bias": true
}"#;

/// As [`HUNYUAN`].
pub(super) const NEMOTRON: &str = r#"{
    "hidden_act": "relu2", "max_position_embeddings": 4096, "norm_eps": 1e-5, "partial_rotary_factor": 0.5
}"#;

pub(super) fn hunyuan(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    llama::attention_bias(f, &mut d)?;
    d.config.qk_norm = QkNorm::HeadRotated;
    let norm = |p: &str| llama::tensor_ref(&d.layout, &format!("self_attn.{p}_layernorm"));
    d.layout.qk_norms = Some(["query", "key"].map(norm));
    Ok(d)
}

pub(super) fn ernie(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    let bias = f.bool_or("use_bias", false)?;
    llama::set_attention_bias(&mut d, bias);
    llama::set_mlp_bias(&mut d, bias);
    llama::interleave(&mut d);
    Ok(d)
}

pub(super) fn seed_oss(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    llama::attention_bias(f, &mut d)?;
    d.layout.attn_out.bias = f.bool_or("attention_out_bias", false)?;
    llama::mlp_bias(f, &mut d)?;
    Ok(d)
}

pub(super) fn nemotron(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let own = Base { rope: RopePlace::PARTIAL, eps: "norm_eps", ..Base::LAYER_NORM };
    let mut d = llama::base_with(f, weights, &own)?;
    d.config.gated = false;
    d.layout.up = vec![llama::tensor_ref(&d.layout, "mlp.up_proj")];
    llama::attention_bias(f, &mut d)?;
    llama::mlp_bias(f, &mut d)?;
    llama::set_norm_bias(&mut d, true);
    d.layout.norm_offset = 1.0;
    Ok(d)
}
