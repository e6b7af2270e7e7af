//! The names of the probes.

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
    /// What is lost when a layer is bypassed.
    Skip,
    /// What an answer loses when a token's residual is erased.
    Erasure,
    /// What each token contributes to an answer, layer by layer.
    Gradients,
}

impl Probe {
    /// All probes, in the order in which they are reported.
    pub const ALL: [Self; 7] = [
        Self::Contributions,
        Self::Lens,
        Self::Similarity,
        Self::Settling,
        Self::Skip,
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
            Self::Skip => "skip",
            Self::Erasure => "erasure",
            Self::Gradients => "gradients",
        }
    }

    /// Reads a comma-separated list in which `all` stands for all probes and `clean`
    /// for those of the clean run; each probe once, in the order of [`Self::ALL`].
    ///
    /// # Errors
    /// Names the first word that is no probe.
    pub fn list(text: &str) -> Result<Vec<Self>, UnknownProbe> {
        let mut probes = Vec::new();
        for word in text.split(',') {
            match word.trim() {
                "all" => probes.extend(Self::ALL),
                "clean" => probes.extend(Self::CLEAN),
                word => probes.push(word.parse()?),
            }
        }
        probes.sort();
        probes.dedup();
        Ok(probes)
    }
}

/// A word that is no probe.
#[derive(Debug, thiserror::Error)]
#[error("'{word}' is no probe; did you mean '{nearest}'? There are {}, clean (those without edited runs) and all", Probe::ALL.map(Probe::name).join(", "))]
pub struct UnknownProbe {
    word: String,
    nearest: &'static str,
}

impl FromStr for Probe {
    type Err = UnknownProbe;

    fn from_str(word: &str) -> Result<Self, UnknownProbe> {
        let word = word.trim();
        Self::ALL.into_iter().find(|p| p.name() == word).ok_or_else(|| {
            let likeness = |p: &Probe| strsim::jaro_winkler(p.name(), word);
            let nearest = Self::ALL.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
            UnknownProbe { word: word.to_owned(), nearest: nearest.map_or("all", Probe::name) }
        })
    }
}
