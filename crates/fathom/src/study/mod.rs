//! Studies: models on data sets as a file describes, cell by cell.

mod assemble;
mod cells;
mod jobs;
mod machines;
mod plan;
mod submit;

use crate::error::invalid;
use crate::folders::Bootstrap;
use crate::measurement::bootstrap_options;
use crate::{Error, Measurement, Observer, PromptSpec, Result, threads};
use fathom_analysis::study::Cell;
use fathom_analysis::{StudyDescription, Tables};
use fathom_data::Options;
use fathom_model::source;
use fathom_results::Rule;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

pub use plan::{CellEstimate, CellState, PlannedCell, ranges};
pub use submit::{Scheduler, quoted};

/// A study: models on data sets as a `STUDY.toml` describes, and what their runs say together.
///
/// ```no_run
/// use fathom::{Silent, Study};
///
/// let outcome = Study::read("studies/small-models.toml".as_ref())?.run(&Silent)?;
/// println!("{}", outcome.tables.markdown());
/// # Ok::<(), fathom::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Study {
    description: StudyDescription,
    /// The description as it stands in the file.
    text: String,
    file: String,
    overwrite: bool,
    tables_only: bool,
    bootstrap: Bootstrap,
    threads: Option<usize>,
    command: Vec<String>,
}

/// The outcome of a study.
#[derive(Clone, Debug)]
pub struct StudyOutcome {
    /// Depths, comparisons and answers.
    pub tables: Tables,
    /// The study's folder.
    pub folder: PathBuf,
    /// The cells that failed, with the reasons.
    pub failed: Vec<(String, String)>,
    /// The number of all cells.
    pub cells: usize,
}

impl Study {
    /// Reads a description.
    ///
    /// # Errors
    /// When the file cannot be read; everything that is wrong with it, each with its line.
    pub fn read(file: &Path) -> Result<Self> {
        let path = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|e| {
            Error::Invalid(format!("cannot read {path}: {e}; give the file that describes the study"))
        })?;
        let description = StudyDescription::parse(&text, &path)?;
        let seed = description.seed.unwrap_or(Options::SEED);
        Ok(Self {
            description,
            text,
            file: path,
            overwrite: false,
            tables_only: false,
            bootstrap: Bootstrap { seed, ..Bootstrap::default() },
            threads: None,
            command: Vec::new(),
        })
    }

    /// Deletes cells that were measured with other options or prompts, and measures them again.
    #[must_use]
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Makes tables and page of finished cells, without measuring.
    #[must_use]
    pub fn tables_only(mut self, tables_only: bool) -> Self {
        self.tables_only = tables_only;
        self
    }

    /// Another threshold for a depth rule.
    #[must_use]
    pub fn threshold(mut self, rule: Rule, value: f64) -> Self {
        self.bootstrap.thresholds.push((rule, value));
        self
    }

    /// The number of resamples of the bootstrap.
    #[must_use]
    pub fn resamples(mut self, resamples: usize) -> Self {
        self.bootstrap.resamples = resamples;
        self
    }

    /// The number of threads; all cores unless set otherwise. No result depends on it.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The command line to record in the `run.json` of each cell.
    #[must_use]
    pub fn command(mut self, command: Vec<String>) -> Self {
        self.command = command;
        self
    }

    /// The description.
    pub fn description(&self) -> &StudyDescription {
        &self.description
    }

    /// The arguments of `fathom measure` that measure each cell into its folder.
    pub fn commands(&self) -> Vec<Vec<String>> {
        self.description.cells().map(|cell| self.command_of(cell)).collect()
    }

    /// The commands of the jobs beside measurements, and their arguments.
    pub fn job_commands(&self) -> Vec<(&'static str, Vec<String>)> {
        jobs::planned(self, 1).into_iter().map(|cell| (cell.kind, cell.arguments)).collect()
    }

    fn command_of(&self, cell: Cell) -> Vec<String> {
        let out = format!("--out={}", self.description.folder(cell).display());
        [out].into_iter().chain(self.description.arguments(cell)).collect()
    }

    /// The measurement of each cell.
    ///
    /// # Errors
    /// [`Error::Invalid`] with everything that is wrong with any of them: options, models that are not there, data that
    /// cannot be read. Nothing is downloaded.
    pub fn measurements(&self, observer: &dyn Observer) -> Result<Vec<Measurement>> {
        Ok(self.planned(observer)?.into_iter().map(|(_, m)| m).collect())
    }

    fn planned(&self, observer: &dyn Observer) -> Result<Vec<(Cell, Measurement)>> {
        let study = &self.description;
        let mut problems = Vec::new();
        for model in &study.models {
            if let Err(error) = source::check(&model.id) {
                problems.push(format!("model '{}': {error}", model.name));
            }
        }
        let mut cells = Vec::new();
        for cell in study.cells() {
            match self.measurement(cell) {
                Ok(measurement) => cells.push((cell, measurement)),
                Err(found) => problems.extend(found),
            }
        }
        // Sets from the hub are fetched when their turn comes; all others can be checked now.
        let from_hub = |id: &str| {
            let entry = fathom_data::catalogue().iter().find(|e| Some(e.id) == id.split(':').next());
            entry.is_some_and(|e| e.hub.is_some()) && !id.contains("file=")
        };
        for data in study.data.iter().filter(|d| !from_hub(&d.id)) {
            let spec = PromptSpec { limit: Some(1), ..PromptSpec::new(data.id.as_str()) };
            if let Err(error) = spec.load(observer) {
                problems.push(format!("data '{}': {error}", data.name));
            }
        }
        for cell in study.job_cells() {
            if let Err(error) = jobs::Job::of(self, cell) {
                problems.push(error.to_string());
            }
        }
        // An option that is wrong for a model or a data set is wrong in all of its cells.
        let mut seen = HashSet::new();
        problems.retain(|p| seen.insert(p.clone()));
        match problems.is_empty() {
            true => Ok(cells),
            false => invalid!("{} cannot be measured:\n{}", self.file, problems.join("\n")),
        }
    }

    /// The measurement of a cell, or everything that is wrong with its options.
    fn measurement(&self, cell: Cell) -> Result<Measurement, Vec<String>> {
        let study = &self.description;
        let mut measurement = Measurement::new(study.models[cell.model].id.as_str())
            .data(study.data[cell.data].id.as_str())
            .out(study.folder(cell))
            .command(self.command.clone());
        let mut problems = Vec::new();
        for (name, value) in study.options(cell) {
            match measurement.clone().set(&name, &value) {
                Ok(with) => measurement = with,
                Err(error) => problems.push(format!("{}: {error}", study.origin_of(cell, &name))),
            }
        }
        if problems.is_empty() {
            problems.extend(measurement.check().err().map(|error| error.to_string()));
        }
        if problems.is_empty() { Ok(measurement) } else { Err(problems) }
    }

    /// Measures the cells that are not there yet, and writes tables and the page beside them. A cell that fails leaves
    /// the rest.
    ///
    /// # Errors
    /// When the description cannot be measured, the observer cancels, or tables and page cannot be written.
    pub fn run(&self, observer: &dyn Observer) -> Result<StudyOutcome> {
        let Bootstrap { thresholds, resamples, seed } = &self.bootstrap;
        let options = bootstrap_options(thresholds, *resamples, *seed)?;
        let measured = threads::run(self.threads, || {
            let cells = self.planned(observer)?;
            match self.tables_only {
                true => Ok(BTreeMap::new()),
                false => cells::measure(&self.description, &cells, self.overwrite, observer),
            }
        })?;
        // Each of these runs on a pool of its own.
        let jobs = if self.tables_only { Vec::new() } else { self.run_jobs(observer)? };
        threads::run(self.threads, || {
            let tables = assemble::write(self, &measured, &options, observer)?;
            let failed = measured.into_iter().map(|(cell, e)| (self.description.title(cell), e));
            let cells = self.description.cells().count() + self.description.job_cells().count();
            let failed = failed.chain(jobs).collect();
            Ok(StudyOutcome { tables, folder: self.description.out.clone(), failed, cells })
        })
    }

    /// Runs the jobs that are not there yet; gives what failed.
    fn run_jobs(&self, observer: &dyn Observer) -> Result<Vec<(String, String)>> {
        let study = &self.description;
        let (first, mut failed) = (study.cells().count(), Vec::new());
        let all = first + study.job_cells().count();
        for (index, cell) in study.job_cells().enumerate() {
            let title = format!("cell {} of {all}: {}", first + index + 1, study.job_title(cell));
            match jobs::run_one(self, cell, &title, observer) {
                Ok(()) => {}
                Err(error) if observer.is_cancelled() => {
                    return Err(error.context("the study was interrupted; the same command goes on"));
                }
                Err(error) => {
                    observer.warn(&format!("{} failed: {error}", study.job_title(cell)));
                    failed.push((study.job_title(cell), error.to_string()));
                }
            }
        }
        Ok(failed)
    }

    /// Whether a folder is that of a study.
    pub fn is_study(folder: &Path) -> bool {
        folder.join(assemble::DESCRIPTION).is_file()
    }

    /// The study in a folder, as it was when it was put together.
    ///
    /// # Errors
    /// When the folder is not one of a study.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut study = Self::read(&folder.join(assemble::DESCRIPTION))?;
        // The folder may have been moved since.
        study.description.out = folder.to_owned();
        Ok(study)
    }

    /// Whether a cell is finished.
    pub(crate) fn is_there(&self, cell: Cell) -> bool {
        self.measurement(cell).is_ok_and(|measurement| cells::is_there(&self.description, cell, &measurement))
    }

    /// Makes tables and page of a study's folder anew, with the options they were made with before.
    ///
    /// # Errors
    /// When the folder is not one of a study, or cannot be written.
    pub fn report(folder: &Path, observer: &dyn Observer) -> Result<StudyOutcome> {
        let study = Self::open(folder)?;
        let Bootstrap { thresholds, resamples, seed } = &study.bootstrap;
        let options = match assemble::earlier(folder) {
            Some(options) => options,
            None => bootstrap_options(thresholds, *resamples, *seed)?,
        };
        threads::run(None, || {
            let tables = assemble::write(&study, &BTreeMap::new(), &options, observer)?;
            let (folder, cells) = (folder.to_owned(), study.description.cells().count());
            Ok(StudyOutcome { tables, folder, failed: Vec::new(), cells })
        })
    }
}
