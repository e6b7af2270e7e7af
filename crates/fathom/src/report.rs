//! Reports of finished runs.

use crate::Result;
use fathom_results::{Exiting, Fitting, Folder, Growing, Mapping, Pruning, Results, folder};
use std::path::Path;

/// Draws the figures and the page of a results folder again, and returns its results.
///
/// # Errors
/// When the folder is not one of a finished run, or cannot be written.
pub fn report(folder: &Path) -> Result<Results> {
    let folder = Folder::open(folder)?;
    let results = folder.results()?;
    let run = folder.run()?.unwrap_or_default();
    fathom_report::write_report(&folder, &results, &run)?;
    Ok(results)
}

/// Whether a folder holds the results of a finished measurement.
pub fn is_measurement(path: &Path) -> bool {
    path.join(folder::RESULTS).is_file()
}

/// Whether a folder holds the results of a finished pruning.
pub fn is_pruning(path: &Path) -> bool {
    path.join(folder::PRUNE).is_file()
}

/// Draws the figures and the page of a pruning again, and returns its results.
///
/// # Errors
/// As [`report`].
pub fn prune_report(path: &Path) -> Result<Pruning> {
    let folder = Folder::open(path)?;
    let pruning = Pruning::read(&path.join(folder::PRUNE))?;
    let run = folder.run()?.unwrap_or_default();
    fathom_report::prune::write_report(&folder, &pruning, &run)?;
    Ok(pruning)
}

/// Whether a folder holds finished early exits.
pub fn is_exit(path: &Path) -> bool {
    path.join(folder::EXIT).is_file()
}

/// Draws the figures and the page of early exits again, and returns them.
///
/// # Errors
/// As [`report`].
pub fn exit_report(path: &Path) -> Result<Exiting> {
    let folder = Folder::open(path)?;
    let exiting = Exiting::read(&path.join(folder::EXIT))?;
    let run = folder.run()?.unwrap_or_default();
    fathom_report::exit::write_report(&folder, &exiting, &run)?;
    Ok(exiting)
}

/// Whether a folder holds finished maps between models.
pub fn is_map(path: &Path) -> bool {
    path.join(folder::MAP).is_file()
}

/// Draws the figures and the page of maps between models again, and returns them.
///
/// # Errors
/// As [`report`].
pub fn map_report(path: &Path) -> Result<Mapping> {
    let folder = Folder::open(path)?;
    let mapping = Mapping::read(&path.join(folder::MAP))?;
    let run = folder.run()?.unwrap_or_default();
    fathom_report::map::write_report(&folder, &mapping, &run)?;
    Ok(mapping)
}

/// Whether a folder holds a grown model.
pub fn is_grown(path: &Path) -> bool {
    path.join(folder::GROW).is_file()
}

/// Draws the figures and the page of a grown model again, and returns its results.
///
/// # Errors
/// As [`report`].
pub fn grow_report(path: &Path) -> Result<Growing> {
    let folder = Folder::open(path)?;
    let growing = Growing::read(&path.join(folder::GROW))?;
    let run = folder.run()?.unwrap_or_default();
    fathom_report::grow::write_report(&folder, &growing, &run)?;
    Ok(growing)
}

/// Whether a folder holds a fitted law.
pub fn is_fit(path: &Path) -> bool {
    path.join(folder::FIT).is_file()
}

/// Draws the figures and the page of a fit again, and returns it.
///
/// # Errors
/// As [`report`].
pub fn fit_report(path: &Path) -> Result<Fitting> {
    let folder = Folder::open(path)?;
    let fitting = Fitting::read(&path.join(folder::FIT))?;
    let run = folder.run()?.unwrap_or_default();
    fathom_report::fit::write_report(&folder, &fitting, &run)?;
    Ok(fitting)
}
