//! Compiled kernels, kept between runs.

use sha2::{Digest, Sha256};
use std::env;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

/// Length of the checksum that precedes the machine code in a file.
const CHECKSUM: usize = 32;

/// A folder of compiled kernels; `None` where the user does not have a home folder.
pub(super) struct Cache(Option<PathBuf>);

impl Cache {
    /// The user's: `cuda` in `FATHOM_CACHE`, else in `fathom` in the cache folder of the system.
    pub(super) fn of_user() -> Self {
        let path = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let system = || {
            path("XDG_CACHE_HOME").or_else(|| match cfg!(windows) {
                true => path("LOCALAPPDATA"),
                false => Some(env::home_dir()?.join(".cache")),
            })
        };
        let fathom = path("FATHOM_CACHE").or_else(|| Some(system()?.join("fathom")));
        Self(fathom.map(|fathom| fathom.join("cuda")))
    }

    fn file(&self, key: &[&str]) -> Option<PathBuf> {
        let mut hash = Sha256::new();
        for part in key {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let name: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(self.0.as_ref()?.join(name).with_extension("cubin"))
    }

    /// What was stored under a key. Damaged files count as absent.
    pub(super) fn load(&self, key: &[&str]) -> Option<Vec<u8>> {
        let bytes = fs::read(self.file(key)?).ok()?;
        let (checksum, cubin) = bytes.split_at_checked(CHECKSUM)?;
        (Sha256::digest(cubin)[..] == *checksum).then(|| cubin.to_vec())
    }

    /// Stores machine code under a key, if the system lets it: without the file the next run compiles again.
    pub(super) fn store(&self, key: &[&str], cubin: &[u8]) {
        let Some(path) = self.file(key) else { return };
        let write = || {
            let folder = path.parent().unwrap_or(&path);
            fs::create_dir_all(folder)?;
            // Other processes see the whole file or none.
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&Sha256::digest(cubin))?;
            file.write_all(cubin)?;
            file.persist(&path).map(drop).map_err(|error| error.error)
        };
        let _ = write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_count_as_absent() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache(Some(folder.path().join("inner")));
        let key = ["a source", "sm_90"];
        assert_eq!(cache.load(&key), None);
        cache.store(&key, b"code");
        assert_eq!(cache.load(&key).as_deref(), Some(&b"code"[..]));
        assert_eq!(cache.load(&["a sources", "m_90"]), None);
        let path = cache.file(&key).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[CHECKSUM] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(cache.load(&key), None);
        fs::write(&path, b"short").unwrap();
        assert_eq!(cache.load(&key), None);
    }

    #[test]
    fn without_a_folder_nothing_is_stored() {
        let cache = Cache(None);
        cache.store(&["key"], b"code");
        assert_eq!(cache.load(&["key"]), None);
    }
}
