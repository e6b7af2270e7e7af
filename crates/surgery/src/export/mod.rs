//! Writing the model that is left, as a Hugging Face folder or as GGUF.
//!
//! Everything is planned before the first byte is written: each file of the result is a list of parts, most of them
//! bytes of the source. The files are written beside the target, opened as a model, compared with what should be
//! there, and only then renamed to it.

mod check;
mod commands;
mod config;
mod error;
mod folder;
mod gguf;
mod grown;
mod part;
mod replacement;
mod stage;
#[cfg(test)]
mod tests;

use crate::Removal;
use fathom_model::Config;
use fathom_model::config::Mlp;
use fathom_model::source::{Checkpoint, Form};
use fathom_results::SkipPart;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub use commands::{llama_quantize, mergekit};
pub(crate) use config::layer_of;
pub use error::ExportError;
pub use grown::{Change, GrownLayer, Growth};
use part::PlannedFile;
use stage::Stage;

/// Bytes of a file of weights, about: as transformers splits them.
const SHARD_BYTES: u64 = 5_000_000_000;

/// The name of the model card.
const CARD: &str = "README.md";

/// New weights of a down projection, which stand in for a removed block.
#[derive(Clone, Debug, PartialEq)]
pub struct Replacement {
    /// The layer whose projection changes, as the source numbers it: the one before the block.
    pub layer: usize,
    /// `[d, f]`, row-major, as the forward pass uses it: `m = g W'`.
    pub down: Vec<f32>,
    /// `[d]`: the bias, where the projection has one.
    pub bias: Option<Vec<f32>>,
}

/// A format of the exported model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// A Hugging Face folder: config.json, safetensors, tokenizer.
    Hf,
    /// A folder with one GGUF file.
    Gguf,
}

/// What is exported, and where to.
#[derive(Clone, Copy, Debug)]
pub struct Export<'a> {
    /// The source, as [`Checkpoint::open`] takes it: a folder, a `.gguf` file (split or not) or a file of weights beside
    /// its config.json.
    pub source: &'a Path,
    /// The layers that are left out.
    pub removal: &'a Removal,
    /// New weights of one down projection.
    pub replacement: Option<&'a Replacement>,
    /// The format.
    pub format: ExportFormat,
    /// The folder to be made; it must not exist, or be empty. A GGUF file is named after it.
    pub out: &'a Path,
    /// The model card, written as README.md.
    pub card: &'a str,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// What opens as a model: the folder, or the GGUF file in it.
    pub model: PathBuf,
    /// All files.
    pub files: Vec<PathBuf>,
    /// Their bytes together.
    pub bytes: u64,
    /// What a reader of the export should know, one sentence each.
    pub warnings: Vec<String>,
}

/// A model that is written and does not have its name yet. Dropping it removes it.
#[derive(Debug)]
pub struct Staged {
    stage: Stage,
    model: PathBuf,
    exported: Exported,
}

impl Staged {
    /// What opens as a model until it is published.
    pub fn model(&self) -> &Path {
        &self.model
    }

    /// What will be there once it is published.
    pub fn exported(&self) -> &Exported {
        &self.exported
    }

    /// Gives the model its name.
    ///
    /// # Errors
    /// When the system refuses to rename it.
    pub fn publish(self) -> Result<Exported, ExportError> {
        self.stage.publish()?;
        Ok(self.exported)
    }
}

/// Writes the model without the removed layers. `progress` is called with the bytes written and those in all;
/// [`ControlFlow::Break`] ends the export.
///
/// Either the whole model appears under its name, or nothing does.
///
/// # Errors
/// When the model cannot be read, the removal or the replacement does not fit it or has no standard form, the target
/// exists, the disk is full, or the export is ended; and when what was written would not be read as the source without
/// the removed layers.
pub fn export(
    e: &Export<'_>,
    progress: &dyn Fn(u64, u64) -> ControlFlow<()>,
) -> Result<Exported, ExportError> {
    stage(e, progress)?.publish()
}

/// The first half of [`export`]: the model is written beside its place, and appears there by [`Staged::publish`].
///
/// # Errors
/// As [`export`].
pub fn stage(e: &Export<'_>, progress: &dyn Fn(u64, u64) -> ControlFlow<()>) -> Result<Staged, ExportError> {
    stage_to(e, SHARD_BYTES, &stage::create, progress)
}

/// [`stage()`] with the size of a shard and the function that creates files.
fn stage_to(
    e: &Export<'_>,
    shard_bytes: u64,
    create: &stage::Create<'_>,
    progress: &dyn Fn(u64, u64) -> ControlFlow<()>,
) -> Result<Staged, ExportError> {
    if e.removal.unit() != SkipPart::Layer {
        return Err(ExportError::Sublayers);
    }
    let checkpoint = Checkpoint::open(e.source)?;
    let depth = checkpoint.config().depth();
    e.removal.check(depth)?;
    let job = Job {
        checkpoint: &checkpoint,
        layers: e.removal.kept(depth),
        replacement: e.replacement,
        grown: &[],
        out: e.out,
        card: e.card,
    };
    if let Some(replacement) = e.replacement {
        replacement::check(&job, replacement)?;
    }
    job.stage(e.format, shard_bytes, create, progress)
}

/// An export whose source is open.
struct Job<'a> {
    checkpoint: &'a Checkpoint,
    /// For each layer of the result the layer of the source that it is, or takes its settings from.
    layers: Vec<usize>,
    replacement: Option<&'a Replacement>,
    /// What differs in each layer of the result; empty if nothing does.
    grown: &'a [GrownLayer],
    out: &'a Path,
    card: &'a str,
}

/// The files of a result.
struct Plan<'a> {
    files: Vec<PlannedFile<'a>>,
    /// The file that opens as a model; the folder, if there is none.
    model: Option<String>,
    /// How the result should describe itself.
    description: Config,
    warnings: Vec<String>,
}

impl Job<'_> {
    /// Plans and writes the result.
    fn stage(
        &self,
        format: ExportFormat,
        shard_bytes: u64,
        create: &stage::Create<'_>,
        progress: &dyn Fn(u64, u64) -> ControlFlow<()>,
    ) -> Result<Staged, ExportError> {
        stage::check_target(self.out)?;
        if let Some(why) = self.checkpoint.fixed_layers() {
            return Err(ExportError::FixedLayers(why));
        }
        match (self.checkpoint.form(), format) {
            (Form::Folder(source), ExportFormat::Hf) => {
                let plan = folder::from_folder(self, source, shard_bytes)?;
                self.write(plan, create, progress)
            }
            (Form::Gguf { .. }, ExportFormat::Hf) => {
                let model = self.checkpoint.as_hugging_face()?;
                let plan = folder::from_gguf(self, &model, shard_bytes)?;
                self.write(plan, create, progress)
            }
            (Form::Gguf { path, header }, ExportFormat::Gguf) => {
                let plan = gguf::plan(self, path, header)?;
                self.write(plan, create, progress)
            }
            (Form::Folder(source), ExportFormat::Gguf) => {
                Err(ExportError::NoGgufOfFolder { source_folder: source.clone() })
            }
        }
    }

    /// The layers of the result that are made of a layer of the source.
    fn places(&self, layer: usize) -> impl Iterator<Item = usize> {
        self.layers.iter().enumerate().filter(move |(_, from)| **from == layer).map(|(place, _)| place)
    }

    /// Whether the result has the layers of the source, in their order.
    fn is_whole(&self) -> bool {
        self.layers.len() == self.depth() && self.layers.iter().enumerate().all(|(i, layer)| i == *layer)
    }

    /// The number of layers of the source.
    fn depth(&self) -> usize {
        self.checkpoint.config().depth()
    }

    /// The number of layers without experts in the result.
    fn dense(&self) -> usize {
        let layers = &self.checkpoint.config().layers;
        self.layers.iter().filter(|layer| layers[**layer].mlp == Mlp::Dense).count()
    }

    /// A description of the source with the layers of the result.
    fn described(&self, config: &Config) -> Config {
        let layers = self.layers.iter().map(|layer| config.layers[*layer]).collect();
        Config { layers, ..config.clone() }
    }

    fn write(
        &self,
        mut plan: Plan<'_>,
        create: &stage::Create<'_>,
        progress: &dyn Fn(u64, u64) -> ControlFlow<()>,
    ) -> Result<Staged, ExportError> {
        plan.files.push(PlannedFile::text(CARD, self.card.to_owned()));
        let bytes: u64 = plan.files.iter().map(PlannedFile::len).sum();
        let stage = Stage::beside(self.out, bytes)?;
        stage.write(&plan.files, create, &|written| progress(written, bytes))?;
        self.checkpoint.weights().release();
        check::written(&stage.model(plan.model.as_deref()), &plan.description, self.checkpoint.tokenizer())?;
        let out = |name: &str| self.out.join(name);
        let exported = Exported {
            model: plan.model.as_deref().map_or_else(|| self.out.to_owned(), out),
            files: plan.files.iter().map(|file| out(&file.name)).collect(),
            bytes,
            warnings: plan.warnings,
        };
        Ok(Staged { model: stage.model(plan.model.as_deref()), stage, exported })
    }
}
