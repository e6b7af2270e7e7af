//! An exported model against its source without the removed layers.

use crate::error::invalid;
use crate::observer::{Downloads, uncounted};
use crate::{Observer, Result, threads};
use fathom_model::source::{self, Checkpoint, Loaded};
use fathom_model::{DownProjection, Dtype};
use fathom_results::{Pruning, SkipPart, folder};
use fathom_surgery::{Removal, Variant, logits};
use std::path::{Component, Path};

/// Texts that are compared: the beginnings of some built-in prompts.
const TEXTS: usize = 6;

/// Tokens of a text at most.
const TOKENS: usize = 48;

/// The comparison of an exported model with its source.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VerifiedExport {
    /// Tokens at which all logits were compared.
    pub tokens: usize,
    /// The largest difference of a logit; 0 if all are equal bit for bit.
    pub largest_difference: f64,
}

/// Loads a model that [`Prune::export`](crate::Prune::export) wrote, and compares its logits with those of its source
/// run without the removed layers. `path` is the exported folder, or the GGUF file in it.
///
/// # Errors
/// When the results folder around it or the models cannot be read, or the tokenizers differ.
pub fn verify_export(path: &Path, threads: Option<usize>, observer: &dyn Observer) -> Result<VerifiedExport> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if !path.exists() {
        invalid!("{} does not exist; give the folder that --export wrote, or the file in it", path.display());
    }
    let export = if path.is_dir() { &path } else { path.parent().unwrap_or(&path) };
    let results_folder = export.parent().unwrap_or(Path::new("."));
    let file = results_folder.join(folder::PRUNE);
    if !file.is_file() {
        invalid!(
            "there is no {} beside {}, which says what was removed; verify an export where `fathom prune` wrote it",
            folder::PRUNE,
            export.display()
        );
    }
    let results = Pruning::read(&file)?;
    let Some(exported) = &results.export else {
        invalid!("{} knows of no export; write one with --export", file.display());
    };
    let layers = exported.removed.iter().flat_map(|[start, end]| *start..*end);
    let Ok(removal) = Removal::new(SkipPart::Layer, layers) else {
        invalid!("{}: the removed layers overlap; the file is damaged or was edited", file.display());
    };
    let is_below = Path::new(&exported.path).components().all(|c| matches!(c, Component::Normal(_)));
    let model = results_folder.join(&exported.path);
    if !is_below || !(model == path || model == export || model.parent() == Some(export)) {
        invalid!("{} says that the export is {}, not {}", file.display(), exported.path, path.display());
    }
    threads::run(threads, || {
        let located =
            source::locate(&exported.source, results.model.revision.as_deref(), &Downloads(observer))?;
        let new = exported.replaced.map(|map| new_projection(&model, &removal, map.layer)).transpose()?;
        let new = new.as_ref().map(|(layer, down)| (*layer, down));
        let (verified, sha256) = compare(&located.path, &removal, new, &model, observer)?;
        // The logits do not show what became of a linear map, which is in the export alone.
        if sha256 != exported.sha256 {
            invalid!(
                "the weights of {} have changed since they were written; do not use it",
                model.display()
            );
        }
        Ok(verified)
    })
}

/// The projection that an export has in place of layer `layer` of its source.
fn new_projection(model: &Path, removal: &Removal, layer: usize) -> Result<(usize, DownProjection)> {
    let loaded = load(model)?;
    let place = (0..layer).filter(|l| !removal.contains(*l)).count();
    if place >= loaded.model.config().depth() {
        invalid!("{} has too few layers; it is not the model that was exported", model.display());
    }
    Ok((layer, loaded.down_projection(place)?))
}

fn load(path: &Path) -> Result<Loaded> {
    Ok(Checkpoint::open(path)?.load(Dtype::F32, &|| ())?)
}

/// Compares the logits of the source without the removed layers, on the processor in f32, with those of the export, and
/// hashes the files of the export.
pub(super) fn compare(
    source: &Path,
    removal: &Removal,
    down: Option<(usize, &DownProjection)>,
    export: &Path,
    observer: &dyn Observer,
) -> Result<(VerifiedExport, Vec<String>)> {
    let _comparing = uncounted(observer, "loading the export again");
    // One after the other, so that both need not fit the memory.
    let before = load(source)?;
    removal.check(before.model.config().depth()).map_err(|error| crate::Error::Invalid(error.to_string()))?;
    let packed = down
        .map(|(layer, down)| Ok::<_, crate::Error>((layer, before.model.pack_down(down)?)))
        .transpose()?;
    let variant = Variant { removal, down: packed.as_ref().map(|(layer, linear)| (*layer, linear)) };
    let texts = texts(&before)?;
    let expected = texts.iter().map(|t| logits(&before.model, t, variant)).collect::<Result<Vec<_>, _>>()?;
    drop(packed);
    drop(before);
    let after = load(export)?;
    if self::texts(&after)? != texts {
        invalid!("the tokenizer of the exported model differs from that of its source; export it again");
    }
    let whole = Removal::nothing(SkipPart::Layer);
    let mut verified = VerifiedExport::default();
    for (text, expected) in texts.iter().zip(&expected) {
        let found = logits(&after.model, text, Variant::without(&whole))?;
        let differences = found.iter().zip(expected).filter(|(a, b)| a.to_bits() != b.to_bits());
        let differences = differences.map(|(a, b)| f64::from((a - b).abs()));
        // What is not a number on one side only is an infinite difference.
        let largest = differences.map(|d| if d.is_nan() { f64::INFINITY } else { d }).fold(0.0, f64::max);
        verified.largest_difference = verified.largest_difference.max(largest);
        verified.tokens += text.len();
    }
    if down.is_none() && verified.largest_difference > 0.0 {
        invalid!(
            "the logits of the exported model differ from those of its source without the removed layers by up to {:e}; \
             it is not the model that was measured, so do not use it",
            verified.largest_difference
        );
    }
    Ok((verified, after.weights.sha256()))
}

/// The beginnings of built-in prompts as tokens.
fn texts(loaded: &Loaded) -> Result<Vec<Vec<u32>>> {
    let set = fathom_data::load(fathom_data::DEFAULT, &fathom_data::Options::default())?;
    let most = TOKENS.min(loaded.model.config().context);
    let mut all = Vec::new();
    for prompt in set.prompts.iter().take(TEXTS) {
        let mut tokens = loaded.tokenizer.encode(&prompt.text)?;
        tokens.truncate(most);
        all.push(tokens);
    }
    all.retain(|tokens| !tokens.is_empty());
    Ok(all)
}
