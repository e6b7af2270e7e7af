//! The probes, which measure each prompt, and the summary over all prompts.
//!
//! [`measure`] runs a model over prompts and passes on one [`Sample`] per prompt; [`summarise`] combines samples. The
//! summary is a pure function of the samples, so a resumed run gives the results of an uninterrupted one. Probes that
//! edit runs state requests to the [`planner`], which shares common work.

#![deny(missing_docs)]

pub mod angles;
pub mod contributions;
mod cost;
pub mod erasure;
mod exec;
pub mod experts;
pub mod gradients;
pub mod lens;
mod lens_maps;
mod measure;
mod number;
mod one_at_a_time;
mod options;
pub mod order;
mod plan;
pub mod planner;
pub mod settling;
pub mod similarity;
pub mod skip;
mod summary;
mod tokenized;
mod vector;

pub use cost::{Cost, Costs, add, peak_bytes};
pub use exec::{ExecOptions, InsufficientMemory, MemoryPlan};
pub use fathom_results::{Probe, Sample, Work};
pub use gradients::GradientOptions;
pub use lens_maps::{LensMaps, LevelMap};
pub use measure::{Error, Observer, baseline_work, measure, measure_pairs, measure_through};
pub use options::ProbeOptions;
pub use plan::{Plan, Plans, join, memory_plan, plan, plan_pairs};
pub use skip::SkipOptions;
pub use summary::summarise;
pub use tokenized::{Masked, Targets, TokenizedPair, TokenizedPrompt, predicting};
