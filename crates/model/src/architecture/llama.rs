//! Llama 2, 3 and 3.x, SmolLM2, Mistral: pre-norm, gated MLP, rotary positions.
//! The other gated families start from this description.
//!
//! Tensors: `model.layers.N.{input_layernorm, self_attn.{q,k,v,o}_proj,
//! post_attention_layernorm, mlp.{gate,up,down}_proj}`.

use super::fields::RopePlace;
use super::plain::{self, Names, Sizes};
use super::{Description, Fields, Layout, RowOrder, TensorRef};
use crate::config::{Config, NormKind, Positions, Rope, RopeScaling};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const MISTRAL: &str =
    r#"{"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}"#;

/// As [`MISTRAL`], for the text model of a Mistral 3 that leaves its settings out.
pub(super) const MISTRAL3: &str = r#"{
    "model_type": "mistral", "hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 1000000000.0, "sliding_window": null
}"#;

/// As [`MISTRAL`].
pub(super) const MINISTRAL3: &str = r#"{
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144, "rms_norm_eps": 1e-5
}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = base(f, weights)?;
    // Mistral's window applies to every layer; Llama has none, even if the field is set.
    let llama = d.config.architecture == "llama";
    let window = if llama { None } else { f.opt_usize("sliding_window")? };
    d.config.layers = f.layers(d.config.depth(), window, 0, |_| true)?;
    // transformers' Mistral has no biases, even if these fields are set.
    if llama {
        attention_bias(f, &mut d)?;
        mlp_bias(f, &mut d)?;
    }
    if d.config.architecture == "ministral3" {
        limit_to_unscaled(f, &mut d)?;
    }
    Ok(d)
}

/// Ministral 3 multiplies queries beyond the original context by a factor that grows with the position. It is
/// one before that, so texts may be as long as the original context.
fn limit_to_unscaled(f: &Fields<'_>, d: &mut Description) -> Result<()> {
    let Some(rope) = f.object("rope_parameters")? else { return Ok(()) };
    rope.ignore(&["max_position_embeddings"]);
    let beta = rope.opt_f64("llama_4_scaling_beta")?;
    let original = rope.opt_usize("original_max_position_embeddings")?.unwrap_or(d.config.context);
    if beta.is_some_and(|beta| beta != 0.0) && original < d.config.context {
        d.config.context = original;
        d.warnings.push(format!(
            "queries beyond position {original} are scaled ('llama_4_scaling_beta'), which is not supported; the context is taken as {original} tokens"
        ));
    }
    Ok(())
}

/// Sets whether the MLP has biases.
pub(super) fn mlp_bias(f: &Fields<'_>, d: &mut Description) -> Result<()> {
    set_mlp_bias(d, f.bool_or("mlp_bias", false)?);
    Ok(())
}

/// As [`mlp_bias`], known from elsewhere.
pub(super) fn set_mlp_bias(d: &mut Description, bias: bool) {
    d.layout.up.iter_mut().chain([&mut d.layout.down]).for_each(|tensor_ref| tensor_ref.bias = bias);
}

/// Sets whether q, k and v have biases.
pub(super) fn set_qkv_bias(d: &mut Description, bias: bool) {
    d.layout.qkv.iter_mut().for_each(|tensor_ref| tensor_ref.bias = bias);
}

/// Sets whether the norms before sublayers and head have biases.
pub(super) fn set_norm_bias(d: &mut Description, bias: bool) {
    let norms = d.layout.attn_norm.iter_mut().chain(&mut d.layout.mlp_norm);
    norms.chain(&mut d.layout.final_norm).for_each(|tensor_ref| tensor_ref.bias = bias);
}

/// Both sublayers read the stream through the norm before attention.
pub(super) fn share_norm(d: &mut Description) {
    d.config.parallel = true;
    d.layout.mlp_norm.clone_from(&d.layout.attn_norm);
}

/// The two numbers of q and k that are rotated together lie side by side.
pub(super) fn interleave(d: &mut Description) {
    d.layout.qkv[..2].iter_mut().for_each(|tensor_ref| tensor_ref.order = RowOrder::InterleavedHalves);
}

/// Sets whether q, k, v and the output of attention have biases.
pub(super) fn attention_bias(f: &Fields<'_>, d: &mut Description) -> Result<()> {
    set_attention_bias(d, f.bool_or("attention_bias", false)?);
    Ok(())
}

/// As [`attention_bias`], known from elsewhere.
pub(super) fn set_attention_bias(d: &mut Description, bias: bool) {
    set_qkv_bias(d, bias);
    d.layout.attn_out.bias = bias;
}

/// What differs between families that otherwise share [`base`].
pub(super) struct Base {
    pub(super) rope: RopePlace,
    pub(super) norm: NormKind,
    /// The field with the epsilon of the norms.
    pub(super) eps: &'static str,
}

impl Base {
    pub(super) const USUAL: Self = Self { rope: RopePlace::USUAL, norm: NormKind::Rms, eps: "rms_norm_eps" };
    /// Layer norms, with the field that most families with them have.
    pub(super) const LAYER_NORM: Self = Self { norm: NormKind::Layer, eps: "layer_norm_eps", ..Self::USUAL };
}

/// The names of Llama's tensors.
pub(super) const NAMES: Names<'_> = Names {
    prefix: "model.",
    embedding: "embed_tokens",
    final_norm: "norm",
    head: "lm_head",
    layer: "layers.{}.",
    attn_norm: "input_layernorm",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    attn_out: "self_attn.o_proj",
    mlp_norm: "post_attention_layernorm",
    up: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
};

/// The description shared by most families.
pub(super) fn base(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    base_with(f, weights, &Base::USUAL)
}

/// As [`base`], with what differs.
pub(super) fn base_with(f: &Fields<'_>, weights: &Weights, own: &Base) -> Result<Description> {
    let (hidden, heads) = (f.usize("hidden_size")?, f.usize("num_attention_heads")?);
    let head_dim = f.opt_usize("head_dim")?.unwrap_or(hidden / heads.max(1));
    let sizes = Sizes {
        hidden,
        heads,
        intermediate: f.usize("intermediate_size")?,
        vocab: f.usize("vocab_size")?,
        context: f.opt_usize("max_position_embeddings")?.unwrap_or(2048),
        layers: f.plain_layers("num_hidden_layers")?,
    };
    let mut config = Config {
        kv_heads: f.opt_usize("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        positions: Positions::Rotary(vec![f.rope(&own.rope, head_dim)?]),
        norm: own.norm,
        norm_eps: f.f64_or(own.eps, 1e-6)? as f32,
        activation: f.activation("hidden_act", "silu")?,
        gated: true,
        attention_scale: plain::attention_scale(head_dim),
        tied: f.bool_or("tie_word_embeddings", false)?,
        ..sizes.config(f.opt_str("model_type")?.unwrap_or("llama"))
    };
    // Dynamic scaling extends the context beyond this field.
    if let Positions::Rotary(ropes) = &config.positions
        && let [Rope { scaling: RopeScaling::Dynamic { factor, .. }, .. }] = ropes[..]
    {
        config.context = (config.context as f64 * factor) as usize;
    }
    Ok(Description::new(config, NAMES.layout(weights, false, false)))
}

/// The prefix of a module's name in the weights, or `usual` if they lack the module. Checkpoints of the bare
/// decoder have no prefix, multimodal models name the language part, and some wrappers add their own name.
pub(super) fn prefix(weights: &Weights, module: &str, usual: &str) -> String {
    let end = format!("{module}.weight");
    let names = weights.names();
    let prefixes = names.iter().filter_map(|name| name.strip_suffix(&end));
    let prefixes = prefixes.filter(|p| (p.is_empty() || p.ends_with('.')) && !super::is_other_modality(p));
    prefixes.min_by_key(|p| (*p != usual, p.len())).unwrap_or(usual).to_owned()
}

/// `self_attn.q_norm` and `self_attn.k_norm`, for the families that have them.
pub(super) fn qk_norms(layout: &Layout) -> [TensorRef; 2] {
    let attention = layout.attn_out.name.trim_end_matches("o_proj");
    ["q_norm", "k_norm"].map(|n| TensorRef::new(format!("{attention}{n}")))
}

/// The tensor of a layer by its name in the layer.
pub(super) fn tensor_ref(layout: &Layout, name: &str) -> TensorRef {
    let layer = layout.attn_out.name.trim_end_matches("self_attn.o_proj");
    TensorRef::new(format!("{layer}{name}"))
}
