//! Rows: JSON objects, and what is taken from their fields.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::RowProblem;
use crate::files::Kind;

/// The fields that are read, in all forms of rows. Of tables, only these columns are read.
pub(crate) const NAMES: &[&str] = &[
    "id",
    "text",
    "question",
    "answer",
    "positions",
    "group",
    "level",
    "regime",
    "ctx",
    "endings",
    "label",
    "problem",
    "Problem",
    "solution",
    "Solution",
    "Answer",
    "questions",
    "single_hops",
    "new_single_hops",
];

/// What rows of a file are called.
pub(crate) fn unit(path: &Path) -> &'static str {
    if Kind::of(path) == Some(Kind::Parquet) { "row" } else { "line" }
}

/// What a line or a paragraph says; the id may be missing.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) id: Option<String>,
    pub(crate) text: String,
    pub(crate) answer: Option<String>,
    pub(crate) positions: Option<Vec<usize>>,
    pub(crate) group: Option<String>,
}

/// Reads a JSON object. Values are left as they stand until it is known which of them are wanted, so
/// that a line never takes much more memory than its length.
pub(crate) fn fields(line: &str) -> Result<Fields<'_>, RowProblem> {
    let mut map: BTreeMap<String, &RawValue> =
        serde_json::from_str(line).map_err(|error| explain(line, &error))?;
    map.retain(|_, value| value.get() != "null");
    Ok(Fields(map))
}

/// A row in the form of Fathom's own files.
pub(crate) fn own(fields: &Fields<'_>) -> Result<Row, RowProblem> {
    let answer = fields.string("answer")?;
    let text = match (fields.string("text")?, fields.string("question")?, &answer) {
        (Some(text), _, _) => text,
        (None, Some(question), Some(answer)) => question + answer,
        _ => return Err(RowProblem::MissingFields { found: fields.found() }),
    };
    if text.trim().is_empty() {
        return Err(RowProblem::Empty { field: "text" });
    }
    if let Some(answer) = &answer {
        if answer.trim().is_empty() {
            return Err(RowProblem::Empty { field: "answer" });
        }
        let question = text.strip_suffix(answer.as_str()).ok_or(RowProblem::AnswerNotAtEnd)?;
        if question.trim().is_empty() {
            return Err(RowProblem::NoQuestion);
        }
    }
    let mut group = None;
    for field in ["group", "level", "regime"] {
        if group.is_none() {
            group = fields.label(field)?;
        }
    }
    Ok(Row { id: fields.label("id")?, text, answer, positions: fields.positions()?, group })
}

/// Says in our words why a line is not a JSON object.
fn explain(line: &str, error: &serde_json::Error) -> RowProblem {
    if error.is_data() {
        return RowProblem::NotAnObject { found: kind(line.trim_start()) };
    }
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default().to_owned();
    // The parser counts bytes, and an editor shows characters.
    let column = line.char_indices().take_while(|(byte, _)| *byte < error.column()).count();
    RowProblem::Json { column: column.max(1), message }
}

/// What a JSON value is, told by its first character.
fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// The fields of a row, values unread.
pub(crate) struct Fields<'a>(BTreeMap<String, &'a RawValue>);

impl Fields<'_> {
    pub(crate) fn string(&self, field: &'static str) -> Result<Option<String>, RowProblem> {
        let Some(value) = self.0.get(field) else { return Ok(None) };
        if kind(value.get()) != "a string" {
            let found = kind(value.get());
            return Err(RowProblem::WrongType { field, found, wanted: "a string" });
        }
        match serde_json::from_str(value.get()) {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(RowProblem::BadString { field, message: error.to_string() }),
        }
    }

    /// A string that is not empty, or a number as it is written.
    pub(crate) fn label(&self, field: &'static str) -> Result<Option<String>, RowProblem> {
        let Some(value) = self.0.get(field) else { return Ok(None) };
        match kind(value.get()) {
            "a number" => Ok(Some(value.get().to_owned())),
            "a string" => match self.string(field)? {
                Some(text) if text.trim().is_empty() => Err(RowProblem::Empty { field }),
                text => Ok(text),
            },
            found => Err(RowProblem::WrongType { field, found, wanted: "a string or a number" }),
        }
    }

    pub(crate) fn positions(&self) -> Result<Option<Vec<usize>>, RowProblem> {
        let field = "positions";
        let Some(value) = self.0.get(field) else { return Ok(None) };
        match serde_json::from_str::<Vec<usize>>(value.get()) {
            Ok(positions) if positions.is_empty() => Err(RowProblem::Empty { field }),
            Ok(positions) => Ok(Some(positions)),
            Err(_) => {
                let found = match kind(value.get()) {
                    "a list" => "a list with other things in it",
                    found => found,
                };
                Err(RowProblem::WrongType { field, found, wanted: "a list of whole numbers from 0 up" })
            }
        }
    }

    /// A list of strings.
    pub(crate) fn strings(&self, field: &'static str) -> Result<Option<Vec<String>>, RowProblem> {
        let Some(value) = self.0.get(field) else { return Ok(None) };
        match serde_json::from_str(value.get()) {
            Ok(list) => Ok(Some(list)),
            Err(_) => {
                let found = match kind(value.get()) {
                    "a list" => "a list with other things in it",
                    found => found,
                };
                Err(RowProblem::WrongType { field, found, wanted: "a list of strings" })
            }
        }
    }

    /// The length of a list of anything.
    pub(crate) fn length(&self, field: &'static str) -> Result<Option<usize>, RowProblem> {
        let Some(value) = self.0.get(field) else { return Ok(None) };
        match serde_json::from_str::<Vec<IgnoredAny>>(value.get()) {
            Ok(list) => Ok(Some(list.len())),
            Err(_) => {
                let found = kind(value.get());
                Err(RowProblem::WrongType { field, found, wanted: "a list" })
            }
        }
    }

    /// Whether there is a field of this name that is not null.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.0.contains_key(field)
    }

    /// The names of the fields, in words; long names and long lists are cut.
    pub(crate) fn found(&self) -> String {
        const MOST: usize = 10;
        let name = |name: &String| format!("{:?}", name.chars().take(40).collect::<String>());
        let mut names: Vec<String> = self.0.keys().take(MOST).map(name).collect();
        match self.0.len() {
            0 => return "no fields".to_owned(),
            1 => return format!("only the field {}", names[0]),
            more if more > MOST => names.push(format!("{} more", more - MOST)),
            _ => {}
        }
        format!("the fields {}", names.join(", "))
    }
}
