//! What each probe gives on one prompt and over all prompts.

mod angles;
mod contributions;
mod erasure;
mod experts;
mod gradients;
mod lens;
mod order;
mod settling;
mod similarity;
mod skip;

pub use angles::{AngleComponent, AngleFit, Angles, AnglesSample};
pub use contributions::{Contributions, ContributionsSample, MeanMedian, Parts, PerToken};
pub use erasure::ErasurePair;
pub use experts::Experts;
pub use gradients::{
    GradientSite, Gradients, GradientsPair, PAPER_STEPS, PathBaseline, Quadrature, UnknownQuadrature,
};
pub use lens::LensCurves;
pub use order::{Order, OrderEffects};
pub use settling::{SETTLING_THRESHOLD_BITS, Settling, SettlingSample};
pub use similarity::Similarity;
pub use skip::{ByMode, OverPrompts, SkipAverage, SkipEffects, SkipMode, SkipPart, SkipSample, SkipSummary};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The curves, one field per probe; a probe that did not run is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeResults {
    /// What each sublayer adds to the residual stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contributions: Option<Contributions>,
    /// The output distribution read off after each layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lens: Option<LensCurves>,
    /// How the residual streams at different depths resemble each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity: Option<Similarity>,
    /// How far the residual stream turns from layer to layer, and what the last layer makes of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub angles: Option<Angles>,
    /// The level at which each token's prediction settles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settling: Option<Settling>,
    /// What single experts add, in mixtures of experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<Experts>,
    /// What later layers and the output lose when a layer is bypassed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<SkipSummary>,
    /// What the output loses when layers run in another order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// What the answer loses when a token's residual is erased before a layer, one entry a pair.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erasure: Vec<ErasurePair>,
    /// What the answer owes to each token at each layer, one entry a pair and site.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gradients: Vec<GradientsPair>,
    /// Probes of another version, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}
