//! The history of one machine: a line of JSON for every benchmark.

use super::BenchReport;
use crate::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file to which a line is added.
pub(super) struct History {
    path: PathBuf,
    file: File,
}

/// Opens the history of a machine in a folder.
pub(super) fn open(folder: &Path, machine: &str) -> Result<History> {
    let path = folder.join(format!("{machine}.jsonl"));
    let file = create(folder, &path).map_err(|e| {
        let path = path.display();
        Error::Invalid(format!("cannot keep the history in {path}: {e}; give another folder to --out"))
    })?;
    Ok(History { path, file })
}

fn create(folder: &Path, path: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(folder)?;
    OpenOptions::new().create(true).append(true).open(path)
}

impl History {
    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line in one write, so that two programs at once do not mix theirs.
    pub(super) fn append(&mut self, report: &BenchReport) -> Result<()> {
        let path = self.path.display();
        let fail = |source| Error::Io {
            what: format!("cannot add a line to {path}; what was measured is printed above"),
            source,
        };
        let mut line = serde_json::to_string(report).map_err(|e| fail(e.into()))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_all()).map_err(fail)
    }
}
