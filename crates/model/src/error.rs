//! Errors of finding, reading and running a model.

use fathom_kernels::OutOfMemory;
use std::path::{Path, PathBuf};

/// An error of this crate: one sentence that names the file or tensor and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read at all.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file does not match its name or header.
    #[error("{path} is damaged or not supported: {what}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and, where known, what to do.
        what: String,
    },
    /// The configuration is incomplete or impossible.
    #[error("{path}: {what}")]
    Config {
        /// The file that holds the configuration.
        path: PathBuf,
        /// The field and what is wrong with it.
        what: String,
    },
    /// The architecture is not supported.
    #[error("{path}: the architecture '{name}' is not supported; supported are {supported}")]
    Architecture {
        /// The file that names the architecture.
        path: PathBuf,
        /// Its name there.
        name: String,
        /// The supported architectures.
        supported: String,
    },
    /// A tensor that the architecture needs is missing.
    #[error("{path}: there is no tensor '{name}'{}; the weights and the configuration do not belong together", beside(.nearest))]
    MissingTensor {
        /// The file or folder of weights.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The most similar names of tensors in the file.
        nearest: Vec<String>,
    },
    /// A tensor has another shape than the configuration requires.
    #[error(
        "{path}: tensor '{name}' has shape {found:?}, but the configuration requires {wanted:?}; the weights and the configuration do not belong together"
    )]
    Shape {
        /// The file that holds the tensor.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that was expected.
        wanted: Vec<usize>,
    },
    /// A tensor holds NaN or infinity.
    #[error(
        "{path}: tensor '{name}' holds {value} at row {row}; the weights are damaged, or the model's training diverged"
    )]
    NotFinite {
        /// The file that holds the tensor.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its row.
        row: usize,
        /// NaN or infinity.
        value: f32,
    },
    /// The tokenizer is missing or cannot be built.
    #[error("{path}: {what}")]
    Tokenizer {
        /// The file that holds (or should hold) the tokenizer.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A hook name that does not exist.
    #[error("unknown hook '{name}'{suggestion}; hooks are {known}")]
    Hook {
        /// The name given.
        name: String,
        /// The most similar hook, as ", did you mean ...", or an empty string.
        suggestion: String,
        /// All hooks.
        known: String,
    },
    /// A model argument that names nothing.
    #[error("{0}")]
    NotFound(String),
    /// Tokens that the model cannot run: an empty text, an id outside the vocabulary, or a position
    /// beyond the learned ones.
    #[error("{0}")]
    InvalidInput(String),
    /// The system has too little memory.
    #[error("not enough memory for {what}: the system refused {:.1} GiB; {way_out}", *bytes as f64 / (1u64 << 30) as f64)]
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes that were asked for.
        bytes: usize,
        /// What to try.
        way_out: &'static str,
    },
    /// The hub or the package index failed.
    #[error(transparent)]
    Hub(#[from] fathom_hub::HubError),
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Memory is refused where weights are packed; see [`Error::activations`] for the other case.
impl From<OutOfMemory> for Error {
    fn from(OutOfMemory { bytes }: OutOfMemory) -> Self {
        Self::OutOfMemory {
            what: "the weights",
            bytes,
            way_out: "use a smaller or quantised model, or --dtype bf16 for one stored in 32 bits",
        }
    }
}

impl Error {
    /// The error where memory for activations is refused.
    pub fn activations(OutOfMemory { bytes }: OutOfMemory) -> Self {
        Self::OutOfMemory {
            what: "activations",
            bytes,
            way_out: "lower --memory, or use shorter prompts with --max-tokens",
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn file(path: &Path, what: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), what: what.into() }
    }

    pub(crate) fn config(path: &Path, what: impl Into<String>) -> Self {
        Self::Config { path: path.to_owned(), what: what.into() }
    }

    pub(crate) fn tokenizer(path: &Path, what: impl Into<String>) -> Self {
        Self::Tokenizer { path: path.to_owned(), what: what.into() }
    }
}

/// The names of existing tensors, for a message about a missing one.
fn beside(names: &[String]) -> String {
    match names {
        [] => " (the file holds none)".into(),
        // Names come from the file and must not break the line.
        names => {
            let names: Vec<String> = names.iter().map(|name| name.escape_debug().to_string()).collect();
            format!(" (there are '{}')", names.join("', '"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::beside;

    #[test]
    fn names_of_tensors_break_no_line() {
        assert_eq!(beside(&["a\nb".to_owned(), "c".to_owned()]), " (there are 'a\\nb', 'c')");
    }
}
