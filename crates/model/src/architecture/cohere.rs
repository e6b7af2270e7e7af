//! Cohere's Command: attention and MLP in parallel behind one layer norm without a bias, a factor on the logits,
//! rotated pairs side by side, norms on the heads of q and k in Command R+. Command R7B and A (`cohere2`): three
//! layers with a sliding window to one that sees everything and does not rotate.

use super::llama::Base;
use super::{Description, Fields, RowOrder, llama};
use crate::config::QkNorm;
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const COHERE: &str = r#"{
    "max_position_embeddings": 8192, "layer_norm_eps": 1e-5, "logit_scale": 0.0625, "tie_word_embeddings": true
}"#;

/// As [`COHERE`].
pub(super) const COHERE2: &str = r#"{
    "max_position_embeddings": 8192, "layer_norm_eps": 1e-5, "logit_scale": 0.0625, "tie_word_embeddings": true,
    "sliding_window": 4096, "sliding_window_pattern": 4
}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base_with(f, weights, &Base::LAYER_NORM)?;
    llama::attention_bias(f, &mut d)?;
    llama::interleave(&mut d);
    llama::share_norm(&mut d);
    d.config.logit_scale = f.f64_or("logit_scale", 0.0625)? as f32;
    if d.config.architecture == "cohere2" {
        let window = f.opt_usize("sliding_window")?;
        let pattern = f.usize("sliding_window_pattern")?;
        // transformers writes the other name beside 'layer_types' but does not read it.
        f.ignore(&["_sliding_window_pattern"]);
        d.config.layers = f.layers(d.config.depth(), window, 0, |l| !(l + 1).is_multiple_of(pattern))?;
        for layer in &mut d.config.layers {
            layer.rope = layer.window.and(layer.rope);
        }
    } else if f.bool_or("use_qk_norm", false)? {
        d.config.qk_norm = QkNorm::OwnHead;
        let norms = llama::qk_norms(&d.layout);
        d.layout.qk_norms = Some(norms.map(|norm| norm.ordered(RowOrder::InterleavedHalves)));
    }
    Ok(d)
}
