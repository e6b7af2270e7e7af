//! The threads of rayon's pool between two parallel sections.

use rayon::Yield;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Does `work` while the other threads of the pool look for jobs without ever going to sleep.
///
/// A forward pass is hundreds of short parallel sections, one after the other. Rayon's threads
/// fall asleep in the pauses, and waking one takes about as long as a section.
pub fn awake<T>(work: impl FnOnce() -> T) -> T {
    let me = rayon::current_thread_index();
    let (watch, done) = (Watch::default(), AtomicBool::new(false));
    rayon::in_place_scope(|scope| {
        scope.spawn_broadcast(|_, context| {
            // This thread takes its own copy of the job where it waits for others, and must not
            // wait for itself.
            if Some(context.index()) == me || !watch.join() {
                return;
            }
            while !done.load(Ordering::Acquire) {
                if rayon::yield_now() != Some(Yield::Executed) {
                    std::thread::yield_now();
                }
            }
        });
        watch.begin(rayon::current_num_threads() - usize::from(me.is_some()));
        // Also when `work` panics.
        let _end = Ends(&done);
        work()
    })
}

/// The threads that stay awake. Only those do that are there before the work begins: later, one may
/// be in the middle of a part of that work, which would not go on before all of it were done.
#[derive(Default)]
struct Watch(AtomicUsize);

impl Watch {
    const BEGUN: usize = 1 << 31;
    /// A thread that has something else to do need not be waited for.
    const PATIENCE: Duration = Duration::from_millis(1);

    /// Counts a thread in; no when the work has begun.
    fn join(&self) -> bool {
        self.0.fetch_add(1, Ordering::AcqRel) < Self::BEGUN
    }

    /// Waits a moment for so many threads.
    fn begin(&self, threads: usize) {
        let start = Instant::now();
        while self.0.load(Ordering::Acquire) < threads && start.elapsed() < Self::PATIENCE {
            std::hint::spin_loop();
        }
        self.0.fetch_add(Self::BEGUN, Ordering::AcqRel);
    }
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn sum(to: u64) -> u64 {
        (0..to).into_par_iter().sum()
    }

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    #[test]
    fn work_is_done_on_every_pool_also_one_inside_the_other() {
        for threads in [1, 2, 3, 8] {
            let pool = pool(threads);
            for _ in 0..20 {
                let inner = || (0..8).into_par_iter().map(|i| awake(|| sum(i))).sum::<u64>();
                assert_eq!(pool.install(|| awake(|| sum(1000) + awake(inner))), 499_500 + 56);
            }
        }
        assert_eq!(awake(|| sum(10)), 45);
    }

    #[test]
    fn a_panic_comes_through() {
        let pool = pool(2);
        let stop = || pool.install(|| awake(|| assert_eq!(sum(3), 4)));
        assert!(catch_unwind(AssertUnwindSafe(stop)).is_err());
        assert_eq!(pool.install(|| awake(|| sum(10))), 45);
    }
}
