//! Read-only memory-mapped files. They are part of this crate because mapping is unsafe.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// The bytes of a file, read by the operating system on first access.
pub struct Mapped(Option<memmap2::Mmap>);

impl Mapped {
    /// Maps a file. An empty file is an empty slice.
    ///
    /// # Errors
    /// When the file cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the map is read-only, but shared with every process that has the file open. One that
        // writes to the file changes bytes under a slice; one that truncates it causes a bus error. Nothing
        // can rule that out; every loader that maps weights accepts it, because weights are written once.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self(Some(map)))
    }

    /// Drops the resident pages. Later reads fault them in again, from the page cache or the file.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.0 {
            // SAFETY: dropped pages of a read-only file map are refilled from the file, so slices stay
            // valid. A refusal only keeps the memory longer.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

impl Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
