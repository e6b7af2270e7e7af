//! StableLM: layer norms, a quarter of each head rotated; in the larger models attention and MLP in parallel and
//! norms on each head of q and k.

use super::fields::RopePlace;
use super::llama::Base;
use super::{Description, Fields, llama};
use crate::config::QkNorm;
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const DEFAULTS: &str = r#"{
    "num_key_value_heads": 32, "max_position_embeddings": 4096, "layer_norm_eps": 1e-5,
    "partial_rotary_factor": 0.25
}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base_with(f, weights, &Base { rope: RopePlace::PARTIAL, ..Base::LAYER_NORM })?;
    llama::set_qkv_bias(&mut d, f.bool_or("use_qkv_bias", false)?);
    llama::set_norm_bias(&mut d, true);
    if f.bool_or("use_parallel_residual", false)? {
        llama::share_norm(&mut d);
    }
    if f.bool_or("qk_layernorm", false)? {
        d.config.qk_norm = QkNorm::OwnHead;
        let norm = |p: &str| llama::tensor_ref(&d.layout, &format!("self_attn.{p}_layernorm.norms.{{head}}"));
        d.layout.qk_norms = Some(["q", "k"].map(norm));
    }
    Ok(d)
}
