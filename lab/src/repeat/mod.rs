//! What repeating data does to loss and to depth (arXiv 2305.13230): a grid of trainings with the same budget of tokens, of
//! which fewer and fewer are unique.

mod measuring;
mod page;
pub mod recipe;
mod table;

pub use self::measuring::Depth;
pub use self::recipe::Recipe;
pub(crate) use self::table::table;
pub use self::table::{Group, groups, markdown};

use self::recipe::Cell;
use crate::files::{self, write_json};
use crate::train::{HELD_OUT_TEXTS, train};
use anyhow::{Context, Result};
use burn::tensor::Device;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A finished study: what `repeat.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Study {
    /// The recipe.
    pub recipe: Recipe,
    /// Means over seeds.
    pub groups: Vec<Group>,
    /// The runs.
    pub runs: Vec<Run>,
    /// What should be known before the numbers are used.
    pub notes: Vec<String>,
}

/// A run of the grid.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Run {
    /// The name of the decoder's size.
    pub size: String,
    /// The name of the regulariser.
    pub regulariser: String,
    /// How often unique tokens were seen.
    pub epochs: usize,
    /// The seed.
    pub seed: u64,
    /// The number of unique tokens.
    pub unique: usize,
    /// The number of weights.
    pub parameters: usize,
    /// The mean training loss since the measurement before the last, in nats per token, with what regularises.
    pub training_loss: f64,
    /// The loss on held-out texts at the end, in nats per token.
    pub validation_loss: f64,
    /// The least one on the way.
    pub best_validation_loss: f64,
    /// The effective depths of the last checkpoint; none where they were not measured.
    pub depth: Vec<Depth>,
}

/// Trains and measures what is not there yet, and writes tables and page into the folder.
///
/// # Errors
/// When the folder cannot be written or is in use, a run there has other settings, a training fails, or a measurement does.
pub fn study(recipe: &Recipe, out: &Path, device: &Device, overwrite: bool) -> Result<Study> {
    let _lock = files::claim(out)?;
    if overwrite {
        let made = ["repeat.csv", "repeat.md", "repeat.json", "run.json", "report.html"];
        files::remove(out, &["runs", "plots"], &made)?;
    }
    let began = std::time::Instant::now();
    let program = measuring::program().filter(|_| recipe.measure.texts > 0);
    let cells = recipe.cells();
    let mut runs = Vec::new();
    for (i, cell) in cells.iter().enumerate() {
        let folder = folder(out, cell);
        if !folder.join("run.json").exists() {
            eprintln!("run {} of {}: {}", i + 1, cells.len(), cell.recipe.name);
        }
        runs.push(run(cell, recipe, &folder, device, program.as_deref())?);
    }
    let mut notes = Vec::new();
    if recipe.measure.texts > 0 && program.is_none() {
        notes.push(
            "Effective depths are not measured: there is no `fathom` beside this program or on PATH. Install it and repeat \
             the command."
                .to_owned(),
        );
    }
    let study = Study { groups: groups(recipe, &runs), recipe: recipe.clone(), runs, notes };
    write(&study, out, began.elapsed().as_secs_f64())?;
    Ok(study)
}

fn folder(out: &Path, cell: &Cell) -> PathBuf {
    out.join("runs").join(&cell.recipe.name)
}

fn run(cell: &Cell, recipe: &Recipe, folder: &Path, device: &Device, program: Option<&Path>) -> Result<Run> {
    let trained = train(&cell.recipe, folder, device, false)?;
    let depth = match program {
        Some(program) => {
            let paths = [&trained.checkpoint, &folder.join(HELD_OUT_TEXTS), &folder.join("measured")];
            measuring::measure(program, &recipe.measure, paths.map(PathBuf::as_path))?
        }
        None => Vec::new(),
    };
    let last = trained.metrics.last().with_context(|| format!("{} has no metrics", folder.display()))?;
    let best = trained.metrics.iter().map(|metric| metric.validation_loss).fold(f64::INFINITY, f64::min);
    Ok(Run {
        size: cell.size.clone(),
        regulariser: cell.regulariser.clone(),
        epochs: cell.epochs,
        seed: cell.recipe.seed,
        unique: cell.recipe.data.unique.unwrap_or_default(),
        parameters: trained.parameters,
        training_loss: last.training_loss,
        validation_loss: last.validation_loss,
        best_validation_loss: best,
        depth,
    })
}

fn write(study: &Study, out: &Path, seconds: f64) -> Result<()> {
    files::write(&out.join("repeat.csv"), table::csv(study).as_bytes())?;
    files::write(&out.join("repeat.md"), markdown(study).as_bytes())?;
    write_json(&out.join("repeat.json"), study)?;
    files::write_run(out, &study.recipe, &page::answer(study), seconds)?;
    page::write(study, out)
}
