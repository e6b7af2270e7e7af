//! The shards of a measurement put together.

use crate::error::invalid;
use crate::resume::{merged, start_anew};
use crate::shard::interleaved;
use crate::summary::{self, Samples, Subject};
use crate::{Error, Observer, Result, Shard, run, samples_parquet, threads};
use fathom_analysis::BootstrapOptions;
use fathom_results::{Folder, Probe, Resources, Results, Sample, Work, folder};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Puts the results of all shards of a measurement together.
///
/// `samples.jsonl` and `results.json` are those of the measurement without shards, apart from times and memory.
///
/// ```no_run
/// use fathom::{Measurement, Merge, Shard, Silent};
///
/// for index in 1..=3 {
///     Measurement::new("gpt2").shard(Shard::new(index, 3)?).out(format!("shard-{index}")).run(&Silent)?;
/// }
/// let whole = Merge::new(["shard-1", "shard-2", "shard-3"], "whole").run(&Silent)?;
/// # Ok::<(), fathom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    shards: Vec<PathBuf>,
    out: PathBuf,
    overwrite: bool,
    parquet: bool,
    threads: Option<usize>,
    command: Vec<String>,
}

/// Merged shards.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The results folder.
    pub folder: PathBuf,
    /// What is in `results.json`.
    pub results: Results,
}

impl Merge {
    /// The results folders of all shards, in any order, and the folder of the whole.
    pub fn new(shards: impl IntoIterator<Item = impl Into<PathBuf>>, out: impl Into<PathBuf>) -> Self {
        Self {
            shards: shards.into_iter().map(Into::into).collect(),
            out: out.into(),
            overwrite: false,
            parquet: false,
            threads: None,
            command: Vec::new(),
        }
    }

    /// Deletes results that are in the folder of the whole.
    #[must_use]
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Whether the samples are also written as `samples.parquet`.
    #[must_use]
    pub fn parquet(mut self, parquet: bool) -> Self {
        self.parquet = parquet;
        self
    }

    /// The number of threads; all cores unless set otherwise. No result depends on it.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The command line to record in `run.json`.
    #[must_use]
    pub fn command(mut self, command: Vec<String>) -> Self {
        self.command = command;
        self
    }

    /// Reads the shards, and writes the results folder of the whole.
    ///
    /// # Errors
    /// When a folder is not that of a finished shard, shards are missing or of different measurements, or the folder of the
    /// whole holds other results or cannot be written.
    pub fn run(&self, observer: &dyn Observer) -> Result<Merged> {
        threads::run(self.threads, || {
            let parts = self.shards.iter().map(|path| Part::read(path)).collect::<Result<Vec<_>>>()?;
            let parts = in_order(parts)?;
            self.write(parts, observer)
        })
    }

    fn write(&self, parts: Vec<Part>, observer: &dyn Observer) -> Result<Merged> {
        let out = Folder::create(&self.out)?;
        let _lock = out.lock(&run::process())?;
        if self.overwrite {
            start_anew(&out)?;
        } else if [folder::RUN, folder::RESULTS, folder::SAMPLES]
            .iter()
            .any(|name| self.out.join(name).exists())
        {
            invalid!(
                "{} holds results already; choose another folder with -o, or replace them with --overwrite",
                self.out.display()
            );
        }
        let (run, model, data) = (self.describe(&parts), &parts[0].results.model, &parts[0].results.data.id);
        // Each shard that erased has computed the whole mean.
        let baseline = parts.iter().map(Part::erasure_baseline).find(|work| *work != Work::default());
        let erasure_baseline = baseline.unwrap_or_default();
        let subject = Subject {
            model: model.clone(),
            lens: parts[0].results.lens.clone(),
            data: data.clone(),
            objective: parts[0].results.objective.clone(),
            erasure_baseline,
        };
        let bootstrap = parts[0].bootstrap()?;
        let mut resources: BTreeMap<String, Resources> = BTreeMap::new();
        for (name, part) in parts.iter().flat_map(|part| &part.results.resources) {
            let all = resources.entry(name.clone()).or_default();
            all.seconds += part.seconds;
            all.peak_bytes = all.peak_bytes.max(part.peak_bytes);
        }
        let samples = samples(parts);
        let lines: Result<Vec<String>, _> = samples.iter().map(serde_json::to_string).collect();
        let lines = lines.map_err(|source| fathom_results::Error::Serialise {
            name: folder::SAMPLES.to_owned(),
            source,
        })?;
        out.write_bytes_atomic(folder::SAMPLES, (lines.join("\n") + "\n").as_bytes())?;
        let results = summary::summarise(subject, &Samples::of(samples), resources, &bootstrap, observer)?;
        fathom_report::write_all(&out, &results, &run)?;
        samples_parquet::renew(&out, self.parquet)?;
        Ok(Merged { folder: self.out.clone(), results })
    }

    /// `run.json`: that of the first shard, with the sums of all.
    fn describe(&self, parts: &[Part]) -> Value {
        let mut run = parts[0].run.clone();
        if let Some(run) = run.as_object_mut() {
            run.remove("shard");
        }
        let numbers = |place: &str| -> Vec<f64> {
            parts.iter().filter_map(|part| part.run.pointer(place)?.as_f64()).collect()
        };
        let whole = |place: &str| numbers(place).iter().sum::<f64>() as u64;
        run["command"] = json!(self.command);
        run["merged"] = json!(parts.iter().map(|part| part.path.display().to_string()).collect::<Vec<_>>());
        run["finished"] = run::now().into();
        run["seconds"] = numbers("/seconds").iter().sum::<f64>().into();
        run["peak_bytes"] = (numbers("/peak_bytes").iter().copied().fold(0.0, f64::max) as u64).into();
        for name in ["measured", "madds"] {
            run[name] = whole(&format!("/{name}")).into();
        }
        run["data"]["tokens"] = whole("/data/tokens").into();
        run
    }
}

/// A finished shard.
struct Part {
    path: PathBuf,
    run: Value,
    shard: Shard,
    results: Results,
    samples: HashMap<String, Sample>,
}

impl Part {
    fn read(path: &Path) -> Result<Self> {
        let opened = Folder::open(path)?;
        let run = opened.run()?.unwrap_or_default();
        let number = |name: &str| run["shard"][name].as_u64().and_then(|n| usize::try_from(n).ok());
        let shard = match (number("index"), number("of")) {
            (Some(index), Some(count)) => Shard::new(index, count)?,
            _ => invalid!(
                "{} is not the folder of a shard; give those that `fathom measure --shard` wrote",
                path.display()
            ),
        };
        if run["status"] != "complete" {
            invalid!("{} (shard {shard}) is not finished: its command goes on", path.display());
        }
        let (results, samples) = (opened.results()?, merged(opened.samples()?));
        Ok(Self { path: path.to_owned(), run, shard, results, samples })
    }

    /// The work of the mean that erases: what the samples do not count.
    fn erasure_baseline(&self) -> Work {
        let name = Probe::Erasure.name();
        let all = self.results.cost.get(name).copied().unwrap_or_default();
        let counted = self.samples.values().filter_map(|sample| sample.work.get(name).copied());
        counted.fold(all, |all, sample| Work {
            edits: all.edits.saturating_sub(sample.edits),
            runs: all.runs.saturating_sub(sample.runs),
            macs: all.macs.saturating_sub(sample.macs),
            macs_naive: all.macs_naive.saturating_sub(sample.macs_naive),
        })
    }

    fn bootstrap(&self) -> Result<BootstrapOptions> {
        let mut options = self.run["depth"].clone();
        options["seed"] = self.run["seed"].clone();
        serde_json::from_value(options).map_err(|source| {
            Error::Invalid(format!(
                "{}: run.json does not say how depths were computed: {source}",
                self.path.display()
            ))
        })
    }

    /// The ids of its prompts or pairs, in order.
    fn ids(&self, of: &str) -> Vec<String> {
        let ids = self.run["shard"][of].as_array().into_iter().flatten();
        ids.filter_map(|id| id.as_str().map(str::to_owned)).collect()
    }
}

/// The shards in order; refuses those that are not all shards of one measurement.
fn in_order(mut parts: Vec<Part>) -> Result<Vec<Part>> {
    parts.sort_by_key(|part| part.shard.index());
    let Some(first) = parts.first() else { invalid!("give the folders of the shards") };
    let count = first.shard.count();
    for part in &parts {
        let differs = match part.shard.count() == count {
            true => run::differences(&first.run, &part.run, &WHOLE),
            false => vec![format!("{count} and {} shards", part.shard.count())],
        };
        if !differs.is_empty() {
            invalid!(
                "{} and {} are shards of different measurements: {}",
                first.path.display(),
                part.path.display(),
                differs.join(" and ")
            );
        }
    }
    for pair in parts.windows(2) {
        if pair[0].shard == pair[1].shard {
            let [a, b] = [0, 1].map(|i| pair[i].path.display());
            invalid!("{a} and {b} are both shard {}; give each once", pair[0].shard);
        }
    }
    let missing = (1..=count).filter(|index| !parts.iter().any(|part| part.shard.index() == *index));
    let missing: Vec<String> = missing.map(|index| format!("{index}/{count}")).collect();
    if !missing.is_empty() {
        invalid!("shard {} is missing; measure it and give its folder too", missing.join(" and "));
    }
    Ok(parts)
}

/// What the shards of a measurement have in common, beside what every continued run has.
const WHOLE: [(&str, &str); 6] = [
    ("other prompts", "/data/sha256"),
    ("other probes or options of probes", "/probes"),
    ("other thresholds or resamples", "/depth"),
    ("another way to run edits (--naive)", "/naive"),
    ("other masks", "/objective"),
    ("other prompts or options", "/request"),
];

/// All samples, in the order of the prompts and pairs.
fn samples(parts: Vec<Part>) -> Vec<Sample> {
    let mut ids = Vec::new();
    for of in ["prompts", "pairs"] {
        ids.extend(interleaved(parts.iter().map(|part| part.ids(of)).collect()));
    }
    let mut known: HashMap<String, Sample> = HashMap::new();
    parts.into_iter().for_each(|part| known.extend(part.samples));
    ids.iter().filter_map(|id| known.remove(id)).collect()
}
