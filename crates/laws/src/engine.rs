//! What every fit of a law by an objective reports: several starts, standard errors, intervals, held-out error, profiles.

use crate::error::{Error, Result, invalid, quoted};
use crate::law::{Law, Rows};
use crate::objective::Objective;
use crate::random::Stream;
use crate::solve::{Optimum, Problem};
use crate::valley;
use fathom_depth::{Correction, Interval, Resampling};
use fathom_results::{HeldOut, Profile, Starts};
use nalgebra::DMatrix;
use rayon::prelude::*;

/// How thorough a fit is. No number depends on how many threads work.
#[derive(Clone)]
pub struct Effort<'a> {
    /// The number of starts; the first is the law's own.
    pub starts: usize,
    /// Resamples of the bootstrap; 0 for no intervals.
    pub resamples: usize,
    /// Repetitions of the held-out error; 0 for none.
    pub heldout: usize,
    /// Values of each profile; 0 for none.
    pub profile: usize,
    /// The seed of starts, resamples and splits.
    pub seed: u64,
    /// Whether to stop.
    pub is_stopped: &'a (dyn Fn() -> bool + Sync),
}

impl Default for Effort<'_> {
    fn default() -> Self {
        Self { starts: 16, resamples: 1000, heldout: 20, profile: 41, seed: 0, is_stopped: &|| false }
    }
}

/// The share of the groups that is held out.
const HELD_OUT: f64 = 0.2;

/// The most starts, held-out repetitions and values of a profile.
const MOST: usize = 100_000;

/// The relative difference of objectives below which two optima are one.
const AGREEMENT: f64 = 1e-6;

/// How far a profile reaches, in standard errors.
const PROFILE_REACH: f64 = 3.0;

impl Effort<'_> {
    /// Refuses numbers that would take all memory.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the number.
    pub fn check(&self) -> Result<()> {
        if self.starts == 0 || self.starts > MOST {
            invalid!("starts: give a number from 1 to {MOST}");
        }
        for (name, value) in [("heldout", self.heldout), ("profile", self.profile)] {
            if value > MOST {
                invalid!("{name}: give a number up to {MOST}");
            }
        }
        if self.resamples > fathom_depth::MAX_RESAMPLES {
            invalid!("resamples: give a number up to {}", fathom_depth::MAX_RESAMPLES);
        }
        Ok(())
    }

    fn go_on(&self) -> Result<()> {
        if (self.is_stopped)() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Refuses rows that cannot determine the parameters: too few, or a constant input.
///
/// # Errors
/// [`Error::Undetermined`] says which.
pub fn check_rows(law: &dyn Law, rows: &Rows, names: &[&str]) -> Result<()> {
    let parameters = law.parameters().len();
    if rows.len() <= parameters {
        let list = quoted(law.parameters().iter().map(|p| p.name.as_str()));
        return Err(Error::Undetermined(format!(
            "too few rows ({}) for the {parameters} parameters {list}; a fit with standard errors needs at least {}",
            rows.len(),
            parameters + 1
        )));
    }
    for (column, name) in names.iter().enumerate() {
        let first = rows.row(0)[column];
        if (0..rows.len()).all(|row| rows.row(row)[column] == first) {
            return Err(Error::Undetermined(format!(
                "the column '{name}' is {first} in all {} rows that are fitted, so its parameters are not determined",
                rows.len()
            )));
        }
    }
    let first = rows.observed[0];
    if rows.observed.iter().all(|y| *y == first) {
        return Err(Error::Undetermined(format!(
            "the observed value is {first} in all {} rows that are fitted, so there is nothing to explain",
            rows.len()
        )));
    }
    Ok(())
}

/// Minimises from several starts.
///
/// # Errors
/// [`Error::Undetermined`] if the law has no value at any start, [`Error::Cancelled`].
pub fn minimise(problem: &Problem<'_>, effort: &Effort<'_>) -> Result<(Optimum, Starts)> {
    let specs = problem.law.parameters();
    let start = |index: usize| -> Vec<f64> {
        let mut random = Stream::new(effort.seed, index as u64);
        let drawn = |p: &crate::law::ParameterSpec| {
            let [low, high] = p.range.map(|end| p.coordinate.to_free(end));
            let share = random.uniform();
            if index == 0 { p.coordinate.to_free(p.start) } else { low + share * (high - low) }
        };
        specs.iter().map(drawn).collect()
    };
    let ended: Vec<Option<Optimum>> = (0..effort.starts)
        .into_par_iter()
        .map(|index| if (effort.is_stopped)() { None } else { problem.minimise(&start(index)) })
        .collect();
    let ended = valley::search_all(problem, ended, effort.is_stopped);
    effort.go_on()?;
    // The first of the best: the same whatever the order of the threads.
    let better = |a: &Optimum, b: &Optimum| (a.converged, -a.objective) > (b.converged, -b.objective);
    let best = ended.iter().flatten().fold(None::<&Optimum>, |best, one| match best {
        Some(best) if !better(one, best) => Some(best),
        _ => Some(one),
    });
    let Some(best) = best.cloned() else {
        return Err(Error::Undetermined(format!(
            "the law has no value for some row at any of {} starts; look for values that it is not made for",
            effort.starts
        )));
    };
    let agrees = |one: &&Optimum| one.objective <= best.objective + AGREEMENT * best.objective.abs();
    let agreeing: Vec<Vec<f64>> =
        ended.iter().flatten().filter(agrees).map(|one| problem.law.to_values(&one.free)).collect();
    let spread = specs.iter().enumerate().map(|(index, p)| {
        let values = agreeing.iter().map(|values| values[index]);
        let ends = values.fold([f64::INFINITY, f64::NEG_INFINITY], |[l, h], v| [l.min(v), h.max(v)]);
        (p.name.clone(), ends)
    });
    let starts = Starts {
        count: effort.starts,
        agreeing: agreeing.len(),
        converged: ended.iter().flatten().filter(|one| one.converged).count(),
        objectives: ended.iter().map(|one| one.as_ref().map(|one| one.objective)).collect(),
        spread: spread.collect(),
    };
    Ok((best, starts))
}

/// The covariance of the coordinates, from the Jacobian: `s^2 (J'J)^-1` with `s^2` the residual variance over n - p.
/// For Huber's loss `s^2` is the variance of its derivative over the squared share of rows where it is quadratic
/// (Huber, Robust Statistics, 1981, section 7.6). `None` where the rows do not determine all coordinates.
pub fn covariance(problem: &Problem<'_>, free: &[f64]) -> Option<DMatrix<f64>> {
    let (residuals, jacobian) = problem.jacobian(free);
    let freedom = residuals.len().checked_sub(free.len()).filter(|freedom| *freedom > 0)?;
    let influences: Vec<(f64, bool)> =
        residuals.iter().map(|r| problem.objective.loss.influence(*r)).collect();
    let inside = influences.iter().filter(|(_, inside)| *inside).count() as f64 / residuals.len() as f64;
    let variance =
        influences.iter().map(|(value, _)| value * value).sum::<f64>() / freedom as f64 / (inside * inside);
    let lengths: Vec<f64> = jacobian.column_iter().map(|column| column.norm()).collect();
    if lengths.iter().any(|length| !(length.is_finite() && *length > 0.0)) || !variance.is_finite() {
        return None;
    }
    let scaled = DMatrix::from_fn(jacobian.nrows(), jacobian.ncols(), |r, c| jacobian[(r, c)] / lengths[c]);
    let decomposed = scaled.svd(false, true);
    let largest = decomposed.singular_values.max();
    if decomposed.singular_values.min() < 1e-10 * largest {
        return None;
    }
    let v_t = decomposed.v_t?;
    Some(DMatrix::from_fn(free.len(), free.len(), |i, j| {
        let sum: f64 =
            (0..free.len()).map(|k| v_t[(k, i)] * v_t[(k, j)] / decomposed.singular_values[k].powi(2)).sum();
        variance * sum / lengths[i] / lengths[j]
    }))
}

/// The bootstrap: the coordinates of a fit to each resample of the groups, starting from the optimum. `None` where a
/// resample does not determine the law.
///
/// # Errors
/// [`Error::Undetermined`] with fewer than two groups, [`Error::Cancelled`].
pub fn bootstrap(
    problem: &Problem<'_>,
    optimum: &Optimum,
    effort: &Effort<'_>,
) -> Result<(Vec<Option<Vec<f64>>>, Correction)> {
    let groups = problem.rows.distinct_groups();
    if groups.len() < 2 {
        return Err(Error::Undetermined(
            "all rows are of one group, so there is nothing to resample; leave out --groups or give --resamples 0"
                .to_owned(),
        ));
    }
    let group_of: Vec<usize> = problem
        .rows
        .groups
        .iter()
        .map(|group| groups.binary_search(group).expect("every group is listed"))
        .collect();
    let resampling = Resampling::of(groups.len(), effort.resamples, effort.seed)
        .map_err(|error| Error::Invalid(error.to_string()))?;
    let refit = |drawn: &[u32]| {
        if (effort.is_stopped)() {
            return None;
        }
        let weights: Vec<f64> = group_of.iter().map(|&group| f64::from(drawn[group])).collect();
        let resampled = Problem { weights: Some(&weights), ..*problem };
        resampled.minimise(&optimum.free).filter(|found| found.converged).map(|found| found.free)
    };
    let fits = resampling.each(refit);
    effort.go_on()?;
    Ok((fits, resampling.correction()))
}

/// The 95 % interval of a number over the fits of a bootstrap; `None` if less than half of them have it.
pub fn interval(
    fits: &[Option<Vec<f64>>],
    correction: Correction,
    of: impl Fn(&[f64]) -> Option<f64>,
) -> Option<[f64; 2]> {
    let values = fits.iter().map(|fit| fit.as_ref().and_then(|free| of(free)));
    let interval = Interval::of(values, correction).ok()?;
    (interval.none_share <= 0.5).then_some([interval.lo, interval.hi])
}

/// The error on groups that were not fitted: a fifth of them, drawn again for each repetition.
///
/// # Errors
/// [`Error::Cancelled`].
pub fn held_out(problem: &Problem<'_>, optimum: &Optimum, effort: &Effort<'_>) -> Result<Option<HeldOut>> {
    let groups = problem.rows.distinct_groups();
    let held = (HELD_OUT * groups.len() as f64).round() as usize;
    if effort.heldout == 0 || held == 0 || held == groups.len() {
        return Ok(None);
    }
    let repeat = |index: usize| {
        if (effort.is_stopped)() {
            return None;
        }
        let mut shuffled = groups.clone();
        Stream::new(effort.seed ^ 0x6865_6c64, index as u64).shuffle(&mut shuffled);
        shuffled[..held].sort_unstable();
        let is_held = |row: usize| shuffled[..held].binary_search(&problem.rows.groups[row]).is_ok();
        let (fitted, unseen) = (problem.rows.filtered(|row| !is_held(row)), problem.rows.filtered(is_held));
        if fitted.len() <= problem.law.parameters().len() {
            return None;
        }
        let found = Problem { rows: &fitted, ..*problem }.minimise(&optimum.free).filter(|f| f.converged)?;
        let rms = |rows: &Rows| {
            let residuals = Problem { rows, ..*problem }.residuals(&found.free);
            (residuals.iter().map(|r| r * r).sum::<f64>() / residuals.len() as f64).sqrt()
        };
        Some((rms(&unseen), rms(&fitted)))
    };
    let all: Vec<Option<(f64, f64)>> = (0..effort.heldout).into_par_iter().map(repeat).collect();
    effort.go_on()?;
    let errors: Vec<(f64, f64)> = all.iter().flatten().copied().collect();
    if errors.is_empty() {
        return Ok(None);
    }
    let mean = |of: fn(&(f64, f64)) -> f64| errors.iter().map(of).sum::<f64>() / errors.len() as f64;
    let rms = mean(|e| e.0);
    let squares = errors.iter().map(|e| (e.0 - rms).powi(2)).sum::<f64>();
    Ok(Some(HeldOut {
        share: HELD_OUT,
        repeats: effort.heldout,
        failed: effort.heldout - errors.len(),
        rms,
        deviation: (squares / (errors.len().max(2) - 1) as f64).sqrt(),
        rms_fitted: mean(|e| e.1),
    }))
}

/// The best objective at fixed values of each parameter that has a profile, within three standard errors of the optimum.
///
/// # Errors
/// [`Error::Cancelled`].
pub fn profiles(
    problem: &Problem<'_>,
    optimum: &Optimum,
    covariance: Option<&DMatrix<f64>>,
    effort: &Effort<'_>,
) -> Result<Vec<Profile>> {
    if effort.profile < 2 {
        return Ok(Vec::new());
    }
    let specs = problem.law.parameters();
    let profiled: Vec<usize> = (0..specs.len()).filter(|index| specs[*index].profile).collect();
    let one = |&index: &usize| {
        let spec = &specs[index];
        let center = optimum.free[index];
        let error = covariance.map(|c| c[(index, index)].sqrt()).filter(|e| e.is_finite() && *e > 0.0);
        let reach = PROFILE_REACH * error.unwrap_or(0.1 * center.abs().max(0.1));
        let count = effort.profile;
        let at = |step: usize| center + reach * (2.0 * step as f64 / (count - 1) as f64 - 1.0);
        // Each minimisation starts where its neighbour ended, from the middle outward.
        let middle = count / 2;
        let mut objectives = vec![f64::NAN; count];
        let walk = |steps: &mut dyn Iterator<Item = usize>, objectives: &mut Vec<f64>| {
            let mut from = optimum.free.clone();
            for step in steps.take_while(|_| !(effort.is_stopped)()) {
                let held = Problem { fixed: Some((index, at(step))), ..*problem };
                if let Some(found) = held.minimise(&from) {
                    objectives[step] = found.objective;
                    from = found.free;
                }
            }
        };
        walk(&mut (middle..count), &mut objectives);
        walk(&mut (0..middle).rev(), &mut objectives);
        let values = (0..count).map(|step| spec.coordinate.to_value(at(step))).collect();
        Profile { parameter: spec.name.clone(), values, objectives }
    };
    let all = profiled.par_iter().map(one).collect();
    effort.go_on()?;
    Ok(all)
}

/// The share of the variance of the observed values that predictions explain.
pub fn r2(observed: &[f64], predicted: &[f64]) -> f64 {
    let mean = observed.iter().sum::<f64>() / observed.len() as f64;
    let left: f64 = observed.iter().zip(predicted).map(|(y, p)| (y - p).powi(2)).sum();
    1.0 - left / observed.iter().map(|y| (y - mean).powi(2)).sum::<f64>()
}

impl Objective {
    /// The mean of squared logarithmic residuals, times `factor`.
    pub fn mean_squared_log(factor: f64) -> Self {
        Self { loss: crate::Loss::SquaredLog, factor, mean: true }
    }
}
