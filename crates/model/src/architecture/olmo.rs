//! OLMo 2: norms after the sublayers only, and norms on q and k over all heads. OLMo 3: also a sliding window in
//! three of four layers, whose rotation is not scaled.

use super::fields::{FULL_ATTENTION, RopePlace};
use super::{Description, Fields, llama};
use crate::config::{Positions, QkNorm};
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers for OLMo 3.
pub(super) const OLMO3: &str = r#"{
    "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "sliding_window": 4096, "rope_theta": 500000.0
}"#;

/// The rotary embedding of OLMo 3's global layers.
const GLOBAL: RopePlace =
    RopePlace { kind: Some(FULL_ATTENTION), theta: (&["rope_theta"], 500_000.0), ..RopePlace::USUAL };

/// That of its local layers. transformers does not use 'rope_theta' for it.
const LOCAL: RopePlace =
    RopePlace { kind: Some("sliding_attention"), theta: (&[], 500_000.0), ..RopePlace::USUAL };

pub(super) fn describe_third(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = describe(f, weights)?;
    let c = &mut d.config;
    c.positions = Positions::Rotary(vec![f.rope(&GLOBAL, c.head_dim)?, f.rope(&LOCAL, c.head_dim)?]);
    let window = f.opt_usize("sliding_window")?;
    c.layers = f.layers(c.depth(), window, 1, |l| !(l + 1).is_multiple_of(4))?;
    Ok(d)
}

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    llama::attention_bias(f, &mut d)?;
    d.config.qk_norm = QkNorm::Full;
    norms_behind(&mut d);
    Ok(d)
}

/// Norms after the sublayers instead of before them, and norms on q and k.
pub(super) fn norms_behind(d: &mut Description) {
    (d.config.pre_norm, d.config.post_norm) = (false, true);
    (d.layout.attn_norm, d.layout.mlp_norm) = (None, None);
    d.layout.post_attn_norm = Some(llama::tensor_ref(&d.layout, "post_attention_layernorm"));
    d.layout.post_mlp_norm = Some(llama::tensor_ref(&d.layout, "post_feedforward_layernorm"));
    d.layout.qk_norms = Some(llama::qk_norms(&d.layout));
}
