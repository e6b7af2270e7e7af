//! The page of a fit.

use super::figures::figures;
use super::table::{inputs, quality, short, with_interval};
use crate::html::settings;
use crate::{Result, page};
use fathom_results::{Fitted, Fitting, Parameter, folder};
use minijinja::value::Serde;
use minijinja::{Value as Cell, context};
use serde_json::Value;

const TEMPLATE: &str = include_str!("../page/fit.html.jinja");

/// Renders the page from the results and the content of `run.json`.
///
/// # Errors
///
/// As [`html::render`](crate::html::render).
pub fn render(fitting: &Fitting, run: &Value) -> Result<String> {
    let provenance = serde_json::to_string_pretty(run)
        .map_err(|source| fathom_results::Error::Serialise { name: folder::RUN.to_owned(), source })?;
    let figures = figures(fitting).iter().map(page::figure).collect::<Result<Vec<Cell>>>()?;
    let columns: Vec<(&String, &String)> = fitting.data.columns.iter().collect();
    let page = context! {
        title => format!("{}: {}", fitting.law.name(), fitting.data.file),
        law => fitting.law.name(),
        about => fitting.law.about(),
        expression => fitting.expression.as_str(),
        source => fitting.source.as_deref(),
        data => Cell::from(Serde(&fitting.data)),
        columns => Cell::from(Serde(columns)),
        warnings => Cell::from(Serde(&fitting.warnings)),
        fits => fitting.fits().map(|(name, fit)| one(name, fit)).collect::<Vec<Cell>>(),
        figures => figures,
        settings => Cell::from(Serde(settings(run))),
        provenance => provenance,
    };
    page::render(folder::REPORT, TEMPLATE, page)
}

fn one(name: Option<&str>, fit: &Fitted) -> Cell {
    let predictions: Vec<Cell> = fit
        .predictions
        .iter()
        .map(|p| {
            let value = Parameter { value: p.value, interval: p.interval, ..Parameter::default() };
            context! {
                inputs => inputs(&p.inputs),
                derived => inputs(&p.derived),
                value => with_interval(&value),
                error => p.stderr.map(|error| short(error, 3)),
            }
        })
        .collect();
    context! {
        name => name,
        quality => quality(fit),
        regression => fit.regression.is_some(),
        published => fit.published.as_ref().map(|p| p.source.as_str()),
        parameters => parameters(fit),
        constants => inputs(&fit.constants),
        baseline => fit.baseline.as_ref().map(|b| format!("{}; {}", b.expression, inputs(&b.parameters))),
        scan_names => fit.scan.iter().find_map(|p| p.parameters.as_ref()).map(|p| p.iter().map(|(n, _)| n.to_owned()).collect::<Vec<_>>()),
        scan => scan(fit),
        predictions => predictions,
        optimal => fit.optimal.as_ref().map(|optimal| {
            let values: Vec<(&str, String)> = optimal.values.iter().map(|(n, v)| (n, with_interval(v))).collect();
            let row = |(index, row): (usize, &Vec<f64>)| {
                let cells: Vec<String> = row.iter().map(|v| short(*v, 5)).collect();
                context! { best => optimal.table.best == Some(index), cells => Cell::from(Serde(cells)) }
            };
            context! {
                inputs => inputs(&optimal.inputs),
                values => Cell::from(Serde(values)),
                headings => Cell::from(Serde(&optimal.table.headings)),
                rows => optimal.table.rows.iter().enumerate().map(row).collect::<Vec<Cell>>(),
                note => optimal.note.as_str(),
            }
        }),
    }
}

fn parameters(fit: &Fitted) -> Vec<Cell> {
    let number = |value: Option<f64>| value.map_or(String::new(), |v| short(v, 4));
    let row = |(name, p): (&str, &Parameter)| {
        context! {
            name => name,
            value => short(p.value, 6),
            error => number(p.stderr),
            interval => p.interval.map_or(String::new(), |[low, high]| {
                format!("{} to {}", short(low, 4), short(high, 4))
            }),
            t => number(p.t),
            p => number(p.p),
            vif => number(fit.regression.as_ref().and_then(|r| r.vif.get(name).copied())),
            published => number(fit.published.as_ref().and_then(|p| p.parameters.get(name).copied())),
        }
    };
    fit.parameters.iter().map(row).collect()
}

fn scan(fit: &Fitted) -> Vec<Cell> {
    let names: Vec<&str> = fit
        .scan
        .iter()
        .find_map(|p| p.parameters.as_ref())
        .map_or(Vec::new(), |p| p.iter().map(|(name, _)| name).collect());
    let row = |point: &fathom_results::ScanPoint| {
        let value = |name: &&str| {
            let found = point.parameters.as_ref().and_then(|p| p.get(name));
            found.map_or(String::new(), |v| short(*v, 5))
        };
        let values: Vec<String> = names.iter().map(value).collect();
        context! {
            choice => point.choice.as_str(),
            value => point.value.as_str(),
            rows => point.rows,
            objective => point.objective.map_or("none".to_owned(), |o| short(o, 6)),
            converged => point.converged,
            chosen => point.chosen,
            values => Cell::from(Serde(values)),
        }
    };
    fit.scan.iter().map(row).collect()
}
