//! Carrying out a mapping: from two open checkpoints to the results folder.

use super::MapEstimate;
use super::job::{FIT, Job, Known, MEASURE};
use super::read::{Levels, texts};
use crate::device::OnDevice;
use crate::execute::model_info;
use crate::observer::{Cancellable, uncounted};
use crate::prompts::OpenSet;
use crate::resume::{refuse_foreign, start_anew};
use crate::run::{self, refuse_differences, refuse_other_kind};
use crate::texts::Texts;
use crate::{LayerMap, MapOutcome, Observer, Result, memory};
use fathom_analysis::map::{Reading, RelativeErrors, conclusion};
use fathom_model::Backend;
use fathom_model::source::{Checkpoint, Located};
use fathom_results::{
    BestSources, Folder, MAP_SCHEMA_VERSION, MapLine, Mapping, ModelInfo, Resources, WorkByProbe, folder,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Fits, measures, and writes everything to the results folder.
pub(super) fn map(m: &LayerMap, observer: &dyn Observer) -> Result<MapOutcome> {
    let started = Instant::now();
    let opened = Opened::new(m, observer)?;
    let out = m.options.out.clone().unwrap_or_else(|| opened.default_folder());
    // Fail before the weights are loaded if the folder cannot be written.
    let folder = Folder::create(&out)?;
    let _lock = folder.lock(&run::process())?;
    let results = opened.carry_out(Some(&folder), started)?;
    let Outcome::Results(results) = results else { unreachable!("a folder was given") };
    Ok(MapOutcome { folder: out, results: *results, elapsed: started.elapsed() })
}

/// Counts what [`map`] takes.
pub(super) fn estimate(m: &LayerMap, observer: &dyn Observer) -> Result<MapEstimate> {
    match Opened::new(m, observer)?.carry_out(None, Instant::now())? {
        Outcome::Estimate(estimate) => Ok(estimate),
        Outcome::Results(_) => unreachable!("no folder was given"),
    }
}

/// What comes of two loaded models.
enum Outcome {
    Results(Box<Mapping>),
    Estimate(MapEstimate),
}

/// A mapping whose models and texts have been opened.
struct Opened<'a> {
    m: &'a LayerMap,
    data: OpenSet,
    source: (Located, Checkpoint),
    target: (Located, Checkpoint),
    observer: &'a dyn Observer,
}

impl<'a> Opened<'a> {
    fn new(m: &'a LayerMap, observer: &'a dyn Observer) -> Result<Self> {
        let data = OpenSet::open(&m.options.data, observer)?;
        let (source, target) = (m.options.model.open(observer)?, m.target_spec().open(observer)?);
        Ok(Self { m, data, source, target, observer })
    }

    /// `fathom-out/org__source/map-org__target`.
    fn default_folder(&self) -> PathBuf {
        let name = |located: &Located| located.id.replace(['/', '\\'], "__");
        let kind = if self.m.differences { "map-differences" } else { "map" };
        Path::new("fathom-out").join(name(&self.source.0)).join(format!("{kind}-{}", name(&self.target.0)))
    }

    /// Both models may run on different devices, so the first is loaded, then the second beside it.
    fn carry_out(self, folder: Option<&'a Folder>, started: Instant) -> Result<Outcome> {
        let (device, observer) = (self.m.options.model.device, self.observer);
        device.run(observer, First { opened: self, folder, started })
    }
}

/// Loads the source.
struct First<'a> {
    opened: Opened<'a>,
    folder: Option<&'a Folder>,
    started: Instant,
}

impl OnDevice for First<'_> {
    type Output = Outcome;

    fn run<B: Backend>(self, backend: B) -> Result<Outcome> {
        let Self { opened, folder, started } = self;
        let Opened { m, data, source: (located, checkpoint), target, observer } = opened;
        let loaded = m.options.model.load_causal(checkpoint, backend, "a map between layers", observer)?;
        let ids = [&located.id[..], &target.0.id];
        let [fit, heldout] = texts(m, data, &loaded, ids, &target.1, observer)?;
        let memory = m.options.memory.unwrap_or_else(|| memory::default_for(&loaded.model));
        memory::check_texts(&loaded.model, fit.prompts.iter().chain(&heldout.prompts), memory)?;
        let run = folder.map(|_| {
            let _hashing = uncounted(observer, "hashing the weights");
            run::provenance(&m.options.command, &located, &loaded, &loaded.weights.sha256())
        });
        let info = model_info(&located, &loaded);
        let weights = loaded.model.bytes();
        let source = Source { levels: &loaded, info, run, weights };
        let second = Second { m, source, target, texts: [fit, heldout], memory, folder, started, observer };
        m.options.model.device.run(observer, second)
    }
}

/// The loaded source.
struct Source<'a> {
    levels: &'a dyn Levels,
    info: ModelInfo,
    /// What `run.json` says of it; none where only an estimate is wanted.
    run: Option<Value>,
    weights: u64,
}

/// Loads the target, and does the rest.
struct Second<'a> {
    m: &'a LayerMap,
    source: Source<'a>,
    target: (Located, Checkpoint),
    texts: [Texts; 2],
    memory: u64,
    folder: Option<&'a Folder>,
    started: Instant,
    observer: &'a dyn Observer,
}

impl OnDevice for Second<'_> {
    type Output = Outcome;

    fn run<B: Backend>(self, backend: B) -> Result<Outcome> {
        let Self { m, source, target: (located, checkpoint), texts, memory, folder, started, observer } =
            self;
        let loaded = m.options.model.load_causal(checkpoint, backend, "a map between layers", observer)?;
        let [fit, heldout] = &texts;
        memory::check_texts(&loaded.model, fit.prompts.iter().chain(&heldout.prompts), memory)?;
        let job = Job { m, source: source.levels, target: &loaded, fit, heldout, memory, observer };
        let (Some(folder), Some(mut run)) = (folder, source.run) else {
            return Ok(Outcome::Estimate(job.estimate(source.weights + loaded.model.bytes())?));
        };
        let hashing = uncounted(observer, "hashing the weights");
        let target = run::provenance(&[], &located, &loaded, &loaded.weights.sha256());
        drop(hashing);
        job.describe(&mut run, &target);
        let infos = [source.info, model_info(&located, &loaded)];
        let results = job.write(folder, run, infos, started)?;
        Ok(Outcome::Results(Box::new(results)))
    }
}

impl Job<'_> {
    /// Everything known before anything is measured.
    fn describe(&self, run: &mut Value, target: &Value) {
        let m = self.m;
        run["target"] = target["model"].clone();
        run["target"]["device"] = target["device"].clone();
        run["map"] = json!({
            "differences": m.differences,
            "fit": self.fit.about,
            "heldout": self.heldout.about,
        });
        run["memory_bytes"] = self.memory.into();
        m.options.record(run);
    }

    fn write(
        &self,
        folder: &Folder,
        mut run: Value,
        infos: [ModelInfo; 2],
        started: Instant,
    ) -> Result<Mapping> {
        self.introduce(&infos);
        self.m.options.remark(self.observer);
        let mut known = self.earlier(folder, &run)?;
        folder.write_json_atomic(folder::RUN, &run)?;
        {
            let _cancellable = Cancellable::begin(self.observer);
            self.carry_out(folder, &mut known)?;
        }
        let results = self.results(&known, infos, started);
        run["status"] = "complete".into();
        run["finished"] = run::now().into();
        run["seconds"] = started.elapsed().as_secs_f64().into();
        fathom_report::map::write(folder, &results, &run)?;
        Ok(results)
    }

    fn introduce(&self, [source, target]: &[ModelInfo; 2]) {
        self.observer.note(&format!(
            "{} ({} layers, width {}) to {} ({} layers, width {}); fit: {}; held out: {}",
            source.id,
            source.layers,
            source.hidden,
            target.id,
            target.layers,
            target.hidden,
            self.fit.about,
            self.heldout.about,
        ));
        let (tokens, width) = (self.fit.about.tokens, self.source.width() as u64);
        if tokens < 2 * width {
            self.observer.warn(&format!(
                "maps from a stream of width {width} are fitted to {tokens} tokens, which is too few; give texts with \
                 {} tokens or more",
                2 * width
            ));
        }
    }

    /// What an earlier run of the same job has left.
    fn earlier(&self, folder: &Folder, run: &Value) -> Result<Known> {
        if self.m.options.overwrite {
            start_anew(folder)?;
            return Ok(Known::new());
        }
        match folder.run()? {
            Some(earlier) => {
                refuse_other_kind(&earlier, Some("map"), folder.path())?;
                let compared = [
                    ("other files of the target", "/target/files"),
                    ("another device of the target", "/target/device"),
                    ("other fitting texts", "/map/fit"),
                    ("other held-out texts", "/map/heldout"),
                    ("another quantity (--differences)", "/map/differences"),
                ];
                refuse_differences(&earlier, run, &compared, Vec::new(), folder.path())?;
            }
            None => refuse_foreign(folder)?,
        }
        let lines = folder.samples::<MapLine>()?;
        let [sources, targets] = self.levels();
        let is_whole = |line: &MapLine| {
            let texts = self.heldout.prompts.len();
            let rows = line.relative.len() == targets && line.relative.iter().all(|row| row.len() == texts);
            line.source < sources && (line.relative.is_empty() || rows)
        };
        Ok(lines.into_iter().filter(is_whole).map(|line| (line.source, line)).collect())
    }

    /// `map.json` from the lines.
    fn results(&self, known: &Known, [source, target]: [ModelInfo; 2], started: Instant) -> Mapping {
        let resampling = uncounted(self.observer, "resampling texts");
        let [sources, targets] = self.levels();
        let sums: Vec<Vec<Vec<f64>>> = known.values().map(|line| line.relative.clone()).collect();
        let tokens: Vec<f64> = self.heldout.prompts.iter().map(|p| (p.tokens.len() - 1) as f64).collect();
        let (resamples, seed) = (self.m.options.resamples, self.m.options.data.seed);
        let errors = RelativeErrors { sums: &sums, tokens: &tokens };
        let best = errors.best_targets(targets, resamples, seed);
        let turned = errors.transposed(targets);
        let turned = RelativeErrors { sums: &turned, tokens: &tokens };
        let from = turned.best_targets(sources, resamples, seed);
        drop(resampling);
        let matrix = |of: fn(&MapLine) -> &Vec<f64>| {
            let row = |line: &MapLine| match of(line).is_empty() {
                true => vec![f64::NAN; targets],
                false => of(line).clone(),
            };
            known.values().map(row).collect()
        };
        let mut cost = WorkByProbe::new();
        for line in known.values() {
            line.fit.add_to(&mut cost, FIT);
            line.measure.add_to(&mut cost, MEASURE);
        }
        let all =
            Resources { seconds: started.elapsed().as_secs_f64(), peak_bytes: fathom_probes::peak_bytes() };
        Mapping {
            schema_version: MAP_SCHEMA_VERSION,
            conclusion: conclusion(Reading::Targets, &source.id, &target.id, &best.slope),
            sources: Some(BestSources {
                conclusion: conclusion(Reading::Sources, &target.id, &source.id, &from.slope),
                best: from.best,
                best_interval: from.intervals,
                slope: from.slope,
            }),
            source,
            target,
            differences: self.m.differences,
            fit: self.fit.about.clone(),
            heldout: self.heldout.about.clone(),
            relative: best.relative,
            r2: matrix(|line| &line.r2),
            mse: matrix(|line| &line.mse),
            penalty: matrix(|line| &line.penalty),
            best: best.best,
            best_interval: best.intervals,
            slope: best.slope,
            cost,
            resources: BTreeMap::from([("all".to_owned(), all)]),
        }
    }
}
