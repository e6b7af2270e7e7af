//! The page of early exits.

use super::figures::figures;
use crate::html::settings;
use crate::text::{digits, significant};
use crate::{Result, page};
use fathom_results::{Estimated, ExitRule, Exiting, folder};
use minijinja::value::Serde;
use minijinja::{Value as Cell, context};
use serde_json::Value;

const TEMPLATE: &str = include_str!("../page/exit.html.jinja");

/// Renders the page from the results and the content of `run.json`.
///
/// # Errors
///
/// As [`html::render`](crate::html::render).
pub fn render(exiting: &Exiting, run: &Value) -> Result<String> {
    let provenance = serde_json::to_string_pretty(run)
        .map_err(|source| fathom_results::Error::Serialise { name: folder::RUN.to_owned(), source })?;
    let figures = figures(exiting).iter().map(page::figure).collect::<Result<Vec<Cell>>>()?;
    let warnings = run.pointer("/model/warnings").and_then(Value::as_array).into_iter().flatten();
    let page = context! {
        title => format!("{}: leaving early", exiting.model.id),
        model => Cell::from(Serde(&exiting.model)),
        fit => exiting.fit.to_string(),
        calibration => exiting.calibration.to_string(),
        heldout => exiting.heldout.to_string(),
        heldout_id => exiting.heldout.id.as_str(),
        epsilon => exiting.epsilon,
        delta => exiting.delta,
        answer => exiting.choice.reason.as_str(),
        full_nll => estimated(&exiting.full_nll),
        warnings => Cell::from(Serde(warnings.filter_map(Value::as_str).collect::<Vec<_>>())),
        figures => figures,
        rules => rules(exiting),
        certified => exiting.rules.iter().filter(|rule| rule.threshold.is_some()).count(),
        all_rules => exiting.rules.len(),
        costs => costs(exiting),
        work => work(exiting),
        settings => Cell::from(Serde(settings(run))),
        provenance => provenance,
    };
    page::render(folder::REPORT, TEMPLATE, page)
}

fn estimated(e: &Estimated) -> String {
    match e.interval {
        Some([low, high]) => {
            format!("{} ({} to {})", significant(e.value, 3), significant(low, 3), significant(high, 3))
        }
        None => digits(e.value),
    }
}

/// The certified rules that save most.
fn rules(exiting: &Exiting) -> Vec<Cell> {
    const SHOWN: usize = 20;
    let saving = |rule: &ExitRule| rule.measured.as_ref().map_or(f64::NEG_INFINITY, |m| m.net_saving.value);
    let mut order: Vec<usize> =
        (0..exiting.rules.len()).filter(|i| exiting.rules[*i].measured.is_some()).collect();
    order.sort_by(|a, b| saving(&exiting.rules[*b]).total_cmp(&saving(&exiting.rules[*a])));
    order.truncate(SHOWN);
    if let Some(chosen) = exiting.choice.rule.filter(|chosen| !order.contains(chosen)) {
        order.push(chosen);
    }
    let row = |i: &usize| {
        let rule = &exiting.rules[*i];
        let m = rule.measured.as_ref()?;
        let levels: Vec<String> = rule.levels.iter().map(usize::to_string).collect();
        Some(context! {
            chosen => exiting.choice.rule == Some(*i),
            head => rule.head.name(),
            confidence => rule.confidence.name(),
            levels => levels.join(", "),
            threshold => rule.threshold.map(|t| significant(t, 3)),
            risk => estimated(&m.risk_heldout),
            mean_level => significant(m.mean_level, 3),
            leaving => format!("{:.1}", 100.0 * (1.0 - m.shares.last().copied().unwrap_or(1.0))),
            nll => significant(m.nll, 4),
            saving => estimated(&m.net_saving),
        })
    };
    order.iter().filter_map(row).collect()
}

/// Million multiply-adds of a token.
fn costs(exiting: &Exiting) -> Cell {
    let millions = |macs: f64| significant(macs / 1e6, 3);
    let c = &exiting.costs;
    let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len().max(1) as f64;
    context! {
        full => millions(c.full()),
        layer => millions(mean(&c.layers)),
        key_values => millions(mean(&c.key_values)),
        head => millions(c.head),
        map => millions(c.map),
    }
}

fn work(exiting: &Exiting) -> Vec<Cell> {
    let row = |(stage, work): (&String, &fathom_results::Work)| {
        context! { stage => stage.as_str(), gmadds => format!("{:.1}", work.macs as f64 / 1e9) }
    };
    exiting.cost.iter().map(row).collect()
}
