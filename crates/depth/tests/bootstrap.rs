//! Bootstrap intervals against theory, and their independence of threads.

use approx::assert_relative_eq;
use fathom_depth::{BootstrapError, Interval, MAX_RESAMPLES, bootstrap, bootstrap_of, paired};

/// `n` values around 10, sums of sines: spread out, and the same on every machine.
fn values(n: usize, phase: f64) -> Vec<f64> {
    (0..n).map(|i| 10.0 + (1..=6).map(|k| (phase + (i * k * k) as f64 * 0.731).sin()).sum::<f64>()).collect()
}

fn mean(values: &[f64]) -> impl Fn(&[u32]) -> Option<f64> + Sync + '_ {
    |weights| {
        let sum: f64 = values.iter().zip(weights).map(|(value, weight)| value * f64::from(*weight)).sum();
        Some(sum / values.len() as f64)
    }
}

/// Student's interval for the mean of `n` prompts with the variance of `values`; `quantile` is that of n - 1
/// degrees of freedom, from a table.
fn student(values: &[f64], n: usize, quantile: f64) -> [f64; 2] {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    let half = quantile * (variance / (n - 1) as f64).sqrt();
    [mean - half, mean + half]
}

#[track_caller]
fn check_student(interval: Interval, values: &[f64], quantile: f64) {
    let [lo, hi] = student(values, values.len(), quantile);
    assert_relative_eq!(interval.hi - interval.lo, hi - lo, max_relative = 0.03);
    assert_relative_eq!(interval.lo, lo, epsilon = 0.03 * (hi - lo));
    assert_relative_eq!(interval.hi, hi, epsilon = 0.03 * (hi - lo));
    assert_eq!(interval.none_share, 0.0);
}

#[test]
fn the_interval_of_a_mean_matches_theory() {
    for seed in 0..3 {
        for (prompts, quantile) in [(16, 2.13145), (200, 1.97196)] {
            // Mirrored, because a few skewed values have a skewed interval.
            let half = values(prompts / 2, seed as f64);
            let values: Vec<f64> =
                half.iter().copied().chain(half.iter().map(|value| 20.0 - value)).collect();
            check_student(bootstrap(prompts, 40_000, seed, mean(&values)).unwrap(), &values, quantile);
        }
    }
}

#[test]
fn a_paired_interval_equals_that_of_the_differences() {
    // b differs little from a although the prompts differ much.
    let a = values(150, 0.0);
    let step = values(150, 2.0);
    let b: Vec<f64> = a.iter().zip(&step).map(|(a, step)| a + 0.01 * step).collect();
    let difference: Vec<f64> = b.iter().zip(&a).map(|(b, a)| b - a).collect();
    let interval = paired(150, 20_000, 5, mean(&a), mean(&b)).unwrap();
    check_student(interval, &difference, 1.97601);
    assert!(interval.lo > 0.0, "b is larger than a");
    let back = paired(150, 20_000, 5, mean(&b), mean(&a)).unwrap();
    assert_relative_eq!(back.lo, -interval.hi, max_relative = 1e-9);
}

#[test]
fn fewer_draws_widen_the_interval_of_a_mean() {
    let values = values(200, 0.5);
    let of = |draws: usize| {
        let mean = |weights: &[u32]| Some(mean(&values)(weights)? * (200.0 / draws as f64));
        bootstrap_of(200, draws, 20_000, 3, mean).unwrap()
    };
    for (draws, quantile) in [(8, 2.36462), (50, 2.00958), (200, 1.97196), (400, 1.96593)] {
        let (found, [lo, hi]) = (of(draws), student(&values, draws, quantile));
        assert_relative_eq!(found.hi - found.lo, hi - lo, max_relative = 0.03);
    }
    assert_eq!(of(200), bootstrap(200, 20_000, 3, mean(&values)).unwrap());
}

#[test]
fn results_depend_on_the_seed_but_not_on_threads() {
    let values = values(50, 1.0);
    let with_threads = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| bootstrap(50, 999, seed, mean(&values)).unwrap())
    };
    let one = with_threads(1, 42);
    for threads in [2, 3, 8] {
        assert_eq!(with_threads(threads, 42), one);
    }
    assert_ne!(with_threads(1, 43), one);
}

#[test]
fn resamples_without_a_value_are_counted() {
    // With two prompts, one resample in four leaves the first out.
    let first = |weights: &[u32]| (weights[0] > 0).then_some(f64::from(weights[0]));
    let interval = bootstrap(2, 20_000, 1, first).unwrap();
    assert_eq!((interval.lo, interval.hi, interval.resamples), (1.0, 2.0, 20_000));
    assert_relative_eq!(interval.none_share, 0.25, epsilon = 0.015);
    let nan = bootstrap(2, 20_000, 1, |weights| Some(first(weights).unwrap_or(f64::NAN))).unwrap();
    assert_eq!(nan, interval);
}

#[test]
fn refusals_name_the_cause() {
    let some = |_: &[u32]| Some(1.0);
    for prompts in [0, 1] {
        let error = bootstrap(prompts, 10, 0, some).unwrap_err();
        assert_eq!(error, BootstrapError::TooFewPrompts { prompts });
        assert!(error.to_string().contains("at least two prompts"));
    }
    for resamples in [0, MAX_RESAMPLES + 1, usize::MAX] {
        assert_eq!(bootstrap(2, resamples, 0, some), Err(BootstrapError::Resamples { resamples }));
    }
    assert_eq!(bootstrap(5, 10, 0, |_| None), Err(BootstrapError::NothingFound { resamples: 10 }));
    assert_eq!(bootstrap(5, 10, 0, some).map(|found| [found.lo, found.hi]), Ok([1.0, 1.0]));
}
