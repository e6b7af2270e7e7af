//! Short and long solutions in one training set, with weights that follow what the model can do (arXiv 2506.02678), on sums
//! that are small enough to see it.

mod arithmetic;
mod page;
pub mod recipe;
mod trainer;

pub use self::page::{Row, markdown, rows};
pub use self::recipe::Recipe;
pub use self::trainer::{Measured, Mixture, Run};

use self::trainer::train;
use crate::files::{self, write_json};
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use indicatif::ProgressBar;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// A finished study: what `mix.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Study {
    /// The recipe.
    pub recipe: Recipe,
    /// Means over seeds, mixture by mixture.
    pub rows: Vec<Row>,
    /// The runs: for each seed long solutions alone, the fixed mixtures, short ones alone, and the controlled one.
    pub runs: Vec<Run>,
}

/// Trains what is not there yet, and writes table and page into the folder.
///
/// # Errors
/// When the folder cannot be written or is in use, has a run of other settings, a loss is not a number, or short and
/// long solutions lead to the same length or accuracy.
pub fn study(recipe: &Recipe, out: &Path, device: &Device, overwrite: bool) -> Result<Study> {
    let _lock = files::claim(out)?;
    if overwrite {
        let made = ["mix.csv", "mix.md", "mix.json", "run.json", "report.html"];
        files::remove(out, &["runs", "plots"], &made)?;
    }
    let began = std::time::Instant::now();
    let folder = out.join("runs");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut weights = recipe.fixed.clone();
    weights.extend([0.0, 1.0]);
    weights.sort_by(f64::total_cmp);
    let steps = recipe.training.steps * recipe.seeds.len() * (weights.len() + 1);
    let progress = files::bar(&recipe.name, 0, steps);
    let trainer = Trainings { recipe, folder: &folder, device, progress: &progress };
    let mut runs = Vec::new();
    for seed in &recipe.seeds {
        let mut fixed = Vec::new();
        for weight in &weights {
            fixed.push(trainer.run(*seed, Mixture::Fixed(*weight))?);
        }
        let bounds = fixed.first().zip(fixed.last()).map(|(long, short)| (long.bound(), short.bound()));
        let (long, short) = bounds.context("there are at least two mixtures")?;
        let controlled = trainer.run(*seed, Mixture::Controlled { short, long })?;
        runs.extend(fixed.into_iter().chain([controlled]));
    }
    progress.finish_and_clear();
    let study = Study { rows: rows(&runs), recipe: recipe.clone(), runs };
    write(&study, out, began.elapsed().as_secs_f64())?;
    Ok(study)
}

struct Trainings<'a> {
    recipe: &'a Recipe,
    folder: &'a Path,
    device: &'a Device,
    progress: &'a ProgressBar,
}

impl Trainings<'_> {
    /// The run of a mixture: that of the folder, or a new one.
    fn run(&self, seed: u64, mixture: Mixture) -> Result<Run> {
        let path = self.path(seed, &mixture);
        if let Some(run) = files::read_json::<Run>(&path)? {
            // Which other seeds or mixtures there are makes no difference to a run.
            let same = Recipe {
                name: run.recipe.name.clone(),
                seeds: run.recipe.seeds.clone(),
                fixed: run.recipe.fixed.clone(),
                ..self.recipe.clone()
            };
            if (run.seed, run.mixture, &run.recipe) != (seed, mixture, &same) {
                bail!(
                    "{} was trained with other settings; give another folder with -o, or replace all with --overwrite",
                    path.display()
                );
            }
            self.progress.inc(self.recipe.training.steps as u64);
            return Ok(run);
        }
        self.progress.set_message(format!("seed {seed}, {}", mixture.name()));
        let run = train(self.recipe, seed, mixture, self.device, &|| self.progress.inc(1))?;
        write_json(&path, &run)?;
        Ok(run)
    }

    fn path(&self, seed: u64, mixture: &Mixture) -> PathBuf {
        let name = match mixture {
            Mixture::Fixed(short) => format!("short{short}"),
            Mixture::Controlled { .. } => "controlled".to_owned(),
        };
        self.folder.join(format!("seed{seed}-{name}.json"))
    }
}

impl Mixture {
    /// Its name in tables.
    pub fn name(&self) -> String {
        match self {
            Self::Fixed(0.0) => "long alone".to_owned(),
            Self::Fixed(1.0) => "short alone".to_owned(),
            Self::Fixed(short) => format!("{short} short"),
            Self::Controlled { .. } => "controlled".to_owned(),
        }
    }
}

impl Run {
    /// What training on one kind of solution alone led to on the development set: the controller sees no test problem.
    fn bound(&self) -> fathom_laws::mixture::Bound {
        self.curve.last().map_or(self.test, |measured| measured.development)
    }
}

fn write(study: &Study, out: &Path, seconds: f64) -> Result<()> {
    files::write(&out.join("mix.csv"), page::csv(study).as_bytes())?;
    files::write(&out.join("mix.md"), markdown(study).as_bytes())?;
    write_json(&out.join("mix.json"), study)?;
    files::write_run(out, &study.recipe, &page::answer(study), seconds)?;
    page::write(study, out)
}
