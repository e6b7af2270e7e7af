//! InternLM 2: Llama under other names, q, k and v fused key head by key head. InternLM 3: Llama under its own names.

use super::{Description, Fields, RowOrder, TensorRef, llama};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of the configuration class that comes with InternLM 2's files.
pub(super) const INTERNLM2: &str = r#"{
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "bias": true, "rope_theta": 10000.0
}"#;

/// Defaults of transformers.
pub(super) const INTERNLM3: &str = r#"{
    "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5
}"#;

pub(super) fn describe_second(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    let prefix = llama::prefix(weights, "tok_embeddings", "model.");
    let layer = |name: &str| TensorRef::new(format!("{prefix}layers.{{}}.{name}"));
    let bias = f.bool_or("bias", true)?;
    let at = &mut d.layout;
    at.embedding = TensorRef::new(format!("{prefix}tok_embeddings"));
    at.final_norm = Some(TensorRef::new(format!("{prefix}norm")));
    at.head = TensorRef::new(format!("{}output", llama::prefix(weights, "output", "")));
    (at.attn_norm, at.mlp_norm) = (Some(layer("attention_norm")), Some(layer("ffn_norm")));
    at.qkv = vec![layer("attention.wqkv").ordered(RowOrder::PerHeadQkv).biased(bias)];
    at.attn_out = layer("attention.wo").biased(bias);
    at.up = vec![layer("feed_forward.w1"), layer("feed_forward.w3")];
    at.down = layer("feed_forward.w2");
    Ok(d)
}

pub(super) fn describe_third(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    let either =
        |one: &str, other: &str| -> Result<bool> { Ok(f.bool_or(one, false)? | f.bool_or(other, false)?) };
    llama::set_attention_bias(&mut d, either("attention_bias", "qkv_bias")?);
    llama::set_mlp_bias(&mut d, either("mlp_bias", "bias")?);
    Ok(d)
}
