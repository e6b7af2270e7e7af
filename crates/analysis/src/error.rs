//! What keeps runs from being described or compared.

use crate::curves::Curve;

/// Why nothing can be said about runs.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A curve of a prompt does not fit the model.
    #[error(
        "prompt '{prompt}' has {found} values of {curve} where {layers} layers need {expected}; \
         samples.jsonl is damaged or of another model, measure the prompt again"
    )]
    Length {
        /// The prompt's id.
        prompt: String,
        /// The curve's name.
        curve: String,
        /// The values that are there.
        found: usize,
        /// The values that there should be.
        expected: usize,
        /// The number of layers.
        layers: usize,
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
        /// Prompts of equal text.
        common: usize,
    },
    /// A run has too few prompts to be resampled.
    #[error(
        "'{run}' has {prompts} of the two prompts that a comparison needs at least; measure it on more prompts"
    )]
    TooFewPrompts {
        /// The run.
        run: String,
        /// Its prompts.
        prompts: usize,
    },
    /// Nothing was measured in both runs.
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
