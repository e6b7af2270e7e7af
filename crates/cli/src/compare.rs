//! `fathom compare`: two finished runs.

use crate::args::Compare;
use crate::{depth, output, progress};
use anyhow::Result;
use fathom_study::{Pairing, Run, compare};
use std::path::Path;

pub(crate) fn run(args: &Compare) -> Result<()> {
    let (a, b) = (depth::open(&args.a)?, depth::open(&args.b)?);
    let name = |path: &Path, results: &fathom_report::Results| {
        format!("{} on {} ({})", results.model.id, results.data.id, path.display())
    };
    let names = [name(&args.a, &a.0), name(&args.b, &b.0)];
    let pairing = if args.unpaired { Pairing::Unpaired } else { Pairing::Paired };
    let working = progress::spinner("resampling prompts");
    let runs = [Run { name: &names[0], curves: &a.1 }, Run { name: &names[1], curves: &b.1 }];
    let compared = compare(runs[0], runs[1], pairing, &args.uncertainty.settings(args.seed));
    working.finish_and_clear();
    let compared = compared?;
    match args.json {
        true => output::print(&format!("{}\n", serde_json::to_string_pretty(&compared)?)),
        false => output::print(&compared.table()),
    }
}
