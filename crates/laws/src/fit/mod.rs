//! A law, a table and options in; everything that is reported of the fit out.

mod allocation;
mod case;
mod custom;
mod depth;
mod repeat;
mod rl;

use crate::custom::Description;
use crate::engine::Effort;
use crate::error::{Result, invalid, quoted};
use crate::objective::Loss;
use crate::regress::{self, Formula};
use crate::table::{ColumnNames, Table};
use fathom_results::{Fitted, LawName, Named};
use std::collections::BTreeMap;

/// A law with what only it needs.
#[derive(Clone, Debug)]
pub enum Choice {
    /// Loss by width, layers and data; with `layers - 2` for layers if set.
    Depth {
        /// Whether two layers are subtracted.
        less_two: bool,
    },
    /// Loss with repeated data.
    Repeat,
    /// Reinforcement learning.
    Rl(Response),
    /// A linear regression.
    Regress(Formula),
    /// A law of the user's own.
    Custom(Description),
}

/// What is explained by updates per step and critic parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Response {
    /// Environment steps to a threshold.
    #[default]
    Steps,
    /// The best batch size.
    Batch,
}

/// How a fit is minimised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// To the optimum.
    #[default]
    Converged,
    /// As the source did it.
    Published,
}

/// Options of a fit.
#[derive(Clone, Default)]
pub struct Options<'a> {
    /// Columns of the table that are not called as usual, by quantity.
    pub columns: ColumnNames,
    /// The column whose values are resampled and held out together.
    pub groups: Option<String>,
    /// The column with the names of rows.
    pub names: Option<String>,
    /// Leaves out the rows with this many of the highest observed values, and those equal to the last of them.
    pub drop_highest: Option<usize>,
    /// Another objective than the law's own.
    pub objective: Option<Loss>,
    /// How it is minimised.
    pub schedule: Schedule,
    /// Where to predict.
    pub at: Vec<Named<f64>>,
    /// What to allocate best.
    pub optimal: Option<Named<f64>>,
    /// How thorough the fit is.
    pub effort: Effort<'a>,
}

/// A finished fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The law as a formula.
    pub expression: String,
    /// The column that each quantity was read from.
    pub columns: BTreeMap<String, String>,
    /// The fit, or one for each environment with its name.
    pub fits: Vec<(Option<String>, Fitted)>,
    /// What should be known before the numbers are used.
    pub warnings: Vec<String>,
}

impl Choice {
    /// The name of the law.
    pub fn name(&self) -> LawName {
        match self {
            Self::Depth { .. } => LawName::Depth,
            Self::Repeat => LawName::Repeat,
            Self::Rl(_) => LawName::Rl,
            Self::Regress(_) => LawName::Regress,
            Self::Custom(_) => LawName::Custom,
        }
    }
}

/// Fits a law to a table.
///
/// # Errors
/// When columns are missing or hold values that cannot be used, the rows do not determine the law, options do not fit to
/// it, or the caller stops it. A fit that did not converge is no error: [`FitObjective`](fathom_results::FitObjective)
/// says so.
pub fn fit(choice: &Choice, table: &Table, options: &Options<'_>) -> Result<Outcome> {
    options.effort.check()?;
    check_options(choice, options)?;
    match choice {
        Choice::Depth { less_two } => depth::fit(*less_two, table, options),
        Choice::Repeat => repeat::fit(table, options),
        Choice::Rl(response) => rl::fit(*response, table, options),
        Choice::Custom(description) => custom::fit(description, table, options),
        Choice::Regress(formula) => {
            let columns = known_columns(&formula.columns(), &options.columns)?;
            let names = row_names(table, options)?;
            let (fitted, warnings) =
                regress::fit(formula, table, &options.columns, names.as_deref(), &options.at)?;
            let fits = vec![(None, fitted)];
            Ok(Outcome { expression: formula.text(), columns, fits, warnings })
        }
    }
}

/// Refuses options that the law does not have.
fn check_options(choice: &Choice, options: &Options<'_>) -> Result<()> {
    let law = choice.name().name();
    let is_published = options.schedule == Schedule::Published;
    match choice {
        Choice::Depth { .. } | Choice::Rl(Response::Steps) => {}
        Choice::Repeat if is_published => invalid!(
            "the source does not say how its fit of repeated data was stopped, so there is no published schedule to \
             repeat; `published` in fit.json has its parameters on your rows"
        ),
        _ if is_published => invalid!("the law {law} has no published schedule"),
        _ => {}
    }
    if is_published && options.objective.is_some() {
        invalid!("the published schedule has its own objective; leave out --objective");
    }
    if matches!(choice, Choice::Regress(_)) {
        let given = [
            ("--objective", options.objective.is_some()),
            ("--drop-highest", options.drop_highest.is_some()),
            ("--groups", options.groups.is_some()),
        ];
        if let Some((option, _)) = given.iter().find(|(_, is_given)| *is_given) {
            invalid!(
                "a linear regression has no {option}; its intervals are those of Student's distribution"
            );
        }
    }
    let allocates = matches!(choice, Choice::Depth { .. } | Choice::Repeat | Choice::Rl(Response::Steps));
    if options.optimal.is_some() && !allocates {
        invalid!("the law {law} does not say what is optimal; leave out --optimal");
    }
    Ok(())
}

/// The column of each quantity, refusing names of quantities that the law does not have.
fn known_columns(quantities: &[String], names: &ColumnNames) -> Result<BTreeMap<String, String>> {
    if let Some(unknown) = names.keys().find(|name| !quantities.contains(name)) {
        invalid!(
            "columns: the law has no '{unknown}'; it reads {}",
            quoted(quantities.iter().map(String::as_str))
        );
    }
    let column = |quantity: &String| names.get(quantity).unwrap_or(quantity).clone();
    Ok(quantities.iter().map(|quantity| (quantity.clone(), column(quantity))).collect())
}

/// The names of the rows, if a column has them.
fn row_names(table: &Table, options: &Options<'_>) -> Result<Option<Vec<String>>> {
    let Some(column) = &options.names else { return Ok(None) };
    table.column_for(column, &[column], &ColumnNames::new())?;
    Ok(table.text(column).map(<[String]>::to_vec))
}

/// The value of a named number that must be positive.
fn positive(inputs: &Named<f64>, names: &[&str]) -> Result<Option<f64>> {
    let found = names.iter().find_map(|name| inputs.get(name).map(|value| (name, *value)));
    match found {
        Some((name, value)) if !(value > 0.0 && value.is_finite()) => {
            invalid!("{name}={value}: give a positive number")
        }
        other => Ok(other.map(|(_, value)| value)),
    }
}

/// As [`positive`], but it must be there.
fn required(inputs: &Named<f64>, names: &[&str]) -> Result<f64> {
    match positive(inputs, names)? {
        Some(value) => Ok(value),
        None => invalid!(
            "{} is missing; there is {}",
            names.join(" or "),
            quoted(inputs.iter().map(|(name, _)| name))
        ),
    }
}

/// Refuses inputs that the law does not have.
fn only(inputs: &Named<f64>, known: &[&str]) -> Result<()> {
    match inputs.iter().find(|(name, _)| !known.contains(name)) {
        Some((name, _)) => invalid!("'{name}' is not an input; there are {}", quoted(known.iter().copied())),
        None => Ok(()),
    }
}
