//! The contents of a study description, and the cells it defines.

use super::jobs::StudyJob;
use fathom_results::{Probe, Rule};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A study: its models, its data sets and the pairs that are compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StudyDescription {
    /// Its name.
    pub name: String,
    /// The folder of the results.
    pub out: PathBuf,
    /// The probes of every cell.
    pub probes: Vec<Probe>,
    /// The number of prompts of data sets without a limit of their own; `None` for all prompts.
    pub limit: Option<usize>,
    /// The seed of generated prompts and of the bootstrap; `None` for the default.
    pub seed: Option<u64>,
    /// The rule that decides each question; the other rules only describe.
    pub primary: BTreeMap<Question, Rule>,
    /// The data set of question-answer pairs for erasure and gradients; `None` for the default.
    pub qa: Option<String>,
    /// Further options of `fathom measure`: names without dashes, and values.
    pub options: Vec<(String, String)>,
    /// The models, at least one.
    pub models: Vec<StudyModel>,
    /// The data sets, at least one.
    pub data: Vec<StudyData>,
    /// What is run beside measurements.
    pub jobs: Vec<StudyJob>,
    /// The compared pairs: those declared or, for a question without any, those derived from models and data.
    pub pairs: Vec<ComparedPair>,
}

/// A model of a study.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StudyModel {
    /// The model argument of `fathom measure`.
    pub id: String,
    /// Its name, unique among the models.
    pub name: String,
    /// Its family; models of one family differ only in size or type.
    pub family: Option<String>,
    /// Its size in billions of parameters.
    pub size: Option<f64>,
    /// The number of tokens that it was trained on.
    pub tokens: Option<f64>,
    /// How it was trained, such as "base" or "instruct".
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The type in which weights are stored.
    pub dtype: Option<String>,
    /// Branch, tag or commit.
    pub revision: Option<String>,
    /// Options of its cells, in the place of those of the study.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<(String, String)>,
}

/// A data set of a study.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StudyData {
    /// The argument of `fathom measure --data`.
    pub id: String,
    /// Its name, unique among the data sets.
    pub name: String,
    /// Its difficulty.
    pub difficulty: Option<Difficulty>,
    /// Its series; difficulties are compared within a series.
    pub series: Option<String>,
    /// The number of prompts; `None` for that of the study.
    pub limit: Option<usize>,
    /// The probes of its cells; `None` for those of the study.
    pub probes: Option<Vec<Probe>>,
    /// Options of its cells, in the place of those of the study and of the model.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<(String, String)>,
}

/// The difficulty of a data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difficulty {
    /// The word or number as given.
    pub label: String,
    /// Its rank; larger is harder.
    pub order: f64,
}

/// A question that a study answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    /// Do larger models of a family use more of their depth?
    Scale,
    /// Do differently trained models of one family and size use more of their depth?
    Training,
    /// Does a model use more of its depth on harder data?
    Difficulty,
}

/// Two models to compare or, for [`Question::Difficulty`], two data sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ComparedPair {
    /// The question.
    pub question: Question,
    /// Index of the first.
    pub a: usize,
    /// Index of the second; differences are second minus first.
    pub b: usize,
}

/// A model on a data set, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Cell {
    /// Index of the model.
    pub model: usize,
    /// Index of the data set.
    pub data: usize,
}

impl Question {
    /// All questions, in reporting order.
    pub const ALL: [Self; 3] = [Self::Scale, Self::Training, Self::Difficulty];

    /// The name in a description.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scale => "scale",
            Self::Training => "training",
            Self::Difficulty => "difficulty",
        }
    }

    /// The question as a sentence.
    pub fn about(self) -> &'static str {
        match self {
            Self::Scale => "Do larger models use more of their depth?",
            Self::Training => "Do differently trained models use more of their depth?",
            Self::Difficulty => "Does a model use more of its depth on harder data?",
        }
    }
}

/// Options of `fathom measure` that a study may set under `options`; others have fields of their own.
pub const OPTIONS: [&str; 23] = [
    "split",
    "max-tokens",
    "skip-modes",
    "skip-parts",
    "positions",
    "baseline-data",
    "sites",
    "baseline",
    "quadrature",
    "lens",
    "lens-data",
    "memory",
    "expert-memory",
    "rng",
    "device",
    "objective",
    "mask-ratio",
    "mask-seed",
    "mask",
    "max-residues",
    "crop",
    "prefix",
    "suffix",
];

impl StudyDescription {
    /// All cells, model by model.
    pub fn cells(&self) -> impl Iterator<Item = Cell> {
        let data = self.data.len();
        (0..self.models.len()).flat_map(move |model| (0..data).map(move |data| Cell { model, data }))
    }

    /// The results folder of a cell.
    pub fn folder(&self, cell: Cell) -> PathBuf {
        self.out.join(folder(&self.models[cell.model].name)).join(folder(&self.data[cell.data].name))
    }

    /// The title of a cell, "MODEL on DATA".
    pub fn title(&self, cell: Cell) -> String {
        format!("{} on {}", self.models[cell.model].name, self.data[cell.data].name)
    }

    /// The options of `fathom measure` for a cell, without model, data and folder: names without dashes, and values.
    pub fn options(&self, cell: Cell) -> Vec<(String, String)> {
        let (model, data) = (&self.models[cell.model], &self.data[cell.data]);
        let probes = data.probes.as_ref().unwrap_or(&self.probes);
        let probes: Vec<&str> = probes.iter().map(|probe| probe.name()).collect();
        let mut options = vec![("probes".to_owned(), probes.join(","))];
        let mut add = |name: &str, value: Option<String>| {
            options.extend(value.map(|value| (name.to_owned(), value)));
        };
        add("limit", data.limit.or(self.limit).map(|limit| limit.to_string()));
        add("seed", self.seed.map(|seed| seed.to_string()));
        add("qa", self.qa.clone());
        add("dtype", model.dtype.clone());
        add("revision", model.revision.clone());
        let further: BTreeMap<_, _> =
            [&self.options, &model.options, &data.options].into_iter().flatten().cloned().collect();
        options.extend(further);
        options
    }

    /// Where an option of a cell was set, as messages name it: its data set, its model or the study.
    pub fn origin_of(&self, cell: Cell, option: &str) -> String {
        let (model, data) = (&self.models[cell.model], &self.data[cell.data]);
        let sets = |options: &[(String, String)]| options.iter().any(|(name, _)| name == option);
        if sets(&data.options) {
            format!("data '{}'", data.name)
        } else if sets(&model.options) || matches!(option, "dtype" | "revision") {
            format!("model '{}'", model.name)
        } else {
            format!("study '{}'", self.name)
        }
    }

    /// The arguments of `fathom measure` for a cell, without the folder.
    pub fn arguments(&self, cell: Cell) -> Vec<String> {
        // An equals sign keeps values that begin with a dash from being taken for options.
        let data = format!("--data={}", self.data[cell.data].id);
        let options = self.options(cell).into_iter().map(|(name, value)| format!("--{name}={value}"));
        let model = ["--".to_owned(), self.models[cell.model].id.clone()];
        [data].into_iter().chain(options).chain(model).collect()
    }
}

/// Turns a name into a folder name of letters, digits and a few marks.
pub(super) fn folder(name: &str) -> String {
    let keep =
        |c: char| if c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '=' | ',') { c } else { '_' };
    let name: String = name.chars().map(keep).collect();
    // Names made only of dots refer to other folders, and a leading dot hides a folder.
    if name.starts_with('.') { format!("_{name}") } else { name }
}

/// The last component of an id, without a file extension.
pub(super) fn short(id: &str) -> String {
    let end = id.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(id);
    let endings = [".gguf", ".safetensors", ".jsonl", ".ndjson", ".txt", ".md"];
    endings.iter().find_map(|ending| end.strip_suffix(ending)).unwrap_or(end).to_owned()
}
