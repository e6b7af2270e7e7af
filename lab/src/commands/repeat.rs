//! `fathom lab repeat`

use super::Common;
use anyhow::Result;
use burn::tensor::Device;
use clap::Args as Arguments;
use fathom_lab::repeat::{self, Recipe};

pub(crate) const EXAMPLES: &str = "\
Every run sees the same number of tokens; with more epochs, fewer of them are unique. A run for each size, regulariser, number
of epochs and seed, each a `fathom lab lm` in a folder of its own under OUT/runs, which `fathom measure` then measures on
held-out texts (left out if fathom is neither beside this program nor on PATH).

  fathom lab repeat studies/lab/repeat.toml

A recipe:
  name = \"repeat\"
  seeds = [1, 2, 3]
  epochs = [1, 4, 16]      # unique tokens are training.tokens divided by each
  [size.small]             # as [model] of `fathom lab lm`
  width = 48
  layers = 6
  heads = 2
  context = 128
  [regulariser.none]
  [regulariser.dropout]
  dropout = 0.1
  [regulariser.dropstage]
  dropout = 0.1
  dropout-from = 1         # from the second epoch on; dropout-from-step counts steps
  [training]               # as that of `fathom lab lm`, without dropout
  tokens = 262144
  batch = 8

Repeating the command goes on where an earlier one stopped, and trains only what was added to the recipe. OUT has repeat.csv,
repeat.md, repeat.json and report.html.";

#[derive(Arguments)]
pub(crate) struct Repeat {
    #[command(flatten)]
    common: Common,
}

impl Repeat {
    pub(crate) fn run(&self) -> Result<()> {
        let recipe = Recipe::read(&self.common.recipe)?;
        let out = self.common.folder(&recipe.name)?;
        let study = repeat::study(&recipe, &out, &Device::default(), self.common.overwrite)?;
        if self.common.json {
            println!("{}", serde_json::to_string_pretty(&study)?);
            return Ok(());
        }
        print!("{}", repeat::markdown(&study));
        for note in &study.notes {
            eprintln!("note: {note}");
        }
        println!("\npage: {}", out.join("report.html").display());
        Ok(())
    }
}
