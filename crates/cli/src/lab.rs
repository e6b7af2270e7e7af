//! `fathom lab`: runs the program `fathom-lab`, which is built on its own.

use crate::args::Lab;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Runs it with the same arguments, and ends as it does.
pub(crate) fn run(args: &Lab) -> Result<ExitCode> {
    let name = format!("fathom-lab{}", std::env::consts::EXE_SUFFIX);
    let Some(program) = find(&name) else {
        bail!(
            "{name} is neither beside this program nor on PATH; build it from a checkout with `cargo install --path lab` \
             (Rust 1.95 or later, some minutes)"
        );
    };
    let status = Command::new(&program)
        .args(&args.arguments)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    // A program that a signal ended has no code.
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Beside this program, or on PATH.
fn find(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = own.as_ref().and_then(|own| own.parent()).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = beside.into_iter().chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}
