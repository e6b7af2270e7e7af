//! SHA-256 of files, and a record of which files were checked.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Progress;
use crate::cache::write_atomically;

const CHUNK: usize = 256 * 1024;

/// Copies to the end and returns the SHA-256 in lower-case hexadecimal.
pub(crate) fn copy_and_digest(
    from: &mut impl Read,
    to: &mut impl Write,
    progress: &dyn Progress,
) -> io::Result<String> {
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
    Ok(hex::encode(digest.finalize()))
}

/// The digest of one state of a file, kept beside it so that later runs need not read the file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    sha256: String,
    pub(crate) size: u64,
    modified_ns: u64,
}

impl Stamp {
    /// The stamp of a file whose digest is `sha256`.
    pub(crate) fn of(path: &Path, sha256: &str) -> Option<Stamp> {
        let meta = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        let modified = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        let modified_ns = u64::try_from(modified.as_nanos()).ok()?;
        Some(Stamp { sha256: sha256.to_owned(), size: meta.len(), modified_ns })
    }

    pub(crate) fn read(path: &Path) -> Option<Stamp> {
        let mut text = String::new();
        File::open(Stamp::path(path)).ok()?.take(4096).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes the stamp. Without it the next run reads the file again, so a failure is not an error.
    pub(crate) fn write(&self, path: &Path) {
        if let Ok(text) = serde_json::to_string(self) {
            let _ = write_atomically(&Stamp::path(path), text.as_bytes());
        }
    }

    pub(crate) fn path(of: &Path) -> PathBuf {
        of.with_extension("checked.json")
    }
}
