//! EXAONE 4: norms after the sublayers only, norms on the heads of q and k; in the larger model three layers with a
//! sliding window to one that sees everything and does not rotate.

use super::{Description, Fields, llama, olmo};
use crate::config::QkNorm;
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const DEFAULTS: &str = r#"{
    "num_key_value_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "sliding_window": 4096,
    "sliding_window_pattern": 4
}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    olmo::norms_behind(&mut d);
    d.config.qk_norm = QkNorm::Head;
    let window = f.opt_usize("sliding_window")?;
    // The pattern may be a string of letters, but then the kinds of the layers are named too.
    let pattern = match f.has("layer_types") {
        true => {
            f.ignore(&["sliding_window_pattern"]);
            0
        }
        false => f.opt_usize("sliding_window_pattern")?.unwrap_or(0),
    };
    d.config.layers = f.layers(d.config.depth(), window, 0, |l| !(l + 1).is_multiple_of(pattern))?;
    if window.is_some() {
        d.config.layers.iter_mut().for_each(|layer| layer.rope = layer.window.and(layer.rope));
    }
    Ok(d)
}
