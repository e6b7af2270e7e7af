//! The speed of a device on registers alone.

use super::Cuda;
use super::source::{Entry, THREADS, Unit};
use crate::device::Device;
use fathom_kernels::Dtype;

/// Groups of threads per multiprocessor.
const GROUPS: usize = 4;

/// The kernel that measures products of a type, and multiply-adds per thread and round.
pub(super) fn entry(dtype: Dtype) -> (Entry, f64) {
    // As in peak.cu: 32 per thread; 8 instructions of 16 * 8 * 16 per warp of 32 threads.
    match dtype {
        Dtype::F32 => (Entry::plain(Unit::Peak, "peak_f32"), 32.0),
        Dtype::Bf16 => (Entry::plain(Unit::Peak, "peak_bf16"), 512.0),
    }
}

/// Multiply-adds per second: the best of some rounds of about 10 ms.
pub(super) fn measure(cuda: &Cuda, dtype: Dtype, rounds: usize) -> f64 {
    let (entry, per_thread) = entry(dtype);
    let threads = cuda.multiprocessors * GROUPS * THREADS;
    let out = cuda.scratch(threads);
    let seeds = cuda.scratch(2);
    // Small numbers in either type, which sums of any length keep finite.
    cuda.write(&seeds, 0, &[0x3e80_3e80; 2]);
    let time = |count: u32| {
        let launch =
            || cuda.launch_elements(entry, threads, &[Some(&seeds), Some(&out)], &[threads as u32, count]);
        cuda.time(launch).as_secs_f64()
    };
    let rate = |count: u32| f64::from(count) * per_thread * threads as f64 / time(count);
    // Compiles the kernel, wakes the device up and finds out how much work takes 10 ms.
    rate(100);
    let count = (rate(10_000) * 0.01 / (per_thread * threads as f64)).clamp(1e3, 1e8) as u32;
    (0..rounds.max(1)).map(|_| rate(count)).fold(0.0, f64::max)
}
