//! Mixtures of experts: Mixtral, Qwen2-MoE, Qwen3-MoE and OLMoE, and what other families share with them.
//!
//! Tensors: `mlp.gate` (the router), `mlp.experts.E.{gate,up,down}_proj`, `mlp.shared_expert`; Mixtral has
//! `block_sparse_moe.experts.E.{w1,w3,w2}`. transformers 5 holds the experts of a layer in one tensor,
//! `mlp.experts.{gate_up_proj,down_proj}`, which is read too.

use super::{Description, ExpertLayout, Fields, llama, qwen};
use crate::config::{Experts, Mlp, QkNorm, Routing, Score};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const MIXTRAL: &str = r#"{
    "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
    "num_experts_per_tok": 2, "num_local_experts": 8
}"#;

/// As [`MIXTRAL`].
pub(super) const QWEN3_MOE: &str = r#"{
    "num_key_value_heads": 4, "max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28,
    "decoder_sparse_step": 1, "moe_intermediate_size": 768, "num_experts_per_tok": 8, "num_experts": 128
}"#;

/// As [`MIXTRAL`].
pub(super) const QWEN2_MOE: &str = r#"{
    "num_key_value_heads": 16, "max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28,
    "decoder_sparse_step": 1, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
    "num_experts_per_tok": 4, "num_experts": 60
}"#;

/// As [`MIXTRAL`].
pub(super) const OLMOE: &str = r#"{
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "num_experts_per_tok": 8, "num_experts": 64
}"#;

/// Fields that matter to training alone.
const TRAINING: &[&str] = &["output_router_logits", "router_aux_loss_coef", "router_jitter_noise"];

/// The softmax over all experts, the weights as they are or divided by their sum.
pub(super) fn softmax(normalised: bool) -> Routing {
    Routing {
        score: Score::Softmax,
        normalised,
        scale: 1.0,
        correction: false,
        on_input: false,
        expert_scale: false,
        groups: None,
    }
}

/// A field that has had two names.
pub(super) fn either(f: &Fields<'_>, names: [&str; 2]) -> Result<usize> {
    let [new, old] = names;
    f.ignore(&names);
    match f.has(old) && !f.has(new) {
        true => f.usize(old),
        // One of the two has a default.
        false => f.opt_usize(new)?.map_or_else(|| f.usize(old), Ok),
    }
}

/// Experts of the width that `width` names, chosen by the fields that all families have.
pub(super) fn experts(f: &Fields<'_>, width: &str, routing: Routing) -> Result<Experts> {
    f.ignore(TRAINING);
    Ok(Experts {
        count: either(f, ["num_local_experts", "num_experts"])?,
        active: f.usize("num_experts_per_tok")?,
        width: f.usize(width)?,
        shared: 0,
        shared_gate: false,
        routing,
    })
}

/// Gives experts to the layers that have some; returns the first of them.
pub(super) fn give(d: &mut Description, of: Experts, has_experts: impl Fn(usize) -> bool) -> Option<usize> {
    let with = d.config.layers.iter_mut().enumerate().filter(|(l, _)| has_experts(*l));
    with.map(|(l, layer)| {
        layer.mlp = Mlp::Experts(of);
        l
    })
    .min()
}

/// As [`give`], and names the tensors: `module` is the place of experts in the layer, `names` are those of gate, up
/// and down in an expert.
pub(super) fn set(
    d: &mut Description,
    weights: &Weights,
    (module, names): (&str, [&str; 3]),
    of: Experts,
    has_experts: impl Fn(usize) -> bool,
) {
    let first = give(d, of, has_experts);
    let tensor_ref = |name: &str| llama::tensor_ref(&d.layout, name);
    let stacked = tensor_ref("mlp.experts.gate_up_proj").bare();
    let own = |name: &str| tensor_ref(&format!("{module}.experts.{{expert}}.{name}"));
    let (up, down) = match first.is_some_and(|l| weights.has(&stacked.weight(l))) {
        true => (vec![stacked], tensor_ref("mlp.experts.down_proj").bare()),
        false => (vec![own(names[0]), own(names[1])], own(names[2])),
    };
    let router = tensor_ref(&format!("{module}.gate"));
    // Stacked tensors come with the names that transformers 5 has in memory.
    let router = match first.is_none_or(|l| weights.has(&router.weight(l))) {
        true => router,
        false => tensor_ref("mlp.gate"),
    };
    d.layout.experts =
        Some(ExpertLayout { router, correction: None, up, down, shared: None, shared_gate: None });
}

/// The usual names of gate, up and down.
pub(super) const PROJECTIONS: (&str, [&str; 3]) = ("mlp", ["gate_proj", "up_proj", "down_proj"]);

/// Names a shared expert's tensors by its module in the layer.
pub(super) fn name_shared(d: &mut Description, module: &str) {
    let tensor_ref = |name: &str| llama::tensor_ref(&d.layout, &format!("{module}.{name}"));
    let shared = (["gate_proj", "up_proj"].map(tensor_ref).to_vec(), tensor_ref("down_proj"));
    d.layout.experts.iter_mut().for_each(|experts| experts.shared = Some(shared.clone()));
}

pub(super) fn mixtral(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    let window = f.opt_usize("sliding_window")?;
    d.config.layers = f.layers(d.config.depth(), window, 0, |_| true)?;
    let of = experts(f, "intermediate_size", softmax(true))?;
    set(&mut d, weights, ("block_sparse_moe", ["w1", "w3", "w2"]), of, |_| true);
    Ok(d)
}

pub(super) fn qwen3(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = qwen::describe(f, weights)?;
    qwen_experts(f, weights, &mut d)?;
    Ok(d)
}

pub(super) fn qwen2(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = qwen::describe(f, weights)?;
    llama::set_qkv_bias(&mut d, f.bool_or("qkv_bias", true)?);
    qwen_shared(f, weights, &mut d)?;
    Ok(d)
}

/// The experts of a Qwen, one of which every token takes, with a gate of its own.
pub(super) fn qwen_shared(f: &Fields<'_>, weights: &Weights, d: &mut Description) -> Result<()> {
    qwen_experts(f, weights, d)?;
    let shared = f.usize("shared_expert_intermediate_size")?;
    for layer in &mut d.config.layers {
        if let Mlp::Experts(of) = &mut layer.mlp {
            *of = Experts { shared, shared_gate: shared > 0, ..*of };
        }
    }
    name_shared(d, "mlp.shared_expert");
    let gate = llama::tensor_ref(&d.layout, "mlp.shared_expert_gate");
    d.layout.experts.iter_mut().for_each(|experts| experts.shared_gate = Some(gate.clone()));
    Ok(())
}

/// Which layers of a Qwen have experts, and how these are weighed.
fn qwen_experts(f: &Fields<'_>, weights: &Weights, d: &mut Description) -> Result<()> {
    let of = experts(f, "moe_intermediate_size", softmax(f.bool_or("norm_topk_prob", false)?))?;
    let (step, dense) = (f.usize("decoder_sparse_step")?, f.counts("mlp_only_layers")?.unwrap_or_default());
    if step == 0 {
        return f.fail("'decoder_sparse_step' is 0; it must be at least 1");
    }
    set(d, weights, PROJECTIONS, of, |l| (l + 1).is_multiple_of(step) && !dense.contains(&l));
    Ok(())
}

pub(super) fn olmoe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    llama::attention_bias(f, &mut d)?;
    if f.opt_f64("clip_qkv")?.is_some() {
        return f.fail("'clip_qkv' limits queries, keys and values, which is not supported");
    }
    d.config.qk_norm = QkNorm::Full;
    d.layout.qk_norms = Some(llama::qk_norms(&d.layout));
    let of = experts(f, "intermediate_size", softmax(f.bool_or("norm_topk_prob", false)?))?;
    set(&mut d, weights, PROJECTIONS, of, |_| true);
    Ok(d)
}
