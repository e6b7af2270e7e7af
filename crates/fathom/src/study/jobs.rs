//! What a study runs beside measurements: prunings, early exits, maps between models, growth, and studies of the lab.

use super::{CellState, PlannedCell, Study};
use crate::error::invalid;
use crate::lab::LabRun;
use crate::{Error, Exit, Grow, LayerMap, Observer, Prune, Result};
use fathom_analysis::StudyDescription;
use fathom_analysis::study::{JobCell, JobKind, LabRecipe};
use fathom_analysis::tables::JobRow;
use fathom_results::{Exiting, Folder, GrowMethod, Growing, Mapping, Pruning, folder};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What stands in the folder of a job about the study that ran it.
const CELL: &str = "cell.json";

/// A job, ready to run.
pub(super) enum Job {
    Prune(Prune),
    Exit(Exit),
    Map(LayerMap),
    Grow(Box<Grow>),
    Lab(LabRun),
}

impl Job {
    /// The job that a description asks for.
    pub(super) fn of(study: &Study, cell: JobCell) -> Result<Self> {
        let described = &study.description;
        let job = &described.jobs[cell.job];
        let (out, command) = (described.job_folder(cell), study.command.clone());
        let Some(index) = cell.model else { return lab(study, cell, out).map(Self::Lab) };
        let model = described.models[index].id.as_str();
        let mut options = described.job_options(cell);
        let mut take = |wanted: &str| {
            let place = options.iter().position(|(name, _)| name == wanted)?;
            Some(options.remove(place).1)
        };
        macro_rules! built {
            ($builder:expr) => {{
                let builder = $builder.out(out).command(command);
                let builder = match study.threads {
                    Some(threads) => builder.threads(threads),
                    None => builder,
                };
                let (mut builder, mut problems) = (builder, Vec::new());
                for (name, value) in options {
                    match builder.clone().set(&name, &value) {
                        Ok(with) => builder = with,
                        Err(error) => problems.push(format!("job '{}': {error}", job.name)),
                    }
                }
                if problems.is_empty() {
                    problems
                        .extend(builder.check().err().map(|error| format!("job '{}': {error}", job.name)));
                }
                if problems.is_empty() { Ok(builder) } else { Err(Error::Invalid(problems.join("\n"))) }
            }};
        }
        Ok(match job.kind {
            JobKind::Prune => Self::Prune(built!(Prune::new(model))?),
            JobKind::Exit => Self::Exit(built!(Exit::new(model))?),
            JobKind::Map => {
                let target = described.job_target(cell).unwrap_or(index);
                Self::Map(built!(LayerMap::new(model, described.models[target].id.as_str()))?)
            }
            JobKind::Grow => {
                let (method, layers) =
                    (take("method").unwrap_or_default(), take("layers").unwrap_or_default());
                let Some(method) = GrowMethod::ALL.into_iter().find(|known| known.name() == method) else {
                    let names = GrowMethod::ALL.map(GrowMethod::name).join(", ");
                    invalid!("job '{}': unknown method '{method}'; give one of {names}", job.name);
                };
                let Ok(layers) = layers.parse() else {
                    invalid!("job '{}': layers: '{layers}' is not a whole number", job.name);
                };
                Self::Grow(Box::new(built!(Grow::new(model, method, layers))?))
            }
            JobKind::Lab => lab(study, cell, out).map(Self::Lab)?,
        })
    }

    fn overwrite(self, overwrite: bool) -> Self {
        match self {
            Self::Prune(job) => Self::Prune(job.overwrite(overwrite)),
            Self::Exit(job) => Self::Exit(job.overwrite(overwrite)),
            Self::Map(job) => Self::Map(job.overwrite(overwrite)),
            Self::Grow(job) => Self::Grow(Box::new(job.overwrite(overwrite))),
            Self::Lab(job) => Self::Lab(job.overwrite(overwrite)),
        }
    }

    fn run(&self, observer: &dyn Observer) -> Result<()> {
        match self {
            Self::Prune(job) => job.run(observer).map(drop),
            Self::Exit(job) => job.run(observer).map(drop),
            Self::Map(job) => job.run(observer).map(drop),
            Self::Grow(job) => job.run(observer).map(drop),
            Self::Lab(job) => job.run(observer),
        }
    }

    /// Seconds, and bytes of weights and working memory.
    pub(super) fn estimate(&self, observer: &dyn Observer) -> Result<super::CellEstimate> {
        let of =
            |seconds, weights: u64, memory: u64| super::CellEstimate { seconds, bytes: weights + memory };
        match self {
            Self::Prune(job) => {
                job.estimate(observer).map(|e| of(e.seconds(), e.weight_bytes, e.memory_bytes))
            }
            Self::Exit(job) => {
                job.estimate(observer).map(|e| of(e.seconds(), e.weight_bytes, e.memory_bytes))
            }
            Self::Map(job) => job.estimate(observer).map(|e| of(e.seconds(), e.weight_bytes, e.memory_bytes)),
            Self::Grow(job) => job
                .estimate(observer)
                .map(|e| of(e.seconds(), e.weight_bytes, e.memory_bytes.max(e.making_bytes))),
            Self::Lab(_) => invalid!("what a study of the lab takes is not known beforehand"),
        }
    }
}

/// The file of results of a kind.
pub(super) fn result_file(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Prune => folder::PRUNE,
        JobKind::Exit => folder::EXIT,
        JobKind::Map => folder::MAP,
        JobKind::Grow => folder::GROW,
        JobKind::Lab => folder::RUN,
    }
}

/// A study of the lab into a folder.
fn lab(study: &Study, cell: JobCell, out: PathBuf) -> Result<LabRun> {
    let job = &study.description.jobs[cell.job];
    let Some(LabRecipe { command, recipe }) = &job.lab else {
        invalid!("job '{}' has no recipe", job.name);
    };
    if !Path::new(recipe).is_file() {
        invalid!("job '{}': cannot find the recipe {recipe}", job.name);
    }
    Ok(LabRun::new(command, recipe, out, study.threads))
}

/// What a job depends on, as it is kept in its folder.
fn begun(study: &StudyDescription, cell: JobCell) -> Value {
    let arguments = study.job_arguments(cell);
    match &study.jobs[cell.job].lab {
        // Without the recipe, whatever was made of it is of another one.
        Some(lab) => json!({ "arguments": arguments, "recipe": std::fs::read_to_string(&lab.recipe).ok() }),
        None => json!({ "arguments": arguments }),
    }
}

/// How far a job is.
pub(super) fn state(study: &StudyDescription, cell: JobCell) -> CellState {
    let out = study.job_folder(cell);
    let read =
        |name: &str| -> Option<Value> { serde_json::from_slice(&std::fs::read(out.join(name)).ok()?).ok() };
    match (read(CELL), read(folder::RUN)) {
        (None, None) => CellState::Missing,
        (Some(found), _) if found != begun(study, cell) => CellState::Other,
        (None, Some(_)) => CellState::Other,
        (_, Some(run)) if run["status"] == "complete" => CellState::Finished,
        _ => CellState::Begun,
    }
}

/// The jobs as cells; `first` is the number of the first.
pub(super) fn planned(study: &Study, first: usize) -> Vec<PlannedCell> {
    let described = &study.description;
    let one = |(index, cell): (usize, JobCell)| {
        let job = &described.jobs[cell.job];
        let out = format!("--out={}", described.job_folder(cell).display());
        PlannedCell {
            cell: first + index,
            kind: job.kind.name(),
            model: described.job_owner(cell).to_owned(),
            data: job.name.clone(),
            folder: described.job_folder(cell),
            state: state(described, cell),
            arguments: arguments(described.job_arguments(cell), out, job.kind),
            estimate: None,
        }
    };
    described.job_cells().enumerate().map(one).collect()
}

/// With the folder: behind the command of the lab, in front of all others.
fn arguments(mut all: Vec<String>, out: String, kind: JobKind) -> Vec<String> {
    all.insert(usize::from(kind == JobKind::Lab), out);
    all
}

/// Runs a job, unless it is there already.
pub(super) fn run_one(study: &Study, cell: JobCell, title: &str, observer: &dyn Observer) -> Result<()> {
    let described = &study.description;
    let state = state(described, cell);
    if state == CellState::Finished {
        observer.note(&format!("{title}: there already"));
        return Ok(());
    }
    let out = described.job_folder(cell);
    let other = state == CellState::Other;
    if other && !study.overwrite {
        invalid!(
            "{} was made with other options; nothing was changed: give --overwrite to make such cells anew",
            out.display()
        );
    }
    let job = Job::of(study, cell)?.overwrite(other);
    observer.note(title);
    let folder = Folder::create(out)?;
    folder.write_json_atomic(CELL, &begun(described, cell))?;
    job.run(observer)
}

/// What each job found.
pub(super) fn rows(study: &StudyDescription) -> Vec<JobRow> {
    let row = |cell: JobCell| {
        let job = &study.jobs[cell.job];
        let finished = state(study, cell) == CellState::Finished;
        let found = finished.then(|| conclusion(job.kind, &study.job_folder(cell))).flatten();
        JobRow {
            kind: job.kind,
            name: job.name.clone(),
            model: cell.model.map(|model| study.models[model].name.clone()),
            target: study.job_target(cell).map(|target| study.models[target].name.clone()),
            conclusion: found,
        }
    };
    study.job_cells().map(row).collect()
}

fn conclusion(kind: JobKind, out: &Path) -> Option<String> {
    let file = out.join(result_file(kind));
    match kind {
        JobKind::Prune => Some(Pruning::read(&file).ok()?.choice.reason),
        JobKind::Exit => Some(Exiting::read(&file).ok()?.choice.reason),
        JobKind::Map => Some(Mapping::read(&file).ok()?.conclusion),
        JobKind::Grow => Some(Growing::read(&file).ok()?.conclusion),
        JobKind::Lab => {
            let run: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
            Some(run["conclusion"].as_str()?.to_owned())
        }
    }
}
