//! `fathom-lab`: small trainings that test what depth does.

mod commands;

use anyhow::Result;
use clap::{Parser, Subcommand};
use commands::{lm, mix, repeat, residual, rl};
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

  fathom lab lm studies/lab/tiny.toml             a small decoder; its checkpoints are models for `fathom measure`
  fathom lab residual studies/lab/residual.toml   how loss falls with depth: students of a deep teacher
  fathom lab repeat studies/lab/repeat.toml       what repeated data do to loss and depth
  fathom lab mix studies/lab/mix.toml             short and long solutions: fixed mixtures against a controlled one
  fathom lab rl studies/lab/rl.toml               agents: steps to a return, by critic size and updates per step

Every run has a folder with its numbers and a page. The same command goes on where an earlier one stopped.";

#[derive(Subcommand)]
enum Command {
    /// Train a small decoder as a recipe says
    #[command(after_long_help = lm::EXAMPLES)]
    Lm(lm::Lm),
    /// Train decoders on short and long solutions of sums, in fixed mixtures and in a controlled one
    #[command(after_long_help = mix::EXAMPLES)]
    Mix(mix::Mix),
    /// Train decoders on data that are repeated more and more, with and without dropout
    #[command(after_long_help = repeat::EXAMPLES)]
    Repeat(repeat::Repeat),
    /// Train students of several depths on a deep teacher, and fit their loss against depth
    #[command(after_long_help = residual::EXAMPLES)]
    Residual(residual::Residual),
    /// Train agents over a grid of critic size, updates per step and batch size, and fit the steps to a return
    #[command(after_long_help = rl::EXAMPLES)]
    Rl(rl::Rl),
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
        Command::Mix(mix) => mix.run(),
        Command::Repeat(repeat) => repeat.run(),
        Command::Residual(residual) => residual.run(),
        Command::Rl(rl) => rl.run(),
    }
}
