//! OLMo 2: norms after the sublayers only, and norms on q and k over all heads.

use super::{Description, Fields, llama};
use crate::config::QkNorm;
use crate::error::Result;
use crate::weights::Weights;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    llama::attention_bias(f, &mut d)?;
    (d.config.pre_norm, d.config.post_norm) = (false, true);
    d.config.qk_norm = QkNorm::Full;
    (d.layout.attn_norm, d.layout.mlp_norm) = (None, None);
    d.layout.post_attn_norm = Some(llama::tensor_ref(&d.layout, "post_attention_layernorm"));
    d.layout.post_mlp_norm = Some(llama::tensor_ref(&d.layout, "post_feedforward_layernorm"));
    d.layout.qk_norms = Some(llama::qk_norms(&d.layout));
    Ok(d)
}
