//! `fathom study`: models on data sets as a file describes, cell by cell.

mod cells;
mod together;

use crate::args::{Args, Command, Measure, StudyArgs};
use crate::{output, prompts};
use anyhow::{Result, anyhow, bail};
use clap::Parser;
use fathom_model::source;
use fathom_study::Study;
use fathom_study::study::Cell;
use std::collections::BTreeMap;
pub(crate) use together::{is_study, report};

pub(crate) fn run(args: &StudyArgs) -> Result<()> {
    let path = args.file.display();
    let text = std::fs::read_to_string(&args.file)
        .map_err(|e| anyhow!("cannot read {path}: {e}; give the file that describes the study"))?;
    let study = Study::parse(&text, &path.to_string())?;
    let cells = commands(&study)
        .map_err(|problems| anyhow!("{path} cannot be measured:\n{}", problems.join("\n")))?;
    if args.dry_run {
        let line =
            |(cell, _): &(Cell, Box<Measure>)| format!("fathom measure {}\n", shown(&full(&study, *cell)));
        return output::print(&cells.iter().map(line).collect::<String>());
    }
    let failed =
        if args.tables_only { BTreeMap::new() } else { cells::measure(&study, &cells, args.overwrite)? };
    let settings = args.uncertainty.settings(study.seed.unwrap_or(fathom_data::Options::SEED));
    let tables = together::put(&study, &text, &failed, &settings)?;
    together::show(&study, &tables, args.json)?;
    let said: Vec<String> =
        failed.iter().map(|(cell, error)| format!("{}: {error}", study.title(*cell))).collect();
    match said.len() {
        0 => Ok(()),
        count => bail!(
            "{count} of {} cells failed ({}); the others are in the tables, and the same command tries these again",
            cells.len(),
            said.join("; ")
        ),
    }
}

/// The command line of each cell, with all that is wrong with any of them at once.
fn commands(study: &Study) -> Result<Vec<(Cell, Box<Measure>)>, Vec<String>> {
    let mut problems = Vec::new();
    for model in &study.models {
        if let Err(error) = source::check(&model.id) {
            problems.push(format!("model '{}': {error}", model.name));
        }
    }
    let mut cells = Vec::new();
    for cell in study.cells() {
        let words = ["fathom".to_owned(), "measure".to_owned()].into_iter().chain(full(study, cell));
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

/// The arguments of `fathom measure` that measure a cell into its folder.
fn full(study: &Study, cell: Cell) -> Vec<String> {
    let out = format!("--out={}", study.folder(cell).display());
    [out].into_iter().chain(study.arguments(cell)).collect()
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
                let words = ["fathom".to_owned(), "measure".to_owned()].into_iter().chain(full(&study, cell));
                Args::try_parse_from(words).unwrap_or_else(|e| panic!("{}: {e}", study.title(cell)));
            }
        }
    }
}
