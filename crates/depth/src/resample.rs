//! Percentile bootstrap over prompts.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The largest number of resamples that one bootstrap takes: more would only use
/// memory, the ends of the interval having long stopped moving.
pub const MAX_RESAMPLES: usize = 1_000_000;

/// A 95 % percentile interval over resamples of the prompts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The 2.5th percentile of the statistic over the resamples that have one.
    pub lo: f64,
    /// The 97.5th percentile.
    pub hi: f64,
    /// The share of the resamples in which the statistic found nothing.
    pub none_share: f64,
    /// The number of resamples drawn.
    pub resamples: usize,
}

/// Why there is no interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// One prompt, or none, cannot be resampled.
    #[error(
        "a bootstrap needs at least two prompts and there are {prompts}; measure more prompts for an interval"
    )]
    TooFewPrompts {
        /// The number of prompts.
        prompts: usize,
    },
    /// The number of resamples is out of range.
    #[error("{resamples} resamples cannot be drawn; choose a number from 1 to {MAX_RESAMPLES}")]
    Resamples {
        /// The number asked for.
        resamples: usize,
    },
    /// The statistic found nothing in any resample.
    #[error(
        "none of the {resamples} resamples of the prompts has a value; look at the reason on all prompts"
    )]
    NothingFound {
        /// The number of resamples drawn.
        resamples: usize,
    },
}

impl Interval {
    /// The interval of the statistic's values over the resamples, in any order; a value that is
    /// `None` or not finite counts as nothing found.
    pub fn of(values: impl IntoIterator<Item = Option<f64>>) -> Result<Self, BootstrapError> {
        let mut resamples = 0;
        let counted = values.into_iter().inspect(|_| resamples += 1);
        let mut found: Vec<f64> = counted.flatten().filter(|value| value.is_finite()).collect();
        if found.is_empty() {
            return Err(BootstrapError::NothingFound { resamples });
        }
        found.sort_unstable_by(f64::total_cmp);
        Ok(Self {
            lo: percentile(&found, 0.025),
            hi: percentile(&found, 0.975),
            none_share: (resamples - found.len()) as f64 / resamples as f64,
            resamples,
        })
    }
}

/// How prompts are drawn, resample by resample.
///
/// Resample number i draws from its own random stream, a function of the seed and i
/// alone, so what is computed from the resamples is the same whatever the number of
/// threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resampling {
    /// Sets of prompts that are drawn from independently: how many there are, and how
    /// many are drawn with replacement.
    sets: Vec<(usize, usize)>,
    resamples: usize,
    seed: u64,
}

impl Resampling {
    /// As many prompts drawn with replacement as there are: the bootstrap.
    pub fn of(prompts: usize, resamples: usize, seed: u64) -> Result<Self, BootstrapError> {
        Self::independent(&[prompts], resamples, seed)
    }

    /// Several sets of prompts, each drawn from on its own: for runs on different
    /// prompts. The weights of the sets follow each other in what the statistic is given.
    pub fn independent(prompts: &[usize], resamples: usize, seed: u64) -> Result<Self, BootstrapError> {
        if let Some(&prompts) = prompts.iter().find(|prompts| **prompts < 2) {
            return Err(BootstrapError::TooFewPrompts { prompts });
        }
        if !(1..=MAX_RESAMPLES).contains(&resamples) {
            return Err(BootstrapError::Resamples { resamples });
        }
        Ok(Self { sets: prompts.iter().map(|&prompts| (prompts, prompts)).collect(), resamples, seed })
    }

    /// This resampling with `draws` prompts drawn of each set, which shows what the
    /// statistic would vary like on that many prompts.
    #[must_use]
    pub fn drawing(mut self, draws: usize) -> Self {
        self.sets.iter_mut().for_each(|set| set.1 = draws);
        self
    }

    /// Hands a function of each resample how often each prompt was drawn; the answers
    /// are in the order of the resamples.
    pub fn each<T: Send>(&self, statistic: impl Fn(&[u32]) -> T + Sync) -> Vec<T> {
        let prompts = self.sets.iter().map(|set| set.0).sum();
        let one = |weights: &mut Vec<u32>, index: usize| {
            self.draw(weights, index as u64);
            statistic(weights)
        };
        (0..self.resamples).into_par_iter().map_init(|| vec![0; prompts], one).collect()
    }

    /// The interval of a statistic that answers `None` where it finds nothing.
    pub fn interval(
        &self,
        statistic: impl Fn(&[u32]) -> Option<f64> + Sync,
    ) -> Result<Interval, BootstrapError> {
        Interval::of(self.each(statistic))
    }

    /// Fills `weights` with how often each prompt occurs in resample number `index`.
    fn draw(&self, weights: &mut [u32], index: u64) {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(index);
        let mut rest = weights;
        for &(prompts, draws) in &self.sets {
            let (set, others) = rest.split_at_mut(prompts);
            rest = others;
            set.fill(0);
            for _ in 0..draws {
                // The high half of a 64 x 64 bit product is a number below n. It is off from
                // uniform by less than n / 2^64, far below what any resampling can show.
                let product = u128::from(rng.next_u64()) * prompts as u128;
                set[(product >> 64) as usize] += 1;
            }
        }
    }
}

/// The 95 % percentile bootstrap interval of a statistic over prompts.
///
/// Every resample draws `n_prompts` prompts with replacement and hands the statistic
/// how often each was drawn. The statistic answers `None` where it finds nothing; a
/// value that is not finite counts as that too. Percentiles interpolate linearly
/// between neighbouring values. The interval depends on `seed` and not on the number
/// of threads (see [`Resampling`]).
pub fn bootstrap(
    n_prompts: usize,
    resamples: usize,
    seed: u64,
    statistic: impl Fn(&[u32]) -> Option<f64> + Sync,
) -> Result<Interval, BootstrapError> {
    Resampling::of(n_prompts, resamples, seed)?.interval(statistic)
}

/// The interval of a statistic of `draws` prompts, drawn with replacement out of
/// `n_prompts`: how far the statistic would vary had only so many prompts been
/// measured. With as many draws as prompts it is [`bootstrap`].
pub fn bootstrap_of(
    n_prompts: usize,
    draws: usize,
    resamples: usize,
    seed: u64,
    statistic: impl Fn(&[u32]) -> Option<f64> + Sync,
) -> Result<Interval, BootstrapError> {
    Resampling::of(n_prompts, resamples, seed)?.drawing(draws).interval(statistic)
}

/// The interval of the difference `b - a` of two statistics over the same prompts.
///
/// Both see the same resamples, so what makes a prompt hard for both cancels. A
/// resample in which either finds nothing has no difference.
pub fn paired(
    n_prompts: usize,
    resamples: usize,
    seed: u64,
    a: impl Fn(&[u32]) -> Option<f64> + Sync,
    b: impl Fn(&[u32]) -> Option<f64> + Sync,
) -> Result<Interval, BootstrapError> {
    bootstrap(n_prompts, resamples, seed, |weights| Some(b(weights)? - a(weights)?))
}

/// The value at share `q` of the way through sorted values, of which there is at
/// least one.
fn percentile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    let weight = at - below as f64;
    // In this form two neighbours of opposite sign cannot overflow.
    sorted[below] * (1.0 - weight) + sorted[above] * weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_interpolate() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!((percentile(&values, 0.025), percentile(&values, 0.975)), (2.5, 97.5));
        assert_eq!(percentile(&[4.0], 0.975), 4.0);
        assert_eq!(percentile(&[-f64::MAX, f64::MAX], 0.5), 0.0);
    }

    #[test]
    fn draws_are_uniform_and_complete() {
        let mut totals = [0u32; 7];
        let mut weights = [9; 7];
        let resampling = Resampling::of(7, 10_000, 3).unwrap();
        for index in 0..10_000 {
            resampling.draw(&mut weights, index);
            assert_eq!(weights.iter().sum::<u32>(), 7);
            totals.iter_mut().zip(weights).for_each(|(total, weight)| *total += weight);
        }
        // Each total is binomial(70000, 1/7), standard deviation 93.
        assert!(totals.iter().all(|total| total.abs_diff(10_000) < 400), "{totals:?}");
    }

    #[test]
    fn sets_are_drawn_from_on_their_own() {
        let sums = |weights: &[u32]| (weights[..3].iter().sum::<u32>(), weights[3..].iter().sum::<u32>());
        let both = Resampling::independent(&[3, 5], 100, 7).unwrap();
        assert!(both.each(sums).into_iter().all(|sums| sums == (3, 5)));
        assert!(both.clone().drawing(2).each(sums).into_iter().all(|sums| sums == (2, 2)));
        // The first set is drawn as if it were alone.
        let alone = Resampling::of(3, 100, 7).unwrap();
        assert_eq!(both.each(|weights| weights[..3].to_vec()), alone.each(<[u32]>::to_vec));
        assert_eq!(
            Resampling::independent(&[3, 1], 100, 7),
            Err(BootstrapError::TooFewPrompts { prompts: 1 })
        );
    }
}
