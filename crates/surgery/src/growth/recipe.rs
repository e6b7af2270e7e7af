//! Which layers a grown model has.

use fathom_results::{GrowMethod, LayerOrigin};
use std::fmt::Write;

/// The most layers of a grown model.
const MOST: usize = 1 << 14;

/// Numbers that a message lists.
const LISTED: usize = 12;

/// How deep a model is to become, and where it grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The method.
    pub method: GrowMethod,
    /// The number of layers, N.
    pub layers: usize,
    /// For interpolate and lesa: layers that a new one follows, one for each, in any order. The last ones that have a
    /// neighbour behind them, unless set.
    pub insert: Option<Vec<usize>>,
    /// For midas and lidas: layers of a block, b. The largest that reaches N, unless set.
    pub block: Option<usize>,
}

/// Why a model cannot grow as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRecipe(String);

fn refuse<T>(what: impl Into<String>) -> Result<T, InvalidRecipe> {
    Err(InvalidRecipe(what.into()))
}

impl Recipe {
    /// A recipe without options.
    pub fn new(method: GrowMethod, layers: usize) -> Self {
        Self { method, layers, insert: None, block: None }
    }

    /// The layers of the grown model of a source of `depth` layers, from the first.
    ///
    /// # Errors
    /// When the method cannot reach N from there, in which case the message names numbers that it can, or an option is not
    /// one of the method.
    pub fn origins(&self, depth: usize) -> Result<Vec<LayerOrigin>, InvalidRecipe> {
        let n = self.layers;
        if n <= depth {
            return refuse(format!(
                "the model has {depth} layers already, so {n} are not more; give --layers from {} up, or make it shallower \
                 with `fathom prune`",
                depth + 1
            ));
        }
        if n > MOST {
            return refuse(format!("{n} layers are more than any model has; give at most {MOST}"));
        }
        self.refuse_foreign_options()?;
        match self.method {
            GrowMethod::Solar => self.solar(depth),
            GrowMethod::LlamaPro => self.llama_pro(depth),
            GrowMethod::Interpolate | GrowMethod::Lesa => self.between(depth),
            GrowMethod::Midas | GrowMethod::Lidas => self.blocks(depth),
        }
    }

    fn refuse_foreign_options(&self) -> Result<(), InvalidRecipe> {
        let name = self.method.name();
        let between = matches!(self.method, GrowMethod::Interpolate | GrowMethod::Lesa);
        let blocks = matches!(self.method, GrowMethod::Midas | GrowMethod::Lidas);
        if self.insert.is_some() && !between {
            return refuse(format!("{name} has its own places; --insert is for interpolate and lesa"));
        }
        if self.block.is_some() && !blocks {
            return refuse(format!("{name} knows no blocks; --block is for midas and lidas"));
        }
        Ok(())
    }

    /// The refusal of N, with numbers of layers that are reached.
    fn out_of_reach(&self, depth: usize, why: &str, reached: impl Iterator<Item = usize>) -> InvalidRecipe {
        let mut numbers: Vec<usize> = reached.collect();
        numbers.sort_unstable();
        let mut text =
            format!("{} cannot make {} layers of {depth}: {why}; ", self.method.name(), self.layers);
        match &numbers[..] {
            [] if self.block.is_some() => text.push_str("leave out --block or choose another method"),
            [] => text.push_str("choose another method"),
            numbers => {
                // Those around N say more than the first ones.
                let at = numbers.partition_point(|n| *n < self.layers);
                let from = at.saturating_sub(LISTED / 2).min(numbers.len().saturating_sub(LISTED));
                let shown: Vec<String> = numbers[from..].iter().take(LISTED).map(usize::to_string).collect();
                let more = if shown.len() < numbers.len() { ", among others" } else { "" };
                let _ = write!(text, "it reaches {}{more}", shown.join(", "));
            }
        }
        InvalidRecipe(text)
    }

    /// Layers 0..L-m, then m..L, with N = 2 (L - m).
    fn solar(&self, depth: usize) -> Result<Vec<LayerOrigin>, InvalidRecipe> {
        let n = self.layers;
        if !n.is_multiple_of(2) || n > 2 * depth {
            let why = "both copies have the same number of layers, at most all";
            let reached = (depth + 1..=2 * depth).filter(|n| n.is_multiple_of(2));
            return Err(self.out_of_reach(depth, why, reached));
        }
        Ok(overlapping(depth, depth - n / 2))
    }

    /// After every L / (N - L) layers a copy of the last one that adds nothing.
    fn llama_pro(&self, depth: usize) -> Result<Vec<LayerOrigin>, InvalidRecipe> {
        let new = self.layers - depth;
        if new > depth || !depth.is_multiple_of(new) {
            let why = "the number of new layers must divide that of the model's";
            let reached = (1..=depth).filter(|new| depth.is_multiple_of(*new)).map(|new| depth + new);
            return Err(self.out_of_reach(depth, why, reached));
        }
        let group = depth / new;
        let origins = (0..depth).flat_map(|layer| {
            let silent = (layer + 1).is_multiple_of(group).then_some(LayerOrigin::Silent { layer });
            std::iter::once(LayerOrigin::Copy { layer }).chain(silent)
        });
        Ok(origins.collect())
    }

    /// New layers between neighbours.
    fn between(&self, depth: usize) -> Result<Vec<LayerOrigin>, InvalidRecipe> {
        let (new, gaps) = (self.layers - depth, depth.saturating_sub(1));
        if new > gaps {
            let why = "one layer fits between two neighbours";
            return Err(self.out_of_reach(depth, why, (depth + 1..=depth + gaps).rev()));
        }
        let after = match &self.insert {
            None => (gaps - new..gaps).collect(),
            Some(insert) => self.checked_places(insert, gaps)?,
        };
        let origins = (0..depth).flat_map(|layer| {
            let layers = [layer, layer + 1];
            let made = match self.method {
                GrowMethod::Lesa => LayerOrigin::Predicted { layers },
                _ => LayerOrigin::Mean { layers },
            };
            let made = after.binary_search(&layer).is_ok().then_some(made);
            std::iter::once(LayerOrigin::Copy { layer }).chain(made)
        });
        Ok(origins.collect())
    }

    /// The user's places, ascending.
    fn checked_places(&self, insert: &[usize], gaps: usize) -> Result<Vec<usize>, InvalidRecipe> {
        let mut places = insert.to_vec();
        places.sort_unstable();
        if let Some(pair) = places.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse(format!("--insert names layer {} twice; one new layer fits behind each", pair[0]));
        }
        if let Some(layer) = places.last().filter(|layer| **layer >= gaps) {
            return refuse(format!(
                "--insert: layer {layer} has no neighbour behind it; give layers from 0 to {}",
                gaps - 1
            ));
        }
        let wanted = self.layers - (gaps + 1);
        match places.len() == wanted {
            true => Ok(places),
            false => refuse(format!(
                "--insert names {} places and --layers {} asks for {wanted} new layers; give as many places",
                places.len(),
                self.layers
            )),
        }
    }

    /// Blocks of b layers around the middle, one after the other until N is reached.
    fn blocks(&self, depth: usize) -> Result<Vec<LayerOrigin>, InvalidRecipe> {
        let Some(block) = self.block_for(depth, self.layers) else {
            let why = match self.method {
                GrowMethod::Lidas => {
                    "a block must have an even number of layers, divide the new layers, and divide the model into two or \
                     more blocks"
                }
                _ => "a block must divide both the model and the new layers",
            };
            let reached = (depth + 1..=2 * depth).filter(|n| self.block_for(depth, *n).is_some());
            return Err(self.out_of_reach(depth, why, reached));
        };
        let mut layers: Vec<usize> = (0..depth).collect();
        while layers.len() < self.layers {
            let end = block * (layers.len() / block).div_ceil(2);
            let start = if self.method == GrowMethod::Lidas { end - block / 2 } else { end - block };
            let copy = layers[start..start + block].to_vec();
            layers.splice(end..end, copy);
        }
        Ok(layers.into_iter().map(|layer| LayerOrigin::Copy { layer }).collect())
    }
}

impl Recipe {
    /// Layers of a block that reach `n` layers: the one that was set, or the largest.
    fn block_for(&self, depth: usize, n: usize) -> Option<usize> {
        let divides = |b: &usize| *b > 0 && depth.is_multiple_of(*b) && (n - depth).is_multiple_of(*b);
        let halves = |b: &usize| b.is_multiple_of(2) && depth >= 2 * b;
        let fits = |b: &usize| divides(b) && (self.method != GrowMethod::Lidas || halves(b));
        match self.block {
            Some(block) => Some(block).filter(fits),
            None => (1..=depth).rev().find(fits),
        }
    }
}

/// Layers 0..L-m, then m..L.
fn overlapping(depth: usize, m: usize) -> Vec<LayerOrigin> {
    (0..depth - m).chain(m..depth).map(|layer| LayerOrigin::Copy { layer }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(recipe: &Recipe, depth: usize) -> Vec<usize> {
        recipe.origins(depth).unwrap().into_iter().map(LayerOrigin::source).collect()
    }

    fn words(recipe: &Recipe, depth: usize) -> String {
        let origins = recipe.origins(depth).unwrap();
        origins.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    #[track_caller]
    fn refused(recipe: &Recipe, depth: usize, sentence: &str) {
        let message = recipe.origins(depth).unwrap_err().to_string();
        assert!(message.contains(sentence), "{message}");
    }

    #[test]
    fn solar_overlaps_two_copies() {
        let solar = |n| Recipe::new(GrowMethod::Solar, n);
        assert_eq!(layers(&solar(8), 6), [0, 1, 2, 3, 2, 3, 4, 5]);
        // The published model: 32 layers to 48, m = 8.
        assert_eq!(layers(&solar(48), 32), (0..24).chain(8..32).collect::<Vec<_>>());
        assert_eq!(layers(&solar(12), 6), (0..6).chain(0..6).collect::<Vec<_>>());
        // Copies that do not overlap are the model itself.
        let identity: Vec<usize> = overlapping(6, 3).into_iter().map(LayerOrigin::source).collect();
        assert_eq!(identity, [0, 1, 2, 3, 4, 5]);
        refused(&solar(9), 6, "cannot make 9 layers of 6: both copies have the same number");
        refused(&solar(14), 6, "it reaches 8, 10, 12");
    }

    #[test]
    fn llama_pro_adds_silent_copies_at_even_distances() {
        let grown = Recipe::new(GrowMethod::LlamaPro, 9);
        assert_eq!(words(&grown, 6), "0, 1, 1 silent, 2, 3, 3 silent, 4, 5, 5 silent");
        assert_eq!(words(&Recipe::new(GrowMethod::LlamaPro, 4), 2), "0, 0 silent, 1, 1 silent");
        refused(&Recipe::new(GrowMethod::LlamaPro, 10), 6, "it reaches 7, 8, 9, 12");
    }

    #[test]
    fn new_layers_lie_between_neighbours() {
        let mut recipe = Recipe::new(GrowMethod::Interpolate, 6);
        assert_eq!(words(&recipe, 4), "0, 1, mean of 1 and 2, 2, mean of 2 and 3, 3");
        recipe.insert = Some(vec![2, 0]);
        assert_eq!(words(&recipe, 4), "0, mean of 0 and 1, 1, 2, mean of 2 and 3, 3");
        recipe.insert = Some(vec![2, 2]);
        refused(&recipe, 4, "names layer 2 twice");
        recipe.insert = Some(vec![0, 3]);
        refused(&recipe, 4, "layer 3 has no neighbour behind it; give layers from 0 to 2");
        recipe.insert = Some(vec![0]);
        refused(&recipe, 4, "names 1 places and --layers 6 asks for 2 new layers");
        refused(&Recipe::new(GrowMethod::Interpolate, 8), 4, "it reaches 5, 6, 7");
        refused(&Recipe::new(GrowMethod::Interpolate, 2), 1, "choose another method");
        // The paper's example: one layer behind each of the layers 15 to 30.
        let lesa = Recipe::new(GrowMethod::Lesa, 48).origins(32).unwrap();
        let predicted: Vec<LayerOrigin> =
            lesa.into_iter().filter(|o| matches!(o, LayerOrigin::Predicted { .. })).collect();
        let wanted = (15..31).map(|i| LayerOrigin::Predicted { layers: [i, i + 1] });
        assert_eq!(predicted, wanted.collect::<Vec<_>>());
    }

    #[test]
    fn blocks_are_copied_around_the_middle() {
        let midas = |n, block| Recipe { block, ..Recipe::new(GrowMethod::Midas, n) };
        let lidas = |n, block| Recipe { block, ..Recipe::new(GrowMethod::Lidas, n) };
        // Four blocks of two: the second is copied, or the layers around its end.
        assert_eq!(layers(&midas(10, None), 8), [0, 1, 2, 3, 2, 3, 4, 5, 6, 7]);
        assert_eq!(layers(&lidas(10, None), 8), [0, 1, 2, 3, 3, 4, 4, 5, 6, 7]);
        // Three blocks of two: the middle one.
        assert_eq!(layers(&midas(8, None), 6), [0, 1, 2, 3, 2, 3, 4, 5]);
        assert_eq!(layers(&lidas(8, None), 6), [0, 1, 2, 3, 3, 4, 4, 5]);
        // In two steps of two; the second has five blocks.
        assert_eq!(layers(&midas(12, Some(2)), 8), [0, 1, 2, 3, 2, 3, 2, 3, 4, 5, 6, 7]);
        // In one step of four, unless set.
        assert_eq!(layers(&midas(12, None), 8), [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(layers(&lidas(12, None), 8), [0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7]);
        refused(&lidas(9, None), 8, "it reaches 10, 12, 14, 16");
        refused(&midas(9, Some(2)), 8, "it reaches 10, 12, 14, 16");
        refused(&midas(9, Some(0)), 8, "leave out --block or choose another method");
        refused(&midas(9, Some(3)), 8, "leave out --block or choose another method");
    }

    #[test]
    fn bad_numbers_and_foreign_options_are_refused() {
        refused(&Recipe::new(GrowMethod::Solar, 6), 6, "has 6 layers already, so 6 are not more");
        refused(&Recipe::new(GrowMethod::Midas, 1 << 20), 6, "more than any model has");
        let recipe = Recipe { insert: Some(vec![1]), ..Recipe::new(GrowMethod::Solar, 8) };
        refused(&recipe, 6, "--insert is for interpolate and lesa");
        let recipe = Recipe { block: Some(2), ..Recipe::new(GrowMethod::Lesa, 8) };
        refused(&recipe, 6, "--block is for midas and lidas");
    }
}
