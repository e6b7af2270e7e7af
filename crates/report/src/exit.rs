//! The report of early exits: at which levels tokens can leave a model, and what that saves.

mod figures;
mod page;
mod table;

pub use self::figures::figures;
pub use self::page::render;
pub use self::table::summary;

use crate::Result;
use fathom_results::{Exiting, Folder, folder};
use serde_json::Value;

/// Writes the output of finished early exits: `exit.json`, `run.json`, the figures under `plots/` and `report.html`.
///
/// # Errors
///
/// Any error of writing or drawing.
pub fn write(folder: &Folder, exiting: &Exiting, run: &Value) -> Result<()> {
    folder.write_json_atomic(folder::EXIT, exiting)?;
    folder.write_json_atomic(folder::RUN, run)?;
    write_report(folder, exiting, run)
}

/// Writes the figures and the page of results that are already in the folder.
///
/// # Errors
///
/// Any error of writing or drawing.
pub fn write_report(folder: &Folder, exiting: &Exiting, run: &Value) -> Result<()> {
    folder.remove_plots("exit_")?;
    for figure in figures(exiting) {
        folder.write_plot(&format!("{}.svg", figure.name), figure.svg()?.as_bytes())?;
        folder.write_plot(&format!("{}.png", figure.name), &figure.png()?)?;
    }
    folder.write_bytes_atomic(folder::REPORT, render(exiting, run)?.as_bytes())?;
    Ok(())
}
