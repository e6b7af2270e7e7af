//! What a study runs beside measurements: prunings, early exits, maps between models, growth, and studies of the lab.

use super::description::{StudyDescription, folder};
use super::reader::{At, Field, Reader, Table, instead};
use fathom_results::text::did_you_mean;
use serde::Serialize;
use std::path::PathBuf;
use toml::de::DeValue;

/// A kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// `fathom prune`.
    Prune,
    /// `fathom exit`.
    Exit,
    /// `fathom map`.
    Map,
    /// `fathom grow`.
    Grow,
    /// `fathom lab`, which is about none of the models.
    Lab,
}

/// Options that all kinds have.
const COMMON: [&str; 13] = [
    "limit",
    "split",
    "max-tokens",
    "seed",
    "rng",
    "resamples",
    "memory",
    "expert-memory",
    "device",
    "max-residues",
    "crop",
    "prefix",
    "suffix",
];

impl JobKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Prune, Self::Exit, Self::Map, Self::Grow, Self::Lab];

    /// The command of the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prune => "prune",
            Self::Exit => "exit",
            Self::Map => "map",
            Self::Grow => "grow",
            Self::Lab => "lab",
        }
    }

    /// The options of the command that a study may set.
    pub fn options(self) -> Vec<&'static str> {
        let own: &[&str] = match self {
            Self::Prune => &["data", "heldout", "methods", "remove", "max-loss", "unit"],
            Self::Exit => &["data", "heldout", "heads", "epsilon", "delta"],
            Self::Map => &["data", "heldout", "differences"],
            Self::Grow => &[
                "heldout",
                "method",
                "layers",
                "insert",
                "block",
                "norms",
                "epochs",
                "norm-weight",
                "depth-prompts",
            ],
            // A recipe says it all.
            Self::Lab => return Vec::new(),
        };
        [own, &COMMON].concat()
    }
}

impl Field for JobKind {
    fn of(value: DeValue<'_>) -> Result<Self, String> {
        let name = String::of(value)?;
        let names = Self::ALL.map(Self::name);
        let wrong = || format!("one of {}{}", names.join(", "), did_you_mean(&name, names));
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(wrong)
    }
}

/// Runs of one kind and with the same options, on some models.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StudyJob {
    /// The kind.
    pub kind: JobKind,
    /// Its name, unique among jobs and data sets.
    pub name: String,
    /// Indices of the models; of a map, the source and the target.
    pub models: Vec<usize>,
    /// Options of the command: names without dashes, and values.
    pub options: Vec<(String, String)>,
    /// What the lab does; of no other kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lab: Option<LabRecipe>,
}

/// A study of the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LabRecipe {
    /// The command of `fathom lab`.
    pub command: String,
    /// The file of the recipe.
    pub recipe: String,
}

/// The commands of `fathom lab`.
const LAB: [&str; 5] = ["lm", "mix", "repeat", "residual", "rl"];

/// A job on a model, or one of the lab, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct JobCell {
    /// Index of the job.
    pub job: usize,
    /// Index of the model; of a map, the source; of the lab, none.
    pub model: Option<usize>,
}

impl StudyDescription {
    /// The runs beside measurements, job by job.
    pub fn job_cells(&self) -> impl Iterator<Item = JobCell> {
        let cells = |(job, known): (usize, &StudyJob)| {
            let cell = |model| JobCell { job, model };
            let models = known.models.iter().copied().map(Some);
            match known.kind {
                JobKind::Lab => vec![cell(None)],
                JobKind::Map => models.take(1).map(cell).collect(),
                _ => models.map(cell).collect::<Vec<_>>(),
            }
        };
        self.jobs.iter().enumerate().flat_map(cells)
    }

    /// The results folder of a job on a model.
    pub fn job_folder(&self, cell: JobCell) -> PathBuf {
        self.out.join(folder(self.job_owner(cell))).join(folder(&self.jobs[cell.job].name))
    }

    /// The name of a job's model, or `lab`.
    pub fn job_owner(&self, cell: JobCell) -> &str {
        cell.model.map_or(JobKind::Lab.name(), |model| &self.models[model].name)
    }

    /// The title of a job on a model, "NAME of MODEL".
    pub fn job_title(&self, cell: JobCell) -> String {
        format!("{} of {}", self.jobs[cell.job].name, self.job_owner(cell))
    }

    /// The options of a job on a model: names without dashes, and values.
    pub fn job_options(&self, cell: JobCell) -> Vec<(String, String)> {
        let job = &self.jobs[cell.job];
        let mut options = job.options.clone();
        let Some(model) = cell.model.map(|model| &self.models[model]) else { return options };
        let given = |name: &str| job.options.iter().any(|(known, _)| known == name);
        let seed = self.seed.filter(|_| !given("seed")).map(|seed| seed.to_string());
        let own = [("dtype", model.dtype.clone()), ("revision", model.revision.clone()), ("seed", seed)];
        options.extend(own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        let target = self.job_target(cell).and_then(|target| self.models[target].revision.clone());
        options.extend(target.map(|revision| ("target-revision".to_owned(), revision)));
        options
    }

    /// The model that a map leads to, by index.
    pub fn job_target(&self, cell: JobCell) -> Option<usize> {
        let job = &self.jobs[cell.job];
        job.models.get(1).copied().filter(|_| job.kind == JobKind::Map)
    }

    /// The arguments of the command, without the folder.
    pub fn job_arguments(&self, cell: JobCell) -> Vec<String> {
        if let Some(LabRecipe { command, recipe }) = &self.jobs[cell.job].lab {
            return vec![command.clone(), recipe.clone()];
        }
        let argument = |(name, value): (String, String)| match (name.as_str(), value.as_str()) {
            ("differences", "true") => Some("--differences".to_owned()),
            ("differences", "false") => None,
            _ => Some(format!("--{name}={value}")),
        };
        let options = self.job_options(cell).into_iter().filter_map(argument);
        let models = [cell.model, self.job_target(cell)].into_iter().flatten();
        let models = models.map(|model| self.models[model].id.clone());
        options.chain(["--".to_owned()]).chain(models).collect()
    }
}

const JOB: [&str; 4] = ["kind", "name", "models", "options"];
const LAB_JOB: [&str; 4] = ["kind", "name", "command", "recipe"];

/// A command of `fathom lab`.
struct LabCommand(String);

impl Field for LabCommand {
    fn of(value: DeValue<'_>) -> Result<Self, String> {
        let name = String::of(value)?;
        let wrong = || format!("one of {}{}", LAB.join(", "), did_you_mean(&name, LAB));
        LAB.contains(&name.as_str()).then(|| Self(name.clone())).ok_or_else(wrong)
    }
}

/// One name or several.
struct Names(Vec<String>);

impl Field for Names {
    fn of(value: DeValue<'_>) -> Result<Self, String> {
        let wrong = || "the name of a model or a list of names".to_owned();
        super::reader::texts(value).map(Self).ok_or_else(wrong)
    }
}

impl Reader<'_> {
    /// The jobs, and the line of each name.
    pub(super) fn jobs(&mut self, top: &mut Table<'_>, models: &[&str]) -> Vec<(StudyJob, Option<usize>)> {
        let tables = self.tables(top, "job");
        tables.into_iter().filter_map(|table| self.job(table, models)).collect()
    }

    fn job(&mut self, mut table: Table<'_>, models: &[&str]) -> Option<(StudyJob, Option<usize>)> {
        let kind = self.required::<JobKind>(&mut table, "kind").map(|kind| kind.value);
        self.unknown(&table, if kind == Some(JobKind::Lab) { &LAB_JOB } else { &JOB });
        let kind = kind?;
        if kind == JobKind::Lab {
            return self.lab(table);
        }
        let name = self.optional::<String>(&mut table, "name");
        let line = name.as_ref().map(|name| name.line).or(table.line);
        let name = name.map_or_else(|| kind.name().to_owned(), |name| name.value);
        let named = self.optional::<Names>(&mut table, "models");
        let models = match named {
            None => (0..models.len()).collect(),
            Some(At { value: Names(names), line }) => {
                let find = |name: &String| models.iter().position(|known| known == name);
                if let Some(unknown) = names.iter().find(|name| find(name).is_none()) {
                    let message = format!("no model is called '{unknown}'{}", instead(unknown, models));
                    self.problem(Some(line), message);
                    return None;
                }
                names.iter().filter_map(find).collect::<Vec<usize>>()
            }
        };
        if kind == JobKind::Map && models.len() != 2 {
            let message = "a map leads from one model to another; name two in 'models'";
            self.problem(table.line, message);
            return None;
        }
        let options = self.options(&mut table, &kind.options());
        if kind == JobKind::Grow {
            for needed in ["method", "layers"] {
                if !options.iter().any(|(name, _)| name == needed) {
                    self.problem(table.line, format!("grow needs '{needed}' in 'options'"));
                }
            }
        }
        Some((StudyJob { kind, name, models, options, lab: None }, line))
    }

    fn lab(&mut self, mut table: Table<'_>) -> Option<(StudyJob, Option<usize>)> {
        let command = self.required::<LabCommand>(&mut table, "command");
        let recipe = self.required::<String>(&mut table, "recipe");
        let name = self.optional::<String>(&mut table, "name");
        let (LabCommand(command), recipe) = (command?.value, recipe?.value);
        let line = name.as_ref().map(|name| name.line).or(table.line);
        let name = name.map_or_else(|| command.clone(), |name| name.value);
        let lab = Some(LabRecipe { command, recipe });
        let (models, options) = (Vec::new(), Vec::new());
        Some((StudyJob { kind: JobKind::Lab, name, models, options, lab }, line))
    }
}
