//! The finished cells of a study as one table of effective depth, and grouped by question.

use crate::answers::{Answer, FinishedCells};
use crate::cell::FinishedCell;
use crate::curves::BootstrapOptions;
use crate::study::{Cell, JobKind, Question, StudyDescription, StudyModel, grouped, series};
use fathom_depth::{Depth, Rule};
use serde::Serialize;
use std::collections::BTreeMap;

/// The results of a study.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tables {
    /// The study's name.
    pub name: String,
    /// Bootstrap options.
    pub settings: BootstrapOptions,
    /// The rules that at least one cell can feed: the columns.
    pub rules: Vec<Rule>,
    /// Every cell, model by model.
    pub rows: Vec<Row>,
    /// The cells grouped by each question that has something to compare.
    pub views: Vec<View>,
    /// The answers to the three questions.
    pub answers: Vec<Answer>,
    /// What was run beside measurements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobRow>,
}

/// A job on a model, or one of the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobRow {
    /// The kind.
    pub kind: JobKind,
    /// The job's name.
    pub name: String,
    /// The model's name; of a map, the source; of the lab, none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The target of a map.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What was found, in a sentence; `None` if the job is missing.
    pub conclusion: Option<String>,
}

impl JobRow {
    /// The headings of a table of jobs.
    pub const HEADING: [&str; 3] = ["job", "model", "what was found"];

    /// A row of such a table.
    pub fn line(&self) -> Vec<String> {
        let name = match self.name == self.kind.name() {
            true => self.name.clone(),
            false => format!("{} ({})", self.name, self.kind.name()),
        };
        let model = self.model.clone().unwrap_or_default();
        let model = match &self.target {
            Some(target) => format!("{model} to {target}"),
            None => model,
        };
        let found = self.conclusion.clone().unwrap_or_else(|| "not run".to_owned());
        vec![name, model, found]
    }
}

/// A model on a data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The model's name.
    pub model: String,
    /// The model argument of `fathom measure`.
    pub model_id: String,
    /// The model's family.
    pub family: Option<String>,
    /// The model's size in billions of parameters.
    pub size: Option<f64>,
    /// How the model was trained.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The data set's name.
    pub data: String,
    /// The argument of `fathom measure --data`.
    pub data_id: String,
    /// The difficulty of the data.
    pub difficulty: Option<String>,
    /// The measurement; `None` if the cell is missing.
    pub measured: Option<Measured>,
}

/// The measurement of a cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The number of layers.
    pub layers: usize,
    /// The number of prompts.
    pub prompts: usize,
    /// The depth table.
    pub depth: Vec<Depth>,
}

/// The cells grouped for one question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct View {
    /// The question.
    pub question: Question,
    /// The groups.
    pub groups: Vec<Group>,
}

/// Cells that differ only in the property that a question asks about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// What the cells have in common.
    pub title: String,
    /// Indices into [`Tables::rows`], in the order of size or difficulty.
    pub rows: Vec<usize>,
}

impl Tables {
    /// Assembles the tables and answers of a study from its finished cells.
    pub fn of(
        study: &StudyDescription,
        finished: &BTreeMap<Cell, FinishedCell>,
        options: &BootstrapOptions,
    ) -> Self {
        let has = |rule: &Rule| finished.values().any(|cell| cell.depth.iter().any(|row| row.rule == *rule));
        let rules: Vec<Rule> = Rule::ALL.into_iter().filter(has).collect();
        let rows = study.cells().map(|cell| row(study, cell, finished.get(&cell))).collect();
        let views =
            Question::ALL.into_iter().map(|question| View { question, groups: groups(study, question) });
        let cells = FinishedCells { study, finished, rules: &rules, options };
        Self {
            name: study.name.clone(),
            settings: *options,
            rows,
            views: views.filter(|view| !view.groups.is_empty()).collect(),
            answers: Question::ALL.into_iter().map(|question| cells.answer(question)).collect(),
            jobs: Vec::new(),
            rules,
        }
    }

    /// The tables with what was run beside measurements.
    #[must_use]
    pub fn with_jobs(self, jobs: Vec<JobRow>) -> Self {
        Self { jobs, ..self }
    }
}

fn row(study: &StudyDescription, cell: Cell, finished: Option<&FinishedCell>) -> Row {
    let (model, data) = (&study.models[cell.model], &study.data[cell.data]);
    Row {
        model: model.name.clone(),
        model_id: model.id.clone(),
        family: model.family.clone(),
        size: model.size,
        kind: model.kind.clone(),
        data: data.name.clone(),
        data_id: data.id.clone(),
        difficulty: data.difficulty.as_ref().map(|difficulty| difficulty.label.clone()),
        measured: finished.map(|finished| Measured {
            layers: finished.curves.layers(),
            prompts: finished.curves.prompts(),
            depth: finished.depth.clone(),
        }),
    }
}

/// The groups of a question that have something to compare, each with its rows in order.
fn groups(study: &StudyDescription, question: Question) -> Vec<Group> {
    match question {
        Question::Difficulty => difficulty_groups(study),
        Question::Scale | Question::Training => model_groups(study, question),
    }
}

/// The index of the row of a model on a data set.
fn row_index(study: &StudyDescription, model: usize, data: usize) -> usize {
    model * study.data.len() + data
}

/// Each model on the data sets of each series, from easy to hard.
fn difficulty_groups(study: &StudyDescription) -> Vec<Group> {
    let difficulty = |i: &usize| study.data[*i].difficulty.as_ref().map_or(0.0, |known| known.order);
    let mut all_series = series(&study.data);
    all_series.iter_mut().for_each(|order| order.sort_by(|i, j| difficulty(i).total_cmp(&difficulty(j))));
    all_series.retain(|order| order.len() > 1);
    let group = |m: usize, order: &Vec<usize>| Group {
        title: match &study.data[order[0]].series {
            Some(series) => format!("{}, {series}", study.models[m].name),
            None => study.models[m].name.clone(),
        },
        rows: order.iter().map(|data| row_index(study, m, *data)).collect(),
    };
    let of_model = |m| all_series.iter().map(move |order| group(m, order));
    (0..study.models.len()).flat_map(of_model).collect()
}

/// The models of each family, by size or by type, on each data set.
fn model_groups(study: &StudyDescription, question: Question) -> Vec<Group> {
    let title = |model: &StudyModel| {
        let family = model.family.as_ref()?;
        Some(match question {
            Question::Scale => match (model.size, &model.kind) {
                (None, _) => return None,
                (_, None) => family.clone(),
                (_, Some(kind)) => format!("{family}, {kind}"),
            },
            _ => format!("{family}, {}B", model.size.filter(|_| model.kind.is_some())?),
        })
    };
    let mut groups = Vec::new();
    for mut models in grouped(&study.models, title).into_iter().filter(|models| models.len() > 1) {
        if question == Question::Scale {
            let size = |i: &usize| study.models[*i].size.unwrap_or_default();
            models.sort_by(|i, j| size(i).total_cmp(&size(j)));
        }
        let on_data = |data| models.iter().map(move |model| row_index(study, *model, data));
        let rows = (0..study.data.len()).flat_map(on_data).collect();
        groups.push(Group { title: title(&study.models[models[0]]).unwrap_or_default(), rows });
    }
    groups
}
