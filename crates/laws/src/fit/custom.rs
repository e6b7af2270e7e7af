//! Laws of the user's own: columns and predictions.

use super::case::{self, Case, Drawn};
use super::{Options, Outcome, known_columns, only};
use crate::custom::{CustomLaw, Description};
use crate::error::{Result, invalid};
use crate::law::Rows;
use crate::objective::Objective;
use crate::table::Table;
use fathom_results::{Named, Prediction};
use std::collections::BTreeMap;

pub(super) fn fit(description: &Description, table: &Table, options: &Options<'_>) -> Result<Outcome> {
    let law = CustomLaw::new(description)?;
    let mut quantities = law.inputs().to_vec();
    quantities.push(description.response.clone());
    known_columns(&quantities, &options.columns)?;
    let columns: BTreeMap<String, String> = quantities
        .iter()
        .map(|name| Ok((name.clone(), table.column_for(name, &[name], &options.columns)?)))
        .collect::<Result<_>>()?;
    let inputs: Vec<String> = law.inputs().iter().map(|name| columns[name].clone()).collect();
    let own = description.objective()?;
    let objective = Objective { loss: options.objective.unwrap_or(own.loss), ..own };
    let response = &columns[&description.response];
    let numbers: Vec<Vec<f64>> = inputs.iter().map(|name| table.numbers(name)).collect::<Result<_>>()?;
    let observed = match objective.loss.takes_logarithms() {
        true => table.positive(response)?,
        false => table.numbers(response)?,
    };
    let mut rows = Rows::new(&numbers.iter().map(Vec::as_slice).collect::<Vec<_>>(), &observed);
    if let Some(groups) = &options.groups {
        rows.groups = table.groups(groups)?.0;
    }
    let case = Case {
        law: &law,
        rows,
        inputs,
        names: case::names(table, options)?,
        objective,
        errors: objective.loss,
        published: None,
        drop_highest: options.drop_highest.unwrap_or(0),
        schedule: None,
    };
    let (mut fitted, drawn) = case.fit(&options.effort)?;
    fitted.scan = case.objective_scan(&options.effort)?;
    fitted.predictions =
        options.at.iter().map(|given| predict(&case, &law, &drawn, given)).collect::<Result<_>>()?;
    let warnings = case::warnings(&fitted, options);
    Ok(Outcome {
        expression: format!("{} = {}", description.response, description.expression.trim()),
        columns,
        fits: vec![(None, fitted)],
        warnings,
    })
}

fn predict(case: &Case<'_>, law: &CustomLaw, drawn: &Drawn, given: &Named<f64>) -> Result<Prediction> {
    let names: Vec<&str> = law.inputs().iter().map(String::as_str).collect();
    only(given, &names)?;
    let value = |name: &&str| match given.get(name) {
        Some(value) => Ok(*value),
        None => invalid!("'{name}' is missing"),
    };
    let row: Vec<f64> = names.iter().map(value).collect::<Result<_>>()?;
    let prediction = case.predict(drawn, given, Named::default(), &row);
    if !prediction.value.is_finite() {
        invalid!("the law has no value at {}", names.join(", "));
    }
    Ok(prediction)
}
