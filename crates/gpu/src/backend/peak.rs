//! The peak of a device: multiply-adds on registers alone.

use super::allocate;
use crate::Gpu;
use crate::device::{Device, Kernel, word};
use fathom_kernels::Dtype;
use std::time::{Duration, Instant};

/// Threads: enough to fill any device.
const THREADS: usize = 1 << 18;

/// How long a round lasts at least.
const ROUND: Duration = Duration::from_millis(10);

impl<D: Device> Gpu<D> {
    /// Multiply-adds per second, the best of some rounds.
    pub(super) fn best_rate(&self, dtype: Dtype, rounds: usize) -> f64 {
        let out = allocate(self.device(), THREADS);
        let seconds = |steps: usize| {
            self.device.wait();
            let start = Instant::now();
            let parameters = [word(steps), u32::from(dtype == Dtype::Bf16)];
            self.launch(Kernel::Peak, &[&out], THREADS, &parameters);
            self.device.wait();
            start.elapsed()
        };
        // The first launch compiles the kernel.
        seconds(1);
        let mut steps = 16;
        while steps < 1 << 20 && seconds(steps) < ROUND {
            steps *= 2;
        }
        let macs = (THREADS * steps) as f64 * self.device.peak_macs(dtype) as f64;
        let best = (0..rounds.max(1)).map(|_| seconds(steps)).min().unwrap_or(ROUND);
        macs / best.as_secs_f64().max(1e-9)
    }
}
