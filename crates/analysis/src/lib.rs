//! Analysis of finished runs: effective depth with its uncertainty, comparisons of two runs, and
//! studies over models and data sets.
//!
//! Everything here is a pure function of the runs' samples and of a study's description. The crate
//! loads no model, opens no file and prints nothing; only resampling uses threads, and its results
//! do not depend on their number.
//!
//! - [`curves`]: the curves of each prompt, the depth rules on any weighting of the prompts, and the
//!   rows of the depth table.
//! - [`stability`]: how the depth depends on the threshold and on the number of prompts.
//! - [`mod@compare`]: two runs, rule by rule and layer by layer.
//! - [`baseline`]: several runs against one.
//! - [`exit`]: leaving a model early, with calibrated thresholds.
//! - [`map`]: the best targets of maps between the levels of two models.
//! - [`study`]: the description of a study, `STUDY.toml`.
//! - [`tables`]: the finished cells of a study as tables, also as Markdown, CSV, LaTeX and JSON.
//! - [`answers`]: the answers to a study's questions.
//!
//! ```
//! use fathom_results::{Sample, SettlingSample};
//! use fathom_analysis::{Pairing, PromptCurves, RunCurves, BootstrapOptions, compare, rows, uncertainty};
//!
//! // Two prompts of two tokens, with the layer at which each token settles.
//! let prompt = |id: &str, layers: [usize; 2]| Sample {
//!     id: id.to_owned(),
//!     tokens: vec![1, 2],
//!     settling: Some(SettlingSample { layers: layers.to_vec() }),
//!     ..Sample::default()
//! };
//! let a = [prompt("x", [2, 2]), prompt("y", [3, 5])];
//! let b = [prompt("x", [4, 4]), prompt("y", [5, 7])];
//! let options = BootstrapOptions::seeded(42);
//! assert_eq!(rows(&a, 8, &options)?[0].value, Some(3.0));
//!
//! let (a, b) = (PromptCurves::of(&a, 8)?, PromptCurves::of(&b, 8)?);
//! assert_eq!(uncertainty(&a, &options).rules[0].by_prompts[0].interval, Some([2.0, 4.0]));
//! let (a, b) = (RunCurves { name: "a", curves: &a }, RunCurves { name: "b", curves: &b });
//! let comparison = compare(a, b, Pairing::Paired, &options)?;
//! // Every token of b settles two layers later, whichever prompts are drawn.
//! assert_eq!(comparison.rules[0].value.and_then(|value| value.interval), Some([2.0, 2.0]));
//! # Ok::<(), fathom_analysis::Error>(())
//! ```

#![deny(missing_docs)]

pub mod answers;
pub mod baseline;
mod cell;
pub mod compare;
pub mod curves;
mod error;
pub mod exit;
mod format;
pub mod map;
mod points;
mod render;
pub mod stability;
pub mod study;
pub mod tables;

pub use baseline::{BaselineComparison, compare_with_baseline};
pub use cell::FinishedCell;
pub use compare::{Comparison, Pairing, RunCurves, compare};
pub use curves::{BootstrapOptions, Curve, PromptCurves, rows};
pub use error::Error;
pub use points::{CurvePoint, points};
pub use render::models_csv;
pub use stability::uncertainty;
pub use study::{StudyDescription, StudyError};
pub use tables::Tables;
