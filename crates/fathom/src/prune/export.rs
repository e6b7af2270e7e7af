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
use std::path::PathBuf;

/// The folder of the exported model within the results folder.
const PRUNED: &str = "pruned";
/// What mergekit needs for the same removal.
const MERGEKIT: &str = "mergekit.yaml";
/// The line that does the same with llama.cpp.
const QUANTIZE: &str = "llama-quantize.sh";

/// The name on the command line and in results.
fn name(format: ExportFormat) -> &'static str {
    match format {
        ExportFormat::Hf => "hf",
        ExportFormat::Gguf => "gguf",
    }
}

/// Refuses what cannot be exported, before anything is measured.
pub(super) fn check(p: &Prune, located: &Located, folder: &Folder) -> Result<()> {
    let target = folder.path().join(PRUNED);
    let is_used =
        std::fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_some()) || target.is_file();
    if is_used {
        crate::error::invalid!(
            "{} exists and would be overwritten; move it away, or choose another folder with -o",
            target.display()
        );
    }
    if p.export == Some(ExportFormat::Gguf) && located.path.join("config.json").is_file() {
        let source_folder = located.path.clone();
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
        )?;
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
            source: self.p.model.id.clone(),
            bytes: written.bytes,
            verified_tokens: verified.tokens,
            largest_difference: verified.largest_difference,
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
        let source: PathBuf = std::path::absolute(&located.path).unwrap_or_else(|_| located.path.clone());
        let source = source.to_string_lossy();
        let yaml = match located.path.is_dir() {
            true => {
                let id = if located.revision.is_some() { located.id.as_str() } else { &source };
                let mut ranges: Vec<[usize; 2]> = Vec::new();
                for &layer in kept {
                    match ranges.last_mut().filter(|[_, end]| *end == layer) {
                        Some([_, end]) => *end += 1,
                        None => ranges.push([layer, layer + 1]),
                    }
                }
                Some(export::mergekit(id, &ranges, "auto"))
            }
            false => None,
        };
        if let Some(yaml) = yaml {
            folder.write_bytes_atomic(MERGEKIT, yaml.as_bytes())?;
        } else {
            let line = export::llama_quantize(&source, "pruned.gguf", removed);
            folder.write_bytes_atomic(QUANTIZE, format!("{line}\n").as_bytes())?;
        }
        Ok(())
    }
}
