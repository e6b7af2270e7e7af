//! Carrying out a measurement: from the open checkpoint to the results folder.

use crate::device::OnDevice;
use crate::job::Job;
use crate::lens::OpenLens;
use crate::observer::{Cancellable, uncounted};
use crate::prompts::OpenSet;
use crate::resume::{merged, resume, start_anew};
use crate::run_options::Opened;
use crate::summary::{self, Samples, Subject};
use crate::{Measured, Measurement, Observer, Result, run, samples_parquet};
use fathom_analysis::BootstrapOptions;
use fathom_model::Backend;
use fathom_model::source::{Checkpoint, Loaded, Located};
use fathom_probes::Costs;
use fathom_results::text::{amount, counted};
use fathom_results::{Folder, ModelInfo, Results, Sample, folder};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Measures, and writes everything to the results folder.
pub(crate) fn measure(m: &Measurement, observer: &dyn Observer) -> Result<Measured> {
    let started = Instant::now();
    let bootstrap = m.bootstrap()?;
    let opened = m.options.open(&m.options.data, "", observer)?;
    let Opened { data, located, checkpoint, folder, lock: _lock } = opened;
    let task = Measuring { m, bootstrap, data, located, checkpoint, folder: &folder, started, observer };
    let (results, cancelled) = m.options.model.device.run(observer, task)?;
    Ok(Measured { folder: folder.path().to_owned(), results, cancelled, elapsed: started.elapsed() })
}

/// A measurement whose model and prompts have been opened.
struct Measuring<'a> {
    m: &'a Measurement,
    bootstrap: BootstrapOptions,
    data: OpenSet,
    located: Located,
    checkpoint: Checkpoint,
    folder: &'a Folder,
    started: Instant,
    observer: &'a dyn Observer,
}

impl OnDevice for Measuring<'_> {
    type Output = (Results, Option<String>);

    fn run<B: Backend>(self, backend: B) -> Result<Self::Output> {
        let Self { m, bootstrap, data, located, checkpoint, folder, started, observer } = self;
        let loaded = m.options.model.load(checkpoint, backend, observer)?;
        let mut job = Job::new(m, data, &loaded, observer)?;
        if let Some(shard) = m.shard {
            observer.note(&format!(
                "shard {shard}: {} and {}",
                counted(job.prompts.len() as u64, "prompt"),
                counted(job.pairs.len() as u64, "pair")
            ));
        }
        introduce(&located, &loaded, &job, observer);
        let lens = OpenLens::open(m, &loaded, &job, observer)?;
        let lens_info = lens.info();
        if let Some(info) = &lens_info {
            observer.note(&format!("lens: {info}"));
        }

        let hashing = uncounted(observer, "hashing the weights");
        let hashes = loaded.weights.sha256();
        drop(hashing);
        let mut run = run::describe(m, &bootstrap, &job, &located, &loaded, &hashes);
        run::describe_lens(&mut run, lens_info.as_ref());
        let (done, mut costs) =
            if m.options.overwrite { start_anew(folder)? } else { resume(folder, &mut run)? };
        folder.write_json_atomic(folder::RUN, &run)?;
        let _cancellable = Cancellable::begin(observer);
        let lens = if job.needs_lens(&done) { lens } else { OpenLens::Logit };
        let maps = lens.maps(&loaded.model, job.options.memory, observer)?;
        job.options.lens_maps = maps.count();
        fathom_probes::add(&mut costs, job.measure(&loaded, &maps, &done, folder, observer)?);

        let lines: Vec<Sample> = folder.samples()?;
        let order: Vec<String> = lines.iter().map(|sample| sample.id.clone()).collect();
        let known = merged(lines);
        let progress = Progress::of(&job, &known);
        let measured = samples(&job, &order, known);
        let subject = Subject {
            model: model_info(&located, &loaded),
            lens: lens_info,
            data: job.set.id.clone(),
            objective: job.masking.as_ref().map(|masking| masking.info(job.remarks.unknown)),
            erasure_baseline: fathom_probes::baseline_work(&loaded.model, job.baseline()),
        };
        let resources = costs.iter().map(|(name, c)| (name.clone(), c.resources)).collect();
        let results = summary::summarise(subject, &measured, resources, &bootstrap, observer)?;
        finish(&mut run, progress.is_complete(), &measured, started.elapsed(), &costs);
        fathom_report::write_all(folder, &results, &run)?;
        samples_parquet::renew(folder, self.m.parquet)?;
        let cancelled = (!progress.is_complete()).then(|| progress.sentence(&job, folder.path()));
        Ok((results, cancelled))
    }
}

/// How much of a job is finished.
struct Progress {
    prompts: usize,
    pairs: usize,
    all_prompts: usize,
    all_pairs: usize,
}

impl Progress {
    fn of(job: &Job, known: &HashMap<String, Sample>) -> Self {
        let finished = |id: &str, pair| job.missing(known.get(id), pair).is_empty();
        Self {
            prompts: job.prompts.iter().filter(|t| finished(&t.id, false)).count(),
            pairs: job.pairs.iter().filter(|p| finished(&p.id, true)).count(),
            all_prompts: job.prompts.len(),
            all_pairs: job.pairs.len(),
        }
    }

    fn is_complete(&self) -> bool {
        self.prompts == self.all_prompts && self.pairs == self.all_pairs
    }

    fn sentence(&self, job: &Job, folder: &Path) -> String {
        let prompts = (self.prompts, self.all_prompts, "prompts");
        let parts = [prompts, (self.pairs, self.all_pairs, "pairs")];
        let needed = [false, true].map(|pair| !job.missing(None, pair).is_empty());
        let parts = parts.iter().zip(needed).filter(|(part, needed)| *needed && part.1 > 0);
        let parts: Vec<String> = parts.map(|((done, all, of), _)| format!("{done} of {all} {of}")).collect();
        format!(
            "interrupted after {}; what was measured is in {}, and the same command goes on",
            parts.join(" and "),
            folder.display()
        )
    }
}

/// Says what is measured on what.
pub(crate) fn introduce<B: Backend>(
    located: &Located,
    loaded: &Loaded<B>,
    job: &Job,
    observer: &dyn Observer,
) {
    let (config, tokenizer) = (loaded.model.config(), loaded.tokenizer.describe());
    let device = match loaded.model.backend().name() {
        name if name == "cpu" => String::new(),
        name => format!(" on {name}"),
    };
    observer.note(&format!(
        "{}: {}, {} layers, {} parameters in {}{}; tokenizer {}, {}; {}: {}, {}",
        located.id,
        config.architecture,
        config.depth(),
        amount(loaded.model.parameters()),
        loaded.model.dtype().name(),
        device,
        tokenizer.kind,
        if tokenizer.adds_bos { "BOS added" } else { "no BOS" },
        job.set.id,
        counted(job.set.prompts.len() as u64, "prompt"),
        counted(job.tokens() as u64, "token"),
    ));
}

/// The samples in the order of the prompts and pairs. `order` is that of the folder, for pairs of earlier runs that are not
/// part of this one.
fn samples(job: &Job, order: &[String], mut known: HashMap<String, Sample>) -> Samples {
    let ids = job.prompts.iter().map(|t| &t.id).chain(job.pairs.iter().map(|p| &p.id));
    let mut all: Vec<Sample> = ids.filter_map(|id| known.remove(id)).collect();
    all.extend(order.iter().filter_map(|id| known.remove(id)).filter(|s| s.qa.is_some()));
    Samples::of(all)
}

/// The model as results describe it.
pub(crate) fn model_info<B: Backend>(located: &Located, loaded: &Loaded<B>) -> ModelInfo {
    let (model, config) = (&loaded.model, loaded.model.config());
    ModelInfo {
        id: located.id.clone(),
        revision: located.revision.clone(),
        architecture: config.architecture.clone(),
        layers: config.depth(),
        hidden: config.hidden,
        vocab: config.vocab,
        parameters: model.parameters(),
        dtype: model.dtype().name().to_owned(),
        device: Some(model.backend().name()).filter(|device| device != "cpu"),
    }
}

fn finish(run: &mut Value, complete: bool, measured: &Samples, elapsed: Duration, costs: &Costs) {
    // A resumed run adds to the probes that are there.
    run["probes"]["measured"] = measured.probes().iter().map(|p| p.name()).collect();
    run["status"] = if complete { "complete" } else { "interrupted" }.into();
    run["measured"] = measured.count().into();
    run["finished"] = run::now().into();
    run["seconds"] = elapsed.as_secs_f64().into();
    run["peak_bytes"] = costs.values().map(|c| c.resources.peak_bytes).max().unwrap_or(0).into();
    run["madds"] = costs.values().map(|c| c.work.macs).sum::<u64>().into();
}
