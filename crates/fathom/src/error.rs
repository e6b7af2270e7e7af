//! What can go wrong, each as one sentence that says what to do.

use std::fmt::Display;

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Options, prompts or folders that do not fit together.
    #[error("{0}")]
    Invalid(String),
    /// [`Observer::is_cancelled`](crate::Observer::is_cancelled) ended the operation before anything was finished.
    #[error("{0}")]
    Cancelled(String),
    /// The model could not be found, read or run.
    #[error(transparent)]
    Model(#[from] fathom_model::Error),
    /// The prompts could not be read.
    #[error(transparent)]
    Data(#[from] fathom_data::DataError),
    /// The pruned model could not be written.
    #[error(transparent)]
    Export(#[from] fathom_surgery::export::ExportError),
    /// The results folder could not be read or written.
    #[error(transparent)]
    Results(#[from] fathom_results::Error),
    /// The report could not be written.
    #[error(transparent)]
    Report(#[from] fathom_report::Error),
    /// Finished runs could not be analysed.
    #[error(transparent)]
    Analysis(#[from] fathom_analysis::Error),
    /// The description of a study has errors.
    #[error(transparent)]
    Study(#[from] fathom_analysis::StudyError),
    /// A file could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was being done to which file.
        what: String,
        /// The system's message.
        source: std::io::Error,
    },
    /// A failure while doing something that the message of its cause does not name.
    #[error("{what}: {source}")]
    While {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: Box<Error>,
    },
}

impl Error {
    /// Wraps the error in what was being done.
    pub(crate) fn context(self, what: impl Display) -> Self {
        Self::While { what: what.to_string(), source: Box::new(self) }
    }
}

impl<E: std::error::Error + 'static> From<fathom_probes::Error<E>> for Error
where
    Self: From<E>,
{
    fn from(error: fathom_probes::Error<E>) -> Self {
        match error {
            fathom_probes::Error::Sink(error) => error.into(),
            other => Self::Invalid(other.to_string()),
        }
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl From<fathom_probes::InsufficientMemory> for Error {
    fn from(error: fathom_probes::InsufficientMemory) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// Returns [`Error::Invalid`] with a formatted message.
macro_rules! invalid {
    ($($message:tt)*) => {
        return Err($crate::Error::Invalid(format!($($message)*)))
    };
}
pub(crate) use invalid;
