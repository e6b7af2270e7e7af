//! The probes: what they measure on each prompt and how prompts are put together.
//!
//! [`measure`] runs a model over prompts and hands out one [`Sample`] a prompt;
//! [`Summary::of`] puts samples together. The summary is a pure function of the
//! samples, so a run that was resumed gives what an uninterrupted one gives.

#![deny(missing_docs)]

pub mod contributions;
pub mod lens;
mod measure;
mod number;
mod probe;
mod sample;
pub mod settling;
pub mod similarity;
mod vector;

pub use measure::{Cost, Costs, Error, Settings, Text, measure};
pub use probe::{Probe, UnknownProbe};
pub use sample::{Sample, Summary};
