//! Why an export fails.

use crate::InvalidRemoval;
use std::io;
use std::path::{Path, PathBuf};

/// Why an export fails: one sentence with the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// Attention or MLP sublayers are to be removed.
    #[error(
        "a model without some attention or MLP sublayers cannot be exported: no standard configuration says that a layer lacks one; export a removal of whole layers"
    )]
    Sublayers,
    /// The removal does not fit the model.
    #[error(transparent)]
    Removal(#[from] InvalidRemoval),
    /// The source cannot be read.
    #[error(transparent)]
    Model(#[from] fathom_model::Error),
    /// GGUF is asked for of a Hugging Face folder.
    #[error(
        "GGUF is written from GGUF only, and {} is a Hugging Face folder; export hf, then run llama.cpp's convert_hf_to_gguf.py on the result", source_folder.display()
    )]
    NoGgufOfFolder {
        /// The source.
        source_folder: PathBuf,
    },
    /// The replacement does not fit the model.
    #[error("the linear replacement cannot be merged: {0}")]
    Replacement(String),
    /// A new layer cannot be written.
    #[error("the grown model cannot be written: {0}")]
    Growth(String),
    /// The layers cannot be put together otherwise.
    #[error("the layers of this model cannot be taken out or repeated in its files: {0}")]
    FixedLayers(&'static str),
    /// The target is not free.
    #[error("{}: {what}", path.display())]
    Target {
        /// The target.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
    /// A part of the source has no place in the result.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is and what to do.
        what: String,
    },
    /// The disk has too little space.
    #[error(
        "the export takes {:.2} GB and {} has {:.2} GB free; make room, or give a folder on another disk",
        *needed as f64 / 1e9, path.display(), *free as f64 / 1e9
    )]
    Space {
        /// Where the export would be written.
        path: PathBuf,
        /// Its bytes.
        needed: u64,
        /// The bytes that are free.
        free: u64,
    },
    /// A file cannot be written, or one of the source cannot be copied.
    #[error("cannot write {}: {source}; nothing is left of the export", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// What was written would be another model.
    #[error("the export was discarded, because it would not be read as what was meant: {0}")]
    Differs(String),
    /// The progress callback ended the export.
    #[error("the export was ended; nothing is left of it")]
    Cancelled,
}

impl ExportError {
    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Write { path, source }
    }

    pub(super) fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), what: what.into() }
    }

    pub(super) fn target(path: &Path, what: impl Into<String>) -> Self {
        Self::Target { path: path.to_owned(), what: what.into() }
    }
}
