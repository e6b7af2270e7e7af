//! Effective depth: from curves over layers to one number with its uncertainty.
//!
//! Everything here is a pure function of numbers already measured. The crate
//! loads no model and reads no file; only the bootstrap uses threads, and its
//! result does not depend on their number.
//!
//! - [`Rule`] names a depth rule, [`Thresholds`] holds the thresholds of all rules.
//! - [`Curves`] borrows the curves of the probes; [`depth`] applies one rule to them,
//!   [`all`] every rule whose curves were measured, [`sweep`] one rule at many thresholds.
//! - [`effects`] holds the statistics behind the skip and influence rules.
//! - [`pool`] pools the curves of prompts with a weight per prompt; [`bootstrap`] draws those
//!   weights and gives an interval, [`bootstrap_of`] one for fewer prompts, [`paired`] one for
//!   the difference of two runs on the same prompts. All are built on [`Resampling`].
//!
//! Layers count from 0. A rule without a result gives the reason instead of a number.
//!
//! ```
//! use fathom_depth::{Curves, Rule, Thresholds, bootstrap, depth, pool, with_interval};
//!
//! // Three prompts, four layers: divergence of the lens from the output.
//! let prompts = [[9.0, 8.0, 3.0, 1.0], [8.0, 7.5, 5.0, 0.5], [9.5, 9.0, 2.0, 1.5]];
//! let samples: Vec<_> = prompts.iter().map(|curve| pool::Sample { tokens: 10.0, curve }).collect();
//! let rule = |weights: &[u32]| {
//!     let kl = pool::mean(&samples, weights)?;
//!     let curves = Curves { layers: 4, kl_lens_final: Some(&kl), ..Curves::default() };
//!     Some(depth(Rule::Kl, &curves, &Thresholds::default()))
//! };
//! let measured = rule(&[1, 1, 1]).expect("every curve has four layers");
//! assert_eq!(measured.value, Some(2.0));
//! let interval = bootstrap(3, 1000, 7, |weights| rule(weights)?.value);
//! let measured = with_interval(measured, &interval);
//! assert!(measured.interval.is_some());
//! ```

#![deny(missing_docs)]

mod curves;
mod resample;
mod rules;
mod thresholds;

pub mod effects;
pub mod pool;

pub use curves::Curves;
pub use fathom_results::{Depth, IntervalOf, Rule};
pub use resample::{
    BootstrapError, Correction, Interval, MAX_RESAMPLES, Resampling, bootstrap, bootstrap_of, p_value,
    paired, variance,
};
pub use rules::{all, depth, sweep, with_interval};
pub use thresholds::Thresholds;
