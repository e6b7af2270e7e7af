//! `fathom depth`: the effective depth of finished runs, from their samples alone.

use crate::args::{DepthArgs, optional};
use crate::observer::Terminal;
use crate::output;
use anyhow::Result;
use fathom::{DepthAnalysis, GroupDepth, Uncertainty, table};
use serde_json::json;
use std::fmt::Write;

pub(crate) fn run(args: &DepthArgs, threads: Option<u16>) -> Result<()> {
    let terminal = Terminal::default();
    let mut all = Vec::new();
    for folder in &args.folders {
        let analysis = DepthAnalysis::of(folder.as_path())
            .by_group(args.by_group)
            .resamples(args.bootstrap.resamples.get())
            .seed(args.seed);
        let analysis = optional(analysis, &threads, |a, threads| a.threads((*threads).into()));
        let thresholds = args.bootstrap.threshold.iter();
        let analysis = thresholds.fold(analysis, |a, (rule, value)| a.threshold(*rule, *value));
        for GroupDepth { group, mut results, uncertainty } in analysis.run(&terminal)? {
            if !args.json {
                if let Some(group) = &group {
                    results.data.id = format!("{} [{group}]", results.data.id);
                }
                output::print(&table::depths(&results, output::style()))?;
                output::print(&format!("{}\n", certainty(&uncertainty)))?;
                continue;
            }
            all.push(json!({
                "model": results.model.id,
                "data": results.data.id,
                "group": group,
                "depth": results.depth,
                "uncertainty": uncertainty,
            }));
        }
    }
    if args.json {
        output::print(&format!("{:#}\n", json!(all)))?;
    }
    Ok(())
}

/// How the depth moves with the threshold and the number of prompts.
fn certainty(sure: &Uncertainty) -> String {
    let mut text = String::new();
    let swept: Vec<_> = sure.rules.iter().filter(|r| !r.sweep.is_empty()).collect();
    if !swept.is_empty() {
        text.push_str("\ndepth at other thresholds\n");
    }
    for rule in swept {
        let points = rule.sweep.iter().map(|p| {
            let value = p.value.map_or("none".to_owned(), short);
            format!("{}: {value}", p.threshold)
        });
        let _ = writeln!(text, "{:<16} {}", rule.rule.name(), points.collect::<Vec<_>>().join("  "));
    }
    if sure.rules.iter().any(|r| !r.by_prompts.is_empty()) {
        text.push_str("\nwidth of the 95 % interval, in layers, by the number of prompts\n");
    }
    for rule in sure.rules.iter().filter(|r| !r.by_prompts.is_empty()) {
        let widths = rule.by_prompts.iter().map(|w| {
            let width = w.width.map_or("none".to_owned(), short);
            format!("{}: {width}", w.prompts)
        });
        let _ = writeln!(text, "{:<16} {}", rule.rule.name(), widths.collect::<Vec<_>>().join("  "));
    }
    text
}

/// Two decimals without trailing zeros.
fn short(value: f64) -> String {
    format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}
