//! Making the new layers and writing the model.

use super::card;
use crate::observer::{counted, uncounted};
use crate::{Error, Grow, Observer, Result, Unit};
use fathom_model::source::{Checkpoint, Located};
use fathom_results::{Folder, GrowNetwork, LayerOrigin};
use fathom_surgery::export::{ExportError, Growth};
use fathom_surgery::growth::{Grower, GrowthError};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};

/// The folder of the model within the results folder.
pub(crate) const GROWN: &str = "grown";

/// What was written, as `run.json` keeps it: a run that goes on takes the model that is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Written {
    /// What opens as the model, within the results folder.
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) networks: Vec<GrowNetwork>,
    /// Multiply-adds of the training.
    pub(super) macs: u64,
    /// Seconds of making and writing.
    pub(super) seconds: f64,
}

impl Written {
    /// What opens as the model.
    pub(super) fn model(&self, folder: &Path) -> PathBuf {
        folder.join(&self.path)
    }

    /// What `run.json` of an earlier run says, if the model is there.
    pub(super) fn of(run: &serde_json::Value, folder: &Path) -> Option<Self> {
        let written: Self = serde_json::from_value(run.pointer("/grow/written")?.clone()).ok()?;
        let inside = Path::new(&written.path).components().all(|c| matches!(c, Component::Normal(_)));
        (inside && written.model(folder).exists()).then_some(written)
    }
}

/// The layers of the grown model.
pub(super) fn origins(g: &Grow, checkpoint: &Checkpoint) -> Result<Vec<LayerOrigin>> {
    let depth = checkpoint.config().depth();
    g.recipe.origins(depth).map_err(|error| Error::Invalid(error.to_string()))
}

/// What makes them.
pub(super) fn grower<'a>(
    g: &Grow,
    checkpoint: &'a Checkpoint,
    origins: &'a [LayerOrigin],
) -> Result<Grower<'a>> {
    Grower::new(checkpoint, &g.recipe, origins, g.norms, g.lesa()).map_err(error)
}

fn error(error: GrowthError) -> Error {
    match error {
        GrowthError::Export(error) => error.into(),
        GrowthError::Cancelled => {
            Error::Cancelled("interrupted while making new layers; nothing of them is kept".to_owned())
        }
        other => Error::Invalid(other.to_string()),
    }
}

/// Removes what an earlier run wrote.
pub(crate) fn remove_earlier(folder: &Path, run: &serde_json::Value) -> Result<()> {
    let grown = folder.join(GROWN);
    if Written::of(run, folder).is_none() {
        return Ok(());
    }
    std::fs::remove_dir_all(&grown).map_err(|source| Error::Io {
        what: format!("cannot remove {}, which an earlier run wrote", grown.display()),
        source,
    })
}

/// Makes the layers and writes the model.
pub(super) fn write(
    g: &Grow,
    checkpoint: &Checkpoint,
    located: &Located,
    folder: &Folder,
    observer: &dyn Observer,
) -> Result<Written> {
    let started = std::time::Instant::now();
    let origins = origins(g, checkpoint)?;
    let grower = grower(g, checkpoint, &origins)?;
    let macs = grower.macs();
    let going_on = |running: &crate::observer::Running<'_>, macs| {
        running.advance(macs);
        !observer.is_cancelled()
    };
    let (layers, networks) = if macs == 0 {
        let _making = uncounted(observer, "making new layers");
        grower.make(&|_| !observer.is_cancelled())
    } else {
        let running = counted(observer, "training", Unit::MultiplyAdds, macs);
        grower.make(&|macs| going_on(&running, macs))
    }
    .map_err(error)?;
    let out = folder.path().join(GROWN);
    let card = card::write(g, located, &origins, &networks);
    let growth = Growth { source: checkpoint, layers: &layers, out: &out, card: &card };
    let begun = Cell::new(None);
    let progress = |done: u64, all: u64| {
        let (running, before) =
            begun.take().unwrap_or_else(|| (counted(observer, "writing the model", Unit::Bytes, all), 0));
        running.advance(done.saturating_sub(before));
        begun.set(Some((running, done)));
        if observer.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let staged = growth.stage(&progress).map_err(|error| match error {
        ExportError::Cancelled => {
            Error::Cancelled("interrupted while writing the model; nothing of it is kept".to_owned())
        }
        error => error.into(),
    })?;
    drop(begun);
    let exported = staged.publish()?;
    exported.warnings.iter().for_each(|warning| observer.warn(warning));
    let path = exported.model.strip_prefix(folder.path()).unwrap_or(&exported.model);
    Ok(Written {
        path: path.to_string_lossy().into_owned(),
        bytes: exported.bytes,
        networks,
        macs,
        seconds: started.elapsed().as_secs_f64(),
    })
}
