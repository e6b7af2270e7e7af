//! Read-only memory-mapped files, here because mapping is unsafe.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// A file's bytes, read by the operating system as they are touched.
pub struct Mapped(Option<memmap2::Mmap>);

impl Mapped {
    /// Maps a file. An empty file gives no bytes.
    ///
    /// # Errors
    /// When the file cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the map is read-only, but shared with every program that has the file open: one that
        // writes to it would change bytes under a slice, and one that shortens it would stop this program
        // with a bus error. Nothing can rule that out. Weights are written once and then read, and every
        // loader that maps them accepts this.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self(Some(map)))
    }

    /// Gives the memory back in which bytes were read so far; whoever looks at them again finds
    /// them as before, read once more from the file or from what the system remembers of it.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.0 {
            // SAFETY: pages of a read-only map of a file come back with the file's content, so
            // slices of it stay as they are. Without the advice the memory is only held longer.
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
