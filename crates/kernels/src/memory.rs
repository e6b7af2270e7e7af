//! Memory for packed weights and for what is made of them: aligned to pages, zero at first, in large
//! pages where the system has them; and for small rooms, aligned to lines of the caches. It is here
//! because viewing bytes as numbers is unsafe.

use std::ops::{Deref, DerefMut};

/// QuantView of which words can be seen to consist.
///
/// # Safety
/// Any bits must be a value, the size must divide 32 bits, and be the alignment.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: 8, 16 and 32 bits, all of which are values.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for half::f16 {}
// SAFETY: as above.
unsafe impl Plain for half::bf16 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}

/// Words as numbers.
pub(crate) fn view<T: Plain>(words: &[u32]) -> &[T] {
    // SAFETY: any bits are a value of such a type, which needs no stricter alignment and divides a
    // word, so that nothing is left over.
    unsafe { words.align_to().1 }
}

/// As [`view`].
pub(crate) fn view_mut<T: Plain>(words: &mut [u32]) -> &mut [T] {
    // SAFETY: as above, and any numbers are words.
    unsafe { words.align_to_mut().1 }
}

/// The payload of the panic when the system refuses memory, which is nobody's mistake.
#[derive(Clone, Copy, Debug)]
pub struct OutOfMemory {
    /// Bytes that were asked for.
    pub bytes: usize,
}

/// Words of 32 bits.
#[derive(Default)]
pub(crate) struct Memory {
    /// Nothing where there are no words.
    map: Option<memmap2::MmapMut>,
    len: usize,
}

impl Memory {
    /// So many zeros. Pages come into being as they are written, on the thread that writes them.
    ///
    /// # Panics
    /// With [`OutOfMemory`] when the system has no such memory.
    pub(crate) fn zeroed(len: usize) -> Self {
        let bytes = crate::checked_area(len, size_of::<u32>());
        let map = (bytes > 0).then(|| {
            let map = memmap2::MmapMut::map_anon(bytes)
                .unwrap_or_else(|_| std::panic::panic_any(OutOfMemory { bytes }));
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
            // SAFETY: the map is aligned to pages and holds `len` words, for which any bits
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

/// Decode that are written and read again and again, such as logits: in large pages, and kept from
/// use to use.
#[derive(Default)]
pub struct Buffer {
    memory: Memory,
    len: usize,
}

impl Buffer {
    /// Gives the buffer a length. What it holds then is unspecified numbers, all of which are
    /// to be written.
    ///
    /// # Panics
    /// When the system has no such memory.
    pub fn resize(&mut self, len: usize) {
        if len > self.memory.len {
            // Memory that is never touched costs nothing, so there may be more than is needed.
            self.memory = Memory::default();
            self.memory = Memory::zeroed(len.checked_next_power_of_two().unwrap_or(len));
        }
        self.len = len;
    }

    /// Becomes a copy of `from`.
    ///
    /// # Panics
    /// As [`Self::resize`].
    pub fn copy(&mut self, from: &[f32]) {
        self.resize(from.len());
        self.copy_from_slice(from);
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        view(&self.memory[..self.len])
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        view_mut(&mut self.memory[..self.len])
    }
}

/// Lets the allocator keep what is freed for what is allocated next, for the rest of the process.
///
/// Runs leave tens of megabytes behind and ask for them again a moment later. Handed to the system
/// and back, these take a twentieth of the time of a forward pass.
pub fn retain_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [(libc::M_MMAP_THRESHOLD, 32 << 20), (libc::M_TRIM_THRESHOLD, 1 << 30)] {
        // SAFETY: the function only sets a number of the allocator's, under its own lock. What it
        // does not accept, it leaves as it was.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Bytes of a line of the caches.
pub(crate) const LINE: usize = 64;

/// A line of the caches.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Words of 32 bits in whole lines of the caches, so that reading 64 bytes at a time touches no
/// line twice.
#[derive(Default)]
pub(crate) struct Lines(Vec<Line>);

impl Lines {
    /// No lines.
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Makes room for at least so many words. Those that are new are zero, the others stay.
    pub(crate) fn resize(&mut self, words: usize) {
        self.0.resize(words.div_ceil(16).max(self.0.len()), Line::default());
    }
}

impl Deref for Lines {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        // SAFETY: lines are nothing but words.
        unsafe { self.0.align_to().1 }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above, and any words are lines.
        unsafe { self.0.align_to_mut().1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_grow_and_shrink() {
        let mut buffer = Buffer::default();
        assert!(buffer.is_empty());
        buffer.copy(&[1.0, 2.0, 3.0]);
        buffer.resize(2);
        assert_eq!(buffer[..], [1.0, 2.0]);
        buffer.resize(1_000_000);
        buffer.fill(4.0);
        assert_eq!(buffer.iter().sum::<f32>(), 4e6);
    }
}
