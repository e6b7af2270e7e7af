//! `fathom report`.

use crate::args::Report;
use crate::observer::Terminal;
use crate::{output, study};
use anyhow::Result;
use fathom::{Study, table};

pub(crate) fn run(args: &Report) -> Result<()> {
    let terminal = Terminal::default();
    for folder in &args.folders {
        if Study::is_study(folder) {
            study::show(&Study::report(folder, &terminal)?, false)?;
            continue;
        }
        let results = fathom::report(folder)?;
        output::print(&table::summary(&results, output::style()))?;
        output::note(&format!("report: {}", folder.join("report.html").display()));
    }
    Ok(())
}
