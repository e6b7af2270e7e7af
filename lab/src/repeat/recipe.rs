//! The grid of a study of repeated data.

use crate::recipe::{self, Data, Model};
use crate::settings::{self, check_list};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Sizes, regularisers, numbers of epochs and seeds: a run for each combination, all with the same budget of tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recipe {
    /// The name of the study.
    pub name: String,
    /// The seeds, of weights, order and choice of the unique tokens.
    pub seeds: Vec<u64>,
    /// How often the unique tokens are seen: the budget divided by it is their number.
    pub epochs: Vec<usize>,
    /// Texts; `unique` is what the study sets.
    #[serde(default)]
    pub data: Data,
    /// The decoders by name.
    pub size: BTreeMap<String, Model>,
    /// What is done against overfitting, by name.
    pub regulariser: BTreeMap<String, Regulariser>,
    /// The steps; dropout is what regularisers set.
    pub training: recipe::Training,
    /// What is measured of the trained models.
    #[serde(default)]
    pub measure: Measure,
}

/// What is done against overfitting. What is absent is as in `training`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Regulariser {
    /// The share of activations that are dropped.
    pub dropout: f64,
    /// The epoch from which on they are, counted from 0.
    pub dropout_from: usize,
    /// The step from which on they are, counted from 0.
    pub dropout_from_step: usize,
    /// Weight decay.
    pub weight_decay: Option<f64>,
    /// Label smoothing.
    pub label_smoothing: Option<f64>,
}

/// How `fathom measure` measures the trained models on held-out texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Measure {
    /// The number of texts; 0 measures nothing.
    pub texts: usize,
    /// The probes.
    pub probes: String,
}

impl Default for Measure {
    fn default() -> Self {
        Self { texts: 32, probes: "clean".to_owned() }
    }
}

/// A run of the grid.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cell {
    pub(crate) size: String,
    pub(crate) regulariser: String,
    pub(crate) epochs: usize,
    pub(crate) recipe: recipe::Recipe,
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
        check_list("epochs", &self.epochs)?;
        if self.epochs.contains(&0) {
            bail!("epochs has 0; give at least 1");
        }
        if self.data.unique.is_some() {
            bail!("data.unique is what the study sets: training.tokens divided by each of epochs");
        }
        let training = &self.training;
        if training.dropout > 0.0 || training.dropout_from > 0 || training.dropout_from_step > 0 {
            bail!("training has dropout; give it to a regulariser, such as [regulariser.dropout]");
        }
        for (key, names) in [("size", self.sizes()), ("regulariser", self.regularisers())] {
            if names.is_empty() {
                bail!("there is no [{key}.NAME]; give at least one");
            }
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if let Some(name) = names.iter().find(|name| name.is_empty() || !name.chars().all(is_plain)) {
                bail!("{key}.{name}: names are of folders; give letters, digits, - and _");
            }
        }
        for cell in self.cells() {
            let what = || format!("size.{}, regulariser.{}", cell.size, cell.regulariser);
            cell.recipe.check().with_context(what)?;
            let unique = cell.recipe.data.unique.unwrap_or(0);
            if unique <= cell.recipe.model.context {
                bail!(
                    "{} epochs of a budget of {} tokens leave {unique} unique tokens, and size.{}.context is {}; give fewer \
                     epochs or a larger training.tokens",
                    cell.epochs,
                    training.tokens,
                    cell.size,
                    cell.recipe.model.context
                );
            }
        }
        Ok(())
    }

    /// The sizes, smallest first.
    pub(crate) fn sizes(&self) -> Vec<&str> {
        let mut sizes: Vec<_> = self.size.iter().collect();
        let weights = |model: &Model| {
            let of_mlp = 3 * model.inner() * model.experts.unwrap_or(1);
            let layers = if model.shared_layers { 1 } else { model.layers };
            layers * model.width * (4 * model.width + of_mlp)
        };
        sizes.sort_by_key(|(_, model)| weights(model));
        sizes.into_iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The regularisers, those without dropout first.
    pub(crate) fn regularisers(&self) -> Vec<&str> {
        let mut all: Vec<_> = self.regulariser.iter().collect();
        all.sort_by(|(_, a), (_, b)| {
            let from = |r: &Regulariser| (r.dropout_from, r.dropout_from_step);
            a.dropout.total_cmp(&b.dropout).then(from(a).cmp(&from(b)))
        });
        all.into_iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The runs: all of the first seed first, so that an unfinished study has a whole grid early.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for seed in &self.seeds {
            for size in self.sizes() {
                for regulariser in self.regularisers() {
                    cells.extend(
                        self.epochs.iter().map(|epochs| self.cell(size, regulariser, *epochs, *seed)),
                    );
                }
            }
        }
        cells
    }

    fn cell(&self, size: &str, regulariser: &str, epochs: usize, seed: u64) -> Cell {
        let of = &self.regulariser[regulariser];
        // One more: each window of a context is followed by a token.
        let data = Data { unique: Some(self.training.tokens / epochs + 1), ..self.data.clone() };
        let training = recipe::Training {
            dropout: of.dropout,
            dropout_from: of.dropout_from,
            dropout_from_step: of.dropout_from_step,
            weight_decay: of.weight_decay.unwrap_or(self.training.weight_decay),
            label_smoothing: of.label_smoothing.unwrap_or(self.training.label_smoothing),
            ..self.training.clone()
        };
        let name = format!("{size}-{regulariser}-epochs{epochs}-seed{seed}");
        let recipe = recipe::Recipe { name, seed, data, model: self.size[size].clone(), training };
        Cell { size: size.to_owned(), regulariser: regulariser.to_owned(), epochs, recipe }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = 'a'\nseeds = [1, 2]\nepochs = [1, 4]\n[size.wide]\nwidth = 32\nlayers = 2\nheads = 2\ncontext = 16\n[size.narrow]\nwidth = 16\nlayers = 2\nheads = 2\ncontext = 16\n[regulariser.dropout]\ndropout = 0.1\n[regulariser.late]\ndropout = 0.1\ndropout-from = 2\nweight-decay = 0.5\n[regulariser.none]\n[training]\ntokens = 640\nbatch = 4\n";

    #[test]
    fn the_grid_is_the_product_of_its_axes() {
        let recipe: Recipe = settings::parse(SMALL).unwrap();
        recipe.check().unwrap();
        assert_eq!(
            (recipe.sizes(), recipe.regularisers()),
            (vec!["narrow", "wide"], vec!["none", "dropout", "late"])
        );
        let cells = recipe.cells();
        assert_eq!(cells.len(), 2 * 2 * 3 * 2);
        assert_eq!(cells[5].recipe.name, "narrow-late-epochs4-seed1");
        let late = &cells[5].recipe;
        assert_eq!((late.data.unique, late.steps(), late.training.weight_decay), (Some(161), 10, 0.5));
        assert_eq!((late.training.dropout, late.training.dropout_from), (0.1, 2));
        assert_eq!((cells[0].recipe.training.dropout, cells[0].recipe.training.weight_decay), (0.0, 0.1));
    }

    #[test]
    fn values_that_make_no_sense_are_named() {
        let refuse = |from, to, part| settings::assert_refused(Recipe::check, SMALL, [from, to], part);
        refuse("[1, 4]", "[1, 0]", "epochs has 0");
        refuse("[1, 4]", "[1, 64]", "64 epochs of a budget of 640 tokens leave 11 unique tokens");
        refuse("batch = 4", "batch = 4\ndropout = 0.1", "training has dropout");
        refuse("[training]", "[data]\nunique = 5\n[training]", "data.unique is what the study sets");
        refuse("[size.wide]", "[size.'a/b']", "size.a/b");
        refuse(
            "dropout-from = 2",
            "dropout-form = 2\ndrop = 1",
            "regulariser.late.drop, regulariser.late.dropout-form",
        );
        refuse(
            "dropout = 0.1\n[",
            "dropout = 1.1\n[",
            "size.narrow, regulariser.dropout: training.dropout is 1.1",
        );
    }
}
