//! What the cells of a study say together: tables in four formats, and a page with figures.

use super::{Study, jobs, machines};
use crate::comparison::predicted;
use crate::observer::uncounted;
use crate::summary::readable;
use crate::{Error, Observer, Result};
use fathom_analysis::study::Cell;
use fathom_analysis::tables::{Group, JobRow};
use fathom_analysis::{BootstrapOptions, FinishedCell, PromptCurves, StudyDescription, Tables, models_csv};
use fathom_report::study::{StudyAnswer, StudyCell, StudyData, StudyModel, StudyPage, Table};
use fathom_results::{Folder, LensInfo, Results, Sample};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The description as it was when the study was put together, beside its tables: with it the
/// folder says everything about itself.
pub(super) const DESCRIPTION: &str = "study.toml";
const TABLES: &str = "study.json";

/// The options that the tables were made with before.
pub(super) fn earlier(folder: &Path) -> Option<BootstrapOptions> {
    let text = std::fs::read(folder.join(TABLES)).ok()?;
    let tables: serde_json::Value = serde_json::from_slice(&text).ok()?;
    serde_json::from_value(tables["settings"].clone()).ok()
}

/// Makes tables and page of all cells that are there and writes them beside the cells.
pub(super) fn write(
    described: &Study,
    failed: &BTreeMap<Cell, String>,
    options: &BootstrapOptions,
    observer: &dyn Observer,
) -> Result<Tables> {
    let (study, text) = (&described.description, described.text.as_str());
    let mut finished = BTreeMap::new();
    let mut shown = BTreeMap::new();
    let working = uncounted(observer, "resampling prompts");
    for cell in study.cells().filter(|cell| described.is_there(*cell)) {
        match read(study, cell, options) {
            Ok((said, results)) => {
                finished.insert(cell, said);
                shown.insert(cell, results);
            }
            Err(error) => observer.warn(&format!("{} is left out: {error}", study.title(cell))),
        }
    }
    machines::differences(study, shown.keys()).iter().for_each(|difference| observer.warn(difference));
    differently_read(&shown).iter().for_each(|difference| observer.warn(difference));
    let tables = Tables::of(study, &finished, options).with_jobs(jobs::rows(study));
    drop(working);
    let _drawing = uncounted(observer, "drawing");
    let out = Folder::create(&study.out)?;
    for (name, text) in [
        ("study.md", tables.markdown()),
        ("study.csv", tables.csv().map_err(table_error)?),
        ("answers.csv", tables.answers_csv().map_err(table_error)?),
        ("models.csv", models_csv(study, &shown).map_err(table_error)?),
        ("study.tex", tables.latex()),
        (TABLES, tables.json().map_err(|e| table_error(e.into()))?),
        (DESCRIPTION, text.to_owned()),
    ] {
        out.write_bytes_atomic(name, text.as_bytes())?;
    }
    fathom_report::study::write(&out, &page(study, text, &tables, shown, failed))?;
    Ok(tables)
}

/// The curves of a finished cell, and its results with that for their depth table.
fn read(study: &StudyDescription, cell: Cell, options: &BootstrapOptions) -> Result<(FinishedCell, Results)> {
    let folder = Folder::open(study.folder(cell))?;
    let results = folder.results()?;
    let samples: Vec<Sample> = folder.samples()?;
    let curves = PromptCurves::of(&samples, results.model.layers)?;
    let curves = readable(curves, results.objective.as_ref(), results.model.vocab);
    let cell = FinishedCell::of_curves(curves, options);
    let depth = cell.depth.clone();
    Ok((cell, Results { depth, ..results }))
}

/// A sentence where cells predict different things, or read the stream with different lenses.
fn differently_read(shown: &BTreeMap<Cell, Results>) -> Vec<String> {
    let counted = |of: &dyn Fn(&Results) -> Option<String>| {
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        shown.values().filter_map(of).for_each(|what| *found.entry(what).or_default() += 1);
        let all: Vec<String> = found.iter().map(|(what, cells)| format!("{what} ({cells})")).collect();
        (all.len() > 1).then(|| all.join("; "))
    };
    let objectives = counted(&|results| Some(predicted(results.objective.as_ref())));
    let lenses = counted(&|results| {
        let probes = &results.probes;
        (probes.lens.is_some() || probes.settling.is_some())
            .then(|| LensInfo::kind(results.lens.as_ref()).to_owned())
    });
    let objectives = objectives.map(|all| {
        format!("the cells predict different things: {all}; a difference in depth may be one of the task")
    });
    let lenses = lenses.map(|all| {
        format!("the cells read the stream with different lenses: {all}; compare their depths by kl, overlap and settling within a lens alone")
    });
    objectives.into_iter().chain(lenses).collect()
}

fn table_error(source: std::io::Error) -> Error {
    Error::Io { what: "cannot write a table".to_owned(), source }
}

/// What the page of a study shows.
fn page(
    study: &StudyDescription,
    text: &str,
    tables: &Tables,
    mut shown: BTreeMap<Cell, Results>,
    failed: &BTreeMap<Cell, String>,
) -> StudyPage {
    let settings = provenance(tables, text, &shown, study);
    let cells = study.cells().map(|cell| StudyCell {
        model: cell.model,
        data: cell.data,
        results: shown.remove(&cell),
        reason: failed.get(&cell).cloned(),
        report: link(study, cell),
    });
    StudyPage {
        title: study.name.clone(),
        models: study.models.iter().map(model).collect(),
        data: study.data.iter().map(data).collect(),
        cells: cells.collect(),
        answers: tables.answers.iter().map(answer).collect(),
        tables: grids(tables),
        settings,
    }
}

fn model(model: &fathom_analysis::study::StudyModel) -> StudyModel {
    StudyModel {
        name: model.name.clone(),
        family: model.family.clone(),
        size: model.size,
        kind: model.kind.clone(),
    }
}

fn data(data: &fathom_analysis::study::StudyData) -> StudyData {
    StudyData {
        name: data.name.clone(),
        difficulty: data.difficulty.as_ref().map(|known| (known.label.clone(), known.order)),
        series: data.series.clone(),
    }
}

fn answer(answer: &fathom_analysis::answers::Answer) -> StudyAnswer {
    StudyAnswer {
        question: answer.about.clone(),
        summary: answer.summary.clone(),
        details: answer.sentences(true).map(str::to_owned).collect(),
        others: answer.sentences(false).map(str::to_owned).collect(),
    }
}

/// All cells in one table, then one for each group of a question.
fn grids(tables: &Tables) -> Vec<Table> {
    let grid = |title: String, rows: &mut dyn Iterator<Item = usize>| Table {
        title,
        headings: tables.heading(),
        rows: rows.map(|row| tables.line(&tables.rows[row])).collect(),
    };
    let mut all = vec![grid("Effective depth of all cells".to_owned(), &mut (0..tables.rows.len()))];
    if !tables.jobs.is_empty() {
        all.push(Table {
            title: "Beside measurements".to_owned(),
            headings: JobRow::HEADING.map(str::to_owned).to_vec(),
            rows: tables.jobs.iter().map(JobRow::line).collect(),
        });
    }
    for view in &tables.views {
        for Group { title, rows } in &view.groups {
            let title = format!("By {}: {title}", view.question.name());
            all.push(grid(title, &mut rows.iter().copied()));
        }
    }
    all
}

/// The path of a cell's report from the study's folder, with forward slashes as links have them.
fn link(study: &StudyDescription, cell: Cell) -> Option<String> {
    let folder = study.folder(cell);
    let path: PathBuf = folder.strip_prefix(&study.out).ok()?.join(fathom_results::folder::REPORT);
    if !study.out.join(&path).is_file() {
        return None;
    }
    let parts: Option<Vec<&str>> = path.iter().map(|part| part.to_str()).collect();
    Some(parts?.join("/"))
}

/// Enough to repeat the study.
fn provenance(
    tables: &Tables,
    text: &str,
    shown: &BTreeMap<Cell, Results>,
    study: &StudyDescription,
) -> Vec<(String, String)> {
    let BootstrapOptions { thresholds, resamples, seed } = tables.settings;
    let mut all = vec![
        ("fathom".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("intervals".to_owned(), tables.caption()),
        ("bootstrap".to_owned(), format!("{resamples} resamples, seed {seed}")),
        ("thresholds".to_owned(), json!(thresholds).to_string()),
    ];
    for (index, model) in study.models.iter().enumerate() {
        if let Some((_, results)) = shown.iter().find(|(cell, _)| cell.model == index) {
            let found = &results.model;
            let revision =
                found.revision.as_ref().map_or(String::new(), |revision| format!(", revision {revision}"));
            let said = format!(
                "{}: {}, {} layers, {} parameters, {}{revision}",
                found.id, found.architecture, found.layers, found.parameters, found.dtype
            );
            all.push((model.name.clone(), said));
        }
    }
    all.push((DESCRIPTION.to_owned(), text.to_owned()));
    all
}
