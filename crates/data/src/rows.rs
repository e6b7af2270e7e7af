//! Rows as JSON objects, and typed access to their fields.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::{DataError, RowProblem};

/// The content of a row, a line or a paragraph.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) id: Option<String>,
    pub(crate) text: String,
    pub(crate) answer: Option<String>,
    pub(crate) positions: Option<Vec<usize>>,
    pub(crate) group: Option<String>,
}

/// Parses a JSON object. Values stay unparsed until they are read, so that a line never takes much more
/// memory than its length.
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

/// Replaces `NaN` and `Infinity`, which Python writes and JSON does not allow, by zeros of the same length.
/// Also returns their byte offsets.
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
    // Only ASCII letters were replaced, by ASCII characters.
    (String::from_utf8(finite).unwrap_or_default(), places)
}

/// Whether the bytes are a whole JSON value, apart from a sign.
fn stands_alone(line: &[u8], at: usize, length: usize) -> bool {
    let before = at.checked_sub(1).is_none_or(|before| b":,[ \t-".contains(&line[before]));
    before && line.get(at + length).is_none_or(|after| b",]} \t".contains(after))
}

/// A row of Fathom's own schema; `None` if it has no text.
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

/// The text of a row and the answer at its end; `None` if the fields are empty.
fn text_and_answer(fields: &Fields) -> Result<Option<(String, Option<String>)>, RowProblem> {
    if let Some(text) = fields.string("text")? {
        // An answer that is a number or a list describes the text and is not its end.
        let answer = if fields.is_string("answer") { fields.non_blank("answer")? } else { None };
        return Ok((!is_blank(&text)).then_some((text, answer)));
    }
    if fields.contains("question") && fields.contains("answer") {
        let (question, answer) = (fields.non_blank("question")?, fields.non_blank("answer")?);
        return Ok(question.zip(answer).map(|(question, answer)| (question + &answer, Some(answer))));
    }
    match fields.contains("text") {
        true => Ok(None),
        false => Err(RowProblem::MissingFields { found: fields.found() }),
    }
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// The reason why a line is not a JSON object.
fn explain(line: &str, error: &serde_json::Error) -> RowProblem {
    if error.is_data() {
        return RowProblem::NotAnObject { found: kind(line.trim_start()) };
    }
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default().to_owned();
    // The parser counts bytes; editors show characters.
    let column = line.char_indices().take_while(|(byte, _)| *byte < error.column()).count();
    RowProblem::Json { column: column.max(1), message }
}

/// The type of a JSON value, from its first character.
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

/// The fields of a row, with unparsed values.
pub(crate) struct Fields(BTreeMap<String, FieldValue>);

/// The value of a field.
enum FieldValue {
    Json(Box<RawValue>),
    /// NaN, an infinity, or a value that contains one.
    NotFinite,
}

impl Fields {
    /// The fields of a row of a table.
    pub(crate) fn from_table_row(row: Vec<(String, Value)>) -> Result<Self, serde_json::Error> {
        let held = |(name, value)| Ok((name, FieldValue::Json(to_raw_value(&value)?)));
        row.into_iter().map(held).collect::<Result<_, _>>().map(Self)
    }

    /// The value of a field; `None` if it is absent or null.
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
    pub(crate) fn non_blank(&self, field: &'static str) -> Result<Option<String>, RowProblem> {
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

    /// The members of an object as fields `field.member`; `None` if the value is something else or absent.
    pub(crate) fn members(&self, field: &'static str) -> Result<Option<Self>, RowProblem> {
        let Some(value) = self.value(field)? else { return Ok(None) };
        if kind(value.get()) != "an object" {
            return Ok(None);
        }
        let Self(members) = fields(value.get())?;
        Ok(Some(Self(members.into_iter().map(|(name, value)| (format!("{field}.{name}"), value)).collect())))
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

    /// Whether a field is present and not null.
    pub(crate) fn has(&self, field: &str) -> bool {
        match self.0.get(field) {
            Some(FieldValue::Json(value)) => value.get() != "null",
            Some(FieldValue::NotFinite) => true,
            None => false,
        }
    }

    /// Whether a field is present, possibly null.
    pub(crate) fn contains(&self, field: &str) -> bool {
        self.0.contains_key(field)
    }

    /// The names of the fields, in words; long names and long lists are cut.
    pub(crate) fn found(&self) -> String {
        const MAX_NAMES: usize = 10;
        let name = |name: &String| format!("{:?}", name.chars().take(40).collect::<String>());
        let mut names: Vec<String> = self.0.keys().take(MAX_NAMES).map(name).collect();
        match self.0.len() {
            0 => return "no fields".to_owned(),
            1 => return format!("only the field {}", names[0]),
            more if more > MAX_NAMES => names.push(format!("{} more", more - MAX_NAMES)),
            _ => {}
        }
        format!("the fields {}", names.join(", "))
    }
}

/// Reads rows one at a time.
pub(crate) trait RowReader {
    /// The next row: its number in the file, from 1, and its fields.
    fn next(&mut self) -> Result<Option<(usize, Fields)>, DataError>;
}
