//! Gemma 4 in GGUF files: heads of two widths, MLPs of two widths, keys that layers share, experts beside a dense MLP, and
//! token inputs.

use super::gguf_names::Keys;
use super::{BesideLayout, Description, TensorRef, TokenLayout, gemma4};
use crate::config::{Heads, Layer, Mlp, Positions, Rope, RopeScaling};
use crate::error::Result;
use crate::weights::Weights;

/// The name of the architecture.
pub(super) const ARCH: &str = "gemma4";

const WIDTH: &str = "feed_forward_length";
const KEY_HEADS: &str = "attention.head_count_kv";
const PATTERN: &str = "attention.sliding_window_pattern";

/// The width of the dense MLP of the first layer.
pub(super) fn mlp_width(keys: &Keys<'_>, depth: usize) -> Result<usize> {
    Ok(keys.needed_counts(WIDTH, depth)?[0])
}

/// Heads of keys and values in local layers.
pub(super) fn key_heads(keys: &Keys<'_>, layers: &[Layer]) -> Result<usize> {
    of_kind(keys, layers, true)
}

/// Heads of keys and values in the local layers or in the global ones; those of the others where there are none.
fn of_kind(keys: &Keys<'_>, layers: &[Layer], local: bool) -> Result<usize> {
    let counts = keys.needed_counts(KEY_HEADS, layers.len())?;
    let own = |local: bool| counts.iter().zip(layers).filter(move |(_, l)| l.window.is_some() == local);
    let mut found: Vec<usize> = own(local).map(|(count, _)| *count).collect();
    found.dedup();
    match found[..] {
        [] => Ok(counts[0]),
        [count] => Ok(count),
        _ => keys.fail(format!(
            "the metadata '{}.{KEY_HEADS}' differs among layers of a kind, {found:?}, which is not supported",
            keys.arch
        )),
    }
}

/// The rotary embeddings of global and local layers.
pub(super) fn positions(keys: &Keys<'_>, global: Rope) -> Result<Positions> {
    let own = keys.count("rope.dimension_count_swa")?;
    let dim = own.map_or_else(|| keys.needed("attention.key_length_swa"), Ok)?;
    let theta = keys.needed_number("rope.freq_base_swa")?;
    Ok(Positions::Rotary(vec![global, Rope { dim, theta, scaling: RopeScaling::None }]))
}

/// Completes a description in which every layer has heads of the global width and one dense MLP or experts alone.
pub(super) fn complete(keys: &Keys<'_>, weights: &Weights, d: &mut Description) -> Result<()> {
    let depth = d.config.depth();
    let global = Heads {
        kv_heads: of_kind(keys, &d.config.layers, false)?,
        head_dim: d.config.head_dim,
        keys_as_values: false,
    };
    let c = &mut d.config;
    c.head_dim = keys.needed("attention.key_length_swa")?;
    if keys.count("attention.value_length_swa")?.is_some_and(|width| width != c.head_dim) {
        return keys.fail(format!(
            "'{}.attention.value_length_swa' is not the width of keys, {}, which is not supported",
            keys.arch, c.head_dim
        ));
    }
    // Without these, readers would rotate by other angles in silence.
    weights.require("rope_freqs.weight")?;
    if let Some(key) =
        [PATTERN, "attention.sliding_window", "rope.freq_base"].iter().find(|key| !keys.has(key))
    {
        return keys.fail(format!("the metadata '{}.{key}' is missing", keys.arch));
    }
    c.attention_scale = 1.0;
    let first = gemma4::share_keys(c, keys.count("attention.shared_kv_layers")?.unwrap_or(0));
    let first =
        first.or_else(|what| keys.fail(format!("'{}.attention.shared_kv_layers' {what}", keys.arch)))?;
    let widths = keys.needed_counts(WIDTH, depth)?;
    for (l, layer) in c.layers.iter_mut().enumerate() {
        if layer.window.is_none() {
            let from = layer.keys_of.unwrap_or(l);
            let keys_as_values = !weights.has(&format!("blk.{from}.attn_v.weight"));
            layer.heads = Some(Heads { keys_as_values, ..global });
        }
        layer.intermediate = Some(widths[l]).filter(|width| *width != c.intermediate);
        if let Mlp::Experts(mut of) = layer.mlp {
            of.routing.expert_scale = true;
            layer.mlp = Mlp::DenseAndExperts(of);
        }
    }
    let at = |name: &str| TensorRef::new(format!("blk.{{}}.{name}"));
    d.layout.layer_scalar = Some(at("layer_output_scale"));
    if d.layout.experts.is_some() {
        d.layout.beside = Some(BesideLayout {
            dense_out: at("post_ffw_norm_1"),
            experts: [at("pre_ffw_norm_2"), at("post_ffw_norm_2")],
            router: at("ffn_gate_inp.scale").bare(),
            expert_scale: at("ffn_down_exps.scale").bare(),
        });
    }
    // Files may have them for layers that read those of others.
    for name in ["attn_k", "attn_v", "attn_k_norm"] {
        d.read.extend((first..depth).flat_map(|l| [at(name).weight(l), at(name).bias(l)]));
    }
    let width = keys.count("embedding_length_per_layer_input")?.filter(|width| *width > 0);
    if width.is_none() && weights.has("per_layer_token_embd.weight") {
        return keys.fail(format!(
            "'{}.embedding_length_per_layer_input' is missing or 0, but there are embeddings of layers, 'per_layer_token_embd.weight'",
            keys.arch
        ));
    }
    if let Some(width) = width {
        d.config.token_inputs = Some(width);
        d.layout.token_inputs = Some(TokenLayout {
            embedding: TensorRef::new("per_layer_token_embd"),
            projection: TensorRef::new("per_layer_model_proj"),
            norm: TensorRef::new("per_layer_proj_norm"),
            gate: at("inp_gate"),
            out: at("proj"),
            gate_norm: at("post_norm"),
        });
    }
    Ok(())
}
