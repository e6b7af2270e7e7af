//! The cells of a study: what each was measured with, and measuring those that are missing.

use super::CellState;
use crate::error::invalid;
use crate::{Error, Measurement, Observer, PromptSpec, Result, execute};
use fathom_analysis::StudyDescription;
use fathom_analysis::study::Cell;
use fathom_results::Folder;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Hashes of data sets, by the index of the data set.
pub(super) type Sets = BTreeMap<usize, Vec<Option<String>>>;

/// Measures what is not there yet; gives what failed. A cell that fails leaves the rest.
pub(super) fn measure(
    study: &StudyDescription,
    cells: &[(Cell, Measurement)],
    overwrite: bool,
    observer: &dyn Observer,
) -> Result<BTreeMap<Cell, String>> {
    let mut failed = BTreeMap::new();
    let mut sets = Sets::new();
    for (number, (cell, measurement)) in cells.iter().enumerate() {
        let title = format!("cell {} of {}: {}", number + 1, cells.len(), study.title(*cell));
        let begun = Begun::of(study, *cell, measurement, &mut sets, observer);
        match measure_one(study, *cell, measurement, &begun, &title, overwrite, observer) {
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

/// Measures a cell, unless it is there already.
pub(super) fn measure_one(
    study: &StudyDescription,
    cell: Cell,
    measurement: &Measurement,
    now: &Begun,
    title: &str,
    overwrite: bool,
    observer: &dyn Observer,
) -> Result<()> {
    let state = state(study, cell, measurement, now);
    if state == CellState::Finished {
        observer.note(&format!("{title}: there already"));
        return Ok(());
    }
    observer.note(title);
    let folder = Folder::create(study.folder(cell))?;
    // Samples of another command or other prompts would mix with these.
    let other = state == CellState::Other;
    if other && !overwrite {
        invalid!(
            "{} was measured with other options or other prompts; nothing was changed: give --overwrite to measure such cells anew",
            folder.path().display()
        );
    }
    let measurement = measurement.clone().overwrite(other);
    folder.write_json_atomic(CELL, now)?;
    let measured = execute::measure(&measurement, observer)?;
    measured.cancelled.map_or(Ok(()), |how| Err(Error::Cancelled(how)))
}

/// What stands in a cell's folder about the study that measured it.
const CELL: &str = "cell.json";

/// What a cell is measured with.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Begun {
    /// The arguments of `fathom measure`, without the folder, which may be moved.
    arguments: Vec<String>,
    /// SHA-256 of the prompts, the pairs and the baseline, so that an edited file is seen;
    /// nothing for what could not be read, which measuring says better.
    data: Vec<Option<String>>,
}

impl Begun {
    pub(super) fn of(
        study: &StudyDescription,
        cell: Cell,
        measurement: &Measurement,
        sets: &mut Sets,
        observer: &dyn Observer,
    ) -> Self {
        let data = sets.entry(cell.data).or_insert_with(|| hashes(measurement, observer)).clone();
        Self { arguments: study.arguments(cell), data }
    }

    /// What stands in a cell's folder.
    fn read(study: &StudyDescription, cell: Cell) -> Option<Self> {
        let text = std::fs::read_to_string(study.folder(cell).join(CELL)).ok()?;
        serde_json::from_str(&text).ok()
    }
}

/// SHA-256 of all that a cell reads beside the model.
fn hashes(m: &Measurement, observer: &dyn Observer) -> Vec<Option<String>> {
    let prompts = m.options.data.load_candidates(observer).ok();
    let pairs = m.probes.iter().any(|p| p.needs_pairs()).then_some(&m.qa);
    let others = [pairs, m.baseline_data.as_ref()];
    let load = |id: &String| PromptSpec::load(&m.options.data.of(id, None), observer).ok();
    [prompts].into_iter().chain(others.map(|id| load(id?))).map(|set| Some(set?.sha256)).collect()
}

/// How far a cell is that is to be measured with `now`.
pub(super) fn state(
    study: &StudyDescription,
    cell: Cell,
    measurement: &Measurement,
    now: &Begun,
) -> CellState {
    let run = run(study, cell);
    let fits = match (Begun::read(study, cell), &run) {
        (Some(begun), _) => begun == *now,
        (None, Some(run)) => is_asked_by(run, measurement) && has_read(run, measurement, &now.data),
        (None, None) => return CellState::Missing,
    };
    match run {
        _ if !fits => CellState::Other,
        Some(run) if run["status"] == "complete" => CellState::Finished,
        _ => CellState::Begun,
    }
}

/// `run.json` of a cell.
fn run(study: &StudyDescription, cell: Cell) -> Option<Value> {
    Folder::open(study.folder(cell)).ok()?.run().ok()?
}

/// Whether a run without a study was asked for what `measurement` asks for.
fn is_asked_by(run: &Value, measurement: &Measurement) -> bool {
    let request = measurement.request();
    // Runs of earlier builds have sequences in one place only.
    run.get("sequences") == request.get("sequences")
        && run["request"] == request
        && run.get("shard").is_none()
}

/// Whether a run without a study read the data with these hashes. Prompts that it left out are not compared: which ones
/// are too long depends on the model.
fn has_read(run: &Value, measurement: &Measurement, data: &[Option<String>]) -> bool {
    let left_out =
        run["data"]["too_long"].as_u64().unwrap_or(0) > 0 || measurement.options.data.max_tokens.is_some();
    let places = ["/data/sha256", "/probes/erasure/qa/sha256", "/probes/erasure/baseline/sha256"];
    let is_same = |(index, (place, hash)): (usize, (&str, &Option<String>))| match hash {
        Some(hash) if index > 0 || !left_out => {
            run.pointer(place).and_then(Value::as_str) == Some(hash.as_str())
        }
        _ => true,
    };
    places.into_iter().zip(data).enumerate().all(is_same)
}

/// Whether a cell was measured to the end with the arguments that it has now. Tables need no
/// data, which may be out of reach by then.
pub(super) fn is_there(study: &StudyDescription, cell: Cell, measurement: &Measurement) -> bool {
    let Some(run) = run(study, cell).filter(|run| run["status"] == "complete") else { return false };
    match Begun::read(study, cell) {
        Some(begun) => begun.arguments == study.arguments(cell),
        None => is_asked_by(&run, measurement),
    }
}
