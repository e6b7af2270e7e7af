//! What llama.cpp's architectures mean beyond what their files say.

use crate::config::{NormKind, QkNorm, Score};
use fathom_kernels::elementwise::Activation;

/// One architecture of llama.cpp.
#[derive(Clone, Copy)]
pub(super) struct GgufFamily {
    /// The name in `general.architecture`.
    pub(super) arch: &'static str,
    /// The name that Hugging Face uses.
    pub(super) name: &'static str,
    pub(super) norm: NormKind,
    pub(super) norms: Norms,
    pub(super) qk_norm: QkNorm,
    pub(super) activation: Activation,
    pub(super) gated: bool,
    pub(super) residual: Residual,
    /// Whether the numbers of q and k that are rotated together lie side by side.
    pub(super) side_by_side: bool,
    pub(super) factors: Factors,
    pub(super) windows: Windows,
    pub(super) mixture: Mixture,
    pub(super) alibi: Alibi,
    pub(super) mixing: Mixing,
}

/// What layers without attention have instead.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mixing {
    /// All layers have attention.
    Attention,
    /// The gated delta rule.
    Delta,
    /// The same with the heads of values in another order.
    TiledDelta,
    /// Mamba 2.
    StateSpace,
    /// The same, without MLPs.
    StateSpaceAlone,
    /// The same beside attention.
    Both,
    /// The same in some layers; each layer is that, attention without rotation, or an MLP.
    OneEach,
    /// A short convolution.
    Convolution,
}

impl Mixing {
    /// Whether it is Mamba 2.
    pub(super) fn is_state_space(self) -> bool {
        matches!(self, Self::StateSpace | Self::StateSpaceAlone | Self::Both | Self::OneEach)
    }
}

impl GgufFamily {
    /// Whether attention has a gate beside its queries, head by head.
    pub(super) fn gated_attention(&self) -> bool {
        matches!(self.mixing, Mixing::Delta | Mixing::TiledDelta)
    }
}

/// Whether scores fall with the distance instead of a rotation, and the largest exponent of the slopes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Alibi {
    Never,
    /// By this exponent.
    Always(f64),
    /// By the exponent that a key gives; files without it are refused.
    ByKey,
    /// By the exponent that a key gives, and by this one in models with that many layers.
    InDepth(usize, f64),
}

/// How experts are weighed, if a file has some.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mixture {
    /// Files with experts are refused.
    Never,
    /// By the softmax over all experts.
    Softmax,
    /// As [`Self::Softmax`], divided by the sum of the chosen.
    NormalisedSoftmax,
    /// By sigmoids, divided by the sum of the chosen.
    NormalisedSigmoid,
    /// As keys say; this score without one.
    ByKeys(Score),
    /// By sigmoids, which multiply what the experts read.
    OnInput,
}

/// Where the norms of a layer are.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Norms {
    Before,
    Behind,
    Both,
}

/// Whether attention and MLP are parallel.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Residual {
    Serial,
    Parallel,
    /// As a key says; parallel without it.
    ByKey,
    /// Parallel where layers have one norm only.
    ByNorms,
}

/// Factors that keys give.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Factors {
    None,
    /// The embedding is multiplied by the root of the width.
    Gemma,
    /// The logits are multiplied by a key.
    Cohere,
    /// Keys for embedding, contributions and logits, which are divided.
    Granite,
    /// As Granite; files without the keys are refused.
    MiniCpm,
}

/// Which layers have a sliding window, if a key gives one, and which rotate.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Windows {
    /// None: the key is not read.
    Never,
    /// All layers.
    All,
    /// All but the last in each group of that many layers.
    Groups(usize),
    /// As [`Self::Groups`]; the local layers have a rotation of their own.
    OwnRotation(usize),
    /// As [`Self::Groups`]; with a window, the other layers do not rotate.
    OnlyLocalRotate(usize),
    /// Never; the last layer in each group of that many does not rotate.
    Unrotated(usize),
    /// Chunks instead, as Llama 4 has them: files do not say how long they are.
    Chunks,
}

/// Llama's block.
const LLAMA: GgufFamily = GgufFamily {
    arch: "llama",
    name: "llama",
    norm: NormKind::Rms,
    norms: Norms::Before,
    qk_norm: QkNorm::None,
    activation: Activation::Silu,
    gated: true,
    residual: Residual::Serial,
    side_by_side: true,
    factors: Factors::None,
    windows: Windows::All,
    mixture: Mixture::Never,
    alibi: Alibi::Never,
    mixing: Mixing::Attention,
};

/// Llama's block with the rotation of Hugging Face checkpoints.
const HALVES: GgufFamily = GgufFamily { side_by_side: false, windows: Windows::Never, ..LLAMA };

/// Layer norms and an MLP without a gate.
const PLAIN: GgufFamily =
    GgufFamily { norm: NormKind::Layer, activation: Activation::GeluTanh, gated: false, ..HALVES };

/// Layers of one sublayer each.
const NEMOTRON_H: GgufFamily = GgufFamily {
    arch: "nemotron_h",
    name: "nemotron_h",
    activation: Activation::ReluSquared,
    gated: false,
    mixing: Mixing::OneEach,
    ..HALVES
};

/// All architectures that are read.
pub(super) const GGUF_FAMILIES: &[GgufFamily] = &[
    // With experts it is Mixtral.
    GgufFamily { mixture: Mixture::NormalisedSoftmax, ..LLAMA },
    GgufFamily { arch: "qwen2", name: "qwen2", ..HALVES },
    GgufFamily { arch: "qwen2vl", name: "qwen2_vl", ..HALVES },
    GgufFamily { arch: "qwen3", name: "qwen3", qk_norm: QkNorm::Head, ..HALVES },
    GgufFamily { arch: "qwen3vl", name: "qwen3_vl", qk_norm: QkNorm::Head, ..HALVES },
    GgufFamily {
        arch: "gemma",
        name: "gemma",
        activation: Activation::GeluTanh,
        factors: Factors::Gemma,
        ..HALVES
    },
    GgufFamily {
        arch: "gemma2",
        name: "gemma2",
        norms: Norms::Both,
        activation: Activation::GeluTanh,
        factors: Factors::Gemma,
        windows: Windows::Groups(2),
        ..HALVES
    },
    GgufFamily {
        arch: "gemma3",
        name: "gemma3_text",
        norms: Norms::Both,
        qk_norm: QkNorm::Head,
        activation: Activation::GeluTanh,
        factors: Factors::Gemma,
        windows: Windows::OwnRotation(6),
        ..HALVES
    },
    GgufFamily {
        arch: "gemma4",
        name: "gemma4_text",
        norms: Norms::Both,
        qk_norm: QkNorm::HeadAndValues,
        activation: Activation::GeluTanh,
        factors: Factors::Gemma,
        windows: Windows::OwnRotation(6),
        mixture: Mixture::NormalisedSoftmax,
        ..HALVES
    },
    // Files with a window are OLMo 3.
    GgufFamily {
        arch: "olmo2",
        name: "olmo2",
        norms: Norms::Behind,
        qk_norm: QkNorm::Full,
        windows: Windows::Groups(4),
        ..HALVES
    },
    GgufFamily { arch: "phi3", name: "phi3", windows: Windows::All, ..HALVES },
    GgufFamily { arch: "phi2", name: "phi", residual: Residual::Parallel, ..PLAIN },
    GgufFamily {
        arch: "gptneox",
        name: "gpt_neox",
        activation: Activation::GeluErf,
        residual: Residual::ByKey,
        ..PLAIN
    },
    GgufFamily { arch: "gpt2", name: "gpt2", ..PLAIN },
    GgufFamily {
        arch: "falcon",
        name: "falcon",
        activation: Activation::GeluErf,
        residual: Residual::Parallel,
        ..PLAIN
    },
    GgufFamily { arch: "starcoder2", name: "starcoder2", ..PLAIN },
    GgufFamily { arch: "nemotron", name: "nemotron", activation: Activation::ReluSquared, ..PLAIN },
    GgufFamily { arch: "smollm3", name: "smollm3", windows: Windows::Unrotated(4), ..LLAMA },
    GgufFamily { arch: "internlm2", name: "internlm2", windows: Windows::Never, ..LLAMA },
    GgufFamily { arch: "ernie4_5", name: "ernie4_5", windows: Windows::Never, ..LLAMA },
    GgufFamily {
        arch: "granite",
        name: "granite",
        factors: Factors::Granite,
        windows: Windows::Never,
        ..LLAMA
    },
    GgufFamily {
        arch: "minicpm",
        name: "minicpm",
        factors: Factors::MiniCpm,
        windows: Windows::Never,
        ..LLAMA
    },
    GgufFamily {
        arch: "command-r",
        name: "cohere",
        norm: NormKind::Layer,
        qk_norm: QkNorm::OwnHead,
        residual: Residual::Parallel,
        factors: Factors::Cohere,
        windows: Windows::Never,
        ..LLAMA
    },
    GgufFamily {
        arch: "cohere2",
        name: "cohere2",
        norm: NormKind::Layer,
        residual: Residual::Parallel,
        factors: Factors::Cohere,
        windows: Windows::OnlyLocalRotate(4),
        ..LLAMA
    },
    GgufFamily {
        arch: "stablelm",
        name: "stablelm",
        norm: NormKind::Layer,
        qk_norm: QkNorm::OwnHead,
        residual: Residual::ByNorms,
        ..HALVES
    },
    GgufFamily {
        arch: "exaone4",
        name: "exaone4",
        norms: Norms::Behind,
        qk_norm: QkNorm::Head,
        windows: Windows::OnlyLocalRotate(4),
        ..HALVES
    },
    GgufFamily { arch: "hunyuan-dense", name: "hunyuan_v1_dense", qk_norm: QkNorm::HeadRotated, ..HALVES },
    GgufFamily { arch: "qwen2moe", name: "qwen2_moe", mixture: Mixture::Softmax, ..HALVES },
    GgufFamily {
        arch: "qwen3moe",
        name: "qwen3_moe",
        qk_norm: QkNorm::Head,
        mixture: Mixture::NormalisedSoftmax,
        ..HALVES
    },
    GgufFamily { arch: "olmoe", name: "olmoe", qk_norm: QkNorm::Full, mixture: Mixture::Softmax, ..HALVES },
    GgufFamily {
        arch: "granitemoe",
        name: "granitemoe",
        factors: Factors::Granite,
        windows: Windows::Never,
        mixture: Mixture::NormalisedSoftmax,
        ..LLAMA
    },
    GgufFamily {
        arch: "glm4moe",
        name: "glm4_moe",
        qk_norm: QkNorm::Head,
        mixture: Mixture::ByKeys(Score::Sigmoid),
        ..HALVES
    },
    GgufFamily {
        arch: "deepseek2",
        name: "deepseek_v2",
        windows: Windows::Never,
        mixture: Mixture::ByKeys(Score::Softmax),
        ..LLAMA
    },
    GgufFamily {
        arch: "qwen3next",
        name: "qwen3_next",
        qk_norm: QkNorm::Head,
        mixture: Mixture::NormalisedSoftmax,
        mixing: Mixing::Delta,
        ..HALVES
    },
    GgufFamily {
        arch: "qwen35",
        name: "qwen3_5",
        qk_norm: QkNorm::Head,
        mixing: Mixing::TiledDelta,
        ..HALVES
    },
    GgufFamily {
        arch: "qwen35moe",
        name: "qwen3_5_moe",
        qk_norm: QkNorm::Head,
        mixture: Mixture::NormalisedSoftmax,
        mixing: Mixing::TiledDelta,
        ..HALVES
    },
    GgufFamily {
        arch: "granitehybrid",
        name: "granitemoehybrid",
        factors: Factors::Granite,
        windows: Windows::Never,
        mixture: Mixture::NormalisedSoftmax,
        mixing: Mixing::StateSpace,
        ..LLAMA
    },
    GgufFamily { arch: "mamba2", name: "mamba2", mixing: Mixing::StateSpaceAlone, ..HALVES },
    NEMOTRON_H,
    GgufFamily { arch: "nemotron_h_moe", mixture: Mixture::ByKeys(Score::Sigmoid), ..NEMOTRON_H },
    // Its factors are in the weights.
    GgufFamily { arch: "falcon-h1", name: "falcon_h1", mixing: Mixing::Both, ..HALVES },
    GgufFamily { arch: "lfm2", name: "lfm2", qk_norm: QkNorm::Head, mixing: Mixing::Convolution, ..HALVES },
    GgufFamily {
        arch: "lfm2moe",
        name: "lfm2_moe",
        qk_norm: QkNorm::Head,
        mixture: Mixture::NormalisedSigmoid,
        mixing: Mixing::Convolution,
        ..HALVES
    },
    GgufFamily { arch: "seed_oss", name: "seed_oss", ..HALVES },
    GgufFamily {
        arch: "gpt-oss",
        name: "gpt_oss",
        activation: Activation::ClampedSwiglu,
        windows: Windows::Groups(2),
        mixture: Mixture::NormalisedSoftmax,
        ..HALVES
    },
    GgufFamily {
        arch: "llama4",
        name: "llama4_text",
        qk_norm: QkNorm::UnitRotated,
        windows: Windows::Chunks,
        mixture: Mixture::OnInput,
        ..LLAMA
    },
    GgufFamily { arch: "bloom", name: "bloom", alibi: Alibi::Always(8.0), ..PLAIN },
    GgufFamily { arch: "mpt", name: "mpt", activation: Activation::GeluErf, alibi: Alibi::ByKey, ..PLAIN },
    // Files do not say that the 13B models have ALiBi.
    GgufFamily {
        arch: "baichuan",
        name: "baichuan",
        windows: Windows::Never,
        alibi: Alibi::InDepth(40, 8.0),
        ..LLAMA
    },
];
