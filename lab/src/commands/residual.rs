//! `fathom lab residual`

use super::Common;
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::Args as Arguments;
use fathom_lab::residual::{self, Kind, Recipe, Study};

pub(crate) const EXAMPLES: &str = "\
Students of several depths learn what a deep residual network does; the loss of the trained ones is fitted as c / layers^a.
Teachers with independent layers are expected to give an exponent of about 1 (arXiv 2602.05970).

  fathom lab residual studies/lab/residual.toml
  fathom lab residual studies/lab/residual.toml --teacher tied --depths 4,8,16 --seeds 1 --steps 1000 -o quick

A student that was trained is kept, so more depths or seeds can be added later. OUT has residual.csv (which `fathom fit custom`
reads), residual.json and report.html.";

#[derive(Arguments)]
pub(crate) struct Residual {
    #[command(flatten)]
    common: Common,
    /// Teachers of one kind only: independent or tied
    #[arg(long, value_name = "KIND", value_parser = kind)]
    teacher: Option<Kind>,
    /// Other numbers of layers of the students
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    depths: Vec<usize>,
    /// Other seeds
    #[arg(long, value_name = "SEED,..", value_delimiter = ',')]
    seeds: Vec<u64>,
    /// Another number of steps
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
}

fn kind(text: &str) -> Result<Kind> {
    match text {
        "independent" => Ok(Kind::Independent),
        "tied" => Ok(Kind::Tied),
        _ => bail!("give independent or tied"),
    }
}

impl Residual {
    pub(crate) fn run(&self) -> Result<()> {
        let recipe = self.recipe()?;
        let out = self.common.folder(&recipe.name)?;
        let study = residual::study(&recipe, &out, &Device::default(), self.common.overwrite)?;
        if self.common.json {
            println!("{}", serde_json::to_string_pretty(&study)?);
            return Ok(());
        }
        print(&study);
        println!("\n{}\npage: {}", residual::answer(&study), out.join("report.html").display());
        Ok(())
    }

    fn recipe(&self) -> Result<Recipe> {
        let mut recipe = Recipe::read(&self.common.recipe)?;
        if let Some(kind) = self.teacher {
            recipe.teacher.kinds = vec![kind];
        }
        if !self.depths.is_empty() {
            recipe.students.layers.clone_from(&self.depths);
        }
        if !self.seeds.is_empty() {
            recipe.seeds.clone_from(&self.seeds);
        }
        recipe.training.steps = self.steps.unwrap_or(recipe.training.steps);
        recipe.check().context("with the options given")?;
        Ok(recipe)
    }
}

fn print(study: &Study) {
    println!("{:>12} {:>6} {:>8} {:>12} {:>12}", "teacher", "seed", "layers", "loss", "untrained");
    for student in &study.students {
        let setting = &student.setting;
        println!(
            "{:>12} {:>6} {:>8} {:>12.6} {:>12.6}",
            setting.kind.name(),
            setting.seed,
            setting.layers,
            student.loss,
            student.first_loss
        );
    }
}
