//! `fathom lab lm`

use super::Common;
use anyhow::Result;
use burn::tensor::Device;
use clap::Args as Arguments;
use fathom_lab::Recipe;
use fathom_lab::train::train;

pub(crate) const EXAMPLES: &str = "A recipe:
  name = \"tiny\"
  [data]
  texts = \"prose\"          # a prompt set, a file or a folder of text, JSONL or Parquet files
  unique = 65536           # tokens that may be seen; the rest of the budget repeats them
  [model]
  width = 64
  layers = 4
  heads = 4
  context = 128
  [training]
  tokens = 1048576
  batch = 16
  dropout = 0.1";

#[derive(Arguments)]
pub(crate) struct Lm {
    #[command(flatten)]
    common: Common,
}

impl Lm {
    pub(crate) fn run(&self) -> Result<()> {
        let recipe = Recipe::read(&self.common.recipe)?;
        let out = self.common.folder(&recipe.name)?;
        let trained = train(&recipe, &out, &Device::default(), self.common.overwrite)?;
        if self.common.json {
            println!("{}", serde_json::to_string_pretty(&trained.metrics)?);
            return Ok(());
        }
        println!(
            "{:>8} {:>12} {:>6} {:>14} {:>14}",
            "step", "tokens", "epoch", "training loss", "held-out loss"
        );
        for m in &trained.metrics {
            println!(
                "{:>8} {:>12} {:>6} {:>14.4} {:>14.4}",
                m.step, m.tokens, m.epoch, m.training_loss, m.validation_loss
            );
        }
        println!(
            "\n{} parameters\ncheckpoint: {}\nmeasure it: fathom measure {}",
            trained.parameters,
            trained.checkpoint.display(),
            trained.checkpoint.display()
        );
        Ok(())
    }
}
