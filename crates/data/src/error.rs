//! What can go wrong, in sentences for the user.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::file_format::unit;
use crate::row_problem::RowProblem;

/// Why there is no prompt set.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataError {
    /// The spec is neither a name nor a path.
    #[error(
        "there is no prompt set `{name}`{}; there are {}, and a path to a .jsonl, .parquet or .txt file works too",
        nearest.map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default(),
        known.join(", ")
    )]
    UnknownSet {
        /// What was asked for.
        name: String,
        /// The name that looks most like it, if one does.
        nearest: Option<&'static str>,
        /// All names.
        known: Vec<&'static str>,
    },
    /// A set has no such parameter.
    #[error("`{set}` has no parameter `{name}`; {}", parameter_advice(set, known))]
    UnknownParameter {
        /// The set.
        set: &'static str,
        /// The parameter asked for.
        name: String,
        /// The parameters it has.
        known: &'static [&'static str],
    },
    /// A parameter is not written as `name=value`.
    #[error("`{text}` is not a parameter of `{set}`; write parameters as `{set}:name=value,name=value`")]
    ParameterForm {
        /// The set.
        set: &'static str,
        /// What stands in the place of a parameter.
        text: String,
    },
    /// A parameter is given twice.
    #[error("`{set}` is given `{name}` twice; leave one of them out")]
    RepeatedParameter {
        /// The set.
        set: &'static str,
        /// The parameter.
        name: String,
    },
    /// The value of a parameter is not a number or not in its range.
    #[error("`{name}` of `{set}` must be a whole number from {low} to {high}, not `{value}`")]
    ParameterValue {
        /// The set.
        set: &'static str,
        /// The parameter.
        name: String,
        /// The value given.
        value: String,
        /// The lowest value that is allowed.
        low: u64,
        /// The highest value that is allowed.
        high: u64,
    },
    /// The limit leaves nothing.
    #[error("a limit of 0 leaves no prompts; give a limit of 1 or more, or none")]
    ZeroLimit,
    /// There is no such generator of random numbers.
    #[error("there is no random number generator `{name}`; use `native` or `python`")]
    UnknownRng {
        /// What was asked for.
        name: String,
    },
    /// The ending of a path tells nothing that prompts are read from.
    #[error(
        "{} is no file of a known kind; prompts are read from .jsonl or .ndjson (one JSON object a line), \
         from .parquet and from .txt or .md (paragraphs), so give the file the name that fits its content",
        path.display()
    )]
    UnknownKind {
        /// The path.
        path: PathBuf,
    },
    /// The file cannot be opened or read.
    #[error("cannot read {}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says. It is part of the message, so it is not given as a source once more.
        cause: std::io::Error,
    },
    /// A Parquet file contradicts itself.
    #[error(
        "{}{}: the Parquet file is damaged ({problem}); download or write it again",
        path.display(),
        row.map(|row| format!(", row {row}")).unwrap_or_default()
    )]
    DamagedTable {
        /// The file.
        path: PathBuf,
        /// The row that was to be read, from 1.
        row: Option<usize>,
        /// What is wrong.
        problem: String,
    },
    /// A Parquet file is written in a way that is not read.
    #[error(
        "{}{}: cannot read the Parquet file, because {problem}; write it with the defaults of pyarrow, or as \
         JSON lines",
        path.display(),
        row.map(|row| format!(", row {row}")).unwrap_or_default()
    )]
    UnsupportedTable {
        /// The file.
        path: PathBuf,
        /// The row that was to be read, from 1.
        row: Option<usize>,
        /// What is not read.
        problem: String,
    },
    /// A Parquet file lacks the columns that prompts are made of.
    #[error(
        "{}: found {found}, but a row{} needs {needs}, as text; rename the columns that hold them, or write \
         them as JSON lines",
        path.display(),
        set.map(|set| format!(" of {set}")).unwrap_or_default()
    )]
    MissingColumns {
        /// The file.
        path: PathBuf,
        /// The columns that are there, with their types, in words.
        found: String,
        /// The set, if the rows are those of one.
        set: Option<&'static str>,
        /// The columns that are needed, in words.
        needs: &'static str,
    },
    /// A column of a Parquet file that decides what is measured does not hold what it must.
    #[error("{}: the column {column:?} is a {found}, but it must be a list of whole numbers", path.display())]
    WrongColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// What it holds, in words.
        found: String,
    },
    /// A split is asked for of something that has none.
    #[error("{what} has no splits; leave the split out")]
    SplitOfFile {
        /// The set or the file.
        what: String,
    },
    /// A revision is asked for of a file.
    #[error("a file has no revisions, so `{set}` takes either `file` or `revision`; leave one of them out")]
    RevisionOfFile {
        /// The set.
        set: &'static str,
    },
    /// A set has no such split.
    #[error("`{set}` has no split `{split}`; use {}", known.join(" or "))]
    UnknownSplit {
        /// The set.
        set: &'static str,
        /// The split asked for.
        split: String,
        /// The splits it has.
        known: &'static [&'static str],
    },
    /// The file that is given for a set is not of a kind that sets are read from.
    #[error(
        "{} is not read for `{set}`, which takes .jsonl (one JSON object a line) or .parquet; a list in a \
         .json file becomes lines with `jq -c '.[]'`",
        path.display()
    )]
    SetFile {
        /// The set.
        set: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A set is not on the hub.
    #[error(
        "`{set}` is not on the Hugging Face hub in a form that is read; give a file in its own fields: \
         `{set}:file=PATH.jsonl`"
    )]
    NeedsFile {
        /// The set.
        set: &'static str,
    },
    /// The caller gives no way to the hub.
    #[error(
        "`{set}` is read from {id} on the Hugging Face hub, which is not used here; give a file in its own \
         fields: `{set}:file=PATH`"
    )]
    NoHub {
        /// The set.
        set: &'static str,
        /// Its id on the hub.
        id: &'static str,
    },
    /// The hub does not give the set.
    #[error("cannot get `{set}` from {id}: {cause}; a file in its own fields works too: `{set}:file=PATH`")]
    Fetch {
        /// The set.
        set: &'static str,
        /// Its id on the hub.
        id: &'static str,
        /// What the hub, or the way to it, says.
        cause: String,
    },
    /// The data set on the hub lacks the files that are expected.
    #[error(
        "{id} holds no Parquet files of the split {split}; try `{set}:revision=refs/convert/parquet`, or give \
         a file: `{set}:file=PATH`"
    )]
    NoFiles {
        /// The set.
        set: &'static str,
        /// Its id on the hub.
        id: &'static str,
        /// The split.
        split: String,
    },
    /// A filter leaves nothing, or there was nothing.
    #[error("{}", none_left(place, *rows, *empty, *level, *hops))]
    NoneLeft {
        /// Where the rows come from.
        place: String,
        /// How many rows there are.
        rows: usize,
        /// How many of them are empty.
        empty: usize,
        /// The level that was asked for.
        level: Option<u64>,
        /// The number of hops that was asked for.
        hops: Option<u64>,
    },
    /// There is nothing in the file.
    #[error("{} holds no prompts; write at least one into it", path.display())]
    NoPrompts {
        /// The file.
        path: PathBuf,
    },
    /// Every row of a file is empty.
    #[error(
        "{} holds no prompts: the text, question or answer of every {unit} ({rows} in all) is empty or null; fill \
         it in",
        path.display()
    )]
    AllEmpty {
        /// The file.
        path: PathBuf,
        /// What rows of the file are called.
        unit: &'static str,
        /// How many rows there are.
        rows: usize,
    },
    /// All the prompts together are too large.
    #[error("{}, {unit} {line}: the prompts up to here are larger than {bytes} bytes; use a limit or split the file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What rows of the file are called.
        unit: &'static str,
        /// The line or row, from 1.
        line: usize,
        /// The greatest size that is read.
        bytes: usize,
    },
    /// A line of a file is wrong.
    #[error("{}, {unit} {line}: {problem}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// What rows of the file are called.
        unit: &'static str,
        /// The line or row, from 1.
        line: usize,
        /// What is wrong with it.
        problem: RowProblem,
    },
}

impl DataError {
    /// Wraps an I/O error of a file.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        |cause| Self::Io { path, cause }
    }

    /// The error of a row of a file; `line` counts from 1.
    pub(crate) fn row(path: &Path, line: usize, problem: RowProblem) -> Self {
        Self::Row { path: path.to_owned(), unit: unit(path), line, problem }
    }
}

fn parameter_advice(set: &str, known: &[&str]) -> String {
    match known {
        [] => format!("it has none, so write only `{set}`"),
        _ => format!("it has {}", known.join(", ")),
    }
}

fn none_left(place: &str, rows: usize, empty: usize, level: Option<u64>, hops: Option<u64>) -> String {
    match (rows, level, hops) {
        (0, ..) => format!("{place} holds no rows; download or write it again"),
        _ if rows == empty => {
            format!(
                "{place} holds no prompts: a text of every row ({rows} in all) is empty or null; fill it in"
            )
        }
        (_, Some(level), _) => {
            format!("none of the {rows} rows of {place} is of level {level}; ask for another")
        }
        (_, _, Some(hops)) => format!("none of the {rows} rows of {place} has {hops} hops; ask for another"),
        _ => format!("{place} holds no prompts"),
    }
}
