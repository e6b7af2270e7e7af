//! Timing that is robust to other work on the machine.

use super::effort::Effort;
use crate::Result;
use fathom_model::{Backend, Dtype};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Which of the repeated times counts: other work only ever makes times longer, so the
/// shorter ones say more, and the shortest of all may be luck.
pub(super) const STATISTIC: &str = "lower quartile of repeated times, of the work and of the peak in turn";

/// A peak over a longer time would say no more.
const LONGEST_PEAK: Duration = Duration::from_millis(500);

/// How fast some work was done.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Speed {
    /// How often it was timed.
    pub repetitions: usize,
    /// The lower quartile of the times.
    pub seconds: f64,
    /// A multiply-add is two operations.
    pub gflops: f64,
    /// What the registers alone did meanwhile, in the same statistic.
    pub peak_gflops: f64,
    /// One by the other.
    pub share_of_peak: f64,
}

/// Times work of `macs` multiply-adds on weights of `dtype`, which gives its own seconds,
/// in turn with the peak of the machine: a load that comes and goes slows both.
pub(super) fn time<B: Backend>(
    on: &B,
    effort: &Effort,
    dtype: Dtype,
    macs: u64,
    work: &mut dyn FnMut() -> Result<f64>,
) -> Result<Speed> {
    let (mut times, mut peaks) = (Vec::new(), Vec::new());
    let started = Instant::now();
    for _ in 0..effort.rounds {
        let round = Instant::now();
        let mut last = work()?;
        while round.elapsed() < effort.round {
            times.push(last);
            last = work()?;
        }
        times.push(last);
        peaks.push(seconds_a_madd(on, dtype, Duration::from_secs_f64(last)));
        if started.elapsed() >= effort.most {
            break;
        }
    }
    let (repetitions, seconds) = (times.len(), lower_quartile(times));
    let (done, peak) = (gflops(macs as f64 / seconds), gflops(1.0 / lower_quartile(peaks)));
    Ok(Speed { repetitions, seconds, gflops: done, peak_gflops: peak, share_of_peak: done / peak })
}

/// What a multiply-add on registers takes, over a time as long as the work takes: short
/// times would find gaps in which nothing else runs, and long work has none.
fn seconds_a_madd<B: Backend>(on: &B, dtype: Dtype, long: Duration) -> f64 {
    let long = long.min(LONGEST_PEAK);
    let (started, mut rounds, mut sum) = (Instant::now(), 0.0, 0.0);
    loop {
        sum += 1.0 / on.peak(dtype, 1);
        rounds += 1.0;
        if started.elapsed() >= long {
            return sum / rounds;
        }
    }
}

/// Seconds that something takes on a device.
pub(super) fn seconds<B: Backend, T>(on: &B, work: impl FnOnce() -> T) -> (f64, T) {
    on.wait();
    let start = Instant::now();
    let result = work();
    on.wait();
    // Clocks of some systems stand still for a while.
    (start.elapsed().as_secs_f64().max(1e-9), result)
}

/// Multiply-adds per second as GFLOP/s.
pub(super) fn gflops(macs_per_second: f64) -> f64 {
    2e-9 * macs_per_second
}

/// The time that a quarter of the others undercut, about; the shortest of few.
fn lower_quartile(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len().saturating_sub(1) / 4).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_model::Cpu;

    #[test]
    fn a_quarter_of_the_times_is_shorter() {
        assert_eq!(lower_quartile(vec![3.0]), 3.0);
        assert_eq!(lower_quartile(vec![5.0, 3.0, 4.0]), 3.0);
        assert_eq!(lower_quartile((1..=9).rev().map(f64::from).collect()), 3.0);
    }

    #[test]
    fn work_is_counted_and_timed_by_what_it_says() {
        let mut calls = 0;
        let mut work = || {
            calls += 1;
            Ok(0.5)
        };
        let speed = time(&Cpu, &Effort::QUICK, Dtype::F32, 1_000_000_000, &mut work).unwrap();
        assert_eq!((speed.repetitions, speed.seconds, speed.gflops), (calls, 0.5, 4.0));
        assert_eq!(speed.share_of_peak, speed.gflops / speed.peak_gflops);
    }
}
