//! `fathom study`: models on data sets as a file describes, cell by cell.

use crate::args::{Args, Command, Measure, StudyArgs};
use crate::{interrupt, measure, output, progress, prompts};
use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use fathom_model::source;
use fathom_probes::Sample;
use fathom_report::Folder;
use fathom_study::study::Cell;
use fathom_study::{Finished, Settings, Study, Tables};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) fn run(args: &StudyArgs) -> Result<()> {
    let path = args.file.display();
    let text = std::fs::read_to_string(&args.file)
        .map_err(|e| anyhow!("cannot read {path}: {e}; give the file that describes the study"))?;
    let study = Study::parse(&text, &path.to_string())?;
    let cells =
        cells(&study).map_err(|problems| anyhow!("{path} cannot be measured:\n{}", problems.join("\n")))?;
    if args.dry_run {
        let line =
            |(cell, _): &(Cell, Box<Measure>)| format!("fathom measure {}\n", shown(&study.arguments(*cell)));
        return output::print(&cells.iter().map(line).collect::<String>());
    }
    let failed = if args.tables_only { Vec::new() } else { measure_all(&study, &cells)? };
    let settings = args.uncertainty.settings(study.seed.unwrap_or(fathom_data::Options::SEED));
    put_together(&study, &settings)?;
    match failed.len() {
        0 => Ok(()),
        count => bail!(
            "{count} of {} cells failed ({}); the others are in the tables, and the same command tries these again",
            cells.len(),
            failed.join("; ")
        ),
    }
}

/// The command line of each cell, with all that is wrong with any of them at once.
fn cells(study: &Study) -> Result<Vec<(Cell, Box<Measure>)>, Vec<String>> {
    let mut problems = Vec::new();
    for model in &study.models {
        if let Err(error) = source::check(&model.id) {
            problems.push(format!("model '{}': {error}", model.name));
        }
    }
    let mut cells = Vec::new();
    for cell in study.cells() {
        let words = ["fathom".to_owned(), "measure".to_owned()].into_iter().chain(study.arguments(cell));
        match Args::try_parse_from(words).map(|args| args.command) {
            Ok(Command::Measure(args)) => cells.push((cell, args)),
            Ok(_) => {
                problems.push(format!("{}: the options are not those of a measurement", study.title(cell)))
            }
            Err(error) => {
                let first = error.to_string().lines().next().unwrap_or_default().to_owned();
                problems.push(first.trim_start_matches("error: ").to_owned());
            }
        }
    }
    // Sets from the hub are fetched when their turn comes; all others can be looked at now.
    let from_hub = |id: &str| {
        let entry = fathom_data::catalogue().iter().find(|e| Some(e.id) == id.split(':').next());
        entry.is_some_and(|e| e.hub.is_some()) && !id.contains("file=")
    };
    for data in study.data.iter().filter(|d| !from_hub(&d.id)) {
        let options = fathom_data::Options { limit: Some(1), ..fathom_data::Options::default() };
        if let Err(error) = prompts::with_hub(&data.id, &options, None) {
            problems.push(format!("data '{}': {error}", data.name));
        }
    }
    // An option that is wrong for one cell is wrong for all.
    let mut seen = std::collections::HashSet::new();
    problems.retain(|p| seen.insert(p.clone()));
    if problems.is_empty() { Ok(cells) } else { Err(problems) }
}

/// Measures what is not there yet; gives what failed. A cell that fails leaves the rest.
fn measure_all(study: &Study, cells: &[(Cell, Box<Measure>)]) -> Result<Vec<String>> {
    let mut failed = Vec::new();
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
        match measure_cell(study, *cell, args, &begun) {
            Ok(()) => {}
            Err(error) if interrupt::stopped() => {
                return Err(error.context("the study was interrupted; the same command goes on"));
            }
            Err(error) => {
                output::complain(&error);
                failed.push(format!("{}: {error}", study.title(*cell)));
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
    /// The arguments of `fathom measure`.
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

/// What a cell was begun with.
fn begun(study: &Study, cell: Cell) -> Option<Begun> {
    let text = std::fs::read_to_string(study.folder(cell).join(CELL)).ok()?;
    serde_json::from_str(&text).ok()
}

fn measure_cell(study: &Study, cell: Cell, args: &Measure, now: &Begun) -> Result<()> {
    // Samples of another command or other prompts would mix with these.
    let resume = begun(study, cell).is_some_and(|earlier| earlier == *now);
    let folder = Folder::create(study.folder(cell))?;
    if !resume {
        // Results of another command must not be taken for those of this one, whatever
        // happens before the first prompt.
        for name in ["run.json", "results.json"] {
            let path = folder.path().join(name);
            if path.exists() {
                std::fs::remove_file(&path).with_context(|| format!("cannot replace {}", path.display()))?;
            }
        }
    }
    folder.write_json_atomic(CELL, &serde_json::to_value(now)?)?;
    let args = Measure { resume, ..args.clone() };
    match measure::measure(&args)? {
        Some((_, _, Some(interrupted))) => bail!(interrupted),
        _ => Ok(()),
    }
}

/// Makes the tables of all cells that are there, prints them and writes them beside the cells.
fn put_together(study: &Study, settings: &Settings) -> Result<()> {
    let mut finished = BTreeMap::new();
    let working = progress::spinner("resampling prompts");
    // Tables need no data, which may be out of reach by now.
    let same = |cell: Cell| is_done(study, cell, |begun| begun.arguments == study.arguments(cell));
    for cell in study.cells().filter(|cell| same(*cell)) {
        match read(study, cell, settings) {
            Ok(said) => {
                finished.insert(cell, said);
            }
            Err(error) => output::note(&format!("{} is left out: {error:#}", study.title(cell))),
        }
    }
    let tables = Tables::of(study, &finished, settings);
    working.finish_and_clear();
    let out = Folder::create(&study.out)?;
    for (name, text) in [
        ("study.md", tables.markdown()),
        ("study.csv", tables.csv()?),
        ("answers.csv", tables.answers_csv()?),
        ("study.tex", tables.latex()),
        ("study.json", tables.json()?),
    ] {
        out.write_bytes_atomic(name, text.as_bytes())?;
    }
    output::print(&tables.markdown())?;
    output::print(&format!("\ntables: {}/study.md, .csv, .tex, .json\n", study.out.display()))
}

/// What a finished cell says.
fn read(study: &Study, cell: Cell, settings: &Settings) -> Result<Finished> {
    let folder = Folder::open(study.folder(cell))?;
    let samples: Vec<Sample> = folder.samples()?;
    Ok(Finished::of(&samples, folder.results()?.model.layers, settings)?)
}

/// Arguments as one would type them.
fn shown(arguments: &[String]) -> String {
    let plain = |a: &str| a.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./:,@+".contains(c));
    let word = |a: &String| if plain(a) { a.clone() } else { format!("'{}'", a.replace('\'', "'\\''")) };
    arguments.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_of_a_study_is_one_of_measure() {
        use clap::CommandFactory;
        let args = Args::command();
        let measure = args.find_subcommand("measure").unwrap();
        for option in fathom_study::study::OPTIONS {
            assert!(measure.get_arguments().any(|a| a.get_long() == Some(option)), "{option}");
        }
    }

    #[test]
    fn the_studies_that_come_along_are_sound() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../studies");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let study = Study::parse(&text, &path.display().to_string()).unwrap_or_else(|e| panic!("{e}"));
            for cell in study.cells() {
                let words =
                    ["fathom".to_owned(), "measure".to_owned()].into_iter().chain(study.arguments(cell));
                Args::try_parse_from(words).unwrap_or_else(|e| panic!("{}: {e}", study.title(cell)));
            }
        }
    }
}
