//! The names of the probes.

use crate::text;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// A probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// What each sublayer adds: norms and cosines.
    Contributions,
    /// What the stream would predict at each layer.
    Lens,
    /// How layers' streams resemble each other.
    Similarity,
    /// At which layer each token's prediction settles.
    Settling,
    /// How far the stream turns from layer to layer, and what the last layer makes of it.
    Angles,
    /// What single experts add, in mixtures of experts.
    Experts,
    /// What is lost when a layer is bypassed.
    Skip,
    /// What is lost when layers run in another order.
    Order,
    /// What an answer loses when a token's residual is erased.
    Erasure,
    /// What each token contributes to an answer, layer by layer.
    Gradients,
}

impl Probe {
    /// All probes, in the order in which they are reported.
    pub const ALL: [Self; 10] = [
        Self::Contributions,
        Self::Lens,
        Self::Similarity,
        Self::Settling,
        Self::Angles,
        Self::Experts,
        Self::Skip,
        Self::Order,
        Self::Erasure,
        Self::Gradients,
    ];

    /// The probes that all kinds of models have: all but [`Self::Experts`].
    pub const COMMON: [Self; 9] = [
        Self::Contributions,
        Self::Lens,
        Self::Similarity,
        Self::Settling,
        Self::Angles,
        Self::Skip,
        Self::Order,
        Self::Erasure,
        Self::Gradients,
    ];

    /// The probes that need no run but the clean one.
    pub const CLEAN: [Self; 4] = [Self::Contributions, Self::Lens, Self::Similarity, Self::Settling];

    /// Whether the probe works on question-answer pairs instead of prompts.
    pub fn needs_pairs(self) -> bool {
        matches!(self, Self::Erasure | Self::Gradients)
    }

    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Contributions => "contributions",
            Self::Lens => "lens",
            Self::Similarity => "similarity",
            Self::Settling => "settling",
            Self::Angles => "angles",
            Self::Experts => "experts",
            Self::Skip => "skip",
            Self::Order => "order",
            Self::Erasure => "erasure",
            Self::Gradients => "gradients",
        }
    }

    /// Reads a comma-separated list in which `all` stands for [`Self::COMMON`] and `clean` for
    /// [`Self::CLEAN`]; each probe once, in the order of [`Self::ALL`].
    ///
    /// # Errors
    /// The first word that does not name a probe.
    pub fn list(text: &str) -> Result<Vec<Self>, UnknownProbe> {
        let mut probes = Vec::new();
        for word in text.split(',') {
            match word.trim() {
                "all" => probes.extend(Self::COMMON),
                "clean" => probes.extend(Self::CLEAN),
                word => probes.push(word.parse()?),
            }
        }
        probes.sort();
        probes.dedup();
        Ok(probes)
    }
}

/// A word that does not name a probe.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{word}' is not a probe{} The probes are {}; 'clean' selects those without edited runs, 'all' selects all but 'experts'",
    suggestion(word),
    names().collect::<Vec<_>>().join(", ")
)]
pub struct UnknownProbe {
    word: String,
}

fn suggestion(word: &str) -> String {
    let nearest = text::nearest(word, names().chain(["clean", "all"]));
    nearest.map_or_else(|| ".".to_owned(), |name| format!("; did you mean '{name}'?"))
}

fn names() -> impl Iterator<Item = &'static str> {
    Probe::ALL.into_iter().map(Probe::name)
}

impl FromStr for Probe {
    type Err = UnknownProbe;

    fn from_str(word: &str) -> Result<Self, UnknownProbe> {
        let word = word.trim();
        let known = Self::ALL.into_iter().find(|probe| probe.name() == word);
        known.ok_or_else(|| UnknownProbe { word: word.to_owned() })
    }
}
