//! A finished cell of a study: one model on one data set.

use crate::Error;
use crate::curves::{BootstrapOptions, PromptCurves, rows_of};
use fathom_depth::Depth;
use fathom_results::Sample;

/// A finished cell, without per-token values.
#[derive(Clone, Debug, PartialEq)]
pub struct FinishedCell {
    /// The curves of its prompts.
    pub curves: PromptCurves,
    /// Its depth table.
    pub depth: Vec<Depth>,
}

impl FinishedCell {
    /// A cell from its samples and its model's number of layers. With the options of the
    /// measurement, its depth table is that of results.json.
    ///
    /// # Errors
    /// As [`PromptCurves::of`].
    pub fn of(samples: &[Sample], layers: usize, options: &BootstrapOptions) -> Result<Self, Error> {
        Ok(Self::of_curves(PromptCurves::of(samples, layers)?, options))
    }

    /// The cell with these curves.
    pub fn of_curves(curves: PromptCurves, options: &BootstrapOptions) -> Self {
        let depth = rows_of(&curves, options);
        Self { curves, depth }
    }
}
