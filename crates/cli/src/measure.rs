//! `fathom measure`.

use crate::args::Measure;
use crate::observer::Terminal;
use crate::output;
use anyhow::{Result, bail};
use bytesize::ByteSize;
use fathom::{Estimate, Measured, table};
use serde_json::json;
use std::fmt::Write;

pub(crate) fn run(args: &Measure, threads: Option<u16>) -> Result<()> {
    let measurement = args.measurement(threads);
    let terminal = Terminal::default();
    if args.run.dry_run {
        let estimate = measurement.estimate(&terminal)?;
        return match args.run.json {
            true => output::print(&format!("{:#}\n", json!(estimate))),
            false => output::print(&plan(&estimate)),
        };
    }
    let measured = measurement.run(&terminal)?;
    present(&measured, args.run.json)?;
    measured.cancelled.map_or(Ok(()), |how| bail!(how))
}

fn present(measured: &Measured, as_json: bool) -> Result<()> {
    let Measured { folder, results, elapsed, .. } = measured;
    if as_json {
        return output::print(&format!("{}\n", serde_json::to_string_pretty(results)?));
    }
    output::print(&table::summary(results, output::style()))?;
    output::print(&format!(
        "\nresults: {}\nreport:  {}\ntime:    {:.1} s\n",
        folder.display(),
        folder.join("report.html").display(),
        elapsed.as_secs_f64()
    ))
}

/// What each probe will take.
fn plan(estimate: &Estimate) -> String {
    let mut text = format!(
        "{:<13} {:>8} {:>8} {:>11} {:>11} {:>7} {:>10} {:>9}\n",
        "probe", "edits", "runs", "GMAC", "naive GMAC", "share", "memory", "time"
    );
    for p in &estimate.probes {
        let _ = writeln!(
            text,
            "{:<13} {:>8} {:>8} {:>11.1} {:>11.1} {:>6.1}% {:>10} {:>9}",
            p.probe,
            p.edits,
            p.runs,
            p.macs as f64 / 1e9,
            p.macs_naive as f64 / 1e9,
            100.0 * p.macs as f64 / p.macs_naive.max(1) as f64,
            ByteSize(p.bytes).display().iec().to_string(),
            p.seconds.map_or("-".to_owned(), output::duration),
        );
    }
    let _ = write!(
        text,
        "\nabout {} in all, measured on texts of {} tokens; {} of weights, and {} that may be used beside them\n\
         GMAC: 10^9 multiply-adds; naive: one full forward pass per edit\n",
        output::duration(estimate.seconds()),
        Estimate::TOKENS,
        ByteSize(estimate.weight_bytes).display().iec(),
        ByteSize(estimate.memory_bytes).display().iec(),
    );
    text
}
