//! The results folder of Fathom and everything that is shown from it.
//!
//! A finished or interrupted measurement lives in one folder: `run.json` (what was run and how),
//! `results.json` (the curves and the depth table), `samples.jsonl` (one line per prompt), `plots/`
//! and `report.html`. This crate reads and writes that folder and turns it into a terminal table,
//! figures and a page. It knows nothing of models: everything it shows comes from the folder alone.
//!
//! - [`results`]: the types of `results.json` and its reader.
//! - [`folder`]: atomic files, and the samples file that survives a kill.
//! - [`answer`]: what the depth table says, in words.
//! - [`table`]: the summary printed at the end of a run.
//! - [`plots`]: the figures as SVG and PNG.
//! - [`html`]: the report page, one file that needs no network and can be read without scripts.
//! - [`study`]: the page of many models on many data sets.

#![deny(missing_docs)]

pub mod answer;
mod error;
pub mod folder;
mod gauge;
pub mod html;
mod page;
pub mod plots;
pub mod results;
pub mod study;
pub mod table;
mod text;

#[cfg(test)]
mod fixture;

pub use error::{Error, Result};
pub use folder::{Folder, Lock};
pub use results::Results;
pub use table::Style;

/// Writes everything a finished run leaves behind: `results.json`, `run.json`, the figures under
/// `plots/` and `report.html`.
///
/// The numbers come first, so that a failure while drawing never costs them.
///
/// # Errors
///
/// [`Error::Inconsistent`] when the results contradict themselves (nothing is written then), and any error
/// of writing or drawing.
pub fn write_all(folder: &Folder, results: &Results, run: &serde_json::Value) -> Result<()> {
    results.validate()?;
    folder.write_json_atomic(folder::RESULTS, results)?;
    folder.write_json_atomic(folder::RUN, run)?;
    for figure in plots::depth_gauge(results).into_iter().chain(plots::figures(results)) {
        folder.write_plot(&format!("{}.svg", figure.name), figure.svg()?.as_bytes())?;
        folder.write_plot(&format!("{}.png", figure.name), &figure.png()?)?;
    }
    folder.write_bytes_atomic(folder::REPORT, html::render(results, run)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(matches!(write_all(&folder, &results, &fixture::run()), Err(Error::Inconsistent { .. })));
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
    }
}
