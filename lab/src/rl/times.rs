//! Environment steps to a return, and the law of data efficiency fitted to them.

use super::agent::Setting;
use super::recipe::Recipe;
use super::{Run, environment::Environment};
use crate::statistics::Mean;
use anyhow::{Context, Result};
use fathom_laws::isotonic::first_reached;
use fathom_laws::rl::{BATCH, FLOP};
use fathom_laws::{Choice, Effort, Options, Response, Table, fit};
use fathom_results::{HeldOut, Named, Parameter};
use serde::Serialize;

/// Resamples of the bootstrap over settings, and for each best allocation, which is costlier.
const RESAMPLES: usize = 1000;
const RESAMPLES_OF_ALLOCATIONS: usize = 200;
/// Repetitions of the held-out error.
const HELD_OUT: usize = 100;
/// Amounts of compute that the best allocation is looked for.
const BUDGETS: usize = 5;

/// How soon agents of a setting reach the threshold.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Time {
    /// The environment.
    pub environment: String,
    /// The width of the critic.
    pub width: usize,
    /// Its number of blocks.
    pub depth: usize,
    /// Its number of weights.
    pub critic_parameters: usize,
    /// Updates per environment step.
    pub updates: usize,
    /// The batch size that reaches the threshold first.
    pub batch: usize,
    /// The environment steps until the mean return over seeds, made non-decreasing, is at the threshold.
    pub steps: f64,
    /// Those of each seed alone, which may never reach it.
    pub of_seeds: Vec<Option<f64>>,
    /// Their mean, where all seeds reach it.
    pub over_seeds: Option<Mean>,
}

/// The law D = d_min (1 + (a / σ)^α + (b / N)^β) of an environment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Efficiency {
    /// The environment.
    pub environment: String,
    /// The number of settings.
    pub settings: usize,
    /// a, alpha, b, beta and d_min, with 95 % bootstrap intervals over settings.
    pub parameters: Named<Parameter>,
    /// The share of the variance of the steps that the law explains.
    pub r2: f64,
    /// The root mean square of the differences of logarithms, fitted and on settings that were held out.
    pub held_out: Option<HeldOut>,
    /// The steps that the law gives for each setting, in the order of the times.
    pub predicted: Vec<f64>,
    /// The settings of fewest steps for several amounts of compute.
    pub best: Vec<Best>,
}

/// The setting of fewest environment steps for an amount of compute.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Best {
    /// The compute in FLOP, 10 x 256 for each update and weight.
    pub budget: f64,
    /// utd, critic_params and steps, with 95 % bootstrap intervals.
    pub values: Named<Parameter>,
    /// Whether updates or weights are beyond those that were tried.
    pub outside: bool,
}

/// What was found of times and laws.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Times {
    /// The settings that reach the threshold.
    pub times: Vec<Time>,
    /// A law for each environment with enough of them.
    pub laws: Vec<Efficiency>,
    /// What was left out, and what should be known of the fits.
    pub warnings: Vec<String>,
}

/// The times to the threshold, and the laws of environments.
///
/// # Errors
/// When a table cannot be made.
pub fn times(recipe: &Recipe, runs: &[Run]) -> Result<Times> {
    let mut found = Times::default();
    let mut rest = runs;
    // Runs of a critic and a number of updates are neighbours: all batch sizes, and all seeds of each.
    while let Some(first) = rest.first() {
        let key = key(&first.setting);
        let count = rest.iter().take_while(|run| self::key(&run.setting) == key).count();
        let (group, others) = rest.split_at(count);
        rest = others;
        found.add(recipe, group);
    }
    for environment in recipe.environment.keys() {
        let of: Vec<&Time> = found.times.iter().filter(|time| time.environment == *environment).collect();
        match efficiency(environment, &of) {
            Ok((law, warnings)) => {
                found.warnings.extend(warnings.into_iter().map(|text| format!("{environment}: {text}")));
                found.laws.push(law);
            }
            Err(error) => found.warnings.push(format!("{environment}: no law is fitted: {error:#}")),
        }
    }
    Ok(found)
}

fn key(setting: &Setting) -> (&str, [usize; 3]) {
    (&setting.environment, [setting.width, setting.depth, setting.updates])
}

impl Times {
    /// Adds the time of the best batch size.
    fn add(&mut self, recipe: &Recipe, group: &[Run]) {
        let Some(first) = group.first() else { return };
        let setting = &first.setting;
        let Some(task) = recipe.environment.get(&setting.environment) else { return };
        let mut best: Option<Time> = None;
        for runs in group.chunk_by(|a, b| a.setting.batch == b.setting.batch) {
            if let Some(run) = runs.iter().find(|run| run.diverged.is_some()) {
                let step = run.diverged.unwrap_or_default();
                self.warnings.push(format!(
                    "{}: values are not numbers any more at step {step}, so this batch size is left out; a smaller \
                     agent.learning-rate may help",
                    run.setting.name()
                ));
                continue;
            }
            let found = time(runs, task.threshold);
            if let Some(found) = found.filter(|time| best.as_ref().is_none_or(|best| time.steps < best.steps))
            {
                best = Some(found);
            }
        }
        match best {
            Some(best) => self.times.push(best),
            None => self.warnings.push(format!(
                "{}, width {}, depth {}, {} updates per step: the return never reaches {} in {} steps; left out of the fit",
                setting.environment, setting.width, setting.depth, setting.updates, task.threshold, task.steps
            )),
        }
    }
}

/// Of runs that differ in their seed.
fn time(runs: &[Run], threshold: f64) -> Option<Time> {
    let first = runs.first()?;
    let steps: Vec<f64> = first.curve.iter().map(|point| point.step as f64).collect();
    let scores = |run: &Run| -> Vec<f64> { run.curve.iter().map(|point| point.score).collect() };
    let all: Vec<Vec<f64>> = runs.iter().map(scores).collect();
    let mean = |i: usize| all.iter().map(|scores| scores[i]).sum::<f64>() / all.len() as f64;
    let means: Vec<f64> = (0..steps.len()).map(mean).collect();
    let reached = first_reached(&steps, &means, threshold)?;
    let of_seeds: Vec<Option<f64>> =
        all.iter().map(|scores| first_reached(&steps, scores, threshold)).collect();
    let complete: Option<Vec<f64>> = of_seeds.iter().copied().collect();
    let Setting { environment, width, depth, updates, batch, .. } = &first.setting;
    Some(Time {
        environment: environment.clone(),
        width: *width,
        depth: *depth,
        critic_parameters: first.critic_parameters,
        updates: *updates,
        batch: *batch,
        steps: reached,
        over_seeds: complete.and_then(|times| Mean::of(&times)),
        of_seeds,
    })
}

/// The table that `fathom fit rl` reads.
pub(super) fn csv(times: &[Time]) -> String {
    let mut text = "env_name,width,depth,critic_params,utd,batch_size,time_to_threshold\n".to_owned();
    for time in times {
        let Time { environment, width, depth, critic_parameters, updates, batch, steps, .. } = time;
        text += &format!("{environment},{width},{depth},{critic_parameters},{updates},{batch},{steps}\n");
    }
    text
}

fn efficiency(environment: &str, times: &[&Time]) -> Result<(Efficiency, Vec<String>)> {
    let column = |of: fn(&Time) -> f64| -> Vec<f64> { times.iter().map(|time| of(time)).collect() };
    let [updates, sizes] = [column(|t| t.updates as f64), column(|t| t.critic_parameters as f64)];
    let steps = column(|time| time.steps);
    let table = Table::from_numbers(&[("utd", &updates), ("critic_params", &sizes), ("time", &steps)])?;
    let choice = Choice::Rl(Response::Steps);
    let effort = Effort { resamples: RESAMPLES, heldout: HELD_OUT, profile: 0, ..Effort::default() };
    let outcome = fit(&choice, &table, &Options { effort, ..Options::default() })?;
    let (_, fitted) = outcome.fits.into_iter().next().context("a fit has a result")?;
    let computes = updates.iter().zip(&sizes).zip(&steps).map(|((u, n), d)| FLOP * BATCH * u * n * d);
    let grid = [range(updates.iter().copied()), range(sizes.iter().copied())];
    let mut best = Vec::new();
    for budget in budgets(range(computes)) {
        let effort =
            Effort { resamples: RESAMPLES_OF_ALLOCATIONS, heldout: 0, profile: 0, ..Effort::default() };
        let optimal = Some([("budget".to_owned(), budget)].into_iter().collect());
        // Some amounts of compute cannot be spent.
        if let Ok(outcome) = fit(&choice, &table, &Options { effort, optimal, ..Options::default() }) {
            let optimal = outcome.fits.into_iter().next().and_then(|(_, fitted)| fitted.optimal);
            best.extend(optimal.map(|optimal| Best::of(budget, optimal.values, grid)));
        }
    }
    let law = Efficiency {
        environment: environment.to_owned(),
        settings: fitted.rows,
        parameters: fitted.parameters,
        predicted: fitted.points.iter().map(|point| point.predicted).collect(),
        r2: fitted.r2,
        held_out: fitted.heldout,
        best,
    };
    Ok((law, outcome.warnings))
}

impl Best {
    fn of(budget: f64, values: Named<Parameter>, grid: [[f64; 2]; 2]) -> Self {
        let beyond = |name: &str, [low, high]: [f64; 2]| {
            values.get(name).is_none_or(|found| !(low..=high).contains(&found.value))
        };
        let outside = beyond("utd", grid[0]) || beyond("critic_params", grid[1]);
        Self { budget, values, outside }
    }
}

impl Efficiency {
    /// Whether the settings determine every parameter.
    pub fn is_determined(&self) -> bool {
        self.parameters.iter().all(|(_, found)| found.stderr.is_some())
    }
}

fn range(values: impl Iterator<Item = f64>) -> [f64; 2] {
    values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| [low.min(value), high.max(value)])
}

/// Evenly spaced in their logarithms, ends included, each with two digits.
fn budgets([low, high]: [f64; 2]) -> Vec<f64> {
    let at = |i: usize| {
        let value = (low.ln() + (high / low).ln() * i as f64 / (BUDGETS - 1) as f64).exp();
        let unit = 10f64.powf(value.log10().floor() - 1.0);
        (value / unit).round() * unit
    };
    (0..BUDGETS).map(at).collect()
}

impl Setting {
    /// The number of weights of the critic.
    pub(super) fn critic_parameters(&self) -> usize {
        Environment::named(&self.environment).map_or(0, |environment| self.shape(environment).count())
    }
}

#[cfg(test)]
mod tests {
    use super::super::agent::Point;
    use super::*;
    use crate::settings;

    const RECIPE: &str = "name = 'a'\nseeds = [1, 2]\n[environment.chain]\nsteps = 600\nthreshold = 0.5\n[grid]\nwidths = [4]\n\
                          depths = [1]\nupdates = [1, 2]\nbatches = [8, 16]\n[evaluation]\nevery = 200\n";

    fn run(setting: Setting, scores: [f64; 3], diverged: Option<usize>) -> Run {
        let point = |(i, score): (usize, f64)| Point {
            step: 200 * (i + 1),
            score,
            training_error: 1.0,
            validation_error: None,
            mean_value: 0.0,
        };
        let curve = scores.into_iter().enumerate().map(point).collect();
        Run { critic_parameters: setting.critic_parameters(), setting, diverged, seconds: 0.0, curve }
    }

    #[test]
    fn the_mean_over_seeds_and_the_best_batch_size_count() {
        let recipe: Recipe = settings::parse(RECIPE).unwrap();
        let scores = |setting: &Setting| match (setting.updates, setting.batch, setting.seed) {
            // Alone, the second seed is there at once, and the first one late.
            (1, 8, 1) => [0.0, 0.3, 0.8],
            (1, 8, 2) => [0.9, 0.9, 0.9],
            (1, 16, _) => [0.0, 0.4, 0.6],
            _ => [0.4, 0.4, 0.4],
        };
        let all = |diverged: Option<usize>| -> Vec<Run> {
            let of = |setting: Setting| {
                let diverged = diverged.filter(|_| setting.batch == 8 && setting.updates == 1);
                let scores = scores(&setting);
                run(setting, scores, diverged)
            };
            recipe.settings().into_iter().map(of).collect()
        };
        let found = times(&recipe, &all(None)).unwrap();
        assert_eq!(found.times.len(), 1);
        let time = &found.times[0];
        assert_eq!((time.updates, time.batch, time.steps), (1, 8, 400.0));
        assert_eq!(time.of_seeds, [Some(600.0), Some(200.0)]);
        assert_eq!(time.over_seeds.unwrap().value, 400.0);
        assert!(found.warnings[0].contains("2 updates per step: the return never reaches 0.5 in 600 steps"));
        assert!(
            found.laws.is_empty() && found.warnings[1].contains("no law is fitted"),
            "{:?}",
            found.warnings
        );
        let line = "chain,4,1,210,1,8,400\n";
        assert!(csv(&found.times).ends_with(line), "{}", csv(&found.times));

        let found = times(&recipe, &all(Some(600))).unwrap();
        assert_eq!((found.times[0].batch, found.times[0].steps), (16, 600.0));
        assert!(found.warnings[0].contains("chain-w4-d1-utd1-batch8-seed1"), "{:?}", found.warnings);
    }

    #[test]
    fn amounts_of_compute_span_their_range() {
        assert_eq!(budgets([1e10, 1e14]), [1e10, 1e11, 1e12, 1e13, 1e14]);
    }
}
