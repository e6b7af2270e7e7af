//! `fathom grow`.

use crate::args::Grow;
use crate::observer::Terminal;
use crate::output;
use anyhow::Result;
use bytesize::ByteSize;
use fathom::{GrowEstimate, Grown, grow_summary};
use serde_json::json;
use std::fmt::Write;

pub(crate) fn run(args: &Grow, threads: Option<u16>) -> Result<()> {
    let (terminal, grow) = (Terminal::default(), args.grow(threads));
    if args.run.dry_run {
        let estimate = grow.estimate(&terminal)?;
        return match args.run.json {
            true => output::print(&format!("{:#}\n", json!(estimate))),
            false => output::print(&plan(&estimate)),
        };
    }
    let Grown { folder, model, results, elapsed, .. } = grow.run(&terminal)?;
    if args.run.json {
        return output::print(&format!("{}\n", serde_json::to_string_pretty(&results)?));
    }
    output::print(&grow_summary(&results, output::style()))?;
    output::print(&format!("\nmodel:   {}", model.display()))?;
    output::print(&output::places(&folder, elapsed))
}

/// What each stage will take.
fn plan(estimate: &GrowEstimate) -> String {
    let mut text = output::stages(&estimate.stages);
    let _ = write!(
        text,
        "\nabout {} in all, without singular values and effective depths; GMAC: 10^9 multiply-adds\n{} of weights; making \
         new layers takes {} beside them, and measuring may take {}\n",
        output::duration(estimate.seconds()),
        ByteSize(estimate.weight_bytes).display().iec(),
        ByteSize(estimate.making_bytes).display().iec(),
        ByteSize(estimate.memory_bytes).display().iec(),
    );
    text
}
