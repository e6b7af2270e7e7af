//! The curves of each prompt, the depth rules on any weighting of the prompts, and the rows of the
//! depth table.

mod curve;
mod depths;
mod matching;
mod samples;

pub use curve::Curve;
pub use depths::{rows, rows_of};

use fathom_depth::{Thresholds, effects, pool};
use matching::Prompt;
use serde::{Deserialize, Serialize};

/// Options of the bootstrap and of the depth rules.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootstrapOptions {
    /// Thresholds of the rules.
    pub thresholds: Thresholds,
    /// Number of resamples.
    pub resamples: usize,
    /// The seed of the resamples.
    pub seed: u64,
}

impl BootstrapOptions {
    /// Default number of resamples: from seed to seed, the ends of an interval move by a few hundredths
    /// of its width.
    pub const RESAMPLES: usize = 2000;

    /// Default thresholds and number of resamples.
    pub fn seeded(seed: u64) -> Self {
        Self { thresholds: Thresholds::default(), resamples: Self::RESAMPLES, seed }
    }
}

/// One curve per prompt.
type PerPrompt = Vec<Vec<f64>>;

/// The effects of skipping whole layers on later tokens of one prompt. A prompt too short for any
/// position has none.
#[derive(Clone, Debug, PartialEq)]
struct Skipped {
    measured: bool,
    /// `[L][L]` flattened, skipped layer first.
    layers: Vec<f64>,
    /// The mean of each row over the later layers, `[L]`.
    later: Vec<f64>,
    /// The effect on the output, `[L]`.
    output: Vec<f64>,
}

/// The curves of each prompt of a run, without per-token values. A probe is absent unless every prompt
/// has it.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptCurves {
    layers: usize,
    prompts: Vec<Prompt>,
    /// The curves of contributions, lens, similarity and angles, in the order of [`Curve::ALL`].
    plain: [Option<PerPrompt>; PLAIN],
    /// For each prompt, the sum of the settle layers of its tokens and the number of tokens.
    settling: Option<Vec<(f64, f64)>>,
    skip: Option<Vec<Skipped>>,
    /// For each prompt, the sum of the losses of its tokens at the output and the number of tokens with one.
    loss: Option<Vec<(f64, f64)>>,
}

/// How effects of skipping are pooled over prompts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// The largest of any prompt.
    Largest,
    /// The mean over prompts.
    Mean,
}

/// The number of curves that are token-weighted means; they are the first of [`Curve::ALL`].
const PLAIN: usize = 11;

impl PromptCurves {
    /// L, the number of layers.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// The number of prompts.
    pub fn prompts(&self) -> usize {
        self.prompts.len()
    }

    /// The ids of the prompts, in order.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = &str> {
        self.prompts.iter().map(|prompt| prompt.id.as_str())
    }

    /// A weight of 1 for each prompt: the run as measured.
    pub fn once(&self) -> Vec<u32> {
        vec![1; self.prompts.len()]
    }

    /// A curve on weighted prompts, `[L]`; `None` if its probe was not run or all weights are 0.
    pub fn curve(&self, curve: Curve, weights: &[u32]) -> Option<Vec<f64>> {
        match curve {
            Curve::SkipLayerMax => {
                let flat = self.skip(weights, |s| &s.layers, Over::Largest)?;
                let rows: Vec<Vec<f64>> = flat.chunks(self.layers).map(<[f64]>::to_vec).collect();
                effects::on_later_layers(&rows)
            }
            Curve::SkipOutputMax => self.skip(weights, |s| &s.output, Over::Largest),
            Curve::SkipLayerMean => self.skip(weights, |s| &s.later, Over::Mean),
            Curve::SkipOutputMean => self.skip(weights, |s| &s.output, Over::Mean),
            _ => {
                let mut mean = self.mean(curve, weights)?;
                // The last value of a lens curve compares the output with itself.
                mean.truncate(self.layers);
                Some(mean)
            }
        }
    }

    /// A token-weighted mean.
    fn mean(&self, curve: Curve, weights: &[u32]) -> Option<Vec<f64>> {
        let curves = self.plain.get(curve as usize)?.as_ref()?;
        let each = self.prompts.iter().zip(curves);
        let read_by_lens = matches!(curve, Curve::KlLensFinal | Curve::Overlap | Curve::Top1);
        let tokens = |prompt: &Prompt| if read_by_lens { prompt.lens_tokens } else { prompt.tokens };
        let samples: Vec<pool::Sample<'_>> =
            each.map(|(prompt, curve)| pool::Sample { tokens: tokens(prompt), curve }).collect();
        pool::mean(&samples, weights)
    }

    /// Without the overlap of the five likeliest tokens, which says nothing where there are few tokens.
    #[must_use]
    pub fn without_overlap(mut self) -> Self {
        self.plain[Curve::Overlap as usize] = None;
        self
    }

    /// The loss per token of the output on weighted prompts, in nats; `None` if a prompt lacks it or no token with weight
    /// has one.
    pub fn output_loss(&self, weights: &[u32]) -> Option<f64> {
        let losses = self.loss.as_ref()?.iter().zip(weights);
        let (sum, tokens) = losses.fold((0.0, 0.0), |(sum, tokens), ((loss, of), weight)| {
            let weight = f64::from(*weight);
            (sum + weight * loss, tokens + weight * of)
        });
        (tokens > 0.0).then(|| sum / tokens)
    }

    /// An effect of skipping: the maximum over prompts with weight, or the mean over prompts that were
    /// long enough, each with equal weight.
    fn skip(&self, weights: &[u32], part: impl Fn(&Skipped) -> &Vec<f64>, over: Over) -> Option<Vec<f64>> {
        let each = self.skip.as_ref()?.iter();
        if over == Over::Largest {
            return pool::max(&each.map(|s| part(s).as_slice()).collect::<Vec<_>>(), weights);
        }
        let samples: Vec<pool::Sample<'_>> =
            each.map(|s| pool::Sample { tokens: f64::from(u8::from(s.measured)), curve: part(s) }).collect();
        pool::mean(&samples, weights)
    }
}
