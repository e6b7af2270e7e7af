//! Carrying out a pruning: from the open checkpoint to the results folder.

use super::assemble::Parts;
use super::candidates::{Candidates, Chosen};
use super::job::Job;
use super::known::{self, Known};
use super::prefill::Prefill;
use super::questions::Questions;
use super::texts::read_both;
use super::{export, linear, run};
use crate::device::OnDevice;
use crate::observer::{Cancellable, uncounted};
use crate::prompts::OpenSet;
use crate::resume::{refuse_foreign, start_anew};
use crate::run_options::Opened;
use crate::{Error, Observer, Prune, Pruned, Replace, Result};
use fathom_model::Backend;
use fathom_model::source::{Checkpoint, Located};
use fathom_results::text::amount;
use fathom_results::{Folder, Pruning, Resources, Work, folder};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// Chooses, measures, and writes everything to the results folder.
pub(super) fn prune(p: &Prune, observer: &dyn Observer) -> Result<Pruned> {
    let started = Instant::now();
    let opened = p.options.open(&p.texts(), "prune-", observer)?;
    let Opened { data, located, checkpoint, folder, lock: _lock } = opened;
    let task = Pruner { p, data, located, checkpoint, folder: &folder, started, observer };
    let results = p.options.model.device.run(observer, task)?;
    Ok(Pruned { folder: folder.path().to_owned(), results, elapsed: started.elapsed() })
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
        let loaded = p.options.model.load_causal(checkpoint, backend, "pruning", observer)?;
        let [calibration, heldout] = read_both(p, data, &loaded, observer)?;
        let questions = Questions::read(p, &loaded, observer)?;
        let is_cancelled = || observer.is_cancelled();
        let texts = [&calibration, &heldout];
        let job = Job::new(p, &loaded, texts, questions.as_ref(), observer, &is_cancelled)?;
        if p.export.is_some() {
            export::check(p, &located.path, job.is_gguf(), folder)?;
        }
        job.introduce(&located);
        p.options.remark(observer);

        let hashing = uncounted(observer, "hashing the weights");
        let hashes = loaded.weights.sha256();
        drop(hashing);
        let mut run = job.describe(&located, &hashes);
        let known = job.earlier(folder, &mut run)?;
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
        let config = self.model().config();
        self.observer.note(&format!(
            "{}: {}, {} layers, {} parameters in {}; calibration: {}; held out: {}",
            located.id,
            config.architecture,
            config.depth(),
            amount(self.model().parameters()),
            self.model().dtype().name(),
            self.calibration.about,
            self.heldout.about,
        ));
    }

    /// What an earlier run of the same job has left.
    fn earlier<'f>(&self, folder: &'f Folder, run: &mut Value) -> Result<Known<'f>> {
        if self.p.options.overwrite {
            start_anew(folder)?;
            return Ok(Known::new(folder));
        }
        match folder.run()? {
            Some(earlier) => {
                run::check_same(&earlier, run, folder.path())?;
                run::keep_questions(&earlier, run);
            }
            None => refuse_foreign(folder)?,
        }
        Known::of(folder)
    }

    fn carry_out(&self, located: &Located, mut known: Known<'_>, run: &Value) -> Result<Pruning> {
        let folder = known.folder;
        let mut stages = Stages::of(folder.path());
        let (candidates, prefill) = self.measure(&mut known, &mut stages)?;
        let (candidates, known, stages) = (&candidates, &known, stages.0);
        let mut results = Parts { job: self, located, candidates, known, stages, prefill }.results()?;
        results.export = export::earlier(folder.path());
        let keep = |results: &Pruning| Ok(fathom_report::prune::write(folder, results, run)?);
        match (self.p.export, &results.export) {
            (None, _) => {}
            (Some(_), Some(there)) if export::is_recommended(there, &results) => {
                self.observer.note(&format!(
                    "{} is there already and kept; `fathom prune --verify` compares it with its source",
                    folder.path().join(&there.path).display()
                ));
            }
            (Some(format), _) => {
                // A failed export costs no result.
                keep(&results)?;
                self.export(format, located, candidates, folder, &mut results, &keep)?;
            }
        }
        Ok(results)
    }

    /// Chooses and measures. What is finished is kept, line by line.
    fn measure(&self, known: &mut Known<'_>, stages: &mut Stages) -> Result<(Candidates<B>, Prefill)> {
        let folder = known.folder.path().display().to_string();
        let interrupted = |doing: &str| {
            Error::Cancelled(format!(
                "interrupted while {doing}; what was finished is in {folder}, and the same command goes on"
            ))
        };
        let finished = |is_finished: bool, doing: &str| match is_finished {
            true => Ok(()),
            false => Err(interrupted(doing)),
        };
        let scored = stages.time(known::CALIBRATION, || self.score(known))?;
        finished(scored, "reading the calibration texts")?;
        let searched = stages.time(known::SEARCH, || self.search(known))?;
        finished(searched, "searching")?;
        let started = Instant::now();
        let fitted = self.candidates(known)?;
        let (candidates, fitting) = fitted.ok_or_else(|| interrupted("fitting linear maps"))?;
        if let Some(work) = fitting {
            known.cost.insert(linear::FIT.to_owned(), work);
            stages.took(linear::FIT, started);
        }
        let proven = stages.time(known::PROOF, || self.prove(&candidates, known))?;
        finished(proven, "measuring the candidates")?;
        if self.questions.is_some() {
            let answered = stages.time(known::CHOICES, || self.answer(&candidates, known))?;
            finished(answered, "answering the questions")?;
        }
        let prefill = self.time_prefill(&candidates)?.ok_or_else(|| interrupted("timing the prefill"))?;
        Ok((candidates, prefill))
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

/// Time and memory of the stages.
struct Stages(BTreeMap<String, Resources>);

impl Stages {
    /// Those of an earlier run, which this one continues. A run that was killed left no account of its time.
    fn of(folder: &Path) -> Self {
        let earlier = Pruning::read(&folder.join(folder::PRUNE));
        Self(earlier.map(|pruning| pruning.resources.stages).unwrap_or_default())
    }

    /// Does a stage and notes what it took.
    fn time<T>(&mut self, stage: &str, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = work();
        self.took(stage, started);
        done
    }

    fn took(&mut self, stage: &str, started: Instant) {
        let all = self.0.entry(stage.to_owned()).or_default();
        all.seconds += started.elapsed().as_secs_f64();
        all.peak_bytes = all.peak_bytes.max(fathom_probes::peak_bytes());
    }
}
