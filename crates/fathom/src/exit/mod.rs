//! What a model saves when tokens leave it early.

mod execute;
mod job;
mod results;
mod texts;

use crate::error::invalid;
use crate::measurement::{choices, parsed};
use crate::prune::StageEstimate;
use crate::run_options::{RunOptions, run_setters};
use crate::{Observer, PromptSpec, Result, threads};
use fathom_analysis::exit::ExitOptions;
use fathom_results::{ExitHead, Exiting};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Which levels of a model predict what the whole model predicts, at which confidence tokens may leave there, and whether
/// that pays: exit heads, calibrated thresholds (arXiv 2207.07061, 2110.01052), costs, and the first layers as the draft
/// of the whole model (arXiv 2404.16710).
///
/// ```no_run
/// use fathom::{Exit, Silent};
///
/// let exited = Exit::new("smollm2-135m").epsilon(0.1).out("exits").run(&Silent)?;
/// println!("{}", exited.results.choice.reason);
/// # Ok::<(), fathom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    options: RunOptions,
    heldout: Option<String>,
    heads: Vec<ExitHead>,
    epsilon: f64,
    delta: f64,
}

/// Finished measurements of early exits.
#[derive(Clone, Debug)]
pub struct ExitOutcome {
    /// The results folder.
    pub folder: PathBuf,
    /// What was measured: `exit.json`.
    pub results: Exiting,
    /// Wall-clock time.
    pub elapsed: Duration,
}

/// What measuring early exits will take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExitEstimate {
    /// The stages, in order.
    pub stages: Vec<StageEstimate>,
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// Bytes of working memory that may be used beside them.
    pub memory_bytes: u64,
}

impl ExitEstimate {
    /// Seconds of all stages together.
    pub fn seconds(&self) -> f64 {
        self.stages.iter().map(|s| s.seconds).sum()
    }
}

run_setters!(Exit);

impl Exit {
    /// The set of texts, unless set otherwise.
    pub const DATA: &str = "prose";

    /// Texts of the built-in set that are used, unless a limit is set.
    pub const TEXTS: usize = 256;

    /// The share of tokens whose prediction may change, unless set otherwise.
    pub const EPSILON: f64 = 0.1;

    /// The probability of failing to keep that, unless set otherwise.
    pub const DELTA: f64 = 0.1;

    /// Both heads of `model` (as in [`Measurement::new`](crate::Measurement::new)) on the built-in prose.
    pub fn new(model: impl Into<String>) -> Self {
        let options = RunOptions::new(model, Self::DATA);
        let heads = ExitHead::ALL.to_vec();
        Self { options, heldout: None, heads, epsilon: Self::EPSILON, delta: Self::DELTA }
    }

    /// The texts: a set or a file, as in [`Measurement::data`](crate::Measurement::data). Drawn by a hash of the text, a
    /// quarter of them fits the maps and chooses the rule, three eighths calibrate its threshold, and the rest is held
    /// out, unless [`heldout`](Self::heldout) is set.
    #[must_use]
    pub fn data(mut self, data: impl Into<String>) -> Self {
        self.options.data.id = data.into();
        self
    }

    /// Texts to measure on. Two fifths of [`data`](Self::data) are then for fitting and the rest for calibration.
    #[must_use]
    pub fn heldout(mut self, data: impl Into<String>) -> Self {
        self.heldout = Some(data.into());
        self
    }

    /// Takes only the first `limit` texts of each set. All unless set otherwise, but [`TEXTS`](Self::TEXTS) of the
    /// built-in set.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.options.data.limit = Some(limit);
        self
    }

    /// The heads; both unless set otherwise.
    #[must_use]
    pub fn heads(mut self, heads: &[ExitHead]) -> Self {
        self.heads = heads.to_vec();
        self.heads.sort();
        self.heads.dedup();
        self
    }

    /// The mean share of the tokens of a text whose prediction may change.
    #[must_use]
    pub fn epsilon(mut self, share: f64) -> Self {
        self.epsilon = share;
        self
    }

    /// The probability, over the drawing of calibration texts, that more of them do.
    #[must_use]
    pub fn delta(mut self, probability: f64) -> Self {
        self.delta = probability;
        self
    }

    /// Sets an option that a study may have, by its name on the command line without the dashes.
    ///
    /// # Errors
    /// When the option does not exist, or the value is invalid.
    pub fn set(self, name: &str, value: &str) -> Result<Self> {
        Ok(match name {
            "data" => self.data(value),
            "heldout" => self.heldout(value),
            "heads" => self.heads(&choices(name, value, &ExitHead::ALL.map(|h| (h.name(), h)))?),
            "epsilon" => self.epsilon(parsed(name, value)?),
            "delta" => self.delta(parsed(name, value)?),
            _ => self.set_common(name, value)?,
        })
    }

    /// Measures, calibrates, and writes the results folder. Continues what an earlier run with the same options left
    /// there; epsilon and delta may differ.
    ///
    /// # Errors
    /// When the model or texts cannot be read, the folder belongs to another job or cannot be written, or the observer
    /// cancels: texts that were finished are kept, and the same call goes on.
    pub fn run(&self, observer: &dyn Observer) -> Result<ExitOutcome> {
        self.check()?;
        threads::run(self.options.threads, || execute::exit(self, observer))
    }

    /// Counts what the job will take, without doing it.
    ///
    /// # Errors
    /// As [`run`](Self::run), apart from the folder.
    pub fn estimate(&self, observer: &dyn Observer) -> Result<ExitEstimate> {
        self.check()?;
        threads::run(self.options.threads, || execute::estimate(self, observer))
    }

    fn texts(&self) -> PromptSpec {
        self.options.data.clone().first_of(Self::DATA, Self::TEXTS)
    }

    fn heldout_texts(&self) -> Option<PromptSpec> {
        let heldout = self.options.data.heldout(self.heldout.as_ref())?;
        Some(heldout.first_of(Self::DATA, Self::TEXTS))
    }

    fn analysis(&self) -> ExitOptions {
        let (resamples, seed) = (self.options.resamples, self.options.data.seed);
        ExitOptions { epsilon: self.epsilon, delta: self.delta, resamples, seed }
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.options.sequences.check()?;
        if self.heads.is_empty() {
            invalid!("give at least one head: lens or linear");
        }
        for (name, value) in [("epsilon", self.epsilon), ("delta", self.delta)] {
            if !(value > 0.0 && value < 1.0) {
                invalid!("{name} is {value}; give a share between 0 and 1, such as 0.1");
            }
        }
        if self.heldout.as_ref() == Some(&self.options.data.id) {
            invalid!(
                "calibration and held-out texts are the same set '{}', so the risk would be measured on the texts that \
                 thresholds were calibrated on; without --heldout --data is divided",
                self.options.data.id
            );
        }
        fathom_depth::Resampling::of(2, self.options.resamples, 0)
            .map_err(|error| crate::Error::Invalid(error.to_string()))?;
        Ok(())
    }
}
