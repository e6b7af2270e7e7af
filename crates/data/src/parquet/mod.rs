//! Rows of Parquet files, as far as prompt sets are written in them: columns of text, of whole numbers
//! and of lists of them, plain or with a dictionary, in the compressions that are common on the hub.
//!
//! Files are untrusted. Pages are read one at a time and have a greatest size, values are taken from
//! them one by one, and no number found in a file decides how much memory is taken.

mod column;
mod footer;
mod levels;
mod page;
mod thrift;

use std::io::{self, Read, Seek};

use serde_json::{Map, Value};

use column::Column;
use footer::Footer;

/// What is wrong with a file.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It cannot be read.
    Io(io::Error),
    /// Its bytes contradict themselves.
    Damaged(&'static str),
    /// It may be intact, but is written in a way that is not read.
    Unsupported(String),
}

impl Fault {
    fn damaged(what: &'static str) -> Self {
        Self::Damaged(what)
    }

    fn unsupported(what: String) -> Self {
        Self::Unsupported(what)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("it ends too early"),
            _ => Self::Io(error),
        }
    }
}

/// The rows of a file, as JSON objects.
#[derive(Debug)]
pub(crate) struct Table<R> {
    source: R,
    footer: Footer,
    columns: Vec<Column>,
    /// The row group that is read next.
    group: usize,
    /// How many rows of the current row group are left.
    left: u64,
    /// The number of the last row, from 1.
    row: usize,
    /// The greatest size of a field in bytes.
    longest: usize,
    /// How many rows are read at most.
    most: usize,
}

/// A few bytes can stand for any number of equal rows, so that their number needs a bound of its own. The
/// largest sets of prompts have some hundred thousand rows.
const MOST_ROWS: usize = 1 << 22;

impl<R: Read + Seek> Table<R> {
    /// Opens a file, of which only the fields of the given names are read.
    pub(crate) fn open(mut source: R, names: &[&str], longest: usize) -> Result<Self, Fault> {
        let footer = Footer::read(&mut source, names)?;
        Ok(Self { source, footer, columns: Vec::new(), group: 0, left: 0, row: 0, longest, most: MOST_ROWS })
    }

    /// The number of the row that [`Self::next`] gives next, from 1.
    pub(crate) fn number(&self) -> usize {
        self.row + 1
    }

    /// The next row as a line of JSON.
    pub(crate) fn next(&mut self) -> Result<Option<String>, Fault> {
        while self.left == 0 {
            let Some(group) = self.footer.groups.get(self.group) else { return Ok(None) };
            self.left = group.rows;
            self.columns = group.chunks.iter().map(|chunk| Column::new(*chunk)).collect();
            self.group += 1;
        }
        if self.row >= self.most {
            return Err(Fault::unsupported(format!("it has more than {} rows", self.most)));
        }
        let mut row = Map::new();
        for (column, leaf) in self.columns.iter_mut().zip(&self.footer.leaves) {
            row.insert(leaf.name.clone(), column.value(&mut self.source, leaf, self.longest)?);
        }
        self.left -= 1;
        self.row += 1;
        Ok(Some(Value::Object(row).to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Nine rows that pyarrow has written.
    const SCENES: &[u8] = include_bytes!("../../tests/sets/fixtures/scenes.parquet");

    #[test]
    fn rows_are_bounded() {
        let mut table = Table::open(Cursor::new(SCENES), &["ctx", "label"], 1000).unwrap();
        table.most = 8;
        for number in 1..=8 {
            assert_eq!(table.number(), number);
            assert!(table.next().unwrap().is_some());
        }
        assert!(matches!(table.next(), Err(Fault::Unsupported(what)) if what == "it has more than 8 rows"));
        table.most = 9;
        let row = table.next().unwrap().unwrap();
        assert_eq!(row, r#"{"ctx":"A robot is in the café. it","label":"0"}"#);
        assert_eq!(table.next().unwrap(), None);
    }

    #[test]
    fn fields_are_bounded() {
        let first = |names, longest| Table::open(Cursor::new(SCENES), names, longest).unwrap().next();
        let text = "A cat is in the kitchen. it".len();
        assert!(first(&["ctx"], text).is_ok());
        assert!(matches!(first(&["ctx"], text - 1), Err(Fault::Unsupported(what)) if what.contains("ctx")));
        assert!(first(&["endings"], 400).is_ok());
        assert!(first(&["endings"], 200).is_err());
    }
}
