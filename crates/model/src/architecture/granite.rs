//! Granite 3 and 4 (dense): Llama with factors on the embedding, on attention scores, on what each sublayer adds,
//! and on the logits.

use super::{Description, Fields, llama};
use crate::error::Result;
use crate::weights::Weights;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    llama::attention_bias(f, &mut d)?;
    llama::mlp_bias(f, &mut d)?;
    let c = &mut d.config;
    c.embedding_scale = f.f64_or("embedding_multiplier", 1.0)? as f32;
    c.attention_scale = f.f64_or("attention_multiplier", 1.0)? as f32;
    c.residual_scale = f.f64_or("residual_multiplier", 1.0)? as f32;
    c.logit_scale = 1.0 / f.f64_or("logits_scaling", 1.0)? as f32;
    Ok(d)
}
