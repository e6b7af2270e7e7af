//! Laws of the user's own: an expression of columns and parameters.

use crate::error::{Error, Result, invalid, quoted};
use crate::expression::Expression;
use crate::law::{Coordinate, Law, ParameterSpec};
use crate::objective::{Loss, Objective};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A law as a TOML file describes it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The column that is explained.
    pub response: String,
    /// The law: names of parameters and of columns.
    pub expression: String,
    /// The objective, as [`Loss::parse`] reads it; `squared-log` unless set otherwise.
    #[serde(default = "squared_log")]
    pub objective: String,
    /// The parameters.
    pub parameters: BTreeMap<String, ParameterDescription>,
}

/// A parameter of a [`Description`].
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterDescription {
    /// Where the first start has it.
    pub start: f64,
    /// Whether it is positive and fitted as a logarithm.
    #[serde(default)]
    pub log: bool,
    /// The lower end of the range of further starts: a tenth of `start` for logarithms, otherwise `start - |start| - 1`.
    pub low: Option<f64>,
    /// The upper end: ten times `start`, or `start + |start| + 1`.
    pub high: Option<f64>,
    /// Whether its profile is made; it is unless set otherwise.
    pub profile: Option<bool>,
}

fn squared_log() -> String {
    "squared-log".to_owned()
}

/// The most parameters.
const MOST: usize = 50;

impl Description {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the line.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| Error::Invalid(error.to_string().trim().to_owned()))
    }

    /// The objective: the mean over rows.
    ///
    /// # Errors
    /// As [`Loss::parse`].
    pub fn objective(&self) -> Result<Objective> {
        Ok(Objective { loss: Loss::parse(&self.objective)?, factor: 1.0, mean: true })
    }
}

/// A law of an expression.
#[derive(Clone, Debug)]
pub struct CustomLaw {
    parameters: Vec<ParameterSpec>,
    inputs: Vec<String>,
    expression: Expression,
    derivatives: Vec<Expression>,
    /// Where each variable of the expression comes from.
    sources: Vec<Source>,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Parameter(usize),
    Input(usize),
}

impl CustomLaw {
    /// The law of a description.
    ///
    /// # Errors
    /// [`Error::Expression`] if the expression cannot be read or derived, [`Error::Invalid`] for parameters that it does not
    /// have or ranges that are none.
    pub fn new(description: &Description) -> Result<Self> {
        let expression = Expression::parse(&description.expression)?;
        let variables = expression.variables().to_vec();
        let names: Vec<&String> = description.parameters.keys().collect();
        if names.is_empty() || names.len() > MOST {
            invalid!("a law needs 1 to {MOST} parameters; there are {}", names.len());
        }
        if let Some(unused) = names.iter().find(|name| !variables.contains(name)) {
            invalid!(
                "the parameter '{unused}' does not occur in the expression '{}', which has {}",
                expression.text(),
                quoted(variables.iter().map(String::as_str))
            );
        }
        let inputs: Vec<String> = variables.iter().filter(|name| !names.contains(name)).cloned().collect();
        let source = |name: &String| match names.iter().position(|other| *other == name) {
            Some(index) => Source::Parameter(index),
            None => Source::Input(inputs.iter().position(|input| input == name).unwrap_or_default()),
        };
        let sources: Vec<Source> = variables.iter().map(source).collect();
        let of = |index: usize| {
            let variable = sources.iter().position(|s| matches!(s, Source::Parameter(i) if *i == index));
            expression.derivative(variable.expect("every parameter occurs"))
        };
        let derivatives = (0..names.len()).map(of).collect::<Result<_>>()?;
        let parameters =
            description.parameters.iter().map(|(name, p)| spec(name, p)).collect::<Result<_>>()?;
        Ok(Self { parameters, inputs, expression, derivatives, sources })
    }

    /// The columns that the expression reads.
    pub fn inputs(&self) -> &[String] {
        &self.inputs
    }
}

fn spec(name: &str, p: &ParameterDescription) -> Result<ParameterSpec> {
    let (low, high) = match p.log {
        true => (p.start / 10.0, p.start * 10.0),
        false => (p.start - p.start.abs() - 1.0, p.start + p.start.abs() + 1.0),
    };
    let range = [p.low.unwrap_or(low), p.high.unwrap_or(high)];
    if p.log && !(p.start > 0.0 && range[0] > 0.0) {
        invalid!("the parameter '{name}' is fitted as a logarithm, so its start and range must be positive");
    }
    if !(p.start.is_finite() && range.iter().all(|end| end.is_finite()) && range[0] < range[1]) {
        invalid!("the parameter '{name}': its start and range must be finite, and low less than high");
    }
    Ok(ParameterSpec {
        name: name.to_owned(),
        coordinate: if p.log { Coordinate::Log } else { Coordinate::Linear },
        start: p.start,
        range,
        profile: p.profile.unwrap_or(true),
        limit: f64::INFINITY,
    })
}

impl Law for CustomLaw {
    fn parameters(&self) -> &[ParameterSpec] {
        &self.parameters
    }

    fn predict(&self, inputs: &[f64], free: &[f64], gradient: &mut [f64]) -> f64 {
        let variable = |source: &Source| match *source {
            Source::Parameter(index) => self.parameters[index].coordinate.to_value(free[index]),
            Source::Input(index) => inputs[index],
        };
        let variables: Vec<f64> = self.sources.iter().map(variable).collect();
        for (index, derivative) in self.derivatives.iter().enumerate() {
            let coordinate = self.parameters[index].coordinate;
            let value = coordinate.to_value(free[index]);
            gradient[index] = derivative.value(&variables) * coordinate.slope(value);
        }
        self.expression.value(&variables)
    }
}
