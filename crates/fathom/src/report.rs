//! Reports of finished runs.

use crate::Result;
use fathom_results::{Folder, Results};
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
