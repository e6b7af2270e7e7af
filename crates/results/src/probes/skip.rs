//! What later layers and the output lose when a layer is bypassed (arXiv 2505.13898).

use crate::null;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where the bypass holds and where its effect is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SkipMode {
    /// Bypass at positions 1..t, effect at positions from t on (the papers' main figure).
    Future,
    /// Bypass and effect at all positions but the first; in masked models, at all but those of special tokens.
    Current,
    /// As `Future`, but each later layer sees the clean stream minus what the layer added; nothing propagates, and
    /// the output is not read.
    Local,
    /// In masked models, bypass at a random half of the text's positions, effect at the other half.
    Others,
}

impl SkipMode {
    /// All modes, in the order of results.
    pub const ALL: [Self; 4] = [Self::Future, Self::Current, Self::Local, Self::Others];

    /// The mode whose effects on other tokens the rules read: in causal models on later ones.
    pub fn far(masked: bool) -> Self {
        if masked { Self::Others } else { Self::Future }
    }

    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Future => "future",
            Self::Current => "current",
            Self::Local => "local",
            Self::Others => "others",
        }
    }
}

/// What of a layer is bypassed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SkipPart {
    /// The whole layer.
    Layer,
    /// Its attention.
    Attn,
    /// Its MLP.
    Mlp,
}

impl SkipPart {
    /// All parts, in the order of results.
    pub const ALL: [Self; 3] = [Self::Layer, Self::Attn, Self::Mlp];

    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Layer => "layer",
            Self::Attn => "attn",
            Self::Mlp => "mlp",
        }
    }
}

/// The effects of bypassing each layer, on one prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SkipEffects {
    /// `[L][L]`, bypassed layer first: the largest |D - D'| / |D| over the positions read.
    pub layer_effect: Vec<Vec<f64>>,
    /// `[L]`: the largest |p - p'|_2 over the positions read; absent for `local`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output_effect: Option<Vec<f64>>,
}

/// Values by mode and part; what was not measured is absent.
pub type ByMode<T> = BTreeMap<SkipMode, BTreeMap<SkipPart, T>>;

/// The probe on one prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SkipSample {
    /// The positions t of `future` and `local`; without any, these modes are absent.
    pub positions: Vec<usize>,
    /// What was measured.
    pub effects: ByMode<SkipEffects>,
}

impl SkipSample {
    /// Whether all effects are finite numbers.
    pub fn is_finite(&self) -> bool {
        let finite = |e: &SkipEffects| {
            e.layer_effect.iter().flatten().chain(e.output_effect.iter().flatten()).all(|x| x.is_finite())
        };
        self.effects.values().flat_map(BTreeMap::values).all(finite)
    }
}

/// A quantity over prompts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OverPrompts<T> {
    /// The largest of any prompt, as the papers take it.
    pub max: T,
    /// The mean over prompts.
    pub mean: T,
}

/// The effects of bypassing each layer, over all prompts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SkipAverage {
    /// `[L][L]`, bypassed layer first.
    #[serde(deserialize_with = "matrices")]
    pub layer_effect: OverPrompts<Vec<Vec<f64>>>,
    /// `[L]`; absent for `local`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "curves")]
    pub output_effect: Option<OverPrompts<Vec<f64>>>,
}

/// The probe over all prompts.
pub type SkipSummary = ByMode<SkipAverage>;

fn matrices<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<OverPrompts<Vec<Vec<f64>>>, D::Error> {
    #[derive(Deserialize)]
    struct Matrices {
        #[serde(deserialize_with = "null::matrix")]
        max: Vec<Vec<f64>>,
        #[serde(deserialize_with = "null::matrix")]
        mean: Vec<Vec<f64>>,
    }
    let Matrices { max, mean } = Matrices::deserialize(deserializer)?;
    Ok(OverPrompts { max, mean })
}

fn curves<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<OverPrompts<Vec<f64>>>, D::Error> {
    #[derive(Deserialize)]
    struct Curves {
        #[serde(deserialize_with = "null::numbers")]
        max: Vec<f64>,
        #[serde(deserialize_with = "null::numbers")]
        mean: Vec<f64>,
    }
    let found = Option::<Curves>::deserialize(deserializer)?;
    Ok(found.map(|Curves { max, mean }| OverPrompts { max, mean }))
}
