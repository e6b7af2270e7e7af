//! Reinforcement learning: columns, environments, the log-linear law beside it, budgets.

use super::allocation::{least, root};
use super::case::{self, Case, Drawn};
use super::{Options, Outcome, Response, Schedule, known_columns, only, positive, required};
use crate::engine::{self, Effort};
use crate::error::{Error, Result, invalid};
use crate::law::{Law, Rows};
use crate::objective::{Loss, Objective};
use crate::ols::Ols;
use crate::rl::{BATCH, BatchLaw, FLOP, StepsLaw};
use crate::table::Table;
use fathom_results::{Baseline, Fitted, Named, Optimal, OptimalTable, Prediction};
use std::collections::BTreeMap;

/// Each quantity with the usual names of its column.
const INPUTS: [(&str, &[&str]); 2] = [("utd", &["utd"]), ("critic_params", &["critic_params"])];
const STEPS: (&str, &[&str]) = ("time", &["time", "time_to_threshold"]);
const BATCHES: (&str, &[&str]) = ("batch_size", &["batch_size"]);

/// The column of environments.
const ENVIRONMENT: &str = "env_name";

/// The range of updates per step, and of critic parameters, that allocations are looked for in.
const UPDATES: [f64; 2] = [1e-2, 1e4];
const SIZES: [f64; 2] = [1e3, 1e12];

pub(super) fn fit(response: Response, table: &Table, options: &Options<'_>) -> Result<Outcome> {
    let explained = if response == Response::Steps { STEPS } else { BATCHES };
    let quantities = [INPUTS[0], INPUTS[1], explained, (ENVIRONMENT, &[ENVIRONMENT])];
    known_columns(&quantities.map(|(name, _)| name.to_owned()), &options.columns)?;
    let mut columns = BTreeMap::new();
    for (name, usual) in &quantities[..3] {
        columns.insert((*name).to_owned(), table.column_for(name, usual, &options.columns)?);
    }
    let environments = environments(table, options)?;
    if let Some((column, _, _)) = &environments {
        columns.insert(ENVIRONMENT.to_owned(), column.clone());
    }
    let inputs: Vec<String> = INPUTS.map(|(name, _)| columns[name].clone()).to_vec();
    let loss = options.objective.unwrap_or(Loss::SquaredLog);
    let rows = case::read_rows(table, &inputs, &columns[explained.0], loss, options)?;
    let parts: Vec<(Option<String>, Rows)> = match environments {
        None => vec![(None, rows)],
        Some((_, group, names)) => {
            let part =
                |(index, name): (usize, String)| (Some(name), rows.filtered(|row| group[row] == index));
            names.into_iter().enumerate().map(part).collect()
        }
    };
    let single = parts.len() == 1;
    let (mut fits, mut warnings) = (Vec::new(), Vec::new());
    for (name, rows) in parts {
        let label = |text: String| name.as_ref().map_or(text.clone(), |name| format!("{name}: {text}"));
        let fitted = fit_one(response, rows, &inputs, table, options).map_err(|error| match error {
            Error::Undetermined(problem) => Error::Undetermined(label(problem)),
            other => other,
        })?;
        warnings.extend(case::warnings(&fitted, options).into_iter().map(label));
        fits.push((name.filter(|_| !single), fitted));
    }
    let expression = match response {
        Response::Steps => {
            "D = d_min (1 + (a / sigma)^alpha + (b / N)^beta), sigma = utd, N = critic_params, D = environment steps"
        }
        Response::Batch => {
            "B = a / (sigma^alpha (1 + (b / N)^beta)), sigma = utd, N = critic_params, B = batch size"
        }
    };
    Ok(Outcome { expression: expression.to_owned(), columns, fits, warnings })
}

/// The column of environments, the environment of each row and their names; `None` if all rows are of one.
#[expect(clippy::type_complexity, reason = "used once, right here")]
fn environments(table: &Table, options: &Options<'_>) -> Result<Option<(String, Vec<usize>, Vec<String>)>> {
    let column = options.columns.get(ENVIRONMENT).map_or(ENVIRONMENT, String::as_str);
    if !table.has(column) && !options.columns.contains_key(ENVIRONMENT) {
        return Ok(None);
    }
    let (group, names) = table.groups(column)?;
    Ok((names.len() > 1).then(|| (column.to_owned(), group, names)))
}

fn fit_one(
    response: Response,
    rows: Rows,
    inputs: &[String],
    table: &Table,
    options: &Options<'_>,
) -> Result<Fitted> {
    let law: Box<dyn Law> = match response {
        Response::Steps => Box::new(StepsLaw::new(&rows)),
        Response::Batch => Box::new(BatchLaw::new(&rows)),
    };
    let loss = options.objective.unwrap_or(Loss::SquaredLog);
    let case = Case {
        law: law.as_ref(),
        rows,
        inputs: inputs.to_vec(),
        names: case::names(table, options)?,
        objective: Objective { loss, factor: 1.0, mean: true },
        errors: loss,
        published: None,
        drop_highest: options.drop_highest.unwrap_or(0),
        schedule: None,
    };
    let effort = &options.effort;
    // The source runs to the optimum too, from one start.
    let starts = if options.schedule == Schedule::Published { 1 } else { effort.starts };
    let effort = Effort { starts, ..effort.clone() };
    let (mut fitted, drawn) = case.fit(&effort)?;
    if options.schedule == Schedule::Published {
        fitted.objective.schedule = "published".to_owned();
    }
    fitted.scan = case.objective_scan(&effort)?;
    fitted.baseline = baseline(&case.kept(case.drop_highest));
    fitted.predictions =
        options.at.iter().map(|given| predict(&case, &drawn, given)).collect::<Result<_>>()?;
    if let (Response::Steps, Some(given)) = (response, &options.optimal) {
        fitted.optimal = Some(optimal(law.as_ref(), &drawn, given)?);
    }
    Ok(fitted)
}

/// `ln y = c + s ln sigma + n ln N` on the same rows; `None` if they do not determine it.
fn baseline(rows: &Rows) -> Option<Baseline> {
    let column =
        |index: usize| -> Vec<f64> { (0..rows.len()).map(|row| rows.row(row)[index].ln()).collect() };
    let logarithms: Vec<f64> = rows.observed.iter().map(|y| y.ln()).collect();
    let (ones, updates, sizes) = (vec![1.0; rows.len()], column(0), column(1));
    let names = ["constant", "ln_utd", "ln_critic_params"];
    let ols = Ols::fit(&[&ones, &updates, &sizes], &logarithms, &names).ok()?;
    let predicted: Vec<f64> = logarithms.iter().zip(&ols.residuals).map(|(y, r)| (y - r).exp()).collect();
    Some(Baseline {
        expression: "ln y = constant + ln_utd ln sigma + ln_critic_params ln N".to_owned(),
        parameters: names.map(str::to_owned).into_iter().zip(ols.coefficients.iter().copied()).collect(),
        objective: ols.residuals.iter().map(|r| r * r).sum::<f64>() / rows.len() as f64,
        r2: engine::r2(&rows.observed, &predicted),
        predicted,
    })
}

fn predict(case: &Case<'_>, drawn: &Drawn, given: &Named<f64>) -> Result<Prediction> {
    only(given, &["utd", "critic_params"])?;
    let row = [required(given, &["utd"])?, required(given, &["critic_params"])?];
    Ok(case.predict(drawn, given, Named::default(), &row))
}

/// An allocation in logarithms: updates per step and critic parameters.
type Allocation = [f64; 2];

/// FLOP of training to the threshold.
fn compute(law: &dyn Law, free: &[f64], at: Allocation) -> f64 {
    let [updates, size] = at.map(f64::exp);
    FLOP * BATCH * updates * size * law.value(&[updates, size], free)
}

/// The allocation of least `C + delta D`. As a posynomial it is convex in logarithms, so nested searches find it.
fn cheapest(law: &dyn Law, free: &[f64], delta: f64) -> Allocation {
    let cost = |at: Allocation| {
        let steps = law.value(&at.map(f64::exp), free);
        (compute(law, free, at) + delta * steps).ln()
    };
    let size_for = |updates: f64| least(SIZES[0].ln(), SIZES[1].ln(), |size| cost([updates, size]));
    let updates = least(UPDATES[0].ln(), UPDATES[1].ln(), |updates| cost([updates, size_for(updates)]));
    [updates, size_for(updates)]
}

/// The price of a step in FLOP at which the cheapest allocation takes so much compute.
fn price_for(law: &dyn Law, free: &[f64], budget: f64) -> Option<f64> {
    let over = |price: f64| compute(law, free, cheapest(law, free, price.exp())).ln() - budget.ln();
    root(0.0, 60.0, over).map(f64::exp)
}

/// The best updates per step and size: for a price of a step in FLOP (`delta`), or for so much compute (`budget`).
fn optimal(law: &dyn Law, drawn: &Drawn, given: &Named<f64>) -> Result<Optimal> {
    only(given, &["delta", "budget"])?;
    let free = &drawn.optimum.free;
    let (delta, note) = match (positive(given, &["delta"])?, positive(given, &["budget"])?) {
        (Some(delta), None) => {
            (delta, format!("The least C + {delta:e} D, with C = 10 x 256 utd critic_params D FLOP."))
        }
        (None, Some(budget)) => match price_for(law, free, budget) {
            Some(price) => (
                price,
                format!(
                    "The fewest environment steps for {budget:e} FLOP, C = 10 x 256 utd critic_params D. It is also the \
                     least C + delta D for delta = {price:.3e}."
                ),
            ),
            None => invalid!(
                "budget={budget:e}: no setting with utd from {} to {} and {:e} to {:e} parameters takes so much or so little \
                 compute to the threshold",
                UPDATES[0],
                UPDATES[1],
                SIZES[0],
                SIZES[1]
            ),
        },
        _ => invalid!("give delta (FLOP that a step is worth) or budget (FLOP), one of them"),
    };
    let is_budget = given.get("budget").copied();
    let best = |free: &[f64]| match is_budget {
        Some(budget) => price_for(law, free, budget).map(|price| cheapest(law, free, price)),
        None => Some(cheapest(law, free, delta)),
    };
    // The search is costly, so each fit of the bootstrap is searched once.
    let found = drawn.allocations(best);
    let steps = |free: &[f64], at: Allocation| law.value(&at.map(f64::exp), free);
    let values = [
        ("utd", found.parameter(|_, at| at[0].exp())),
        ("critic_params", found.parameter(|_, at| at[1].exp())),
        ("steps", found.parameter(steps)),
        ("compute", found.parameter(|free, at| compute(law, free, at))),
        ("total", found.parameter(|free, at| compute(law, free, at) + delta * steps(free, at))),
    ];
    let row = |updates: &f64| {
        let updates = updates.ln();
        let cost = |size: f64| compute(law, free, [updates, size]) + delta * steps(free, [updates, size]);
        let at = [updates, least(SIZES[0].ln(), SIZES[1].ln(), |size| cost(size).ln())];
        let there = steps(free, at);
        vec![at[0].exp(), at[1].exp(), there, compute(law, free, at), compute(law, free, at) + delta * there]
    };
    let rows: Vec<Vec<f64>> = [0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0].iter().map(row).collect();
    let cheapest_row = (0..rows.len()).min_by(|a, b| rows[*a][4].total_cmp(&rows[*b][4]));
    Ok(Optimal {
        inputs: given.clone(),
        values: values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        table: OptimalTable {
            headings: ["utd", "critic_params", "steps", "compute", "total"].map(str::to_owned).to_vec(),
            rows,
            best: cheapest_row,
        },
        note,
    })
}
