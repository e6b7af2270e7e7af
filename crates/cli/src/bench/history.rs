//! What was measured on this machine, one line a time.

use super::Report;
use crate::args::Bench;
use crate::output;
use anyhow::{Context, Result, anyhow};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where Fathom's own source keeps its history.
const FOLDER: &str = "benches/results";

/// A file to which a line is added.
pub(super) struct History {
    path: PathBuf,
    file: File,
}

/// Opens the history, where one is to be kept.
pub(super) fn open(args: &Bench, machine: &str) -> Result<Option<History>> {
    // Quick numbers are rough, so they are kept only where that was asked for.
    let usual = || Some(PathBuf::from(FOLDER)).filter(|f| !args.quick && f.is_dir());
    let Some(folder) = args.out.clone().or_else(usual) else { return Ok(None) };
    let path = folder.join(format!("{machine}.jsonl"));
    let file = create(&folder, &path).map_err(|e| {
        anyhow!("cannot keep the history in {}: {e}; give another folder to --out", path.display())
    })?;
    Ok(Some(History { path, file }))
}

fn create(folder: &Path, path: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(folder)?;
    OpenOptions::new().create(true).append(true).open(path)
}

impl History {
    /// Adds a line in one piece, so that two programs at once do not mix theirs.
    pub(super) fn append(&mut self, report: &Report) -> Result<()> {
        let mut line = serde_json::to_string(report)?;
        line.push('\n');
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_all());
        let path = self.path.display();
        written
            .with_context(|| format!("cannot add a line to {path}; what was measured is printed above"))?;
        output::note(&format!("added a line to {path}"));
        Ok(())
    }
}
