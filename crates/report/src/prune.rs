//! The report of a pruning: which layers can go, and what that costs.

mod figures;
mod page;
mod table;

pub use self::figures::figures;
pub use self::page::render;
pub use self::table::summary;

use crate::Result;
use fathom_results::{Folder, PruneMethod, Pruning, folder};
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

/// A method with or without a linear map: a curve of its own.
pub(crate) type Kind = (PruneMethod, bool);

/// The kinds of candidates, in the order of the results.
fn kinds(pruning: &Pruning) -> Vec<Kind> {
    let mut all: Vec<Kind> = pruning.candidates.iter().map(|c| (c.method, c.replaced.is_some())).collect();
    all.sort_by_key(|(method, linear)| (*linear, *method));
    all.dedup();
    all
}

fn name_of((method, linear): Kind) -> String {
    if linear { format!("{}+linear", method.name()) } else { method.name().to_owned() }
}

/// `3, 7..9` for half-open ranges.
fn layers(removed: &[[usize; 2]]) -> String {
    let range = |[start, end]: &[usize; 2]| match end - start {
        1 => start.to_string(),
        _ => format!("{start}..{end}"),
    };
    removed.iter().map(range).collect::<Vec<_>>().join(", ")
}
