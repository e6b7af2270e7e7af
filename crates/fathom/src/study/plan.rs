//! The cells of a study one by one, for clusters.

use super::{Study, cells, jobs};
use crate::error::invalid;
use crate::observer::uncounted;
use crate::{Error, Observer, Result, threads};
use fathom_analysis::study::{Cell, JobCell};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A cell of a study: one model on one data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedCell {
    /// Its number, from 1.
    pub cell: usize,
    /// What it is: `measure`, `prune`, `exit`, `map`, `grow` or `lab`, the command that its arguments are for.
    pub kind: &'static str,
    /// The name of the model in the description, or `lab`.
    pub model: String,
    /// The name of the data set in the description, or of the job.
    pub data: String,
    /// Its results folder.
    pub folder: PathBuf,
    /// How far it is.
    pub state: CellState,
    /// The arguments of the command.
    pub arguments: Vec<String>,
    /// What it will take, if that was asked for and could be found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<CellEstimate>,
}

/// What measuring a cell will take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CellEstimate {
    /// Wall-clock seconds on this machine.
    pub seconds: f64,
    /// Bytes of weights and working memory.
    pub bytes: u64,
}

/// How far a cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CellState {
    /// Measured to the end.
    Finished,
    /// Begun; measuring goes on where it ended.
    Begun,
    /// Not begun.
    Missing,
    /// Its folder holds results of other options or prompts.
    Other,
}

impl CellState {
    /// The state in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Begun => "begun",
            Self::Missing => "missing",
            Self::Other => "other",
        }
    }
}

impl Study {
    /// All cells in order, and how far each is.
    ///
    /// # Errors
    /// As [`measurements`](Self::measurements).
    pub fn plan(&self, observer: &dyn Observer) -> Result<Vec<PlannedCell>> {
        let study = &self.description;
        let mut sets = BTreeMap::new();
        let planned = self.planned(observer)?.into_iter().enumerate();
        let one = |(index, (cell, measurement)): (usize, (Cell, crate::Measurement))| {
            let begun = cells::Begun::of(study, cell, &measurement, &mut sets, observer);
            PlannedCell {
                cell: index + 1,
                kind: "measure",
                model: study.models[cell.model].name.clone(),
                data: study.data[cell.data].name.clone(),
                folder: study.folder(cell),
                state: cells::state(study, cell, &measurement, &begun),
                arguments: self.command_of(cell),
                estimate: None,
            }
        };
        let mut all: Vec<PlannedCell> = planned.map(one).collect();
        all.extend(jobs::planned(self, all.len() + 1));
        Ok(all)
    }

    /// The same with what each unfinished cell will take. Weights are loaded, and those of models on the hub downloaded.
    ///
    /// # Errors
    /// As [`plan`](Self::plan); cells that cannot be estimated are named in warnings.
    pub fn plan_with_estimates(&self, observer: &dyn Observer) -> Result<Vec<PlannedCell>> {
        let mut plan = self.plan(observer)?;
        let measurements = self.measurements(observer)?;
        for (planned, measurement) in plan.iter_mut().zip(measurements) {
            if planned.state == CellState::Finished {
                continue;
            }
            let _estimating = uncounted(observer, "estimating");
            match threads::run(self.threads, || measurement.estimate(observer)) {
                Ok(found) => {
                    let working = found.probes.iter().map(|probe| probe.bytes).max().unwrap_or(0);
                    let bytes = found.weight_bytes + working.min(found.memory_bytes);
                    planned.estimate = Some(CellEstimate { seconds: found.seconds(), bytes });
                }
                Err(error) => observer.warn(&format!("cell {}: {error}", planned.cell)),
            }
        }
        let first = self.description.cells().count();
        for (planned, cell) in plan[first..].iter_mut().zip(self.description.job_cells()) {
            if planned.state == CellState::Finished {
                continue;
            }
            match jobs::Job::of(self, cell).and_then(|job| job.estimate(observer)) {
                Ok(found) => planned.estimate = Some(found),
                Err(error) => observer.warn(&format!("cell {}: {error}", planned.cell)),
            }
        }
        Ok(plan)
    }

    /// The number of a cell that is named by its number or as MODEL/DATA.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) with the cells that there are.
    pub fn cell(&self, name: &str) -> Result<usize> {
        let study = &self.description;
        let names: Vec<String> = study
            .cells()
            .map(|cell| format!("{}/{}", study.models[cell.model].name, study.data[cell.data].name))
            .chain(
                study
                    .job_cells()
                    .map(|cell| format!("{}/{}", study.job_owner(cell), study.jobs[cell.job].name)),
            )
            .collect();
        let number = name.parse::<usize>().ok().filter(|number| (1..=names.len()).contains(number));
        match number.or_else(|| names.iter().position(|known| known == name).map(|index| index + 1)) {
            Some(number) => Ok(number),
            None => invalid!(
                "{} has no cell '{name}'; give a number from 1 to {} or one of {}",
                self.file,
                names.len(),
                names.join(", ")
            ),
        }
    }

    /// Measures one cell, as [`run`](Self::run) would, and writes no tables. A cell that is there already is left alone.
    ///
    /// # Errors
    /// As [`Measurement::run`](crate::Measurement::run); [`Error::Invalid`](crate::Error::Invalid) if there is no such cell.
    pub fn measure_cell(&self, number: usize, observer: &dyn Observer) -> Result<PathBuf> {
        let study = &self.description;
        let cells: Vec<Cell> = study.cells().collect();
        let jobs: Vec<JobCell> = study.job_cells().collect();
        let count = cells.len() + jobs.len();
        if let Some(job) = number.checked_sub(cells.len() + 1).and_then(|index| jobs.get(index)) {
            let title = format!("cell {number} of {count}: {}", study.job_title(*job));
            jobs::run_one(self, *job, &title, observer)?;
            return Ok(study.job_folder(*job));
        }
        let Some(cell) = number.checked_sub(1).and_then(|index| cells.get(index)) else {
            invalid!("{} has {count} cells, and no cell {number}", self.file);
        };
        let wrong = |problems: Vec<String>| Error::Invalid(problems.join("\n"));
        let measurement = self.measurement(*cell).map_err(wrong)?;
        threads::run(self.threads, || {
            let title = format!("cell {number} of {count}: {}", study.title(*cell));
            let mut sets = BTreeMap::new();
            let begun = cells::Begun::of(study, *cell, &measurement, &mut sets, observer);
            cells::measure_one(study, *cell, &measurement, &begun, &title, self.overwrite, observer)?;
            Ok(study.folder(*cell))
        })
    }
}

/// The cells that are still to be measured, as an array job takes them: `3,7-9`. Empty if there are none.
pub fn ranges(cells: &[PlannedCell]) -> String {
    let mut runs: Vec<[usize; 2]> = Vec::new();
    for cell in cells.iter().filter(|cell| matches!(cell.state, CellState::Begun | CellState::Missing)) {
        match runs.last_mut() {
            Some([_, last]) if *last + 1 == cell.cell => *last = cell.cell,
            _ => runs.push([cell.cell; 2]),
        }
    }
    let text = |[first, last]: &[usize; 2]| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}
