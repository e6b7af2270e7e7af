//! Mixtures of experts in GGUF files.
//!
//! Which layers have experts, and their widths, follow from the tensors: `ffn_gate_inp` is the router of a layer,
//! `ffn_{gate,up,down}_exps` hold the matrices of all its experts. The first files of Mixtral have a tensor for each.

use super::gguf_families::{GgufFamily, Mixture};
use super::gguf_names::Keys;
use super::{ExpertLayout, TensorRef};
use crate::config::{Experts, Groups, Layer, Mlp, Routing, Score};
use crate::error::Result;
use crate::weights::Weights;

/// Keys that follow from the tensors.
pub(super) const FOLLOW: [&str; 5] = [
    "expert_feed_forward_length",
    "expert_shared_count",
    "expert_shared_feed_forward_length",
    "interleave_moe_layer_step",
    "leading_dense_block_count",
];

/// Gives experts to the layers that have some; returns the names of their tensors.
pub(super) fn read(
    keys: &Keys<'_>,
    family: &GgufFamily,
    weights: &Weights,
    layers: &mut [Layer],
) -> Result<Option<ExpertLayout>> {
    let count = keys.count("expert_count")?.unwrap_or(0);
    if let Some(size) = keys.count("moe_latent_size")?.filter(|size| *size > 0) {
        return keys.fail(format!(
            "'{}.moe_latent_size' is {size}: experts read a projection of the stream, which is not supported",
            keys.arch
        ));
    }
    if count < 2 || family.mixture == Mixture::Never {
        return Ok(None);
    }
    let has = |l: usize, name: &str| weights.has(&format!("blk.{l}.{name}.weight"));
    let Some(first) = (0..layers.len()).find(|l| has(*l, "ffn_gate_inp")) else {
        return keys.fail(format!(
            "'{}.expert_count' is {count}, but no layer has a router ('blk.0.ffn_gate_inp.weight'); convert the model again",
            keys.arch
        ));
    };
    let shape = |name: &str| weights.shape(&format!("blk.{first}.{name}.weight"));
    let form = match () {
        () if has(first, "ffn_gate_up_exps") => Form::Fused,
        () if has(first, "ffn_gate.0") => Form::Single,
        () if !family.gated => Form::Ungated,
        () => Form::Stacked,
    };
    let width = match (form, shape(form.gate())) {
        (Form::Fused, Some([_, width, _])) => *width / 2,
        (_, Some([_, width, _] | [width, _])) => *width,
        _ => return keys.fail(format!("'blk.{first}.{}.weight' is missing or is not a matrix", form.gate())),
    };
    let shared = shape("ffn_up_shexp").and_then(<[usize]>::first).copied().unwrap_or(0);
    let of = Experts {
        count,
        active: keys.needed("expert_used_count")?,
        width,
        shared,
        shared_gate: has(first, "ffn_gate_inp_shexp"),
        routing: routing(keys, family, weights.has(&format!("blk.{first}.exp_probs_b.bias")))?,
    };
    for (l, layer) in layers.iter_mut().enumerate() {
        if has(l, "ffn_gate_inp") {
            layer.mlp = Mlp::Experts(of);
        }
    }
    let biased = |tensor_ref: TensorRef| {
        let bias = weights.has(&tensor_ref.of_expert(0, count).bias(first));
        tensor_ref.biased(bias)
    };
    Ok(Some(layout(form, biased)))
}

/// How the matrices of experts are stored.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// A tensor for each expert.
    Single,
    /// A tensor for all of them.
    Stacked,
    /// The same, gates before what they multiply in one tensor.
    Fused,
    /// A tensor for all of them, without gates.
    Ungated,
}

impl Form {
    /// The first tensor with gates, or in their place.
    fn gate(self) -> &'static str {
        match self {
            Self::Single => "ffn_gate.0",
            Self::Stacked => "ffn_gate_exps",
            Self::Fused => "ffn_gate_up_exps",
            Self::Ungated => "ffn_up_exps",
        }
    }
}

fn routing(keys: &Keys<'_>, family: &GgufFamily, correction: bool) -> Result<Routing> {
    let scale = keys.number("expert_weights_scale")?.filter(|scale| *scale != 0.0).unwrap_or(1.0) as f32;
    let (says, gating) = (keys.flag("expert_weights_norm")?, keys.count("expert_gating_func")?);
    let normalised = match family.mixture {
        Mixture::Never | Mixture::Softmax | Mixture::OnInput => false,
        Mixture::NormalisedSoftmax | Mixture::NormalisedSigmoid => true,
        Mixture::ByKeys(_) => says.unwrap_or(false),
    };
    let default = match family.mixture {
        // A correction goes with sigmoids; some files of such models have no key.
        Mixture::ByKeys(_) if correction => Score::Sigmoid,
        Mixture::ByKeys(score) => score,
        Mixture::OnInput | Mixture::NormalisedSigmoid => Score::Sigmoid,
        _ => Score::Softmax,
    };
    let score = match gating {
        None | Some(0) => default,
        Some(1) => Score::Softmax,
        Some(2) => Score::Sigmoid,
        Some(other) => {
            return keys
                .fail(format!("'{}.expert_gating_func' is {other}, which is not supported", keys.arch));
        }
    };
    let (groups, kept) = (keys.count("expert_group_count")?, keys.count("expert_group_used_count")?);
    let groups = groups.zip(kept).filter(|(count, kept)| *count > 1 && kept != count);
    Ok(Routing {
        score,
        normalised,
        scale,
        correction,
        on_input: family.mixture == Mixture::OnInput,
        expert_scale: false,
        // DeepSeek V2 judges groups by their best expert.
        groups: groups.map(|(count, kept)| Groups {
            count,
            kept,
            best: if score == Score::Softmax { 1 } else { 2 },
        }),
    })
}

fn layout(form: Form, biased: impl Fn(TensorRef) -> TensorRef) -> ExpertLayout {
    let tensor_ref = |name: &str| TensorRef::new(format!("blk.{{}}.{name}"));
    let end = if form == Form::Single { ".{expert}" } else { "_exps" };
    let expert = |name: &str| tensor_ref(&format!("{name}{end}"));
    let shared = |name: &str| tensor_ref(&format!("{name}_shexp"));
    ExpertLayout {
        router: biased(tensor_ref("ffn_gate_inp")),
        correction: Some(TensorRef::new("blk.{}.exp_probs_b.bias").bare()),
        up: match form {
            Form::Fused => vec![biased(expert("ffn_gate_up"))],
            Form::Ungated => vec![biased(expert("ffn_up"))],
            _ => vec![biased(expert("ffn_gate")), biased(expert("ffn_up"))],
        },
        down: biased(expert("ffn_down")),
        shared: Some((
            match form {
                Form::Ungated => vec![shared("ffn_up")],
                _ => vec![shared("ffn_gate"), shared("ffn_up")],
            },
            shared("ffn_down"),
        )),
        shared_gate: Some(tensor_ref("ffn_gate_inp_shexp")),
    }
}
