//! Latent attention in GGUF files (DeepSeek).
//!
//! The matrix of keys and values is whole (`attn_kv_b`) or, in files for the form that multiplies latent vectors, split into
//! that of keys, stored with a column for each of their numbers (`attn_k_b`), and that of values (`attn_v_b`). Lengths of
//! heads in such files are those of latent vectors, and keys with `_mla` behind them have those of heads.

use super::gguf_names::Keys;
use super::{KvUpLayout, LatentLayout, RowOrder, TensorRef};
use crate::config::{Latent, RopeScaling};
use crate::error::Result;
use crate::weights::Weights;

/// The logarithm of YaRN's factor is multiplied by this key, which is a tenth of `mscale_all_dim`.
const YARN_MULTIPLIER: &str = "rope.scaling.yarn_log_multiplier";

/// The widths of latent attention.
pub(super) fn read(keys: &Keys<'_>) -> Result<Latent> {
    let rotated = keys.needed("rope.dimension_count")?;
    let either = |name: &str| match keys.count(&format!("{name}_mla"))? {
        Some(width) => {
            keys.count(name)?;
            Ok(width)
        }
        None => keys.needed(name),
    };
    let (width, value) = (either("attention.key_length")?, either("attention.value_length")?);
    let Some(plain) = width.checked_sub(rotated) else {
        return keys.fail(format!(
            "'{0}.rope.dimension_count' is {rotated}, more than the width of a head, which is {width}",
            keys.arch
        ));
    };
    Ok(Latent {
        q_rank: keys.count("attention.q_lora_rank")?.filter(|rank| *rank > 0),
        rank: keys.needed("attention.kv_lora_rank")?,
        rotated,
        plain,
        value,
    })
}

/// The names of its tensors.
pub(super) fn names(of: &Latent, weights: &Weights, tensor_ref: impl Fn(&str) -> TensorRef) -> LatentLayout {
    let order = RowOrder::RotatedLast { interleaved: true };
    let q = if of.q_rank.is_some() { "attn_q_b" } else { "attn_q" };
    LatentLayout {
        q_down: of.q_rank.map(|_| ["attn_q_a", "attn_q_a_norm"].map(&tensor_ref)),
        q: tensor_ref(q).ordered(order),
        kv_down: tensor_ref("attn_kv_a_mqa"),
        kv_norm: tensor_ref("attn_kv_a_norm"),
        order,
        kv_up: match weights.has("blk.0.attn_k_b.weight") {
            true => KvUpLayout::Split { keys: tensor_ref("attn_k_b"), values: tensor_ref("attn_v_b") },
            false => KvUpLayout::Whole(tensor_ref("attn_kv_b")),
        },
    }
}

/// The factor on scores, and YaRN's factor on what is rotated. Files take `mscale` to be `mscale_all_dim`, as in all models
/// that were published.
pub(super) fn scale(keys: &Keys<'_>, of: &Latent, scaling: &mut RopeScaling) -> Result<f32> {
    let plain = 1.0 / (of.width() as f64).sqrt();
    let multiplier = keys.number(YARN_MULTIPLIER)?.filter(|m| *m != 0.0);
    let (Some(multiplier), RopeScaling::Yarn { factor, attention_factor, .. }) = (multiplier, scaling) else {
        return Ok(plain as f32);
    };
    *attention_factor = 1.0;
    let grown = if *factor <= 1.0 { 1.0 } else { multiplier * factor.ln() + 1.0 };
    Ok((plain * grown * grown) as f32)
}
