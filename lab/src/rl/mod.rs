//! Value-based reinforcement learning in small built-in environments (arXiv 2508.14881): how soon do agents reach a return, by
//! the size of their critic and by updates per step, and when does a critic overfit its targets?
//!
//! Every cell of a grid of width, depth, updates per step, batch size and seed is an agent of its own. Cells are trained
//! side by side, each on one thread, so that no number depends on the threads.

pub mod agent;
pub mod critic;
pub mod environment;
mod overfitting;
mod page;
pub mod recipe;
mod replay;
mod table;
mod times;

pub use self::agent::{Point, Setting};
pub use self::overfitting::{Errors, Slope, errors, slopes};
pub use self::recipe::Recipe;
pub use self::table::{answer, markdown};
pub use self::times::{Best, Efficiency, Time, Times, times};

use self::agent::learn;
use self::environment::Environment;
use crate::files::{self, write_json};
use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A finished study: what `rl.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Study {
    /// The recipe.
    pub recipe: Recipe,
    /// Steps to the threshold, laws, and what was left out.
    #[serde(flatten)]
    pub times: Times,
    /// TD errors of every setting.
    pub errors: Vec<Errors>,
    /// How TD errors change with the batch size.
    pub slopes: Vec<Slope>,
    /// The runs; their learning curves are in `runs`.
    #[serde(skip)]
    pub runs: Vec<Run>,
}

/// A run of the grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Run {
    /// What it depends on.
    pub setting: Setting,
    /// The number of weights of the critic.
    pub critic_parameters: usize,
    /// The step at which values were not numbers any more, where the run was stopped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub diverged: Option<usize>,
    /// How long it took.
    pub seconds: f64,
    /// The learning curve, which has a file of its own.
    #[serde(skip)]
    pub curve: Vec<Point>,
}

/// Trains what is not there yet, and writes tables, fits and page into the folder.
///
/// # Errors
/// When the folder cannot be written or is in use, or has a run of other settings.
pub fn study(recipe: &Recipe, out: &Path, overwrite: bool) -> Result<Study> {
    let _lock = files::claim(out)?;
    if overwrite {
        let made = ["rl.csv", "rl-runs.csv", "rl.md", "rl.json", "run.json", "report.html"];
        files::remove(out, &["runs", "plots"], &made)?;
    }
    let began = Instant::now();
    let folder = out.join("runs");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // What is there is checked before anything is trained.
    let settings = recipe.settings();
    let mut found = settings.iter().map(|setting| read(&folder, setting)).collect::<Result<Vec<_>>>()?;
    let mut missing: Vec<(&Setting, &mut Option<Run>)> =
        settings.iter().zip(&mut found).filter(|(_, run)| run.is_none()).collect();
    // The costliest first, so that no thread ends with a long one.
    missing.sort_by_key(|(setting, _)| std::cmp::Reverse(setting.cost()));
    let is_new = !missing.is_empty();
    let total = missing.iter().map(|(setting, _)| setting.cost()).sum::<u64>() / COST;
    let progress = files::bar_of(&recipe.name, "GFLOP", total);
    missing.into_iter().par_bridge().try_for_each(|(setting, run)| -> Result<()> {
        *run = Some(one(setting, &folder, &progress)?);
        Ok(())
    })?;
    progress.finish_and_clear();
    let runs: Vec<Run> = found.into_iter().flatten().collect();
    let study = Study {
        times: times(recipe, &runs)?,
        errors: errors(&runs),
        slopes: slopes(recipe, &runs),
        recipe: recipe.clone(),
        runs,
    };
    let seconds = if is_new { None } else { earlier_seconds(out) };
    write(&study, out, seconds.unwrap_or_else(|| began.elapsed().as_secs_f64()))?;
    Ok(study)
}

/// How long the last call took that trained anything.
fn earlier_seconds(out: &Path) -> Option<f64> {
    // What cannot be read is replaced anyway.
    let run: serde_json::Value = files::read_json(&out.join("run.json")).ok().flatten()?;
    run["seconds"].as_f64()
}

/// FLOP in a unit of progress.
const COST: u64 = 1_000_000_000;

impl Setting {
    /// FLOP of all updates: three passes forward and one back, as arXiv 2508.14881 counts them.
    fn cost(&self) -> u64 {
        let updates = self.updates * self.steps.saturating_sub(self.agent.warm_up);
        10 * (self.critic_parameters() * self.batch * updates) as u64
    }

    /// A name that no other run of a study has.
    pub(crate) fn name(&self) -> String {
        let Self { environment, seed, width, depth, updates, batch, .. } = self;
        format!("{environment}-w{width}-d{depth}-utd{updates}-batch{batch}-seed{seed}")
    }

    /// Whether it differs in nothing but the seed.
    fn is_like(&self, other: &Self) -> bool {
        *self == Self { seed: self.seed, ..other.clone() }
    }
}

fn one(setting: &Setting, folder: &Path, progress: &ProgressBar) -> Result<Run> {
    let began = Instant::now();
    let environment = Environment::named(&setting.environment)
        .with_context(|| format!("unknown environment {}", setting.environment))?;
    let updated = setting.steps.saturating_sub(setting.agent.warm_up).max(1) as u64;
    let (cost, mut done, mut shown) = (setting.cost(), 0, 0);
    let learned = learn(setting, environment, &mut |step| {
        done = cost * step.saturating_sub(setting.agent.warm_up) as u64 / updated / COST;
        progress.inc(done - shown);
        shown = done;
    });
    let run = Run {
        setting: setting.clone(),
        critic_parameters: setting.critic_parameters(),
        diverged: learned.diverged,
        seconds: began.elapsed().as_secs_f64(),
        curve: learned.curve,
    };
    let mut lines = String::new();
    for point in &run.curve {
        lines += &(serde_json::to_string(point)? + "\n");
    }
    // A run counts once its second file is there.
    let [curve, of] = paths(folder, setting);
    files::write(&curve, lines.as_bytes())?;
    write_json(&of, &run)?;
    Ok(run)
}

/// The learning curve of a run, and the rest.
fn paths(folder: &Path, setting: &Setting) -> [PathBuf; 2] {
    ["jsonl", "json"].map(|kind| folder.join(format!("{}.{kind}", setting.name())))
}

/// The run of a setting, if it was finished.
fn read(folder: &Path, setting: &Setting) -> Result<Option<Run>> {
    let [curve, path] = paths(folder, setting);
    let Some(run) = files::read_json::<Run>(&path)? else { return Ok(None) };
    if run.setting != *setting {
        bail!(
            "{} was trained with other settings; give another folder with -o, or replace all with --overwrite",
            path.display()
        );
    }
    let text = fs::read_to_string(&curve).with_context(|| format!("cannot read {}", curve.display()))?;
    let points = text.lines().map(serde_json::from_str).collect::<Result<Vec<Point>, _>>();
    let points = points
        .with_context(|| format!("{} is not a learning curve; --overwrite begins anew", curve.display()))?;
    let planned = setting.steps / setting.evaluation.every;
    if run.diverged.is_none() && points.len() != planned {
        bail!(
            "{} has {} points, not {planned}; remove {} to train it again",
            curve.display(),
            points.len(),
            path.display()
        );
    }
    Ok(Some(Run { curve: points, ..run }))
}

fn write(study: &Study, out: &Path, seconds: f64) -> Result<()> {
    files::write(&out.join("rl.csv"), times::csv(&study.times.times).as_bytes())?;
    files::write(&out.join("rl-runs.csv"), table::runs(study).as_bytes())?;
    files::write(&out.join("rl.md"), markdown(study).as_bytes())?;
    write_json(&out.join("rl.json"), study)?;
    files::write_run(out, &study.recipe, &answer(study), seconds)?;
    page::write(study, out)
}
