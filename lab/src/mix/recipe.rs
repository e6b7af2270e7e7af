//! Problems, decoder, steps and mixtures.

use super::arithmetic::longest;
use crate::recipe;
use crate::settings::{self, check_list};
use anyhow::{Result, bail};
use fathom_laws::mixture::Controller;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A comparison of fixed mixtures with one that is controlled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recipe {
    /// The name.
    pub name: String,
    /// The seeds of weights, problems and samples.
    pub seeds: Vec<u64>,
    /// Weights of short solutions of the fixed mixtures; 0 and 1, which give the controller its bounds, are added.
    pub fixed: Vec<f64>,
    /// The problems.
    #[serde(default)]
    pub problems: Problems,
    /// The decoder.
    pub model: Model,
    /// The steps.
    pub training: Training,
    /// The controller.
    #[serde(default)]
    pub control: Control,
}

/// Sums.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Problems {
    /// The least and the largest number of digits of both numbers.
    pub digits: [u32; 2],
}

impl Default for Problems {
    fn default() -> Self {
        Self { digits: [1, 2] }
    }
}

/// A decoder; its context is that of the longest solution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Model {
    /// The width of the residual stream.
    pub width: usize,
    /// The number of layers.
    pub layers: usize,
    /// The number of attention heads.
    pub heads: usize,
}

/// The steps: AdamW with warm-up and cosine, on fresh problems.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Training {
    /// Their number.
    pub steps: usize,
    /// Problems of a step.
    pub batch: usize,
    /// The largest learning rate.
    #[serde(default = "default_rate")]
    pub learning_rate: f64,
}

fn default_rate() -> f64 {
    2e-3
}

/// The controller of arXiv 2506.02678, and what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Control {
    /// Steps between two measurements.
    pub every: usize,
    /// Problems of the development set.
    pub development: usize,
    /// Problems of the test set, which a trained model is measured on.
    pub test: usize,
    /// How fast weights move (η).
    pub rate: f64,
    /// Twice the least weight (c).
    pub floor: f64,
    /// The temperature at which solutions are sampled.
    pub temperature: f64,
}

impl Default for Control {
    fn default() -> Self {
        let (rate, floor) = (Controller::RATE, Controller::FLOOR);
        Self { every: 100, development: 128, test: 512, rate, floor, temperature: 1.0 }
    }
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// When the file cannot be read; every key that is not understood, all at once; a value that makes no sense, by its key.
    pub fn read(path: &Path) -> Result<Self> {
        settings::read(path, Self::check)
    }

    fn check(&self) -> Result<()> {
        check_list("seeds", &self.seeds)?;
        check_list("fixed", &self.fixed)?;
        if let Some(weight) = self.fixed.iter().find(|weight| !(**weight > 0.0 && **weight < 1.0)) {
            bail!(
                "fixed has {weight}; give weights of short solutions between 0 and 1, which are added themselves"
            );
        }
        let [least, most] = self.problems.digits;
        if !(1 <= least && least <= most && most <= 9) {
            bail!(
                "problems.digits is [{least}, {most}]; give the least and the largest number of digits, from 1 to 9"
            );
        }
        let Control { every, development, test, temperature, .. } = self.control;
        let positive = [
            ("training.steps", self.training.steps),
            ("control.every", every),
            ("control.development", development),
            ("control.test", test),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            bail!("{key} is 0; give at least 1");
        }
        if !(temperature.is_finite() && temperature > 0.0) {
            bail!("control.temperature must be a positive number");
        }
        self.decoder().check()
    }

    /// The decoder and its training as a recipe of `fathom lab lm` has them.
    pub(crate) fn decoder(&self) -> recipe::Recipe {
        let context = longest(self.problems.digits[1]);
        let Model { width, layers, heads } = self.model;
        let model = recipe::Model {
            width,
            layers,
            heads,
            inner: None,
            context,
            tied: true,
            shared_layers: false,
            experts: None,
            experts_per_token: None,
            balance: None,
        };
        let Training { steps, batch, learning_rate } = self.training;
        let training =
            recipe::Training { learning_rate, ..recipe::Training::of(steps * batch * context, batch) };
        let data = recipe::Data::default();
        recipe::Recipe { name: self.name.clone(), seed: 0, data, model, training }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = 'a'\nseeds = [1]\nfixed = [0.5]\n[model]\nwidth = 16\nlayers = 2\nheads = 2\n[training]\nsteps = 5\nbatch = 4\n";

    #[test]
    fn values_that_make_no_sense_are_named() {
        let recipe: Recipe = settings::parse(SMALL).unwrap();
        recipe.check().unwrap();
        assert_eq!((recipe.decoder().steps(), recipe.control.rate, recipe.control.floor), (5, 4.0, 1e-4));
        let refuse = |from, to, part| settings::assert_refused(Recipe::check, SMALL, [from, to], part);
        refuse("[0.5]", "[0.5, 1.0]", "fixed has 1");
        refuse("[0.5]", "[]", "fixed is empty");
        refuse("heads = 2", "heads = 3", "model.width (16)");
        refuse("batch = 4", "batch = 0", "training.batch is 0");
        refuse("[model]", "[problems]\ndigits = [3, 2]\n[model]", "problems.digits is [3, 2]");
        refuse("[model]", "[control]\nevery = 0\n[model]", "control.every is 0");
        refuse("steps = 5", "step = 5\nsteps = 5\nrate = 1", "unknown keys: training.rate, training.step");
    }
}
