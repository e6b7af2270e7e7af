//! Errors of prompt sets.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::file_format::unit;
use crate::row_problem::RowProblem;

/// Why a prompt set cannot be loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataError {
    /// The spec is neither a name nor a path.
    #[error(
        "there is no prompt set `{name}`{}; there are {}, and a path to a .jsonl, .parquet, .txt or .fasta file works too",
        nearest.map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default(),
        known.join(", ")
    )]
    UnknownSet {
        /// The given name.
        name: String,
        /// The most similar name, if one is similar.
        nearest: Option<&'static str>,
        /// All names.
        known: Vec<&'static str>,
    },
    /// The spec is neither the name of a set of multiple choice nor the path of a file of rows.
    #[error(
        "there is no set of multiple choice `{name}`{}; there are {}, and a path to a .jsonl or .parquet file works too",
        nearest.map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default(),
        known.join(", ")
    )]
    UnknownChoices {
        /// The given spec.
        name: String,
        /// The most similar name, if one is similar.
        nearest: Option<&'static str>,
        /// All names.
        known: Vec<&'static str>,
    },
    /// The set has no such parameter.
    #[error("`{set}` has no parameter `{name}`; {}", parameter_advice(set, known))]
    UnknownParameter {
        /// The set.
        set: &'static str,
        /// The given name.
        name: String,
        /// The parameters it has.
        known: &'static [&'static str],
    },
    /// A parameter is not written as `name=value`.
    #[error("`{text}` is not a parameter of `{set}`; write parameters as `{set}:name=value,name=value`")]
    ParameterForm {
        /// The set.
        set: &'static str,
        /// The given text.
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
        /// The smallest allowed value.
        low: u64,
        /// The largest allowed value.
        high: u64,
    },
    /// The limit is 0.
    #[error("a limit of 0 leaves no prompts; give a limit of 1 or more, or none")]
    ZeroLimit,
    /// There is no such random number generator.
    #[error("there is no random number generator `{name}`; use `native` or `python`")]
    UnknownRng {
        /// The given name.
        name: String,
    },
    /// The extension of a path is not that of a known format.
    #[error(
        "{} has no known file extension; prompts are read from .jsonl or .ndjson (one JSON object per line), \
         from .parquet, from .txt or .md (paragraphs), and from .fasta, .fa, .faa or .fas, also with .gz, so rename the file to match its content",
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
        /// The system's error. It is part of the message and therefore not the error source.
        cause: std::io::Error,
    },
    /// A Parquet file is inconsistent.
    #[error(
        "{}{}: the Parquet file is damaged ({problem}); download or write it again",
        path.display(),
        row.map(|row| format!(", row {row}")).unwrap_or_default()
    )]
    DamagedTable {
        /// The file.
        path: PathBuf,
        /// The row being read, from 1.
        row: Option<usize>,
        /// What is wrong.
        problem: String,
    },
    /// A Parquet file uses a feature that is not supported.
    #[error(
        "{}{}: cannot read the Parquet file, because {problem}; write it with the defaults of pyarrow, or as \
         JSON lines",
        path.display(),
        row.map(|row| format!(", row {row}")).unwrap_or_default()
    )]
    UnsupportedTable {
        /// The file.
        path: PathBuf,
        /// The row being read, from 1.
        row: Option<usize>,
        /// The unsupported feature, as a clause.
        problem: String,
    },
    /// A Parquet file lacks the columns of prompts.
    #[error(
        "{}: found {found}, but a row{} needs {needs}, as text; rename the columns that hold them, or write \
         them as JSON lines",
        path.display(),
        set.map(|set| format!(" of {set}")).unwrap_or_default()
    )]
    MissingColumns {
        /// The file.
        path: PathBuf,
        /// The present columns with their types, in words.
        found: String,
        /// The set, if the rows are those of one.
        set: Option<&'static str>,
        /// The required columns, in words.
        needs: &'static str,
    },
    /// A column that affects the measurement has the wrong type.
    #[error("{}: the column {column:?} is a {found}, but it must be a list of whole numbers", path.display())]
    WrongColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its type, in words.
        found: String,
    },
    /// A split was given for a set or file without splits.
    #[error("{what} has no splits; leave the split out")]
    SplitOfFile {
        /// The set or the file.
        what: String,
    },
    /// A revision was given for a file.
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
        /// The given split.
        split: String,
        /// The splits it has.
        known: &'static [&'static str],
    },
    /// The file given for a set does not have a supported format.
    #[error(
        "`{set}` takes a .jsonl (one JSON object per line) or .parquet file, not {}; convert a list in a .json \
         file with `jq -c '.[]'`",
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
        "`{set}` is not on the Hugging Face hub in a supported format; give a file with its fields: \
         `{set}:file=PATH.jsonl`"
    )]
    NeedsFile {
        /// The set.
        set: &'static str,
    },
    /// The caller provides no access to the hub.
    #[error(
        "`{set}` is read from {id} on the Hugging Face hub, which is not used here; give a file with its \
         fields: `{set}:file=PATH`"
    )]
    NoHub {
        /// The set.
        set: &'static str,
        /// Its id on the hub.
        id: &'static str,
    },
    /// The set cannot be downloaded.
    #[error("cannot get `{set}` from {id}: {cause}; a file with its fields works too: `{set}:file=PATH`")]
    Fetch {
        /// The set.
        set: &'static str,
        /// Its id on the hub.
        id: &'static str,
        /// The message of the hub or the network.
        cause: String,
    },
    /// The data set on the hub lacks the expected files.
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
    /// No rows are left after filtering.
    #[error("{}", none_left(place, *rows, *empty, *level, *hops))]
    NoneLeft {
        /// The source of the rows.
        place: String,
        /// The number of rows.
        rows: usize,
        /// The number of empty rows among them.
        empty: usize,
        /// The requested level.
        level: Option<u64>,
        /// The requested number of hops.
        hops: Option<u64>,
    },
    /// The file is empty.
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
        /// "row" or "line".
        unit: &'static str,
        /// The number of rows.
        rows: usize,
    },
    /// The prompts are too large in total.
    #[error("{}, {unit} {line}: the prompts up to here are larger than {bytes} bytes; use a limit or split the file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// "row" or "line".
        unit: &'static str,
        /// The line or row, from 1.
        line: usize,
        /// The largest accepted total.
        bytes: usize,
    },
    /// A row of a file is invalid.
    #[error("{}, {unit} {line}: {problem}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// "row" or "line".
        unit: &'static str,
        /// The line or row, from 1.
        line: usize,
        /// What is wrong.
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
            format!("none of the {rows} rows of {place} has level {level}; choose another")
        }
        (_, _, Some(hops)) => format!("none of the {rows} rows of {place} has {hops} hops; choose another"),
        _ => format!("{place} holds no prompts"),
    }
}
