//! `fathom lab rl`

use super::Common;
use anyhow::Result;
use clap::Args as Arguments;
use fathom_lab::rl::{self, Recipe};

pub(crate) const EXAMPLES: &str = "\
Agents learn small built-in environments (pendulum, cart-pole, chain) over a grid of critic width and depth, updates per step,
batch size and seed. How soon they reach a return is fitted by the law of arXiv 2508.14881, and the TD error on episodes held
out from the replay buffer says whether larger batches overfit.

  fathom lab rl studies/lab/rl.toml

Finished runs are kept, so more seeds or settings can be added later; a run that was killed begins again, to the same bits. OUT
has rl.csv (which `fathom fit rl` reads), rl-runs.csv, rl.md, rl.json, report.html, and in OUT/runs the learning curves.";

#[derive(Arguments)]
pub(crate) struct Rl {
    #[command(flatten)]
    common: Common,
}

impl Rl {
    pub(crate) fn run(&self) -> Result<()> {
        let recipe = Recipe::read(&self.common.recipe)?;
        let out = self.common.folder(&recipe.name)?;
        let study = rl::study(&recipe, &out, self.common.overwrite)?;
        for warning in &study.times.warnings {
            eprintln!("warning: {warning}");
        }
        if self.common.json {
            println!("{}", serde_json::to_string_pretty(&study)?);
            return Ok(());
        }
        print!("{}", rl::markdown(&study));
        println!("\npage: {}", out.join("report.html").display());
        Ok(())
    }
}
