//! Memory for packed weights: aligned to pages, zero at first, in large pages where the
//! system has them; and for what is made on the way, aligned to lines of the caches. It is here
//! because viewing bytes as numbers is unsafe.

use std::ops::{Deref, DerefMut};

/// Units of 32 bits.
pub(crate) struct Memory {
    /// Nothing where there are no units.
    map: Option<memmap2::MmapMut>,
    len: usize,
}

impl Memory {
    /// So many zeros. Pages come into being as they are written, on the thread that writes them.
    ///
    /// # Panics
    /// When the system has no such memory.
    pub(crate) fn zeroed(len: usize) -> Self {
        let bytes = crate::product(len, size_of::<u32>());
        let map = (bytes > 0).then(|| {
            let map = memmap2::MmapMut::map_anon(bytes)
                .unwrap_or_else(|e| panic!("no memory for {bytes} bytes of weights: {e}"));
            // Large pages spare the processor most look-ups of addresses. Without them all
            // works as well, so a refusal does not matter.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            map
        });
        Self { map, len }
    }
}

impl Deref for Memory {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        match &self.map {
            // SAFETY: the map is aligned to pages and holds `len` units, for which any bits
            // are a value.
            Some(map) => unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), self.len) },
            None => &[],
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u32] {
        match &mut self.map {
            // SAFETY: as above, and `self` is borrowed for as long as the slice.
            Some(map) => unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), self.len) },
            None => &mut [],
        }
    }
}

/// A line of the caches.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Units of 32 bits in whole lines of the caches, so that reading 64 bytes at a time touches no
/// line twice.
#[derive(Default)]
pub(crate) struct Lines(Vec<Line>);

impl Lines {
    /// No lines.
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Makes room for at least so many units. Those that are new are zero, the others stay.
    pub(crate) fn resize(&mut self, units: usize) {
        self.0.resize(units.div_ceil(16), Line::default());
    }
}

impl Deref for Lines {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        // SAFETY: lines are nothing but units.
        unsafe { self.0.align_to().1 }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above, and any units are lines.
        unsafe { self.0.align_to_mut().1 }
    }
}
