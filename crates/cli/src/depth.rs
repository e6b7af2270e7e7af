//! `fathom depth`: what finished runs say of the effective depth, from their samples alone.

use crate::args::DepthArgs;
use crate::{output, progress};
use anyhow::{Context, Result, bail};
use fathom_depth::Depth;
use fathom_probes::Sample;
use fathom_report::{Folder, Results};
use fathom_study::{PromptCurves, Settings, Uncertainty, uncertainty};
use serde_json::json;
use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

pub(crate) fn run(args: &DepthArgs) -> Result<()> {
    let settings = args.uncertainty.settings(args.seed);
    let mut all = Vec::new();
    for path in &args.folders {
        let (results, samples) = read(path)?;
        for (group, samples) in groups(samples, args.by_group) {
            let curves = curves(path, &results, &samples)?;
            let working = progress::spinner("resampling prompts");
            let (rows, sure) = said(&curves, &settings);
            working.finish_and_clear();
            if args.json {
                let (model, data) = (&results.model.id, &results.data.id);
                all.push(
                    json!({"model": model, "data": data, "group": group, "depth": rows, "uncertainty": sure}),
                );
            } else {
                show(&results, group.as_deref(), &samples, rows, &sure)?;
            }
        }
    }
    if args.json {
        output::print(&format!("{:#}\n", json!(all)))?;
    }
    Ok(())
}

/// The prompts of a run together, or group by group in the order of their first prompts.
fn groups(samples: Vec<Sample>, apart: bool) -> Vec<(Option<String>, Vec<Sample>)> {
    let mut groups: Vec<(Option<String>, Vec<Sample>)> = Vec::new();
    for sample in samples.into_iter().filter(|s| s.asked.is_none()) {
        let name = sample.group.clone().filter(|_| apart);
        match groups.iter_mut().find(|g| g.0 == name) {
            Some(group) => group.1.push(sample),
            None => groups.push((name, vec![sample])),
        }
    }
    groups
}

fn show(
    results: &Results,
    group: Option<&str>,
    samples: &[Sample],
    rows: Vec<Depth>,
    sure: &Uncertainty,
) -> Result<()> {
    let mut results = Results { depth: serde_json::from_value(json!(rows))?, ..results.clone() };
    if let Some(group) = group {
        results.data.id = format!("{} [{group}]", results.data.id);
    }
    (results.data.prompts, results.data.pairs) = (sure.prompts, 0);
    // A resumed run has several lines of one prompt.
    let lengths: HashMap<&str, usize> = samples.iter().map(|s| (s.id.as_str(), s.tokens.len())).collect();
    results.data.tokens = lengths.values().sum::<usize>() as u64;
    output::print(&fathom_report::table::depths(&results, output::style()))?;
    output::print(&format!("{}\n", table(sure)))
}

/// A finished run: its results, and the curves of its prompts.
pub(crate) fn open(path: &Path) -> Result<(Results, PromptCurves)> {
    let (results, samples) = read(path)?;
    let curves = curves(path, &results, &samples)?;
    Ok((results, curves))
}

fn read(path: &Path) -> Result<(Results, Vec<Sample>)> {
    let folder = Folder::open(path)?;
    let samples: Vec<Sample> = folder.samples()?;
    if samples.iter().all(|s| s.asked.is_some()) {
        bail!("{} has no prompts, only question-answer pairs; measure prompts as well", path.display());
    }
    Ok((folder.results()?, samples))
}

fn curves(path: &Path, results: &Results, samples: &[Sample]) -> Result<PromptCurves> {
    PromptCurves::of(samples, results.model.layers)
        .with_context(|| format!("{} cannot be used", path.display()))
}

/// The depth table, and how sure it is.
pub(crate) fn said(curves: &PromptCurves, settings: &Settings) -> (Vec<Depth>, Uncertainty) {
    (fathom_study::curves::rows_of(curves, settings), uncertainty(curves, settings))
}

/// How the depth moves with the threshold and the number of prompts.
fn table(sure: &Uncertainty) -> String {
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

/// Two decimals, and none where they say nothing.
fn short(value: f64) -> String {
    format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}
