//! The report of maps between the levels of two models.

mod figures;
mod page;
mod table;

pub use self::figures::figures;
pub use self::page::render;
pub use self::table::summary;

use crate::Result;
use fathom_results::{Folder, Mapping, folder};
use serde_json::Value;

/// Writes the output of finished maps: `map.json`, `run.json`, the figures under `plots/` and `report.html`.
///
/// # Errors
///
/// Any error of writing or drawing.
pub fn write(folder: &Folder, mapping: &Mapping, run: &Value) -> Result<()> {
    folder.write_json_atomic(folder::MAP, mapping)?;
    folder.write_json_atomic(folder::RUN, run)?;
    write_report(folder, mapping, run)
}

/// Writes the figures and the page of results that are already in the folder.
///
/// # Errors
///
/// Any error of writing or drawing.
pub fn write_report(folder: &Folder, mapping: &Mapping, run: &Value) -> Result<()> {
    folder.remove_plots("map_")?;
    for figure in figures(mapping) {
        folder.write_plot(&format!("{}.svg", figure.name), figure.svg()?.as_bytes())?;
        folder.write_plot(&format!("{}.png", figure.name), &figure.png()?)?;
    }
    folder.write_bytes_atomic(folder::REPORT, render(mapping, run)?.as_bytes())?;
    Ok(())
}

/// What the rows and columns are: a level of the stream, or what a layer adds.
fn unit(mapping: &Mapping) -> &'static str {
    if mapping.differences { "layer" } else { "level" }
}
