//! Phi-3: Llama with fused q, k, v, fused gate and up, and LongRoPE in the long-context variants.

use super::{Description, Fields, llama};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const DEFAULTS: &str = r#"{
    "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096
}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    d.config.layers = f.layers(d.config.depth(), f.opt_usize("sliding_window")?, 0, |_| true)?;
    d.layout.qkv = vec![llama::tensor_ref(&d.layout, "self_attn.qkv_proj")];
    d.layout.up = vec![llama::tensor_ref(&d.layout, "mlp.gate_up_proj")];
    Ok(d)
}
