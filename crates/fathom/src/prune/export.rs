//! Writing the recommended model.

use super::candidates::Candidates;
use super::job::Job;
use super::verify::compare;
use super::{ExportFormat, Prune, card};
use crate::observer::counted;
use crate::{Error, Result, Unit};
use fathom_model::Backend;
use fathom_model::source::Located;
use fathom_results::{Exported, Folder, Pruning};
use fathom_surgery::export::{self, Export, ExportError, Replacement};
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

/// Refuses what cannot be exported, before anything is measured.
pub(super) fn check(p: &Prune, source: &Path, is_gguf: bool, folder: &Folder) -> Result<()> {
    let target = folder.path().join(PRUNED);
    let is_empty = std::fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_none());
    // A link that leads nowhere is in the way too.
    let is_used = std::fs::symlink_metadata(&target).is_ok() && !is_empty;
    if is_used {
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
    /// Exports the recommended candidate, and notes it in the results.
    pub(super) fn export(
        &self,
        format: ExportFormat,
        located: &Located,
        candidates: &Candidates<B>,
        folder: &Folder,
        results: &mut Pruning,
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
        let card = card::write(results, &results.candidates[index], &self.p.command, depth);
        let out = folder.path().join(PRUNED);
        let job = Export {
            source: &located.path,
            removal: &chosen.removal,
            replacement: replacement.as_ref(),
            format,
            out: &out,
            card: &card,
        };
        let written = self.write(&job)?;
        written.warnings.iter().for_each(|warning| self.observer.warn(warning));
        let verified = compare(
            &located.path,
            &chosen.removal,
            replaced.map(|r| (r.about.layer, &r.down)),
            &written.model,
            self.observer,
        );
        // What differs from what was measured is not left under its name.
        let verified = verified.inspect_err(|_| {
            let _ = std::fs::remove_dir_all(&out);
        })?;
        if replaced.is_none() {
            self.write_for_other_tools(
                located,
                &chosen.removal.kept(depth),
                chosen.removal.layers(),
                folder,
            )?;
        }
        let model = written.model.strip_prefix(folder.path()).unwrap_or(&written.model);
        results.export = Some(Exported {
            format: name(format).to_owned(),
            path: model.to_string_lossy().into_owned(),
            source: if located.revision.is_some() { located.id.clone() } else { absolute(&located.path) },
            sha256: verified.1,
            bytes: written.bytes,
            verified_tokens: verified.0.tokens,
            largest_difference: verified.0.largest_difference,
        });
        Ok(())
    }

    fn write(&self, job: &Export<'_>) -> Result<export::Exported> {
        let begun = Cell::new(None);
        let progress = |done: u64, all: u64| {
            let (running, before) = begun
                .take()
                .unwrap_or_else(|| (counted(self.observer, "writing the model", Unit::Bytes, all), 0));
            running.advance(done.saturating_sub(before));
            begun.set(Some((running, done)));
            if self.observer.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        export::export(job, &progress).map_err(|error| match error {
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
