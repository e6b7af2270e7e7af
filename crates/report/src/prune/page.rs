//! The page of a pruning.

use super::figures::figures;
use super::labels::{kinds, layers, name_of};
use crate::html::settings;
use crate::text::{digits, significant};
use crate::{Result, page};
use fathom_results::{Accuracy, Candidate, Estimated, Measured, Pruning, folder};
use minijinja::value::Serde;
use minijinja::{Value as Cell, context};
use serde_json::Value;

const TEMPLATE: &str = include_str!("../page/prune.html.jinja");

/// Renders the page from the results and the content of `run.json`.
///
/// # Errors
///
/// As [`html::render`](crate::html::render).
pub fn render(pruning: &Pruning, run: &Value) -> Result<String> {
    let provenance = serde_json::to_string_pretty(run)
        .map_err(|source| fathom_results::Error::Serialise { name: folder::RUN.to_owned(), source })?;
    let figures = figures(pruning).iter().map(page::figure).collect::<Result<Vec<Cell>>>()?;
    let methods = kinds(pruning).into_iter().map(|kind| (name_of(kind), kind.0.about())).collect::<Vec<_>>();
    let warnings = run.pointer("/model/warnings").and_then(Value::as_array).into_iter().flatten();
    let page = context! {
        title => format!("{}: which layers can go", pruning.model.id),
        model => Cell::from(Serde(&pruning.model)),
        unit => unit(pruning),
        calibration => pruning.calibration.to_string(),
        heldout => pruning.heldout.to_string(),
        heldout_id => pruning.heldout.id.as_str(),
        linear => pruning.candidates.iter().any(|c| c.replaced.is_some()),
        answer => pruning.choice.reason.as_str(),
        warnings => Cell::from(Serde(warnings.filter_map(Value::as_str).collect::<Vec<_>>())),
        full => full(pruning),
        accuracy => pruning.full.accuracy.is_some(),
        methods => Cell::from(Serde(methods)),
        figures => figures,
        candidates => rows(pruning),
        export_layers => pruning.export.as_ref().map(|e| layers(&e.removed)),
        export => pruning.export.as_ref().map(|e| Cell::from(Serde(e))),
        cost => costs(pruning),
        settings => Cell::from(Serde(settings(run))),
        provenance => provenance,
    };
    page::render(folder::REPORT, TEMPLATE, page)
}

fn unit(pruning: &Pruning) -> &'static str {
    match pruning.unit {
        fathom_results::SkipPart::Layer => "whole layers",
        fathom_results::SkipPart::Attn => "attention sublayers",
        fathom_results::SkipPart::Mlp => "MLP sublayers",
    }
}

fn estimated(e: &Estimated) -> String {
    match e.interval {
        Some([low, high]) => {
            format!("{} ({} to {})", significant(e.value, 3), significant(low, 3), significant(high, 3))
        }
        None => digits(e.value),
    }
}

/// Accuracy and its normalised form.
fn accuracy(accuracy: Option<&Accuracy>) -> [String; 2] {
    accuracy.map_or(Default::default(), |a| [&a.acc, &a.acc_norm].map(estimated))
}

fn full(pruning: &Pruning) -> Cell {
    let Measured { nll, perplexity, .. } = &pruning.full;
    context! {
        nll => estimated(nll),
        perplexity => significant(*perplexity, 4),
        accuracy => accuracy(pruning.full.accuracy.as_ref()).to_vec(),
        parameters => millions(pruning.full.parameters),
        macs => millions(pruning.full.macs_per_token),
        prefill => prefill(pruning, 0),
    }
}

fn millions(count: u64) -> String {
    significant(count as f64 / 1e6, 4)
}

/// Tokens per second of the prefill with that many units removed.
fn prefill(pruning: &Pruning, count: usize) -> String {
    let resources = &pruning.resources;
    let seconds = resources.prefill_seconds.get(&count).filter(|s| **s > 0.0);
    seconds.map_or(String::new(), |seconds| format!("{:.0}", resources.prefill_tokens as f64 / seconds))
}

fn rows(pruning: &Pruning) -> Vec<Cell> {
    let row = |(index, c): (usize, &Candidate)| {
        context! {
            chosen => pruning.choice.index == Some(index),
            method => name_of((c.method, c.replaced.is_some())),
            count => c.count(),
            layers => layers(&c.removed),
            rise => estimated(&c.nll_increase),
            perplexity => significant(c.measured.perplexity, 4),
            kl => significant(c.kl, 3),
            agreement => format!("{:.1}", 100.0 * c.top1_agreement),
            accuracy => accuracy(c.measured.accuracy.as_ref()).to_vec(),
            parameters => millions(c.measured.parameters),
            macs => millions(c.measured.macs_per_token),
            prefill => prefill(pruning, c.count()),
            unexplained => c.replaced.map(|r| format!("{:.1}", 100.0 * r.error)),
        }
    };
    pruning.candidates.iter().enumerate().map(row).collect()
}

fn costs(pruning: &Pruning) -> Vec<Cell> {
    let row = |(stage, work): (&String, &fathom_results::Work)| {
        let taken = pruning.resources.stages.get(stage).copied().unwrap_or_default();
        context! {
            stage => stage.as_str(),
            gmadds => format!("{:.1}", work.macs as f64 / 1e9),
            naive => format!("{:.1}", work.macs_naive as f64 / 1e9),
            share => format!("{:.0}", 100.0 * work.macs as f64 / work.macs_naive.max(1) as f64),
            seconds => format!("{:.1}", taken.seconds),
            peak => format!("{:.0}", taken.peak_bytes as f64 / 1_048_576.0),
        }
    };
    pruning.cost.iter().map(row).collect()
}
