//! Typed fields of TOML tables. Errors are collected, so that one run of the parser reports all of them; serde stops at
//! the first.

use super::error::Problem;
use fathom_results::text::{did_you_mean, nearest};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// A value and its line, from 1.
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) line: usize,
}

/// A table whose fields are taken out one by one.
pub(super) struct Table<'i> {
    /// Its name in messages.
    pub(super) title: String,
    pub(super) line: Option<usize>,
    pub(super) fields: BTreeMap<String, At<DeValue<'i>>>,
}

/// A type that a field can have.
pub(super) trait Field: Sized {
    /// Converts a value.
    ///
    /// # Errors
    /// What the value must be, as the end of "'FIELD' of TABLE must be ...".
    fn of(value: DeValue<'_>) -> Result<Self, String>;
}

impl Field for String {
    fn of(value: DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(text) if !text.trim().is_empty() => Ok(text.into_owned()),
            DeValue::String(_) => Err("a text that is not empty".to_owned()),
            _ => Err("a text in quotes".to_owned()),
        }
    }
}

impl Field for u64 {
    fn of(value: DeValue<'_>) -> Result<Self, String> {
        let whole = match &value {
            DeValue::Integer(integer) => Self::from_str_radix(integer.as_str(), integer.radix()).ok(),
            _ => None,
        };
        whole.ok_or_else(|| "a whole number from 0 up".to_owned())
    }
}

/// An integer or a float as `f64`.
pub(super) fn number(value: &DeValue<'_>) -> Option<f64> {
    let number: f64 = match value {
        DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse().ok()?,
        DeValue::Float(float) => float.as_str().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// A single text, or the texts of a list.
pub(super) fn texts(value: DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::String(text) => Some(vec![text.into_owned()]),
        DeValue::Array(array) => {
            let text = |value: Spanned<DeValue<'_>>| match value.into_inner() {
                DeValue::String(text) => Some(text.into_owned()),
                _ => None,
            };
            array.into_iter().map(text).collect()
        }
        _ => None,
    }
}

/// Reads a document and collects its errors.
pub(super) struct Reader<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, problems: Vec::new() }
    }

    /// The errors in the order of the file; errors of the whole file, which have no line, come last.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        self.problems
    }

    pub(super) fn problem(&mut self, line: Option<usize>, message: impl Into<String>) {
        self.problems.push(Problem { line, message: message.into() });
    }

    /// Reports a field with a wrong value.
    pub(super) fn wrong(&mut self, table: &Table<'_>, name: &str, line: usize, must: &str) {
        self.problem(Some(line), format!("'{name}' of {} must be {must}", table.title));
    }

    /// The whole document; `None` after a syntax error, because values recovered from broken TOML are guesses and would
    /// give misleading messages.
    pub(super) fn document(&mut self, title: &str) -> Option<Table<'t>> {
        let (document, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let line = error.span().map(|span| self.line(span));
            self.problem(line, format!("this is not TOML: {}", error.message()));
        }
        errors.is_empty().then(|| self.table(title.to_owned(), None, document.into_inner()))
    }

    pub(super) fn table<'i>(&self, title: String, line: Option<usize>, table: DeTable<'i>) -> Table<'i> {
        let field = |(key, value): (Spanned<Cow<'_, str>>, Spanned<DeValue<'i>>)| {
            // A long array is reported where its key is.
            let line = self.line(key.span());
            (key.into_inner().into_owned(), At { value: value.into_inner(), line })
        };
        Table { title, line, fields: table.into_iter().map(field).collect() }
    }

    fn line(&self, span: Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// Reports the fields that are not in `known`.
    pub(super) fn unknown(&mut self, table: &Table<'_>, known: &[&str]) {
        for (name, At { line, .. }) in &table.fields {
            if !known.contains(&name.as_str()) {
                let message = format!("{} has no field '{name}'{}", table.title, instead(name, known));
                self.problem(Some(*line), message);
            }
        }
    }

    /// Takes an optional field out of the table; `None` if it is absent or wrong.
    pub(super) fn optional<T: Field>(&mut self, table: &mut Table<'_>, name: &str) -> Option<At<T>> {
        let At { value, line } = table.fields.remove(name)?;
        match T::of(value) {
            Ok(value) => Some(At { value, line }),
            Err(must) => {
                self.wrong(table, name, line, &must);
                None
            }
        }
    }

    /// The value alone of an optional field.
    pub(super) fn value<T: Field>(&mut self, table: &mut Table<'_>, name: &str) -> Option<T> {
        self.optional(table, name).map(|at| at.value)
    }

    /// Takes a field that must be present.
    pub(super) fn required<T: Field>(&mut self, table: &mut Table<'_>, name: &str) -> Option<At<T>> {
        if !table.fields.contains_key(name) {
            self.problem(table.line, format!("{} has no '{name}'; add one", table.title));
            return None;
        }
        self.optional(table, name)
    }

    /// The tables of an array such as `[[model]]`.
    pub(super) fn tables<'i>(&mut self, top: &mut Table<'i>, name: &str) -> Vec<Table<'i>> {
        let Some(At { value, line }) = top.fields.remove(name) else { return Vec::new() };
        let DeValue::Array(array) = value else {
            self.problem(Some(line), format!("'{name}' must be written as [[{name}]], once for each {name}"));
            return Vec::new();
        };
        let array: DeArray<'i> = array;
        let mut tables = Vec::new();
        for (i, element) in array.into_iter().enumerate() {
            let line = self.line(element.span());
            match element.into_inner() {
                DeValue::Table(table) => {
                    tables.push(self.table(format!("{name} {}", i + 1), Some(line), table));
                }
                _ => self.problem(Some(line), format!("'{name}' must be written as [[{name}]]")),
            }
        }
        tables
    }
}

/// Ends the message about an unknown name: the most similar known name, or all of them.
pub(super) fn instead(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(_) => did_you_mean(word, known.iter().copied()),
        None if known.is_empty() => "; there is none".to_owned(),
        None => format!("; there are {}", known.join(", ")),
    }
}
