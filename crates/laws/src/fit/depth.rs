//! The depth law: columns, scans, predictions, the best number of layers.

use super::allocation::least;
use super::case::{self, Case, Drawn};
use super::{Options, Outcome, Schedule, known_columns, only, positive, required};
use crate::depth::{DepthLaw, PUBLISHED};
use crate::engine::Effort;
use crate::error::{Result, invalid};
use crate::law::Law;
use crate::objective::{Loss, Objective};
use crate::table::Table;
use fathom_results::{Named, Optimal, OptimalTable, Parameter, Prediction, ScanPoint};
use std::collections::BTreeMap;

/// Each quantity with the usual names of its column.
const QUANTITIES: [(&str, &[&str]); 4] = [
    ("d_model", &["d_model"]),
    ("n_layers", &["n_layers", "layers"]),
    ("num_tokens", &["num_tokens", "tokens"]),
    ("loss", &["loss"]),
];

/// How many of the highest losses the source leaves out.
const PUBLISHED_DROP: usize = 40;

/// The numbers of dropped points of the scan.
const DROPS: [usize; 10] = [0, 1, 10, 20, 30, 40, 50, 60, 80, 100];

/// Starts of each fit of a scan.
const SCAN_STARTS: usize = 8;

/// Parameters of a decoder of width m and l layers, without embeddings, are about `12 l m^2`.
const PARAMETERS: f64 = 12.0;

/// The largest number of layers that is considered.
const MOST_LAYERS: f64 = 10_000.0;

pub(super) fn fit(less_two: bool, table: &Table, options: &Options<'_>) -> Result<Outcome> {
    let columns = columns(table, options)?;
    let inputs: Vec<String> = ["d_model", "n_layers", "num_tokens"].map(|q| columns[q].clone()).to_vec();
    let offset = if less_two { 2.0 } else { 0.0 };
    let law = DepthLaw::new(offset);
    let loss = options.objective.unwrap_or(Loss::SquaredLog);
    let rows = case::read_rows(table, &inputs, &columns["loss"], loss, options)?;
    if let Some(row) = (0..rows.len()).find(|row| rows.row(*row)[1] <= offset) {
        invalid!(
            "row {}, column '{}': {} layers; with layers - 2 there must be more than two",
            row + 1,
            inputs[1],
            rows.row(row)[1]
        );
    }
    let effort = &options.effort;
    let published =
        |problem: &crate::Problem<'_>| case::adam_of_depth(problem, |row| law.scaled(row), effort.is_stopped);
    let is_published = options.schedule == Schedule::Published;
    let case = Case {
        law: &law,
        rows,
        inputs,
        names: case::names(table, options)?,
        objective: Objective { loss, factor: 100.0, mean: true },
        errors: Loss::Squared,
        published: (!less_two).then(|| ("arXiv 2602.05970", PUBLISHED.to_vec())),
        drop_highest: options.drop_highest.unwrap_or(if is_published { PUBLISHED_DROP } else { 0 }),
        schedule: if is_published { Some(&published) } else { None },
    };
    let (mut fitted, drawn) = case.fit(effort)?;
    fitted.scan = scan(&case, less_two, effort)?;
    fitted.predictions =
        options.at.iter().map(|given| predict(&case, &law, &drawn, given)).collect::<Result<_>>()?;
    fitted.optimal = options.optimal.as_ref().map(|given| optimal(&law, &drawn, given)).transpose()?;
    let layers = if less_two { "(l - 2)" } else { "l" };
    let warnings = case::warnings(&fitted, options);
    Ok(Outcome {
        expression: format!(
            "L = c_m / m^a_m + c_l / (100 {layers})^a_l + c_d / (D / 10^6)^a_d + l0, m = d_model, l = n_layers, D = num_tokens"
        ),
        columns,
        fits: vec![(None, fitted)],
        warnings,
    })
}

fn columns(table: &Table, options: &Options<'_>) -> Result<BTreeMap<String, String>> {
    known_columns(&QUANTITIES.map(|(name, _)| name.to_owned()), &options.columns)?;
    QUANTITIES
        .iter()
        .map(|(name, usual)| Ok(((*name).to_owned(), table.column_for(name, usual, &options.columns)?)))
        .collect()
}

/// By the number of dropped points, with and without two layers subtracted, and by objective.
fn scan(case: &Case<'_>, less_two: bool, effort: &Effort<'_>) -> Result<Vec<ScanPoint>> {
    let effort = Effort { starts: SCAN_STARTS.min(effort.starts), ..effort.clone() };
    let mut drops = DROPS.to_vec();
    drops.push(case.drop_highest);
    drops.sort_unstable();
    drops.dedup();
    let mut points = Vec::new();
    let enough = |drop: &usize| *drop == case.drop_highest || 2 * drop <= case.rows.len();
    for drop in drops.into_iter().filter(enough) {
        let mut point = case.scan_point("drop", drop.to_string(), drop, case.objective, &effort)?;
        point.chosen = drop == case.drop_highest;
        points.push(point);
    }
    for (name, offset) in [("l", 0.0), ("l - 2", 2.0)] {
        if (0..case.rows.len()).any(|row| case.rows.row(row)[1] <= offset) {
            continue;
        }
        let law = DepthLaw::new(offset);
        let other = Case {
            law: &law,
            rows: case.rows.clone(),
            inputs: case.inputs.clone(),
            names: None,
            published: None,
            schedule: None,
            ..*case
        };
        let mut point = other.scan_point("layers", name, case.drop_highest, case.objective, &effort)?;
        point.chosen = (offset > 0.0) == less_two;
        points.push(point);
    }
    points.extend(case.objective_scan(&effort)?);
    Ok(points)
}

fn predict(case: &Case<'_>, law: &DepthLaw, drawn: &Drawn, given: &Named<f64>) -> Result<Prediction> {
    only(given, &["params", "layers", "n_layers", "tokens", "num_tokens", "d_model"])?;
    let layers = required(given, &["layers", "n_layers"])?;
    let tokens = required(given, &["tokens", "num_tokens"])?;
    if layers <= law.offset {
        invalid!("layers={layers}: with layers - 2 there must be more than two");
    }
    let (width, derived) = match (positive(given, &["d_model"])?, positive(given, &["params"])?) {
        (Some(_), Some(_)) => invalid!("give d_model or params, not both"),
        (Some(width), None) => (width, Named::default()),
        (None, Some(params)) => {
            let width = width_of(params, layers);
            (width, Named(vec![("d_model".to_owned(), width)]))
        }
        (None, None) => invalid!("params or d_model is missing"),
    };
    Ok(case.predict(drawn, given, derived, &[width, layers, tokens]))
}

fn width_of(params: f64, layers: f64) -> f64 {
    (params / (PARAMETERS * layers)).sqrt()
}

/// The number of layers with the least loss at given parameters and tokens.
fn optimal(law: &DepthLaw, drawn: &Drawn, given: &Named<f64>) -> Result<Optimal> {
    only(given, &["params", "tokens", "num_tokens"])?;
    let params = required(given, &["params"])?;
    let tokens = required(given, &["tokens", "num_tokens"])?;
    let loss = |free: &[f64], layers: f64| law.value(&[width_of(params, layers), layers, tokens], free);
    let low = law.offset + 1.0;
    let best = |free: &[f64]| {
        let at = least(low.ln(), MOST_LAYERS.ln(), |x| loss(free, x.exp())).exp();
        Some(at).filter(|at| at.is_finite())
    };
    let layers = drawn.parameter(best);
    let width = drawn.parameter(|free| best(free).map(|layers| width_of(params, layers)));
    let at_best = drawn.parameter(|free| best(free).map(|layers| loss(free, layers)));
    let free = &drawn.optimum.free;
    let mut counts: Vec<f64> = [0.25, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 2.0, 2.8, 4.0]
        .iter()
        .map(|share| (share * layers.value).round().max(low))
        .collect();
    counts.dedup();
    let row = |count: &f64| {
        let there = loss(free, *count);
        vec![*count, width_of(params, *count), there, there - at_best.value]
    };
    let rows: Vec<Vec<f64>> = counts.iter().map(row).collect();
    let least_row = (0..rows.len()).min_by(|a, b| rows[*a][2].total_cmp(&rows[*b][2]));
    let values: [(&str, Parameter); 3] = [("layers", layers), ("d_model", width), ("loss", at_best)];
    Ok(Optimal {
        inputs: given.clone(),
        values: values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        table: OptimalTable {
            headings: ["layers", "d_model", "loss", "excess loss"].map(str::to_owned).to_vec(),
            rows,
            best: least_row,
        },
        note: "The parameters without embeddings are taken as 12 layers d_model^2. The optimum is flat: the last column \
               says what another depth costs."
            .to_owned(),
    })
}
