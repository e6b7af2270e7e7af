//! Phi-3: Llama with fused q, k, v, fused gate and up, and LongRoPE in the long-context variants.
//! Phi-1, 1.5 and 2: attention and MLP in parallel behind one layer norm, biases everywhere, part of each head
//! rotated.

use super::fields::RopePlace;
use super::llama::Base;
use super::{Description, Fields, TensorRef, llama};
use crate::config::QkNorm;
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers for Phi-1 and 2.
pub(super) const PHI: &str = r#"{
    "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5
}"#;

/// Defaults of transformers for Phi-3.
pub(super) const DEFAULTS: &str = r#"{
    "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096
}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base_with(f, weights, &Base { rope: RopePlace::PARTIAL, ..Base::USUAL })?;
    d.config.layers = f.layers(d.config.depth(), f.opt_usize("sliding_window")?, 0, |_| true)?;
    d.layout.qkv = vec![llama::tensor_ref(&d.layout, "self_attn.qkv_proj")];
    d.layout.up = vec![llama::tensor_ref(&d.layout, "mlp.gate_up_proj")];
    Ok(d)
}

pub(super) fn describe_first(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base_with(f, weights, &Base { rope: RopePlace::PARTIAL, ..Base::LAYER_NORM })?;
    let at = |d: &Description, name: &str| llama::tensor_ref(&d.layout, name).biased(true);
    if f.bool_or("qk_layernorm", false)? {
        d.config.qk_norm = QkNorm::Head;
        d.layout.qk_norms = Some(["q", "k"].map(|p| at(&d, &format!("self_attn.{p}_layernorm"))));
    }
    d.config.gated = false;
    (d.layout.up, d.layout.down) = (vec![at(&d, "mlp.fc1")], at(&d, "mlp.fc2"));
    let embedding = &d.layout.embedding.name;
    let prefix = embedding.trim_end_matches("embed_tokens");
    d.layout.final_norm = Some(TensorRef::new(format!("{prefix}final_layernorm")));
    d.layout.attn_out = at(&d, "self_attn.dense");
    d.layout.head.bias = true;
    llama::set_qkv_bias(&mut d, true);
    llama::set_norm_bias(&mut d, true);
    llama::share_norm(&mut d);
    Ok(d)
}
