//! The cells of a study: what each was measured with, and measuring those that are missing.

use crate::error::invalid;
use crate::{Error, Measurement, Observer, PromptSpec, Result, execute};
use fathom_analysis::StudyDescription;
use fathom_analysis::study::Cell;
use fathom_results::Folder;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Measures what is not there yet; gives what failed. A cell that fails leaves the rest.
pub(super) fn measure(
    study: &StudyDescription,
    cells: &[(Cell, Measurement)],
    overwrite: bool,
    observer: &dyn Observer,
) -> Result<BTreeMap<Cell, String>> {
    let mut failed = BTreeMap::new();
    let mut sets = BTreeMap::new();
    for (number, (cell, measurement)) in cells.iter().enumerate() {
        let title = format!("cell {} of {}: {}", number + 1, cells.len(), study.title(*cell));
        let begun = Begun {
            arguments: study.arguments(*cell),
            data: sets.entry(cell.data).or_insert_with(|| hashes(measurement, observer)).clone(),
        };
        if is_done(study, *cell, |earlier| *earlier == begun) {
            observer.note(&format!("{title}: there already"));
            continue;
        }
        observer.note(&title);
        let same = self::begun(study, *cell).is_some_and(|earlier| earlier == begun);
        match measure_cell(study, *cell, measurement, &begun, overwrite && !same, observer) {
            Ok(()) => {}
            Err(error) if observer.is_cancelled() => {
                return Err(error.context("the study was interrupted; the same command goes on"));
            }
            Err(error) => {
                observer.warn(&format!("{} failed: {error}", study.title(*cell)));
                failed.insert(*cell, error.to_string());
            }
        }
    }
    Ok(failed)
}

/// What stands in a cell's folder about the command that measured it.
const CELL: &str = "cell.json";

/// What a cell is measured with.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Begun {
    /// The arguments of `fathom measure`, without the folder, which may be moved.
    arguments: Vec<String>,
    /// SHA-256 of the prompts, the pairs and the baseline, so that an edited file is seen;
    /// nothing for what could not be read, which measuring says better.
    data: Vec<Option<String>>,
}

/// SHA-256 of all that a cell reads beside the model.
fn hashes(m: &Measurement, observer: &dyn Observer) -> Vec<Option<String>> {
    let prompts = m.options.data.load_candidates(observer).ok();
    let pairs = m.probes.iter().any(|p| p.needs_pairs()).then_some(&m.qa);
    let others = [pairs, m.baseline_data.as_ref()];
    let load = |id: &String| PromptSpec::load(&m.options.data.of(id, None), observer).ok();
    [prompts].into_iter().chain(others.map(|id| load(id?))).map(|set| Some(set?.sha256)).collect()
}

/// Whether a cell was measured to the end with what `fits`.
fn is_done(study: &StudyDescription, cell: Cell, fits: impl Fn(&Begun) -> bool) -> bool {
    let complete = || -> Option<bool> {
        let folder = Folder::open(study.folder(cell)).ok()?;
        Some(folder.run().ok()??["status"] == "complete")
    };
    begun(study, cell).is_some_and(|begun| fits(&begun)) && complete().unwrap_or(false)
}

/// Whether a cell was measured to the end with the arguments that it has now. Tables need no
/// data, which may be out of reach by then.
pub(super) fn is_there(study: &StudyDescription, cell: Cell) -> bool {
    is_done(study, cell, |begun| begun.arguments == study.arguments(cell))
}

/// What a cell was begun with.
fn begun(study: &StudyDescription, cell: Cell) -> Option<Begun> {
    let text = std::fs::read_to_string(study.folder(cell).join(CELL)).ok()?;
    serde_json::from_str(&text).ok()
}

fn measure_cell(
    study: &StudyDescription,
    cell: Cell,
    measurement: &Measurement,
    now: &Begun,
    overwrite: bool,
    observer: &dyn Observer,
) -> Result<()> {
    let folder = Folder::create(study.folder(cell))?;
    // Samples of another command or other prompts would mix with these.
    if begun(study, cell).is_some_and(|earlier| earlier != *now) && !overwrite {
        invalid!(
            "{} was measured with other options or other prompts; nothing was changed: give --overwrite to measure such cells anew",
            folder.path().display()
        );
    }
    folder.write_json_atomic(CELL, now)?;
    let measured = execute::measure(&measurement.clone().overwrite(overwrite), observer)?;
    measured.cancelled.map_or(Ok(()), |how| Err(Error::Cancelled(how)))
}
