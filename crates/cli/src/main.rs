//! `fathom`: how much of a language model's depth does useful work.
//!
//! This crate is wiring: arguments, progress, files and exit codes. What is
//! measured and computed lives in the libraries.

mod args;
mod data;
mod depth;
mod interrupt;
mod measure;
mod models;
mod output;
mod progress;
mod run_file;
mod texts;
mod verify;

use args::{Args, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(threads) = args.threads {
        // Fails only when a pool exists already, which nothing before this line makes.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global();
    }
    let done = match args.command {
        Command::Measure(args) => measure::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Report(args) => output::report(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}
