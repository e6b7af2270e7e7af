//! Effective depths of trained models, by `fathom measure`.

use super::recipe::Measure;
use anyhow::{Context, Result, bail};
use fathom_results::Folder;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a rule says of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Depth {
    /// The rule.
    pub rule: String,
    /// The effective depth; none where the rule finds none.
    pub value: Option<f64>,
    /// The share of the layers that it counts as used.
    pub ratio: Option<f64>,
}

/// The program that measures: beside this one, or on PATH.
pub(super) fn program() -> Option<PathBuf> {
    let name = format!("fathom{}", std::env::consts::EXE_SUFFIX);
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = beside.into_iter().chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(&name)).find(|program| program.is_file())
}

/// Measures a checkpoint on held-out texts into a folder, or reads what an earlier run of this left there.
///
/// # Errors
/// When the program fails, with what it said.
pub(super) fn measure(
    program: &Path,
    measure: &Measure,
    [checkpoint, texts, out]: [&Path; 3],
) -> Result<Vec<Depth>> {
    // A finished measurement of the same settings is left as it is by the program itself.
    let mut command = Command::new(program);
    command.arg("measure").arg(checkpoint).arg("--data").arg(texts).arg("-o").arg(out);
    command.args(["--limit", &measure.texts.to_string(), "--probes", &measure.probes, "--json"]);
    command.args(["--threads", &rayon::current_num_threads().to_string()]);
    let done = command.output().with_context(|| format!("cannot run {}", program.display()))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{} measure {} failed: {}", program.display(), checkpoint.display(), said.trim());
    }
    let results = Folder::open(out)?.results()?;
    let depth = |depth: &fathom_results::Depth| Depth {
        rule: depth.rule.name().to_owned(),
        value: depth.value,
        ratio: depth.ratio,
    };
    Ok(results.depth.iter().map(depth).collect())
}
