//! Studies of the lab, by the program `fathom-lab`, which is built on its own.

use crate::error::invalid;
use crate::{Error, Observer, Result};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// The name of the program that trains.
pub const LAB_PROGRAM: &str = "fathom-lab";

/// The program that trains: beside this one, or on PATH.
///
/// # Errors
/// [`Error::Invalid`] says how to build it.
pub fn lab_program() -> Result<PathBuf> {
    let name = format!("{LAB_PROGRAM}{}", std::env::consts::EXE_SUFFIX);
    let own = std::env::current_exe().ok();
    let beside = own.as_ref().and_then(|own| own.parent()).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = beside.into_iter().chain(std::env::split_paths(&path));
    match folders.map(|folder| folder.join(&name)).find(|program| program.is_file()) {
        Some(program) => Ok(program),
        None => invalid!(
            "{name} is neither beside this program nor on PATH; build it from a checkout with `cargo install --path lab` \
             (Rust 1.95 or later, some minutes)"
        ),
    }
}

/// A study of the lab into a folder.
pub(crate) struct LabRun {
    command: String,
    recipe: String,
    out: PathBuf,
    threads: Option<usize>,
    overwrite: bool,
}

/// How often it is asked whether to stop.
const PATIENCE: Duration = Duration::from_millis(100);

impl LabRun {
    pub(crate) fn new(command: &str, recipe: &str, out: PathBuf, threads: Option<usize>) -> Self {
        let (command, recipe) = (command.to_owned(), recipe.to_owned());
        Self { command, recipe, out, threads, overwrite: false }
    }

    pub(crate) fn overwrite(self, overwrite: bool) -> Self {
        Self { overwrite, ..self }
    }

    /// Runs it, and passes on what it says.
    ///
    /// # Errors
    /// When the program is missing, or when it fails, with its message; when the observer cancels.
    pub(crate) fn run(&self, observer: &dyn Observer) -> Result<()> {
        let program = lab_program()?;
        let fail = |source| Error::Io { what: format!("cannot run {}", program.display()), source };
        let mut command = Command::new(&program);
        command.arg(&self.command).arg(&self.recipe).arg("-o").arg(&self.out);
        command.args(self.overwrite.then_some("--overwrite"));
        command.args(self.threads.map(|threads| format!("--threads={threads}")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(fail)?;
        observer.cancellable(true);
        let said = listen(&mut child, observer);
        observer.cancellable(false);
        let status = child.wait().map_err(fail)?;
        match (said, status.success()) {
            (None, _) => {
                Err(Error::Cancelled("the lab was interrupted; the same command goes on".to_owned()))
            }
            (Some(_), true) => Ok(()),
            (Some(said), false) if said.is_empty() => invalid!("{} ended with {status}", program.display()),
            (Some(said), false) => invalid!("{said}"),
        }
    }
}

/// Passes on warnings and notes until the program closes its output; gives its error, or `None` where it was stopped.
fn listen(child: &mut Child, observer: &dyn Observer) -> Option<String> {
    let lines = child.stderr.take().map(lines);
    let mut error = String::new();
    loop {
        if observer.is_cancelled() {
            // It may have ended by itself.
            let _ = child.kill();
            return None;
        }
        let line = match lines.as_ref().map(|lines| lines.recv_timeout(PATIENCE)) {
            Some(Ok(line)) => line,
            Some(Err(RecvTimeoutError::Timeout)) => continue,
            Some(Err(RecvTimeoutError::Disconnected)) | None => return Some(error),
        };
        if let Some(first) = line.strip_prefix("error: ") {
            error.push_str(first);
        } else if !error.is_empty() {
            error.push('\n');
            error.push_str(&line);
        } else if let Some(warning) = line.strip_prefix("warning: ") {
            observer.warn(warning);
        } else if !line.trim().is_empty() {
            observer.note(line.strip_prefix("note: ").unwrap_or(&line));
        }
    }
}

/// The lines of an output as they come.
fn lines(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            if sender.send(line).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    receiver
}
