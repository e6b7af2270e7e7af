//! The report of a pruning: which layers can go, and what that costs.

mod figures;
mod labels;
mod page;
mod table;

pub use self::figures::figures;
pub use self::page::render;
pub use self::table::summary;

use crate::Result;
use fathom_results::{Folder, Pruning, folder};
use serde_json::Value;

/// Writes the output of a finished pruning: `prune.json`, `run.json`, the figures under `plots/` and `report.html`.
///
/// # Errors
///
/// Any error of writing or drawing.
pub fn write(folder: &Folder, pruning: &Pruning, run: &Value) -> Result<()> {
    folder.write_json_atomic(folder::PRUNE, pruning)?;
    folder.write_json_atomic(folder::RUN, run)?;
    write_report(folder, pruning, run)
}

/// Writes the figures and the page of results that are already in the folder.
///
/// # Errors
///
/// Any error of writing or drawing.
pub fn write_report(folder: &Folder, pruning: &Pruning, run: &Value) -> Result<()> {
    folder.remove_plots("prune_")?;
    for figure in figures(pruning) {
        folder.write_plot(&format!("{}.svg", figure.name), figure.svg()?.as_bytes())?;
        folder.write_plot(&format!("{}.png", figure.name), &figure.png()?)?;
    }
    folder.write_bytes_atomic(folder::REPORT, render(pruning, run)?.as_bytes())?;
    Ok(())
}
