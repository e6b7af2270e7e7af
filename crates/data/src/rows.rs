//! Rows: JSON objects, and what is taken from their fields.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::{DataError, RowProblem};

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
pub(crate) fn fields(line: &str) -> Result<Fields, RowProblem> {
    let error = match serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(line) {
        Ok(map) => {
            return Ok(Fields(
                map.into_iter().map(|(name, value)| (name, FieldValue::Json(value))).collect(),
            ));
        }
        Err(error) => error,
    };
    let (finite, places) = without_not_finite(line);
    if places.is_empty() {
        return Err(explain(line, &error));
    }
    let map: BTreeMap<String, &RawValue> =
        serde_json::from_str(&finite).map_err(|error| explain(line, &error))?;
    let held = |value: &RawValue| {
        let start = value.get().as_ptr() as usize - finite.as_ptr() as usize;
        let within = start..start + value.get().len();
        match places.iter().any(|place| within.contains(place)) {
            true => FieldValue::NotFinite,
            false => FieldValue::Json(value.to_owned()),
        }
    };
    Ok(Fields(map.into_iter().map(|(name, value)| (name, held(value))).collect()))
}

/// The line with zeros of the same length where Python wrote `NaN` or `Infinity`, which JSON does not know,
/// and the bytes at which they stood.
fn without_not_finite(line: &str) -> (String, Vec<usize>) {
    let (mut finite, mut places, mut at) = (line.as_bytes().to_vec(), Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    while let Some(byte) = line.as_bytes().get(at) {
        let word =
            ["NaN", "Infinity"].into_iter().find(|word| line.as_bytes()[at..].starts_with(word.as_bytes()));
        match word.filter(|word| !quoted && stands_alone(line.as_bytes(), at, word.len())) {
            Some(word) => {
                finite[at..at + word.len()].fill(b'0');
                finite[at + 1] = b'.';
                places.push(at);
                at += word.len();
            }
            None => {
                quoted ^= *byte == b'"' && !escaped;
                escaped = *byte == b'\\' && quoted && !escaped;
                at += 1;
            }
        }
    }
    // Only letters were replaced, and by characters of ASCII.
    (String::from_utf8(finite).unwrap_or_default(), places)
}

/// Whether bytes of a line are a value of their own, which may have a sign.
fn stands_alone(line: &[u8], at: usize, length: usize) -> bool {
    let before = at.checked_sub(1).is_none_or(|before| b":,[ \t-".contains(&line[before]));
    before && line.get(at + length).is_none_or(|after| b",]} \t".contains(after))
}

/// A row in the form of Fathom's own files, unless it holds no text.
pub(crate) fn own(fields: &Fields) -> Result<Option<Row>, RowProblem> {
    let Some((text, answer)) = text_and_answer(fields)? else { return Ok(None) };
    if let Some(answer) = &answer {
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
    Ok(Some(Row { id: fields.label("id")?, text, answer, positions: fields.positions()?, group }))
}

/// The text of a row and the answer it ends with, or `None` where the fields are there and empty.
fn text_and_answer(fields: &Fields) -> Result<Option<(String, Option<String>)>, RowProblem> {
    if let Some(text) = fields.string("text")? {
        // An answer that is a number or a list is about the text, and not its end.
        let answer = if fields.is_string("answer") { fields.said("answer")? } else { None };
        return Ok((!is_blank(&text)).then_some((text, answer)));
    }
    if fields.names("question") && fields.names("answer") {
        let (question, answer) = (fields.said("question")?, fields.said("answer")?);
        return Ok(question.zip(answer).map(|(question, answer)| (question + &answer, Some(answer))));
    }
    match fields.names("text") {
        true => Ok(None),
        false => Err(RowProblem::MissingFields { found: fields.found() }),
    }
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
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
pub(crate) struct Fields(BTreeMap<String, FieldValue>);

/// What a field holds.
enum FieldValue {
    Json(Box<RawValue>),
    /// NaN or an infinity, or something with one of them in it.
    NotFinite,
}

impl Fields {
    /// The fields of a row of a table.
    pub(crate) fn from_table_row(row: Vec<(String, Value)>) -> Result<Self, serde_json::Error> {
        let held = |(name, value)| Ok((name, FieldValue::Json(to_raw_value(&value)?)));
        row.into_iter().map(held).collect::<Result<_, _>>().map(Self)
    }

    /// The value of a field that is there and not null.
    fn value(&self, field: &'static str) -> Result<Option<&RawValue>, RowProblem> {
        match self.0.get(field) {
            Some(FieldValue::NotFinite) => Err(RowProblem::NotFinite { field }),
            Some(FieldValue::Json(value)) if value.get() != "null" => Ok(Some(value)),
            _ => Ok(None),
        }
    }

    fn is_string(&self, field: &str) -> bool {
        matches!(self.0.get(field), Some(FieldValue::Json(value)) if kind(value.get()) == "a string")
    }

    /// A string that is not blank.
    pub(crate) fn said(&self, field: &'static str) -> Result<Option<String>, RowProblem> {
        Ok(self.string(field)?.filter(|text| !is_blank(text)))
    }

    pub(crate) fn string(&self, field: &'static str) -> Result<Option<String>, RowProblem> {
        let Some(value) = self.value(field)? else { return Ok(None) };
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
        let Some(value) = self.value(field)? else { return Ok(None) };
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
        let Some(value) = self.value(field)? else { return Ok(None) };
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
        let Some(value) = self.value(field)? else { return Ok(None) };
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
        let Some(value) = self.value(field)? else { return Ok(None) };
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
        match self.0.get(field) {
            Some(FieldValue::Json(value)) => value.get() != "null",
            Some(FieldValue::NotFinite) => true,
            None => false,
        }
    }

    /// Whether there is a field of this name, which may be null.
    pub(crate) fn names(&self, field: &str) -> bool {
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

/// Rows, one at a time: their numbers, from 1, and their fields.
pub(crate) trait RowReader {
    fn next(&mut self) -> Result<Option<(usize, Fields)>, DataError>;
}
