//! `fathom lab`: runs the program `fathom-lab`, which is built on its own.

use crate::args::Lab;
use anyhow::{Context, Result};
use std::process::{Command, ExitCode};

/// Runs it with the same arguments, and ends as it does.
pub(crate) fn run(args: &Lab) -> Result<ExitCode> {
    let program = fathom::lab_program()?;
    let status = Command::new(&program)
        .args(&args.arguments)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    // A program that a signal ended has no code.
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
