//! Memory for weights, activations and scratch buffers: page-aligned maps for large allocations,
//! cache-line-aligned vectors for small ones, and views of both as numbers. It is a module of its
//! own because these views are unsafe.

use std::ops::{Deref, DerefMut};

/// Numbers that a 32-bit word can be viewed as.
///
/// # Safety
/// Any bits must be a valid value, the size must divide 32 bits, and the alignment the size.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: 8, 16 and 32 bits, all of which are values.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for half::f16 {}
// SAFETY: as above.
unsafe impl Plain for half::bf16 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: 32 bits in halves, whose alignment a word exceeds.
unsafe impl Plain for [u16; 2] {}

/// Views words as numbers.
pub(crate) fn view<T: Plain>(words: &[u32]) -> &[T] {
    // SAFETY: any bits are a `T`, which needs no stricter alignment than a word and divides one, so
    // nothing is left over.
    unsafe { words.align_to().1 }
}

/// Views words as numbers, mutably.
pub(crate) fn view_mut<T: Plain>(words: &mut [u32]) -> &mut [T] {
    // SAFETY: as above, and any `T`s are words.
    unsafe { words.align_to_mut().1 }
}

/// The operating system refused an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub bytes: usize,
}

impl std::fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "out of memory: the system refused {:.1} GiB", self.bytes as f64 / (1u64 << 30) as f64)
    }
}

impl std::error::Error for OutOfMemory {}

/// 32-bit words in an anonymous map.
#[derive(Default)]
pub(crate) struct Memory {
    /// `None` for no words.
    map: Option<memmap2::MmapMut>,
    len: usize,
}

impl Memory {
    /// Maps `len` zeros. Pages are allocated when they are first written, by the thread that writes
    /// them.
    ///
    /// # Errors
    /// When the system refuses the memory.
    ///
    /// # Panics
    /// When the size exceeds the address space.
    pub(crate) fn zeroed(len: usize) -> Result<Self, OutOfMemory> {
        let bytes = crate::checked_area(len, size_of::<u32>());
        if bytes == 0 {
            return Ok(Self::default());
        }
        let map = memmap2::MmapMut::map_anon(bytes).map_err(|_| OutOfMemory { bytes })?;
        // Large pages save address look-ups. A refusal costs speed only.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map: Some(map), len })
    }
}

impl Deref for Memory {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        match &self.map {
            // SAFETY: the map is page-aligned and holds `len` words, for which any bits are a value.
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

/// A reusable buffer of floats for activations. Large ones, which are rewritten again and again, such as
/// logits, lie in large pages; small ones come from the allocator, which keeps freed memory.
#[derive(Default)]
pub struct Buffer {
    words: Words,
    len: usize,
}

/// At least as many floats as a buffer has.
enum Words {
    Small(Vec<f32>),
    Large(Memory),
}

impl Default for Words {
    fn default() -> Self {
        Self::Small(Vec::new())
    }
}

impl Words {
    /// Floats from which on a map pays.
    const LARGE: usize = 1 << 20;

    fn capacity(&self) -> usize {
        match self {
            Self::Small(floats) => floats.len(),
            Self::Large(memory) => memory.len,
        }
    }

    fn zeroed(len: usize) -> Result<Self, OutOfMemory> {
        if len >= Self::LARGE {
            // Memory that is never touched costs nothing, so the map may be larger than needed.
            let memory = Memory::zeroed(len.checked_next_power_of_two().unwrap_or(len))?;
            return Ok(Self::Large(memory));
        }
        let mut floats = Vec::new();
        floats.try_reserve_exact(len).map_err(|_| OutOfMemory { bytes: len * size_of::<f32>() })?;
        floats.resize(len, 0.0);
        Ok(Self::Small(floats))
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self[..].fmt(f)
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(floats: Vec<f32>) -> Self {
        Self { len: floats.len(), words: Words::Small(floats) }
    }
}

impl Buffer {
    /// Sets the length. The contents are unspecified numbers that the caller overwrites.
    ///
    /// # Errors
    /// When the system refuses the memory. The buffer is then empty.
    pub fn try_resize(&mut self, len: usize) -> Result<(), OutOfMemory> {
        if len > self.words.capacity() {
            *self = Self::default();
            self.words = Words::zeroed(len)?;
        }
        self.len = len;
        Ok(())
    }

    /// [`Self::try_resize`] where the caller has reserved the memory before, or cannot go on without.
    ///
    /// # Panics
    /// With [`OutOfMemory`] as the payload when the system refuses the memory.
    pub fn resize(&mut self, len: usize) {
        self.try_resize(len).unwrap_or_else(|error| std::panic::panic_any(error));
    }

    /// Makes the buffer a copy of `from`.
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
        match &self.words {
            Words::Small(floats) => &floats[..self.len],
            Words::Large(memory) => view(&memory[..self.len]),
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.words {
            Words::Small(floats) => &mut floats[..self.len],
            Words::Large(memory) => view_mut(&mut memory[..self.len]),
        }
    }
}

/// Lets the allocator keep freed memory for later allocations, for the rest of the process.
///
/// Forward passes free tens of megabytes and allocate them again a moment later. Returning them to
/// the system in between costs a twentieth of a pass.
pub fn retain_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [(libc::M_MMAP_THRESHOLD, 32 << 20), (libc::M_TRIM_THRESHOLD, 1 << 30)] {
        // SAFETY: the call sets a number of the allocator's under its own lock, or ignores it.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// One cache line.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// A scratch buffer of 32-bit words in whole cache lines, so that a 64-byte load never touches two.
#[derive(Default)]
pub(crate) struct Lines(Vec<Line>);

impl Lines {
    /// An empty buffer.
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Grows to at least `words` words. New words are zero, old ones stay.
    pub(crate) fn resize(&mut self, words: usize) {
        self.0.resize(words.div_ceil(16).max(self.0.len()), Line::default());
    }
}

impl Deref for Lines {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        // SAFETY: a line is 16 words.
        unsafe { self.0.align_to().1 }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above, and any words are lines.
        unsafe { self.0.align_to_mut().1 }
    }
}

/// A pointer into an output matrix that several jobs share, each writing its own part.
#[derive(Clone, Copy)]
pub(crate) struct SharedPtr(pub(crate) *mut f32);

// SAFETY: the jobs write disjoint parts of one buffer that outlives them; each use says which part.
unsafe impl Send for SharedPtr {}
// SAFETY: as above.
unsafe impl Sync for SharedPtr {}

impl SharedPtr {
    /// The pointer `offset` elements further on; not dereferenced here.
    pub(crate) fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
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

    /// More than any address space, so that every system refuses it.
    #[test]
    fn a_refused_allocation_is_an_error_and_leaves_an_empty_buffer() {
        let mut buffer = Buffer::default();
        buffer.copy(&[1.0]);
        let len = usize::MAX / 8;
        let error = buffer.try_resize(len).expect_err("no system has this memory");
        assert!(error.bytes >= 4 * len && error.to_string().contains("GiB"));
        assert!(buffer.is_empty());
        let panic = std::panic::catch_unwind(move || buffer.resize(len)).expect_err("resize panics");
        assert_eq!(panic.downcast_ref::<OutOfMemory>(), Some(&error));
    }
}
