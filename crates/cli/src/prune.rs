//! `fathom prune`.

use crate::args::Prune;
use crate::observer::Terminal;
use crate::output;
use anyhow::Result;
use bytesize::ByteSize;
use fathom::{PruneEstimate, Pruned, prune_summary};
use serde_json::json;
use std::fmt::Write;

pub(crate) fn run(args: &Prune, threads: Option<u16>) -> Result<()> {
    let terminal = Terminal::default();
    if let Some(export) = &args.verify {
        let verified = fathom::verify_export(export, threads.map(Into::into), &terminal)?;
        return output::print(&match verified.largest_difference {
            0.0 => format!("the logits are equal bit for bit at {} tokens\n", verified.tokens),
            most => format!("the logits differ by at most {most:.1e} at {} tokens\n", verified.tokens),
        });
    }
    let prune = args.prune(threads);
    if args.run.dry_run {
        let estimate = prune.estimate(&terminal)?;
        return match args.run.json {
            true => output::print(&format!("{:#}\n", json!(estimate))),
            false => output::print(&plan(&estimate)),
        };
    }
    present(&prune.run(&terminal)?, args.run.json)
}

fn present(pruned: &Pruned, as_json: bool) -> Result<()> {
    let Pruned { folder, results, elapsed, .. } = pruned;
    if as_json {
        return output::print(&format!("{}\n", serde_json::to_string_pretty(results)?));
    }
    output::print(&prune_summary(results, output::style()))?;
    output::print(&output::places(folder, *elapsed))
}

/// What each stage will take.
fn plan(estimate: &PruneEstimate) -> String {
    let mut text = output::stages(&estimate.stages);
    let _ = write!(
        text,
        "\nat most about {} in all, without timing and export; searches take a fraction of that where candidates are dropped early\n\
         {} of weights, and {} that may be used beside them; GMAC: 10^9 multiply-adds\n",
        output::duration(estimate.seconds()),
        ByteSize(estimate.weight_bytes).display().iec(),
        ByteSize(estimate.memory_bytes).display().iec(),
    );
    text
}
