//! `fathom study`: models on data sets as a file describes, cell by cell.

use crate::args::{StudyArgs, command_line, optional};
use crate::observer::Terminal;
use crate::output;
use anyhow::{Result, bail};
use bytesize::ByteSize;
use fathom::{CellEstimate, CellState, Observer, PlannedCell, Study, StudyOutcome};

pub(crate) fn run(args: &StudyArgs, threads: Option<u16>) -> Result<()> {
    let study = Study::read(&args.file)?
        .overwrite(args.overwrite)
        .tables_only(args.tables_only)
        .resamples(args.bootstrap.resamples.get())
        .command(command_line());
    let study = optional(study, &threads, |s, threads| s.threads((*threads).into()));
    let thresholds = args.bootstrap.threshold.iter();
    let study = thresholds.fold(study, |s, (rule, value)| s.threshold(*rule, *value));
    let terminal = Terminal::default();
    if args.dry_run {
        study.measurements(&terminal)?;
        let line = |arguments: &Vec<String>| {
            let words: Vec<String> = arguments.iter().map(|word| fathom::shell_quoted(word)).collect();
            format!("fathom measure {}\n", words.join(" "))
        };
        let lines: String = study.commands().iter().map(line).collect();
        let job = |(kind, arguments): &(&str, Vec<String>)| {
            let words: Vec<String> = arguments.iter().map(|word| fathom::shell_quoted(word)).collect();
            format!("fathom {kind} {}\n", words.join(" "))
        };
        let jobs: String = study.job_commands().iter().map(job).collect();
        return output::print(&(lines + &jobs));
    }
    if args.estimate && !(args.plan || args.submit.is_some()) {
        bail!("--estimate is for --plan and --submit; `fathom measure --dry-run` estimates one cell");
    }
    let cell = match (&args.cell, args.cell_index) {
        (Some(cell), _) => Some(study.cell(cell)?),
        (None, index) => index.map(|index| index.saturating_add(1)),
    };
    if let Some(cell) = cell {
        let folder = study.measure_cell(cell, &terminal)?;
        return output::print(&format!("results: {}\n", folder.display()));
    }
    if args.plan || args.missing || args.submit.is_some() {
        return plan(args, &study, &terminal);
    }
    let outcome = study.run(&terminal)?;
    show(&outcome, args.json)?;
    let failed: Vec<String> = outcome.failed.iter().map(|(cell, error)| format!("{cell}: {error}")).collect();
    match failed.len() {
        0 => Ok(()),
        count => bail!(
            "{count} of {} cells failed ({}); the others are in the tables, and the same command tries these again",
            outcome.cells,
            failed.join("; ")
        ),
    }
}

/// Prints the cells, or what is to be done with them.
fn plan(args: &StudyArgs, study: &Study, terminal: &Terminal) -> Result<()> {
    let plan = if args.estimate { study.plan_with_estimates(terminal)? } else { study.plan(terminal)? };
    for cell in plan.iter().filter(|cell| cell.state == CellState::Other) {
        terminal.warn(&format!(
            "cell {}, {}, was measured with other options or other prompts; --overwrite measures it anew",
            cell.cell,
            cell.folder.display()
        ));
    }
    if let Some(scheduler) = args.submit {
        return output::print(&study.script(scheduler, &plan, terminal)?);
    }
    if args.missing {
        let missing = fathom::cell_ranges(&plan);
        if missing.is_empty() {
            terminal.note("all cells are finished");
            return Ok(());
        }
        return output::print(&format!("{missing}\n"));
    }
    if args.json {
        return output::print(&format!("{}\n", serde_json::to_string_pretty(&plan)?));
    }
    output::print(&listing(&plan))
}

/// The cells as a table.
fn listing(plan: &[PlannedCell]) -> String {
    let estimate = |cell: &PlannedCell| match cell.estimate {
        Some(CellEstimate { seconds, bytes }) => {
            format!("  about {}, {}", output::duration(seconds), ByteSize(bytes).display().iec())
        }
        None => String::new(),
    };
    let width =
        |name: fn(&PlannedCell) -> &str| plan.iter().map(|c| name(c).chars().count()).max().unwrap_or(0);
    let (models, data) = (width(|c| &c.model), width(|c| &c.data));
    let digits = plan.len().to_string().len();
    plan.iter()
        .map(|c| {
            let (number, state) = (c.cell, c.state.name());
            format!("{number:>digits$}  {state:<8}  {:models$}  {:data$}{}\n", c.model, c.data, estimate(c))
        })
        .collect()
}

/// Prints the tables, and where they are.
pub(crate) fn show(outcome: &StudyOutcome, as_json: bool) -> Result<()> {
    let StudyOutcome { tables, folder, .. } = outcome;
    if as_json {
        return output::print(&format!("{}\n", tables.json()?));
    }
    output::print(&tables.markdown())?;
    let out = folder.display();
    output::print(&format!("\ntables: {out}/study.md, .csv, .tex, .json\nreport: {out}/study.html\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use clap::Parser;

    /// A cell is the same measurement by the library as by the command line that `--dry-run` prints.
    #[test]
    fn cells_of_the_studies_in_the_repository_are_command_lines() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../studies");
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            // Recipes of the lab and sequences lie beside the descriptions.
            if file.extension().is_none_or(|ending| ending != "toml") {
                continue;
            }
            let study = Study::read(&file).unwrap();
            for command in study.commands() {
                let words = ["fathom", "measure"].map(str::to_owned).into_iter().chain(command);
                Args::try_parse_from(words).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            }
        }
    }

    #[test]
    fn every_option_of_a_study_is_the_same_option_of_measure() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("study.toml");
        let text = "name = 'x'\nprobes = 'all'\nlimit = 3\nseed = 9\nqa = 'qa'\n\
             options = { split = 'train', max-tokens = 50, skip-modes = 'future,local', skip-parts = 'attn', \
             positions = 2, baseline-data = 'builtin', sites = 'mlp,attn', baseline = 'feature', \
             quadrature = 'riemann:8', memory = '1GiB', expert-memory = '8GiB', lens = 'linear', lens-data = 'builtin', rng = 'python', device = 'gpu:1', \
             max-residues = 30, crop = 'random', \
             prefix = 'A', suffix = 'B' }\n\
             [[model]]\nid = 'smollm2-135m'\ndtype = 'bf16'\nrevision = 'main'\n\
             options = { objective = 'masked', mask-ratio = 0.2, mask-seed = 7 }\n\
             [[model]]\nid = 'smollm2-135m'\nname = 'each'\noptions = { mask = 'each' }\n[[data]]\nid = 'builtin'\n";
        std::fs::write(&file, text).unwrap();
        let study = Study::read(&file).unwrap().command(command_line());
        for option in fathom::STUDY_OPTIONS {
            assert!(text.contains(&format!("{option} =")), "{option} is not tried here");
        }
        let of_library = study.measurements(&fathom::Silent).unwrap();
        for (command, measurement) in study.commands().into_iter().zip(of_library) {
            let words = ["fathom", "measure"].map(str::to_owned).into_iter().chain(command);
            let Command::Measure(args) = Args::try_parse_from(words).unwrap().command else { panic!() };
            assert_eq!(args.measurement(None), measurement);
        }
    }
}
