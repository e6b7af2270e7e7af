//! DeepSeek V2 and V3 (and R1): latent attention, the first layers dense, then many small experts and a shared one.
//!
//! Tensors: `self_attn.{q_proj | q_a_proj, q_a_layernorm, q_b_proj}`, `self_attn.{kv_a_proj_with_mqa, kv_a_layernorm,
//! kv_b_proj, o_proj}`.

use super::fields::RopePlace;
use super::{Description, Fields, KvUpLayout, LatentLayout, RowOrder, experts, glm, llama};
use crate::config::{Groups, Latent, Positions, RopeScaling, Routing};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const V2: &str = r#"{
    "first_k_dense_replace": 0, "kv_lora_rank": 512, "q_lora_rank": 1536, "n_routed_experts": 64,
    "n_shared_experts": 2, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "routed_scaling_factor": 1.0,
    "topk_method": "greedy", "v_head_dim": 128, "moe_intermediate_size": 1407
}"#;

/// As [`V2`].
pub(super) const V3: &str = r#"{
    "max_position_embeddings": 4096, "first_k_dense_replace": 3, "kv_lora_rank": 512, "q_lora_rank": 1536,
    "n_routed_experts": 256, "n_shared_experts": 1, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "routed_scaling_factor": 2.5, "v_head_dim": 128, "moe_intermediate_size": 2048, "n_group": 8, "topk_group": 4,
    "num_experts_per_tok": 8, "norm_topk_prob": true
}"#;

/// Fields that matter to training alone, or say what the family says.
const HARMLESS: &[&str] = &["aux_loss_alpha", "ep_size", "head_dim", "qk_head_dim", "seq_aux"];

pub(super) fn second(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = latent(f, weights, true)?;
    expect(f, "scoring_func", "softmax")?;
    if f.bool_or("norm_topk_prob", false)? {
        return f.fail(
            "'norm_topk_prob' is true, which transformers ignores for this family; it is not supported",
        );
    }
    let groups = match f.opt_str("topk_method")?.unwrap_or("greedy") {
        "greedy" => {
            f.ignore(&["n_group", "topk_group"]);
            None
        }
        "group_limited_greedy" => {
            Some(Groups { count: f.usize("n_group")?, kept: f.usize("topk_group")?, best: 1 })
        }
        other => return f.fail(format!("'topk_method' is '{other}', which is not supported")),
    };
    let scale = f.f64_or("routed_scaling_factor", 1.0)? as f32;
    let routing = Routing { scale, groups, ..experts::softmax(false) };
    glm::from_layer(f, weights, &mut d, routing)?;
    Ok(d)
}

pub(super) fn third(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let interleaved = f.bool_or("rope_interleave", true)?;
    let mut d = latent(f, weights, interleaved)?;
    expect(f, "scoring_func", "sigmoid")?;
    expect(f, "topk_method", "noaux_tc")?;
    glm::corrected(f, weights, &mut d)?;
    Ok(d)
}

/// Refuses a field that is not as the family has it.
fn expect(f: &Fields<'_>, name: &str, only: &str) -> Result<()> {
    match f.opt_str(name)? {
        Some(other) if other != only => {
            f.fail(format!("'{name}' is '{other}', which is not supported; only '{only}' is"))
        }
        _ => Ok(()),
    }
}

/// The description without experts.
fn latent(f: &Fields<'_>, weights: &Weights, interleaved: bool) -> Result<Description> {
    f.ignore(HARMLESS);
    if f.opt_usize("moe_layer_freq")?.is_some_and(|every| every != 1) {
        return f.fail("'moe_layer_freq' is not 1, which is not supported");
    }
    let mut d = llama::base(f, weights)?;
    let of = Latent {
        q_rank: f.opt_usize("q_lora_rank")?,
        rank: f.usize("kv_lora_rank")?,
        rotated: f.usize("qk_rope_head_dim")?,
        plain: f.usize("qk_nope_head_dim")?,
        value: f.usize("v_head_dim")?,
    };
    let c = &mut d.config;
    c.kv_heads = c.heads;
    c.head_dim = of.width();
    c.latent = Some(of);
    let rope = f.rope(&RopePlace::USUAL, of.rotated)?;
    c.attention_scale = attention_scale(f, of.width(), &rope.scaling)?;
    c.positions = Positions::Rotary(vec![rope]);
    let bias = f.bool_or("attention_bias", false)?;
    let tensor_ref = |name: &str| llama::tensor_ref(&d.layout, &format!("self_attn.{name}"));
    let order = RowOrder::RotatedLast { interleaved };
    let has_low = of.q_rank.is_some();
    let names = LatentLayout {
        q_down: has_low.then(|| [tensor_ref("q_a_proj").biased(bias), tensor_ref("q_a_layernorm")]),
        q: tensor_ref(if has_low { "q_b_proj" } else { "q_proj" }).ordered(order),
        kv_down: tensor_ref("kv_a_proj_with_mqa").biased(bias),
        kv_norm: tensor_ref("kv_a_layernorm"),
        order,
        kv_up: KvUpLayout::Whole(tensor_ref("kv_b_proj")),
    };
    d.layout.latent = Some(names);
    d.layout.qkv = Vec::new();
    d.layout.attn_out.bias = bias;
    llama::mlp_bias(f, &mut d)?;
    if d.layout.down.bias {
        return f.fail("'mlp_bias' is true, which is not supported for this family");
    }
    Ok(d)
}

/// One over the root of the width of a head, times the square of YaRN's factor where `mscale_all_dim` asks for it.
fn attention_scale(f: &Fields<'_>, width: usize, scaling: &RopeScaling) -> Result<f32> {
    let plain = 1.0 / (width as f64).sqrt();
    let RopeScaling::Yarn { factor, .. } = scaling else { return Ok(plain as f32) };
    let inside = |name| f.object(name)?.map_or(Ok(None), |object| object.opt_f64("mscale_all_dim"));
    let all = inside("rope_scaling")?.or(inside("rope_parameters")?).unwrap_or(0.0);
    let grown = if all == 0.0 || *factor <= 1.0 { 1.0 } else { 0.1 * all * factor.ln() + 1.0 };
    Ok((plain * grown * grown) as f32)
}
