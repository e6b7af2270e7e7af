//! Whether the cells of a study can be compared to the last digit.

use fathom_analysis::StudyDescription;
use fathom_analysis::study::Cell;
use fathom_results::Folder;
use serde_json::Value;
use std::collections::BTreeMap;

/// What cells were measured with, of which a change moves the last digits, or more.
const COMPARED: [(&str, &str); 3] = [
    ("instructions of the processor", "/instructions"),
    ("devices", "/device"),
    ("versions of fathom", "/fathom"),
];

/// A sentence for everything in which the cells differ: machines and versions, and the files of a model.
pub(super) fn differences<'c>(
    study: &StudyDescription,
    cells: impl Iterator<Item = &'c Cell>,
) -> Vec<String> {
    let run = |cell: &Cell| Some((*cell, Folder::open(study.folder(*cell)).ok()?.run().ok()??));
    let runs: Vec<(Cell, Value)> = cells.filter_map(run).collect();
    let mut sentences = Vec::new();
    for (what, place) in COMPARED {
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for value in runs.iter().filter_map(|(_, run)| run.pointer(place)?.as_str()) {
            *found.entry(value.to_owned()).or_default() += 1;
        }
        if found.len() > 1 {
            let counted: Vec<String> =
                found.iter().map(|(value, cells)| format!("{value} ({cells})")).collect();
            sentences.push(format!(
                "the cells were measured with different {what}: {}; their last digits differ for that alone",
                counted.join(", ")
            ));
        }
    }
    for (index, model) in study.models.iter().enumerate() {
        let mut files =
            runs.iter().filter(|(cell, _)| cell.model == index).map(|(_, run)| &run["model"]["files"]);
        let first = files.next();
        if files.any(|files| Some(files) != first) {
            sentences.push(format!(
                "the cells of {} were measured with different files of the model; measure them again with --overwrite",
                model.name
            ));
        }
    }
    sentences
}
