//! `fathom measure`.

use crate::args::{Measure, ModelArgs};
use crate::settings::{self, settings};
use crate::{depth, dry_run, interrupt, output, progress, run_file, texts};
use anyhow::{Context, Result, anyhow, bail};
use fathom_data::PromptSet;
use fathom_model::source::{self, Checkpoint, Loaded, Located};
use fathom_probes::{Cost, Costs, Pair, Probe, Sample, Settings, Summary, Text, Watch};
use fathom_report::{Folder, Results};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) fn run(args: &Measure) -> Result<()> {
    let started = Instant::now();
    let set = args.prompts.load()?;
    let (located, checkpoint) = open(&args.model)?;
    let out = args.out.clone().unwrap_or_else(|| default_folder(&located, &set));
    // A folder that cannot be written is better known of before the weights are loaded.
    let folder = if args.dry_run { None } else { Some(Folder::create(&out)?) };
    let loaded = load(checkpoint, &args.model)?;
    let job = Job::new(args, &set, &loaded)?;
    let tokens = job.texts.iter().map(|t| t.tokens.len()).sum();
    introduce(&located, &loaded, &set, tokens);
    let Some(folder) = folder else {
        let plans = dry_run::plans(&loaded.model, &job.texts, job.baseline(), &job.pairs, &job.settings)?;
        return dry_run::print(&loaded.model, &job.texts, &job.pairs, &job.settings, &plans, args.json);
    };

    let hashing = progress::spinner("hashing the weights");
    let hashes = loaded.weights.sha256();
    hashing.finish_and_clear();
    let mut run = run_file::describe(args, &job, &located, &loaded, &set, tokens, &hashes);
    let (done, spent) = if args.resume { resume(&folder, &mut run)? } else { start_anew(&folder)? };
    folder.write_json_atomic("run.json", &run)?;
    let mut costs = spent;
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
    let results = summarise(args, &located, &loaded, &set, (&samples, &answered), &costs)?;
    let complete = finished == job.texts.len() && asked == job.pairs.len();
    finish(&mut run, complete, &[&samples[..], &answered].concat(), started.elapsed(), &costs);
    fathom_report::write_all(&folder, &results, &run)?;
    present(args, &folder, &results, started.elapsed())?;
    if !complete {
        let of_pairs = match job.pairs.len() {
            0 => String::new(),
            all => format!(" and {asked} of {all} pairs"),
        };
        bail!(
            "interrupted after {finished} of {} prompts{of_pairs}; what was measured is in {}, and the same command with --resume goes on",
            job.texts.len(),
            folder.path().display()
        );
    }
    Ok(())
}

/// What is to be measured, as tokens.
pub(crate) struct Job {
    pub(crate) settings: Settings,
    pub(crate) texts: Vec<Text>,
    pub(crate) pairs: Vec<Pair>,
    /// Id and SHA-256 of `--baseline-data`, and its prompts.
    pub(crate) baseline: Option<(String, String, Vec<Text>)>,
}

impl Job {
    fn new(args: &Measure, set: &PromptSet, loaded: &Loaded) -> Result<Self> {
        let (tokenizer, config) = (&loaded.tokenizer, loaded.model.config());
        let tokenise = |set: &PromptSet| {
            let random = args.prompts.rng.seeded(args.prompts.seed);
            texts::tokenise(set, tokenizer, config, random, args.causal.positions.into())
        };
        let options = fathom_data::Options { limit: None, seed: args.prompts.seed, rng: args.prompts.rng };
        let texts = tokenise(set)?;
        warn_of_short(args, &texts)?;
        let pairs = match args.probes.0.iter().any(|p| p.needs_pairs()) {
            true => texts::pairs(&fathom_data::load(&args.qa, &options)?, tokenizer, config)?,
            false => Vec::new(),
        };
        let baseline =
            match args.causal.baseline_data.as_ref().filter(|_| args.probes.0.contains(&Probe::Erasure)) {
                Some(spec) => {
                    let set = fathom_data::load(spec, &options)?;
                    let texts = tokenise(&set)?;
                    Some((set.id, set.sha256, texts))
                }
                None => None,
            };
        let job = Self { settings: settings(args), texts, pairs, baseline };
        let all = [&job.texts[..], job.baseline()].concat();
        settings::check_memory(&loaded.model, &all, &job.pairs, &job.settings)?;
        Ok(job)
    }

    /// Prompts whose mean residuals erase.
    fn baseline(&self) -> &[Text] {
        self.baseline.as_ref().map_or(&self.texts, |(_, _, texts)| texts)
    }

    /// The probes that a prompt or pair still lacks.
    fn missing(&self, sample: Option<&Sample>, pair: bool) -> Vec<Probe> {
        let asked = self.settings.probes.iter().filter(|p| p.needs_pairs() == pair);
        asked.filter(|p| !sample.is_some_and(|s| s.has(**p))).copied().collect()
    }

    /// Measures what is missing, with a bar, keeping each prompt as soon as it is done.
    fn measure(&self, loaded: &Loaded, done: &HashMap<String, Sample>, folder: &Folder) -> Result<Costs> {
        let texts = by_missing(&self.texts, |t| self.missing(done.get(&t.id), false));
        let pairs = by_missing(&self.pairs, |p| self.missing(done.get(&p.id), true));
        let open: usize = texts.iter().map(|(_, t)| t.len()).sum();
        if open < self.texts.len() && !self.missing(None, false).is_empty() {
            output::note(&format!(
                "{} of {} prompts are there already",
                self.texts.len() - open,
                self.texts.len()
            ));
        }
        let model = &loaded.model;
        let mut madds = 0;
        for (probes, texts) in &texts {
            let plans =
                dry_run::plans(model, texts, &[], &[], &settings::only(&self.settings, probes.clone()))?;
            madds += plans.values().map(|p| p.work.madds).sum::<u64>();
        }
        for (probes, pairs) in &pairs {
            let settings = settings::only(&self.settings, probes.clone());
            let plans = dry_run::plans(model, &[], self.baseline(), pairs, &settings)?;
            madds += plans.values().map(|p| p.work.madds).sum::<u64>();
        }
        let bar = progress::work("measuring", madds);
        let result = self.measure_open(loaded, &texts, &pairs, folder, &bar);
        bar.finish_and_clear();
        result
    }

    fn measure_open(
        &self,
        loaded: &Loaded,
        texts: &[(Vec<Probe>, Vec<Text>)],
        pairs: &[(Vec<Probe>, Vec<Pair>)],
        folder: &Folder,
        bar: &ProgressBar,
    ) -> Result<Costs> {
        interrupt::measuring();
        let done = |madds| bar.inc(madds);
        let watch = Watch { stop: &interrupt::stopped, done: &done };
        let mut keep = |sample: Sample| {
            folder.append_sample(&sample)?;
            bar.set_message(format!("({})", sample.id));
            Ok::<_, fathom_report::Error>(())
        };
        let mut costs = Costs::new();
        for (probes, texts) in texts {
            let settings = settings::only(&self.settings, probes.clone());
            fathom_probes::add(
                &mut costs,
                fathom_probes::measure(&loaded.model, texts, &settings, watch, &mut keep)?,
            );
        }
        for (probes, pairs) in pairs {
            let settings = settings::only(&self.settings, probes.clone());
            let more = fathom_probes::measure_pairs(
                &loaded.model,
                self.baseline(),
                pairs,
                &settings,
                watch,
                &mut keep,
            )?;
            fathom_probes::add(&mut costs, more);
        }
        Ok(costs)
    }
}

/// What lacks probes, put together by the probes that it lacks.
fn by_missing<T: Clone>(all: &[T], missing: impl Fn(&T) -> Vec<Probe>) -> Vec<(Vec<Probe>, Vec<T>)> {
    let mut groups: BTreeMap<Vec<Probe>, Vec<T>> = BTreeMap::new();
    for one in all {
        let probes = missing(one);
        if !probes.is_empty() {
            groups.entry(probes).or_default().push(one.clone());
        }
    }
    groups.into_iter().collect()
}

/// Says how many prompts are too short for the skip probe's positions.
fn warn_of_short(args: &Measure, texts: &[Text]) -> Result<()> {
    if !args.probes.0.contains(&Probe::Skip) {
        return Ok(());
    }
    match texts.iter().filter(|t| t.positions.is_empty()).count() {
        0 => Ok(()),
        all if all == texts.len() => {
            bail!("no prompt has the 13 tokens that the skip probe needs for a position; use longer prompts")
        }
        short => {
            output::note(&format!(
                "warning: {short} of {} prompts are too short for the positions of skip and count only where all positions are skipped",
                texts.len()
            ));
            Ok(())
        }
    }
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
fn default_folder(located: &Located, set: &PromptSet) -> PathBuf {
    Path::new("fathom-out").join(located.id.replace(['/', '\\'], "__")).join(&set.id)
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
        let figure =
            stem.split_once('_').is_some_and(|(probe, _)| Probe::ALL.iter().any(|p| p.name() == probe));
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
    let rows = depth::rows(samples, config.depth(), args.prompts.seed);
    working.finish_and_clear();
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
        "depth": rows,
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
