//! StarCoder2: layer norms, biases and an MLP without a gate in Llama's block.

use super::llama::Base;
use super::{Description, Fields, llama};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const DEFAULTS: &str = r#"{
    "num_key_value_heads": 2, "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 4096,
    "norm_epsilon": 1e-5, "tie_word_embeddings": true
}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base_with(f, weights, &Base { eps: "norm_epsilon", ..Base::LAYER_NORM })?;
    d.config.layers = f.layers(d.config.depth(), f.opt_usize("sliding_window")?, 0, |_| true)?;
    d.config.gated = false;
    d.layout.up = vec![llama::tensor_ref(&d.layout, "mlp.c_fc")];
    d.layout.down = llama::tensor_ref(&d.layout, "mlp.c_proj");
    let bias = f.bool_or("use_bias", true)?;
    llama::set_attention_bias(&mut d, bias);
    llama::set_mlp_bias(&mut d, bias);
    llama::set_norm_bias(&mut d, true);
    Ok(d)
}
