//! Granite 3: Llama with factors on the embedding, on attention scores, on what each sublayer adds, and on the logits.
//! Granite 4: the same with layers of Mamba 2 among those of attention, and experts or not. MiniCPM: Granite 3 with other
//! names, derived from its widths.
//!
//! Tensors of Mamba 2: `mamba.{in_proj,conv1d,A_log,dt_bias,D,norm,out_proj}`.

use super::{Description, ExpertLayout, Fields, MixerLayout, experts, llama, mamba};
use crate::config::{Experts, Mixer, Recurrence};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers for Granite 4.
pub(super) const GRANITE4: &str = r#"{
    "num_local_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 1024, "mamba_n_heads": 128,
    "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_head": "auto", "mamba_d_conv": 4, "mamba_expand": 2
}"#;

/// Fields that only matter to how a computation is divided, or to training.
const UNUSED: &[&str] = &["mamba_chunk_size", "time_step_max", "time_step_min"];

/// As [`UNUSED`], where there are no experts.
const OF_EXPERTS: &[&str] =
    &["intermediate_size", "num_experts_per_tok", "output_router_logits", "router_aux_loss_coef"];

/// Granite 4.
pub(super) fn describe_fourth(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = describe(f, weights)?;
    f.ignore(UNUSED);
    let shared = f.usize("shared_intermediate_size")?;
    if f.usize("num_local_experts")? > 0 {
        let of = experts::experts(f, "intermediate_size", experts::softmax(true))?;
        give_experts(&mut d, Experts { shared, ..of });
    } else {
        f.ignore(OF_EXPERTS);
        d.config.intermediate = shared;
        d.layout.up = vec![llama::tensor_ref(&d.layout, "shared_mlp.input_linear")];
        d.layout.down = llama::tensor_ref(&d.layout, "shared_mlp.output_linear");
    }
    if f.opt_str("position_embedding_type")? != Some("rope") {
        d.config.layers.iter_mut().for_each(|layer| layer.rope = None);
    }
    mixers(f, &mut d)?;
    Ok(d)
}

/// Which layers are those of Mamba 2, their sizes and tensors.
fn mixers(f: &Fields<'_>, d: &mut Description) -> Result<()> {
    let recurrence = sizes(f, d.config.hidden)?;
    let types = f.strings("layer_types")?.or(f.strings("layers_block_type")?);
    if types.as_ref().is_some_and(|types| types.len() != d.config.depth()) {
        return f.fail(format!("'layer_types' does not name {} layers", d.config.depth()));
    }
    for (l, layer) in d.config.layers.iter_mut().enumerate() {
        match types.as_ref().map_or("mamba", |types| types[l]) {
            "attention" | "full_attention" => {}
            "mamba" | "linear_attention" => {
                layer.mixer = Mixer::Recurrence(recurrence);
                layer.rope = None;
            }
            other => return f.fail(format!("the layer type '{other}' is not supported")),
        }
    }
    if d.config.first_recurrence().is_some() {
        d.layout.mixer = Some(mamba_names(f, d)?);
    } else {
        f.ignore(&["mamba_conv_bias", "mamba_proj_bias"]);
    }
    Ok(())
}

/// The sizes of Mamba 2's recurrence.
fn sizes(f: &Fields<'_>, hidden: usize) -> Result<Recurrence> {
    let inner = f.usize("mamba_expand")?.saturating_mul(hidden);
    mamba::sizes(f, mamba::SIZES, (inner, "'mamba_expand' times 'hidden_size'"))
}

fn mamba_names(f: &Fields<'_>, d: &Description) -> Result<MixerLayout> {
    let bias = f.bool_or("mamba_proj_bias", false)?;
    let tensor_ref = |name: &str| llama::tensor_ref(&d.layout, &format!("mamba.{name}"));
    let names = mamba::names(tensor_ref, [bias, bias], true);
    Ok(mamba::with_conv_bias(names, f.bool_or("mamba_conv_bias", true)?))
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
    give_experts(&mut d, of);
    Ok(d)
}

/// Gives experts to all layers, and names their tensors.
fn give_experts(d: &mut Description, of: Experts) {
    experts::give(d, of, |_| true);
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
