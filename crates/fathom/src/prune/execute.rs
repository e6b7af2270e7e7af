//! Carrying out a pruning: from the open checkpoint to the results folder.

use super::assemble::Parts;
use super::candidates::{Candidates, Chosen};
use super::job::Job;
use super::known::{self, Known};
use super::questions::Questions;
use super::texts::{Texts, read_both};
use super::{export, linear, run};
use crate::device::OnDevice;
use crate::observer::{Cancellable, uncounted};
use crate::prompts::OpenSet;
use crate::resume::{refuse_foreign, start_anew};
use crate::{Error, Observer, Prune, Pruned, Replace, Result};
use fathom_model::Backend;
use fathom_model::source::{Checkpoint, Located};
use fathom_results::{Exported, Folder, Pruning, Resources, Work, folder};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Chooses, measures, and writes everything to the results folder.
pub(super) fn prune(p: &Prune, observer: &dyn Observer) -> Result<Pruned> {
    let started = Instant::now();
    let data = OpenSet::open(&p.texts(), observer)?;
    let (located, checkpoint) = p.model.open(observer)?;
    let out = p.out.clone().unwrap_or_else(|| default_folder(&located, data.rest.id()));
    // Fail before the weights are loaded if the folder cannot be written.
    let folder = Folder::create(&out)?;
    let _lock = folder.lock(&crate::run::process())?;
    let task = Pruner { p, data, located, checkpoint, folder: &folder, started, observer };
    let results = p.model.device.run(observer, task)?;
    Ok(Pruned { folder: out, results, elapsed: started.elapsed() })
}

/// `fathom-out/org__model/prune-data`.
fn default_folder(located: &Located, data: &str) -> PathBuf {
    Path::new("fathom-out").join(located.id.replace(['/', '\\'], "__")).join(format!("prune-{data}"))
}

/// A pruning whose model and texts have been opened.
struct Pruner<'a> {
    p: &'a Prune,
    data: OpenSet,
    located: Located,
    checkpoint: Checkpoint,
    folder: &'a Folder,
    started: Instant,
    observer: &'a dyn Observer,
}

impl OnDevice for Pruner<'_> {
    type Output = Pruning;

    fn run<B: Backend>(self, backend: B) -> Result<Pruning> {
        let Self { p, data, located, checkpoint, folder, started, observer } = self;
        let loaded = p.model.load(checkpoint, backend, observer)?;
        let [calibration, heldout] = read_both(p, data, &loaded, observer)?;
        let questions = Questions::read(p, &loaded, observer)?;
        let is_cancelled = || observer.is_cancelled();
        let texts = [&calibration, &heldout];
        let job = Job::new(p, &loaded, texts, questions.as_ref(), observer, &is_cancelled)?;
        if p.export.is_some() {
            export::check(p, &located.path, job.is_gguf(), folder)?;
        }
        job.introduce(&located);

        let hashing = uncounted(observer, "hashing the weights");
        let hashes = loaded.weights.sha256();
        drop(hashing);
        let mut run = job.describe(&located, &hashes);
        let known = job.earlier(folder, &run)?;
        folder.write_json_atomic(folder::RUN, &run)?;
        let results = {
            let _cancellable = Cancellable::begin(observer);
            job.carry_out(&located, known, &run)?
        };
        run["status"] = "complete".into();
        run["finished"] = crate::run::now().into();
        run["seconds"] = started.elapsed().as_secs_f64().into();
        fathom_report::prune::write(folder, &results, &run)?;
        Ok(results)
    }
}

impl<B: Backend> Job<'_, B> {
    /// Says what is done with what.
    fn introduce(&self, located: &Located) {
        let (config, tokens) = (self.model().config(), |texts: &Texts| texts.about.tokens);
        self.observer.note(&format!(
            "{}: {}, {} layers, {:.0} M parameters in {}; calibration: {}, {} texts, {} tokens; held out: {}, {} texts, \
             {} tokens",
            located.id,
            config.architecture,
            config.depth(),
            self.model().parameters() as f64 / 1e6,
            self.model().dtype().name(),
            self.calibration.about.id,
            self.calibration.about.texts,
            tokens(self.calibration),
            self.heldout.about.id,
            self.heldout.about.texts,
            tokens(self.heldout),
        ));
    }

    /// What an earlier run of the same job has left.
    fn earlier<'f>(&self, folder: &'f Folder, run: &Value) -> Result<Known<'f>> {
        if self.p.overwrite {
            start_anew(folder)?;
            return Ok(Known::new(folder));
        }
        match folder.run()? {
            Some(earlier) => run::check_same(&earlier, run, folder.path())?,
            None => refuse_foreign(folder)?,
        }
        Known::of(folder)
    }

    fn carry_out(&self, located: &Located, mut known: Known<'_>, run: &Value) -> Result<Pruning> {
        let mut stages = Stages::default();
        let folder = known.folder.path();
        let interrupted = |stage: &str| {
            Err(Error::Cancelled(format!(
                "interrupted while {stage}; what was finished is in {}, and the same command goes on",
                folder.display()
            )))
        };
        let started = Instant::now();
        if !self.score(&mut known)? {
            return interrupted("reading the calibration texts");
        }
        stages.took(known::CALIBRATION, started);
        let started = Instant::now();
        if !self.search(&mut known)? {
            return interrupted("searching");
        }
        stages.took(known::SEARCH, started);
        let started = Instant::now();
        let Some((candidates, fitting)) = self.candidates(&known)? else {
            return interrupted("fitting linear maps");
        };
        if let Some(work) = fitting {
            known.cost.insert(linear::FIT.to_owned(), work);
            stages.took(linear::FIT, started);
        }
        let started = Instant::now();
        if !self.prove(&candidates, &mut known)? {
            return interrupted("measuring the candidates");
        }
        stages.took(known::PROOF, started);
        let started = Instant::now();
        if !self.answer(&candidates, &mut known)? {
            return interrupted("answering the questions");
        }
        if self.questions.is_some() {
            stages.took(known::CHOICES, started);
        }
        let prefill = self.time_prefill(&candidates)?;
        let (candidates, known, stages) = (&candidates, &known, stages.0);
        let mut results = Parts { job: self, located, candidates, known, stages, prefill }.results()?;
        results.export = earlier_export(known.folder, &results);
        if let Some(format) = self.p.export {
            // A failed export costs no result.
            fathom_report::prune::write(known.folder, &results, run)?;
            self.export(format, located, candidates, known.folder, &mut results)?;
        }
        Ok(results)
    }

    /// The removals to measure, with their linear maps; `None` when cancelled.
    fn candidates(&self, known: &Known<'_>) -> Result<Option<(Candidates<B>, Option<Work>)>> {
        use fathom_results::PruneMethod::{Greedy, Influence, Output};
        let mut chosen = self.choose(known)?;
        if self.p.replace == Replace::None {
            return Ok(Some((Candidates { chosen, replacements: Vec::new() }, None)));
        }
        let Some((replacements, work)) = self.replacements(&chosen)? else { return Ok(None) };
        let looks_for_blocks = |c: &Chosen| !matches!(c.method, Influence | Output | Greedy);
        let place = |c: &Chosen| {
            let fitted = replacements.iter().position(|r| r.removal == c.removal);
            fitted.filter(|_| looks_for_blocks(c))
        };
        let replaced =
            chosen.iter().filter_map(|c| Some(Chosen { replacement: Some(place(c)?), ..c.clone() }));
        let replaced: Vec<Chosen> = replaced.collect();
        chosen.extend(replaced);
        // With and without a map side by side.
        chosen.sort_by_key(|c| (c.method, c.removal.count()));
        Ok(Some((Candidates { chosen, replacements }, Some(work))))
    }
}

/// What an earlier run of the job exported, if it is still recommended.
fn earlier_export(folder: &Folder, results: &Pruning) -> Option<Exported> {
    let earlier = Pruning::read(&folder.path().join(folder::PRUNE)).ok()?;
    let chosen = |p: &Pruning| {
        let candidate = &p.candidates[p.choice.index?];
        Some((candidate.removed.clone(), candidate.replaced.is_some()))
    };
    let export = earlier.export.clone().filter(|export| folder.path().join(&export.path).exists())?;
    (chosen(&earlier)? == chosen(results)?).then_some(export)
}

/// Time and memory of the stages.
#[derive(Default)]
struct Stages(BTreeMap<String, Resources>);

impl Stages {
    fn took(&mut self, stage: &str, started: Instant) {
        let seconds = started.elapsed().as_secs_f64();
        self.0.insert(stage.to_owned(), Resources { seconds, peak_bytes: fathom_probes::peak_bytes() });
    }
}
