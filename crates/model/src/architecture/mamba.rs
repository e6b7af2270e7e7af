//! Mamba 2 alone: every layer is a norm and a state-space model, without an MLP. Codestral-Mamba is one. And what families
//! with such layers share with it.
//!
//! Tensors: `backbone.{embeddings,norm_f}`, `backbone.layers.N.norm`,
//! `backbone.layers.N.mixer.{in_proj,conv1d,A_log,dt_bias,D,norm,out_proj}`.

use super::plain::{Names, Sizes};
use super::{Description, Fields, MixerLayout, RecurrenceLayout, RowOrder, TensorRef, llama};
use crate::config::{
    Config, Layer, Mixer, Mlp, NormKind, OutputNorm, Positions, Recurrence, Update, impossible_recurrence,
};
use crate::error::Result;
use crate::weights::Weights;
use fathom_kernels::elementwise::Activation;

/// Defaults of transformers.
pub(super) const MAMBA2: &str = r#"{
    "num_heads": 128, "head_dim": 64, "state_size": 128, "expand": 2, "conv_kernel": 4, "n_groups": 8,
    "layer_norm_epsilon": 1e-5
}"#;

/// The context of a model that no number of positions limits, as llama.cpp has it.
const UNLIMITED: usize = 1 << 20;

/// Fields that only matter to how a computation is divided or rounded, or to training; and the place of a norm, which
/// transformers has where Mamba 2 has it.
const UNUSED: &[&str] = &[
    "chunk_size",
    "norm_before_gate",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "time_step_floor",
    "time_step_max",
    "time_step_min",
    "time_step_rank",
];

/// The names of a recurrence's sizes: heads of keys, their width, heads of values, their width, taps.
type SizeNames = [&'static str; 5];

const OWN_SIZES: SizeNames = ["n_groups", "state_size", "num_heads", "head_dim", "conv_kernel"];

/// As most families have them.
pub(super) const SIZES: SizeNames =
    ["mamba_n_groups", "mamba_d_state", "mamba_n_heads", "mamba_d_head", "mamba_d_conv"];

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    f.ignore(UNUSED);
    if !f.bool_or("rms_norm", true)? {
        return f
            .fail("'rms_norm' is false, which transformers ignores for this family; it is not supported");
    }
    let hidden = f.usize("hidden_size")?;
    let inner = f.usize("expand")?.saturating_mul(hidden);
    let recurrence = sizes(f, OWN_SIZES, (inner, "'expand' times 'hidden_size'"))?;
    let layer =
        Layer { rope: None, mlp: Mlp::None, mixer: Mixer::Recurrence(recurrence), ..Layer::default() };
    let sizes = Sizes {
        hidden,
        heads: 0,
        intermediate: 0,
        vocab: f.usize("vocab_size")?,
        context: UNLIMITED,
        layers: vec![layer; f.plain_layers("num_hidden_layers")?.len()],
    };
    let config = Config {
        head_dim: 0,
        positions: Positions::Rotary(Vec::new()),
        norm: NormKind::Rms,
        norm_eps: f.f64_or("layer_norm_epsilon", 1e-5)? as f32,
        activation: Activation::Silu,
        gated: true,
        attention_scale: 1.0,
        tied: f.bool_or("tie_word_embeddings", false)?,
        ..sizes.config("mamba2")
    };
    let prefix = llama::prefix(weights, "embeddings", "backbone.");
    let own = Names {
        prefix: "backbone.",
        embedding: "embeddings",
        final_norm: "norm_f",
        attn_norm: "norm",
        ..llama::NAMES
    };
    let mut layout = own.layout(weights, false, false);
    let bias = f.bool_or("use_bias", false)?;
    let names = names(|name| TensorRef::new(format!("{prefix}layers.{{}}.mixer.{name}")), [bias, bias], true);
    layout.mlp_norm = None;
    layout.mixer = Some(with_conv_bias(names, f.bool_or("use_conv_bias", true)?));
    Ok(Description::new(config, layout))
}

/// The sizes of a state-space model whose values have `inner` numbers together, or are as wide as a field says; and what
/// `inner` is.
pub(super) fn sizes(
    f: &Fields<'_>,
    names: SizeNames,
    (inner, inner_is): (usize, &str),
) -> Result<Recurrence> {
    let [key_heads, key_width, heads, width, taps] = names;
    let of = Recurrence {
        update: Update::StateSpace,
        key_heads: f.usize(key_heads)?,
        key_width: f.usize(key_width)?,
        heads: f.usize(heads)?,
        value_width: match f.opt_str(width) {
            Ok(Some("auto")) => inner / f.usize(heads)?.max(1),
            _ => f.usize(width)?,
        },
        taps: f.usize(taps)?,
        tiled: false,
        norm: OutputNorm::BehindGate,
        least_time: 0.0,
    };
    if of.heads.checked_mul(of.value_width) != Some(inner) {
        return f.fail(format!(
            "'{heads}' times '{width}' is {} times {}; it must be {inner_is}, {inner}",
            of.heads, of.value_width
        ));
    }
    if let Some(what) = impossible_recurrence(&of, names) {
        return f.fail(what);
    }
    if let Some(limit) = f.opt_limits("time_step_limit")?
        && (limit[0] > 0.0 || limit[1].is_finite())
    {
        return f.fail(format!("'time_step_limit' limits time steps to {limit:?}, which is not supported"));
    }
    if f.activation("hidden_act", "silu")? != Activation::Silu {
        return f.fail("'hidden_act' is not 'silu', the only activation of Mamba 2 that is supported");
    }
    Ok(of)
}

/// The tensors of Mamba 2; whether its projections of the input and of the output have biases, and whether there is a norm.
pub(super) fn names(
    tensor_ref: impl Fn(&str) -> TensorRef,
    [input, output]: [bool; 2],
    norm: bool,
) -> MixerLayout {
    MixerLayout {
        input: vec![tensor_ref("in_proj").ordered(RowOrder::ValuesFirst).biased(input)],
        conv: tensor_ref("conv1d").ordered(RowOrder::ChannelsValuesFirst),
        recurrence: Some(RecurrenceLayout {
            rate: tensor_ref("A_log").bare(),
            negative_rate: false,
            time_bias: tensor_ref("dt_bias").bare(),
            skip: Some(tensor_ref("D").bare()),
            norm: norm.then(|| tensor_ref("norm")),
        }),
        out: tensor_ref("out_proj").biased(output),
    }
}

/// Sets whether the convolution has a bias.
pub(super) fn with_conv_bias(names: MixerLayout, bias: bool) -> MixerLayout {
    MixerLayout { conv: names.conv.biased(bias), ..names }
}

/// Defaults of transformers for Bamba.
pub(super) const BAMBA: &str = r#"{
    "num_key_value_heads": 8, "max_position_embeddings": 262144, "rms_norm_eps": 1e-5, "mamba_n_heads": 128,
    "mamba_d_head": "auto", "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_expand": 2
}"#;

/// Fields of Bamba and Falcon-H1 that do not matter here.
pub(super) const UNUSED_BESIDE: &[&str] =
    &["mamba_chunk_size", "num_logits_to_keep", "time_step_max", "time_step_min", "z_loss_coefficient"];

/// Bamba: layers of Mamba 2 among those of attention, with an MLP in each. Half of each head is rotated.
///
/// Tensors: `mamba.*` or `self_attn.*`, `pre_ff_layernorm`, `feed_forward.{gate,up,down}_proj`, `final_layernorm`.
pub(super) fn bamba(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    // Whatever the configuration says, transformers rotates a half.
    f.ignore(&["attn_rotary_emb", "partial_rotary_factor"]);
    let half = llama::Base {
        rope: super::fields::RopePlace { share: Some((&[], 0.5)), ..super::fields::RopePlace::USUAL },
        ..llama::Base::USUAL
    };
    let mut d = llama::base_with(f, weights, &half)?;
    f.ignore(UNUSED_BESIDE);
    rename(&mut d);
    llama::attention_bias(f, &mut d)?;
    llama::mlp_bias(f, &mut d)?;
    let inner = f.usize("mamba_expand")?.saturating_mul(d.config.hidden);
    let recurrence = sizes(f, SIZES, (inner, "'mamba_expand' times 'hidden_size'"))?;
    let attends = f.counts("attn_layer_indices")?.unwrap_or_default();
    for (l, layer) in d.config.layers.iter_mut().enumerate() {
        if !attends.contains(&l) {
            layer.mixer = Mixer::Recurrence(recurrence);
            layer.rope = None;
        }
    }
    let bias = f.bool_or("mamba_proj_bias", false)?;
    let names = names(|name| llama::tensor_ref(&d.layout, &format!("mamba.{name}")), [bias, bias], true);
    d.layout.mixer = Some(with_conv_bias(names, f.bool_or("mamba_conv_bias", true)?));
    Ok(d)
}

/// The names of Bamba and Falcon-H1 for the norm before the MLP, the MLP and the norm before the head.
pub(super) fn rename(d: &mut Description) {
    let tensor_ref = |name: &str| llama::tensor_ref(&d.layout, name);
    let [norm, gate, up, down] =
        ["pre_ff_layernorm", "feed_forward.gate_proj", "feed_forward.up_proj", "feed_forward.down_proj"]
            .map(tensor_ref);
    (d.layout.mlp_norm, d.layout.up, d.layout.down) = (Some(norm), vec![gate, up], down);
    if let Some(norm) = &mut d.layout.final_norm {
        norm.name = format!("{}final_layernorm", norm.name.trim_end_matches("norm"));
    }
}
