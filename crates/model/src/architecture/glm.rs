//! GLM-4.5 and 4.6 (GLM-4 MoE): the first layers dense, then experts chosen by the sigmoid of the router's logits, whose
//! choice a stored number for each expert corrects. Half of each head is rotated; there may be norms on heads.

use super::fields::RopePlace;
use super::{Description, Fields, experts, llama};
use crate::config::{Experts, Groups, QkNorm, Routing, Score};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const GLM4_MOE: &str = r#"{
    "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "moe_intermediate_size": 1408,
    "num_experts_per_tok": 8, "n_shared_experts": 1, "n_routed_experts": 128, "routed_scaling_factor": 1.0,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "norm_topk_prob": true
}"#;

const HALF: llama::Base = llama::Base {
    rope: RopePlace { share: Some((&["partial_rotary_factor"], 0.5)), ..RopePlace::USUAL },
    ..llama::Base::USUAL
};

pub(super) fn describe_experts(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base_with(f, weights, &HALF)?;
    llama::set_qkv_bias(&mut d, f.bool_or("attention_bias", false)?);
    if f.bool_or("use_qk_norm", false)? {
        d.config.qk_norm = QkNorm::Head;
        d.layout.qk_norms = Some(llama::qk_norms(&d.layout));
    }
    corrected(f, weights, &mut d)?;
    Ok(d)
}

/// Experts chosen by corrected sigmoids.
pub(super) fn corrected(f: &Fields<'_>, weights: &Weights, d: &mut Description) -> Result<()> {
    let (count, kept) = (f.usize("n_group")?, f.usize("topk_group")?);
    let routing = Routing {
        score: Score::Sigmoid,
        normalised: f.bool_or("norm_topk_prob", true)?,
        scale: f.f64_or("routed_scaling_factor", 1.0)? as f32,
        correction: true,
        on_input: false,
        expert_scale: false,
        groups: (count > 1).then_some(Groups { count, kept, best: 2 }),
    };
    from_layer(f, weights, d, routing)?;
    let correction = llama::tensor_ref(&d.layout, "mlp.gate.e_score_correction_bias").bare();
    d.layout.experts.iter_mut().for_each(|experts| experts.correction = Some(correction.clone()));
    Ok(())
}

/// Experts and a shared one, from the layer that 'first_k_dense_replace' says on.
pub(super) fn from_layer(
    f: &Fields<'_>,
    weights: &Weights,
    d: &mut Description,
    routing: Routing,
) -> Result<()> {
    // Layers for the prediction of further tokens are stored behind the last one and are not part of the model.
    f.ignore(&["num_nextn_predict_layers", "num_mtp_layers", "output_router_logits", "router_aux_loss_coef"]);
    let width = f.usize("moe_intermediate_size")?;
    let of = Experts {
        count: experts::either(f, ["n_routed_experts", "num_local_experts"])?,
        active: f.usize("num_experts_per_tok")?,
        width,
        shared: width.saturating_mul(f.usize("n_shared_experts")?),
        shared_gate: false,
        routing,
    };
    let first = f.usize("first_k_dense_replace")?;
    experts::set(d, weights, experts::PROJECTIONS, of, |l| l >= first);
    experts::name_shared(d, "mlp.shared_experts");
    Ok(())
}
