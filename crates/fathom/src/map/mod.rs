//! Maps from the levels of one model to those of another.

mod estimate;
mod execute;
mod job;
mod read;

use crate::error::invalid;
use crate::measurement::parsed;
use crate::prune::StageEstimate;
use crate::run_options::{RunOptions, run_setters};
use crate::{ModelSpec, Observer, PromptSpec, Result, threads};
use fathom_results::Mapping;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Affine maps of least squared error from every level of a model to every level of another one with the same tokenizer
/// (arXiv 2505.13898).
///
/// ```no_run
/// use fathom::{LayerMap, Silent};
///
/// let mapped = LayerMap::new("small.gguf", "large.gguf").limit(60).out("mapped").run(&Silent)?;
/// println!("{}", mapped.results.conclusion);
/// println!("slope {:?}, best targets {:?}", mapped.results.slope, mapped.results.best);
/// # Ok::<(), fathom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LayerMap {
    options: RunOptions,
    target: String,
    target_revision: Option<String>,
    differences: bool,
    heldout: Option<String>,
}

/// Finished maps.
#[derive(Clone, Debug)]
pub struct MapOutcome {
    /// The results folder.
    pub folder: PathBuf,
    /// What was measured: `map.json`.
    pub results: Mapping,
    /// Wall-clock time.
    pub elapsed: Duration,
}

/// What a mapping will take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MapEstimate {
    /// The stages, in order.
    pub stages: Vec<StageEstimate>,
    /// Source levels whose sums fit into the working memory at a time. Each such group runs both models over all texts.
    pub levels_at_once: usize,
    /// Bytes of the weights of both models.
    pub weight_bytes: u64,
    /// Bytes of working memory that may be used beside them.
    pub memory_bytes: u64,
}

impl MapEstimate {
    /// Seconds of all stages together.
    pub fn seconds(&self) -> f64 {
        self.stages.iter().map(|s| s.seconds).sum()
    }
}

run_setters!(LayerMap);

impl LayerMap {
    /// The set of texts, unless set otherwise.
    pub const DATA: &str = "prose";

    /// Maps from every level of `source` to every level of `target`, on the built-in prose. Both are models as in
    /// [`Measurement::new`](crate::Measurement::new).
    pub fn new(source: impl Into<String>, target: impl Into<String>) -> Self {
        let options = RunOptions::new(source, Self::DATA);
        Self { options, target: target.into(), target_revision: None, differences: false, heldout: None }
    }

    /// The branch, tag or commit of the target, if it is from the hub.
    #[must_use]
    pub fn target_revision(mut self, revision: impl Into<String>) -> Self {
        self.target_revision = Some(revision.into());
        self
    }

    /// Maps what each layer adds to the residual stream, instead of the stream itself.
    #[must_use]
    pub fn differences(mut self, differences: bool) -> Self {
        self.differences = differences;
        self
    }

    /// The texts: a set or a file, as in [`Measurement::data`](crate::Measurement::data). Maps are fitted to three
    /// quarters of them, drawn by a hash of the text, and measured on the rest, unless [`heldout`](Self::heldout) is set.
    #[must_use]
    pub fn data(mut self, data: impl Into<String>) -> Self {
        self.options.data.id = data.into();
        self
    }

    /// Texts to measure on; maps are then fitted to all of [`data`](Self::data).
    #[must_use]
    pub fn heldout(mut self, data: impl Into<String>) -> Self {
        self.heldout = Some(data.into());
        self
    }

    /// Takes only the first `limit` texts of each set.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.options.data.limit = Some(limit);
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
            "differences" => self.differences(parsed(name, value)?),
            "target-revision" => self.target_revision(value),
            _ => self.set_common(name, value)?,
        })
    }

    /// Fits, measures, and writes the results folder. Continues what an earlier run with the same options left there.
    ///
    /// # Errors
    /// When a model or the texts cannot be read, the models have different tokenizers, the folder belongs to another job
    /// or cannot be written, or the observer cancels: source levels that were finished are kept, and the same call goes
    /// on.
    pub fn run(&self, observer: &dyn Observer) -> Result<MapOutcome> {
        self.check()?;
        threads::run(self.options.threads, || execute::map(self, observer))
    }

    /// Counts what the job will take, without doing it.
    ///
    /// # Errors
    /// As [`run`](Self::run), apart from the folder.
    pub fn estimate(&self, observer: &dyn Observer) -> Result<MapEstimate> {
        self.check()?;
        threads::run(self.options.threads, || execute::estimate(self, observer))
    }

    fn target_spec(&self) -> ModelSpec {
        let (id, revision) = (self.target.clone(), self.target_revision.clone());
        ModelSpec { id, revision, ..self.options.model.clone() }
    }

    fn heldout_texts(&self) -> Option<PromptSpec> {
        self.options.data.heldout(self.heldout.as_ref())
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.options.sequences.check()?;
        if self.heldout.as_ref() == Some(&self.options.data.id) {
            invalid!(
                "fitting and held-out texts are the same set '{}', so the maps would be measured on the texts they were \
                 fitted to; without --heldout three quarters of --data are for fitting and the rest is held out",
                self.options.data.id
            );
        }
        fathom_depth::Resampling::of(2, self.options.resamples, 0)
            .map_err(|error| crate::Error::Invalid(error.to_string()))?;
        Ok(())
    }
}
