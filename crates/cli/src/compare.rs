//! `fathom compare`: finished runs.

use crate::args::{Compare, optional};
use crate::observer::Terminal;
use crate::output;
use anyhow::Result;
use fathom::{Pairing, RunComparison};

pub(crate) fn run(args: &Compare, threads: Option<u16>) -> Result<()> {
    let (first, more) = (&args.others[0], &args.others[1..]);
    let comparison = RunComparison::of(args.a.as_path(), first.as_path())
        .pairing(if args.unpaired { Pairing::Unpaired } else { Pairing::Paired })
        .resamples(args.bootstrap.resamples.get())
        .seed(args.seed);
    let comparison = more.iter().fold(comparison, |c, other| c.and(other.as_path()));
    let comparison = optional(comparison, &threads, |c, threads| c.threads((*threads).into()));
    let thresholds = args.bootstrap.threshold.iter();
    let comparison = thresholds.fold(comparison, |c, (rule, value)| c.threshold(*rule, *value));
    let terminal = Terminal::default();
    let (json, table) = match more.is_empty() {
        true => {
            let compared = comparison.run(&terminal)?;
            (serde_json::to_string_pretty(&compared)?, compared.table())
        }
        false => {
            let compared = comparison.run_all(&terminal)?;
            (serde_json::to_string_pretty(&compared)?, compared.table())
        }
    };
    output::print(&if args.json { json + "\n" } else { table })
}
