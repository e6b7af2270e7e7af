//! Schemas of data sets: their fields, and the prompts made from them.

use crate::parquet::ColumnType;
use crate::rows::{self, Fields, Row};
use crate::{RowProblem, templates};

/// The schema of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DatasetSchema {
    /// Fathom's own files.
    Own,
    Gsm8k,
    HellaSwag,
    Aime,
    Math,
    Mquake,
}

/// What a reader of files needs to know of a schema.
pub(crate) trait RowSchema: Copy + 'static {
    /// The fields that are read, with their types. `a.b` is the member `b` of a column of structures `a`.
    fn columns(self) -> &'static [(&'static str, FieldType)];

    /// Whether the columns that `has` reports are sufficient.
    fn is_complete(self, has: impl Fn(&str) -> bool) -> bool;

    /// The name of the set, or `None` for rows of no published set.
    fn set(self) -> Option<&'static str>;

    /// The fields that a row needs, in words.
    fn needs(self) -> &'static str;
}

/// Selects rows; the others are skipped.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Filter {
    /// Only problems of this level.
    pub(crate) level: Option<u64>,
    /// Only questions of this many hops.
    pub(crate) hops: Option<u64>,
}

/// The mark before the final answer in GSM8K.
const MARK: &str = "####";

/// The result of reading a row.
#[derive(Debug)]
pub(crate) enum RowOutcome {
    Prompt(Row),
    /// No prompt: the text is empty or null.
    Empty,
    /// No prompt: the filter excludes the row.
    Filtered,
}

/// The type that a schema expects of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldType {
    Text,
    /// Text or a number.
    Label,
    Texts,
    Numbers,
    /// The length of a list of anything.
    Length,
}

impl FieldType {
    /// Whether a column of this type can be read.
    pub(crate) fn accepts(self, column_type: &ColumnType) -> bool {
        match (self, column_type) {
            (Self::Text, column_type) => *column_type == ColumnType::Text,
            (Self::Label, column_type) => {
                matches!(column_type, ColumnType::Text | ColumnType::Integer { .. } | ColumnType::Float)
            }
            (Self::Texts, ColumnType::List(element)) => **element == ColumnType::Text,
            (Self::Numbers, ColumnType::List(element)) => matches!(**element, ColumnType::Integer { .. }),
            (Self::Length, ColumnType::List(_)) => true,
            _ => false,
        }
    }
}

impl RowSchema for DatasetSchema {
    fn columns(self) -> &'static [(&'static str, FieldType)] {
        Self::columns(self)
    }

    fn is_complete(self, has: impl Fn(&str) -> bool) -> bool {
        Self::is_complete(self, has)
    }

    fn set(self) -> Option<&'static str> {
        (self != Self::Own).then(|| self.name())
    }

    fn needs(self) -> &'static str {
        Self::needs(self)
    }
}

impl DatasetSchema {
    /// Detects the schema of rows with these fields; ambiguous rows are [`Self::Own`]. `marked` tells whether the
    /// answer contains the mark of GSM8K.
    pub(crate) fn of(has: impl Fn(&str) -> bool, marked: impl FnOnce() -> bool) -> Self {
        let all = |names: &[&str]| names.iter().all(|name| has(name));
        if has("text") {
            Self::Own
        } else if all(&["ctx", "endings", "label"]) {
            Self::HellaSwag
        } else if all(&["Problem", "Solution", "Answer"]) {
            Self::Aime
        } else if all(&["problem", "solution", "level"]) {
            Self::Math
        } else if all(&["questions", "answer"]) && (has("single_hops") || has("new_single_hops")) {
            Self::Mquake
        } else if all(&["question", "answer"]) && marked() {
            Self::Gsm8k
        } else {
            Self::Own
        }
    }

    /// Detects the schema from the first row.
    pub(crate) fn of_row(fields: &Fields) -> Self {
        Self::of(|name| fields.has(name), || is_marked(fields))
    }

    /// The fields that are read, with their types.
    pub(crate) fn columns(self) -> &'static [(&'static str, FieldType)] {
        use FieldType::{Label, Length, Numbers, Text, Texts};
        match self {
            Self::Own => &[
                ("id", Label),
                ("text", Text),
                ("question", Text),
                ("answer", Text),
                ("positions", Numbers),
                ("group", Label),
                ("level", Label),
                ("regime", Label),
            ],
            Self::Gsm8k => &[("question", Text), ("answer", Text)],
            Self::HellaSwag => &[("ctx", Text), ("endings", Texts), ("label", Label)],
            Self::Aime => &[("Problem", Text), ("problem", Text), ("Solution", Text), ("solution", Text)],
            Self::Math => &[("problem", Text), ("solution", Text), ("level", Label)],
            Self::Mquake => &[
                ("questions", Texts),
                ("answer", Text),
                ("single_hops", Length),
                ("new_single_hops", Length),
            ],
        }
    }

    /// Whether the columns that `has` reports are sufficient.
    pub(crate) fn is_complete(self, has: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Own => has("text") || has("question") && has("answer"),
            Self::Gsm8k => has("question") && has("answer"),
            Self::HellaSwag => has("ctx") && has("endings") && has("label"),
            Self::Aime => (has("Problem") || has("problem")) && (has("Solution") || has("solution")),
            Self::Math => has("problem") && has("solution") && has("level"),
            Self::Mquake => {
                has("questions") && has("answer") && (has("single_hops") || has("new_single_hops"))
            }
        }
    }

    /// The name of the set.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Own => "rows of prompts",
            Self::Gsm8k => "gsm8k",
            Self::HellaSwag => "hellaswag",
            Self::Aime => "aime24",
            Self::Math => "math",
            Self::Mquake => "mquake",
        }
    }

    /// The fields that a row needs, in words.
    pub(crate) fn needs(self) -> &'static str {
        match self {
            Self::Own => "\"text\", or \"question\" and \"answer\"",
            Self::Gsm8k => "\"question\" and \"answer\"",
            Self::HellaSwag => "\"ctx\", \"endings\" and \"label\"",
            Self::Aime => "\"problem\" and \"solution\"",
            Self::Math => "\"problem\", \"solution\" and \"level\"",
            Self::Mquake => "\"questions\", \"answer\" and \"single_hops\"",
        }
    }

    /// The largest number of tokens of a prompt in arXiv 2512.14064, which skips longer ones.
    pub(crate) fn max_tokens(self) -> Option<usize> {
        (self == Self::Aime).then_some(400)
    }

    /// Reads a row.
    pub(crate) fn row(self, fields: &Fields, filter: Filter) -> Result<RowOutcome, RowProblem> {
        let row = match self {
            Self::Own => rows::own(fields)?,
            Self::Gsm8k => self.gsm8k(fields)?,
            Self::HellaSwag => self.hellaswag(fields)?,
            Self::Aime => self.aime(fields)?,
            Self::Math => return self.math(fields, filter.level),
            Self::Mquake => return self.mquake(fields, filter.hops),
        };
        Ok(RowOutcome::of(row))
    }

    fn gsm8k(self, fields: &Fields) -> Result<Option<Row>, RowProblem> {
        let (question, worked) = (self.text(fields, &["question"])?, self.text(fields, &["answer"])?);
        let Some((question, worked)) = question.zip(worked) else { return Ok(None) };
        let (rationale, answer) = worked.split_once(MARK).ok_or(RowProblem::NoMark)?;
        let answer = answer.trim();
        if answer.is_empty() {
            return Err(RowProblem::Empty { field: "answer" });
        }
        let text = templates::gsm8k(&question, rationale, answer);
        Ok(Some(Row { text, answer: Some(answer.to_owned()), ..Row::default() }))
    }

    fn hellaswag(self, fields: &Fields) -> Result<Option<Row>, RowProblem> {
        let Some(context) = self.text(fields, &["ctx"])? else { return Ok(None) };
        let endings = fields.strings("endings")?.ok_or_else(|| self.missing(fields))?;
        let label = fields.label("label")?.ok_or_else(|| self.missing(fields))?;
        let ending = label.parse().ok().and_then(|label: usize| endings.get(label));
        let ending = ending.ok_or(RowProblem::Label { endings: endings.len() })?;
        if ending.trim().is_empty() {
            return Ok(None);
        }
        let text = templates::hellaswag(&context, ending);
        let answer = text[context.len()..].to_owned();
        Ok(Some(Row { text, answer: Some(answer), ..Row::default() }))
    }

    fn aime(self, fields: &Fields) -> Result<Option<Row>, RowProblem> {
        let problem = self.text(fields, &["Problem", "problem"])?;
        let solution = self.text(fields, &["Solution", "solution"])?;
        let Some((problem, solution)) = problem.zip(solution) else { return Ok(None) };
        let text = templates::aime(&problem, &solution);
        Ok(Some(Row { text, answer: boxed_end(&solution).map(str::to_owned), ..Row::default() }))
    }

    fn math(self, fields: &Fields, wanted: Option<u64>) -> Result<RowOutcome, RowProblem> {
        let label = fields.label("level")?.ok_or_else(|| self.missing(fields))?;
        // A few rows of MATH have "Level ?".
        let level: Option<u64> = label.trim_start_matches("Level").trim().parse().ok();
        if wanted.is_some() && wanted != level {
            return Ok(RowOutcome::Filtered);
        }
        let (problem, solution) = (self.text(fields, &["problem"])?, self.text(fields, &["solution"])?);
        let Some((problem, solution)) = problem.zip(solution) else { return Ok(RowOutcome::Empty) };
        let group = level.map_or_else(|| "level-unknown".to_owned(), |level| format!("level-{level}"));
        let (text, answer) = (templates::math(&problem, &solution), Some(format!(" {solution}")));
        Ok(RowOutcome::Prompt(Row { text, answer, group: Some(group), ..Row::default() }))
    }

    fn mquake(self, fields: &Fields, wanted: Option<u64>) -> Result<RowOutcome, RowProblem> {
        let hops = match fields.length("single_hops")? {
            Some(hops) => hops,
            None => fields.length("new_single_hops")?.ok_or_else(|| self.missing(fields))?,
        };
        if wanted.is_some_and(|wanted| usize::try_from(wanted) != Ok(hops)) {
            return Ok(RowOutcome::Filtered);
        }
        let questions = fields.strings("questions")?.ok_or_else(|| self.missing(fields))?;
        // The other questions are paraphrases.
        let question = questions.first().filter(|question| !question.trim().is_empty());
        let answer = self.text(fields, &["answer"])?;
        let Some((question, answer)) = question.zip(answer) else { return Ok(RowOutcome::Empty) };
        let (text, answer) = (templates::mquake(question, &answer), Some(format!(" {answer}")));
        Ok(RowOutcome::Prompt(Row { text, answer, group: Some(format!("hops-{hops}")), ..Row::default() }))
    }

    /// The first of these fields that is not blank; `None` if all present ones are blank.
    fn text(self, fields: &Fields, names: &[&'static str]) -> Result<Option<String>, RowProblem> {
        for name in names {
            if let Some(text) = fields.non_blank(name)? {
                return Ok(Some(text));
            }
        }
        match names.iter().any(|name| fields.contains(name)) {
            true => Ok(None),
            false => Err(self.missing(fields)),
        }
    }

    fn missing(self, fields: &Fields) -> RowProblem {
        RowProblem::MissingSetFields { set: self.name(), found: fields.found(), needs: self.needs() }
    }
}

impl RowOutcome {
    fn of(row: Option<Row>) -> Self {
        row.map_or(Self::Empty, Self::Prompt)
    }
}

/// Whether the answer of a row contains the mark of GSM8K.
pub(crate) fn is_marked(fields: &Fields) -> bool {
    fields.string("answer").is_ok_and(|answer| answer.is_some_and(|answer| answer.contains(MARK)))
}

/// The last `\boxed{}` of a solution and what follows it, unless letters or digits follow.
fn boxed_end(solution: &str) -> Option<&str> {
    let end = &solution[solution.rfind(r"\boxed{")?..];
    let mut depth = 0usize;
    for (at, character) in end.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => {
                let after = end[at..].chars().any(char::is_alphanumeric);
                return (!after).then_some(end);
            }
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}
