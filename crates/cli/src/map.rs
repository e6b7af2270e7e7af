//! `fathom map`.

use crate::args::Map;
use crate::observer::Terminal;
use crate::output;
use anyhow::Result;
use bytesize::ByteSize;
use fathom::{MapEstimate, MapOutcome, map_summary};
use serde_json::json;
use std::fmt::Write;

pub(crate) fn run(args: &Map, threads: Option<u16>) -> Result<()> {
    let (terminal, map) = (Terminal::default(), args.map(threads));
    if args.run.dry_run {
        let estimate = map.estimate(&terminal)?;
        return match args.run.json {
            true => output::print(&format!("{:#}\n", json!(estimate))),
            false => output::print(&plan(&estimate)),
        };
    }
    let MapOutcome { folder, results, elapsed, .. } = map.run(&terminal)?;
    if args.run.json {
        return output::print(&format!("{}\n", serde_json::to_string_pretty(&results)?));
    }
    output::print(&map_summary(&results, output::style()))?;
    output::print(&output::places(&folder, elapsed))
}

/// What each stage will take.
fn plan(estimate: &MapEstimate) -> String {
    let mut text = output::stages(&estimate.stages);
    let _ = write!(
        text,
        "\nabout {} in all; {} source levels at a time\n{} of weights, and {} that may be used beside them; GMAC: 10^9 \
         multiply-adds\n",
        output::duration(estimate.seconds()),
        estimate.levels_at_once,
        ByteSize(estimate.weight_bytes).display().iec(),
        ByteSize(estimate.memory_bytes).display().iec(),
    );
    text
}
