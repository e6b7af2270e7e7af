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

/// The 95 % percentile bootstrap interval of a statistic over prompts.
///
/// Every resample draws `n_prompts` prompts with replacement and hands the statistic
/// how often each was drawn. The statistic answers `None` where it finds nothing; a
/// value that is not finite counts as that too. Percentiles interpolate linearly
/// between neighbouring values.
///
/// Resample number i draws from its own random stream, a function of `seed` and i
/// alone, so the interval is the same whatever the number of threads.
pub fn bootstrap(
    n_prompts: usize,
    resamples: usize,
    seed: u64,
    statistic: impl Fn(&[u32]) -> Option<f64> + Sync,
) -> Result<Interval, BootstrapError> {
    if n_prompts < 2 {
        return Err(BootstrapError::TooFewPrompts { prompts: n_prompts });
    }
    if !(1..=MAX_RESAMPLES).contains(&resamples) {
        return Err(BootstrapError::Resamples { resamples });
    }
    let one = |weights: &mut Vec<u32>, index: usize| {
        draw(weights, seed, index as u64);
        statistic(weights).filter(|value| value.is_finite())
    };
    let mut values: Vec<f64> =
        (0..resamples).into_par_iter().map_init(|| vec![0; n_prompts], one).flatten_iter().collect();
    if values.is_empty() {
        return Err(BootstrapError::NothingFound { resamples });
    }
    values.sort_unstable_by(f64::total_cmp);
    Ok(Interval {
        lo: percentile(&values, 0.025),
        hi: percentile(&values, 0.975),
        none_share: (resamples - values.len()) as f64 / resamples as f64,
        resamples,
    })
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

/// Fills `weights` with how often each prompt occurs in resample number `index`.
fn draw(weights: &mut [u32], seed: u64, index: u64) {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(index);
    weights.fill(0);
    for _ in 0..weights.len() {
        // The high half of a 64 x 64 bit product is a number below n. It is off from
        // uniform by less than n / 2^64, far below what any resampling can show.
        let product = u128::from(rng.next_u64()) * weights.len() as u128;
        weights[(product >> 64) as usize] += 1;
    }
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
        for index in 0..10_000 {
            draw(&mut weights, 3, index);
            assert_eq!(weights.iter().sum::<u32>(), 7);
            totals.iter_mut().zip(weights).for_each(|(total, weight)| *total += weight);
        }
        // Each total is binomial(70000, 1/7), standard deviation 93.
        assert!(totals.iter().all(|total| total.abs_diff(10_000) < 400), "{totals:?}");
    }
}
