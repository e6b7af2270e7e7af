//! `fathom report`.

use crate::args::Report;
use crate::observer::Terminal;
use crate::{output, study};
use anyhow::Result;
use fathom::{Study, exit_summary, fit_summary, grow_summary, map_summary, prune_summary, table};

pub(crate) fn run(args: &Report) -> Result<()> {
    let terminal = Terminal::default();
    for folder in &args.folders {
        if Study::is_study(folder) {
            study::show(&Study::report(folder, &terminal)?, false)?;
            continue;
        }
        if fathom::is_pruning(folder) {
            output::print(&prune_summary(&fathom::prune_report(folder)?, output::style()))?;
        } else if fathom::is_exit(folder) {
            output::print(&exit_summary(&fathom::exit_report(folder)?, output::style()))?;
        } else if fathom::is_map(folder) {
            output::print(&map_summary(&fathom::map_report(folder)?, output::style()))?;
        } else if fathom::is_grown(folder) {
            output::print(&grow_summary(&fathom::grow_report(folder)?, output::style()))?;
        } else if fathom::is_fit(folder) {
            output::print(&fit_summary(&fathom::fit_report(folder)?, output::style()))?;
        } else {
            output::print(&table::summary(&fathom::report(folder)?, output::style()))?;
        }
        output::note(&format!("report: {}", folder.join("report.html").display()));
    }
    Ok(())
}
