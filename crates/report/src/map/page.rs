//! The page of maps between models.

use super::figures::figures;
use super::unit;
use crate::html::settings;
use crate::text::significant;
use crate::{Result, page};
use fathom_results::{Estimated, Mapping, folder};
use minijinja::value::Serde;
use minijinja::{Value as Cell, context};
use serde_json::Value;

const TEMPLATE: &str = include_str!("../page/map.html.jinja");

/// Renders the page from the results and the content of `run.json`.
///
/// # Errors
///
/// As [`html::render`](crate::html::render).
pub fn render(mapping: &Mapping, run: &Value) -> Result<String> {
    let provenance = serde_json::to_string_pretty(run)
        .map_err(|source| fathom_results::Error::Serialise { name: folder::RUN.to_owned(), source })?;
    let figures = figures(mapping).iter().map(page::figure).collect::<Result<Vec<Cell>>>()?;
    let warnings = ["/model/warnings", "/target/warnings"];
    let warnings = warnings.iter().filter_map(|place| run.pointer(place)?.as_array()).flatten();
    let slope = |slope: &Estimated| {
        let interval = slope.interval.map(|ends| ends.map(|end| significant(end, 3)));
        let interval = interval.map_or(String::new(), |[low, high]| format!(" ({low} to {high})"));
        format!("{}{interval}", significant(slope.value, 3))
    };
    let sources = mapping.sources.as_ref();
    let page = context! {
        title => format!("{} to {}: maps between layers", mapping.source.id, mapping.target.id),
        source => Cell::from(Serde(&mapping.source)),
        target => Cell::from(Serde(&mapping.target)),
        unit => unit(mapping),
        differences => mapping.differences,
        fit => mapping.fit.to_string(),
        heldout => mapping.heldout.to_string(),
        answer => mapping.conclusion.as_str(),
        answer_of_sources => sources.map(|sources| sources.conclusion.as_str()),
        slope => slope(&mapping.slope),
        slope_of_sources => sources.map(|sources| slope(&sources.slope)),
        warnings => Cell::from(Serde(warnings.filter_map(Value::as_str).collect::<Vec<_>>())),
        figures => figures,
        cost => costs(mapping),
        seconds => mapping.resources.get("all").map(|all| format!("{:.0}", all.seconds)),
        peak => mapping.resources.get("all").map(|all| format!("{:.0}", all.peak_bytes as f64 / 1_048_576.0)),
        settings => Cell::from(Serde(settings(run))),
        provenance => provenance,
    };
    page::render(folder::REPORT, TEMPLATE, page)
}

fn costs(mapping: &Mapping) -> Vec<Cell> {
    let row = |(stage, work): (&String, &fathom_results::Work)| {
        context! { stage => stage.as_str(), gmadds => format!("{:.1}", work.macs as f64 / 1e9) }
    };
    mapping.cost.iter().map(row).collect()
}
