//! Gemma 4: as Gemma 3, with heads of another width in global layers, of which a part rotates, values that are normalised and
//! may be the projection that keys are, and a number by which each layer multiplies the stream. With experts, these
//! stand beside a dense MLP.
//!
//! Tensors: those of Gemma 3, `layer_scalar`; `router.{scale,proj,per_expert_scale}`, `experts.{gate_up_proj,down_proj}`,
//! `post_feedforward_layernorm_1`, `pre_feedforward_layernorm_2`, `post_feedforward_layernorm_2`.

use super::fields::{FULL_ATTENTION, RopePlace};
use super::{BesideLayout, Description, ExpertLayout, Fields, experts, llama};
use crate::config::{Experts, Heads, Mlp, Positions, QkNorm, Routing};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const DEFAULTS: &str = r#"{
    "model_type": "gemma4_text", "vocab_size": 262144, "hidden_size": 2304, "intermediate_size": 9216,
    "num_hidden_layers": 30, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "global_head_dim": 512, "max_position_embeddings": 131072, "tie_word_embeddings": true, "sliding_window": 512,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}
    }
}"#;

/// As [`DEFAULTS`], for the models of one size in between, whose parts for images and sound differ.
pub(super) const UNIFIED: &str = r#"{
    "model_type": "gemma4_unified_text", "vocab_size": 262144, "hidden_size": 2304, "intermediate_size": 9216,
    "num_hidden_layers": 30, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "global_head_dim": 512, "max_position_embeddings": 262144, "tie_word_embeddings": true, "sliding_window": 1024,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}
    }
}"#;

/// The rotary embedding of global layers.
const GLOBAL: RopePlace =
    RopePlace { kind: Some(FULL_ATTENTION), theta: (&[], 1_000_000.0), ..RopePlace::USUAL };

/// The rotary embedding of local layers.
const LOCAL: RopePlace =
    RopePlace { kind: Some("sliding_attention"), theta: (&[], 10_000.0), ..RopePlace::USUAL };

/// Local layers to one global layer, and that.
const GROUP: usize = 6;

/// Settings of embeddings for each layer and of layers that share keys, which are refused where they are in use.
const UNUSED: &[&str] = &[
    "hidden_size_per_layer_input",
    "num_kv_shared_layers",
    "use_double_wide_mlp",
    "vocab_size_per_layer_input",
];

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    llama::attention_bias(f, &mut d)?;
    f.ignore(UNUSED);
    let c = &mut d.config;
    c.activation = f.activation("hidden_activation", "gelu_pytorch_tanh")?;
    c.post_norm = true;
    c.embedding_scale = (c.hidden as f32).sqrt();
    c.attention_scale = 1.0;
    c.final_softcap = f.opt_f64("final_logit_softcapping")?.map(|cap| cap as f32);
    c.layers = f.layers(c.depth(), f.opt_usize("sliding_window")?, 1, |l| !(l + 1).is_multiple_of(GROUP))?;
    // The last layer is global whatever its type says.
    if let Some(last) = c.layers.last_mut() {
        (last.window, last.rope) = (None, Some(0));
    }
    let global = heads(f, &mut d)?;
    let c = &mut d.config;
    c.positions = Positions::Rotary(vec![f.rope(&GLOBAL, global)?, f.rope(&LOCAL, c.head_dim)?]);
    c.qk_norm = QkNorm::HeadAndValues;
    d.layout.qk_norms = Some(llama::qk_norms(&d.layout));
    let at = |name| llama::tensor_ref(&d.layout, name);
    let (post_attn, mlp, post_mlp) =
        (at("post_attention_layernorm"), at("pre_feedforward_layernorm"), at("post_feedforward_layernorm"));
    d.layout.layer_scalar = Some(at("layer_scalar").bare());
    d.layout.post_attn_norm = Some(post_attn);
    d.layout.mlp_norm = Some(mlp);
    d.layout.post_mlp_norm = Some(post_mlp);
    if f.bool_or("enable_moe_block", false)? {
        give_experts(f, &mut d)?;
    } else {
        f.ignore(&["moe_intermediate_size", "num_experts", "top_k_experts"]);
    }
    Ok(d)
}

/// Gives global layers their heads; returns the width of these.
fn heads(f: &Fields<'_>, d: &mut Description) -> Result<usize> {
    let c = &mut d.config;
    let keys_as_values = f.bool_or("attention_k_eq_v", false)?;
    let (width, count) = (f.usize("global_head_dim")?, f.opt_usize("num_global_key_value_heads")?);
    let usual = Heads {
        kv_heads: count.filter(|_| keys_as_values).unwrap_or(c.kv_heads),
        head_dim: width,
        keys_as_values,
    };
    let listed = f.object("per_layer_config")?;
    let mut widths = Vec::new();
    for (l, layer) in c.layers.iter_mut().enumerate() {
        let own = listed.as_ref().map(|all| all.object(&l.to_string())).transpose()?.flatten();
        if layer.window.is_some() {
            if own.is_some() {
                return f
                    .fail(format!("'per_layer_config.{l}' is about a local layer, which is not supported"));
            }
            continue;
        }
        let of = match (&listed, &own) {
            (None, _) => usual,
            (Some(_), None) => Heads { kv_heads: c.kv_heads, head_dim: c.head_dim, keys_as_values },
            (Some(_), Some(own)) => {
                of_layer(f, l, own, Heads { kv_heads: c.kv_heads, head_dim: c.head_dim, keys_as_values })?
            }
        };
        layer.heads = Some(of);
        widths.push(of.head_dim);
    }
    widths.dedup();
    match widths[..] {
        [width] => Ok(width),
        _ => f.fail(format!(
            "the heads of global layers are of several widths, {widths:?}, which is not supported"
        )),
    }
}

/// What 'per_layer_config' says of a layer, where it differs from `usual`.
fn of_layer(f: &Fields<'_>, l: usize, own: &Fields<'_>, usual: Heads) -> Result<Heads> {
    const KNOWN: [&str; 2] = ["head_dim", "num_key_value_heads"];
    if let Some((name, _)) = own.all().find(|(name, _)| !KNOWN.contains(&name.as_str())) {
        return f.fail(format!("'per_layer_config.{l}.{name}' makes layers differ, which is not supported"));
    }
    let [width, count] = KNOWN.map(|name| own.opt_usize(name));
    Ok(Heads {
        head_dim: width?.unwrap_or(usual.head_dim),
        kv_heads: count?.unwrap_or(usual.kv_heads),
        ..usual
    })
}

/// Experts beside the dense MLP of every layer.
fn give_experts(f: &Fields<'_>, d: &mut Description) -> Result<()> {
    let of = Experts {
        count: f.usize("num_experts")?,
        active: f.usize("top_k_experts")?,
        width: f.usize("moe_intermediate_size")?,
        shared: 0,
        shared_gate: false,
        routing: Routing { expert_scale: true, ..experts::softmax(true) },
    };
    d.config.layers.iter_mut().for_each(|layer| layer.mlp = Mlp::DenseAndExperts(of));
    let at = |name: &str| llama::tensor_ref(&d.layout, name);
    let experts = ExpertLayout {
        router: at("router.proj"),
        correction: None,
        up: vec![at("experts.gate_up_proj").bare()],
        down: at("experts.down_proj").bare(),
        shared: None,
        shared_gate: None,
    };
    let beside = BesideLayout {
        dense_out: at("post_feedforward_layernorm_1"),
        experts: [at("pre_feedforward_layernorm_2"), at("post_feedforward_layernorm_2")],
        router: at("router.scale").bare(),
        expert_scale: at("router.per_expert_scale").bare(),
    };
    (d.layout.experts, d.layout.beside) = (Some(experts), Some(beside));
    Ok(())
}
