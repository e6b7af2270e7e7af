//! What all fits by an objective share.

use super::{Options, Schedule, row_names};
use crate::adam;
use crate::engine::{self, Effort};
use crate::error::Result;
use crate::law::{Law, Rows};
use crate::objective::{Loss, Objective};
use crate::solve::{Optimum, Problem};
use crate::table::Table;
use fathom_depth::Correction;
use fathom_results::{
    FitObjective, FitPoint, Fitted, Named, Parameter, Prediction, Published, ScanPoint, Starts,
};
use nalgebra::DMatrix;
use rayon::prelude::*;

/// What repeats the source's schedule and returns the coordinates that it ends with.
pub(super) type SourceSchedule<'a> = dyn Fn(&Problem<'_>) -> Vec<f64> + 'a;

/// A law with the rows of a table.
pub(super) struct Case<'a> {
    pub(super) law: &'a dyn Law,
    /// All rows.
    pub(super) rows: Rows,
    /// The names of the inputs' columns.
    pub(super) inputs: Vec<String>,
    /// The names of the table's rows.
    pub(super) names: Option<Vec<String>>,
    pub(super) objective: Objective,
    /// The loss whose Jacobian gives the standard errors.
    pub(super) errors: Loss,
    pub(super) published: Option<(&'static str, Vec<f64>)>,
    pub(super) drop_highest: usize,
    /// The source's schedule, if that is to be repeated.
    pub(super) schedule: Option<&'a SourceSchedule<'a>>,
}

/// A fit with what predictions need.
pub(super) struct Drawn {
    pub(super) optimum: Optimum,
    covariance: Option<DMatrix<f64>>,
    fits: Vec<Option<Vec<f64>>>,
    correction: Correction,
}

impl Case<'_> {
    /// The rows that are left when that many of the highest observed values, and those equal to the last of them, are dropped.
    pub(super) fn kept(&self, drop: usize) -> Rows {
        let mut sorted = self.rows.observed.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        match drop.checked_sub(1).map(|last| sorted.get(last)) {
            None => self.rows.clone(),
            Some(None) => self.rows.filtered(|_| false),
            Some(Some(&limit)) => self.rows.filtered(|row| self.rows.observed[row] < limit),
        }
    }

    pub(super) fn problem<'p>(&'p self, rows: &'p Rows) -> Problem<'p> {
        Problem { law: self.law, rows, objective: self.objective, weights: None, fixed: None }
    }

    /// Fits the law, and makes everything that does not depend on which law it is.
    pub(super) fn fit(&self, effort: &Effort<'_>) -> Result<(Fitted, Drawn)> {
        let rows = self.kept(self.drop_highest);
        let inputs: Vec<&str> = self.inputs.iter().map(String::as_str).collect();
        engine::check_rows(self.law, &rows, &inputs)?;
        let problem = self.problem(&rows);
        let (optimum, starts) = self.minimise(&problem, effort)?;
        let by_error = Problem { objective: Objective { loss: self.errors, ..self.objective }, ..problem };
        let covariance = engine::covariance(&by_error, &optimum.free);
        let (fits, correction) = match effort.resamples > 0 && self.schedule.is_none() {
            true => engine::bootstrap(&problem, &optimum, effort)?,
            false => (Vec::new(), Correction::of(2)),
        };
        let drawn = Drawn { optimum, covariance, fits, correction };
        let optimum = &drawn.optimum;
        let predicted: Vec<f64> =
            (0..rows.len()).map(|row| self.law.value(rows.row(row), &optimum.free)).collect();
        let fitted = Fitted {
            rows: rows.len(),
            dropped: self.rows.len() - rows.len(),
            objective: self.describe_objective(optimum),
            parameters: drawn.parameters(self.law),
            r2: engine::r2(&rows.observed, &predicted),
            starts,
            published: self.published(&problem),
            heldout: engine::held_out(&problem, optimum, effort)?,
            profiles: engine::profiles(&problem, optimum, drawn.covariance.as_ref(), effort)?,
            points: self.points(&rows, optimum),
            ..Fitted::default()
        };
        Ok((fitted, drawn))
    }

    fn minimise(&self, problem: &Problem<'_>, effort: &Effort<'_>) -> Result<(Optimum, Option<Starts>)> {
        let Some(schedule) = self.schedule else {
            return engine::minimise(problem, effort).map(|(optimum, starts)| (optimum, Some(starts)));
        };
        let free = schedule(problem);
        if (effort.is_stopped)() {
            return Err(crate::Error::Cancelled);
        }
        let active: Vec<usize> = (0..free.len()).collect();
        let slope = problem.slope(&free, &active);
        Ok((Optimum { objective: problem.value(&free), slope, converged: false, free }, None))
    }

    fn describe_objective(&self, optimum: &Optimum) -> FitObjective {
        let Objective { loss, factor, mean } = self.objective;
        FitObjective {
            residual: loss.name().to_owned(),
            delta: loss.delta(),
            factor,
            mean,
            value: optimum.objective,
            schedule: if self.schedule.is_some() { "published" } else { "converged" }.to_owned(),
            converged: optimum.converged,
            slope: optimum.slope,
        }
    }

    fn published(&self, problem: &Problem<'_>) -> Option<Published> {
        let (source, values) = self.published.as_ref()?;
        let free = self.law.to_free(values);
        let predicted: Vec<f64> =
            (0..problem.rows.len()).map(|row| self.law.value(problem.rows.row(row), &free)).collect();
        let names = self.law.parameters().iter().map(|p| p.name.clone());
        Some(Published {
            source: (*source).to_owned(),
            parameters: names.zip(values.iter().copied()).collect(),
            objective: problem.value(&free),
            r2: engine::r2(&problem.rows.observed, &predicted),
        })
    }

    fn points(&self, fitted: &Rows, optimum: &Optimum) -> Vec<FitPoint> {
        let point = |row: usize| {
            let number = self.rows.numbers[row];
            FitPoint {
                row: number,
                name: self.names.as_ref().and_then(|names| names.get(number - 1).cloned()),
                observed: self.rows.observed[row],
                predicted: self.law.value(self.rows.row(row), &optimum.free),
                dropped: fitted.numbers.binary_search(&number).is_err(),
            }
        };
        (0..self.rows.len()).map(point).collect()
    }

    /// The fit with other rows or another objective, as a point of a scan.
    pub(super) fn scan_point(
        &self,
        choice: &str,
        value: impl Into<String>,
        drop: usize,
        objective: Objective,
        effort: &Effort<'_>,
    ) -> Result<ScanPoint> {
        let rows = self.kept(drop);
        let point = ScanPoint {
            choice: choice.to_owned(),
            value: value.into(),
            rows: rows.len(),
            ..ScanPoint::default()
        };
        let inputs: Vec<&str> = self.inputs.iter().map(String::as_str).collect();
        if engine::check_rows(self.law, &rows, &inputs).is_err() {
            return Ok(point);
        }
        match engine::minimise(&Problem { objective, ..self.problem(&rows) }, effort) {
            Ok((found, _)) => Ok(ScanPoint {
                parameters: Some(self.law.named(&found.free)),
                objective: Some(found.objective),
                converged: found.converged,
                ..point
            }),
            Err(crate::Error::Cancelled) => Err(crate::Error::Cancelled),
            Err(_) => Ok(point),
        }
    }

    /// The fit by each of the objectives on the same rows.
    pub(super) fn objective_scan(&self, effort: &Effort<'_>) -> Result<Vec<ScanPoint>> {
        let others =
            [Loss::SquaredLog, Loss::HuberLog { delta: 1e-3 }, Loss::HuberLog { delta: 1e-2 }, Loss::Squared];
        let positive = self.rows.observed.iter().all(|y| *y > 0.0);
        let mut points = Vec::new();
        for loss in others.into_iter().filter(|loss| positive || !loss.takes_logarithms()) {
            let name = match loss.delta() {
                Some(delta) => format!("{}:{delta}", loss.name()),
                None => loss.name().to_owned(),
            };
            let objective = Objective { loss, ..self.objective };
            let mut point = self.scan_point("objective", name, self.drop_highest, objective, effort)?;
            point.chosen = loss == self.objective.loss;
            points.push(point);
        }
        Ok(points)
    }

    /// The prediction of a row of inputs.
    pub(super) fn predict(
        &self,
        drawn: &Drawn,
        given: &Named<f64>,
        derived: Named<f64>,
        row: &[f64],
    ) -> Prediction {
        let of = |free: &[f64]| Some(self.law.value(row, free)).filter(|value| value.is_finite());
        let mut gradient = vec![0.0; drawn.optimum.free.len()];
        let value = self.law.predict(row, &drawn.optimum.free, &mut gradient);
        Prediction {
            inputs: given.clone(),
            derived,
            value,
            stderr: drawn.error_of(&gradient),
            interval: drawn.interval(of),
        }
    }
}

impl Drawn {
    fn parameters(&self, law: &dyn Law) -> Named<Parameter> {
        let values = law.to_values(&self.optimum.free);
        let parameter = |(index, spec): (usize, &crate::law::ParameterSpec)| {
            let of = |free: &[f64]| Some(spec.coordinate.to_value(free[index]).min(spec.limit));
            let error = self.covariance.as_ref().map(|c| c[(index, index)].sqrt());
            let parameter = Parameter {
                value: values[index],
                stderr: error.map(|error| error * spec.coordinate.slope(values[index])),
                interval: self.interval(of),
                log: spec.coordinate == crate::law::Coordinate::Log,
                ..Parameter::default()
            };
            (spec.name.clone(), parameter)
        };
        law.parameters().iter().enumerate().map(parameter).collect()
    }

    /// The bootstrap interval of a number.
    pub(super) fn interval(&self, of: impl Fn(&[f64]) -> Option<f64>) -> Option<[f64; 2]> {
        if self.fits.is_empty() { None } else { engine::interval(&self.fits, self.correction, of) }
    }

    /// A number with its bootstrap interval.
    pub(super) fn parameter(&self, of: impl Fn(&[f64]) -> Option<f64>) -> Parameter {
        let value = of(&self.optimum.free).unwrap_or(f64::NAN);
        Parameter { value, interval: self.interval(of), ..Parameter::default() }
    }

    /// An allocation for the fit and for each fit of the bootstrap.
    pub(super) fn allocations<T: Copy + Send>(
        &self,
        best: impl Fn(&[f64]) -> Option<T> + Sync,
    ) -> Allocations<'_, T> {
        let of = |fit: &Option<Vec<f64>>| fit.as_ref().and_then(|free| best(free));
        Allocations {
            drawn: self,
            chosen: best(&self.optimum.free),
            of_fits: self.fits.par_iter().map(of).collect(),
        }
    }

    /// The standard error of a number with this gradient by the coordinates.
    fn error_of(&self, gradient: &[f64]) -> Option<f64> {
        let covariance = self.covariance.as_ref()?;
        let terms = (0..gradient.len())
            .flat_map(|i| (0..gradient.len()).map(move |j| (i, j)))
            .map(|(i, j)| gradient[i] * gradient[j] * covariance[(i, j)]);
        Some(terms.sum::<f64>().max(0.0).sqrt())
    }
}

/// An allocation for a fit, and for each fit of its bootstrap.
pub(super) struct Allocations<'a, T> {
    drawn: &'a Drawn,
    chosen: Option<T>,
    of_fits: Vec<Option<T>>,
}

impl<T: Copy> Allocations<'_, T> {
    /// A number of the allocation with its bootstrap interval.
    pub(super) fn parameter(&self, of: impl Fn(&[f64], T) -> f64) -> Parameter {
        let value = self.chosen.map_or(f64::NAN, |at| of(&self.drawn.optimum.free, at));
        let values =
            self.drawn.fits.iter().zip(&self.of_fits).map(|(free, at)| Some(of(free.as_ref()?, (*at)?)));
        let interval = fathom_depth::Interval::of(values, self.drawn.correction).ok();
        let interval = interval.filter(|i| i.none_share <= 0.5).map(|i| [i.lo, i.hi]);
        Parameter { value, interval, ..Parameter::default() }
    }
}

/// Rows of positive columns with the groups of the options.
pub(super) fn read_rows(
    table: &Table,
    inputs: &[String],
    response: &str,
    loss: Loss,
    options: &Options<'_>,
) -> Result<Rows> {
    let columns: Vec<Vec<f64>> = inputs.iter().map(|name| table.positive(name)).collect::<Result<_>>()?;
    let observed =
        if loss.takes_logarithms() { table.positive(response)? } else { table.numbers(response)? };
    let mut rows = Rows::new(&columns.iter().map(Vec::as_slice).collect::<Vec<_>>(), &observed);
    if let Some(groups) = &options.groups {
        rows.groups = table.groups(groups)?.0;
    }
    Ok(rows)
}

/// The names of rows, from the column that the options name.
pub(super) fn names(table: &Table, options: &Options<'_>) -> Result<Option<Vec<String>>> {
    row_names(table, options)
}

/// What should be said of a fit.
pub(super) fn warnings(fitted: &Fitted, options: &Options<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    if options.schedule == Schedule::Converged && !fitted.objective.converged {
        warnings.push(format!(
            "the fit did not converge: the residuals still have a cosine of {:.1e} with their derivative by a parameter; \
             the numbers are the best that was found",
            fitted.objective.slope
        ));
    }
    let unknown: Vec<&str> =
        fitted.parameters.iter().filter(|(_, p)| p.stderr.is_none()).map(|(name, _)| name).collect();
    if !unknown.is_empty() {
        warnings.push(format!(
            "the rows do not determine {}: other values fit as well",
            crate::error::quoted(unknown)
        ));
    }
    if let Some(starts) = &fitted.starts
        && starts.agreeing * 2 < starts.count
    {
        warnings.push(format!(
            "only {} of {} starts ended within 1e-6 of the best objective; look for a better optimum with more starts",
            starts.agreeing, starts.count
        ));
    }
    warnings
}

/// The schedule of the depth law.
pub(super) fn adam_of_depth(
    problem: &Problem<'_>,
    scale: impl Fn(&[f64]) -> [f64; 3],
    is_stopped: &(dyn Fn() -> bool + Sync),
) -> Vec<f64> {
    let single = adam::Single::of(problem, scale);
    adam::run(&adam::Adam::depth(), problem.law, &single, &|| is_stopped())
}
