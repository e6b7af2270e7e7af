//! What teachers and students are, and how students are trained.

use crate::settings::{self, check_list};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A study of students of several depths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recipe {
    /// The name of the study.
    pub name: String,
    /// One teacher, and one student of each depth, for each seed.
    pub seeds: Vec<u64>,
    /// The width of the stream, of the layers' inner vectors, and the number of outputs.
    pub size: Size,
    /// The teachers.
    pub teacher: Teacher,
    /// The students.
    pub students: Students,
    /// The steps.
    pub training: Training,
}

/// Sizes of teacher and students.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Size {
    /// The width of the residual stream.
    pub width: usize,
    /// The inner width of a layer.
    pub inner: usize,
    /// The number of outputs.
    pub outputs: usize,
}

impl Default for Size {
    fn default() -> Self {
        Self { width: 32, inner: 128, outputs: 32 }
    }
}

/// The teachers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Teacher {
    /// Their number of layers.
    pub layers: usize,
    /// Whether layers are independent, tied, or both in turn.
    #[serde(default = "both")]
    pub kinds: Vec<Kind>,
}

/// Whether the layers of a teacher share weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Each layer has weights of its own.
    Independent,
    /// All layers have the same weights.
    Tied,
}

impl Kind {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Independent => "independent",
            Self::Tied => "tied",
        }
    }
}

/// The students.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Students {
    /// Their numbers of layers.
    pub layers: Vec<usize>,
}

/// The steps: Adam on fresh inputs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Training {
    /// Their number.
    pub steps: usize,
    /// Inputs of a step.
    pub batch: usize,
    /// The learning rate.
    #[serde(default = "default_rate")]
    pub learning_rate: f64,
    /// Where it ends, by half a cosine, as a share of the first; 1 for a constant rate.
    #[serde(default = "default_last_rate")]
    pub last_rate: f64,
    /// Inputs that the loss of a trained student is measured on.
    #[serde(default = "default_evaluation")]
    pub evaluation: usize,
}

fn both() -> Vec<Kind> {
    vec![Kind::Independent, Kind::Tied]
}
fn default_rate() -> f64 {
    6e-4
}
fn default_last_rate() -> f64 {
    1.0
}
fn default_evaluation() -> usize {
    4096
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// When the file cannot be read; every key that is not understood, all at once; a value that makes no sense, by its key.
    pub fn read(path: &Path) -> Result<Self> {
        settings::read(path, Self::check)
    }

    /// Refuses values that make no sense.
    ///
    /// # Errors
    /// By the key of the first one.
    pub fn check(&self) -> Result<()> {
        check_list("seeds", &self.seeds)?;
        check_list("teacher.kinds", &self.teacher.kinds)?;
        check_list("students.layers", &self.students.layers)?;
        let positive = [
            ("size.width", self.size.width),
            ("size.inner", self.size.inner),
            ("teacher.layers", self.teacher.layers),
            ("students.layers", *self.students.layers.iter().min().unwrap_or(&0)),
            ("training.steps", self.training.steps),
            ("training.batch", self.training.batch),
            ("training.evaluation", self.training.evaluation),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            bail!("{key} is 0; give at least 1");
        }
        if self.size.outputs < 2 {
            bail!("size.outputs is {}; a softmax needs at least 2", self.size.outputs);
        }
        if !(self.training.learning_rate.is_finite() && self.training.learning_rate > 0.0) {
            bail!("training.learning-rate must be a positive number");
        }
        if !(0.0..=1.0).contains(&self.training.last_rate) {
            bail!("training.last-rate is {}; give a share from 0 to 1", self.training.last_rate);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = 'a'\nseeds = [1, 2]\n[size]\nwidth = 8\n[teacher]\nlayers = 9\n[students]\nlayers = [2, 3]\n[training]\nsteps = 5\nbatch = 4\n";

    #[test]
    fn values_that_make_no_sense_are_named() {
        let recipe: Recipe = settings::parse(SMALL).unwrap();
        recipe.check().unwrap();
        assert_eq!((recipe.size.inner, recipe.teacher.kinds.len()), (128, 2));
        let refuse = |from, to, part| settings::assert_refused(Recipe::check, SMALL, [from, to], part);
        refuse("[1, 2]", "[]", "seeds is empty");
        refuse("[1, 2]", "[1, 1]", "seeds has 1 twice");
        refuse("[2, 3]", "[2, 0]", "students.layers is 0");
        refuse("width = 8", "widht = 8\noutput = 3", "unknown keys: size.output, size.widht");
        refuse("width = 8", "outputs = 1", "size.outputs is 1");
        refuse("batch = 4", "batch = 4\nlast-rate = 2.0", "training.last-rate is 2");
        refuse("layers = 9", "layers = 9\nkinds = ['tide']", "tide");
    }
}
