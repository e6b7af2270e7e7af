//! The results folder on disk.
//!
//! Whole files are written under another name in the same folder, flushed to disk and renamed, so a reader
//! never sees half a file. `samples.jsonl` grows by one line per prompt; a kill can leave at most one
//! unfinished last line, which reading ignores and the next append removes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::{Error, Result, Results};

/// The file with what was run and how.
pub const RUN: &str = "run.json";
/// The file with the curves and the depth table.
pub const RESULTS: &str = "results.json";
/// The file with what can be pruned.
pub const PRUNE: &str = "prune.json";
/// The file with maps between the levels of two models.
pub const MAP: &str = "map.json";
/// The file with what growing a model does.
pub const GROW: &str = "grow.json";
/// The file with what exiting early saves.
pub const EXIT: &str = "exit.json";
/// The file with a fitted law.
pub const FIT: &str = "fit.json";
/// The file with one line per prompt.
pub const SAMPLES: &str = "samples.jsonl";
/// The same as a table of columns.
pub const SAMPLES_PARQUET: &str = "samples.parquet";
/// The page to look at.
pub const REPORT: &str = "report.html";
/// The folder with the figures.
pub const PLOTS: &str = "plots";

/// The file that a process locks while it writes in the folder. It stays there: removing it would let two
/// processes lock two files of one name.
const LOCK: &str = ".lock";

/// The most bytes of it that are read.
const MAX_HOLDER: u64 = 512;

/// A locked results folder; see [`Folder::lock`].
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock ends when the file is closed")] File);

/// A results folder that exists.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The samples file, once this process has repaired and opened it.
    samples: Mutex<Option<File>>,
}

impl Folder {
    /// Makes the folder and its parents, or takes the existing one, and checks that files can be made in it.
    ///
    /// # Errors
    ///
    /// [`Error::NotWritable`] or [`Error::DiskFull`].
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fail = |source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::write("write", path, source, "nothing was measured yet")
            }
            _ => Error::NotWritable { path: path.to_owned(), source },
        };
        fs::create_dir_all(path).map_err(fail)?;
        // Permission bits do not tell (read-only mounts, ACLs), so a file is made and dropped again.
        temporary(path).map_err(fail)?;
        Ok(Self { path: path.to_owned(), samples: Mutex::new(None) })
    }

    /// Opens the folder of an earlier run, finished or not.
    ///
    /// # Errors
    ///
    /// [`Error::NotResults`] when it does not exist or holds none of the files of a run.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let refuse =
            |reason: &str| Err(Error::NotResults { path: path.to_owned(), reason: reason.to_owned() });
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return refuse("it does not exist"),
            Err(source) => return Err(Error::Io { action: "open", path: path.to_owned(), source }),
            Ok(metadata) if !metadata.is_dir() => return refuse("it is a file"),
            Ok(_) => {}
        }
        if ![RUN, RESULTS, PRUNE, EXIT, MAP, GROW, FIT, SAMPLES].iter().any(|name| path.join(name).is_file())
        {
            return refuse(
                "it has no run.json, results.json, prune.json, exit.json, map.json, grow.json, fit.json or samples.jsonl",
            );
        }
        Ok(Self { path: path.to_owned(), samples: Mutex::new(None) })
    }

    /// Locks the folder against another process that would write in it, for as long as the result lives.
    /// `holder` says who holds it, for that other's message.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] names the host and the process that hold it.
    pub fn lock(&self, holder: &str) -> Result<Lock> {
        let path = self.path.join(LOCK);
        let fail = |source| Error::write("lock", &path, source, KEPT);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // What cannot be read only makes the message shorter.
                let _ = file.take(MAX_HOLDER).read_to_string(&mut holder);
                return Err(Error::InUse { path: self.path.clone(), holder: holder.trim().to_owned() });
            }
            // Some file systems have no locks; measuring goes on without one.
            Err(fs::TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(fs::TryLockError::Error(error)) => return Err(fail(error)),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{holder}")).map_err(fail)?;
        Ok(Lock(file))
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads `results.json`.
    ///
    /// # Errors
    ///
    /// [`Error::NotResults`] when the run has not finished, otherwise as [`Results::read`].
    pub fn results(&self) -> Result<Results> {
        let path = self.path.join(RESULTS);
        if !path.exists() {
            const OTHERS: [(&str, &str); 5] = [
                (PRUNE, "it holds a pruning, which `fathom report` shows"),
                (EXIT, "it holds early exits, which `fathom report` shows"),
                (MAP, "it holds maps between models, which `fathom report` shows"),
                (GROW, "it holds a grown model, which `fathom report` shows"),
                (FIT, "it holds a fitted law, which `fathom report` shows"),
            ];
            let other = OTHERS.iter().find(|(name, _)| self.path.join(name).exists());
            let reason = other.map_or(
                "it has no results.json, so its run did not finish: the command in its run.json goes on",
                |(_, what)| what,
            );
            return Err(Error::NotResults { path: self.path.clone(), reason: reason.to_owned() });
        }
        Results::read(&path)
    }

    /// Reads `run.json` as it is; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] or [`Error::Json`].
    pub fn run(&self) -> Result<Option<Value>> {
        let path = self.path.join(RUN);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { action: "read", path, source }),
        };
        serde_json::from_slice(&text).map(Some).map_err(|source| Error::Json { path, source })
    }

    /// Writes a value as indented JSON, whole or not at all. Floats are printed with the fewest digits that
    /// read back as the same number.
    ///
    /// # Errors
    ///
    /// [`Error::Name`], [`Error::Serialise`], [`Error::DiskFull`] or [`Error::Io`].
    pub fn write_json_atomic(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(value)
            .map_err(|source| Error::Serialise { name: name.to_owned(), source })?;
        text.push(b'\n');
        self.write_bytes_atomic(name, &text)
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Name`], [`Error::DiskFull`] or [`Error::Io`].
    pub fn write_bytes_atomic(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_into(&self.path, name, bytes)
    }

    /// Writes a file under `plots/`, whole or not at all.
    ///
    /// # Errors
    ///
    /// As [`Folder::write_bytes_atomic`].
    pub fn write_plot(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let folder = self.path.join(PLOTS);
        fs::create_dir_all(&folder).map_err(|source| Error::write("create", &folder, source, KEPT))?;
        write_into(&folder, name, bytes)
    }

    /// Removes figures under `plots/` whose names begin with `prefix`: those of an earlier run, of which this one
    /// may not have all.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when one cannot be removed.
    pub fn remove_plots(&self, prefix: &str) -> Result<()> {
        let entries = fs::read_dir(self.path.join(PLOTS)).into_iter().flatten().flatten();
        let is_one = |path: &PathBuf| {
            let begins =
                path.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.starts_with(prefix));
            begins && path.extension().is_some_and(|end| end == "svg" || end == "png")
        };
        for path in entries.map(|entry| entry.path()).filter(is_one) {
            fs::remove_file(&path).map_err(|source| Error::Io { action: "remove", path, source })?;
        }
        Ok(())
    }

    /// Adds one line to `samples.jsonl`. The first call of a process removes what a kill left unfinished.
    ///
    /// # Errors
    ///
    /// [`Error::Serialise`], [`Error::DiskFull`] (every earlier line is kept) or [`Error::Io`].
    pub fn append_sample(&self, sample: &impl Serialize) -> Result<()> {
        let path = self.path.join(SAMPLES);
        let mut line = serde_json::to_vec(sample)
            .map_err(|source| Error::Serialise { name: SAMPLES.to_owned(), source })?;
        line.push(b'\n');
        let fail = |source| Error::write("write", &path, source, "every sample before this one is kept");
        // A panic elsewhere while the lock was held cannot leave the handle in a bad state, because a handle
        // is only put back after a complete write.
        let mut slot = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = match slot.take() {
            Some(file) => file,
            None => open_repaired(&path).map_err(fail)?,
        };
        file.write_all(&line).and_then(|()| file.sync_data_if_regular()).map_err(fail)?;
        *slot = Some(file);
        Ok(())
    }

    /// Reads every line of `samples.jsonl`; none when there is no file. A last line that was cut off is
    /// ignored.
    ///
    /// # Errors
    ///
    /// [`Error::Sample`] with the line's number when any other line cannot be read, [`Error::Io`].
    pub fn samples<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        let path = self.path.join(SAMPLES);
        let fail = |source| Error::Io { action: "read", path: path.clone(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(fail(source)),
        };
        let mut reader = BufReader::new(file);
        let (mut samples, mut line, mut number) = (Vec::new(), Vec::new(), 0);
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(fail)? == 0 {
                return Ok(samples);
            }
            number += 1;
            match serde_json::from_slice(&line) {
                Ok(sample) if line.ends_with(b"\n") => samples.push(sample),
                Err(source) if is_whole(&line) || !reader.fill_buf().map_err(fail)?.is_empty() => {
                    return Err(Error::Sample { path, line: number, source });
                }
                // Only the last line can get here: unfinished, or finished but not JSON.
                Ok(_) | Err(_) => return Ok(samples),
            }
        }
    }
}

/// What a failed write of a whole file leaves behind.
const KEPT: &str = "an earlier version of the file and all samples are kept";

trait SyncRegular {
    /// Flushes to disk where that means something.
    fn sync_data_if_regular(&self) -> io::Result<()>;
}

impl SyncRegular for File {
    fn sync_data_if_regular(&self) -> io::Result<()> {
        if self.metadata()?.is_file() { self.sync_data() } else { Ok(()) }
    }
}

/// Whether a line was written to its end: it has its newline and is JSON. After a power cut the file system
/// may give back a finished line full of zeros, so the newline alone is not enough.
fn is_whole(line: &[u8]) -> bool {
    line.ends_with(b"\n") && serde_json::from_slice::<IgnoredAny>(line).is_ok()
}

/// Opens the samples file for appending after cutting off a last line that was not written to its end.
fn open_repaired(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let end = file.metadata()?.len();
    if end == 0 {
        return Ok(file);
    }
    let start = last_line_start(&mut file, end)?;
    file.seek(SeekFrom::Start(start))?;
    let mut line = Vec::new();
    Read::by_ref(&mut file).take(end - start).read_to_end(&mut line)?;
    if !is_whole(&line) {
        file.set_len(start)?;
    }
    Ok(file)
}

/// The offset at which the last line begins, looking backwards so that a large file is not read whole.
fn last_line_start(file: &mut File, end: u64) -> io::Result<u64> {
    let mut block = [0; 8192];
    // The newline that ends the last line does not begin another.
    let mut high = end - 1;
    while high > 0 {
        let low = high.saturating_sub(block.len() as u64);
        let part = &mut block[..(high - low) as usize];
        file.seek(SeekFrom::Start(low))?;
        file.read_exact(part)?;
        if let Some(index) = part.iter().rposition(|&byte| byte == b'\n') {
            return Ok(low + index as u64 + 1);
        }
        high = low;
    }
    Ok(0)
}

fn write_into(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']) {
        return Err(Error::Name { name: name.to_owned() });
    }
    let path = folder.join(name);
    let fail = |source| Error::write("write", &path, source, KEPT);
    let mut file = temporary(folder).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(fail)?;
    file.persist(&path).map_err(|error| fail(error.error))?;
    // The rename itself is made durable where folders can be synced; elsewhere the system does it in time.
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)?;
    Ok(())
}

/// A temporary file in `folder` with the permissions of an ordinary new file, not the private ones that
/// temporary files have by default: results are for sharing.
fn temporary(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".fathom-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::create(parent.path().join("a/b")).unwrap();
        (parent, folder)
    }

    #[test]
    fn files_appear_whole_and_leave_nothing_else_behind() {
        let (_parent, folder) = folder();
        folder.write_json_atomic(RUN, &json!({"x": 0.1})).unwrap();
        folder.write_json_atomic(RUN, &json!({"x": 1e-7, "y": 0.30000000000000004})).unwrap();
        let text = fs::read_to_string(folder.path().join(RUN)).unwrap();
        assert_eq!(text, "{\n  \"x\": 1e-7,\n  \"y\": 0.30000000000000004\n}\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(folder.run().unwrap().unwrap()["x"], json!(1e-7));
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let (_parent, folder) = folder();
        for name in ["../x", "a/b", "a\\b", "..", "", "/etc/x"] {
            let error = folder.write_bytes_atomic(name, b"").unwrap_err();
            assert!(matches!(error, Error::Name { .. }), "{name}");
        }
    }

    #[test]
    fn a_folder_that_is_none_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let message = |path: &Path| Folder::open(path).unwrap_err().to_string();
        assert!(message(parent.path()).contains("no run.json"));
        assert!(message(&parent.path().join("no")).contains("does not exist"));
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(message(&file).contains("it is a file"));
        assert!(matches!(Folder::create(file.join("x")), Err(Error::NotWritable { .. })));
        fs::write(parent.path().join(SAMPLES), "").unwrap();
        let unfinished = Folder::open(parent.path()).unwrap();
        assert!(unfinished.results().unwrap_err().to_string().contains("goes on"));
    }

    /// Whatever a kill leaves of the last line, reading gives the lines before it and appending goes on there.
    #[track_caller]
    fn check_tail(tail: &[u8], kept: &[u64]) {
        let (_parent, folder) = folder();
        let path = folder.path().join(SAMPLES);
        fs::write(&path, [b"{\"id\":1}\n{\"id\":2}\n", tail].concat()).unwrap();
        let ids = |folder: &Folder| -> Vec<u64> {
            let samples = folder.samples::<Value>().unwrap();
            samples.iter().map(|sample| sample["id"].as_u64().unwrap()).collect()
        };
        assert_eq!(ids(&folder), kept);
        folder.append_sample(&json!({"id": 8})).unwrap();
        folder.append_sample(&json!({"id": 9, "text": "a\nb"})).unwrap();
        assert_eq!(ids(&folder), [kept, &[8, 9]].concat());
    }

    #[test]
    fn a_cut_last_line_is_dropped_and_repaired() {
        check_tail(b"", &[1, 2]);
        check_tail(b"{\"id\":3}\n", &[1, 2, 3]);
        check_tail(b"{\"id\":3}", &[1, 2]);
        check_tail(b"{\"id\":3,\"tok", &[1, 2]);
        check_tail(b"{", &[1, 2]);
        check_tail(b"\0\0\0\0\n", &[1, 2]);
        check_tail(b"\xff\xfe", &[1, 2]);
        check_tail(&[b"{\"x\":\"", [b'a'; 20_000].as_slice()].concat(), &[1, 2]);
        check_tail(&[b"{\"id\":3,\"x\":\"", [b'a'; 20_000].as_slice(), b"\"}\n"].concat(), &[1, 2, 3]);
    }

    #[test]
    fn a_file_that_is_one_cut_line_starts_again() {
        let (_parent, folder) = folder();
        fs::write(folder.path().join(SAMPLES), "{\"id\"").unwrap();
        assert!(folder.samples::<Value>().unwrap().is_empty());
        folder.append_sample(&1).unwrap();
        assert_eq!(folder.samples::<u8>().unwrap(), [1]);
    }

    #[test]
    fn a_broken_line_in_the_middle_is_named() {
        let (_parent, folder) = folder();
        fs::write(folder.path().join(SAMPLES), "1\n{\n3\n").unwrap();
        let message = folder.samples::<u8>().unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
    }

    #[test]
    fn a_last_line_of_another_kind_is_an_error_and_not_dropped() {
        let (_parent, folder) = folder();
        fs::write(folder.path().join(SAMPLES), "1\n\"two\"\n").unwrap();
        let message = folder.samples::<u8>().unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_says_what_is_kept() {
        let (_parent, folder) = folder();
        std::os::unix::fs::symlink("/dev/full", folder.path().join(SAMPLES)).unwrap();
        let error = folder.append_sample(&1).unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        assert!(error.to_string().contains("every sample before this one is kept"));
    }
}
