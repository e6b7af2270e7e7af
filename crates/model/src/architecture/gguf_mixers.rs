//! Layers of GGUF files that mix positions otherwise than by attention.
//!
//! Which layers these are follows from the tensors: `ssm_conv1d` belongs to a recurrence, `shortconv.conv` to a short
//! convolution. Decays are stored as rates with their sign, `-exp(A_log)`, convolutions without the axis of length 1, and
//! norms are not stored around zero. In Qwen3.5 the heads of values that share a key lie as far apart as there are keys.

use super::gguf_families::{GgufFamily, Mixing};
use super::gguf_names::Keys;
use super::nemotron_h::LEAST_TIME;
use super::{MixerLayout, RecurrenceLayout, RowOrder, TensorRef};
use crate::config::{
    Layer, Mixer, Mlp, OutputNorm, Recurrence, ShortConvolution, Update, impossible_recurrence,
    impossible_taps,
};
use crate::error::Result;
use crate::weights::Weights;

/// The key of the taps of a short convolution.
const TAPS: &str = "shortconv.l_cache";

/// The keys of the sizes of a recurrence, behind `ssm.`.
const SIZES: [&str; 5] = ["group_count", "state_size", "time_step_rank", "inner_size", "conv_kernel"];

/// Keys that follow from the tensors.
pub(super) const FOLLOW: [&str; 1] = ["full_attention_interval"];

/// What the names of a layer's tensors begin with, and the number of layers.
#[derive(Clone, Copy)]
struct Tensors<'a> {
    weights: &'a Weights,
    depth: usize,
}

impl Tensors<'_> {
    /// A module, with a bias where some layer has one.
    fn module(&self, name: &str) -> TensorRef {
        let module = TensorRef::new(format!("blk.{{}}.{name}"));
        let bias = (0..self.depth).any(|l| self.weights.has(&module.bias(l)));
        module.biased(bias)
    }

    fn has(&self, name: &str) -> bool {
        (0..self.depth).any(|l| self.weights.has(&format!("blk.{l}.{name}")))
    }
}

/// Leaves each layer the one sublayer that it has.
fn take_one(weights: &Weights, layers: &mut [Layer]) {
    for (l, layer) in layers.iter_mut().enumerate() {
        let has = |name: &str| weights.has(&format!("blk.{l}.{name}.weight"));
        layer.rope = None;
        match has("ffn_up") || has("ffn_gate_inp") {
            true => layer.mixer = Mixer::None,
            false => layer.mlp = Mlp::None,
        }
    }
}

/// Gives layers without attention what they have instead; returns the names of its tensors.
pub(super) fn read(
    keys: &Keys<'_>,
    family: &GgufFamily,
    weights: &Weights,
    hidden: usize,
    layers: &mut [Layer],
) -> Result<Option<MixerLayout>> {
    let tensors = Tensors { weights, depth: layers.len() };
    let convolution = if family.mixing == Mixing::Convolution { "shortconv.conv" } else { "ssm_conv1d" };
    if family.mixing == Mixing::Attention {
        return Ok(None);
    }
    if family.mixing == Mixing::OneEach {
        take_one(weights, layers);
    }
    if !tensors.has(&format!("{convolution}.weight")) {
        // Sizes of what no layer has.
        SIZES.iter().try_for_each(|name| keys.count(&format!("ssm.{name}")).map(|_| ()))?;
        return keys.count(TAPS).map(|_| None);
    }
    let mixer = match family.mixing {
        Mixing::Convolution => {
            let taps = keys.needed(TAPS)?;
            if let Some(what) = impossible_taps(taps, &format!("{}.{TAPS}", keys.arch)) {
                return keys.fail(what);
            }
            Mixer::Convolution(ShortConvolution { channels: hidden, taps })
        }
        Mixing::Both => {
            let of = recurrence(keys, family.mixing)?;
            let norm = if tensors.has("ssm_norm.weight") { of.norm } else { OutputNorm::None };
            Mixer::Both(Recurrence { norm, ..of })
        }
        mixing => Mixer::Recurrence(recurrence(keys, mixing)?),
    };
    for (l, layer) in layers.iter_mut().enumerate() {
        if weights.has(&format!("blk.{l}.{convolution}.weight")) {
            layer.mixer = mixer;
            layer.rope = layer.rope.filter(|_| family.mixing == Mixing::Both);
        }
        if family.mixing == Mixing::StateSpaceAlone {
            layer.mlp = Mlp::None;
        }
    }
    Ok(Some(match family.mixing {
        Mixing::Convolution => MixerLayout {
            input: vec![tensors.module("shortconv.in_proj").ordered(RowOrder::OutputGateSecond)],
            conv: tensors.module(convolution),
            recurrence: None,
            out: tensors.module("shortconv.out_proj"),
        },
        mixing => recurrence_names(&tensors, mixing),
    }))
}

/// The sizes of a recurrence.
fn recurrence(keys: &Keys<'_>, mixing: Mixing) -> Result<Recurrence> {
    let (heads, inner) = (keys.needed("ssm.time_step_rank")?, keys.needed("ssm.inner_size")?);
    if heads == 0 || !inner.is_multiple_of(heads) {
        return keys.fail(format!(
            "'{0}.ssm.inner_size' is {inner}; it must be a multiple of '{0}.ssm.time_step_rank', which is {heads}",
            keys.arch
        ));
    }
    let space = mixing.is_state_space();
    let of = Recurrence {
        update: if space { Update::StateSpace } else { Update::Delta },
        key_heads: keys.needed("ssm.group_count")?,
        key_width: keys.needed("ssm.state_size")?,
        heads,
        value_width: inner / heads,
        taps: keys.needed("ssm.conv_kernel")?,
        tiled: mixing == Mixing::TiledDelta,
        norm: if space { OutputNorm::BehindGate } else { OutputNorm::BeforeGate },
        // The files have no key for it; this is the default of transformers.
        least_time: if keys.arch.starts_with("nemotron_h") { LEAST_TIME } else { 0.0 },
    };
    // Widths of values are what is left of the inner size.
    let names = SIZES.map(|name| format!("{}.ssm.{name}", keys.arch));
    match impossible_recurrence(&of, names.each_ref().map(String::as_str)) {
        Some(what) => keys.fail(what),
        None => Ok(of),
    }
}

fn recurrence_names(tensors: &Tensors<'_>, mixing: Mixing) -> MixerLayout {
    let module = |name: &str| tensors.module(name);
    let space = mixing.is_state_space();
    let input = match mixing {
        _ if space => vec![module("ssm_in").ordered(RowOrder::ValuesFirst)],
        // The first files of Qwen3-Next have one matrix, as the original.
        _ if tensors.has("ssm_in.weight") => vec![
            module("ssm_in").ordered(RowOrder::PerKeyHead),
            module("ssm_ba").ordered(RowOrder::NumbersPerKeyHead),
        ],
        _ if tensors.has("ssm_ba.weight") => vec![
            module("attn_gate"),
            module("attn_qkv"),
            module("ssm_ba").ordered(RowOrder::NumbersPerKeyHead),
        ],
        _ => ["attn_gate", "attn_qkv", "ssm_beta", "ssm_alpha"].map(module).to_vec(),
    };
    let conv = module("ssm_conv1d");
    let bare = |name: &str| TensorRef::new(format!("blk.{{}}.{name}")).bare();
    MixerLayout {
        input,
        conv: if space { conv.ordered(RowOrder::ChannelsValuesFirst) } else { conv },
        recurrence: Some(RecurrenceLayout {
            rate: bare("ssm_a"),
            negative_rate: true,
            time_bias: bare("ssm_dt.bias"),
            skip: space.then(|| bare("ssm_d")),
            norm: tensors.has("ssm_norm.weight").then(|| module("ssm_norm")),
        }),
        out: module("ssm_out"),
    }
}
