//! Integrated gradients (arXiv 2505.13898).

use crate::null;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Whose values the path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GradientSite {
    /// The stream that leaves layer l, h_{l+1}.
    Resid,
    /// What the attention of layer l adds; the stream it is added to stays clean.
    Attn,
    /// What the MLP of layer l adds; the stream it is added to stays clean.
    Mlp,
}

impl GradientSite {
    /// All sites, in the order of results.
    pub const ALL: [Self; 3] = [Self::Resid, Self::Attn, Self::Mlp];

    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resid => "resid",
            Self::Attn => "attn",
            Self::Mlp => "mlp",
        }
    }
}

/// Where the path starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathBaseline {
    /// The mean of all positions, at every position.
    #[default]
    Sequence,
    /// At each position the mean of its features, in every feature (the papers' code).
    Feature,
}

impl PathBaseline {
    /// Both baselines.
    pub const ALL: [Self; 2] = [Self::Sequence, Self::Feature];

    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sequence => "sequence",
            Self::Feature => "feature",
        }
    }
}

/// How the integral along the path is taken. In text `adaptive`, `adaptive:TOLERANCE`, `gauss-legendre`,
/// `gauss-legendre:NODES`, `riemann` or `riemann:STEPS`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Quadrature {
    /// Simpson's rule on intervals that are halved where it misses the change of the
    /// target most. It ends where what they miss is below this share of the change together, and
    /// below twice that of all that the target moves up and down if no errors cancel; or where what
    /// is left may be rounding, which in bfloat16 can be more. Halves use the nodes of the whole again,
    /// and no node is spent where the target is flat: along such a path it often jumps
    /// within a thousandth of the way, which no fixed rule sees.
    Adaptive(f64),
    /// Gauss-Legendre quadrature with this number of nodes.
    GaussLegendre(u32),
    /// The left Riemann sum with this number of steps, at nodes k / steps (the papers: 256).
    Riemann(u32),
}

/// Steps of the papers' sum.
pub const PAPER_STEPS: u32 = 256;

/// The tolerated completeness error where the adaptive rule has no other.
const TOLERANCE: f64 = 0.01;

/// The tolerances that the adaptive rule may have.
const TOLERANCES: RangeInclusive<f64> = 1e-4..=0.5;

/// Nodes of Gauss and Legendre where no number is given.
const NODES: u32 = 32;

/// The most nodes that Gauss and Legendre's rule may have; finding them takes the square
/// of their number.
const MOST_GAUSS: u32 = 1024;

/// The most steps that a sum may have.
const MOST_STEPS: u32 = 1 << 16;

/// A quadrature that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown quadrature '{0}'; use 'adaptive' (up to an error of {TOLERANCE}), 'adaptive:ERROR' with 0.0001 to 0.5, 'gauss-legendre' ({NODES} nodes), 'gauss-legendre:NODES' with 1 to {MOST_GAUSS}, 'riemann' ({PAPER_STEPS} steps) or 'riemann:STEPS' with 1 to {MOST_STEPS}"
)]
pub struct UnknownQuadrature(String);

impl Quadrature {
    /// The adaptive rule with its default tolerance of 1 %.
    pub const ADAPTIVE: Self = Self::Adaptive(TOLERANCE);
}

impl fmt::Display for Quadrature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adaptive(TOLERANCE) => f.write_str("adaptive"),
            Self::Adaptive(tolerance) => write!(f, "adaptive:{tolerance}"),
            Self::GaussLegendre(NODES) => f.write_str("gauss-legendre"),
            Self::GaussLegendre(nodes) => write!(f, "gauss-legendre:{nodes}"),
            Self::Riemann(PAPER_STEPS) => f.write_str("riemann"),
            Self::Riemann(steps) => write!(f, "riemann:{steps}"),
        }
    }
}

impl FromStr for Quadrature {
    type Err = UnknownQuadrature;

    fn from_str(text: &str) -> Result<Self, UnknownQuadrature> {
        let unknown = || UnknownQuadrature(text.to_owned());
        let (name, argument) = text.split_once(':').map_or((text, None), |(name, of)| (name, Some(of)));
        let count = |default: u32, most: u32| match argument.map(str::parse::<u32>) {
            None => Ok(default),
            Some(Ok(count)) if (1..=most).contains(&count) => Ok(count),
            Some(_) => Err(unknown()),
        };
        match name {
            "adaptive" => match argument.map(str::parse::<f64>) {
                None => Ok(Self::ADAPTIVE),
                Some(Ok(tolerance)) if TOLERANCES.contains(&tolerance) => Ok(Self::Adaptive(tolerance)),
                Some(_) => Err(unknown()),
            },
            "gauss-legendre" => count(NODES, MOST_GAUSS).map(Self::GaussLegendre),
            "riemann" => count(PAPER_STEPS, MOST_STEPS).map(Self::Riemann),
            _ => Err(unknown()),
        }
    }
}

impl From<Quadrature> for String {
    fn from(quadrature: Quadrature) -> Self {
        quadrature.to_string()
    }
}

impl TryFrom<String> for Quadrature {
    type Error = UnknownQuadrature;

    fn try_from(text: String) -> Result<Self, UnknownQuadrature> {
        text.parse()
    }
}

/// Integrated gradients of one question-answer pair at one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gradients {
    /// Whose values the path leads to.
    pub site: GradientSite,
    /// Where the path starts.
    pub baseline: PathBaseline,
    /// How the integral was taken.
    pub quadrature: Quadrature,
    /// `[L][T]`: what each position contributes to the summed probability of the answer's tokens. The last token
    /// contributes nothing.
    #[serde(deserialize_with = "null::matrix")]
    pub attribution: Vec<Vec<f64>>,
    /// `[L]`: |sum of attributions - (F(x) - F(base))| / |F(x) - F(base)|, the denominator at least 1e-6.
    #[serde(deserialize_with = "null::numbers")]
    pub completeness_error: Vec<f64>,
    /// `[L]`: the sum of the absolute errors of the intervals of integration over the same denominator: never
    /// below the completeness error, in which errors of opposite sign cancel. Absent for rules without intervals,
    /// and from older files.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "null::some_numbers")]
    pub interval_error: Option<Vec<f64>>,
    /// `[L]`: points of the path at which gradients were taken.
    pub nodes: Vec<usize>,
}

/// Integrated gradients of one pair at one site, with the pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradientsPair {
    /// The text before the answer.
    pub question: String,
    /// The answer whose probability is read.
    pub answer: String,
    /// The text of each of the T tokens.
    pub tokens: Vec<String>,
    /// What was measured.
    #[serde(flatten)]
    pub gradients: Gradients,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_quadratures_are_read_back() {
        use Quadrature::{Adaptive, GaussLegendre, Riemann};
        for quadrature in [
            Quadrature::ADAPTIVE,
            Adaptive(0.05),
            Adaptive(1e-4),
            GaussLegendre(32),
            GaussLegendre(5),
            Riemann(256),
            Riemann(7),
        ] {
            assert_eq!(quadrature.to_string().parse(), Ok(quadrature));
        }
        for wrong in [
            "",
            "riemann:0",
            "riemann:x",
            "riemann:99999999",
            "gauss",
            "adaptive:3",
            "adaptive:NaN",
            "adaptive:0",
            "adaptive:",
            "riemann:",
            "gauss-legendre:2000",
        ] {
            assert!(wrong.parse::<Quadrature>().unwrap_err().to_string().contains("'riemann:STEPS'"));
        }
    }
}
