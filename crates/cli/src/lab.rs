//! `fathom lab`: runs the program `fathom-lab`, which is built on its own.

use crate::args::Lab;
use anyhow::{Context, Result};
use std::process::{Command, ExitCode};

/// Runs it with the same arguments, and ends as it does.
pub(crate) fn run(args: &Lab) -> Result<ExitCode> {
    let program = fathom::lab_program()?;
    let mut command = Command::new(&program);
    command.args(&args.arguments);
    run_in_place(command).with_context(|| format!("cannot run {}", program.display()))
}

/// Becomes the program, which so receives signals that are sent to this one.
#[cfg(unix)]
fn run_in_place(mut command: Command) -> std::io::Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    Err(command.exec())
}

#[cfg(not(unix))]
fn run_in_place(mut command: Command) -> std::io::Result<ExitCode> {
    let status = command.status()?;
    // A program that a signal ended has no code.
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
