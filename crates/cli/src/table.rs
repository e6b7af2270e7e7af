//! `fathom table`: curves and depths of finished runs, one number a line.

use crate::args::{TableArgs, optional};
use crate::observer::Terminal;
use crate::output;
use anyhow::Result;
use fathom::{RunRow, RunTable};

pub(crate) fn run(args: &TableArgs, threads: Option<u16>) -> Result<()> {
    let table = RunTable::of(&args.folders).resamples(args.bootstrap.resamples.get()).seed(args.seed);
    let table = args.bootstrap.threshold.iter().fold(table, |t, (rule, value)| t.threshold(*rule, *value));
    let table = optional(table, &threads, |t, threads| t.threads((*threads).into()));
    let rows = table.run(&Terminal::default())?;
    match args.json {
        true => output::print(&format!("{}\n", serde_json::to_string_pretty(&rows)?)),
        false => output::print(&RunRow::csv(&rows)?),
    }
}
