//! Qwen3-Next: of every four layers three mix positions by the gated delta rule and one by attention whose output has a
//! gate; a quarter of each head is rotated, norms are stored around zero, and most MLPs are mixtures of experts.
//! Qwen3.5: the same with other names, dense or with experts.
//!
//! Tensors: `linear_attn.{in_proj_qkvz,in_proj_ba}` or `linear_attn.{in_proj_qkv,in_proj_z,in_proj_b,in_proj_a}`,
//! `linear_attn.{conv1d,A_log,dt_bias,norm,out_proj}`; `self_attn.q_proj` has queries and gates, head by head.

use super::fields::{FULL_ATTENTION, RopePlace};
use super::llama::{self, Base};
use super::{Description, Fields, MixerLayout, RecurrenceLayout, RowOrder, experts};
use crate::config::{Mixer, OutputNorm, QkNorm, Recurrence, Update, impossible_recurrence};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const QWEN3_NEXT: &str = r#"{
    "num_key_value_heads": 2, "head_dim": 256, "max_position_embeddings": 32768, "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_num_key_heads": 16, "linear_num_value_heads": 32, "decoder_sparse_step": 1, "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512, "num_experts_per_tok": 10, "num_experts": 512, "norm_topk_prob": true
}"#;

/// As [`QWEN3_NEXT`].
pub(super) const QWEN3_5: &str = r#"{
    "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 32768, "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_num_key_heads": 16, "linear_num_value_heads": 32
}"#;

/// As [`QWEN3_NEXT`]. Every layer has experts.
pub(super) const QWEN3_5_MOE: &str = r#"{
    "intermediate_size": 512, "num_key_value_heads": 2, "head_dim": 256, "max_position_embeddings": 32768,
    "full_attention_interval": 4, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32, "decoder_sparse_step": 1,
    "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_experts_per_tok": 8,
    "num_experts": 256, "norm_topk_prob": true
}"#;

const LINEAR_ATTENTION: &str = "linear_attention";

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = dense(f, weights)?;
    experts::qwen_shared(f, weights, &mut d)?;
    Ok(d)
}

/// Qwen3.5 without experts.
pub(super) fn dense(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let share = Some((&["partial_rotary_factor"][..], 0.25));
    let rope = RopePlace { share, ..RopePlace::USUAL };
    let mut d = llama::base_with(f, weights, &Base { rope, ..Base::USUAL })?;
    llama::attention_bias(f, &mut d)?;
    mixers(f, &mut d)?;
    d.layout.norm_offset = 1.0;
    d.config.qk_norm = QkNorm::Head;
    d.layout.qk_norms = Some(llama::qk_norms(&d.layout));
    d.config.attention_gate = true;
    let queries = d.layout.qkv[0].clone();
    d.layout.attn_gate = Some(queries.clone().ordered(RowOrder::HeadHalves { gates: true }));
    d.layout.qkv[0] = queries.ordered(RowOrder::HeadHalves { gates: false });
    d.layout.mixer = Some(names(&d, weights));
    Ok(d)
}

/// Which layers have a recurrence, and its sizes.
fn mixers(f: &Fields<'_>, d: &mut Description) -> Result<()> {
    let recurrence = Recurrence {
        update: Update::Delta,
        key_heads: f.usize("linear_num_key_heads")?,
        key_width: f.usize("linear_key_head_dim")?,
        heads: f.usize("linear_num_value_heads")?,
        value_width: f.usize("linear_value_head_dim")?,
        taps: f.usize("linear_conv_kernel_dim")?,
        tiled: false,
        norm: OutputNorm::BeforeGate,
        least_time: 0.0,
    };
    const NAMES: [&str; 5] = [
        "linear_num_key_heads",
        "linear_key_head_dim",
        "linear_num_value_heads",
        "linear_value_head_dim",
        "linear_conv_kernel_dim",
    ];
    if let Some(what) = impossible_recurrence(&recurrence, NAMES) {
        return f.fail(what);
    }
    let types = f.strings("layer_types")?;
    let interval = f.usize("full_attention_interval")?;
    if types.as_ref().is_some_and(|types| types.len() != d.config.depth()) {
        return f.fail(format!("'layer_types' does not name {} layers", d.config.depth()));
    }
    if interval == 0 {
        return f.fail("'full_attention_interval' is 0; it must be at least 1");
    }
    for (l, layer) in d.config.layers.iter_mut().enumerate() {
        let usual = if (l + 1).is_multiple_of(interval) { FULL_ATTENTION } else { LINEAR_ATTENTION };
        match types.as_ref().map_or(usual, |types| types[l]) {
            FULL_ATTENTION => {}
            LINEAR_ATTENTION => {
                layer.mixer = Mixer::Recurrence(recurrence);
                layer.rope = None;
            }
            other => return f.fail(format!("the layer type '{other}' is not supported")),
        }
    }
    Ok(())
}

/// The tensors of the delta rule.
fn names(d: &Description, weights: &Weights) -> MixerLayout {
    let tensor_ref = |name: &str| llama::tensor_ref(&d.layout, &format!("linear_attn.{name}"));
    let first = (0..d.config.depth()).find(|l| d.config.recurrence(*l).is_some()).unwrap_or(0);
    let fused = tensor_ref("in_proj_qkvz").ordered(RowOrder::PerKeyHead);
    let input = match weights.has(&fused.weight(first)) {
        true => vec![fused, tensor_ref("in_proj_ba").ordered(RowOrder::NumbersPerKeyHead)],
        false => ["in_proj_z", "in_proj_qkv", "in_proj_b", "in_proj_a"].map(tensor_ref).to_vec(),
    };
    MixerLayout {
        input,
        conv: tensor_ref("conv1d"),
        recurrence: Some(RecurrenceLayout {
            rate: tensor_ref("A_log").bare(),
            negative_rate: false,
            time_bias: tensor_ref("dt_bias").bare(),
            skip: None,
            norm: Some(tensor_ref("norm")),
        }),
        out: tensor_ref("out_proj"),
    }
}
