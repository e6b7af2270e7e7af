//! `fathom report`.

use crate::args::Report;
use crate::observer::Terminal;
use crate::{output, study};
use anyhow::{Context, Result, bail};
use fathom::{Study, exit_summary, fit_summary, grow_summary, map_summary, prune_summary, table};
use std::path::{Path, PathBuf};

pub(crate) fn run(args: &Report) -> Result<()> {
    for folder in &args.folders {
        let page = draw(folder, args.parquet)?;
        if args.open {
            let named = || format!("cannot open {} in a browser; open it by hand", page.display());
            open::that_detached(&page).with_context(named)?;
        }
    }
    Ok(())
}

/// Draws the page of a folder, prints what it says, and gives its path.
fn draw(folder: &Path, parquet: bool) -> Result<PathBuf> {
    if parquet && !fathom::is_measurement(folder) {
        bail!(
            "{} has no samples; --parquet is for the folders of measurements, also those in a study",
            folder.display()
        );
    }
    if Study::is_study(folder) {
        let outcome = Study::report(folder, &Terminal::default())?;
        study::show(&outcome, false)?;
        return Ok(outcome.folder.join("study.html"));
    }
    let style = output::style();
    let summary = if fathom::is_pruning(folder) {
        prune_summary(&fathom::prune_report(folder)?, style)
    } else if fathom::is_exit(folder) {
        exit_summary(&fathom::exit_report(folder)?, style)
    } else if fathom::is_map(folder) {
        map_summary(&fathom::map_report(folder)?, style)
    } else if fathom::is_grown(folder) {
        grow_summary(&fathom::grow_report(folder)?, style)
    } else if fathom::is_fit(folder) {
        fit_summary(&fathom::fit_report(folder)?, style)
    } else {
        let results = fathom::report(folder)?;
        if parquet {
            output::note(&format!("samples: {}", fathom::write_samples_parquet(folder)?.display()));
        }
        table::summary(&results, style)
    };
    output::print(&summary)?;
    let page = folder.join("report.html");
    output::note(&format!("report: {}", page.display()));
    Ok(page)
}
