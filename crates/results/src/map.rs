//! The types of `map.json`: affine maps from every level of one model to every level of another.

use crate::folder::MAP;
use crate::{Error, Estimated, ModelInfo, Resources, Result, TextSet, Work, null, version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The newest version of `map.json` that this crate reads and the one it writes.
pub const MAP_SCHEMA_VERSION: u32 = 1;

/// Everything in `map.json`. Matrices are `[source levels][target levels]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mapping {
    /// The version of the format, [`MAP_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The model that is mapped from.
    pub source: ModelInfo,
    /// The model that is mapped to.
    pub target: ModelInfo,
    /// Whether what each layer adds is mapped, instead of the residual stream at each level.
    pub differences: bool,
    /// The texts that maps were fitted to.
    pub fit: TextSet,
    /// The texts that they were measured on.
    pub heldout: TextSet,
    /// The mean over tokens of the mean size of the error, in shares of the mean size of the target.
    #[serde(deserialize_with = "null::matrix")]
    pub relative: Vec<Vec<f64>>,
    /// 1 minus the squared error in shares of the target's spread about its mean.
    #[serde(deserialize_with = "null::matrix")]
    pub r2: Vec<Vec<f64>>,
    /// The mean squared error of an element.
    #[serde(deserialize_with = "null::matrix")]
    pub mse: Vec<Vec<f64>>,
    /// The ridge penalties, in shares of the mean eigenvalue of the Gram matrix.
    #[serde(deserialize_with = "null::matrix")]
    pub penalty: Vec<Vec<f64>>,
    /// For each source level the target level of least relative error; none where no map could be fitted.
    pub best: Vec<Option<usize>>,
    /// The 95 % bootstrap interval of each over texts.
    pub best_interval: Vec<Option<[f64; 2]>>,
    /// The slope of the best target's relative depth on the relative depth of the source.
    pub slope: Estimated,
    /// What that means, in a sentence.
    pub conclusion: String,
    /// The other way round, which results of earlier versions lack.
    #[serde(default)]
    pub sources: Option<BestSources>,
    /// Counted work: `fit`, `measure`.
    pub cost: BTreeMap<String, Work>,
    /// Time and memory by stage: what differs between two runs of the same job.
    pub resources: BTreeMap<String, Resources>,
}

/// From where each target level is predicted best.
///
/// Targets differ in how well anything predicts them, the embedding of the token best of all, so one target can be the best of many
/// sources. Errors of one target do not differ in that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestSources {
    /// For each target level the source level of least relative error; none where no map could be fitted.
    pub best: Vec<Option<usize>>,
    /// The 95 % bootstrap interval of each over texts.
    pub best_interval: Vec<Option<[f64; 2]>>,
    /// The slope of the best source's relative depth on the relative depth of the target.
    pub slope: Estimated,
    /// What that means, in a sentence.
    pub conclusion: String,
}

/// A line of `samples.jsonl` of a mapping: the maps from one source level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapLine {
    /// The source level.
    pub source: usize,
    /// The penalties, by target level.
    #[serde(deserialize_with = "null::numbers")]
    pub penalty: Vec<f64>,
    /// The relative errors, `[target levels][texts]`, sums over tokens.
    #[serde(deserialize_with = "null::matrix")]
    pub relative: Vec<Vec<f64>>,
    /// By target level.
    #[serde(deserialize_with = "null::numbers")]
    pub r2: Vec<f64>,
    /// By target level.
    #[serde(deserialize_with = "null::numbers")]
    pub mse: Vec<f64>,
    /// The work of fitting. What several levels share counts with the first of them.
    pub fit: Work,
    /// The work of measuring.
    pub measure: Work,
}

impl Mapping {
    /// Reads `map.json`.
    ///
    /// # Errors
    /// When the file cannot be read, was written by a later version, or contradicts itself.
    pub fn read(path: &Path) -> Result<Self> {
        let mapping: Self = version::read(path, MAP_SCHEMA_VERSION)?;
        mapping.check()?;
        Ok(mapping)
    }

    /// Levels of the source and of the target.
    pub fn levels(&self) -> [usize; 2] {
        [self.source.layers, self.target.layers].map(|layers| layers + usize::from(!self.differences))
    }

    /// Checks the shapes.
    fn check(&self) -> Result<()> {
        let wrong = |field: &str, problem: &str| {
            Err(Error::Inconsistent { file: MAP, field: field.to_owned(), problem: problem.to_owned() })
        };
        if self.source.layers.max(self.target.layers) > crate::prune::LAYERS {
            return wrong("layers", "is more than any model has");
        }
        let [sources, targets] = self.levels();
        let matrices =
            [("relative", &self.relative), ("r2", &self.r2), ("mse", &self.mse), ("penalty", &self.penalty)];
        for (name, matrix) in matrices {
            if matrix.len() != sources || matrix.iter().any(|row| row.len() != targets) {
                return wrong(name, "is not a row of target levels for each source level");
            }
        }
        let check = |field: &str, best: &[Option<usize>], intervals: usize, [from, to]: [usize; 2]| {
            if best.len() != from || intervals != from {
                return wrong(field, "does not have an entry for each level");
            }
            match best.iter().flatten().any(|best| *best >= to) {
                true => wrong(field, "names a level that the model does not have"),
                false => Ok(()),
            }
        };
        check("best", &self.best, self.best_interval.len(), [sources, targets])?;
        self.sources
            .as_ref()
            .map_or(Ok(()), |of| check("sources.best", &of.best, of.best_interval.len(), [targets, sources]))
    }
}
