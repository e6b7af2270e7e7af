//! Carrying out a measurement of early exits: from the open checkpoint to the results folder.

use super::job::{FIT, Job, Known, MEASURE};
use super::texts::read;
use super::{ExitEstimate, StageEstimate};
use crate::device::OnDevice;
use crate::observer::{Cancellable, uncounted};
use crate::prompts::OpenSet;
use crate::resume::{refuse_foreign, start_anew};
use crate::run::{self, refuse_differences, refuse_other_kind};
use crate::run_options::Opened;
use crate::{Exit, ExitOutcome, Observer, Result, memory};
use fathom_model::Backend;
use fathom_model::source::{Checkpoint, Located};
use fathom_results::text::amount;
use fathom_results::{ExitHead, ExitLine, Exiting, Folder, folder};
use serde_json::{Value, json};
use std::time::Instant;

/// Measures, and writes everything to the results folder.
pub(super) fn exit(e: &Exit, observer: &dyn Observer) -> Result<ExitOutcome> {
    let started = Instant::now();
    let opened = e.options.open(&e.texts(), "exit-", observer)?;
    let Opened { data, located, checkpoint, folder, lock: _lock } = opened;
    let task = Exits { e, data, located, checkpoint, folder: &folder, started, observer };
    let results = e.options.model.device.run(observer, task)?;
    Ok(ExitOutcome { folder: folder.path().to_owned(), results, elapsed: started.elapsed() })
}

/// A job whose model and texts have been opened.
struct Exits<'a> {
    e: &'a Exit,
    data: OpenSet,
    located: Located,
    checkpoint: Checkpoint,
    folder: &'a Folder,
    started: Instant,
    observer: &'a dyn Observer,
}

impl OnDevice for Exits<'_> {
    type Output = Exiting;

    fn run<B: Backend>(self, backend: B) -> Result<Exiting> {
        let Self { e, data, located, checkpoint, folder, started, observer } = self;
        let loaded = e.options.model.load_causal(checkpoint, backend, "early exit", observer)?;
        let texts = read(e, data, &loaded, observer)?;
        let memory = e.options.memory.unwrap_or_else(|| memory::default_for(&loaded.model));
        let job = Job { e, loaded: &loaded, texts: &texts, memory, observer };
        job.check()?;
        job.introduce(&located);
        e.options.remark(observer);
        let hashing = uncounted(observer, "hashing the weights");
        let hashes = loaded.weights.sha256();
        drop(hashing);
        let mut run = job.describe(&located, &hashes);
        let mut known = job.earlier(folder, &run)?;
        folder.write_json_atomic(folder::RUN, &run)?;
        {
            let _cancellable = Cancellable::begin(observer);
            job.carry_out(folder, &mut known)?;
        }
        let results = job.results(&known, &located, started)?;
        run["status"] = "complete".into();
        run["finished"] = run::now().into();
        run["seconds"] = started.elapsed().as_secs_f64().into();
        fathom_report::exit::write(folder, &results, &run)?;
        Ok(results)
    }
}

impl<B: Backend> Job<'_, B> {
    fn check(&self) -> Result<()> {
        if self.depth() < 2 {
            crate::error::invalid!("the model has {} layer, so no token can leave it early", self.depth());
        }
        let prompts = self.texts.iter().flat_map(|texts| &texts.prompts);
        memory::check_texts(self.model(), prompts, self.memory)
    }

    /// Says what is done with what.
    fn introduce(&self, located: &Located) {
        let config = self.model().config();
        let [fit, calibration, heldout] = self.texts;
        self.observer.note(&format!(
            "{}: {}, {} layers, {} parameters in {}; fit: {}; calibration: {}; held out: {}",
            located.id,
            config.architecture,
            config.depth(),
            amount(self.model().parameters()),
            self.model().dtype().name(),
            fit.about,
            calibration.about,
            heldout.about,
        ));
        let (tokens, width) = (fit.about.tokens, config.hidden as u64);
        if self.e.heads.contains(&ExitHead::Linear) && tokens < 2 * width {
            self.observer.warn(&format!(
                "linear heads of width {width} are fitted to {tokens} tokens, which is too few; give more texts, so that \
                 there are {} or more",
                2 * width
            ));
        }
    }

    /// Everything known before anything is measured.
    fn describe(&self, located: &Located, hashes: &[String]) -> Value {
        let e = self.e;
        let mut run = run::provenance(&e.options.command, located, self.loaded, hashes);
        let [fit, calibration, heldout] = self.texts;
        run["exit"] = json!({
            "heads": e.heads,
            "epsilon": e.epsilon,
            "delta": e.delta,
            "fit": fit.about,
            "calibration": calibration.about,
            "heldout": heldout.about,
        });
        run["memory_bytes"] = self.memory.into();
        e.options.record(&mut run);
        run
    }

    /// What an earlier run of the same job has left.
    fn earlier(&self, folder: &Folder, run: &Value) -> Result<Known> {
        let mut known = Known::default();
        if self.e.options.overwrite {
            start_anew(folder)?;
            return Ok(known);
        }
        match folder.run()? {
            Some(earlier) => {
                refuse_other_kind(&earlier, Some("exit"), folder.path())?;
                let compared = [
                    ("other fitting texts", "/exit/fit"),
                    ("other calibration texts", "/exit/calibration"),
                    ("other held-out texts", "/exit/heldout"),
                    ("other heads", "/exit/heads"),
                ];
                refuse_differences(&earlier, run, &compared, Vec::new(), folder.path())?;
            }
            None => refuse_foreign(folder)?,
        }
        folder.samples::<ExitLine>()?.into_iter().for_each(|line| known.add(line));
        Ok(known)
    }
}

/// Counts what [`exit`] takes.
pub(super) fn estimate(e: &Exit, observer: &dyn Observer) -> Result<ExitEstimate> {
    let data = OpenSet::open(&e.texts(), observer)?;
    e.options.model.device.run(observer, Estimating { e, data, observer })
}

struct Estimating<'a> {
    e: &'a Exit,
    data: OpenSet,
    observer: &'a dyn Observer,
}

impl OnDevice for Estimating<'_> {
    type Output = ExitEstimate;

    fn run<B: Backend>(self, backend: B) -> Result<ExitEstimate> {
        let Self { e, data, observer } = self;
        let (_, checkpoint) = e.options.model.open(observer)?;
        let loaded = e.options.model.load_causal(checkpoint, backend, "early exit", observer)?;
        let texts = read(e, data, &loaded, observer)?;
        let memory = e.options.memory.unwrap_or_else(|| memory::default_for(&loaded.model));
        let job = Job { e, loaded: &loaded, texts: &texts, memory, observer };
        job.check()?;
        let calibrating = uncounted(observer, "calibrating");
        let tokens: Vec<u32> = texts[2].prompts[0].tokens.iter().copied().take(64).collect();
        let started = Instant::now();
        let traces = loaded.model.run(&[&tokens])?;
        let lens: Vec<_> = traces
            .iter()
            .map(|trace| fathom_surgery::exit::read(&loaded.model, trace, &[], memory / 2, &|_| ()))
            .collect();
        let macs = loaded.model.layers_macs(tokens.len())
            + lens.len() as u64 * fathom_surgery::exit::macs(&loaded.model, tokens.len(), 0);
        let speed = macs as f64 / started.elapsed().as_secs_f64();
        drop(calibrating);
        let all = texts.iter().flat_map(|t| &t.prompts);
        let stages = [(FIT, job.fit_macs()), (MEASURE, all.map(|prompt| job.text_macs(prompt)).sum())];
        let stage = |(stage, macs): (&str, u64)| StageEstimate {
            stage: stage.to_owned(),
            macs,
            seconds: macs as f64 / speed,
        };
        Ok(ExitEstimate {
            stages: stages.into_iter().map(stage).collect(),
            weight_bytes: loaded.model.bytes(),
            memory_bytes: memory,
        })
    }
}
