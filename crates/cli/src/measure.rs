//! `fathom measure`.

use crate::args::{Measure, ModelArgs};
use crate::job::Job;
use crate::prompts::Data;
use crate::{depth, dry_run, interrupt, output, progress, run_file};
use anyhow::{Context, Result, anyhow, bail};
use fathom_data::PromptSet;
use fathom_model::source::{self, Checkpoint, Loaded, Located};
use fathom_probes::{Cost, Costs, Counted, Probe, Sample, Summary};
use fathom_report::results::Resources;
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
    let _lock = folder.as_ref().map(|folder| folder.lock(&run_file::process())).transpose()?;
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
    let (done, spent) = if args.overwrite { start_anew(&folder)? } else { resume(&folder, &mut run)? };
    folder.write_json_atomic("run.json", &run)?;
    let mut costs = spent;
    let _measuring = interrupt::measuring();
    fathom_probes::add(&mut costs, job.measure(&loaded, &done, &folder)?);

    let lines: Vec<Sample> = folder.samples()?;
    let order: Vec<String> = lines.iter().map(|sample| sample.id.clone()).collect();
    let known = merged(lines);
    let finished = job.texts.iter().filter(|t| job.missing(known.get(&t.id), false).is_empty()).count();
    let asked = job.pairs.iter().filter(|p| job.missing(known.get(&p.id), true).is_empty()).count();
    let measured = Measured::of(&job, &order, known);
    measured.check()?;
    let results = summarise(args, &located, &loaded, &job, &measured, &costs)?;
    let complete = finished == job.texts.len() && asked == job.pairs.len();
    finish(&mut run, complete, &measured, started.elapsed(), &costs);
    fathom_report::write_all(&folder, &results, &run)?;
    let interrupted = (!complete).then(|| {
        let prompts = (finished, job.texts.len(), "prompts");
        let parts = [prompts, (asked, job.pairs.len(), "pairs")];
        let needed = [false, true].map(|pair| !job.missing(None, pair).is_empty());
        let parts = parts.iter().zip(needed).filter(|(part, needed)| *needed && part.1 > 0);
        let parts: Vec<String> = parts.map(|((done, all, of), _)| format!("{done} of {all} {of}")).collect();
        format!(
            "interrupted after {}; what was measured is in {}, and the same command goes on",
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
    let checkpoint = checkpoint?;
    checkpoint.warnings().for_each(|warning| output::note(&format!("warning: {warning}")));
    Ok((located, checkpoint))
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
    match folder.run()? {
        Some(earlier) => {
            run_file::check_same(&earlier, run, folder.path())?;
            run_file::keep_measured(&earlier, run);
        }
        None => refuse_foreign(folder)?,
    }
    let samples = folder.samples()?;
    // A run that was killed left no results and with them no account of its time.
    let resources = match folder.path().join(fathom_report::folder::RESULTS).exists() {
        true => folder.results()?.resources,
        false => BTreeMap::new(),
    };
    let cost = |r: Resources| Cost { seconds: r.seconds, peak_bytes: r.peak_bytes, ..Cost::default() };
    Ok((merged(samples), resources.into_iter().map(|(name, r)| (name, cost(r))).collect()))
}

/// Refuses samples that no run.json says to be ours: they may be somebody's data.
fn refuse_foreign(folder: &Folder) -> Result<()> {
    match std::fs::metadata(folder.path().join(fathom_report::folder::SAMPLES)) {
        Ok(file) if file.is_file() && file.len() > 0 => bail!(
            "{} has samples.jsonl but no run.json that says of what; nothing was changed: choose another folder with -o",
            folder.path().display()
        ),
        _ => Ok(()),
    }
}

/// Removes what an earlier run left, as the user asked.
fn start_anew(folder: &Folder) -> Result<Earlier> {
    if folder.run()?.is_none() {
        refuse_foreign(folder)?;
    }
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

/// The samples of a run, in the order of the prompts and pairs.
struct Measured {
    /// Of prompts, then of pairs.
    samples: Vec<Sample>,
    /// How many are of prompts.
    prompts: usize,
    /// Those that say why nothing could be measured.
    failed: Vec<Sample>,
}

impl Measured {
    /// `order` is that of the folder, for pairs of earlier runs that are not asked for now.
    fn of(job: &Job, order: &[String], mut known: HashMap<String, Sample>) -> Self {
        let ids = job.texts.iter().map(|t| &t.id).chain(job.pairs.iter().map(|p| &p.id));
        let mut all: Vec<Sample> = ids.filter_map(|id| known.remove(id)).collect();
        all.extend(order.iter().filter_map(|id| known.remove(id)).filter(|s| s.asked.is_some()));
        let all = all.into_iter();
        let (samples, failed): (Vec<_>, Vec<_>) = all.partition(|s| s.failed.is_none());
        let prompts = samples.iter().filter(|s| s.asked.is_none()).count();
        Self { samples, prompts, failed }
    }

    /// Refuses to sum up nothing.
    fn check(&self) -> Result<()> {
        match self.failed.first() {
            _ if !self.samples.is_empty() => Ok(()),
            Some(Sample { id, failed: Some(reason), .. }) => {
                bail!("no prompt could be measured; '{id}': {reason}; try another dtype")
            }
            _ => bail!("interrupted before the first prompt was finished; the same command measures it"),
        }
    }

    /// What was done, by probe: a function of the samples and of the prompts that erasure takes its mean from.
    fn work(&self, loaded: &Loaded, job: &Job) -> Counted {
        let mut counted = Counted::new();
        for sample in self.samples.iter().chain(&self.failed) {
            sample.work.iter().for_each(|(name, work)| fathom_probes::count(&mut counted, name, *work));
        }
        if self.samples.iter().any(|s| s.erasure.is_some()) {
            let work = fathom_probes::baseline_work(&loaded.model, job.baseline());
            fathom_probes::count(&mut counted, Probe::Erasure.name(), work);
        }
        counted
    }

    /// Says what is left out of the statistics.
    fn warn(&self, results: &Results) {
        for Sample { id, failed, .. } in &self.failed {
            let reason = failed.as_deref().unwrap_or_default();
            output::note(&format!("warning: '{id}' is left out: {reason}"));
        }
        if let Some(left_out) = results.probes.contributions.as_ref().and_then(|c| c.left_out.as_ref()) {
            output::note(&format!("warning: {}", left_out.sentence()));
        }
    }
}

fn summarise(
    args: &Measure,
    located: &Located,
    loaded: &Loaded,
    job: &Job,
    measured: &Measured,
    costs: &Costs,
) -> Result<Results> {
    let config = loaded.model.config();
    let working = progress::spinner("resampling prompts");
    let settings = args.uncertainty.settings(args.prompts.seed);
    let (prompts, pairs) = measured.samples.split_at(measured.prompts);
    let curves = PromptCurves::of(prompts, config.depth())?;
    let said = (curves.prompts() > 0).then(|| depth::said(&curves, &settings));
    working.finish_and_clear();
    let (rows, uncertainty) = said.unzip();
    let resources = costs
        .iter()
        .map(|(name, c)| (name.clone(), json!({"seconds": c.seconds, "peak_bytes": c.peak_bytes})));
    let failed = measured.failed.iter().map(|s| json!({"id": s.id, "reason": s.failed}));
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
            "id": job.set.id,
            "prompts": prompts.len(),
            "pairs": pairs.len(),
            "tokens": prompts.iter().map(|s| s.tokens.len()).sum::<usize>(),
            "failed": failed.collect::<Vec<_>>(),
        },
        "probes": Summary::of(&measured.samples, config.depth()),
        "depth": rows.unwrap_or_default(),
        "uncertainty": uncertainty,
        "cost": measured.work(loaded, job),
        "resources": resources.collect::<serde_json::Map<_, _>>(),
    });
    let results =
        serde_json::from_value(results).context("the results do not fit the format of results.json")?;
    measured.warn(&results);
    Ok(results)
}

fn finish(run: &mut Value, complete: bool, measured: &Measured, elapsed: Duration, costs: &Costs) {
    // A resumed run adds to the probes that are there.
    let has = |probe: &Probe| measured.samples.iter().any(|s| s.has(*probe));
    let probes: Vec<Probe> = Probe::ALL.into_iter().filter(has).collect();
    run["probes"]["measured"] = probes.iter().map(|p| p.name()).collect();
    run["status"] = if complete { "complete" } else { "interrupted" }.into();
    run["measured"] = (measured.samples.len() + measured.failed.len()).into();
    run["finished"] = run_file::now().into();
    run["seconds"] = elapsed.as_secs_f64().into();
    run["peak_bytes"] = costs.values().map(|c| c.peak_bytes).max().unwrap_or(0).into();
    run["madds"] = costs.values().map(|c| c.macs).sum::<u64>().into();
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
