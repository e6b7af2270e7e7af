//! The probes: what they measure on each prompt and how prompts are put together.
//!
//! [`measure`] runs a model over prompts and hands out one [`Sample`] a prompt;
//! [`Summary::of`] puts samples together. The summary is a pure function of the
//! samples, so a run that was resumed gives what an uninterrupted one gives.

#![deny(missing_docs)]

pub mod contributions;
pub mod erasure;
pub mod gradients;
pub mod lens;
mod measure;
mod number;
pub mod planner;
mod probe;
mod sample;
pub mod settling;
pub mod similarity;
pub mod skip;
mod vector;

pub use measure::{Cost, Costs, Error, Settings, Text, measure, measure_pairs};
pub use probe::{Probe, UnknownProbe};
pub use sample::{Sample, Summary};
