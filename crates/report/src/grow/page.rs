//! The page of a growth.

use super::figures::figures;
use super::rows;
use crate::html::settings;
use crate::text::significant;
use crate::{Result, page};
use fathom_results::{Growing, folder};
use minijinja::value::Serde;
use minijinja::{Value as Cell, context};
use serde_json::Value;

const TEMPLATE: &str = include_str!("../page/grow.html.jinja");

/// Renders the page from the results and the content of `run.json`.
///
/// # Errors
///
/// As [`html::render`](crate::html::render).
pub fn render(growing: &Growing, run: &Value) -> Result<String> {
    let provenance = serde_json::to_string_pretty(run)
        .map_err(|source| fathom_results::Error::Serialise { name: folder::RUN.to_owned(), source })?;
    let figures = figures(growing).iter().map(page::figure).collect::<Result<Vec<Cell>>>()?;
    let warnings = run.pointer("/model/warnings").and_then(Value::as_array).into_iter().flatten();
    let networks = growing.networks.iter().map(|n| {
        context! {
            matrix => n.matrix.trim_matches('.'),
            shape => format!("{} x {}", n.shape[0], n.shape[1]),
            rank => n.rank,
            rows => n.rows,
            mse => significant(n.mse, 3),
            copy => significant(n.mse_copy, 3),
            mean => significant(n.mse_mean, 3),
        }
    });
    let cost = growing.cost.iter().map(|(stage, work)| {
        context! { stage => stage.as_str(), gmadds => format!("{:.1}", work.macs as f64 / 1e9) }
    });
    let all = growing.resources.get("all");
    let page = context! {
        title => format!("{} grown by {}", growing.model.id, growing.method.name()),
        model => Cell::from(Serde(&growing.model)),
        method => growing.method.name(),
        about => growing.method.about(),
        list => growing.layer_list(),
        heldout => growing.heldout.to_string(),
        answer => growing.conclusion.as_str(),
        warnings => Cell::from(Serde(warnings.filter_map(Value::as_str).collect::<Vec<_>>())),
        rows => Cell::from(Serde(rows(growing))),
        depth => !growing.before.depth.is_empty(),
        path => growing.path.as_str(),
        megabytes => format!("{:.1}", growing.bytes as f64 / 1e6),
        networks => networks.collect::<Vec<_>>(),
        figures => figures,
        cost => cost.collect::<Vec<_>>(),
        seconds => all.map(|all| format!("{:.0}", all.seconds)),
        peak => all.map(|all| format!("{:.0}", all.peak_bytes as f64 / 1_048_576.0)),
        settings => Cell::from(Serde(settings(run))),
        provenance => provenance,
    };
    page::render(folder::REPORT, TEMPLATE, page)
}
