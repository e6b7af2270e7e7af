//! Granite 3, and 4 without experts and Mamba layers: Llama with factors on the embedding, on attention scores, on what each sublayer adds,
//! and on the logits. MiniCPM: the same with other names, derived from its widths.

use super::{Description, ExpertLayout, Fields, experts, llama};
use crate::config::Experts;
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers for Granite 4.
pub(super) const GRANITE4: &str = r#"{"num_local_experts": 8, "shared_intermediate_size": 1024}"#;

/// Fields about experts and Mamba layers, which do not matter where there are none.
const UNUSED: &[&str] = &[
    "intermediate_size",
    "mamba_chunk_size",
    "mamba_conv_bias",
    "mamba_d_conv",
    "mamba_d_head",
    "mamba_d_state",
    "mamba_expand",
    "mamba_n_groups",
    "mamba_n_heads",
    "mamba_proj_bias",
    "num_experts_per_tok",
    "output_router_logits",
    "router_aux_loss_coef",
    "time_step_limit",
    "time_step_max",
    "time_step_min",
];

/// Granite 4 in the form that can also hold experts and Mamba layers.
pub(super) fn describe_fourth(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = describe(f, weights)?;
    let experts = f.usize("num_local_experts")?;
    if experts > 0 {
        return f.fail(format!(
            "the model is a mixture of experts ('num_local_experts' is {experts}), which is not supported; choose a dense model"
        ));
    }
    let types = f.strings("layer_types")?.or(f.strings("layers_block_type")?);
    let types = types.unwrap_or_else(|| vec!["mamba"]);
    if let Some(other) = types.iter().find(|kind| !["attention", "full_attention"].contains(kind)) {
        return f
            .fail(format!("the layer type '{other}' is not supported; choose a model of attention layers"));
    }
    f.ignore(UNUSED);
    if f.opt_str("position_embedding_type")? != Some("rope") {
        d.config.layers.iter_mut().for_each(|layer| layer.rope = None);
    }
    d.config.intermediate = f.usize("shared_intermediate_size")?;
    d.layout.up = vec![llama::tensor_ref(&d.layout, "shared_mlp.input_linear")];
    d.layout.down = llama::tensor_ref(&d.layout, "shared_mlp.output_linear");
    Ok(d)
}

/// Defaults of transformers for Granite's mixtures of experts.
pub(super) const GRANITE_MOE: &str = r#"{
    "num_local_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 1024
}"#;

/// A mixture of experts, each token's weights being the softmax over the experts it takes; with a shared expert in
/// 'granitemoeshared'.
pub(super) fn describe_experts(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = describe(f, weights)?;
    let mut of = experts::experts(f, "intermediate_size", experts::softmax(true))?;
    if d.config.architecture == "granitemoeshared" {
        of = Experts { shared: f.usize("shared_intermediate_size")?, ..of };
    }
    experts::give(&mut d, of, |_| true);
    let tensor_ref = |name: &str| llama::tensor_ref(&d.layout, name);
    let experts = ExpertLayout {
        router: tensor_ref("block_sparse_moe.router.layer"),
        correction: None,
        up: vec![tensor_ref("block_sparse_moe.input_linear")],
        down: tensor_ref("block_sparse_moe.output_linear"),
        shared: Some((vec![tensor_ref("shared_mlp.input_linear")], tensor_ref("shared_mlp.output_linear"))),
        shared_gate: None,
    };
    d.layout.experts = Some(experts);
    Ok(d)
}

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
