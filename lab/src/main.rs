//! `fathom-lab`: small trainings that test what depth does.

use anyhow::Result;
use burn::tensor::Device;
use clap::{Args as Arguments, Parser, Subcommand};
use fathom_lab::Recipe;
use fathom_lab::train::train;
use std::path::PathBuf;
use std::process::ExitCode;

/// Small trainings that test what depth does
#[derive(Parser)]
#[command(name = "fathom-lab", bin_name = "fathom lab", version, long_about = LONG, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Threads to use [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

const LONG: &str = "Small trainings that test what depth does: seeded, resumable, on two cores in minutes.

  fathom lab lm studies/lab/tiny.toml       a small decoder; its checkpoints are models for `fathom measure`

Every checkpoint is a Hugging Face folder. The same command goes on where an earlier one stopped.";

#[derive(Subcommand)]
enum Command {
    /// Train a small decoder as a recipe says
    #[command(after_long_help = LM_EXAMPLES)]
    Lm(Lm),
}

const LM_EXAMPLES: &str = "A recipe:
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
struct Lm {
    /// The recipe
    #[arg(value_name = "RECIPE.toml")]
    recipe: PathBuf,
    /// The folder of the run [default: fathom-out/lab/NAME]
    #[arg(short, long, value_name = "OUT")]
    out: Option<PathBuf>,
    /// Delete what an earlier run left in the folder, and begin again
    #[arg(long)]
    overwrite: bool,
    /// Print what was measured as JSON instead of a table
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    if let Some(threads) = args.threads {
        // Before any thread is made.
        rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global()?;
    }
    match &args.command {
        Command::Lm(lm) => lm.run(),
    }
}

impl Lm {
    fn run(&self) -> Result<()> {
        let recipe = Recipe::read(&self.recipe)?;
        let out = self.out.clone().unwrap_or_else(|| PathBuf::from("fathom-out/lab").join(&recipe.name));
        let trained = train(&recipe, &out, &Device::default(), self.overwrite)?;
        if self.json {
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
