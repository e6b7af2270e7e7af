//! The fixtures of all architectures, for the test binaries of this crate.

use fathom_model::config::{Config, Experts, Mixer, Mlp, Update};
use fathom_model::{Buffers, Model, Trace};

/// A fixture for every architecture and each variant that changes how the residual stream is composed. A new
/// architecture is tested by every probe once it is in this list.
pub(crate) const ARCHITECTURES: [&str; 45] = [
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
    "qwen3_next",
    "qwen3_5",
    "qwen3_5_moe",
    "granite4-hybrid",
    "lfm2",
    "lfm2_moe",
    "mamba2",
    "falcon_h1",
    "falcon_h1-norm",
    "bamba",
    "nemotron_h",
    "nemotron_h-moe",
    "gpt_oss-mxfp4",
    "llama4",
    "mllama",
    "gemma4",
    "gemma4-e2b",
    "gemma4-moe",
    "bloom",
    "baichuan2-13b",
];

/// Multiply-adds of the matrices of attention or of a recurrence in layer `l`, per row.
#[allow(dead_code)]
pub(crate) fn projection_macs(c: &Config, l: usize) -> u64 {
    let (d, q, kv) = (c.hidden, c.q_width(l), c.kv_width(l));
    if let Mixer::Convolution(_) = c.layers[l].mixer {
        return (4 * d * d) as u64;
    }
    let of_recurrence = c.recurrence(l).map_or(0, |of| {
        let (keys, values) = (of.key_heads * of.key_width, of.heads * of.value_width);
        // Two numbers per head where the state is read before it is written, one elsewhere.
        let numbers = if of.update == Update::Delta { 2 } else { 1 };
        (d * (2 * keys + 2 * values + numbers * of.heads) + values * d) as u64
    });
    if !c.has_attention(l) {
        return of_recurrence;
    }
    let gate = if c.attention_gate { d * q } else { 0 };
    let of_input = match c.latent {
        // Only queries, where keys and values are those of another layer.
        None if c.keys_of(l) != l => d * q,
        None => d * (q + 2 * kv),
        Some(l) => {
            let low = l.rank + l.rotated;
            let queries = l.q_rank.map_or(d * q, |rank| (d + q) * rank);
            queries + d * low + low * 2 * q
        }
    };
    (of_input + gate + q * d) as u64 + of_recurrence
}

/// Multiply-adds of mixing positions in layer `l` for a row that sees `seen`.
#[allow(dead_code)]
pub(crate) fn mixing_macs(c: &Config, l: usize, seen: u64) -> u64 {
    let attention = 2 * c.q_width(l) as u64 * seen;
    match c.layers[l].mixer {
        Mixer::None => 0,
        Mixer::Attention => attention,
        Mixer::Convolution(of) => (c.hidden * of.taps) as u64,
        // The delta rule also reads the state before it writes; queries, keys and values are convolved.
        Mixer::Recurrence(of) | Mixer::Both(of) => {
            let beside = if c.has_attention(l) { attention } else { 0 };
            let channels = 2 * of.key_heads * of.key_width + of.heads * of.value_width;
            let passes = if of.update == Update::Delta { 3 } else { 2 };
            (channels * of.taps + passes * of.heads * of.key_width * of.value_width) as u64 + beside
        }
    }
}

/// Multiply-adds of the MLP of layer `l`, per row.
#[allow(dead_code)]
pub(crate) fn mlp_macs(c: &Config, l: usize) -> u64 {
    let matrices = if c.gated { 3 } else { 2 };
    let dense = matrices * c.hidden * c.mlp_width(l);
    // Into the width of token inputs and back.
    let tokens = c.token_inputs.map_or(0, |width| 2 * c.hidden * width);
    let experts = |e: Experts| {
        let shared = matrices * c.hidden * e.shared + if e.shared_gate { c.hidden } else { 0 };
        c.hidden * e.count + e.active * matrices * c.hidden * e.width + shared
    };
    let count = match c.layers[l].mlp {
        Mlp::None => 0,
        Mlp::Dense => dense,
        Mlp::Experts(e) => experts(e),
        Mlp::DenseAndExperts(e) => dense + experts(e),
    };
    (count + tokens) as u64
}

/// Buffers with what layer `l` reads of a clean run beside the stream.
#[allow(dead_code)]
pub(crate) fn buffers(model: &Model, trace: &Trace, l: usize) -> Buffers {
    let positions: Vec<u32> = (0..trace.tokens.len() as u32).collect();
    let mut b = Buffers::new(model);
    b.keys = model.clean_keys(trace, &positions);
    read_tokens(model, trace, l, &mut b);
    b
}

/// Makes the token inputs of all rows of a text ready for layer `l`.
#[allow(dead_code)]
pub(crate) fn read_tokens(model: &Model, trace: &Trace, l: usize, b: &mut Buffers) {
    let positions: Vec<u32> = (0..trace.tokens.len() as u32).collect();
    model.read_tokens(l, trace, &positions, b);
}
