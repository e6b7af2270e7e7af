//! The cells of a study: what each was measured with, and measuring those that are missing.

use crate::args::Measure;
use crate::{interrupt, measure, output, prompts};
use anyhow::{Result, bail};
use fathom_report::Folder;
use fathom_study::Study;
use fathom_study::study::Cell;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Measures what is not there yet; gives what failed. A cell that fails leaves the rest.
pub(super) fn measure(
    study: &Study,
    cells: &[(Cell, Box<Measure>)],
    overwrite: bool,
) -> Result<BTreeMap<Cell, String>> {
    let mut failed = BTreeMap::new();
    let mut sets = BTreeMap::new();
    for (number, (cell, args)) in cells.iter().enumerate() {
        let title = format!("cell {} of {}: {}", number + 1, cells.len(), study.title(*cell));
        let begun = Begun {
            arguments: study.arguments(*cell),
            data: sets.entry(cell.data).or_insert_with(|| hashes(args)).clone(),
        };
        if is_done(study, *cell, |earlier| *earlier == begun) {
            output::note(&format!("{title}: there already"));
            continue;
        }
        output::note(&title);
        let same = self::begun(study, *cell).is_some_and(|earlier| earlier == begun);
        match measure_cell(study, *cell, args, &begun, overwrite && !same) {
            Ok(()) => {}
            Err(error) if interrupt::stopped() => {
                return Err(error.context("the study was interrupted; the same command goes on"));
            }
            Err(error) => {
                output::complain(&error);
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
fn hashes(args: &Measure) -> Vec<Option<String>> {
    let prompts = prompts::load(&args.prompts).ok();
    let options = prompts::options(&args.prompts, None);
    let pairs = args.probes.0.iter().any(|p| p.needs_pairs()).then_some(&args.qa);
    let others = [pairs, args.causal.baseline_data.as_ref()];
    let others = others.map(|spec| prompts::with_hub(spec?, &options, None).ok());
    [prompts].into_iter().chain(others).map(|set| Some(set?.sha256)).collect()
}

/// Whether a cell was measured to the end with what `fits`.
fn is_done(study: &Study, cell: Cell, fits: impl Fn(&Begun) -> bool) -> bool {
    let complete = || -> Option<bool> {
        let folder = Folder::open(study.folder(cell)).ok()?;
        Some(folder.run().ok()??["status"] == "complete")
    };
    begun(study, cell).is_some_and(|begun| fits(&begun)) && complete().unwrap_or(false)
}

/// Whether a cell was measured to the end with the arguments that it has now. Tables need no
/// data, which may be out of reach by then.
pub(super) fn is_there(study: &Study, cell: Cell) -> bool {
    is_done(study, cell, |begun| begun.arguments == study.arguments(cell))
}

/// What a cell was begun with.
fn begun(study: &Study, cell: Cell) -> Option<Begun> {
    let text = std::fs::read_to_string(study.folder(cell).join(CELL)).ok()?;
    serde_json::from_str(&text).ok()
}

fn measure_cell(study: &Study, cell: Cell, args: &Measure, now: &Begun, overwrite: bool) -> Result<()> {
    let folder = Folder::create(study.folder(cell))?;
    // Samples of another command or other prompts would mix with these.
    if begun(study, cell).is_some_and(|earlier| earlier != *now) && !overwrite {
        bail!(
            "{} was measured with other options or other prompts; nothing was changed: give --overwrite to measure such cells anew",
            folder.path().display()
        );
    }
    folder.write_json_atomic(CELL, &serde_json::to_value(now)?)?;
    let args = Measure { overwrite, ..args.clone() };
    match measure::measure(&args)? {
        Some((_, _, Some(interrupted))) => bail!(interrupted),
        _ => Ok(()),
    }
}
