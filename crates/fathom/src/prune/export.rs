//! Writing the recommended model.

use super::candidates::Candidates;
use super::job::Job;
use super::verify::compare;
use super::{ExportFormat, Prune, card};
use crate::observer::counted;
use crate::{Error, Result, Unit};
use fathom_model::Backend;
use fathom_model::source::Located;
use fathom_results::{Exported, Folder, Pruning, folder};
use fathom_surgery::export::{self, Export, ExportError, Replacement, Staged};
use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::Path;

/// The folder of the exported model within the results folder.
const PRUNED: &str = "pruned";
/// What mergekit needs for the same removal.
const MERGEKIT: &str = "mergekit.yaml";
/// The line that does the same with llama.cpp.
const QUANTIZE: &str = "llama-quantize.sh";

/// A path that does not depend on the working directory.
fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
}

/// The name on the command line and in results.
fn name(format: ExportFormat) -> &'static str {
    match format {
        ExportFormat::Hf => "hf",
        ExportFormat::Gguf => "gguf",
    }
}

/// What an earlier run exported into the folder, as its prune.json says.
pub(super) fn earlier(folder: &Path) -> Option<Exported> {
    let export = Pruning::read(&folder.join(folder::PRUNE)).ok()?.export?;
    (export.path.starts_with(PRUNED) && folder.join(PRUNED).exists()).then_some(export)
}

/// Removes what an earlier run exported.
pub(crate) fn remove_earlier(folder: &Path) -> Result<()> {
    let fail = |path: &Path| {
        let what = format!("cannot remove {}, which an earlier run wrote", path.display());
        move |source| Error::Io { what, source }
    };
    if earlier(folder).is_some() {
        let pruned = folder.join(PRUNED);
        std::fs::remove_dir_all(&pruned).map_err(fail(&pruned))?;
        for path in [MERGEKIT, QUANTIZE].map(|name| folder.join(name)).iter().filter(|path| path.exists()) {
            std::fs::remove_file(path).map_err(fail(path))?;
        }
    }
    Ok(())
}

/// Whether an export is what the recommendation asks for.
pub(super) fn is_recommended(export: &Exported, results: &Pruning) -> bool {
    let chosen = results.choice.index.map(|index| &results.candidates[index]);
    chosen.is_some_and(|c| c.removed == export.removed && c.replaced.is_some() == export.replaced.is_some())
}

/// Refuses what cannot be exported, before anything is measured.
pub(super) fn check(p: &Prune, source: &Path, is_gguf: bool, folder: &Folder) -> Result<()> {
    let target = folder.path().join(PRUNED);
    let is_empty = std::fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_none());
    // A link that leads nowhere is in the way too.
    let is_used = std::fs::symlink_metadata(&target).is_ok() && !is_empty;
    // What the same job exported is kept.
    let is_same = |e: Exported| p.options.overwrite || p.export.map(name) == Some(e.format.as_str());
    if is_used && !earlier(folder.path()).is_some_and(is_same) {
        crate::error::invalid!(
            "{} exists and would be overwritten; move it away, or choose another folder with -o",
            target.display()
        );
    }
    if p.export == Some(ExportFormat::Gguf) && !is_gguf {
        let source_folder = source.to_owned();
        return Err(ExportError::NoGgufOfFolder { source_folder }.into());
    }
    Ok(())
}

impl<B: Backend> Job<'_, B> {
    /// Exports the recommended candidate. `keep` receives the results with the export before the model has its name: a
    /// model that is there is one that prune.json names.
    pub(super) fn export(
        &self,
        format: ExportFormat,
        located: &Located,
        candidates: &Candidates<B>,
        folder: &Folder,
        results: &mut Pruning,
        keep: &dyn Fn(&Pruning) -> Result<()>,
    ) -> Result<()> {
        let Some(index) = results.choice.index else {
            self.observer.warn("nothing is recommended, so nothing is exported");
            return Ok(());
        };
        let chosen = &candidates.chosen[index];
        let replaced = chosen.replacement.map(|i| &candidates.replacements[i]);
        let replacement = replaced.map(|r| Replacement {
            layer: r.about.layer,
            down: r.down.weight.clone(),
            bias: r.down.bias.clone(),
        });
        let depth = self.model().config().depth();
        let card = card::write(results, &results.candidates[index], &self.p.options.command, depth);
        let out = folder.path().join(PRUNED);
        let job = Export {
            source: &located.path,
            removal: &chosen.removal,
            replacement: replacement.as_ref(),
            format,
            out: &out,
            card: &card,
        };
        let staged = self.write(&job)?;
        staged.exported().warnings.iter().for_each(|warning| self.observer.warn(warning));
        let down = replaced.map(|r| (r.about.layer, &r.down));
        // What differs from what was measured never gets its name.
        let (verified, sha256) =
            compare(&located.path, &chosen.removal, down, staged.model(), self.observer)?;
        if replaced.is_none() {
            self.write_for_other_tools(
                located,
                &chosen.removal.kept(depth),
                chosen.removal.layers(),
                folder,
            )?;
        }
        let exported = staged.exported();
        let model = exported.model.strip_prefix(folder.path()).unwrap_or(&exported.model);
        results.export = Some(Exported {
            format: name(format).to_owned(),
            path: model.to_string_lossy().into_owned(),
            removed: chosen.removal.ranges(),
            replaced: replaced.map(|r| r.about),
            source: if located.revision.is_some() { located.id.clone() } else { absolute(&located.path) },
            sha256,
            bytes: exported.bytes,
            verified_tokens: verified.tokens,
            largest_difference: verified.largest_difference,
        });
        keep(results)?;
        staged.publish()?;
        Ok(())
    }

    fn write(&self, job: &Export<'_>) -> Result<Staged> {
        let begun = Cell::new(None);
        let progress = |done: u64, all: u64| {
            let (running, before) = begun
                .take()
                .unwrap_or_else(|| (counted(self.observer, "writing the model", Unit::Bytes, all), 0));
            running.advance(done.saturating_sub(before));
            begun.set(Some((running, done)));
            if self.observer.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        export::stage(job, &progress).map_err(|error| match error {
            ExportError::Cancelled => Error::Cancelled(
                "interrupted while writing the model; what was measured is kept, and the same command goes on".to_owned(),
            ),
            error => error.into(),
        })
    }

    /// The same removal for users of mergekit and llama.cpp.
    fn write_for_other_tools(
        &self,
        located: &Located,
        kept: &[usize],
        removed: &[usize],
        folder: &Folder,
    ) -> Result<()> {
        let source = absolute(&located.path);
        let yaml = match self.is_gguf() {
            false => {
                let id = if located.revision.is_some() { located.id.as_str() } else { &source };
                let mut ranges: Vec<[usize; 2]> = Vec::new();
                for &layer in kept {
                    match ranges.last_mut().filter(|[_, end]| *end == layer) {
                        Some([_, end]) => *end += 1,
                        None => ranges.push([layer, layer + 1]),
                    }
                }
                Some(export::mergekit(id, &ranges))
            }
            true => None,
        };
        if let Some(yaml) = yaml {
            folder.write_bytes_atomic(MERGEKIT, yaml.as_bytes())?;
        } else {
            let line = export::llama_quantize(&source, "pruned.gguf", removed);
            folder.write_bytes_atomic(
                QUANTIZE,
                format!("# Writes pruned.gguf into the working directory.\n{line}\n").as_bytes(),
            )?;
        }
        Ok(())
    }
}
