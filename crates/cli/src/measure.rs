//! `fathom measure`.

use crate::args::{Measure, ModelArgs};
use crate::job::Job;
use crate::prompts::Data;
use crate::{depth, dry_run, interrupt, output, progress, run_file};
use anyhow::{Context, Result, anyhow, bail};
use fathom_data::PromptSet;
use fathom_model::source::{self, Checkpoint, Loaded, Located};
use fathom_probes::{Cost, Costs, Probe, Sample, Summary, Text};
use fathom_report::{Folder, Results};
use fathom_study::PromptCurves;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) fn run(args: &Measure) -> Result<()> {
    let started = Instant::now();
    let Some((folder, results, interrupted)) = measure(args)? else { return Ok(()) };
    present(args, &folder, &results, started.elapsed())?;
    interrupted.map_or(Ok(()), |how| bail!(how))
}

/// Measures what the arguments ask for and writes it to the folder, of which it gives
/// the results and, where the user stopped it, how far it came. A dry run only prints.
pub(crate) fn measure(args: &Measure) -> Result<Option<(Folder, Results, Option<String>)>> {
    let started = Instant::now();
    let data = Data::open(&args.prompts)?;
    let (located, checkpoint) = open(&args.model)?;
    let out = args.out.clone().unwrap_or_else(|| default_folder(&located, data.rest.id()));
    // A folder that cannot be written is better known of before the weights are loaded.
    let folder = if args.dry_run { None } else { Some(Folder::create(&out)?) };
    let loaded = load(checkpoint, &args.model)?;
    let job = Job::new(args, data, &loaded)?;
    let tokens = job.texts.iter().map(|t| t.tokens.len()).sum();
    introduce(&located, &loaded, &job.set, tokens);
    let Some(folder) = folder else {
        let plans = dry_run::plans(&loaded.model, &job.texts, job.baseline(), &job.pairs, &job.settings)?;
        dry_run::print(&loaded.model, &job.texts, &job.pairs, &job.settings, &plans, args.json)?;
        return Ok(None);
    };

    let hashing = progress::spinner("hashing the weights");
    let hashes = loaded.weights.sha256();
    hashing.finish_and_clear();
    let mut run = run_file::describe(args, &job, &located, &loaded, tokens, &hashes);
    let (done, spent) = if args.resume { resume(&folder, &mut run)? } else { start_anew(&folder)? };
    folder.write_json_atomic("run.json", &run)?;
    let mut costs = spent;
    let _measuring = interrupt::measuring();
    fathom_probes::add(&mut costs, job.measure(&loaded, &done, &folder)?);

    let mut known = merged(folder.samples()?);
    let finished = job.texts.iter().filter(|t| job.missing(known.get(&t.id), false).is_empty()).count();
    let asked = job.pairs.iter().filter(|p| job.missing(known.get(&p.id), true).is_empty()).count();
    let answered: Vec<Sample> = job.pairs.iter().filter_map(|p| known.remove(&p.id)).collect();
    let samples = in_order(&job.texts, known);
    if samples.is_empty() && answered.is_empty() {
        bail!(
            "interrupted before the first prompt was finished; nothing was measured, run the command again"
        );
    }
    let results = summarise(args, &located, &loaded, &job.set, (&samples, &answered), &costs)?;
    let complete = finished == job.texts.len() && asked == job.pairs.len();
    finish(&mut run, complete, &[&samples[..], &answered].concat(), started.elapsed(), &costs);
    fathom_report::write_all(&folder, &results, &run)?;
    let interrupted = (!complete).then(|| {
        let prompts = (finished, job.texts.len(), "prompts");
        let parts = [prompts, (asked, job.pairs.len(), "pairs")];
        let needed = [false, true].map(|pair| !job.missing(None, pair).is_empty());
        let parts = parts.iter().zip(needed).filter(|(part, needed)| *needed && part.1 > 0);
        let parts: Vec<String> = parts.map(|((done, all, of), _)| format!("{done} of {all} {of}")).collect();
        format!(
            "interrupted after {}; what was measured is in {}, and the same command with --resume goes on",
            parts.join(" and "),
            folder.path().display()
        )
    });
    Ok(Some((folder, results, interrupted)))
}

/// Finds a model and opens its files.
pub(crate) fn open(args: &ModelArgs) -> Result<(Located, Checkpoint)> {
    let downloads = progress::Downloads::default();
    let located = source::locate(&args.model, args.revision.as_deref(), &downloads)?;
    let opening = progress::spinner("reading the tokenizer");
    let checkpoint = Checkpoint::open(&located.path);
    opening.finish_and_clear();
    Ok((located, checkpoint?))
}

/// Loads the weights, with a bar.
pub(crate) fn load(checkpoint: Checkpoint, args: &ModelArgs) -> Result<Loaded> {
    let bar = progress::bar("loading", checkpoint.steps() as u64, "layers");
    let loaded = checkpoint.load(args.dtype.into(), &|| bar.inc(1));
    bar.finish_and_clear();
    Ok(loaded?)
}

/// `fathom-out/org__model/data`.
fn default_folder(located: &Located, data: &str) -> PathBuf {
    Path::new("fathom-out").join(located.id.replace(['/', '\\'], "__")).join(data)
}

fn introduce(located: &Located, loaded: &Loaded, set: &PromptSet, tokens: usize) {
    let (config, tokenizer) = (loaded.model.config(), loaded.tokenizer.describe());
    output::note(&format!(
        "{}: {}, {} layers, {:.0} M parameters in {}; tokenizer {}, {}; {}: {} prompts, {tokens} tokens",
        located.id,
        config.architecture,
        config.depth(),
        loaded.model.parameters() as f64 / 1e6,
        loaded.model.dtype().name(),
        tokenizer.kind,
        if tokenizer.adds_bos { "BOS added" } else { "no BOS" },
        set.id,
        set.prompts.len(),
    ));
}

/// What is known of the prompts, by id, and what it took.
type Earlier = (HashMap<String, Sample>, Costs);

/// The samples that an earlier run of the same kind left in the folder.
fn resume(folder: &Folder, run: &mut Value) -> Result<Earlier> {
    let samples = folder.samples()?;
    match folder.run()? {
        Some(earlier) => {
            run_file::check_same(&earlier, run, folder.path())?;
            run_file::keep_measured(&earlier, run);
        }
        None if samples.is_empty() => {}
        None => bail!(
            "{} has samples but no run.json that says of what; --resume cannot go on with them: choose another folder with -o",
            folder.path().display()
        ),
    }
    // A run that was killed left no results and with them no account of its costs.
    let costs = match folder.path().join(fathom_report::folder::RESULTS).exists() {
        true => folder.results()?.cost,
        false => BTreeMap::new(),
    };
    let cost = |c: fathom_report::results::Cost| Cost {
        edits: c.edits,
        runs: c.runs,
        madds: c.madds,
        madds_naive: c.madds_naive,
        seconds: c.seconds,
        peak_bytes: c.peak_bytes,
    };
    Ok((merged(samples), costs.into_iter().map(|(name, c)| (name, cost(c))).collect()))
}

/// Removes what an earlier run left, so that old and new never mix.
fn start_anew(folder: &Folder) -> Result<Earlier> {
    let mut paths: Vec<PathBuf> =
        ["results.json", "samples.jsonl", "report.html"].map(|name| folder.path().join(name)).into();
    paths.extend(plots(folder.path()));
    for path in paths.iter().filter(|p| p.exists()) {
        std::fs::remove_file(path)
            .with_context(|| format!("cannot replace {}", path.display()))
            .map_err(|e| anyhow!("{e:#}; remove it, or choose another folder with -o"))?;
    }
    Ok(Earlier::default())
}

/// The figures of an earlier run, and no other pictures that may lie beside them.
fn plots(folder: &Path) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(folder.join(fathom_report::folder::PLOTS)).into_iter().flatten().flatten();
    let is_ours = |path: &PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let of_probe = |(probe, _)| Probe::ALL.iter().any(|p| p.name() == probe);
        let figure = stem == fathom_report::plots::GAUGE || stem.split_once('_').is_some_and(of_probe);
        figure && path.extension().is_some_and(|e| e == "svg" || e == "png")
    };
    entries.map(|e| e.path()).filter(is_ours).collect()
}

/// Lines of one prompt put together: a resumed run may have added probes.
fn merged(lines: Vec<Sample>) -> HashMap<String, Sample> {
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

fn in_order(texts: &[Text], mut samples: HashMap<String, Sample>) -> Vec<Sample> {
    texts.iter().filter_map(|t| samples.remove(&t.id)).collect()
}

fn summarise(
    args: &Measure,
    located: &Located,
    loaded: &Loaded,
    set: &PromptSet,
    (samples, pairs): (&[Sample], &[Sample]),
    costs: &Costs,
) -> Result<Results> {
    let config = loaded.model.config();
    let working = progress::spinner("resampling prompts");
    let settings = args.uncertainty.settings(args.prompts.seed);
    let curves = PromptCurves::of(samples, config.depth())?;
    let said = (curves.prompts() > 0).then(|| depth::said(&curves, &settings));
    working.finish_and_clear();
    let (rows, uncertainty) = said.unzip();
    let results = json!({
        "schema_version": fathom_report::results::SCHEMA_VERSION,
        "model": {
            "id": located.id,
            "revision": located.revision,
            "architecture": config.architecture,
            "layers": config.depth(),
            "hidden": config.hidden,
            "vocab": config.vocab,
            "parameters": loaded.model.parameters(),
            "dtype": loaded.model.dtype().name(),
        },
        "data": {
            "id": set.id,
            "prompts": samples.len(),
            "pairs": pairs.len(),
            "tokens": samples.iter().map(|s| s.tokens.len()).sum::<usize>(),
        },
        "probes": Summary::of(&[samples, pairs].concat(), config.depth()),
        "depth": rows.unwrap_or_default(),
        "uncertainty": uncertainty,
        "cost": costs,
    });
    serde_json::from_value(results).context("the results do not fit the format of results.json")
}

fn finish(run: &mut Value, complete: bool, samples: &[Sample], elapsed: Duration, costs: &Costs) {
    // A resumed run adds to the probes that are there.
    let measured: Vec<Probe> = Probe::ALL.into_iter().filter(|p| samples.iter().any(|s| s.has(*p))).collect();
    run["probes"]["measured"] = measured.iter().map(|p| p.name()).collect();
    run["status"] = if complete { "complete" } else { "interrupted" }.into();
    run["measured"] = samples.len().into();
    run["finished"] = run_file::now().into();
    run["seconds"] = elapsed.as_secs_f64().into();
    run["peak_bytes"] = costs.values().map(|c| c.peak_bytes).max().unwrap_or(0).into();
    run["madds"] = costs.values().map(|c| c.madds).sum::<u64>().into();
}

fn present(args: &Measure, folder: &Folder, results: &Results, elapsed: Duration) -> Result<()> {
    if args.json {
        let mut text = serde_json::to_string_pretty(results)?;
        text.push('\n');
        output::print(&text)?;
    } else {
        output::print(&fathom_report::table::summary(results, output::style()))?;
        output::print(&format!(
            "\nresults: {}\nreport:  {}\ntime:    {:.1} s\n",
            folder.path().display(),
            folder.path().join("report.html").display(),
            elapsed.as_secs_f64()
        ))?;
    }
    Ok(())
}
