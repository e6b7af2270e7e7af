//! gpt-oss: a mixture of experts with biases everywhere, local and global layers in turn, attention sinks, and a clamped
//! SwiGLU.
//!
//! Experts are stored as in memory of transformers, `mlp.experts.{gate_up_proj, down_proj}` with a column for each output
//! and gate and up in turn, or as 4-bit floats (MXFP4), `mlp.experts.gate_up_proj_{blocks, scales}`, with a row for each.

use super::{Description, ExpertLayout, Fields, RowOrder, TensorRef, experts, llama};
use crate::error::Result;
use crate::weights::Weights;
use fathom_kernels::elementwise::{Activation, SWIGLU_ALPHA, SWIGLU_LIMIT};

/// Defaults of transformers.
pub(super) const DEFAULTS: &str = r#"{
    "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 150000.0, "sliding_window": 128, "num_experts_per_tok": 4, "num_local_experts": 128,
    "attention_bias": true
}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    if !f.has("rope_parameters") && !f.has("rope_scaling") {
        return f.fail("neither 'rope_parameters' nor 'rope_scaling' says how positions are rotated");
    }
    let mut d = llama::base(f, weights)?;
    // Older names of fields that transformers does not read.
    f.ignore(&["experts_per_token", "initial_context_length"]);
    llama::attention_bias(f, &mut d)?;
    let window = f.opt_usize("sliding_window")?;
    d.config.layers = f.layers(d.config.depth(), window, 0, |l| l.is_multiple_of(2))?;
    for (name, only) in [("swiglu_limit", SWIGLU_LIMIT), ("swiglu_alpha", SWIGLU_ALPHA)] {
        if let Some(other) = f.opt_f64(name)?.filter(|value| *value as f32 != only) {
            return f.fail(format!("'{name}' is {other}, which is not supported; only {only} is"));
        }
    }
    d.config.activation = Activation::ClampedSwiglu;
    let of = experts::experts(f, "intermediate_size", experts::softmax(true))?;
    experts::give(&mut d, of, |_| true);
    let tensor_ref = |name: &str| llama::tensor_ref(&d.layout, name);
    let matrix = |name: &str, order: fn(bool) -> RowOrder| -> TensorRef {
        let stored = tensor_ref(&format!("mlp.experts.{name}")).bare();
        let transposed = !weights.has_mxfp4(&stored.weight(0));
        let bias = format!("{}_bias", stored.name);
        stored.ordered(order(transposed)).biased_by(bias)
    };
    let up = matrix("gate_up_proj", |transposed| RowOrder::InterleavedGate { transposed });
    let down =
        matrix("down_proj", |transposed| if transposed { RowOrder::Transposed } else { RowOrder::AsStored });
    let (sinks, router) = (tensor_ref("self_attn.sinks").bare(), tensor_ref("mlp.router").biased(true));
    d.layout.sinks = Some(sinks);
    d.layout.experts =
        Some(ExpertLayout { router, correction: None, up: vec![up], down, shared: None, shared_gate: None });
    Ok(d)
}
