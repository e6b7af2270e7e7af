//! Measures how much of a language model's depth does useful work.
//!
//! A transformer adds layer after layer to a residual stream, and the later layers often add little. Fathom runs a
//! model over prompts, measures what each layer adds and what the stream would predict at each depth, and turns the
//! curves into effective depths with intervals. This crate is everything the `fathom` program can do:
//!
//! - [`Measurement`] runs probes on a model and writes a results folder; [`Measurement::estimate`] counts beforehand what
//!   that takes.
//! - [`DepthAnalysis`] reads depths off a finished run with other thresholds or by groups of prompts, and
//!   [`RunComparison`] compares runs.
//! - [`Prune`] finds layers that can go, and shows on held-out text what that costs.
//! - [`Exit`] measures at which levels tokens can leave a model, with calibrated thresholds, and whether that pays.
//! - [`LayerMap`] maps the levels of one model to those of another.
//! - [`Grow`] makes a deeper model of a model's layers, and measures both.
//! - [`Fit`] fits a law of depth, data or compute to a table.
//! - [`mix()`] weights training sets by what a development set shows.
//! - [`Study`] measures models on data sets as a file describes, and answers its questions.
//! - [`Verification`] compares a model's numbers with reference values, and bf16 with f32.
//! - [`Bench`] times kernels and probes on this machine.
//! - [`read_prompts`], [`catalogue`], [`describe_model`] and [`short_names`] say what can be measured, and [`report`] draws
//!   the figures and the page of a results folder again.
//!
//! Long operations report to an [`Observer`], which can cancel them, and run on a thread pool of their own. Results are
//! [`Results`], the type of `results.json` (its parts and the samples are in [`results`]); no result depends on the number of threads, on the memory allowed or on how
//! often a run was interrupted.
//!
//! ```no_run
//! use fathom::{Measurement, Silent};
//!
//! let measured = Measurement::new("smollm2-135m").limit(4).out("out").run(&Silent)?;
//! println!("{}", fathom::headline(&measured.results));
//! # Ok::<(), fathom::Error>(())
//! ```
//!
//! The crates below are of use on their own: `fathom-model` (the forward and backward pass in steps), `fathom-probes` (the
//! probes and the planner of edited runs), `fathom-depth` (rules and bootstrap), `fathom-analysis` (comparisons),
//! `fathom-results` (the files) and `fathom-report` (tables, figures, pages).

#![deny(missing_docs)]

mod bench;
mod choices;
mod comparison;
mod device;
mod error;
mod estimate;
mod execute;
mod exit;
mod fit;
mod folders;
mod grow;
mod job;
mod lab;
mod lens;
mod map;
mod measurement;
mod memory;
mod merge;
mod mix;
mod model;
mod objective;
mod observer;
mod prompts;
mod prune;
mod report;
mod resume;
mod run;
mod run_options;
mod run_table;
mod samples_parquet;
mod sequences;
mod shard;
mod study;
mod sublayers;
mod summary;
mod texts;
mod threads;
mod tokenise;
mod verify;

pub use bench::{
    Bench, BenchEvent, BenchReport, Direction, KernelSpeed, Machine, ModelSpeed, Peak, PrefillSpeed,
    ProbeSpeed, Speed,
};
pub use choices::{ChoiceJob, ChoiceScore, ChoiceText, ChoiceTokens};
pub use comparison::RunComparison;
pub use device::{Device, DeviceInfo, devices, instructions};
pub use error::{Error, Result};
pub use estimate::{Estimate, ProbeEstimate};
pub use exit::{Exit, ExitEstimate, ExitOutcome};
pub use fathom_analysis::study::OPTIONS as STUDY_OPTIONS;
pub use fathom_analysis::{
    BaselineComparison, BootstrapOptions, Comparison, Curve, Pairing, StudyDescription, Tables,
};
pub use fathom_data::{
    Choice, ChoiceSet, DEFAULT as DEFAULT_DATA, Entry, Options, Prompt, PromptSet, Rng, catalogue,
};
pub use fathom_laws::mixture;
pub use fathom_model::source::DEFAULT as DEFAULT_MODEL;
pub use fathom_model::{
    Dtype, GGML_TYPES, gguf_architectures, hybrids, mixtures_of_experts, supported as architectures,
};
pub use fathom_report::{
    Style, answer::headline, exit::summary as exit_summary, fit::summary as fit_summary,
    grow::summary as grow_summary, map::summary as map_summary, prune::summary as prune_summary, table,
};
pub use fathom_results as results;
pub use fathom_results::{
    Depth, ExitHead, Exiting, Fitting, GradientSite, GrowMethod, Growing, LawName, Mapping, Objective,
    PathBaseline, Probe, PruneMethod, Pruning, Quadrature, Results, Rule, SkipMode, SkipPart, Uncertainty,
    UnknownRule,
};
pub use fit::{Fit, FitOutcome, FitSchedule, RlResponse};
pub use folders::{DepthAnalysis, GroupDepth};
pub use grow::{Grow, GrowEstimate, Grown, NewNorms};
pub use lab::{LAB_PROGRAM, lab_program};
pub use lens::Lens;
pub use map::{LayerMap, MapEstimate, MapOutcome};
pub use measurement::{Measured, Measurement, bootstrap_options};
pub use merge::{Merge, Merged};
pub use mix::mix;
pub use model::{ExpertsDescription, ModelDescription, ModelSpec, ShortName, describe_model, short_names};
pub use observer::{Observer, Silent, Task, Unit};
pub use prompts::{PromptSpec, read_choices, read_prompts};
pub use prune::{
    ExportFormat, Prune, PruneEstimate, Pruned, Replace, StageEstimate, VerifiedExport, verify_export,
};
pub use report::{
    exit_report, fit_report, grow_report, is_exit, is_fit, is_grown, is_map, is_measurement, is_pruning,
    map_report, prune_report, report,
};
pub use run_table::{RunRow, RunTable};
pub use samples_parquet::write_samples_parquet;
pub use sequences::Crop;
pub use shard::Shard;
pub use study::{
    CellEstimate, CellState, PlannedCell, Scheduler, Study, StudyOutcome, quoted as shell_quoted,
    ranges as cell_ranges,
};
pub use verify::{CurveShift, DepthShift, GoldenRow, Limit, PrecisionReport, Verification};

/// Whether a panic is caught by this library and becomes an [`Error`]: a panic hook should not report it.
pub fn is_panic_caught(panic: &std::panic::PanicHookInfo<'_>) -> bool {
    panic.payload().is::<fathom_kernels::OutOfMemory>()
        || panic.payload().is::<fathom_kernels::backend::DeviceError>()
        || fathom_model::tokenizer::is_guarded()
        || fathom_data::is_guarded()
}
