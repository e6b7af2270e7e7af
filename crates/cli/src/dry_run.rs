//! `fathom measure --dry-run`: what a measurement will take.

use crate::{output, settings};
use anyhow::Result;
use bytesize::ByteSize;
use fathom_model::Model;
use fathom_probes::{Costs, Pair, Plan, Plans, Settings, Text, Watch, gradients, join};
use serde_json::json;
use std::fmt::Write;

/// Tokens of the texts on which speed is measured.
const TOKENS: usize = 24;

/// The plans of prompts and pairs together.
pub(crate) fn plans(
    model: &Model,
    texts: &[Text],
    baseline: &[Text],
    pairs: &[Pair],
    settings: &Settings,
) -> Result<Plans> {
    let mut plans = match texts {
        [] => Plans::new(),
        texts => fathom_probes::plan(model, texts, settings)?,
    };
    join(&mut plans, fathom_probes::plan_pairs(model, baseline, pairs, settings)?);
    Ok(plans)
}

/// Prints the plans with the time that they are likely to take.
pub(crate) fn print(
    model: &Model,
    texts: &[Text],
    pairs: &[Pair],
    settings: &Settings,
    plans: &Plans,
    as_json: bool,
) -> Result<()> {
    let calibrating = crate::progress::spinner("calibrating");
    let speeds = calibrate(model, texts, pairs, settings);
    calibrating.finish_and_clear();
    let speeds = speeds?;
    let rows: Vec<Row<'_>> = plans.iter().map(|(name, plan)| Row::new(name, plan, &speeds)).collect();
    match as_json {
        true => {
            output::print(&format!("{:#}\n", json!({"plan": rows.iter().map(Row::json).collect::<Vec<_>>()})))
        }
        false => output::print(&table(model, &rows, settings)),
    }
}

/// What the probes cost on short beginnings of a prompt and a pair.
fn calibrate(model: &Model, texts: &[Text], pairs: &[Pair], settings: &Settings) -> Result<Costs> {
    let mut settings = settings::only(settings, settings.probes.clone());
    settings.gradients.quadrature = gradients::Quadrature::Riemann(2);
    let watch = Watch::NOBODY;
    let mut ignore = |_| Ok::<(), std::convert::Infallible>(());
    let texts: Vec<Text> = texts.iter().take(1).map(short).collect();
    let mut costs = fathom_probes::measure(model, &texts, &settings, watch, &mut ignore)?;
    let pairs: Vec<Pair> = pairs.iter().take(1).map(short_pair).collect();
    fathom_probes::add(
        &mut costs,
        fathom_probes::measure_pairs(model, &[], &pairs, &settings, watch, &mut ignore)?,
    );
    Ok(costs)
}

fn short(text: &Text) -> Text {
    let tokens: Vec<u32> = text.tokens.iter().take(TOKENS).copied().collect();
    let positions = text.positions.iter().take(1).map(|_| tokens.len() / 2).collect();
    Text { tokens, positions, ..text.clone() }
}

fn short_pair(pair: &Pair) -> Pair {
    let mut short = pair.clone();
    short.tokens.truncate(TOKENS);
    short.asked.answer_tokens = 1;
    short
}

struct Row<'a> {
    name: &'a str,
    plan: &'a Plan,
    /// Seconds, where the probe ran on the short texts.
    seconds: Option<f64>,
}

impl<'a> Row<'a> {
    fn new(name: &'a str, plan: &'a Plan, speeds: &Costs) -> Self {
        let speed = speeds.get(name).filter(|c| c.macs > 0 && c.seconds > 0.0);
        let seconds = speed.map(|c| plan.work.macs as f64 * c.seconds / c.macs as f64);
        Self { name, plan, seconds }
    }

    fn json(&self) -> serde_json::Value {
        let work = self.plan.work;
        json!({
            "probe": self.name,
            "edits": work.edits,
            "runs": work.runs,
            "madds": work.macs,
            "madds_naive": work.macs_naive,
            "bytes": self.plan.bytes,
            "seconds": self.seconds,
        })
    }
}

fn table(model: &Model, rows: &[Row<'_>], settings: &Settings) -> String {
    let mut text = format!(
        "{:<13} {:>8} {:>8} {:>11} {:>11} {:>7} {:>10} {:>9}\n",
        "probe", "edits", "runs", "GMAC", "naive GMAC", "share", "memory", "time"
    );
    for Row { name, plan, seconds } in rows {
        let work = plan.work;
        let _ = writeln!(
            text,
            "{name:<13} {:>8} {:>8} {:>11.1} {:>11.1} {:>6.1}% {:>10} {:>9}",
            work.edits,
            work.runs,
            work.macs as f64 / 1e9,
            work.macs_naive as f64 / 1e9,
            100.0 * work.macs as f64 / work.macs_naive.max(1) as f64,
            ByteSize(plan.bytes).display().iec().to_string(),
            seconds.map_or("-".to_owned(), duration),
        );
    }
    let total: f64 = rows.iter().filter_map(|r| r.seconds).sum();
    let _ = write!(
        text,
        "\nabout {} in all, measured on texts of {TOKENS} tokens; {} of weights, and {} that may be used beside them\n\
         GMAC: thousand million multiply-adds; naive: every edit a full forward pass of its own\n",
        duration(total),
        ByteSize(model.bytes()).display().iec(),
        ByteSize(settings.memory).display().iec(),
    );
    text
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 0.95 => format!("{s:.1} s"),
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
