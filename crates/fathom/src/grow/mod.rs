//! Models with more layers, and what those do before any training.

mod card;
mod execute;
mod loss;
mod results;
mod write;

use crate::error::invalid;
use crate::measurement::{choice, parsed};
use crate::prune::StageEstimate;
use crate::run_options::{RunOptions, run_setters};
use crate::{Observer, PromptSpec, Result, threads};
use fathom_results::{GrowMethod, Growing};
pub use fathom_surgery::growth::NewNorms;
use fathom_surgery::growth::{LesaOptions, Recipe};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;
pub(crate) use write::remove_earlier as remove_earlier_model;

/// A deeper model, made of the layers of a model without training it, and its loss and effective depth beside those of its
/// source.
///
/// ```no_run
/// use fathom::{Grow, GrowMethod, Silent};
///
/// let grown = Grow::new("smollm2-135m", GrowMethod::Solar, 40).out("deeper").run(&Silent)?;
/// println!("{}: {}", grown.model.display(), grown.results.conclusion);
/// # Ok::<(), fathom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Grow {
    options: RunOptions,
    recipe: Recipe,
    norms: NewNorms,
    lesa: LesaOptions,
    depth_prompts: usize,
}

/// A finished growth.
#[derive(Clone, Debug)]
pub struct Grown {
    /// The results folder.
    pub folder: PathBuf,
    /// What opens as the grown model: a folder, or a GGUF file.
    pub model: PathBuf,
    /// What was measured: `grow.json`.
    pub results: Growing,
    /// Wall-clock time.
    pub elapsed: Duration,
}

/// What growing a model will take, effective depths not counted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GrowEstimate {
    /// The stages, in order.
    pub stages: Vec<StageEstimate>,
    /// Bytes of weights of the source.
    pub weight_bytes: u64,
    /// Bytes that making new layers takes.
    pub making_bytes: u64,
    /// Bytes of working memory that may be used for measuring.
    pub memory_bytes: u64,
}

impl GrowEstimate {
    /// Seconds of all stages together.
    pub fn seconds(&self) -> f64 {
        self.stages.iter().map(|s| s.seconds).sum()
    }
}

run_setters!(Grow);

impl Grow {
    /// The set of texts, unless set otherwise.
    pub const DATA: &str = "prose";

    /// Texts of the built-in set that are used, unless a limit is set.
    pub const TEXTS: usize = 256;

    /// Texts on which effective depths are measured, unless set otherwise.
    pub const DEPTH_PROMPTS: usize = 32;

    /// The growth of `model` (as in [`Measurement::new`](crate::Measurement::new)) to `layers` layers by a method, measured
    /// on the built-in prose.
    pub fn new(model: impl Into<String>, method: GrowMethod, layers: usize) -> Self {
        Self {
            options: RunOptions::new(model, Self::DATA),
            recipe: Recipe::new(method, layers),
            norms: NewNorms::default(),
            lesa: LesaOptions::default(),
            depth_prompts: Self::DEPTH_PROMPTS,
        }
    }

    /// Texts to measure on: a set or a file, as in [`Measurement::data`](crate::Measurement::data). Nothing is fitted to
    /// texts, so all of them are held out.
    #[must_use]
    pub fn heldout(mut self, data: impl Into<String>) -> Self {
        self.options.data.id = data.into();
        self
    }

    /// Takes only the first `limit` texts. All unless set otherwise, but [`TEXTS`](Self::TEXTS) of the built-in set.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.options.data.limit = Some(limit);
        self
    }

    /// Texts on which effective depths are measured; none with 0.
    #[must_use]
    pub fn depth_prompts(mut self, prompts: usize) -> Self {
        self.depth_prompts = prompts;
        self
    }

    /// For interpolate and lesa: the layers that a new one follows, one for each. Unless set, the last ones that have a
    /// neighbour behind them.
    #[must_use]
    pub fn insert(mut self, layers: &[usize]) -> Self {
        self.recipe.insert = Some(layers.to_vec());
        self
    }

    /// For midas and lidas: the layers of a block; unless set, as many as reach the wanted number in one step.
    #[must_use]
    pub fn block(mut self, layers: usize) -> Self {
        self.recipe.block = Some(layers);
        self
    }

    /// For interpolate and lesa: the weights of the norms of new layers.
    #[must_use]
    pub fn norms(mut self, norms: NewNorms) -> Self {
        self.norms = norms;
        self
    }

    /// For lesa: times that the network sees all rows. The paper has 5, its code 10.
    #[must_use]
    pub fn epochs(mut self, epochs: usize) -> Self {
        self.lesa.epochs = epochs;
        self
    }

    /// For lesa: the weight of the norms in the loss of the network. The paper has 5e-5, its code 5e-4.
    #[must_use]
    pub fn norm_weight(mut self, weight: f64) -> Self {
        self.lesa.norm_weight = weight;
        self
    }

    /// Sets an option that a study may have, by its name on the command line without the dashes.
    ///
    /// # Errors
    /// When the option does not exist, or the value is invalid.
    pub fn set(self, name: &str, value: &str) -> Result<Self> {
        Ok(match name {
            "heldout" => self.heldout(value),
            "insert" => {
                let numbers = value.split(',').map(|word| parsed(name, word.trim()));
                self.insert(&numbers.collect::<Result<Vec<_>>>()?)
            }
            "block" => self.block(parsed(name, value)?),
            "norms" => {
                self.norms(choice(name, value, &[("mean", NewNorms::Mean), ("first", NewNorms::First)])?)
            }
            "epochs" => self.epochs(parsed(name, value)?),
            "norm-weight" => self.norm_weight(parsed(name, value)?),
            "depth-prompts" => self.depth_prompts(parsed(name, value)?),
            _ => self.set_common(name, value)?,
        })
    }

    /// Makes the new layers, writes the model, measures both, and writes the results folder, in which the model is
    /// `grown`. What an earlier run with the same options left there is continued: a model that is there is kept.
    ///
    /// # Errors
    /// When the model or texts cannot be read, the method cannot make that many layers or has no form for the model, the
    /// folder belongs to another job or cannot be written, or the observer cancels.
    pub fn run(&self, observer: &dyn Observer) -> Result<Grown> {
        self.check()?;
        let grown = threads::run(self.options.threads, || execute::grow(self, observer))?;
        grown.with_depths(self, observer)
    }

    /// Counts what the job will take, without doing it.
    ///
    /// # Errors
    /// As [`run`](Self::run), apart from the folder.
    pub fn estimate(&self, observer: &dyn Observer) -> Result<GrowEstimate> {
        self.check()?;
        threads::run(self.options.threads, || execute::estimate(self, observer))
    }

    fn texts(&self) -> PromptSpec {
        self.options.data.clone().first_of(Self::DATA, Self::TEXTS)
    }

    fn lesa(&self) -> LesaOptions {
        LesaOptions { seed: self.options.data.seed, ..self.lesa }
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.options.sequences.check()?;
        let (lesa, method) = (self.lesa, self.recipe.method);
        let default = LesaOptions::default();
        if method != GrowMethod::Lesa
            && (lesa.epochs, lesa.norm_weight) != (default.epochs, default.norm_weight)
        {
            invalid!("{} trains no network; --epochs and --norm-weight are for lesa", method.name());
        }
        if !matches!(method, GrowMethod::Lesa | GrowMethod::Interpolate) && self.norms != NewNorms::Mean {
            invalid!("{} copies norms with their layers; --norms is for interpolate and lesa", method.name());
        }
        if lesa.epochs == 0 || lesa.epochs > 10_000 {
            invalid!("epochs is {}; give a number from 1 to 10000", lesa.epochs);
        }
        if !(0.0..1.0).contains(&lesa.norm_weight) {
            invalid!("norm-weight is {}; give a number from 0 up to 1, such as 5e-5", lesa.norm_weight);
        }
        fathom_depth::Resampling::of(2, self.options.resamples, 0)
            .map_err(|error| crate::Error::Invalid(error.to_string()))?;
        Ok(())
    }
}
