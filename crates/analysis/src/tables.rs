//! The finished cells of a study as one table of effective depth, and grouped by question.

use crate::Error;
use crate::answers::{Answer, FinishedCells};
use crate::curves::{BootstrapOptions, PromptCurves, rows_of};
use crate::study::{Cell, Question, StudyData, StudyDescription, StudyModel, grouped};
use fathom_depth::{Depth, Rule};
use fathom_results::Sample;
use serde::Serialize;
use std::collections::BTreeMap;

/// A finished cell, without per-token values.
#[derive(Clone, Debug, PartialEq)]
pub struct FinishedCell {
    /// The curves of its prompts.
    pub curves: PromptCurves,
    /// Its depth table.
    pub depth: Vec<Depth>,
}

impl FinishedCell {
    /// A cell from its samples and its model's number of layers. With the options of the
    /// measurement, its depth table is that of results.json.
    ///
    /// # Errors
    /// As [`PromptCurves::of`].
    pub fn of(samples: &[Sample], layers: usize, options: &BootstrapOptions) -> Result<Self, Error> {
        let curves = PromptCurves::of(samples, layers)?;
        let depth = rows_of(&curves, options);
        Ok(Self { curves, depth })
    }
}

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
            rules,
        }
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
    let row = |model: usize, data: usize| model * study.data.len() + data;
    let all_data = 0..study.data.len();
    if question == Question::Difficulty {
        let key =
            |data: &StudyData| data.difficulty.as_ref().map(|_| data.series.clone().unwrap_or_default());
        let difficulty = |i: &usize| study.data[*i].difficulty.as_ref().map_or(0.0, |known| known.order);
        let mut series = grouped(&study.data, key);
        series.iter_mut().for_each(|order| order.sort_by(|i, j| difficulty(i).total_cmp(&difficulty(j))));
        series.retain(|order| order.len() > 1);
        let group = |m: usize, order: &Vec<usize>| Group {
            title: match &study.data[order[0]].series {
                Some(series) => format!("{}, {series}", study.models[m].name),
                None => study.models[m].name.clone(),
            },
            rows: order.iter().map(|data| row(m, *data)).collect(),
        };
        let models = 0..study.models.len();
        return models
            .flat_map(|m| series.iter().map(move |order| (m, order)))
            .map(|(m, o)| group(m, o))
            .collect();
    }
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
        let rows = all_data.clone().flat_map(|data| models.iter().map(move |model| row(*model, data)));
        groups
            .push(Group { title: title(&study.models[models[0]]).unwrap_or_default(), rows: rows.collect() });
    }
    groups
}
