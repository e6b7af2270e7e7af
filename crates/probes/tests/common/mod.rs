//! The fixtures of all architectures, for the test binaries of this crate.

use fathom_model::config::{Config, Mlp};

/// A fixture for every architecture and each variant that changes how the residual stream is composed. A new
/// architecture is tested by every probe once it is in this list.
pub(crate) const ARCHITECTURES: [&str; 28] = [
    "llama2",
    "llama3",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "olmo2",
    "phi3",
    "phi3-longrope",
    "gpt_neox",
    "gpt_neox-serial",
    "gpt2",
    "smollm3",
    "phi",
    "granite",
    "cohere",
    "exaone4",
    "hunyuan",
    "mixtral",
    "qwen3_moe-dense",
    "qwen2_moe",
    "glm4_moe",
    "deepseek_v2",
    "deepseek_v3",
    "gpt_oss-mxfp4",
    "bloom",
    "baichuan2-13b",
];

/// Multiply-adds of the matrices of attention, per row.
#[allow(dead_code)]
pub(crate) fn projection_macs(c: &Config) -> u64 {
    let (d, q, kv) = (c.hidden, c.q_width(), c.kv_width());
    let of_input = match c.latent {
        None => d * (q + 2 * kv),
        Some(l) => {
            let low = l.rank + l.rotated;
            let queries = l.q_rank.map_or(d * q, |rank| (d + q) * rank);
            queries + d * low + low * 2 * q
        }
    };
    (of_input + q * d) as u64
}

/// Multiply-adds of the MLP of layer `l`, per row.
#[allow(dead_code)]
pub(crate) fn mlp_macs(c: &Config, l: usize) -> u64 {
    let matrices = if c.gated { 3 } else { 2 };
    let count = match c.layers[l].mlp {
        Mlp::Dense => matrices * c.hidden * c.intermediate,
        Mlp::Experts(e) => {
            let shared = matrices * c.hidden * e.shared + if e.shared_gate { c.hidden } else { 0 };
            c.hidden * e.count + e.active * matrices * c.hidden * e.width + shared
        }
    };
    count as u64
}
