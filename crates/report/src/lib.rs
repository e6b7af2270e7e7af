//! Presents a results folder: tables for the terminal, figures, and the HTML page.
//!
//! Everything here is made from [`fathom_results::Results`] alone; the crate knows nothing of models.
//!
//! - [`answer`]: the depth table in words.
//! - [`table`]: the summary printed at the end of a run.
//! - [`plots`]: the figures as SVG and PNG.
//! - [`html`]: the report page, one file that needs no network and can be read without scripts.
//! - [`prune`]: table, figures and page of a pruning.
//! - [`exit`]: table, figures and page of early exits.
//! - [`grow`]: table, figures and page of a grown model.
//! - [`map`]: table, figures and page of maps between models.
//! - [`fit`]: table, figures and page of a fitted law.
//! - [`charts`]: the page of an experiment of any kind.
//! - [`study`]: the page of many models on many data sets.

#![deny(missing_docs)]

pub mod answer;
pub mod charts;
mod error;
pub mod exit;
pub mod fit;
mod gauge;
pub mod grow;
pub mod html;
pub mod map;
mod page;
pub mod plots;
pub mod prune;
pub mod study;
pub mod table;
mod text;

pub use error::{Error, Result};
use fathom_results::{Folder, Results, folder};
pub use table::Style;

/// Writes the output of a finished run: `results.json`, `run.json`, the figures under
/// `plots/` and `report.html`.
///
/// The numbers come first, so that a failure while drawing never costs them.
///
/// # Errors
///
/// [`fathom_results::Error::Inconsistent`] when the results contradict themselves (nothing is written then), and any
/// error of writing or drawing.
pub fn write_all(folder: &Folder, results: &Results, run: &serde_json::Value) -> Result<()> {
    results.validate()?;
    folder.write_json_atomic(folder::RESULTS, results)?;
    folder.write_json_atomic(folder::RUN, run)?;
    write_report(folder, results, run)
}

/// Writes the figures under `plots/` and `report.html` from results that are already in the folder.
///
/// # Errors
///
/// Any error of writing or drawing.
pub fn write_report(folder: &Folder, results: &Results, run: &serde_json::Value) -> Result<()> {
    for figure in plots::depth_gauge(results).into_iter().chain(plots::figures(results)) {
        folder.write_plot(&format!("{}.svg", figure.name), figure.svg()?.as_bytes())?;
        folder.write_plot(&format!("{}.png", figure.name), &figure.png()?)?;
    }
    folder.write_bytes_atomic(folder::REPORT, html::render(results, run)?.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_results::fixture;

    #[test]
    fn write_all_leaves_a_folder_that_can_be_opened_again() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::create(parent.path().join("org__model/data")).unwrap();
        let results = fixture::results();
        write_all(&folder, &results, &fixture::run()).unwrap();
        let again = Folder::open(folder.path()).unwrap();
        assert_eq!(again.results().unwrap(), results);
        assert_eq!(again.run().unwrap().unwrap(), fixture::run());
        let count = |path: std::path::PathBuf| std::fs::read_dir(path).unwrap().count();
        assert_eq!(count(folder.path().join(folder::PLOTS)), 2 * (1 + plots::figures(&results).len()));
        assert_eq!(count(folder.path().to_owned()), 4);
    }

    #[test]
    fn contradicting_results_are_not_written() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::create(parent.path()).unwrap();
        let mut results = fixture::results();
        results.model.layers = 7;
        assert!(matches!(
            write_all(&folder, &results, &fixture::run()),
            Err(Error::Folder(fathom_results::Error::Inconsistent { .. }))
        ));
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
    }
}
