//! The cache layout of huggingface_hub:
//!
//! ```text
//! CACHE/.locks/models--org--name/ETAG.lock
//! CACHE/models--org--name/refs/main            the commit that `main` was when it was fetched
//!                         blobs/ETAG           contents
//!                         blobs/ETAG.incomplete
//!                         snapshots/COMMIT/config.json -> ../../blobs/ETAG
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::names::{Repo, is_commit, is_plain_component};
use crate::{HubError, Progress};

/// Maximum bytes of a ref; a commit hash has 40 characters.
const LONGEST_REF: u64 = 256;
/// Maximum depth of folders that are listed.
const DEEPEST_FOLDER: usize = 32;

/// The folder of one repository in the cache.
#[derive(Debug)]
pub(crate) struct RepoFolder {
    pub(crate) root: PathBuf,
    locks: PathBuf,
    symlinks: bool,
}

impl RepoFolder {
    pub(crate) fn new(cache: &Path, repo: &Repo<'_>, symlinks: bool) -> Self {
        let name = repo.folder_name();
        RepoFolder { root: cache.join(&name), locks: cache.join(".locks").join(&name), symlinks }
    }

    pub(crate) fn blob(&self, name: &str) -> PathBuf {
        self.root.join("blobs").join(name)
    }

    /// The folder of a snapshot; `commit` must be a plain component.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The commit of a checked revision in the cache. A ref that does not contain a commit counts as absent.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let mut text = String::new();
        let file = File::open(self.root.join("refs").join(revision)).ok()?;
        file.take(LONGEST_REF).read_to_string(&mut text).ok()?;
        let commit = text.trim();
        is_plain_component(commit).then(|| commit.to_owned())
    }

    /// Records that `revision` is `commit`, so that the next run needs no network.
    pub(crate) fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        write_atomically(&path, commit.as_bytes())
    }

    /// Links a blob as `file` into the snapshot `commit`, and returns its path.
    pub(crate) fn link(&self, commit: &str, file: &str, blob_name: &str) -> Result<PathBuf, HubError> {
        let pointer = self.snapshot(commit).join(file);
        let folder = pointer.parent().unwrap_or(&pointer);
        fs::create_dir_all(folder).map_err(HubError::io("create the folder", folder))?;
        if pointer.is_symlink() {
            // The link is broken; otherwise the caller would have used its file.
            fs::remove_file(&pointer).map_err(HubError::io("replace", &pointer))?;
        }
        let up = "../".repeat(file.matches('/').count() + 2);
        if self.symlinks && symlink(&format!("{up}blobs/{blob_name}"), &pointer).is_ok() {
            return Ok(pointer);
        }
        let blob = self.blob(blob_name);
        // A hard link takes no space; a copy is for file systems without them.
        if fs::hard_link(&blob, &pointer).is_err() {
            copy_atomically(&blob, &pointer)?;
        }
        Ok(pointer)
    }

    /// Locks a blob against other processes until the guard is dropped.
    pub(crate) fn lock(
        &self,
        blob_name: &str,
        file: &str,
        progress: &dyn Progress,
    ) -> Result<LockFile, HubError> {
        LockFile::take(&self.locks.join(format!("{blob_name}.lock")), file, progress)
    }

    /// The files of a snapshot, with `/` between the parts of a name, sorted.
    pub(crate) fn files(&self, commit: &str) -> Vec<String> {
        let mut names = Vec::new();
        collect_files(&self.snapshot(commit), "", 0, &mut names);
        names.sort();
        names
    }
}

fn collect_files(folder: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = format!("{prefix}{name}");
        let path = entry.path();
        if path.is_file() {
            names.push(name);
        } else if path.is_dir() && depth < DEEPEST_FOLDER {
            collect_files(&path, &format!("{name}/"), depth + 1, names);
        }
    }
}

/// An exclusive lock on a file, released when dropped.
///
/// It uses the same system call as Python's filelock. On file systems without locks there is none: at worst, two
/// processes write one partial file, which the check of size and digest detects.
#[derive(Debug)]
pub(crate) struct LockFile {
    _file: File,
}

impl LockFile {
    pub(crate) fn take(path: &Path, what: &str, progress: &dyn Progress) -> Result<Self, HubError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(HubError::io("create the folder", folder))?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.open(path).map_err(HubError::io("open the lock file", path))?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            progress.start(&format!("{what} (waiting for another process)"), None);
            // An error here means that the file system cannot lock, which is the case described above.
            let _ = file.lock();
            progress.finish();
        }
        Ok(LockFile { _file: file })
    }
}

/// Writes a small file atomically: a reader sees the old contents or the new ones.
pub(crate) fn write_atomically(path: &Path, contents: &[u8]) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(HubError::io("create the folder", folder))?;
    let mut file = temporary_in(folder)?;
    file.write_all(contents).map_err(HubError::io("write", path))?;
    file.persist(path).map_err(|e| HubError::io("write", path)(e.error))?;
    Ok(())
}

/// A temporary file with the permissions of the umask, because caches are shared between users.
pub(crate) fn temporary_in(folder: &Path) -> Result<tempfile::NamedTempFile, HubError> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.prefix(".fathom-").tempfile_in(folder).map_err(HubError::io("write in", folder))
}

/// Copies a file atomically: a reader sees all of it or nothing.
pub(crate) fn copy_atomically(from: &Path, to: &Path) -> Result<(), HubError> {
    let folder = to.parent().unwrap_or(to);
    let mut source = File::open(from).map_err(HubError::io("read", from))?;
    let mut copy = temporary_in(folder)?;
    io::copy(&mut source, &mut copy).map_err(HubError::io("write", to))?;
    copy.persist(to).map_err(|e| HubError::io("write", to)(e.error))?;
    Ok(())
}

#[cfg(unix)]
fn symlink(target: &str, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &str, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target.replace('/', "\\"), link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_target: &str, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Quiet;
    use crate::names::RepoKind;

    fn folder(cache: &Path, symlinks: bool) -> RepoFolder {
        RepoFolder::new(cache, &Repo { kind: RepoKind::Model, id: "org/name" }, symlinks)
    }

    #[test]
    fn refs_lead_to_commits_and_invalid_refs_to_none() {
        let cache = tempfile::tempdir().unwrap();
        let repo = folder(cache.path(), true);
        assert_eq!(repo.commit("main"), None);
        repo.remember("refs/pr/1", "abc123").unwrap();
        assert_eq!(repo.commit("refs/pr/1").as_deref(), Some("abc123"));
        assert_eq!(fs::read_to_string(repo.root.join("refs/refs/pr/1")).unwrap(), "abc123");
        for odd in ["../../../etc", "", "..", "a/b", &"a".repeat(300)] {
            fs::write(repo.root.join("refs/main"), odd).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(repo.commit("main"), None, "{odd:?}");
        }
    }

    #[test]
    fn snapshots_link_to_blobs_or_hold_the_file_itself() {
        for symlinks in [true, false] {
            let cache = tempfile::tempdir().unwrap();
            let repo = folder(cache.path(), symlinks);
            fs::create_dir_all(repo.root.join("blobs")).unwrap();
            fs::write(repo.blob("e1"), "text").unwrap();
            let pointer = repo.link("c0", "a/b/file.txt", "e1").unwrap();
            assert_eq!(fs::read_to_string(&pointer).unwrap(), "text");
            assert_eq!(pointer.is_symlink(), symlinks && cfg!(unix));
            if pointer.is_symlink() {
                assert_eq!(fs::read_link(&pointer).unwrap(), Path::new("../../../../blobs/e1"));
            }
            assert_eq!(repo.files("c0"), ["a/b/file.txt"]);
        }
    }

    #[test]
    fn copies_are_complete() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, "text").unwrap();
        copy_atomically(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "text");
    }

    #[test]
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let cache = tempfile::tempdir().unwrap();
        let repo = folder(cache.path(), true);
        let held = repo.lock("e1", "file", &Quiet).unwrap();
        let path = cache.path().join(".locks/models--org--name/e1.lock");
        let other = File::open(&path).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        other.try_lock().unwrap_or_else(|e| panic!("{e}"));
    }
}
