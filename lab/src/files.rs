//! Folders of runs: claimed by one process, written whole or not at all.

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Makes a folder, and locks it against another process for as long as the result lives.
pub(crate) fn claim(out: &Path) -> Result<File> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let lock =
        File::create(out.join(".lock")).with_context(|| format!("cannot write in {}", out.display()))?;
    if matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)) {
        bail!("{} is in use by another process", out.display());
    }
    Ok(lock)
}

/// Removes folders and files of these names, where they are there.
pub(crate) fn remove(out: &Path, folders: &[&str], files: &[&str]) -> Result<()> {
    for folder in folders.iter().map(|name| out.join(name)).filter(|path| path.is_dir()) {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    for file in files.iter().map(|name| out.join(name)).filter(|path| path.is_file()) {
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    Ok(())
}

/// Writes a file whole or not at all, and flushes it to disk.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a value as JSON, as [`write`].
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    write(path, &text)
}

/// Writes `run.json` of a finished study.
pub(crate) fn write_run(out: &Path, recipe: &impl Serialize, conclusion: &str, seconds: f64) -> Result<()> {
    let run = serde_json::json!({
        "fathom-lab": env!("CARGO_PKG_VERSION"),
        "status": "complete",
        "recipe": recipe,
        // `fathom study` shows it.
        "conclusion": conclusion,
        // Of the last call, which may have continued an earlier one.
        "seconds": seconds,
    });
    write_json(&out.join("run.json"), &run)
}

/// Reads a file of JSON; `None` if it does not exist.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    serde_json::from_str(&text).map(Some).with_context(|| {
        format!("{} is not what was expected there; --overwrite begins anew", path.display())
    })
}

/// A bar of steps with the time that is left.
pub(crate) fn bar(name: &str, first: usize, steps: usize) -> ProgressBar {
    bar_of(name, "steps", steps as u64).with_position(first as u64)
}

/// A bar of work in a unit, with the time that is left.
pub(crate) fn bar_of(name: &str, unit: &str, work: u64) -> ProgressBar {
    let template = format!("{{prefix}} {{bar:30}} {{pos}}/{{len}} {unit}, {{eta}} left  {{msg}}");
    let style = ProgressStyle::with_template(&template);
    let bar = ProgressBar::new(work);
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.set_prefix(name.to_owned());
    bar
}
