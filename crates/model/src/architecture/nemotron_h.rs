//! Nemotron-H: every layer is one sublayer behind a norm: Mamba 2, attention without rotation, an MLP without a gate or
//! a mixture of such.
//!
//! Tensors: `backbone.{embeddings,norm_f}`, `backbone.layers.N.norm`, `backbone.layers.N.mixer.*`: those of Mamba 2,
//! `{q,k,v,o}_proj`, `{up,down}_proj`, or `gate`, `experts.E.{up,down}_proj` and `shared_experts.{up,down}_proj`.

use super::plain::{self, Sizes};
use super::{Description, ExpertLayout, Fields, TensorRef, experts, llama, mamba};
use crate::config::{
    Config, Experts, Groups, Layer, Mixer, Mlp, NormKind, Positions, Recurrence, Routing, Score,
};
use crate::error::Result;
use crate::weights::Weights;
use fathom_kernels::elementwise::Activation;

/// Defaults of transformers.
pub(super) const NEMOTRON_H: &str = r#"{
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 4096,
    "intermediate_size": 21504, "ssm_state_size": 128, "mamba_num_heads": 128, "mamba_head_dim": 64, "n_groups": 8,
    "conv_kernel": 4, "n_routed_experts": 8, "moe_intermediate_size": 7688,
    "moe_shared_expert_intermediate_size": 7688, "num_experts_per_tok": 2, "routed_scaling_factor": 1.0, "n_group": 1,
    "topk_group": 1, "norm_topk_prob": true
}"#;

/// Fields that matter to training, to how a computation is divided or rounded, or to the prediction of further tokens;
/// and biases of attention, which transformers does not have.
const UNUSED: &[&str] = &[
    "attention_bias",
    "chunk_size",
    "expand",
    "hidden_dropout",
    "mamba_chunk_size",
    "mamba_dt_init_floor",
    "mamba_dt_max",
    "mamba_dt_min",
    "mamba_expand",
    "mamba_proj_bias",
    "mamba_ssm_cache_dtype",
    "moe_shared_expert_overlap",
    "mtp_hybrid_override_pattern",
    "mtp_layers_block_type",
    "n_shared_experts",
    "num_hidden_layers",
    "num_logits_to_keep",
    "num_nextn_predict_layers",
    "output_router_logits",
    "partial_rotary_factor",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "rope_theta",
    "sliding_window",
    "time_step_floor",
    "time_step_max",
    "time_step_rank",
    "use_mamba_kernels",
];

/// What a layer is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Mamba,
    Attention,
    Mlp,
    Experts,
}

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    f.ignore(UNUSED);
    let kinds = kinds(f)?;
    let has = |kind| kinds.contains(&kind);
    let layers = layers(f, &kinds)?;
    let when = |kind: Kind, name: &str| if has(kind) { f.usize(name) } else { Ok(0) };
    for (kind, names) in [
        (Kind::Attention, &["num_attention_heads", "num_key_value_heads", "head_dim"][..]),
        (Kind::Mlp, &["intermediate_size"]),
    ] {
        f.ignore(if has(kind) { &[] } else { names });
    }
    let head_dim = when(Kind::Attention, "head_dim")?;
    let sizes = Sizes {
        hidden: f.usize("hidden_size")?,
        heads: when(Kind::Attention, "num_attention_heads")?,
        // Where all MLPs are mixtures, that of the experts stands in.
        intermediate: match has(Kind::Mlp) {
            true => f.usize("intermediate_size")?,
            false => layers.iter().find_map(|layer| Some(layer.mlp.experts()?.width)).unwrap_or(0),
        },
        vocab: f.usize("vocab_size")?,
        context: f.usize("max_position_embeddings")?,
        layers,
    };
    let config = Config {
        kv_heads: when(Kind::Attention, "num_key_value_heads")?,
        head_dim,
        positions: Positions::Rotary(Vec::new()),
        norm: NormKind::Rms,
        norm_eps: f.f64_or("layer_norm_epsilon", 1e-5)? as f32,
        activation: f.activation("mlp_hidden_act", "relu2")?,
        attention_scale: plain::attention_scale(head_dim.max(1)),
        tied: f.bool_or("tie_word_embeddings", false)?,
        ..sizes.config("nemotron_h")
    };
    let d = Description::new(config, llama::NAMES.layout(weights, false, false));
    name(f, weights, d)
}

/// What each layer is, by a list or by a letter for each.
fn kinds(f: &Fields<'_>) -> Result<Vec<Kind>> {
    let named = f.strings("layers_block_type")?.or(f.strings("layer_types")?);
    let letters = f.opt_str("hybrid_override_pattern")?;
    let kind = |name: &str| match name {
        "M" | "mamba" | "linear_attention" => Ok(Kind::Mamba),
        "*" | "attention" | "full_attention" => Ok(Kind::Attention),
        "-" | "mlp" => Ok(Kind::Mlp),
        "E" | "moe" => Ok(Kind::Experts),
        other => f.fail(format!("the layer type '{other}' is not supported")),
    };
    match (named, letters) {
        (Some(names), _) => names.into_iter().map(kind).collect(),
        (None, Some(letters)) => letters.chars().map(|letter| kind(&letter.to_string())).collect(),
        (None, None) => f.fail(
            "neither 'layers_block_type' nor 'hybrid_override_pattern' says what layers are; one of them is needed",
        ),
    }
}

fn layers(f: &Fields<'_>, kinds: &[Kind]) -> Result<Vec<Layer>> {
    let has = |kind| kinds.contains(&kind);
    let recurrence = if has(Kind::Mamba) { Some(recurrence(f)?) } else { None };
    let experts = if has(Kind::Experts) { Some(experts_of(f)?) } else { None };
    if !has(Kind::Mamba) {
        f.ignore(&[
            "conv_kernel",
            "mamba_head_dim",
            "mamba_hidden_act",
            "mamba_num_heads",
            "n_groups",
            "ssm_state_size",
            "use_bias",
            "use_conv_bias",
            "time_step_limit",
            "time_step_min",
        ]);
    }
    if !has(Kind::Experts) {
        f.ignore(&[
            "moe_intermediate_size",
            "moe_latent_size",
            "moe_shared_expert_intermediate_size",
            "n_group",
            "n_routed_experts",
            "norm_topk_prob",
            "num_experts_per_tok",
            "routed_scaling_factor",
            "topk_group",
        ]);
    }
    let layer = |mixer, mlp| Layer { rope: None, mlp, mixer, ..Layer::default() };
    let of = |kind: &Kind| match kind {
        Kind::Mamba => layer(recurrence.map_or(Mixer::None, Mixer::Recurrence), Mlp::None),
        Kind::Attention => layer(Mixer::Attention, Mlp::None),
        Kind::Mlp => layer(Mixer::None, Mlp::Dense),
        Kind::Experts => layer(Mixer::None, experts.map_or(Mlp::None, Mlp::Experts)),
    };
    Ok(kinds.iter().map(of).collect())
}

/// The least time step, unless the configuration has another one.
pub(super) const LEAST_TIME: f32 = 1e-3;

fn recurrence(f: &Fields<'_>) -> Result<Recurrence> {
    const NAMES: [&str; 5] =
        ["n_groups", "ssm_state_size", "mamba_num_heads", "mamba_head_dim", "conv_kernel"];
    if f.activation("mamba_hidden_act", "silu")? != Activation::Silu {
        return f.fail("'mamba_hidden_act' is not 'silu', the only activation of Mamba 2 that is supported");
    }
    // The values are as wide as their heads together, whatever 'expand' says.
    let inner = f.usize(NAMES[2])?.saturating_mul(f.usize(NAMES[3])?);
    let least_time = f.f64_or("time_step_min", f64::from(LEAST_TIME))? as f32;
    if !(0.0..=1e3).contains(&least_time) {
        return f.fail(format!("'time_step_min' is {least_time}; it must lie between 0 and 1000"));
    }
    Ok(Recurrence { least_time, ..mamba::sizes(f, NAMES, (inner, "their product"))? })
}

fn experts_of(f: &Fields<'_>) -> Result<Experts> {
    if f.opt_usize("moe_latent_size")?.is_some() {
        return f.fail(
            "'moe_latent_size' is set: experts read a projection of the stream, which is not supported",
        );
    }
    let (count, kept) = (f.usize("n_group")?, f.usize("topk_group")?);
    Ok(Experts {
        count: experts::either(f, ["n_routed_experts", "num_local_experts"])?,
        active: f.usize("num_experts_per_tok")?,
        width: f.usize("moe_intermediate_size")?,
        shared: f.usize("moe_shared_expert_intermediate_size")?,
        shared_gate: false,
        routing: Routing {
            on_input: false,
            expert_scale: false,
            score: Score::Sigmoid,
            normalised: f.bool_or("norm_topk_prob", true)?,
            scale: f.f64_or("routed_scaling_factor", 1.0)? as f32,
            correction: true,
            groups: (count > 1).then_some(Groups { count, kept, best: 2 }),
        },
    })
}

/// The names of the tensors.
fn name(f: &Fields<'_>, weights: &Weights, mut d: Description) -> Result<Description> {
    let prefix = llama::prefix(weights, "embeddings", "backbone.");
    let outer = |name: &str| TensorRef::new(format!("{prefix}{name}"));
    let own = |name: &str| TensorRef::new(format!("{prefix}layers.{{}}.mixer.{name}"));
    let (mlp_bias, bias) = (f.bool_or("mlp_bias", false)?, f.bool_or("use_bias", false)?);
    let norm = TensorRef::new(format!("{prefix}layers.{{}}.norm"));
    let l = &mut d.layout;
    (l.embedding, l.final_norm) = (outer("embeddings"), Some(outer("norm_f")));
    (l.attn_norm, l.mlp_norm) = (Some(norm.clone()), Some(norm));
    l.qkv = ["q_proj", "k_proj", "v_proj"].map(own).to_vec();
    l.attn_out = own("o_proj");
    (l.up, l.down) = (vec![own("up_proj").biased(mlp_bias)], own("down_proj").biased(mlp_bias));
    if d.config.first_recurrence().is_some() {
        let conv_bias = f.bool_or("use_conv_bias", true)?;
        l.mixer = Some(mamba::with_conv_bias(mamba::names(own, [bias, bias], true), conv_bias));
    }
    if d.config.experts().is_some() {
        let part = |module: &str, name: &str| {
            own(&format!("{module}.{name}")).biased(mlp_bias && module == "shared_experts")
        };
        l.experts = Some(ExpertLayout {
            router: own("gate"),
            correction: Some(own("gate.e_score_correction_bias").bare()),
            up: vec![part("experts.{expert}", "up_proj")],
            down: part("experts.{expert}", "down_proj"),
            shared: Some((vec![part("shared_experts", "up_proj")], part("shared_experts", "down_proj"))),
            shared_gate: None,
        });
    }
    Ok(d)
}
