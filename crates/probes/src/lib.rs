//! The probes: what they measure on each prompt and how prompts are put together.
//!
//! [`measure`] runs a model over prompts and hands out one [`Sample`] a prompt;
//! [`Summary::of`] puts samples together. The summary is a pure function of the
//! samples, so a run that was resumed gives what an uninterrupted one gives.

#![deny(missing_docs)]

pub mod contributions;
mod cost;
pub mod erasure;
pub mod gradients;
pub mod lens;
mod measure;
mod number;
mod plan;
pub mod planner;
mod probe;
mod sample;
mod settings;
pub mod settling;
pub mod similarity;
pub mod skip;
mod text;
mod vector;
mod way;

pub use cost::{Cost, Costs, Counted, Work, add, count};
pub use measure::{Error, Watch, baseline_work, measure, measure_pairs};
pub use plan::{Plan, Plans, join, limits, plan, plan_pairs};
pub use probe::{Probe, UnknownProbe};
pub use sample::{SAMPLES_VERSION, Sample, Summary};
pub use settings::Settings;
pub use text::{Asked, Pair, Text, predicting};
pub use way::{Limits, TooLittle, Way};
