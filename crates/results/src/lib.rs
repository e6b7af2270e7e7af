//! The contract between measuring and showing: the types of a results folder and the names in it.
//!
//! A measurement lives in one folder: `run.json` (what was run and how), `results.json` (curves and depths, the
//! type [`Results`]), `samples.jsonl` (one [`Sample`] a prompt), `plots/` and `report.html`. [`Folder`] reads and
//! writes those files. [`Probe`] and [`Rule`] name what can be measured and how a depth is read off the curves.
//!
//! The crate contains no model, no statistics and no drawing. In shapes, L is the number of layers and T the number
//! of tokens; layers count from 0, and level l is the residual stream that enters layer l (level L leaves the last).

#![deny(missing_docs)]

mod depth;
mod error;
mod exit;
mod fit;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
pub mod folder;
mod grow;
mod map;
mod null;
mod objective;
mod probe;
mod probes;
mod prune;
mod results;
mod rule;
mod sample;
pub mod text;
mod validate;
mod version;
mod work;

pub use depth::{
    Depth, IntervalOf, IntervalWidth, OutputLoss, ResampleHistogram, RuleUncertainty, SweepPoint, Uncertainty,
};
pub use error::{Error, Result};
pub use exit::{
    Confidence, EXIT_SCHEMA_VERSION, EpsilonRule, ExitChoice, ExitCosts, ExitExample, ExitHead, ExitLevel,
    ExitLine, ExitMap, ExitMeasured, ExitRule, ExitSample, Exiting, HeadValues, Speculation,
};
pub use fit::{
    Baseline, Environment, FIT_SCHEMA_VERSION, FitData, FitObjective, FitPoint, Fitted, Fitting, HeldOut,
    LawName, Named, Optimal, OptimalTable, Parameter, PartialResiduals, Prediction, Profile, Published,
    Regression, ScanPoint, Starts,
};
pub use folder::{Folder, Lock};
pub use grow::{GROW_SCHEMA_VERSION, GrowMeasured, GrowMethod, GrowNetwork, Growing, LayerOrigin};
pub use map::{BestSources, MAP_SCHEMA_VERSION, MapLine, Mapping};
pub use objective::{MaskedSample, Objective, ObjectiveInfo};
pub use probe::{Probe, UnknownProbe};
pub use probes::*;
pub use prune::{
    Accuracy, Candidate, Choice, Estimated, Exported, LinearMap, Measured, PRUNE_SCHEMA_VERSION, PruneLine,
    PruneMethod, PruneResources, Pruning, SearchStep, TextSet, UnitScores, VariantChoices, VariantScore,
};
pub use results::{DataInfo, FailedPrompt, LensInfo, ModelInfo, Results, SCHEMA_VERSION};
pub use rule::{Rule, RuleKind, UnknownRule};
pub use sample::{QaPair, SAMPLES_VERSION, Sample};
pub use work::{Resources, Work, WorkByProbe};
