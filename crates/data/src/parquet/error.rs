//! Errors of Parquet files, including panics of the library.

use std::cell::Cell;
use std::error::Error;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::errors::ParquetError;

/// Why a file cannot be read.
#[derive(Debug)]
pub(crate) enum TableError {
    /// An I/O error.
    Io(io::Error),
    /// The file is inconsistent.
    Damaged(String),
    /// The file uses an unsupported feature.
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

/// Calls the library and turns a panic into an error of the file: the library slices, adds and asserts by
/// values from the file in many places. After an error the caller must drop whatever the call may have left
/// half changed.
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

/// Whether a panic on this thread will be turned into an error, so that a panic hook should stay silent.
pub fn is_guarded() -> bool {
    GUARDED.get()
}
