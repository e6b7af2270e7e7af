//! `fathom lab mix`

use super::Common;
use anyhow::Result;
use burn::tensor::Device;
use clap::Args as Arguments;
use fathom_lab::mix::{self, Recipe};

pub(crate) const EXAMPLES: &str = "\
A decoder learns sums from short solutions (the answer) and long ones (digit by digit, with carries). Fixed mixtures of both are
compared with one whose weights `fathom mix`'s controller sets every few steps, from the length and the accuracy of sampled
solutions of a development set (arXiv 2506.02678). Its bounds are what training on short or on long solutions alone leads to.

  fathom lab mix studies/lab/mix.toml

Finished runs are kept, so more seeds or mixtures can be added later. OUT has mix.csv (every measurement), mix.md, mix.json and
report.html.";

#[derive(Arguments)]
pub(crate) struct Mix {
    #[command(flatten)]
    common: Common,
}

impl Mix {
    pub(crate) fn run(&self) -> Result<()> {
        let recipe = Recipe::read(&self.common.recipe)?;
        let out = self.common.folder(&recipe.name)?;
        let study = mix::study(&recipe, &out, &Device::default(), self.common.overwrite)?;
        if self.common.json {
            println!("{}", serde_json::to_string_pretty(&study)?);
            return Ok(());
        }
        print!("{}", mix::markdown(&study));
        println!("\npage: {}", out.join("report.html").display());
        Ok(())
    }
}
