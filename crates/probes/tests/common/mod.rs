//! The fixtures of all architectures, for the test binaries of this crate.

/// A fixture for every architecture and each variant that changes how the residual stream is composed. A new
/// architecture is tested by every probe once it is in this list.
pub(crate) const ARCHITECTURES: [&str; 19] = [
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
];
