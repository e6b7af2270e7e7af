//! Gemma: norm weights stored around zero, a scaled embedding. Gemma 2 and 3: norms before and after each sublayer, alternating
//! local and global layers. Gemma 2 caps attention scores and logits; Gemma 3 normalises q and k and rotates local and
//! global layers differently.

use super::fields::{FULL_ATTENTION, RopePlace};
use super::{Description, EncoderLayout, Fields, llama};
use crate::config::{Encoder, Head, Positions, QkNorm};
use crate::error::Result;
use crate::weights::Weights;
use fathom_kernels::elementwise::Activation;

/// Defaults of transformers.
pub(super) const GEMMA: &str = r#"{
    "vocab_size": 256000, "head_dim": 256, "max_position_embeddings": 8192, "tie_word_embeddings": true,
    "hidden_act": "gelu_pytorch_tanh"
}"#;

/// Defaults of transformers; the caps apply unless they are `null`.
pub(super) const GEMMA2: &str = r#"{
    "vocab_size": 256000, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "max_position_embeddings": 8192, "tie_word_embeddings": true, "sliding_window": 4096,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0
}"#;

/// As [`GEMMA2`]. Published multimodal models omit fields that equal these.
pub(super) const GEMMA3: &str = r#"{
    "model_type": "gemma3_text", "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216,
    "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "max_position_embeddings": 131072, "tie_word_embeddings": true, "sliding_window": 4096
}"#;

/// The rotary embedding of Gemma 3's global layers.
const GLOBAL: RopePlace =
    RopePlace { kind: Some(FULL_ATTENTION), theta: (&["rope_theta"], 1_000_000.0), ..RopePlace::USUAL };

/// The rotary embedding of Gemma 3's local layers.
const LOCAL: RopePlace = RopePlace {
    kind: Some("sliding_attention"),
    theta: (&["rope_local_base_freq"], 10_000.0),
    ..RopePlace::USUAL
};

pub(super) fn describe_first(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    llama::attention_bias(f, &mut d)?;
    // Early files say 'gelu' and mean its approximation by tanh, also in transformers.
    if d.config.activation == Activation::GeluErf {
        d.config.activation = Activation::GeluTanh;
    }
    f.ignore(&["hidden_activation"]);
    d.config.embedding_scale = (d.config.hidden as f32).sqrt();
    d.layout.norm_offset = 1.0;
    Ok(d)
}

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    let third = d.config.architecture != "gemma2";
    llama::attention_bias(f, &mut d)?;
    let c = &mut d.config;
    c.activation = f.activation("hidden_activation", "gelu_pytorch_tanh")?;
    c.post_norm = true;
    c.embedding_scale = (c.hidden as f32).sqrt();
    c.attention_scale = 1.0 / f.f64_or("query_pre_attn_scalar", 256.0)?.sqrt() as f32;
    let cap = |name| f.opt_f64(name).map(|cap| cap.map(|cap| cap as f32));
    c.final_softcap = cap("final_logit_softcapping")?;
    // transformers' Gemma 3 has the field but does not cap scores.
    c.attention_softcap = if third { None } else { cap("attn_logit_softcapping")? };
    let window = f.opt_usize("sliding_window")?;
    if third {
        let pattern = f.opt_usize("sliding_window_pattern")?.unwrap_or(6);
        // transformers writes the other name beside 'layer_types' but does not read it.
        if f.has("layer_types") {
            f.ignore(&["_sliding_window_pattern"]);
        }
        // Embedding models see both sides, half of the window on each.
        let both_sides = f.bool_or("use_bidirectional_attention", false)?;
        let window = window.map(|window| if both_sides { window / 2 + 1 } else { window });
        if both_sides {
            c.encoder = Some(Encoder { token_types: 0, token_dropout: None, head: Head::None });
            d.layout.encoder = Some(EncoderLayout::default());
        }
        c.layers = f.layers(c.depth(), window, 1, |l| !(l + 1).is_multiple_of(pattern))?;
        c.positions = Positions::Rotary(vec![f.rope(&GLOBAL, c.head_dim)?, f.rope(&LOCAL, c.head_dim)?]);
        c.qk_norm = QkNorm::Head;
        d.layout.qk_norms = Some(llama::qk_norms(&d.layout));
    } else {
        c.layers = f.layers(c.depth(), window, 0, |l| l % 2 == 0)?;
    }
    let norm = |name| Some(llama::tensor_ref(&d.layout, name));
    let (post_attn, mlp, post_mlp) = (
        norm("post_attention_layernorm"),
        norm("pre_feedforward_layernorm"),
        norm("post_feedforward_layernorm"),
    );
    (d.layout.post_attn_norm, d.layout.mlp_norm, d.layout.post_mlp_norm) = (post_attn, mlp, post_mlp);
    d.layout.norm_offset = 1.0;
    Ok(d)
}
