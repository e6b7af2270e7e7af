//! `fathom`: how much of a language model's depth does useful work.
//!
//! This crate is wiring: arguments, progress, files and exit codes. What is
//! measured and computed lives in the libraries.

mod args;
mod bench;
mod compare;
mod data;
mod depth;
mod dry_run;
mod interrupt;
mod job;
mod measure;
mod models;
mod output;
mod progress;
mod prompts;
mod run_file;
mod settings;
mod study;
mod texts;
mod verify;

use args::{Args, Command};
use clap::Parser;
use std::process::ExitCode;

/// Bytes of stack of each thread, as many as a main thread has.
const STACK: usize = 8 << 20;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    // A panic unwinds to here, so that the exit code is that of every other failure.
    std::panic::catch_unwind(run).unwrap_or(ExitCode::FAILURE)
}

/// Says in one line what went wrong, unless a library catches the panic and makes it an error.
fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    if fathom_model::tokenizer::is_guarded() || fathom_data::is_guarded() {
        return;
    }
    if let Some(memory) = panic.payload().downcast_ref::<fathom_kernels::OutOfMemory>() {
        let size = bytesize::ByteSize(memory.bytes as u64).display().iec();
        output::note(&format!(
            "error: the system refused {size} of memory; give less to --memory, or take a smaller model"
        ));
        return;
    }
    // Location and message stand on lines of their own.
    let panic = panic.to_string().replace('\n', " ");
    let panic = panic.trim_start_matches("panicked at ");
    output::note(&format!("error: internal error at {panic}; please report it with the command"));
}

fn run() -> ExitCode {
    let args = Args::parse();
    fathom_kernels::retain_freed_memory();
    // 0 stands for as many as there are processors.
    let threads = args.threads.map_or(0, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).stack_size(STACK);
    if let Err(error) = pool.build_global() {
        output::complain(&anyhow::anyhow!("cannot start threads ({error}); give fewer to --threads"));
        return ExitCode::FAILURE;
    }
    interrupt::listen();
    // On a thread of the pool, because one outside would hand every small product over and
    // sleep until it is done.
    let done = rayon::scope(|_| match args.command {
        Command::Measure(args) => measure::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Report(args) => output::report(&args),
        Command::Depth(args) => depth::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Study(args) => study::run(&args),
        Command::Bench(args) => bench::run(&args),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            interrupt::exit_code().map_or(ExitCode::FAILURE, ExitCode::from)
        }
    }
}
