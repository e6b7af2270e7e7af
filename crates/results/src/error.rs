//! What can go wrong with a results folder, each as one sentence that says what to do.

use std::io;
use std::path::{Path, PathBuf};

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong with a results folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process writes in the folder.
    #[error("{} is in use by {holder}; wait until it is done, stop it, or choose another folder with -o", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process and its host.
        holder: String,
    },
    /// The file was written by a later version of the format.
    #[error(
        "{} has schema_version {found}, but this version of fathom reads up to {supported}; use a newer fathom, or \
         measure again with this one", path.display()
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u64,
        /// The newest version this crate reads.
        supported: u32,
    },
    /// The file has no usable schema version, so it is not a results file.
    #[error(
        "{} is not a fathom results file: its schema_version is missing or not a positive whole number; point to a \
         results folder of fathom", path.display()
    )]
    NoSchema {
        /// The file.
        path: PathBuf,
    },
    /// The folder holds none of the files of a results folder.
    #[error("{} is not a results folder ({reason}); give the folder that `fathom measure` wrote", path.display())]
    NotResults {
        /// The folder.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A file does not hold the JSON it should.
    #[error(
        "{} cannot be read: {source}; restore the file, or measure again into an empty folder", path.display()
    )]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's message with line and column.
        source: serde_json::Error,
    },
    /// A line of the samples file, other than a cut-off last one, does not hold what it should.
    #[error(
        "{} line {line} cannot be read: {source}; delete that line to go on without its prompt, or measure again into \
         an empty folder", path.display()
    )]
    Sample {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The parser's message.
        source: serde_json::Error,
    },
    /// The results parse but contradict themselves.
    #[error("{file}: {field} {problem}; the file is damaged or was edited, so measure again")]
    Inconsistent {
        /// The file.
        file: &'static str,
        /// The field, written as a path such as `probes.lens.overlap`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file name that would leave the results folder.
    #[error(
        "{name:?} is not a plain file name; results are written directly into their folder, so use a name without / or \\"
    )]
    Name {
        /// The refused name.
        name: String,
    },
    /// The disk or the user's quota is full.
    #[error("no space left to write {}; {kept}; free some space, and the same command goes on", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// What is safe on disk.
        kept: String,
    },
    /// The folder cannot be written to.
    #[error("cannot write into {}: {source}; choose another folder with -o", path.display())]
    NotWritable {
        /// The folder.
        path: PathBuf,
        /// The system's message.
        source: io::Error,
    },
    /// Any other failure to read or write a file.
    #[error("cannot {action} {}: {source}; check the path and its permissions", path.display())]
    Io {
        /// What was being done, such as `read`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's message.
        source: io::Error,
    },
    /// A value cannot be written as JSON.
    #[error("cannot write {name} as JSON: {source}; this is a fault of fathom, please report it")]
    Serialise {
        /// The file.
        name: String,
        /// The serialiser's message.
        source: serde_json::Error,
    },
}

impl Error {
    /// Sorts a failed write: a full disk gets its own sentence, everything else says what was done.
    pub(crate) fn write(action: &'static str, path: &Path, source: io::Error, kept: &str) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path: path.to_owned(), kept: kept.to_owned() }
            }
            _ => Self::Io { action, path: path.to_owned(), source },
        }
    }
}
