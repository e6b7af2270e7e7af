//! Repeated data: columns, predictions, how many epochs pay.

use super::allocation::root;
use super::case::{self, Case, Drawn};
use super::{Options, Outcome, known_columns, only, positive, required};
use crate::error::Result;
use crate::law::Law;
use crate::objective::{Loss, Objective};
use crate::repeat::{PUBLISHED, RepeatLaw};
use crate::table::Table;
use fathom_results::{Named, Optimal, OptimalTable, Prediction};
use std::collections::BTreeMap;

/// Each quantity with the usual names of its column.
const QUANTITIES: [(&str, &[&str]); 4] = [
    ("params", &["N", "params", "parameters"]),
    ("tokens", &["T", "D", "tokens", "num_tokens"]),
    ("unique", &["U", "unique", "unique_tokens"]),
    ("loss", &["L", "loss"]),
];

/// Where the source's loss becomes linear.
const DELTA: f64 = 1e-3;

/// The gap to fresh data that counts as none, in nats, unless given.
const TOLERANCE: f64 = 0.01;

/// The most epochs that are considered.
const MOST_EPOCHS: f64 = 1e4;

pub(super) fn fit(table: &Table, options: &Options<'_>) -> Result<Outcome> {
    known_columns(&QUANTITIES.map(|(name, _)| name.to_owned()), &options.columns)?;
    let columns: BTreeMap<String, String> = QUANTITIES
        .iter()
        .map(|(name, usual)| Ok(((*name).to_owned(), table.column_for(name, usual, &options.columns)?)))
        .collect::<Result<_>>()?;
    let inputs: Vec<String> = ["params", "tokens", "unique"].map(|q| columns[q].clone()).to_vec();
    let law = RepeatLaw::default();
    let loss = options.objective.unwrap_or(Loss::HuberLog { delta: DELTA });
    let rows = case::read_rows(table, &inputs, &columns["loss"], loss, options)?;
    let more = (0..rows.len()).filter(|row| rows.row(*row)[2] > rows.row(*row)[1]).count();
    let case = Case {
        law: &law,
        rows,
        inputs,
        names: case::names(table, options)?,
        objective: Objective { loss, factor: 1.0, mean: false },
        errors: loss,
        published: Some(("arXiv 2305.16264", PUBLISHED.to_vec())),
        drop_highest: options.drop_highest.unwrap_or(0),
        schedule: None,
    };
    let (mut fitted, drawn) = case.fit(&options.effort)?;
    let constants = law.constants;
    let named = [
        ("ln_a", constants.ln_a),
        ("ln_b", constants.ln_b),
        ("ln_e", constants.ln_e),
        ("alpha", constants.alpha),
        ("beta", constants.beta),
    ];
    fitted.constants = named.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    fitted.scan = case.objective_scan(&options.effort)?;
    let at = options.at.iter().map(|given| predict(&case, &drawn, given));
    fitted.predictions = at.collect::<Result<_>>()?;
    fitted.optimal = options.optimal.as_ref().map(|given| optimal(&law, &drawn, given)).transpose()?;
    let mut warnings = case::warnings(&fitted, options);
    if more > 0 {
        warnings.push(format!("{more} rows have more unique tokens than tokens; they count as not repeated"));
    }
    Ok(Outcome {
        expression: "L = E + A / N'^alpha + B / D'^beta, D' = U + U r_d (1 - e^(-(D/U - 1)/r_d)), N' likewise with r_n \
                     beyond the size for which U is optimal"
            .to_owned(),
        columns,
        fits: vec![(None, fitted)],
        warnings,
    })
}

fn predict(case: &Case<'_>, drawn: &Drawn, given: &Named<f64>) -> Result<Prediction> {
    only(given, &["params", "tokens", "unique"])?;
    let [params, tokens, unique] =
        [&["params"], &["tokens"], &["unique"]].map(|names| required(given, names));
    let (params, tokens, unique) = (params?, tokens?, unique?);
    let derived = Named(vec![("epochs".to_owned(), tokens / unique)]);
    Ok(case.predict(drawn, given, derived, &[params, tokens, unique]))
}

/// How many epochs over given unique tokens are as good as fresh data.
fn optimal(law: &RepeatLaw, drawn: &Drawn, given: &Named<f64>) -> Result<Optimal> {
    only(given, &["params", "unique", "tolerance"])?;
    let params = required(given, &["params"])?;
    let unique = required(given, &["unique"])?;
    let tolerance = positive(given, &["tolerance"])?.unwrap_or(TOLERANCE);
    let loss = |free: &[f64], epochs: f64| law.value(&[params, epochs * unique, unique], free);
    let fresh = |free: &[f64], epochs: f64| law.value(&[params, epochs * unique, epochs * unique], free);
    let gap = |free: &[f64], epochs: f64| loss(free, epochs) - fresh(free, epochs);
    let paying = |free: &[f64]| {
        let reached = root(0.0, MOST_EPOCHS.ln(), |x| gap(free, x.exp()) - tolerance).map(f64::exp);
        Some(reached.unwrap_or(MOST_EPOCHS))
    };
    let epochs = drawn.parameter(paying);
    let half = drawn.parameter(|free| Some((1.0 + free[0].exp() * std::f64::consts::LN_2).min(MOST_EPOCHS)));
    let values = [
        ("epochs_within_tolerance", epochs),
        ("epochs_at_half_value", half),
        ("loss", drawn.parameter(|free| paying(free).map(|epochs| loss(free, epochs)))),
        ("loss_one_epoch", drawn.parameter(|free| Some(loss(free, 1.0)))),
        ("loss_endless", drawn.parameter(|free| Some(loss(free, MOST_EPOCHS)))),
    ];
    let free = &drawn.optimum.free;
    let row = |epochs: f64| {
        let worth = (-(epochs - 1.0) / free[0].exp()).exp();
        vec![epochs, epochs * unique, loss(free, epochs), fresh(free, epochs), gap(free, epochs), worth]
    };
    let rows = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0].map(row).to_vec();
    let best = rows.iter().rposition(|row| row[4] <= tolerance);
    let bound = if epochs.value >= MOST_EPOCHS { "more than " } else { "" };
    Ok(Optimal {
        inputs: given.clone(),
        values: values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        table: OptimalTable {
            headings: ["epochs", "tokens", "loss", "loss, all fresh", "gap", "worth of a repeated token"]
                .map(str::to_owned)
                .to_vec(),
            rows,
            best,
        },
        note: format!(
            "Up to {bound}{:.1} epochs, repeated tokens cost at most {tolerance} nats against as many fresh ones. After \
             {:.1} epochs a repeated token is worth half a fresh one.",
            epochs.value, half.value
        ),
    })
}
