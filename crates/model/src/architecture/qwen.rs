//! Qwen2 and Qwen2.5 (and the DeepSeek-R1 distillations of them): Llama with
//! biases on q, k and v. Qwen3: no biases, norms on the heads of q and k. The text models of their -VL variants are
//! the same; the three positions of a token of text are equal, so they rotate as usual.

use super::{Description, Fields, llama};
use crate::config::QkNorm;
use crate::error::Result;
use crate::weights::Weights;

/// Defaults of transformers.
pub(super) const QWEN2: &str = r#"{
    "num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28
}"#;

/// As [`QWEN2`].
pub(super) const QWEN3: &str = r#"{
    "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768,
    "sliding_window": 4096, "max_window_layers": 28
}"#;

/// As [`QWEN2`], for the text models of Qwen2-VL and Qwen2.5-VL.
pub(super) const QWEN2_VL: &str = r#"{
    "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
    "sliding_window": 4096, "max_window_layers": 80
}"#;

/// As [`QWEN2_VL`]. There are no windows.
pub(super) const QWEN3_VL: &str = r#"{
    "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 128000, "rope_theta": 500000.0,
    "max_window_layers": 0
}"#;

pub(super) fn describe(f: &Fields<'_>, weights: &Weights) -> Result<Description> {
    let mut d = llama::base(f, weights)?;
    let window = match f.bool_or("use_sliding_window", false)? {
        true => f.opt_usize("sliding_window")?,
        false => None,
    };
    f.ignore(&["sliding_window"]);
    let full = f.usize("max_window_layers")?;
    d.config.layers = f.layers(d.config.depth(), window, 0, |l| l >= full)?;
    if d.config.architecture.starts_with("qwen3") {
        d.config.qk_norm = QkNorm::Head;
        d.layout.qk_norms = Some(llama::qk_norms(&d.layout));
        llama::attention_bias(f, &mut d)?;
    } else {
        d.layout.qkv.iter_mut().for_each(|tensor_ref| tensor_ref.bias = true);
    }
    Ok(d)
}
