//! Granite 3 and 4 (dense): Llama with factors on the embedding, on attention scores, on what each sublayer adds,
//! and on the logits. MiniCPM: the same with other names, derived from its widths.

use super::{Description, Fields, llama};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of the configuration class that comes with MiniCPM's files.
pub(super) const MINICPM: &str = r#"{
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "scale_emb": 1.0,
    "dim_model_base": 1, "scale_depth": 1.0
}"#;

pub(super) fn describe_minicpm(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    llama::attention_bias(f, &mut d)?;
    let c = &mut d.config;
    c.embedding_scale = f.f64_or("scale_emb", 1.0)? as f32;
    c.residual_scale = (f.f64_or("scale_depth", 1.0)? / (c.depth() as f64).sqrt()) as f32;
    c.logit_scale = (f.f64_or("dim_model_base", 1.0)? / c.hidden as f64) as f32;
    Ok(d)
}

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
