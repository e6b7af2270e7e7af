//! The content of a study's page, as plain data.

use fathom_results::Results;
use serde::Serialize;

/// Everything that the page of a study shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StudyPage {
    /// The title of the study.
    pub title: String,
    /// The models, in the order in which they are shown.
    pub models: Vec<StudyModel>,
    /// The data sets, in the order in which they are shown.
    pub data: Vec<StudyData>,
    /// The cells. A cell that is not listed was not measured, without a stated reason.
    pub cells: Vec<StudyCell>,
    /// The questions of the study with their answers.
    pub answers: Vec<StudyAnswer>,
    /// Tables below the figures.
    pub tables: Vec<Table>,
    /// The settings needed to repeat the study, as pairs of name and value.
    pub settings: Vec<(String, String)>,
}

/// A model of a study.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StudyModel {
    /// A unique name.
    pub name: String,
    /// The family; models of a family differ only in size or type.
    pub family: Option<String>,
    /// Billions of parameters.
    pub size: Option<f64>,
    /// The type of training, such as "base" or "instruct".
    pub kind: Option<String>,
}

/// A data set of a study.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StudyData {
    /// A unique name.
    pub name: String,
    /// The difficulty: a label, and a number that is larger for harder data.
    pub difficulty: Option<(String, f64)>,
    /// The series that it belongs to; difficulties are compared within a series.
    pub series: Option<String>,
}

/// A model on a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct StudyCell {
    /// Index of the model.
    pub model: usize,
    /// Index of the data set.
    pub data: usize,
    /// The results; `None` if the cell is missing.
    pub results: Option<Results>,
    /// The reason why it is missing.
    pub reason: Option<String>,
    /// The path of its own report, relative to the study's folder.
    pub report: Option<String>,
}

/// A question of a study and its answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StudyAnswer {
    /// The question in words.
    pub question: String,
    /// The answer in words.
    pub summary: String,
    /// The comparisons behind it, a sentence each.
    pub details: Vec<String>,
    /// Comparisons by other rules, which the answer does not use.
    pub others: Vec<String>,
}

/// A table of text cells.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// The headings of the columns.
    pub headings: Vec<String>,
    /// The rows, one text per column.
    pub rows: Vec<Vec<String>>,
}

impl StudyPage {
    /// The cell of a model and a data set, if it is listed.
    pub(super) fn cell(&self, model: usize, data: usize) -> Option<&StudyCell> {
        self.cells.iter().find(|cell| cell.model == model && cell.data == data)
    }

    /// The results of a model on a data set, if they were measured.
    pub(crate) fn results(&self, model: usize, data: usize) -> Option<&Results> {
        self.cell(model, data)?.results.as_ref()
    }
}
