//! Errors of Parquet files, including panics of the library.

use std::cell::Cell;
use std::error::Error;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::errors::ParquetError;

/// What is wrong with a file.
#[derive(Debug)]
pub(crate) enum TableError {
    /// It cannot be read.
    Io(io::Error),
    /// Its bytes contradict themselves.
    Damaged(String),
    /// It may be intact, but is written in a way that is not read.
    Unsupported(String),
}

impl TableError {
    pub(super) fn damaged(what: &str) -> Self {
        Self::Damaged(what.to_owned())
    }

    pub(super) fn unsupported(what: &str) -> Self {
        Self::Unsupported(what.to_owned())
    }
}

impl From<ParquetError> for TableError {
    fn from(error: ParquetError) -> Self {
        let line = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        match error {
            ParquetError::NYI(what) => Self::Unsupported(line(what)),
            ParquetError::General(what) | ParquetError::EOF(what) => Self::Damaged(line(what)),
            ParquetError::External(cause) => match cause.downcast::<io::Error>() {
                Ok(cause) if cause.kind() != io::ErrorKind::UnexpectedEof => Self::Io(*cause),
                Ok(_) => Self::damaged("it ends too early"),
                Err(cause) => Self::Damaged(line(cause.to_string())),
            },
            other => {
                Self::Damaged(line(other.source().map_or_else(|| other.to_string(), ToString::to_string)))
            }
        }
    }
}

/// Calls the library, which slices, adds and asserts by what the file says in many places: what panics
/// there for a crafted file must stay an error of that file. Whoever gets the error lets go of what the
/// panic may have left half changed.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, TableError> {
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(before);
    match result {
        Ok(result) => Ok(result?),
        Err(_) => Err(TableError::damaged("its parts do not fit each other")),
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread will become an error of a file, so that a panic hook has nothing to
/// report.
pub fn is_guarded() -> bool {
    GUARDED.get()
}
