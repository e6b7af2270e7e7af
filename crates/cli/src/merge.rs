//! `fathom merge`: the shards of a measurement put together.

use crate::args::{MergeArgs, command_line, optional};
use crate::observer::Terminal;
use crate::output;
use anyhow::Result;
use fathom::{Merge, table};

pub(crate) fn run(args: &MergeArgs, threads: Option<u16>) -> Result<()> {
    let merge = Merge::new(&args.shards, &args.out)
        .overwrite(args.overwrite)
        .parquet(args.parquet)
        .command(command_line());
    let merge = optional(merge, &threads, |m, threads| m.threads((*threads).into()));
    let merged = merge.run(&Terminal::default())?;
    if args.json {
        return output::print(&format!("{}\n", serde_json::to_string_pretty(&merged.results)?));
    }
    output::print(&table::summary(&merged.results, output::style()))?;
    let folder = merged.folder.display();
    output::print(&format!("\nresults: {folder}\nreport:  {folder}/report.html\n"))
}
