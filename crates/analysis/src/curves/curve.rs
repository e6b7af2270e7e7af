//! The curves by which runs are compared.

use serde::{Deserialize, Serialize};

/// A curve over layers by which runs are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Curve {
    /// Norm of the attention output relative to the residual stream.
    NormAttn,
    /// Norm of the MLP output relative to the residual stream.
    NormMlp,
    /// Norm of the contribution of the whole layer relative to the residual stream.
    NormLayer,
    /// Cosine of the attention output and the residual stream.
    CosineAttn,
    /// Cosine of the MLP output and the residual stream.
    CosineMlp,
    /// Cosine of the contribution of the whole layer and the residual stream.
    CosineLayer,
    /// KL(lens || output) in nats.
    KlLensFinal,
    /// Top-5 overlap of lens and output.
    Overlap,
    /// Block influence.
    BlockInfluence,
    /// Angle between the residual stream before and after a layer, in radians.
    Angle,
    /// Share of tokens whose likeliest token of lens and output is the same, of masked models.
    Top1,
    /// Mean effect of skipping a layer on later layers; each effect is the largest of any prompt.
    SkipLayerMax,
    /// As above; each effect is the mean over prompts.
    SkipLayerMean,
    /// Effect of skipping a layer on the output, the largest of any prompt.
    SkipOutputMax,
    /// As above, the mean over prompts.
    SkipOutputMean,
}

impl Curve {
    /// Every curve, in reporting order.
    pub const ALL: [Self; 15] = [
        Self::NormAttn,
        Self::NormMlp,
        Self::NormLayer,
        Self::CosineAttn,
        Self::CosineMlp,
        Self::CosineLayer,
        Self::KlLensFinal,
        Self::Overlap,
        Self::BlockInfluence,
        Self::Angle,
        Self::Top1,
        Self::SkipLayerMax,
        Self::SkipLayerMean,
        Self::SkipOutputMax,
        Self::SkipOutputMean,
    ];

    /// The name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::NormAttn => "norm_attn",
            Self::NormMlp => "norm_mlp",
            Self::NormLayer => "norm_layer",
            Self::CosineAttn => "cosine_attn",
            Self::CosineMlp => "cosine_mlp",
            Self::CosineLayer => "cosine_layer",
            Self::KlLensFinal => "kl_lens_final",
            Self::Overlap => "overlap",
            Self::BlockInfluence => "block_influence",
            Self::Angle => "angle",
            Self::Top1 => "top1_agreement",
            Self::SkipLayerMax => "skip_layer_max",
            Self::SkipLayerMean => "skip_layer_mean",
            Self::SkipOutputMax => "skip_output_max",
            Self::SkipOutputMean => "skip_output_mean",
        }
    }

    /// Whether the curve is a maximum over prompts. The bootstrap is not valid for a maximum: no
    /// resample can exceed it.
    pub fn is_largest(self) -> bool {
        matches!(self, Self::SkipLayerMax | Self::SkipOutputMax)
    }
}
