//! `fathom`: how much of a language model's depth does useful work.
//!
//! This crate is arguments, progress bars, printing and exit codes. Everything else is in the library `fathom`.

mod args;
mod bench;
mod compare;
mod data;
mod depth;
mod devices;
mod exit;
mod fit;
mod generate;
mod grow;
mod interrupt;
mod lab;
mod map;
mod measure;
mod merge;
mod mix;
mod models;
mod observer;
mod output;
mod prune;
mod report;
mod study;
mod table;
mod verify;

use args::{Args, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    // A panic unwinds to here, so that the exit code is that of every other failure.
    std::panic::catch_unwind(run).unwrap_or(ExitCode::FAILURE)
}

/// Prints a panic in one line, unless a library catches it and makes it an error.
fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    if fathom::is_panic_caught(panic) {
        return;
    }
    // Location and message are on lines of their own.
    let panic = panic.to_string().replace('\n', " ");
    let panic = panic.trim_start_matches("panicked at ");
    output::note(&format!("error: internal error at {panic}; please report it with the command"));
}

fn run() -> ExitCode {
    let args = Args::parse();
    interrupt::listen();
    let threads = args.threads;
    let done = match args.command {
        Command::Lab(args) => match lab::run(&args) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Measure(args) => measure::run(&args, threads),
        Command::Prune(args) => prune::run(&args, threads),
        Command::Exit(args) => exit::run(&args, threads),
        Command::Map(args) => map::run(&args, threads),
        Command::Grow(args) => grow::run(&args, threads),
        Command::Fit(args) => fit::run(&args, threads),
        Command::Mix(args) => mix::run(&args),
        Command::Verify(args) => verify::run(&args, threads),
        Command::Models(args) => models::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Devices => devices::run(),
        Command::Report(args) => report::run(&args),
        Command::Depth(args) => depth::run(&args, threads),
        Command::Compare(args) => compare::run(&args, threads),
        Command::Table(args) => table::run(&args, threads),
        Command::Merge(args) => merge::run(&args, threads),
        Command::Study(args) => study::run(&args, threads),
        Command::Bench(args) => bench::run(&args, threads),
        Command::Generate(what) => generate::run(&what),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            interrupt::exit_code().map_or(ExitCode::FAILURE, ExitCode::from)
        }
    }
}
