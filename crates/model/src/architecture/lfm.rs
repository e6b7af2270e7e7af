//! LFM2: layers of a gated short convolution among those of attention, with norms on the heads of q and k; dense or with
//! experts.
//!
//! Tensors: `operator_norm`, `conv.{in_proj,conv,out_proj}` or `self_attn.{q_proj,k_proj,v_proj,out_proj}` with
//! `self_attn.{q_layernorm,k_layernorm}`, `ffn_norm`, `feed_forward.{w1,w3,w2}` or
//! `feed_forward.{gate,expert_bias,experts.E.{w1,w3,w2}}`; the norm before the head is `embedding_norm`.

use super::fields::{FULL_ATTENTION, RopePlace};
use super::llama::{self, Base};
use super::{Description, Fields, MixerLayout, RowOrder, TensorRef, experts};
use crate::config::{Mixer, QkNorm, Routing, Score, ShortConvolution, impossible_taps};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const LFM2: &str = r#"{
    "num_key_value_heads": 8, "max_position_embeddings": 128000, "norm_eps": 1e-5, "tie_word_embeddings": true,
    "conv_bias": false, "conv_L_cache": 3, "block_multiple_of": 256, "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": true
}"#;

/// Fields that say again what others say, or matter to training alone.
const UNUSED: &[&str] = &[
    "block_dim",
    "block_mlp_init_scale",
    "block_norm_eps",
    "block_out_init_scale",
    "block_use_swiglu",
    "block_use_xavier_init",
    "conv_dim",
    "conv_dim_out",
    "conv_use_xavier_init",
    "num_heads",
    "use_pos_enc",
];

/// As [`LFM2`], for the mixtures of experts.
pub(super) const LFM2_MOE: &str = r#"{
    "num_key_value_heads": 8, "max_position_embeddings": 128000, "norm_eps": 1e-5, "tie_word_embeddings": true,
    "conv_bias": false, "conv_L_cache": 3, "num_dense_layers": 2, "num_experts_per_tok": 4, "num_experts": 32,
    "use_expert_bias": true, "routed_scaling_factor": 1.0, "norm_topk_prob": true, "moe_intermediate_size": 1792
}"#;

/// LFM2 with experts in all layers but the first ones, chosen by sigmoids that a stored number for each corrects.
pub(super) fn describe_experts(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = base(f, weights)?;
    let correction = f.bool_or("use_expert_bias", true)?;
    let routing = Routing {
        on_input: false,
        expert_scale: false,
        score: Score::Sigmoid,
        normalised: f.bool_or("norm_topk_prob", true)?,
        scale: f.f64_or("routed_scaling_factor", 1.0)? as f32,
        correction,
        groups: None,
    };
    let of = experts::experts(f, "moe_intermediate_size", routing)?;
    let first = f.usize("num_dense_layers")?;
    experts::set(&mut d, weights, ("feed_forward", ["w1", "w3", "w2"]), of, |l| l >= first);
    let bias = llama::tensor_ref(&d.layout, "feed_forward.expert_bias").bare();
    d.layout.experts.iter_mut().for_each(|names| names.correction = Some(bias.clone()));
    name(f, &mut d)?;
    Ok(d)
}

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = base(f, weights)?;
    f.ignore(UNUSED);
    d.config.intermediate = intermediate(f)?;
    name(f, &mut d)?;
    Ok(d)
}

/// What both have, without the names of tensors.
fn base(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let rope = RopePlace { theta: (&["rope_theta", "theta"], 1_000_000.0), ..RopePlace::USUAL };
    let mut d = llama::base_with(f, weights, &Base { rope, eps: "norm_eps", ..Base::USUAL })?;
    d.config.tied = f.opt_bool("tie_embedding")?.unwrap_or(d.config.tied);
    mixers(f, &mut d)?;
    d.config.qk_norm = QkNorm::Head;
    Ok(d)
}

/// The width of the MLP, which is made of the one that the configuration gives.
fn intermediate(f: &Fields<'_>) -> Result<usize> {
    let given = f.opt_usize("block_ff_dim")?.map_or_else(|| f.usize("intermediate_size"), Ok)?;
    f.ignore(&["intermediate_size"]);
    let (multiple, factor) = (f.usize("block_multiple_of")?, f.opt_f64("block_ffn_dim_multiplier")?);
    if !f.bool_or("block_auto_adjust_ff_dim", true)? {
        return Ok(given);
    }
    if multiple == 0 {
        return f.fail("'block_multiple_of' is 0; it must be at least 1");
    }
    let share = given.saturating_mul(2) / 3;
    Ok(factor.map_or(share, |factor| ((factor * share as f64) as usize).div_ceil(multiple) * multiple))
}

/// Which layers have a convolution.
fn mixers(f: &Fields<'_>, d: &mut Description) -> Result<()> {
    let convolution = ShortConvolution { channels: d.config.hidden, taps: f.usize("conv_L_cache")? };
    if let Some(what) = impossible_taps(convolution.taps, "conv_L_cache") {
        return f.fail(what);
    }
    let (types, full) = (f.strings("layer_types")?, f.counts("full_attn_idxs")?);
    if types.as_ref().is_some_and(|types| types.len() != d.config.depth()) {
        return f.fail(format!("'layer_types' does not name {} layers", d.config.depth()));
    }
    for (l, layer) in d.config.layers.iter_mut().enumerate() {
        let usual = match &full {
            Some(full) if !full.contains(&l) => "conv",
            _ => FULL_ATTENTION,
        };
        match types.as_ref().map_or(usual, |types| types[l]) {
            FULL_ATTENTION => {}
            "conv" => {
                layer.mixer = Mixer::Convolution(convolution);
                layer.rope = None;
            }
            other => return f.fail(format!("the layer type '{other}' is not supported")),
        }
    }
    Ok(())
}

fn name(f: &Fields<'_>, d: &mut Description) -> Result<()> {
    let bias = f.bool_or("conv_bias", false)?;
    let layout = &mut d.layout;
    let tensor_ref = |name: &str| llama::tensor_ref(layout, name);
    let [attn_norm, mlp_norm] = ["operator_norm", "ffn_norm"].map(tensor_ref);
    let [gate, up, down] = ["w1", "w3", "w2"].map(|name| tensor_ref(&format!("feed_forward.{name}")));
    let [attn_out, q_norm, k_norm] =
        ["out_proj", "q_layernorm", "k_layernorm"].map(|name| tensor_ref(&format!("self_attn.{name}")));
    layout.mixer = Some(MixerLayout {
        input: vec![tensor_ref("conv.in_proj").ordered(RowOrder::OutputGateSecond).biased(bias)],
        conv: tensor_ref("conv.conv").biased(bias),
        recurrence: None,
        out: tensor_ref("conv.out_proj").biased(bias),
    });
    layout.final_norm = layout
        .final_norm
        .as_ref()
        .map(|norm| TensorRef::new(format!("{}embedding_norm", norm.name.trim_end_matches("norm"))));
    (layout.attn_norm, layout.mlp_norm) = (Some(attn_norm), Some(mlp_norm));
    (layout.up, layout.down) = (vec![gate, up], down);
    layout.qk_norms = Some([q_norm, k_norm]);
    layout.attn_out = attn_out;
    Ok(())
}
