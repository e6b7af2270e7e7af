//! Options of the builders that run a model on texts.

use crate::objective::{refuse_masked, refuse_side_inputs};
use crate::prompts::OpenSet;
use crate::sequences::Sequences;
use crate::{ModelSpec, Observer, PromptSpec, Result, run};
use fathom_analysis::BootstrapOptions;
use fathom_model::source::{Checkpoint, Located};
use fathom_results::folder::Lock;
use fathom_results::{Folder, text::counted};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Fewer resamples do not settle the ends of a 95 % interval.
const FEW_RESAMPLES: usize = 200;

/// The values behind the setters that such builders share.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunOptions {
    pub(crate) model: ModelSpec,
    pub(crate) data: PromptSpec,
    pub(crate) sequences: Sequences,
    pub(crate) resamples: usize,
    pub(crate) memory: Option<u64>,
    pub(crate) out: Option<PathBuf>,
    pub(crate) overwrite: bool,
    pub(crate) threads: Option<usize>,
    pub(crate) command: Vec<String>,
}

/// What a run works on.
pub(crate) struct Opened {
    pub(crate) data: OpenSet,
    pub(crate) located: Located,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) folder: Folder,
    /// Held until the run ends.
    pub(crate) lock: Lock,
}

impl RunOptions {
    pub(crate) fn new(model: impl Into<String>, data: &str) -> Self {
        Self {
            model: ModelSpec::new(model),
            data: PromptSpec::new(data),
            sequences: Sequences::default(),
            resamples: BootstrapOptions::RESAMPLES,
            memory: None,
            out: None,
            overwrite: false,
            threads: None,
            command: Vec::new(),
        }
    }

    /// Opens the model and the texts, and the results folder, by default `fathom-out/org__model/KIND` and the name of the
    /// texts. So it fails before weights are loaded if the folder cannot be written.
    ///
    /// # Errors
    /// When one of them cannot be opened, or another process holds the folder.
    pub(crate) fn open(&self, texts: &PromptSpec, kind: &str, observer: &dyn Observer) -> Result<Opened> {
        let data = OpenSet::open(texts, observer)?;
        let (located, checkpoint) = self.model.open(observer)?;
        // All but `measure` need a causal model, which is said before there is a folder.
        if !kind.is_empty() {
            refuse_masked(checkpoint.config(), &format!("fathom {}", kind.trim_end_matches('-')))?;
        }
        if kind.starts_with("prune") {
            refuse_side_inputs(checkpoint.config(), "pruning")?;
        }
        if kind.starts_with("grow") {
            refuse_side_inputs(checkpoint.config(), "growing")?;
        }
        let default = || {
            let model = located.id.replace(['/', '\\'], "__");
            Path::new("fathom-out").join(model).join(format!("{kind}{}", data.rest.id()))
        };
        let folder = Folder::create(self.out.clone().unwrap_or_else(default))?;
        let lock = folder.lock(&run::process())?;
        Ok(Opened { data, located, checkpoint, folder, lock })
    }

    /// Notes the options in `run.json` that texts and intervals depend on.
    pub(crate) fn record(&self, run: &mut Value) {
        run["seed"] = self.data.seed.into();
        run["rng"] = self.data.rng.to_string().into();
        run["resamples"] = self.resamples.into();
        if self.sequences != Sequences::default() {
            run["sequences"] = json!(self.sequences);
        }
    }

    /// Warns of options that are allowed and say little.
    pub(crate) fn remark(&self, observer: &dyn Observer) {
        if self.resamples < FEW_RESAMPLES {
            observer.warn(&format!(
                "{} give only a rough idea of an interval; use {FEW_RESAMPLES} or more",
                counted(self.resamples as u64, "resample")
            ));
        }
    }
}

/// Gives a builder with a field `options: RunOptions` the setters of that.
macro_rules! run_setters {
    ($Builder:ty) => {
        /// What is common to all builders that run a model on texts.
        impl $Builder {
            /// The branch, tag or commit of a model from the hub.
            #[must_use]
            pub fn revision(mut self, revision: impl Into<String>) -> Self {
                self.options.model.revision = Some(revision.into());
                self
            }

            /// The type in which weights are multiplied; f32 unless set otherwise.
            #[must_use]
            pub fn dtype(mut self, dtype: fathom_model::Dtype) -> Self {
                self.options.model.dtype = dtype;
                self
            }

            /// The device that the model runs on; the processor unless set otherwise.
            #[must_use]
            pub fn device(mut self, device: $crate::Device) -> Self {
                self.options.model.device = device;
                self
            }

            /// Bytes of a mixture's experts in memory; the others are read from the files when tokens take them. All of
            /// them, or as many as fit, unless set otherwise.
            #[must_use]
            pub fn expert_memory(mut self, bytes: u64) -> Self {
                self.options.model.expert_memory = Some(bytes);
                self
            }

            /// The split of a published data set.
            #[must_use]
            pub fn split(mut self, split: impl Into<String>) -> Self {
                self.options.data.split = Some(split.into());
                self
            }

            /// Leaves out prompts of more than `tokens` tokens, and those beyond the model's context.
            #[must_use]
            pub fn max_tokens(mut self, tokens: usize) -> Self {
                self.options.data.max_tokens = Some(tokens);
                self
            }

            /// Keeps at most that many residues of each sequence: those of the start, or of a random window.
            #[must_use]
            pub fn max_residues(mut self, residues: usize) -> Self {
                self.options.sequences.max_residues = Some(residues);
                self
            }

            /// Which part of a longer sequence is kept.
            #[must_use]
            pub fn crop(mut self, crop: $crate::Crop) -> Self {
                self.options.sequences.crop = crop;
                self
            }

            /// What stands before and behind each text, such as the marks that a protein model expects. Special tokens in it are
            /// recognised.
            #[must_use]
            pub fn around(mut self, prefix: impl Into<String>, suffix: impl Into<String>) -> Self {
                (self.options.sequences.prefix, self.options.sequences.suffix) =
                    (prefix.into(), suffix.into());
                self
            }

            /// The seed of generated prompts and of the bootstrap.
            #[must_use]
            pub fn seed(mut self, seed: u64) -> Self {
                self.options.data.seed = seed;
                self
            }

            /// The random number generator of generated prompts.
            #[must_use]
            pub fn rng(mut self, rng: fathom_data::Rng) -> Self {
                self.options.data.rng = rng;
                self
            }

            /// The number of resamples of the bootstrap.
            #[must_use]
            pub fn resamples(mut self, resamples: usize) -> Self {
                self.options.resamples = resamples;
                self
            }

            /// Bytes of working memory beside the weights; unless set otherwise a fifth of the machine's, or most of
            /// what the weights leave free on a device with its own memory.
            #[must_use]
            pub fn memory(mut self, bytes: u64) -> Self {
                self.options.memory = Some(bytes);
                self
            }

            /// The results folder; one under `fathom-out/MODEL` unless set otherwise.
            #[must_use]
            pub fn out(mut self, folder: impl Into<std::path::PathBuf>) -> Self {
                self.options.out = Some(folder.into());
                self
            }

            /// Deletes what an earlier run left in the folder. Otherwise that run is continued, if its options were
            /// the same.
            #[must_use]
            pub fn overwrite(mut self, overwrite: bool) -> Self {
                self.options.overwrite = overwrite;
                self
            }

            /// The number of threads; all cores unless set otherwise. No result depends on it.
            #[must_use]
            pub fn threads(mut self, threads: usize) -> Self {
                self.options.threads = Some(threads);
                self
            }

            /// Sets an option that all commands have, by its name on the command line without the dashes.
            ///
            /// # Errors
            /// When the option does not exist, or the value is invalid.
            #[allow(dead_code, reason = "a measurement has its own")]
            pub(crate) fn set_common(self, name: &str, value: &str) -> $crate::Result<Self> {
                use fathom_model::Dtype;
                use $crate::measurement::{choice, number, parsed};
                Ok(match name {
                    "limit" => self.limit(number(name, value)?),
                    "split" => self.split(value),
                    "max-tokens" => self.max_tokens(number(name, value)?),
                    "seed" => self.seed(number(name, value)?),
                    "rng" => self.rng(parsed(name, value)?),
                    "resamples" => self.resamples(number(name, value)?),
                    "dtype" => {
                        self.dtype(choice(name, value, &[("f32", Dtype::F32), ("bf16", Dtype::Bf16)])?)
                    }
                    "revision" => self.revision(value),
                    "device" => self.device(parsed(name, value)?),
                    "expert-memory" => {
                        self.expert_memory(parsed::<bytesize::ByteSize>(name, value)?.as_u64())
                    }
                    "memory" => self.memory(parsed::<bytesize::ByteSize>(name, value)?.as_u64()),
                    _ => self.set_sequences(name, value)?,
                })
            }

            /// Sets an option about sequences, as [`Self::set_common`].
            fn set_sequences(self, name: &str, value: &str) -> $crate::Result<Self> {
                use $crate::measurement::{choice, number};
                let $crate::sequences::Sequences { prefix, suffix, .. } = self.options.sequences.clone();
                Ok(match name {
                    "max-residues" => self.max_residues(number(name, value)?),
                    "crop" => self.crop(choice(name, value, &$crate::Crop::ALL.map(|c| (c.name(), c)))?),
                    "prefix" => self.around(value, suffix),
                    "suffix" => self.around(prefix, value),
                    _ => $crate::error::invalid!("a study cannot set the option '{name}'"),
                })
            }

            /// The command line to record in `run.json`.
            #[must_use]
            pub fn command(mut self, command: Vec<String>) -> Self {
                self.options.command = command;
                self
            }
        }
    };
}
pub(crate) use run_setters;
