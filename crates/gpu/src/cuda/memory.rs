//! Memory of the device, and copies to and from it.

use super::driver::{Driver, check};
use cudarc::driver::result;
use cudarc::driver::sys::{CUdeviceptr, CUevent_flags, CUresult};
use cudarc::driver::{CudaEvent, DriverError};
use fathom_kernels::OutOfMemory;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Memory of the device, returned to its pool when dropped.
///
/// All work is in the order of one stream, so what is launched later may use the memory again at once.
pub struct Memory {
    address: CUdeviceptr,
    words: usize,
    class: usize,
    pool: Arc<Pool>,
}

impl Memory {
    /// The address on the device.
    pub(super) fn address(&self) -> CUdeviceptr {
        self.address
    }

    /// The address of word `part.start`.
    ///
    /// # Panics
    /// When the part lies outside.
    fn part(&self, part: &Range<usize>) -> CUdeviceptr {
        assert!(part.start <= part.end && part.end <= self.words, "{part:?} of {} words", self.words);
        self.address + 4 * part.start as u64
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.pool.give_back(self.class, self.address);
    }
}

/// Memory that was allocated and is not in use, by size class. Freeing memory of CUDA waits for the device, so
/// nothing is freed until an allocation fails.
pub(super) struct Pool {
    driver: Arc<Driver>,
    free: Mutex<BTreeMap<usize, Vec<CUdeviceptr>>>,
}

/// The words that are allocated where `words` are asked for.
fn size_class(words: usize) -> usize {
    const SMALLEST: usize = 64;
    /// 1 MiB: below, classes are powers of two.
    const SMALL: usize = 1 << 18;
    /// 64 MiB: below, there are eight classes per power of two.
    const MEDIUM: usize = 1 << 24;
    /// 2 MiB: the driver allocates no less.
    const PAGE: usize = 1 << 19;
    if words <= SMALL {
        words.next_power_of_two().max(SMALLEST)
    } else if words <= MEDIUM {
        words.next_multiple_of(words.next_power_of_two() / 16)
    } else {
        words.next_multiple_of(PAGE)
    }
}

impl Pool {
    pub(super) fn new(driver: Arc<Driver>) -> Arc<Self> {
        Arc::new(Self { driver, free: Mutex::default() })
    }

    /// Memory of at least `words` words.
    pub(super) fn allocate(self: &Arc<Self>, words: usize) -> Result<Memory, OutOfMemory> {
        let bytes = words.saturating_mul(4);
        if bytes > isize::MAX as usize / 2 {
            return Err(OutOfMemory { bytes });
        }
        let class = size_class(words);
        let (address, class) = self.reuse(class).map_or_else(|| self.fresh(class, bytes), Ok)?;
        Ok(Memory { address, words, class, pool: self.clone() })
    }

    /// Takes free memory of the class, or of one that is little larger.
    fn reuse(&self, class: usize) -> Option<(CUdeviceptr, usize)> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (&found, addresses) = free.range_mut(class..=class + class / 8).next()?;
        let address = addresses.pop()?;
        if addresses.is_empty() {
            free.remove(&found);
        }
        Some((address, found))
    }

    fn fresh(&self, class: usize, bytes: usize) -> Result<(CUdeviceptr, usize), OutOfMemory> {
        self.driver.bind();
        // SAFETY: the context is current, and all memory has the type of words, for which any bits are values.
        let allocate = || unsafe { result::malloc_sync(4 * class) };
        let address = allocate().or_else(|_| {
            self.release();
            allocate()
        });
        match address {
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Err(OutOfMemory { bytes }),
            // Any other error is one of earlier work.
            address => Ok((check(address, "memory"), class)),
        }
    }

    /// Returns all free memory to the driver.
    fn release(&self) {
        let free = std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner));
        self.driver.bind();
        for address in free.into_values().flatten() {
            // SAFETY: the address came from `malloc_sync` and nothing refers to it any more. The driver waits
            // for work that does.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    fn give_back(&self, class: usize, address: CUdeviceptr) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).entry(class).or_default().push(address);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.release();
    }
}

/// Two halves of page-locked memory of the host. The device copies from one while the host fills the other.
pub(super) struct Staging {
    driver: Arc<Driver>,
    halves: [Half; 2],
    /// The half that is being filled.
    current: usize,
}

struct Half {
    start: *mut u32,
    used: usize,
    /// Recorded after the last copy from this half.
    copied: CudaEvent,
}

// SAFETY: the pointers are to memory that only this value refers to.
unsafe impl Send for Staging {}

impl Staging {
    /// Words of a half: 8 MiB.
    const WORDS: usize = 1 << 21;

    pub(super) fn new(driver: Arc<Driver>) -> Result<Self, String> {
        driver.bind();
        let half = || {
            // SAFETY: the context is current.
            let start = unsafe { result::malloc_host(4 * Self::WORDS, 0) };
            let start = start.map_err(|error| format!("page-locked memory: {error}"))?.cast();
            let copied = driver.context().new_event(Some(CUevent_flags::CU_EVENT_DISABLE_TIMING));
            Ok::<_, String>(Half { start, used: 0, copied: copied.map_err(|error| error.to_string())? })
        };
        Ok(Self { halves: [half()?, half()?], driver, current: 0 })
    }

    /// Copies words to the device; the slice may change as soon as this returns.
    pub(super) fn write(&mut self, memory: &Memory, mut at: usize, words: &[u32]) {
        self.driver.bind();
        for words in words.chunks(Self::WORDS) {
            if self.halves[self.current].used + words.len() > Self::WORDS {
                self.turn();
            }
            let half = &mut self.halves[self.current];
            let to = memory.part(&(at..at + words.len()));
            // SAFETY: the half holds that many more words, and the device has copied what was there before.
            let staged = unsafe {
                let start = half.start.add(half.used);
                start.copy_from_nonoverlapping(words.as_ptr(), words.len());
                std::slice::from_raw_parts(start, words.len())
            };
            // SAFETY: the memory holds the part, and the half is not written before the copy is done.
            check(
                unsafe { result::memcpy_htod_async(to, staged, self.driver.stream()) },
                "a copy to the device",
            );
            half.used += words.len();
            at += words.len();
        }
    }

    /// Goes on with the other half, when the device no longer copies from it.
    fn turn(&mut self) {
        check(self.halves[self.current].copied.record(self.driver.cuda_stream()), "an event");
        self.current ^= 1;
        let half = &mut self.halves[self.current];
        check(half.copied.synchronize(), "a copy to the device");
        half.used = 0;
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.driver.bind();
        let _ = self.driver.cuda_stream().synchronize();
        for half in &self.halves {
            // SAFETY: the memory came from `malloc_host`, and the device is done with it.
            let _ = unsafe { result::free_host(half.start.cast::<c_void>()) };
        }
    }
}

/// Reads words, after all work before.
pub(super) fn read(driver: &Driver, memory: &Memory, part: Range<usize>) -> Vec<u32> {
    driver.bind();
    let mut words = vec![0u32; part.len()];
    if !words.is_empty() {
        let from = memory.part(&part);
        // SAFETY: the memory holds the part, and the words live until the copy is done, below.
        check(unsafe { result::memcpy_dtoh_async(&mut words, from, driver.stream()) }, "a copy to the host");
    }
    check(driver.cuda_stream().synchronize(), "the device");
    words
}

/// Copies words between memories.
pub(super) fn copy(driver: &Driver, from: &Memory, part: Range<usize>, to: &Memory, at: usize) {
    if part.is_empty() {
        return;
    }
    driver.bind();
    let (source, target) = (from.part(&part), to.part(&(at..at + part.len())));
    // SAFETY: both memories hold their parts.
    let result = unsafe { result::memcpy_dtod_async(target, source, 4 * part.len(), driver.stream()) };
    check(result, "a copy on the device");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_hold_what_is_asked_for_and_waste_little() {
        for words in (0..60).flat_map(|i| [(1usize << i) - 1, 1 << i, (1 << i) + 1, (1 << i) / 3 * 2]) {
            let class = size_class(words);
            assert!(class >= words && class.is_multiple_of(64), "{words}");
            assert_eq!(size_class(class), class);
            if words > 1 << 18 {
                assert!(class - words <= words / 7, "{words}: {class}");
            }
        }
    }
}
