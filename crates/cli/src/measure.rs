//! `fathom measure`.

use crate::args::{Measure, ModelArgs};
use crate::{depth, interrupt, output, progress, run_file, texts};
use anyhow::{Context, Result, anyhow, bail};
use fathom_data::PromptSet;
use fathom_model::source::{self, Checkpoint, Loaded, Located};
use fathom_probes::erasure::Pair;
use fathom_probes::{Cost, Costs, Probe, Sample, Settings, Summary, Text, skip};
use fathom_report::{Folder, Results};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of logits that the lens holds at once: more rows would not make the products faster.
const LENS_MEMORY: usize = 64 << 20;

pub(crate) fn run(args: &Measure) -> Result<()> {
    let started = Instant::now();
    let set = args.prompts.load()?;
    let (located, checkpoint) = open(&args.model)?;
    let folder = Folder::create(args.out.clone().unwrap_or_else(|| default_folder(&located, &set)))?;
    let loaded = load(checkpoint, &args.model)?;
    let texts = texts::tokenise(
        &set,
        &loaded.tokenizer,
        loaded.model.config(),
        args.prompts.rng.seeded(args.prompts.seed),
    )?;
    warn_of_short(args, &texts)?;
    let tokens = texts.iter().map(|t| t.tokens.len()).sum();
    introduce(&located, &loaded, &set, tokens);

    let hashing = progress::spinner("hashing the weights");
    let hashes = loaded.weights.sha256();
    hashing.finish_and_clear();
    let mut run = run_file::describe(args, &located, &loaded, &set, tokens, &hashes);
    let (done, spent) = if args.resume { resume(&folder, &run)? } else { start_anew(&folder)? };
    folder.write_json_atomic("run.json", &run)?;

    let pairs = pairs(args, &loaded)?;
    let missing = |t: &&Text| !done.get(&t.id).is_some_and(|s| is_finished(s, args));
    let open: Vec<Text> = texts.iter().filter(missing).cloned().collect();
    if open.len() < texts.len() {
        output::note(&format!("{} of {} prompts are there already", texts.len() - open.len(), texts.len()));
    }
    let costs = total(spent, probe(args, &loaded, &open, &folder)?);
    let unasked: Vec<Pair> = pairs.iter().filter(|p| !done.contains_key(&p.id)).cloned().collect();
    let costs = total(costs, probe_pairs(args, &loaded, &texts, &unasked, &folder)?);

    let mut known = merged(folder.samples()?);
    let answered: Vec<Sample> = pairs.iter().filter_map(|p| known.remove(&p.id)).collect();
    let samples = in_order(&texts, known);
    if samples.is_empty() {
        bail!(
            "interrupted before the first prompt was finished; nothing was measured, run the command again"
        );
    }
    let results = summarise(args, &located, &loaded, &set, (&samples, &answered), &costs)?;
    let finished = samples.iter().filter(|s| is_finished(s, args)).count();
    let complete = finished == texts.len() && answered.len() == pairs.len();
    finish(&mut run, complete, &samples, started.elapsed(), &costs);
    fathom_report::write_all(&folder, &results, &run)?;
    present(args, &folder, &results, started.elapsed())?;
    if !complete {
        let of_pairs = match pairs.len() {
            0 => String::new(),
            all => format!(" and {} of {all} pairs", answered.len()),
        };
        bail!(
            "interrupted after {finished} of {} prompts{of_pairs}; what was measured is in {}, and the same command with --resume goes on",
            texts.len(),
            folder.path().display()
        );
    }
    Ok(())
}

/// The question-answer pairs, where a probe asks for them.
fn pairs(args: &Measure, loaded: &Loaded) -> Result<Vec<Pair>> {
    if !args.probes.0.iter().any(|p| p.needs_pairs()) {
        return Ok(Vec::new());
    }
    let options = fathom_data::Options { limit: None, seed: args.prompts.seed, rng: args.prompts.rng };
    let set = fathom_data::load(&args.qa, &options)?;
    texts::pairs(&set, &loaded.tokenizer, loaded.model.config())
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

/// Whether a prompt has all probes that are asked for.
fn is_finished(sample: &Sample, args: &Measure) -> bool {
    args.probes.0.iter().all(|p| p.needs_pairs() || sample.has(*p))
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
fn resume(folder: &Folder, run: &Value) -> Result<Earlier> {
    let samples = folder.samples()?;
    match folder.run()? {
        Some(earlier) => run_file::check_same(&earlier, run, folder.path())?,
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
        madds: c.madds,
        madds_naive: c.madds_naive,
        seconds: c.seconds,
        peak_bytes: c.peak_bytes,
    };
    Ok((merged(samples), costs.into_iter().map(|(name, c)| (name, cost(c))).collect()))
}

/// The costs of an earlier run and of this one together.
fn total(mut costs: Costs, now: Costs) -> Costs {
    for (name, cost) in now {
        let sum = costs.entry(name).or_default();
        sum.madds = sum.madds.saturating_add(cost.madds);
        sum.madds_naive = sum.madds_naive.saturating_add(cost.madds_naive);
        sum.seconds += cost.seconds;
        sum.peak_bytes = sum.peak_bytes.max(cost.peak_bytes);
    }
    costs
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

/// Measures what is open, with a bar, keeping each prompt as soon as it is done.
fn probe(args: &Measure, loaded: &Loaded, open: &[Text], folder: &Folder) -> Result<Costs> {
    let tokens: usize = open.iter().map(|t| t.tokens.len()).sum();
    let bar = progress::bar("measuring", tokens as u64, "tokens");
    let settings = settings(args);
    interrupt::measuring();
    let mut keep = |sample: Sample| {
        folder.append_sample(&sample)?;
        bar.inc(sample.tokens.len() as u64);
        bar.set_message(format!("({})", sample.id));
        Ok::<_, fathom_report::Error>(())
    };
    let costs = fathom_probes::measure(&loaded.model, open, &settings, &interrupt::stopped, &mut keep);
    bar.finish_and_clear();
    Ok(costs?)
}

/// Measures question-answer pairs against the mean residuals of the prompts, with a bar.
fn probe_pairs(
    args: &Measure,
    loaded: &Loaded,
    texts: &[Text],
    pairs: &[Pair],
    folder: &Folder,
) -> Result<Costs> {
    if pairs.is_empty() {
        return Ok(Costs::new());
    }
    let bar = progress::bar("erasing", pairs.len() as u64, "pairs");
    let settings = settings(args);
    let mut keep = |sample: Sample| {
        folder.append_sample(&sample)?;
        bar.inc(1);
        Ok::<_, fathom_report::Error>(())
    };
    let (model, stop) = (&loaded.model, &interrupt::stopped);
    let costs = fathom_probes::measure_pairs(model, texts, pairs, &settings, stop, &mut keep);
    bar.finish_and_clear();
    Ok(costs?)
}

fn settings(args: &Measure) -> Settings {
    Settings { probes: args.probes.0.clone(), memory: LENS_MEMORY, skip: skip::Settings::default() }
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
