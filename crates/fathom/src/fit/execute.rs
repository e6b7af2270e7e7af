//! Carrying out a fit: from the file to the results folder.

use super::read::{self, Source};
use super::{Fit, FitOutcome, FitSchedule, Law, RlResponse};
use crate::error::invalid;
use crate::observer::{Cancellable, uncounted};
use crate::{Error, Observer, Result};
use fathom_laws::{Effort, Loss, Options, Outcome};
use fathom_results::{Environment, FIT_SCHEMA_VERSION, FitData, Fitting, Folder, folder};
use serde_json::{Value, json};
use std::time::Instant;

pub(super) fn fit(fit: &Fit, observer: &dyn Observer) -> Result<FitOutcome> {
    let started = Instant::now();
    let choice = read::choice(fit)?;
    let source = read::source(fit)?;
    let out = fit.folder();
    let folder = Folder::create(&out)?;
    let _lock = folder.lock(&crate::run::process())?;
    let mut run = describe(fit, &source);
    check_folder(fit, &folder, &run)?;
    source.warnings.iter().for_each(|warning| observer.warn(warning));

    let outcome = {
        let _cancellable = Cancellable::begin(observer);
        let _running = uncounted(observer, "fitting");
        let is_stopped = || observer.is_cancelled();
        let options = options(fit, &is_stopped)?;
        fathom_laws::fit(&choice, &source.table, &options).map_err(read::of_file(&fit.file))?
    };
    outcome.warnings.iter().for_each(|warning| observer.warn(warning));
    let results = results(fit, source, outcome);
    run["status"] = "complete".into();
    run["finished"] = crate::run::now().into();
    run["seconds"] = started.elapsed().as_secs_f64().into();
    fathom_report::fit::write(&folder, &results, &run)?;
    Ok(FitOutcome { folder: out, results, elapsed: started.elapsed() })
}

fn options<'a>(fit: &Fit, is_stopped: &'a (dyn Fn() -> bool + Sync)) -> Result<Options<'a>> {
    let loss = |text: &String| Loss::parse(text).map_err(|error| Error::Invalid(error.to_string()));
    Ok(Options {
        columns: fit.columns.clone(),
        groups: fit.groups.clone(),
        names: fit.names.clone(),
        drop_highest: fit.drop_highest,
        objective: fit.objective.as_ref().map(loss).transpose()?,
        schedule: fit.schedule,
        at: fit.at.iter().map(|text| read::pairs("at", text)).collect::<Result<_>>()?,
        optimal: fit.optimal.as_ref().map(|text| read::pairs("optimal", text)).transpose()?,
        effort: Effort {
            starts: fit.starts,
            resamples: fit.resamples,
            heldout: fit.heldout,
            profile: fit.profile,
            seed: fit.seed,
            is_stopped,
        },
    })
}

/// `run.json`.
fn describe(fit: &Fit, source: &Source) -> Value {
    let law = match &fit.law {
        Law::Depth { less_two } => json!({"name": "depth", "less_two": less_two}),
        Law::Repeat => json!({"name": "repeat"}),
        Law::Rl(RlResponse::Steps) => json!({"name": "rl", "response": "steps"}),
        Law::Rl(RlResponse::Batch) => json!({"name": "rl", "response": "batch"}),
        Law::Regress(formula) => json!({"name": "regress", "formula": formula}),
        Law::Custom(path) => json!({"name": "custom", "description": path.display().to_string()}),
    };
    let curves = fit.curves.as_ref();
    json!({
        "fathom": env!("CARGO_PKG_VERSION"),
        "status": "running",
        "command": fit.command,
        "started": crate::run::now(),
        "fit": {
            "law": law,
            "file": fit.file.display().to_string(),
            "sha256": source.sha256,
            "columns": fit.columns,
            "where": fit.filters,
            "groups": fit.groups,
            "names": fit.names,
            "drop_highest": fit.drop_highest,
            "objective": fit.objective,
            "schedule": if fit.schedule == FitSchedule::Published { "published" } else { "converged" },
            "curves": curves.map(|c| json!({"pattern": c.pattern, "threshold": c.threshold, "sizes": c.sizes})),
            "at": fit.at,
            "optimal": fit.optimal,
            "starts": fit.starts,
            "resamples": fit.resamples,
            "heldout": fit.heldout,
            "profile": fit.profile,
        },
        "seed": fit.seed,
        "threads": rayon::current_num_threads(),
    })
}

/// Refuses a folder with other results than those of the same law and table.
fn check_folder(fit: &Fit, folder: &Folder, now: &Value) -> Result<()> {
    let path = folder.path();
    let others = [folder::RESULTS, folder::PRUNE, folder::SAMPLES];
    if let Some(name) = others.iter().find(|name| path.join(name).exists()) {
        invalid!("{} holds {name} of another command; choose another folder with -o", path.display());
    }
    if fit.overwrite {
        return Ok(());
    }
    let Some(earlier) = folder.run()? else { return Ok(()) };
    let compared = [
        ("another law", "/fit/law"),
        ("another table", "/fit/sha256"),
        ("another objective", "/fit/objective"),
        ("another schedule", "/fit/schedule"),
        ("another number of dropped rows", "/fit/drop_highest"),
        ("other columns", "/fit/columns"),
        ("other rows", "/fit/where"),
    ];
    let differs = |place: &str| earlier.pointer(place) != now.pointer(place);
    let found: Vec<&str> =
        compared.iter().filter(|(_, place)| differs(place)).map(|(what, _)| *what).collect();
    if !found.is_empty() {
        invalid!(
            "{} holds a fit with {}; choose another folder with -o, or replace it with --overwrite",
            path.display(),
            found.join(" and ")
        );
    }
    Ok(())
}

fn results(fit: &Fit, source: Source, outcome: Outcome) -> Fitting {
    let law = fit.law();
    let mut fits = outcome.fits;
    let single = fits.len() == 1 && fits[0].0.is_none();
    let one = single.then(|| fits.remove(0).1);
    let environment = |(name, fit): (Option<String>, _)| Environment { name: name.unwrap_or_default(), fit };
    let mut warnings = source.warnings;
    warnings.extend(outcome.warnings);
    Fitting {
        schema_version: FIT_SCHEMA_VERSION,
        law,
        expression: outcome.expression,
        source: law.source().map(str::to_owned),
        data: FitData {
            file: fit.file.display().to_string(),
            sha256: source.sha256,
            rows: source.table.rows(),
            columns: outcome.columns,
            groups: fit.groups.clone(),
        },
        fit: one,
        environments: fits.into_iter().map(environment).collect(),
        warnings,
    }
}
