//! Students of several depths learn what a deep residual network does (arXiv 2602.05970): how does the loss fall with depth?
//!
//! Where a teacher's layers are independent, each layer of a student can only stand for the average of several of the
//! teacher's, and the loss is expected to fall about as 1 / layers. Where the teacher's layers are tied, it is a smooth
//! flow, of which more layers are a better discretisation.

mod fit;
pub mod network;
mod page;
pub mod recipe;
mod student;

pub use self::fit::{Exponent, exponents};
pub use self::page::answer;
pub use self::recipe::{Kind, Recipe};
pub use self::student::{Setting, Student};

use self::student::{Lessons, train};
use crate::files::{self, write_json};
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use indicatif::ProgressBar;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// A finished study: what `residual.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Study {
    /// The recipe.
    pub recipe: Recipe,
    /// The exponents, a teacher's kind each.
    pub exponents: Vec<Exponent>,
    /// The students, by kind, seed and layers.
    pub students: Vec<Student>,
}

/// Trains what is not there yet, and writes table, fit and page into the folder.
///
/// # Errors
/// When the folder cannot be written or is in use, has a student of other settings, or a loss is not a number.
pub fn study(recipe: &Recipe, out: &Path, device: &Device, overwrite: bool) -> Result<Study> {
    let _lock = files::claim(out)?;
    if overwrite {
        files::remove(
            out,
            &["students", "plots"],
            &["residual.csv", "residual.json", "run.json", "report.html"],
        )?;
    }
    let began = std::time::Instant::now();
    let folder = out.join("students");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // What is there is checked before anything is trained.
    let planned = plan(recipe);
    let mut found = planned.iter().map(|setting| read(&folder, setting)).collect::<Result<Vec<_>>>()?;
    let missing = found.iter().filter(|student| student.is_none()).count();
    let progress = files::bar(&recipe.name, 0, missing * recipe.training.steps);
    let mut lessons = None;
    for (setting, student) in planned.iter().zip(&mut found).filter(|(_, student)| student.is_none()) {
        let key = (setting.kind, setting.seed);
        if lessons.as_ref().is_none_or(|(of, _)| *of != key) {
            lessons = Some((key, Lessons::new(recipe, key.0, key.1, device)));
        }
        if let Some((_, lessons)) = &mut lessons {
            *student = Some(one(setting, lessons, &folder, &progress)?);
        }
    }
    progress.finish_and_clear();
    let students: Vec<Student> = found.into_iter().flatten().collect();
    let study = Study { exponents: exponents(&students)?, recipe: recipe.clone(), students };
    let is_new = missing > 0 || !out.join("run.json").exists();
    write(&study, out, is_new.then(|| began.elapsed().as_secs_f64()))?;
    Ok(study)
}

fn one(setting: &Setting, lessons: &mut Lessons, folder: &Path, progress: &ProgressBar) -> Result<Student> {
    progress.set_message(format!("{} teacher, {} layers", setting.kind.name(), setting.layers));
    let student = train(*setting, lessons, &|| progress.inc(1))?;
    write_json(&path(folder, setting), &student)?;
    Ok(student)
}

/// The students in the order in which they are trained.
fn plan(recipe: &Recipe) -> Vec<Setting> {
    let mut all = Vec::new();
    for kind in &recipe.teacher.kinds {
        for seed in &recipe.seeds {
            all.extend(recipe.students.layers.iter().map(|layers| Setting {
                kind: *kind,
                seed: *seed,
                layers: *layers,
                teacher_layers: recipe.teacher.layers,
                size: recipe.size,
                training: recipe.training,
            }));
        }
    }
    all
}

fn path(folder: &Path, setting: &Setting) -> PathBuf {
    folder.join(format!("{}-seed{}-{:03}.json", setting.kind.name(), setting.seed, setting.layers))
}

/// The student of a setting, if it was trained.
fn read(folder: &Path, setting: &Setting) -> Result<Option<Student>> {
    let path = path(folder, setting);
    let Some(student) = files::read_json::<Student>(&path)? else { return Ok(None) };
    if student.setting != *setting {
        bail!(
            "{} was trained with other settings; give another folder with -o, or replace all with --overwrite",
            path.display()
        );
    }
    Ok(Some(student))
}

fn write(study: &Study, out: &Path, seconds: Option<f64>) -> Result<()> {
    let mut csv = "teacher,seed,layers,loss,untrained_loss,parameters\n".to_owned();
    for Student { setting, loss, first_loss, parameters, .. } in &study.students {
        let Setting { kind, seed, layers, .. } = setting;
        csv += &format!("{},{seed},{layers},{loss},{first_loss},{parameters}\n", kind.name());
    }
    files::write(&out.join("residual.csv"), csv.as_bytes())?;
    write_json(&out.join("residual.json"), study)?;
    if let Some(seconds) = seconds {
        files::write_run(out, &study.recipe, &answer(study), seconds)?;
    }
    page::write(study, out)
}
