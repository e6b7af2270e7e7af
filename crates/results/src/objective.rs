//! What a model is asked to predict, and what is hidden from it.

use crate::Sample;
use serde::{Deserialize, Serialize};

/// What a model is asked to predict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// The next token.
    #[default]
    Causal,
    /// Masked tokens.
    Masked,
    /// Masked tokens, with several shares of the text masked.
    Diffusion,
}

impl Objective {
    /// All objectives.
    pub const ALL: [Self; 3] = [Self::Causal, Self::Masked, Self::Diffusion];

    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Causal => "causal",
            Self::Masked => "masked",
            Self::Diffusion => "diffusion",
        }
    }
}

/// How a masked model was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveInfo {
    /// What is predicted.
    pub objective: Objective,
    /// Shares of the text that are masked; empty where one position is masked at a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mask_ratios: Vec<f64>,
    /// Whether each position was masked in a run of its own.
    #[serde(default)]
    pub one_at_a_time: bool,
    /// The seed that masks were drawn with.
    #[serde(default)]
    pub mask_seed: u64,
    /// `post-norm` where the stream is normalised after each addition; contributions are then what the stream changes
    /// by, and sublayers' outputs what is added before the norm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
    /// What a token is called: `residue` where each symbol of a sequence is one.
    #[serde(default = "token")]
    pub unit: String,
    /// Tokens that the vocabulary lacks.
    #[serde(default)]
    pub unknown: u64,
}

fn token() -> String {
    "token".to_owned()
}

impl ObjectiveInfo {
    /// What is predicted, in words.
    pub fn sentence(&self) -> String {
        let ratios: Vec<String> = self.mask_ratios.iter().map(f64::to_string).collect();
        let unit = &self.unit;
        let masks = match &ratios[..] {
            [] if !self.one_at_a_time => "nothing: the model has no head".to_owned(),
            [] => format!("each {unit} while it alone is masked"),
            [one] => format!("masked {unit}s: a share of {one} of each text, seed {}", self.mask_seed),
            many => {
                format!("masked {unit}s: shares of {} of each text, seed {}", many.join(", "), self.mask_seed)
            }
        };
        match &self.block {
            Some(block) => format!("{masks}; {block} blocks"),
            None => masks,
        }
    }

    /// A sentence about causal models, about this one.
    pub fn worded(&self, sentence: &str) -> String {
        let early = sentence
            .replace("early answer", "early guess at a mask")
            .replace("Early answer", "Early guess at a mask");
        if self.unit == "token" { early } else { early.replace("token", &self.unit) }
    }
}

/// What was hidden of one text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MaskedSample {
    /// Positions of the masks, in ascending order.
    pub positions: Vec<usize>,
    /// The tokens that they hide.
    pub hidden: Vec<u32>,
    /// How many tokens the text has of its own, without special ones.
    pub own: usize,
    /// The share that was to be masked; absent where one position is masked at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// The sum of the log-probabilities of all own tokens, each while it alone is masked, in nats; absent elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pseudo_log_likelihood: Option<f64>,
}

impl Sample {
    /// Tokens that have contributions and similarities: all, or those of a masked text without special ones.
    pub fn own_tokens(&self) -> usize {
        self.masked.as_ref().map_or(self.tokens.len(), |masked| masked.own)
    }

    /// Tokens that the lens reads: all, or the masks.
    pub fn lens_tokens(&self) -> usize {
        self.masked.as_ref().map_or(self.tokens.len(), |masked| masked.positions.len())
    }

    /// Tokens that are predicted: all but the first, or those that masks hide.
    pub fn predicted_tokens(&self) -> usize {
        match &self.masked {
            Some(masked) => masked.positions.len(),
            None => self.tokens.len().saturating_sub(1),
        }
    }
}
