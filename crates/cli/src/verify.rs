//! `fathom verify`.

use crate::args::{DtypeArg, Verify, optional};
use crate::observer::Terminal;
use crate::output;
use anyhow::{Result, bail};
use fathom::{Device, GoldenRow, Limit, PrecisionReport, Verification};
use std::fmt::Write;

pub(crate) fn run(args: &Verify, threads: Option<u16>) -> Result<()> {
    let verification =
        Verification::of(args.model.model.as_str()).dtype(args.model.dtype.into()).device(args.model.device);
    let verification =
        optional(verification, &args.model.revision, |v, revision| v.revision(revision.as_str()));
    let verification =
        optional(verification, &args.model.expert_memory, |v, memory| v.expert_memory(memory.as_u64()));
    let verification = optional(verification, &threads, |v, threads| v.threads((*threads).into()));
    let terminal = Terminal::default();
    match &args.golden {
        Some(file) => {
            let rows = verification.golden(file, &terminal)?;
            output::print(&golden(&rows))?;
            match rows.iter().filter(|r| !r.passes()).count() {
                0 => Ok(()),
                failed => bail!(
                    "{failed} of {} quantities differ from {} by more than they may",
                    rows.len(),
                    file.display()
                ),
            }
        }
        None if args.model.dtype == DtypeArg::F32 && args.model.device == Device::Cpu => {
            bail!(
                "f32 on the processor leaves nothing to compare; give --dtype bf16, a --device, or --golden FILE with \
                 reference values"
            )
        }
        None => {
            let report = verification.precision(&args.data, args.limit, &terminal)?;
            output::print(&precision(&report, &column(args)))?;
            match report.depths.iter().filter(|row| !row.agrees()).count() {
                0 => Ok(()),
                count => bail!(
                    "{count} of {} rules move by more than {} layer; measure this model in f32 on the processor",
                    report.depths.len(),
                    PrecisionReport::LAYERS
                ),
            }
        }
    }
}

fn golden(rows: &[GoldenRow]) -> String {
    let width = rows.iter().map(|r| r.name.len()).max().unwrap_or(0);
    let mut text = format!(
        "{:<width$}  {:>6}  {:>16}  {:>5}  {:>14}\n",
        "quantity", "values", "worst difference", "at", "limit"
    );
    for r in rows {
        let limit = match r.limit {
            Limit::Equal => "equal".to_owned(),
            Limit::Absolute(x) => format!("{x:.0e} absolute"),
            Limit::Relative { share: x, .. } => format!("{x:.0e} relative"),
        };
        let verdict = if r.passes() { "ok" } else { "DIFFERS" };
        let _ = writeln!(
            text,
            "{:<width$}  {:>6}  {:>16.2e}  {:>5}  {:>14}  {verdict}",
            r.name, r.values, r.worst, r.place, limit
        );
    }
    text
}

/// What is compared with f32 on the processor, as the head of a column.
fn column(args: &Verify) -> String {
    match args.model.device {
        Device::Cpu => "bf16".to_owned(),
        device => device.to_string(),
    }
}

/// How far each curve moves, in shares of its largest value, and each depth.
fn precision(report: &PrecisionReport, other: &str) -> String {
    let mut text =
        format!("{:<16}  {:>12}  {:>12}  {:>5}  {:>16}\n", "curve", "f32", other, "layer", "of its largest");
    for c in &report.curves {
        let _ = writeln!(
            text,
            "{:<16}  {:>12.5}  {:>12.5}  {:>5}  {:>16.1e}",
            c.curve.name(),
            c.exact,
            c.rounded,
            c.layer,
            c.share
        );
    }
    let _ = write!(text, "\n{:<16}  {:>8}  {:>8}  {:>8}\n", "rule", "f32", other, "moved by");
    let shown = |value: Option<f64>| value.map_or("none".to_owned(), |value| format!("{value:.2}"));
    for row in &report.depths {
        let verdict = if row.agrees() { "ok" } else { "DIFFERS" };
        let (exact, rounded) = (shown(row.exact.value), shown(row.rounded.value));
        let (name, by) = (row.exact.rule.name(), shown(row.by()));
        let _ = writeln!(text, "{name:<16}  {exact:>8}  {rounded:>8}  {by:>8}  {verdict}");
    }
    text
}
