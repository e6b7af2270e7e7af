//! What an earlier run left in the results folder: continued, or deleted where the user wants that.

use crate::error::invalid;
use crate::{Error, Result, run};
use fathom_probes::{Cost, Costs};
use fathom_results::{Folder, Probe, Sample, folder};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The samples by id, and their costs.
pub(crate) type Earlier = (HashMap<String, Sample>, Costs);

/// The samples that an earlier run of the same kind left in the folder.
pub(crate) fn resume(folder: &Folder, run: &mut Value) -> Result<Earlier> {
    match folder.run()? {
        Some(earlier) => {
            run::check_same(&earlier, run, folder.path())?;
            run::keep_measured(&earlier, run);
        }
        None => refuse_foreign(folder)?,
    }
    let samples = folder.samples()?;
    // A run that was killed left no results and with them no account of its time.
    let resources = match folder.path().join(folder::RESULTS).exists() {
        true => folder.results()?.resources,
        false => Default::default(),
    };
    let cost = |resources| Cost { resources, ..Cost::default() };
    Ok((merged(samples), resources.into_iter().map(|(name, r)| (name, cost(r))).collect()))
}

/// Refuses samples without a run.json: they may not be Fathom's.
pub(crate) fn refuse_foreign(folder: &Folder) -> Result<()> {
    match std::fs::metadata(folder.path().join(folder::SAMPLES)) {
        Ok(file) if file.is_file() && file.len() > 0 => invalid!(
            "{} has samples.jsonl but no run.json that says of what; nothing was changed: choose another folder with -o",
            folder.path().display()
        ),
        _ => Ok(()),
    }
}

/// Removes what an earlier run left, as the user asked.
pub(crate) fn start_anew(folder: &Folder) -> Result<Earlier> {
    if folder.run()?.is_none() {
        refuse_foreign(folder)?;
    }
    crate::prune::remove_earlier_export(folder.path())?;
    crate::grow::remove_earlier_model(folder.path(), &folder.run()?.unwrap_or_default())?;
    let files = [
        folder::RESULTS,
        folder::PRUNE,
        folder::EXIT,
        folder::MAP,
        folder::GROW,
        folder::SAMPLES,
        folder::SAMPLES_PARQUET,
        folder::REPORT,
    ];
    let mut paths: Vec<PathBuf> = files.map(|name| folder.path().join(name)).into();
    paths.extend(plots(folder.path()));
    for path in paths.iter().filter(|p| p.exists()) {
        std::fs::remove_file(path).map_err(|e| {
            let path = path.display();
            Error::Invalid(format!("cannot replace {path}: {e}; remove it, or choose another folder with -o"))
        })?;
    }
    Ok(Earlier::default())
}

/// The figures of an earlier run, and no other pictures that may lie beside them.
fn plots(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join(folder::PLOTS)).into_iter().flatten().flatten();
    let is_ours = |path: &PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let of_probe = |(probe, _)| Probe::ALL.iter().any(|p| p.name() == probe);
        let figure = stem == fathom_report::plots::GAUGE || stem.split_once('_').is_some_and(of_probe);
        figure && path.extension().is_some_and(|e| e == "svg" || e == "png")
    };
    entries.map(|e| e.path()).filter(is_ours).collect()
}

/// Lines of one prompt put together: a resumed run may have added probes.
pub(crate) fn merged(lines: Vec<Sample>) -> HashMap<String, Sample> {
    let mut samples: HashMap<String, Sample> = HashMap::new();
    for line in lines {
        match samples.get_mut(&line.id) {
            Some(earlier) => earlier.merge(line),
            None => {
                samples.insert(line.id.clone(), line);
            }
        }
    }
    samples
}
