//! Gemma 4: as Gemma 3, with heads of another width in global layers, of which a part rotates, values that are normalised and
//! may be the projection that keys are, and a number by which each layer multiplies the stream. With experts, these
//! stand beside a dense MLP. In E2B and E4B, layers have an embedding of each token beside that of the model, and the last
//! layers read the keys and values of earlier ones.
//!
//! Tensors: those of Gemma 3, `layer_scalar`; `router.{scale,proj,per_expert_scale}`, `experts.{gate_up_proj,down_proj}`,
//! `post_feedforward_layernorm_1`, `pre_feedforward_layernorm_2`, `post_feedforward_layernorm_2`; `embed_tokens_per_layer`,
//! `per_layer_model_projection`, `per_layer_projection_norm`, `per_layer_input_gate`, `per_layer_projection`,
//! `post_per_layer_input_norm`.

use super::fields::{FULL_ATTENTION, RopePlace};
use super::{BesideLayout, Description, ExpertLayout, Fields, TensorRef, TokenLayout, experts, llama};
use crate::config::{Config, Experts, Heads, Mlp, Positions, QkNorm, Routing};
use crate::error::Result;
use crate::weights::Weights;
use std::collections::BTreeMap;

/// Defaults of transformers, with what differs between the models.
macro_rules! defaults {
    ($model_type:literal, $width_per_layer:literal, $context:literal, $window:literal) => {
        concat!(
            r#"{"model_type": ""#,
            $model_type,
            r#"", "vocab_size": 262144, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "global_head_dim": 512,
    "tie_word_embeddings": true, "hidden_size_per_layer_input": "#,
            $width_per_layer,
            r#", "max_position_embeddings": "#,
            $context,
            r#", "sliding_window": "#,
            $window,
            r#", "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}
    }
}"#
        )
    };
}

/// Defaults of all models but those of [`UNIFIED`].
pub(super) const DEFAULTS: &str = defaults!("gemma4_text", 256, 131_072, 512);

/// Defaults of the models of one size in between, whose parts for images and sound differ.
pub(super) const UNIFIED: &str = defaults!("gemma4_unified_text", 0, 262_144, 1_024);

/// The rotary embedding of global layers.
const GLOBAL: RopePlace =
    RopePlace { kind: Some(FULL_ATTENTION), theta: (&[], 1_000_000.0), ..RopePlace::USUAL };

/// The rotary embedding of local layers.
const LOCAL: RopePlace =
    RopePlace { kind: Some("sliding_attention"), theta: (&[], 10_000.0), ..RopePlace::USUAL };

/// Local layers to one global layer, and that.
const GROUP: usize = 6;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    llama::attention_bias(f, &mut d)?;
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
    give_shared_keys(f, &mut d)?;
    give_token_inputs(f, weights, &mut d)?;
    Ok(d)
}

/// Makes the last `shared` layers read the keys and values of the last layer of their kind before them. Returns the first
/// of them, or what is wrong with the number.
pub(super) fn share_keys(c: &mut Config, shared: usize) -> std::result::Result<usize, String> {
    let Some(first) = c.depth().checked_sub(shared).filter(|first| *first > 0) else {
        return Err(format!("is {shared}; it must be less than the number of layers, {}", c.depth()));
    };
    for l in first..c.depth() {
        let of_kind = |other: &usize| c.layers[*other].window == c.layers[l].window;
        let Some(from) = (0..first).rfind(of_kind) else {
            return Err(format!(
                "is {shared}: layer {l} has no layer of its type before layer {first} whose keys it could read"
            ));
        };
        c.layers[l].keys_of = Some(from);
    }
    Ok(first)
}

/// What layers have that read the keys and values of others.
fn give_shared_keys(f: &Fields<'_>, d: &mut Description) -> Result<()> {
    const COUNT: &str = "num_kv_shared_layers";
    let first = share_keys(&mut d.config, f.opt_usize(COUNT)?.unwrap_or(0));
    let first = first.or_else(|what| f.fail(format!("'{COUNT}' {what}")))?;
    let is_wide = f.bool_or("use_double_wide_mlp", false)?;
    let c = &mut d.config;
    for (l, layer) in c.layers.iter_mut().enumerate().skip(first) {
        layer.intermediate = is_wide.then(|| c.intermediate.saturating_mul(2));
        // Checkpoints may have them all the same.
        for name in ["k_proj", "v_proj", "k_norm", "v_norm"] {
            let unused = llama::tensor_ref(&d.layout, &format!("self_attn.{name}"));
            d.read.extend([unused.weight(l), unused.bias(l)]);
        }
    }
    Ok(())
}

/// Embeddings of each token for every layer.
fn give_token_inputs(f: &Fields<'_>, weights: &Weights, d: &mut Description) -> Result<()> {
    const WIDTH: &str = "hidden_size_per_layer_input";
    let rows = f.opt_usize("vocab_size_per_layer_input")?;
    let width = f.usize(WIDTH)?;
    let outer = d.layout.embedding.name.trim_end_matches("embed_tokens");
    let once = |name: &str| TensorRef::new(format!("{outer}{name}"));
    let embedding = once("embed_tokens_per_layer");
    if width == 0 {
        return match weights.has(&embedding.weight(0)) {
            false => Ok(()),
            true => f.fail(format!(
                "'{WIDTH}' is 0, but the weights have embeddings of layers, '{}'; the weights and the configuration do not belong together",
                embedding.weight(0)
            )),
        };
    }
    if d.config.architecture.contains("unified") {
        return f.fail(format!("'{WIDTH}' is {width}, which '{}' does not have", d.config.architecture));
    }
    let vocab = d.config.vocab;
    let Some(more_rows) = rows.unwrap_or(vocab).checked_sub(vocab) else {
        return f.fail(format!("'vocab_size_per_layer_input' is less than 'vocab_size', {vocab}"));
    };
    d.config.token_inputs = Some(width);
    let at = |name: &str| llama::tensor_ref(&d.layout, name);
    d.layout.token_inputs = Some(TokenLayout {
        embedding: TensorRef { more_rows, ..embedding },
        projection: once("per_layer_model_projection"),
        norm: once("per_layer_projection_norm"),
        gate: at("per_layer_input_gate"),
        out: at("per_layer_projection"),
        gate_norm: at("post_per_layer_input_norm"),
    });
    Ok(())
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
    let names = listed.as_ref().map_or(Ok(BTreeMap::new()), |all| names_of_layers(f, all, c.depth()))?;
    let mut widths = Vec::new();
    for (l, layer) in c.layers.iter_mut().enumerate() {
        let own = match (&listed, names.get(&l)) {
            (Some(all), Some(name)) => all.object(name)?,
            _ => None,
        };
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

/// The names that 'per_layer_config' has for layers: numbers, which transformers pads with zeros to one length.
fn names_of_layers<'a>(
    f: &Fields<'_>,
    listed: &Fields<'a>,
    depth: usize,
) -> Result<BTreeMap<usize, &'a String>> {
    let mut names = BTreeMap::new();
    for (name, _) in listed.all() {
        let layer = name.parse().ok().filter(|l| *l < depth);
        match layer {
            Some(layer) if names.insert(layer, name).is_none() => {}
            _ => {
                return f.fail(format!(
                    "'per_layer_config.{name}' is not about one of the {depth} layers, or is there twice"
                ));
            }
        }
    }
    Ok(names)
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
