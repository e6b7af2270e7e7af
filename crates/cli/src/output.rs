//! Printing to stdout and stderr.

use anyhow::{Context, Result};
use fathom::{StageEstimate, Style};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

/// Prints results on stdout. A closed pipe is not an error: its reader has seen what it wanted.
pub(crate) fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("cannot write to standard output"),
    }
}

/// Prints a line on stderr.
pub(crate) fn note(text: &str) {
    // Nothing can be done for a user whose stderr is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints why the program failed.
pub(crate) fn complain(error: &anyhow::Error) {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Errors of the libraries often carry their cause in their own sentence.
        if !text.contains(&cause) {
            text.push_str(&format!(": {cause}"));
        }
    }
    note(&text);
}

/// The style of tables on this stdout.
pub(crate) fn style() -> Style {
    let terminal = std::io::stdout().is_terminal();
    let utf8 = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .filter_map(|v| std::env::var(v).ok())
        .find(|v| !v.is_empty())
        .is_none_or(|v| v.to_lowercase().replace('-', "").contains("utf8"));
    Style {
        unicode: terminal && utf8,
        width: if terminal { usize::from(console::Term::stdout().size().1).clamp(40, 120) } else { 100 },
        colour: terminal && std::env::var_os("NO_COLOR").is_none(),
    }
}

/// What each stage of an operation will take, as lines.
pub(crate) fn stages(stages: &[StageEstimate]) -> String {
    let mut text = format!("{:<13} {:>12} {:>9}\n", "stage", "GMAC", "time");
    for s in stages {
        text.push_str(&format!("{:<13} {:>12.1} {:>9}\n", s.stage, s.macs as f64 / 1e9, duration(s.seconds)));
    }
    text
}

/// Where results are and how long they took, as lines.
pub(crate) fn places(folder: &Path, elapsed: Duration) -> String {
    format!(
        "\nresults: {}\nreport:  {}\ntime:    {:.1} s\n",
        folder.display(),
        folder.join("report.html").display(),
        elapsed.as_secs_f64()
    )
}

/// A time, with the unit that suits it.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 0.95 => format!("{s:.1} s"),
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
