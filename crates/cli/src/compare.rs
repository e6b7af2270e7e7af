//! `fathom compare`: two finished runs.

use crate::args::{Compare, optional};
use crate::observer::Terminal;
use crate::output;
use anyhow::Result;
use fathom::{Pairing, RunComparison};

pub(crate) fn run(args: &Compare, threads: Option<u16>) -> Result<()> {
    let comparison = RunComparison::of(args.a.as_path(), args.b.as_path())
        .pairing(if args.unpaired { Pairing::Unpaired } else { Pairing::Paired })
        .resamples(args.bootstrap.resamples.get())
        .seed(args.seed);
    let comparison = optional(comparison, &threads, |c, threads| c.threads((*threads).into()));
    let thresholds = args.bootstrap.threshold.iter();
    let comparison = thresholds.fold(comparison, |c, (rule, value)| c.threshold(*rule, *value));
    let compared = comparison.run(&Terminal::default())?;
    match args.json {
        true => output::print(&format!("{}\n", serde_json::to_string_pretty(&compared)?)),
        false => output::print(&compared.table()),
    }
}
