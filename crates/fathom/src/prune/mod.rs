//! Which layers of a model can go, shown on held-out text.

mod assemble;
mod candidates;
mod card;
mod choices;
mod estimate;
mod execute;
mod export;
mod job;
mod known;
mod linear;
mod prefill;
mod proof;
mod questions;
mod recommend;
mod run;
mod scores;
mod search;
mod texts;
mod verify;

use crate::error::invalid;
use crate::measurement::{choice, choices, parsed};
use crate::run_options::{RunOptions, run_setters};
use crate::{Observer, PromptSpec, Result, threads};
pub use estimate::{PruneEstimate, StageEstimate};
pub(crate) use export::remove_earlier as remove_earlier_export;
use fathom_results::{PruneMethod, Pruning, SkipPart};
use fathom_surgery::Removal;
pub use fathom_surgery::export::ExportFormat;
use std::path::PathBuf;
use std::time::Duration;
pub use verify::{VerifiedExport, verify_export};

/// What takes the place of removed layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replace {
    /// Nothing.
    #[default]
    None,
    /// A linear map, merged into the down projection before a contiguous block (arXiv 2505.02819).
    Linear,
}

/// A search for layers to remove: a model, texts to choose on and others to measure on.
///
/// ```no_run
/// use fathom::{Prune, Silent};
///
/// let pruned = Prune::new("smollm2-135m").max_loss(0.1).out("pruned").run(&Silent)?;
/// println!("{}", pruned.results.choice.reason);
/// for candidate in &pruned.results.candidates {
///     println!("{:?} {:?}: {:?} nats", candidate.method, candidate.removed, candidate.nll_increase);
/// }
/// # Ok::<(), fathom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Prune {
    options: RunOptions,
    unit: SkipPart,
    methods: Vec<PruneMethod>,
    own: Vec<String>,
    counts: Option<Vec<usize>>,
    max_loss: Option<f64>,
    heldout: Option<String>,
    choices: Option<String>,
    replace: Replace,
    export: Option<ExportFormat>,
    racing: bool,
}

/// A finished or cancelled pruning.
#[derive(Clone, Debug)]
pub struct Pruned {
    /// The results folder.
    pub folder: PathBuf,
    /// What was measured: `prune.json`.
    pub results: Pruning,
    /// Wall-clock time.
    pub elapsed: Duration,
}

run_setters!(Prune);

impl Prune {
    /// The set of texts, unless set otherwise.
    pub const DATA: &str = "prose";

    /// Texts of the built-in set that are used, unless a limit is set.
    pub const TEXTS: usize = 256;

    /// The rise in loss that a recommendation may cost, in nats per token, unless set otherwise.
    pub const MAX_LOSS: f64 = 0.1;

    /// A search by all methods for 1 to L/2 layers of `model` (as in [`Measurement::new`](crate::Measurement::new)), on
    /// the built-in prose.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            options: RunOptions::new(model, Self::DATA),
            unit: SkipPart::Layer,
            methods: PruneMethod::CHOOSING.to_vec(),
            own: Vec::new(),
            counts: None,
            max_loss: None,
            heldout: None,
            choices: None,
            replace: Replace::None,
            export: None,
            racing: true,
        }
    }

    /// What is removed of a layer; all of it unless set otherwise. The method `angular` knows whole layers only and is
    /// left out for the other units.
    #[must_use]
    pub fn unit(mut self, unit: SkipPart) -> Self {
        self.unit = unit;
        self
    }

    /// The methods; all that choose unless set otherwise. [`PruneMethod::Layers`] is set by [`layers`](Self::layers).
    #[must_use]
    pub fn methods(mut self, methods: &[PruneMethod]) -> Self {
        self.methods = methods.iter().copied().filter(|m| *m != PruneMethod::Layers).collect();
        self.methods.sort();
        self.methods.dedup();
        self
    }

    /// One choice of your own, beside those of the methods: layers and half-open ranges such as `3,21..29`.
    #[must_use]
    pub fn layers(mut self, layers: impl Into<String>) -> Self {
        self.own.push(layers.into());
        self
    }

    /// The numbers of units to remove; 1 to half of them unless set otherwise.
    #[must_use]
    pub fn remove(mut self, counts: &[usize]) -> Self {
        let mut counts = counts.to_vec();
        counts.sort_unstable();
        counts.dedup();
        self.counts = Some(counts);
        self
    }

    /// The rise in loss that the recommendation may cost, in nats per token. Unless set,
    /// [`MAX_LOSS`](Self::MAX_LOSS); with [`remove`](Self::remove) alone, the best candidate of the largest number is
    /// recommended whatever it costs.
    #[must_use]
    pub fn max_loss(mut self, nats: f64) -> Self {
        self.max_loss = Some(nats);
        self
    }

    /// The texts: a set or a file, as in [`Measurement::data`](crate::Measurement::data). A quarter of them, drawn by a
    /// hash of the text, are for calibration and the rest is held out, unless [`heldout`](Self::heldout) is set.
    #[must_use]
    pub fn data(mut self, data: impl Into<String>) -> Self {
        self.options.data.id = data.into();
        self
    }

    /// Texts to measure on; those of [`data`](Self::data) are then all for calibration. [`split`](Self::split) is not
    /// that of these.
    #[must_use]
    pub fn heldout(mut self, data: impl Into<String>) -> Self {
        self.heldout = Some(data.into());
        self
    }

    /// Takes only the first `limit` texts of each set, and questions. All unless set otherwise, but
    /// [`TEXTS`](Self::TEXTS) of the built-in set.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.options.data.limit = Some(limit);
        self
    }

    /// Multiple-choice questions on which the candidates are measured as well: a set or a file.
    #[must_use]
    pub fn choices(mut self, data: impl Into<String>) -> Self {
        self.choices = Some(data.into());
        self
    }

    /// What takes the place of removed layers; nothing unless set otherwise.
    #[must_use]
    pub fn replace(mut self, replace: Replace) -> Self {
        self.replace = replace;
        self
    }

    /// Writes the recommended model into the folder `pruned` of the results folder, loads it again and compares its
    /// logits with the run in memory. Beside it: a configuration of mergekit and a line for llama-quantize.
    #[must_use]
    pub fn export(mut self, format: ExportFormat) -> Self {
        self.export = Some(format);
        self
    }

    /// Whether searches drop candidates that are clearly worse after some of the texts; they do unless set otherwise.
    #[must_use]
    pub fn racing(mut self, racing: bool) -> Self {
        self.racing = racing;
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
            "methods" => self.methods(&choices(name, value, &PruneMethod::CHOOSING.map(|m| (m.name(), m)))?),
            "remove" => {
                let numbers = value.split(',').map(|word| parsed(name, word.trim()));
                self.remove(&numbers.collect::<Result<Vec<_>>>()?)
            }
            "max-loss" => self.max_loss(parsed(name, value)?),
            "unit" => self.unit(choice(name, value, &SkipPart::ALL.map(|p| (p.name(), p)))?),
            _ => self.set_common(name, value)?,
        })
    }

    /// Chooses, measures, and writes the results folder. Continues what an earlier run with the same options left there.
    ///
    /// # Errors
    /// When the model or texts cannot be read, options and model do not fit together, the folder belongs to another job
    /// or cannot be written, or the observer cancels: what was finished is kept, and the same call goes on.
    pub fn run(&self, observer: &dyn Observer) -> Result<Pruned> {
        self.check()?;
        threads::run(self.options.threads, || execute::prune(self, observer))
    }

    /// Counts what the job will take at most, without doing it.
    ///
    /// # Errors
    /// As [`run`](Self::run), apart from the folder.
    pub fn estimate(&self, observer: &dyn Observer) -> Result<PruneEstimate> {
        self.check()?;
        threads::run(self.options.threads, || estimate::estimate(self, observer))
    }

    /// The texts of [`data`](Self::data).
    fn texts(&self) -> PromptSpec {
        self.options.data.clone().first_of(Self::DATA, Self::TEXTS)
    }

    /// The texts of [`heldout`](Self::heldout).
    fn heldout_texts(&self) -> Option<PromptSpec> {
        let heldout = self.options.data.heldout(self.heldout.as_ref())?;
        Some(heldout.first_of(Self::DATA, Self::TEXTS))
    }

    /// Refuses options that no model allows.
    pub(crate) fn check(&self) -> Result<()> {
        self.options.sequences.check()?;
        if self.methods.is_empty() && self.own.is_empty() {
            invalid!("give at least one method, or layers of your own");
        }
        if self.choosing().next().is_none() && self.own.is_empty() {
            invalid!(
                "the method angular knows whole layers only; leave out --unit, or choose another method"
            );
        }
        if self.counts.as_ref().is_some_and(|counts| counts.is_empty() || counts.contains(&0)) {
            invalid!("remove: give numbers of layers from 1 up");
        }
        if self.max_loss.is_some_and(|loss| !(loss >= 0.0 && loss.is_finite())) {
            invalid!("max-loss: give a number of nats per token from 0 up");
        }
        if self.replace == Replace::Linear && self.unit != SkipPart::Layer {
            invalid!("a linear map replaces whole layers only; leave out --replace linear or --unit");
        }
        let is_replaceable = |own: &Removal| own.as_block().is_some_and(|block| block.start > 0);
        let chooses_blocks =
            self.methods.iter().any(|m| matches!(m, PruneMethod::Angular | PruneMethod::Block));
        if self.replace == Replace::Linear && !chooses_blocks && !self.own()?.iter().any(is_replaceable) {
            invalid!(
                "--replace linear needs a contiguous block that does not begin at layer 0; add the method block or \
                 angular, or a block of your own"
            );
        }
        if self.export.is_some() && self.unit != SkipPart::Layer {
            invalid!("{}; leave out --export or --unit", fathom_surgery::export::ExportError::Sublayers);
        }
        if self.heldout.as_ref() == Some(&self.options.data.id) {
            invalid!(
                "calibration and held-out texts are the same set '{}', so the loss would be measured on the texts that \
                 the layers were chosen on; without --heldout a quarter of --data is for calibration and the rest is held \
                 out",
                self.options.data.id
            );
        }
        self.own()?;
        fathom_depth::Resampling::of(2, self.options.resamples, 0)
            .map_err(|error| crate::Error::Invalid(error.to_string()))?;
        Ok(())
    }

    /// The user's own choices.
    fn own(&self) -> Result<Vec<Removal>> {
        let parse = |text: &String| Removal::parse(self.unit, text);
        self.own.iter().map(parse).collect::<Result<_, _>>().map_err(|e| crate::Error::Invalid(e.to_string()))
    }

    /// The methods that apply to the unit.
    fn choosing(&self) -> impl Iterator<Item = PruneMethod> {
        let whole = self.unit == SkipPart::Layer;
        self.methods.iter().copied().filter(move |m| whole || *m != PruneMethod::Angular)
    }

    /// The numbers of units that the methods remove from a model of `depth` layers.
    fn counts(&self, depth: usize) -> Result<Vec<usize>> {
        let most = if self.unit == SkipPart::Layer { depth.saturating_sub(1) } else { depth };
        match &self.counts {
            Some(counts) => match counts.iter().find(|count| **count > most) {
                Some(count) => {
                    invalid!("remove: {count} of {depth} layers cannot go; this model allows 1 to {most}")
                }
                None => Ok(counts.clone()),
            },
            None => Ok((1..=(depth / 2).min(most)).collect()),
        }
    }
}
