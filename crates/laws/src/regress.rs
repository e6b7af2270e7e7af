//! Linear regressions of a formula, `score ~ layers + d_ff + ln(params)` (arXiv 2505.13898).

use crate::engine;
use crate::error::{Error, Result, invalid, quoted};
use crate::expression::Expression;
use crate::ols::Ols;
use crate::table::{ColumnNames, Table};
use fathom_results::{
    FitObjective, FitPoint, Fitted, Named, Parameter, PartialResiduals, Prediction, Regression,
};

/// The name of the intercept in results.
pub const INTERCEPT: &str = "intercept";

/// A response and the terms that explain it; the intercept is always one of them.
#[derive(Clone, Debug)]
pub struct Formula {
    // Expressions are large.
    response: Box<Expression>,
    terms: Vec<Expression>,
}

impl Formula {
    /// Reads `response ~ term + term`. Terms are expressions of columns; a sum inside one stands in parentheses.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::Expression`].
    pub fn parse(text: &str) -> Result<Self> {
        let Some((response, terms)) = text.split_once('~') else {
            invalid!("formula '{text}': give RESPONSE ~ TERM + TERM, such as 'score ~ layers + ln(params)'");
        };
        let terms: Vec<Expression> =
            split_terms(terms).into_iter().map(Expression::parse).collect::<Result<_>>()?;
        for (index, term) in terms.iter().enumerate() {
            if terms[..index].iter().any(|other| other.text() == term.text()) {
                invalid!("formula '{text}': the term '{}' occurs twice", term.text());
            }
            if term.variables().is_empty() {
                invalid!(
                    "formula '{text}': the term '{}' has no column; the intercept is always there",
                    term.text()
                );
            }
        }
        Ok(Self { response: Box::new(Expression::parse(response)?), terms })
    }

    /// The formula as text.
    pub fn text(&self) -> String {
        let terms: Vec<&str> = self.terms.iter().map(Expression::text).collect();
        format!("{} ~ {}", self.response.text(), terms.join(" + "))
    }

    /// The columns that it reads.
    pub fn columns(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.terms.iter().chain([self.response.as_ref()]).flat_map(|e| e.variables().to_vec()).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// The parts of a sum, cut at every `+` outside parentheses and braces that follows a value.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_i32);
    let mut last = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '(' | '{' => depth += 1,
            ')' | '}' => depth -= 1,
            '+' if depth == 0 && (last.is_alphanumeric() || matches!(last, '_' | ')' | '}')) => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        if !c.is_whitespace() {
            last = c;
        }
    }
    parts.push(&text[start..]);
    parts
}

/// A term evaluated for all rows.
fn evaluate(expression: &Expression, table: &Table, columns: &ColumnNames) -> Result<Vec<f64>> {
    let read = |name: &String| table.numbers(&table.column_for(name, &[name], columns)?);
    let variables: Vec<Vec<f64>> = expression.variables().iter().map(read).collect::<Result<_>>()?;
    let at = |row: usize| {
        let value = expression.value(&variables.iter().map(|column| column[row]).collect::<Vec<f64>>());
        match value.is_finite() {
            true => Ok(value),
            false => Err(Error::Value {
                row: row + 1,
                column: expression.text().to_owned(),
                problem: format!(
                    "the term is {value}; a logarithm needs a positive number (the row has {})",
                    expression
                        .variables()
                        .iter()
                        .zip(&variables)
                        .map(|(n, c)| format!("{n} {}", c[row]))
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            }),
        }
    };
    (0..table.rows()).map(at).collect()
}

/// A variance inflation factor from which coefficients are said to be hard to tell apart.
const INFLATED: f64 = 5.0;

/// A correlation from which two terms are said to go together.
const CORRELATED: f64 = 0.8;

/// Fits a formula to a table.
///
/// # Errors
/// [`Error::Undetermined`] with too few rows, constant or dependent terms; as [`Table::numbers`].
pub fn fit(
    formula: &Formula,
    table: &Table,
    columns: &ColumnNames,
    names: Option<&[String]>,
    at: &[Named<f64>],
) -> Result<(Fitted, Vec<String>)> {
    let observed = evaluate(&formula.response, table, columns)?;
    let terms: Vec<Vec<f64>> =
        formula.terms.iter().map(|term| evaluate(term, table, columns)).collect::<Result<_>>()?;
    let labels: Vec<&str> = formula.terms.iter().map(Expression::text).collect();
    for (label, values) in labels.iter().zip(&terms).chain([(&formula.response.text(), &observed)]) {
        if values.iter().all(|value| *value == values[0]) {
            return Err(Error::Undetermined(format!(
                "'{label}' is {} in all {} rows, so nothing can be said about it; leave it out",
                values[0],
                values.len()
            )));
        }
    }
    let ones = vec![1.0; observed.len()];
    let design: Vec<&[f64]> = [ones.as_slice()].into_iter().chain(terms.iter().map(Vec::as_slice)).collect();
    let all: Vec<&str> = [INTERCEPT].into_iter().chain(labels.iter().copied()).collect();
    let ols = Ols::fit(&design, &observed, &all)?;
    let regression = regression(&ols, &terms, &observed, &labels)?;
    let predicted: Vec<f64> = observed.iter().zip(&ols.residuals).map(|(y, r)| y - r).collect();
    let point = |row: usize| FitPoint {
        row: row + 1,
        name: names.map(|names| names[row].clone()),
        observed: observed[row],
        predicted: predicted[row],
        dropped: false,
    };
    let warnings = collinearity(&regression);
    let fitted = Fitted {
        rows: observed.len(),
        objective: FitObjective {
            residual: "squared".to_owned(),
            factor: 1.0,
            value: ols.residuals.iter().map(|r| r * r).sum(),
            schedule: "converged".to_owned(),
            converged: true,
            ..FitObjective::default()
        },
        parameters: all
            .iter()
            .enumerate()
            .map(|(i, name)| ((*name).to_owned(), parameter(&ols, i)))
            .collect(),
        r2: engine::r2(&observed, &predicted),
        points: (0..observed.len()).map(point).collect(),
        predictions: at.iter().map(|inputs| predict(formula, &ols, inputs)).collect::<Result<_>>()?,
        regression: Some(regression),
        ..Fitted::default()
    };
    Ok((fitted, warnings))
}

fn parameter(ols: &Ols, index: usize) -> Parameter {
    let (value, error) = (ols.coefficients[index], ols.errors[index]);
    let reach = ols.quantile() * error;
    let t = value / error;
    Parameter {
        value,
        stderr: Some(error),
        interval: Some([value - reach, value + reach]),
        t: Some(t).filter(|t| t.is_finite()),
        p: Some(ols.p_value(t)).filter(|p| p.is_finite()),
        log: false,
    }
}

fn regression(ols: &Ols, terms: &[Vec<f64>], observed: &[f64], labels: &[&str]) -> Result<Regression> {
    let rows = observed.len();
    let predicted: Vec<f64> = observed.iter().zip(&ols.residuals).map(|(y, r)| y - r).collect();
    let r2 = engine::r2(observed, &predicted);
    let ones = vec![1.0; rows];
    let mut vif = Named::default();
    let mut partial = Vec::new();
    for (index, label) in labels.iter().enumerate() {
        let others: Vec<&[f64]> = [ones.as_slice()]
            .into_iter()
            .chain(terms.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, t)| t.as_slice()))
            .collect();
        let names = vec!["term"; others.len()];
        let of_term = Ols::fit(&others, &terms[index], &names)?.residuals;
        let of_response = Ols::fit(&others, observed, &names)?.residuals;
        let left: f64 = of_term.iter().map(|r| r * r).sum();
        let mean = terms[index].iter().sum::<f64>() / rows as f64;
        let total: f64 = terms[index].iter().map(|x| (x - mean).powi(2)).sum();
        vif.0.push(((*label).to_owned(), total / left));
        partial.push(PartialResiduals { term: (*label).to_owned(), of_term, of_response });
    }
    let correlation = terms.iter().map(|a| terms.iter().map(|b| correlation(a, b)).collect()).collect();
    Ok(Regression {
        adjusted_r2: 1.0 - (1.0 - r2) * (rows - 1) as f64 / ols.freedom as f64,
        freedom: ols.freedom,
        deviation: ols.deviation,
        condition: ols.condition,
        vif,
        correlation,
        partial,
    })
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(usize) -> f64| (0..a.len()).map(f).sum::<f64>();
    let product = sum(&|i| (a[i] - ma) * (b[i] - mb));
    let squares = sum(&|i| (a[i] - ma).powi(2)) * sum(&|i| (b[i] - mb).powi(2));
    (product / squares.sqrt()).clamp(-1.0, 1.0)
}

/// Says which terms can hardly be told apart.
fn collinearity(regression: &Regression) -> Vec<String> {
    let mut warnings = Vec::new();
    let names: Vec<&str> = regression.vif.iter().map(|(name, _)| name).collect();
    let inflated = regression.vif.iter().filter(|(_, vif)| **vif >= INFLATED).map(|(name, _)| name);
    let inflated: Vec<&str> = inflated.collect();
    if !inflated.is_empty() {
        let most = regression.vif.iter().map(|(_, vif)| *vif).fold(0.0, f64::max);
        warnings.push(format!(
            "{} are nearly collinear with the other terms (variance inflation up to {most:.1}): the data hardly tell \
             their effects apart, so read the coefficients together and look at the partial residuals",
            quoted(inflated)
        ));
    }
    let pairs = (0..names.len()).flat_map(|a| (a + 1..names.len()).map(move |b| (a, b)));
    let close = pairs.filter(|(a, b)| regression.correlation[*a][*b].abs() >= CORRELATED);
    let close: Vec<String> = close
        .map(|(a, b)| format!("'{}' and '{}' ({:.2})", names[a], names[b], regression.correlation[a][b]))
        .collect();
    if !close.is_empty() {
        warnings.push(format!(
            "terms go together: {}; what one of them says of the response, the other says nearly as well",
            close.join(", ")
        ));
    }
    warnings
}

fn predict(formula: &Formula, ols: &Ols, inputs: &Named<f64>) -> Result<Prediction> {
    let known: Vec<String> = formula.terms.iter().flat_map(|term| term.variables().to_vec()).collect();
    if let Some((name, _)) = inputs.iter().find(|(name, _)| !known.iter().any(|k| k == name)) {
        invalid!(
            "at: '{name}' is not in the formula, which has {}",
            quoted(known.iter().map(String::as_str))
        );
    }
    let mut x = vec![1.0];
    for term in &formula.terms {
        let of = |name: &String| match inputs.get(name) {
            Some(value) => Ok(*value),
            None => {
                Err(Error::Invalid(format!("at: '{name}' is missing; the formula is {}", formula.text())))
            }
        };
        let value = term.value(&term.variables().iter().map(of).collect::<Result<Vec<f64>>>()?);
        if !value.is_finite() {
            invalid!("at: the term '{}' is {value}", term.text());
        }
        x.push(value);
    }
    let value: f64 = x.iter().zip(&ols.coefficients).map(|(x, c)| x * c).sum();
    let variance: f64 =
        (0..x.len()).map(|i| (0..x.len()).map(|j| x[i] * x[j] * ols.covariance[i][j]).sum::<f64>()).sum();
    let error = variance.max(0.0).sqrt();
    let reach = ols.quantile() * error;
    Ok(Prediction {
        inputs: inputs.clone(),
        derived: Named::default(),
        value,
        stderr: Some(error),
        interval: Some([value - reach, value + reach]),
    })
}
