//! `fathom exit`.

use crate::args::Exit;
use crate::observer::Terminal;
use crate::output;
use anyhow::Result;
use bytesize::ByteSize;
use fathom::{ExitEstimate, ExitOutcome, exit_summary};
use serde_json::json;
use std::fmt::Write;

pub(crate) fn run(args: &Exit, threads: Option<u16>) -> Result<()> {
    let (terminal, exit) = (Terminal::default(), args.exit(threads));
    if args.run.dry_run {
        let estimate = exit.estimate(&terminal)?;
        return match args.run.json {
            true => output::print(&format!("{:#}\n", json!(estimate))),
            false => output::print(&plan(&estimate)),
        };
    }
    let ExitOutcome { folder, results, elapsed, .. } = exit.run(&terminal)?;
    if args.run.json {
        return output::print(&format!("{}\n", serde_json::to_string_pretty(&results)?));
    }
    output::print(&exit_summary(&results, output::style()))?;
    output::print(&output::places(&folder, elapsed))
}

/// What each stage will take.
fn plan(estimate: &ExitEstimate) -> String {
    let mut text = output::stages(&estimate.stages);
    let _ = write!(
        text,
        "\nabout {} in all\n{} of weights, and {} that may be used beside them; GMAC: 10^9 multiply-adds\n",
        output::duration(estimate.seconds()),
        ByteSize(estimate.weight_bytes).display().iec(),
        ByteSize(estimate.memory_bytes).display().iec(),
    );
    text
}
