//! Memory of the device, reused rather than freed.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of free memory that are kept for reuse.
const KEPT: u64 = 1 << 30;

/// Words in a buffer of the device.
pub struct Memory {
    pub(super) buffer: wgpu::Buffer,
    /// Bytes that were asked for; the buffer may have more.
    size: u64,
    /// The last submission that uses the buffer.
    last_use: AtomicU64,
    pool: Arc<Pool>,
}

impl Memory {
    pub(super) fn new(buffer: wgpu::Buffer, size: u64, pool: Arc<Pool>, last_use: u64) -> Self {
        Self { buffer, size, last_use: AtomicU64::new(last_use), pool }
    }

    /// The memory as an argument of a kernel.
    pub(super) fn binding(&self) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding { buffer: &self.buffer, offset: 0, size: NonZeroU64::new(self.size) }
    }

    /// Notes a use by a submission.
    pub(super) fn used_by(&self, submission: u64) {
        self.last_use.fetch_max(submission, Ordering::Relaxed);
    }

    /// Whether a submission, or a later one, uses the buffer.
    pub(super) fn is_used_by(&self, submission: u64) -> bool {
        self.last_use.load(Ordering::Relaxed) >= submission
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.pool.put(self.buffer.clone(), self.last_use.load(Ordering::Relaxed));
    }
}

/// Free buffers by size.
#[derive(Default)]
pub(super) struct Pool {
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    by_size: BTreeMap<u64, Vec<(wgpu::Buffer, u64)>>,
    bytes: u64,
}

impl Free {
    fn take(&mut self, size: u64) -> Option<(wgpu::Buffer, u64)> {
        let buffers = self.by_size.get_mut(&size)?;
        let buffer = buffers.pop();
        if buffers.is_empty() {
            self.by_size.remove(&size);
        }
        self.bytes -= size;
        buffer
    }
}

impl Pool {
    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A free buffer of at least `size` bytes that wastes at most a quarter, and the last submission that
    /// uses it.
    pub(super) fn take(&self, size: u64) -> Option<(wgpu::Buffer, u64)> {
        let mut free = self.free();
        let found = *free.by_size.range(size..=size + size / 4).next()?.0;
        free.take(found)
    }

    fn put(&self, buffer: wgpu::Buffer, last_use: u64) {
        let mut free = self.free();
        let size = buffer.size();
        free.bytes += size;
        free.by_size.entry(size).or_default().push((buffer, last_use));
        while free.bytes > KEPT {
            let Some(largest) = free.by_size.keys().next_back().copied() else { break };
            free.take(largest);
        }
    }

    /// Drops all free buffers.
    pub(super) fn clear(&self) {
        *self.free() = Free::default();
    }
}
