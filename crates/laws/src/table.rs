//! Tables as they come: CSV with a heading, or a JSON object of arrays.

use crate::error::{Error, Result, quoted};
use std::collections::BTreeMap;

/// A table of named columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    columns: Vec<(String, Vec<String>)>,
    rows: usize,
}

/// How many values of a column a message names.
const MOST_VALUES: usize = 8;

/// The most columns of a table.
const MOST_COLUMNS: usize = 10_000;

/// Which column of a table a quantity of a law is read from, where the user says so.
pub type ColumnNames = BTreeMap<String, String>;

impl Table {
    /// Reads CSV with a heading.
    ///
    /// # Errors
    /// [`Error::Table`] names the line.
    pub fn from_csv(bytes: &[u8]) -> Result<Self> {
        let table = |problem: String| Error::Table(problem);
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
        let headings: Vec<String> = reader
            .headers()
            .map_err(|e| table(format!("the heading cannot be read: {e}")))?
            .iter()
            .map(|name| name.trim_start_matches('\u{feff}').to_owned())
            .collect();
        if headings.len() > MOST_COLUMNS {
            return Err(table(format!("{} columns; the most is {MOST_COLUMNS}", headings.len())));
        }
        let mut columns: Vec<(String, Vec<String>)> =
            headings.into_iter().map(|name| (name, Vec::new())).collect();
        for record in reader.records() {
            let record = record.map_err(|e| table(csv_problem(&e)))?;
            for ((_, column), cell) in columns.iter_mut().zip(record.iter()) {
                column.push(cell.to_owned());
            }
        }
        Self::of(columns)
    }

    /// Reads a JSON object whose values are arrays of numbers or strings, all of one length.
    ///
    /// # Errors
    /// [`Error::Table`].
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let table = |problem: String| Error::Table(problem);
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|e| table(format!("not JSON: {e}")))?;
        let serde_json::Value::Object(object) = value else {
            return Err(table("the JSON is not an object of arrays, {\"column\": [..], ..}".to_owned()));
        };
        let mut columns = Vec::new();
        for (name, value) in object {
            let serde_json::Value::Array(items) = value else {
                return Err(table(format!("'{name}' is not an array; give an object of arrays")));
            };
            let cell = |item: serde_json::Value| match item {
                serde_json::Value::Number(number) => Ok(number.to_string()),
                serde_json::Value::String(text) => Ok(text),
                serde_json::Value::Bool(flag) => Ok(flag.to_string()),
                serde_json::Value::Null => Ok(String::new()),
                _ => Err(table(format!("'{name}' has an item that is neither a number nor a string"))),
            };
            columns.push((name.clone(), items.into_iter().map(cell).collect::<Result<_>>()?));
        }
        Self::of(columns)
    }

    /// A table of columns of numbers, for callers that have them.
    ///
    /// # Errors
    /// As [`from_csv`](Self::from_csv).
    pub fn from_numbers(columns: &[(&str, &[f64])]) -> Result<Self> {
        let text = |values: &[f64]| values.iter().map(|value| format!("{value:?}")).collect();
        Self::of(columns.iter().map(|(name, values)| ((*name).to_owned(), text(values))).collect())
    }

    /// A table of columns of text.
    ///
    /// # Errors
    /// [`Error::Table`] if columns share a name or differ in length, or there are no rows.
    pub fn of(columns: Vec<(String, Vec<String>)>) -> Result<Self> {
        let rows = columns.first().map_or(0, |(_, column)| column.len());
        for (index, (name, column)) in columns.iter().enumerate() {
            if columns[..index].iter().any(|(other, _)| other == name) {
                return Err(Error::Table(format!("two columns are called '{name}'")));
            }
            if column.len() != rows {
                return Err(Error::Table(format!(
                    "'{name}' has {} rows and '{}' has {rows}",
                    column.len(),
                    columns[0].0
                )));
            }
        }
        if rows == 0 {
            return Err(Error::Table("the table has no rows".to_owned()));
        }
        Ok(Self { columns, rows })
    }

    /// The rows with this value in this column.
    ///
    /// # Errors
    /// [`Error::Table`] if there is no such column or no such row, with those that there are.
    pub fn rows_where(&self, column: &str, value: &str) -> Result<Self> {
        let cells = self.text(column).ok_or_else(|| {
            Error::Table(format!("there is no column '{column}'; the table has {}", quoted(self.names())))
        })?;
        let kept: Vec<usize> = (0..self.rows).filter(|row| cells[*row] == value).collect();
        if kept.is_empty() {
            let (_, values) = self.groups(column)?;
            let more = if values.len() > MOST_VALUES { ", .." } else { "" };
            let found = quoted(values.iter().take(MOST_VALUES).map(String::as_str));
            return Err(Error::Table(format!(
                "no row has '{value}' in the column '{column}'; there are {found}{more}"
            )));
        }
        let column = |(name, cells): &(String, Vec<String>)| {
            (name.clone(), kept.iter().map(|row| cells[*row].clone()).collect())
        };
        Self::of(self.columns.iter().map(column).collect())
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// Whether there is a column of this name.
    pub fn has(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    /// A column as text.
    pub fn text(&self, name: &str) -> Option<&[String]> {
        self.columns.iter().find(|(column, _)| column == name).map(|(_, values)| values.as_slice())
    }

    /// The column that a quantity is read from: the user's, or the first of the usual names that there is.
    ///
    /// # Errors
    /// [`Error::NoColumn`].
    pub fn column_for(&self, quantity: &str, usual: &[&str], names: &ColumnNames) -> Result<String> {
        let own = names.get(quantity).map(String::as_str);
        let candidates: Vec<&str> = own.map_or_else(|| usual.to_vec(), |own| vec![own]);
        let found = candidates.iter().find(|name| self.has(name));
        found.map(|name| (*name).to_owned()).ok_or_else(|| Error::NoColumn {
            column: candidates.join("' or '"),
            purpose: if candidates == [quantity] { String::new() } else { format!(" for {quantity}") },
            found: quoted(self.names()),
            name: quantity.to_owned(),
        })
    }

    /// A column as numbers.
    ///
    /// # Errors
    /// [`Error::Value`] names the first row that is not a finite number, [`Error::NoColumn`].
    pub fn numbers(&self, name: &str) -> Result<Vec<f64>> {
        let cells = self.text(name).ok_or_else(|| Error::NoColumn {
            column: name.to_owned(),
            purpose: String::new(),
            found: quoted(self.names()),
            name: name.to_owned(),
        })?;
        let number = |(row, cell): (usize, &String)| match cell.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(Error::Value {
                row: row + 1,
                column: name.to_owned(),
                problem: format!(
                    "{} is not a finite number; correct the row or leave it out",
                    if cell.is_empty() {
                        "an empty cell".to_owned()
                    } else {
                        format!("'{}'", shortened(cell))
                    }
                ),
            }),
        };
        cells.iter().enumerate().map(number).collect()
    }

    /// A column as positive numbers, of which logarithms are taken.
    ///
    /// # Errors
    /// As [`numbers`](Self::numbers), and for numbers that are not positive.
    pub fn positive(&self, name: &str) -> Result<Vec<f64>> {
        let values = self.numbers(name)?;
        match values.iter().position(|value| *value <= 0.0) {
            None => Ok(values),
            Some(row) => Err(Error::Value {
                row: row + 1,
                column: name.to_owned(),
                problem: format!("{} has no logarithm; the law needs positive values", values[row]),
            }),
        }
    }

    /// The index of each row's value among the distinct values of a column, and those values in the order in which they
    /// occur.
    ///
    /// # Errors
    /// [`Error::NoColumn`].
    pub fn groups(&self, name: &str) -> Result<(Vec<usize>, Vec<String>)> {
        let cells = self.text(name).ok_or_else(|| Error::NoColumn {
            column: name.to_owned(),
            purpose: " of groups".to_owned(),
            found: quoted(self.names()),
            name: name.to_owned(),
        })?;
        let mut known: BTreeMap<&str, usize> = BTreeMap::new();
        let (mut indices, mut values) = (Vec::new(), Vec::new());
        for cell in cells {
            let index = *known.entry(cell).or_insert_with(|| {
                values.push(cell.clone());
                values.len() - 1
            });
            indices.push(index);
        }
        Ok((indices, values))
    }
}

/// The beginning of a cell, for messages.
fn shortened(cell: &str) -> String {
    let clean: String = cell.chars().map(|c| if c.is_control() { '?' } else { c }).take(40).collect();
    if cell.chars().count() > 40 { clean + ".." } else { clean }
}

fn csv_problem(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(0, csv::Position::line);
            format!("line {line} has {len} cells and the heading {expected_len}")
        }
        csv::ErrorKind::Utf8 { pos, .. } => {
            format!("line {} is not UTF-8", pos.as_ref().map_or(0, csv::Position::line))
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn csv_and_json_give_the_same_table() {
        let csv = Table::from_csv("\u{feff}a, name\n1.5,x\n2e3,\"y, z\"\n".as_bytes()).unwrap();
        let json = Table::from_json(br#"{"a": [1.5, 2e3], "name": ["x", "y, z"]}"#).unwrap();
        assert_eq!(csv.numbers("a"), json.numbers("a"));
        assert_eq!(csv.numbers("a"), Ok(vec![1.5, 2000.0]));
        assert_eq!(csv.text("name"), json.text("name"));
        assert_eq!(csv.groups("name").unwrap(), (vec![0, 1], vec!["x".to_owned(), "y, z".to_owned()]));
    }

    #[test]
    fn rows_are_chosen_by_a_value() {
        let table = Table::from_csv(b"a,data\n1,x\n2,y\n3,x\n").unwrap();
        assert_eq!(table.rows_where("data", "x").unwrap().numbers("a"), Ok(vec![1.0, 3.0]));
        let message = |column, value| table.rows_where(column, value).unwrap_err().to_string();
        assert_eq!(message("data", "z"), "no row has 'z' in the column 'data'; there are 'x' and 'y'");
        assert_eq!(message("set", "x"), "there is no column 'set'; the table has 'a' and 'data'");
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let table = Table::from_csv(b"a,b\n1,2\n3,\nnan,x\n").unwrap();
        let message = |result: Result<Vec<f64>>| result.unwrap_err().to_string();
        assert_eq!(
            message(table.numbers("a")),
            "row 3, column 'a': 'nan' is not a finite number; correct the row or leave it out"
        );
        assert!(message(table.numbers("b")).contains("row 2, column 'b': an empty cell"));
        assert_eq!(
            table.column_for("layers", &["n_layers", "layers"], &ColumnNames::new()).unwrap_err().to_string(),
            "there is no column 'n_layers' or 'layers' for layers; the table has 'a' and 'b'; name another with \
             --columns layers=COLUMN"
        );
        let own = ColumnNames::from([("layers".to_owned(), "b".to_owned())]);
        assert_eq!(table.column_for("layers", &["n_layers"], &own), Ok("b".to_owned()));
        let zero = Table::from_csv(b"a\n1\n0\n").unwrap();
        assert!(message(zero.positive("a")).contains("row 2, column 'a': 0 has no logarithm"));
    }

    #[test]
    fn tables_that_are_none_are_refused() {
        let cases: [(&[u8], &str); 6] = [
            (b"a,b\n1\n", "line 2 has 1 cells and the heading 2"),
            (b"a,b\n", "no rows"),
            (b"", "no rows"),
            (b"a,a\n1,2\n", "two columns are called 'a'"),
            (b"a\n\xff\n", "line 2 is not UTF-8"),
            (b"a,b\n1,2,3\n", "line 2 has 3 cells"),
        ];
        for (bytes, expected) in cases {
            let error = Table::from_csv(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for bytes in
            ["[1]", "{\"a\": 1}", "{\"a\": [1], \"b\": []}", "{\"a\": [[1]]}", "{}", "{\"a\": []}", "{"]
        {
            assert!(matches!(Table::from_json(bytes.as_bytes()), Err(Error::Table(_))), "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Table::from_csv(&bytes);
            let _ = Table::from_json(&bytes);
        }
    }
}
