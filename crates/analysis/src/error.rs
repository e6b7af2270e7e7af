//! Errors of the analysis.

use crate::curves::Curve;

/// Why runs cannot be analysed or compared.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A curve of a prompt does not fit the model.
    #[error(
        "prompt '{prompt}' has {found} values of {curve} where {layers} layers need {expected}; \
         samples.jsonl is damaged or belongs to another model; measure the prompt again"
    )]
    Length {
        /// The prompt's id.
        prompt: String,
        /// The curve's name.
        curve: String,
        /// The number of values.
        found: usize,
        /// The expected number of values.
        expected: usize,
        /// The number of layers.
        layers: usize,
    },
    /// A text of early exits does not fit the model.
    #[error(
        "text '{id}' lacks a level or a token; samples.jsonl is damaged or belongs to another model; measure it again"
    )]
    Exit {
        /// The id of the text.
        id: String,
    },
    /// The model has no layers.
    #[error("a run's model has no layers; its results.json is damaged, measure it again")]
    NoLayers,
    /// Two runs cannot be paired.
    #[error(
        "'{a}' has {a_prompts} prompts and '{b}' has {b_prompts}, of which {common} have the same text; \
         measure both on the same prompts, or compare them with --unpaired, which resamples each on its own"
    )]
    DifferentPrompts {
        /// The first run.
        a: String,
        /// Its prompts.
        a_prompts: usize,
        /// The second run.
        b: String,
        /// Its prompts.
        b_prompts: usize,
        /// The number of prompts with the same text.
        common: usize,
    },
    /// A run has too few prompts to be resampled.
    #[error("a comparison needs at least two prompts, and '{run}' has {prompts}; measure it on more prompts")]
    TooFewPrompts {
        /// The run.
        run: String,
        /// Its prompts.
        prompts: usize,
    },
    /// The runs have no probe in common.
    #[error("'{a}' and '{b}' have no probe in common; measure both with the same --probes")]
    NothingCommon {
        /// The first run.
        a: String,
        /// The second run.
        b: String,
    },
    /// The resamples cannot be drawn.
    #[error(transparent)]
    Bootstrap(#[from] fathom_depth::BootstrapError),
}

impl Error {
    pub(crate) fn length(prompt: &str, curve: Curve, found: usize, expected: usize, layers: usize) -> Self {
        Self::Length { prompt: prompt.to_owned(), curve: curve.name().to_owned(), found, expected, layers }
    }
}
