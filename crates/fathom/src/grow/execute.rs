//! Carrying out a growth: from the open checkpoint to the results folder.

use super::loss::{largest_difference, losses, macs, memory_of, read, some_logits};
use super::results::Parts;
use super::write::{GROWN, Written, grower, origins, write};
use super::{GrowEstimate, Grown, StageEstimate};
use crate::device::OnDevice;
use crate::error::invalid;
use crate::execute::model_info;
use crate::objective::{refuse_masked, refuse_side_inputs};
use crate::observer::{Cancellable, uncounted};
use crate::prompts::OpenSet;
use crate::resume::{refuse_foreign, start_anew};
use crate::run::{self, refuse_differences, refuse_other_kind};
use crate::run_options::Opened;
use crate::texts::Texts;
use crate::{Error, Grow, Measurement, Observer, Result};
use fathom_model::source::{Checkpoint, Located};
use fathom_model::{Backend, Model};
use fathom_results::text::amount;
use fathom_results::{Depth, Folder, GrowMethod, Growing, LayerOrigin, Lock, ModelInfo, Work, folder};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// What was measured of a model on the held-out texts.
pub(super) struct OnTexts {
    pub(super) info: ModelInfo,
    /// The negative log-likelihood of each text.
    pub(super) nll: Vec<f64>,
    pub(super) work: Work,
    /// Logits to compare, where they are.
    logits: Vec<Vec<f32>>,
}

/// A growth whose effective depths are still to be measured. The folder stays locked.
pub(super) struct Measured {
    folder: Folder,
    _lock: Lock,
    run: Value,
    written: Written,
    results: Growing,
    started: Instant,
}

/// Makes the layers, writes the model, and measures the losses of both.
pub(super) fn grow(g: &Grow, observer: &dyn Observer) -> Result<Measured> {
    let started = Instant::now();
    let kind = format!("grow-{}-{}-", g.recipe.method.name(), g.recipe.layers);
    let Opened { data, located, checkpoint, folder, lock } = g.options.open(&g.texts(), &kind, observer)?;
    // Fail before the weights are loaded.
    refuse_masked(checkpoint.config(), "growing")?;
    let origins = origins(g, &checkpoint)?;
    grower(g, &checkpoint, &origins)?;
    g.options.remark(observer);
    let device = g.options.model.device;
    let source = Source { g, data, located: &located, checkpoint, folder: &folder, observer };
    let (mut run, texts, before, earlier) = device.run(observer, source)?;
    let _cancellable = Cancellable::begin(observer);
    let written = match earlier {
        Some(written) => {
            observer.note(&format!("{} is there already and kept", written.model(folder.path()).display()));
            written
        }
        None => {
            let checkpoint = Checkpoint::open(&located.path)?;
            let written = write(g, &checkpoint, &located, &folder, observer)?;
            run["grow"]["written"] = json!(written);
            folder.write_json_atomic(folder::RUN, &run)?;
            written
        }
    };
    let target = Target { g, texts: &texts, model: &written.model(folder.path()), folder: &folder, observer };
    let (after, sha256) = device.run(observer, target)?;
    let difference =
        (g.recipe.method == GrowMethod::LlamaPro).then(|| largest_difference(&before.logits, &after.logits));
    let results =
        Parts { g, texts: &texts, origins, before, after, written: &written, sha256, difference, started }
            .results(observer);
    fathom_report::grow::write(&folder, &results, &run)?;
    Ok(Measured { folder, _lock: lock, run, written, results, started })
}

impl Measured {
    /// Measures the effective depths of both models, each into a folder of its own, and writes the results.
    pub(super) fn with_depths(mut self, g: &Grow, observer: &dyn Observer) -> Result<Grown> {
        let path = self.folder.path().to_owned();
        let model = self.written.model(&path);
        if g.depth_prompts > 0 {
            observer.note("effective depth before");
            self.results.before.depth = depths(g, None, &path.join("before"), observer)?;
            observer.note("effective depth after");
            self.results.after.depth = depths(g, Some(&model), &path.join("after"), observer)?;
        }
        self.run["status"] = "complete".into();
        self.run["finished"] = run::now().into();
        self.run["seconds"] = self.started.elapsed().as_secs_f64().into();
        fathom_report::grow::write(&self.folder, &self.results, &self.run)?;
        Ok(Grown { folder: path, model, results: self.results, elapsed: self.started.elapsed() })
    }
}

/// The effective depths of the source, or of another model, by the probes of the clean run.
fn depths(g: &Grow, model: Option<&Path>, out: &Path, observer: &dyn Observer) -> Result<Vec<Depth>> {
    let mut m = Measurement::new(g.options.model.id.as_str());
    m.options = g.options.clone();
    m.options.data = g.texts();
    let limit = m.options.data.limit.unwrap_or(usize::MAX);
    m.options.data.limit = Some(limit.min(g.depth_prompts));
    m.options.out = Some(out.to_owned());
    if let Some(model) = model {
        m.options.model.id = model.to_string_lossy().into_owned();
        m.options.model.revision = None;
    }
    let measured = m.run(observer)?;
    match measured.cancelled {
        Some(how_far) => Err(Error::Cancelled(how_far)),
        None => Ok(measured.results.depth),
    }
}

/// Measures the source.
struct Source<'a> {
    g: &'a Grow,
    data: OpenSet,
    located: &'a Located,
    checkpoint: Checkpoint,
    folder: &'a Folder,
    observer: &'a dyn Observer,
}

impl OnDevice for Source<'_> {
    type Output = (Value, Texts, OnTexts, Option<Written>);

    fn run<B: Backend>(self, backend: B) -> Result<Self::Output> {
        let Self { g, data, located, checkpoint, folder, observer } = self;
        let loaded = g.options.model.load(checkpoint, backend, observer)?;
        let texts = read(g, data, &loaded, observer)?;
        let info = model_info(located, &loaded);
        observer.note(&format!(
            "{}: {}, {} layers to {} by {}, {} parameters in {}; held out: {}",
            located.id,
            info.architecture,
            info.layers,
            g.recipe.layers,
            g.recipe.method.name(),
            amount(info.parameters),
            info.dtype,
            texts.about
        ));
        let hashing = uncounted(observer, "hashing the weights");
        let hashes = loaded.weights.sha256();
        drop(hashing);
        let mut run = run::provenance(&g.options.command, located, &loaded, &hashes);
        describe(g, &mut run, &texts);
        run["memory_bytes"] = memory_of(g, &loaded.model).into();
        let earlier = earlier(g, folder, &run)?;
        if let Some(written) = &earlier {
            run["grow"]["written"] = json!(written);
        }
        folder.write_json_atomic(folder::RUN, &run)?;
        let _cancellable = Cancellable::begin(observer);
        let before = measure(g, &loaded.model, info, &texts, ("measuring the source", observer))?;
        Ok((run, texts, before, earlier))
    }
}

/// Measures the grown model.
struct Target<'a> {
    g: &'a Grow,
    texts: &'a Texts,
    model: &'a Path,
    folder: &'a Folder,
    observer: &'a dyn Observer,
}

impl OnDevice for Target<'_> {
    type Output = (OnTexts, Vec<String>);

    fn run<B: Backend>(self, backend: B) -> Result<Self::Output> {
        let Self { g, texts, model, folder, observer } = self;
        let checkpoint = Checkpoint::open(model)?;
        let loaded = g.options.model.load(checkpoint, backend, observer)?;
        let id = model.strip_prefix(folder.path()).unwrap_or(model).to_string_lossy().into_owned();
        let located = Located { id, revision: None, path: model.to_owned() };
        let info = model_info(&located, &loaded);
        let hashing = uncounted(observer, "hashing the weights");
        let sha256 = loaded.weights.sha256();
        drop(hashing);
        let after = measure(g, &loaded.model, info, texts, ("measuring the grown model", observer))?;
        Ok((after, sha256))
    }
}

fn measure<B: Backend>(
    g: &Grow,
    model: &Model<B>,
    info: ModelInfo,
    texts: &Texts,
    doing: (&str, &dyn Observer),
) -> Result<OnTexts> {
    let (nll, work) = losses(model, &texts.texts, memory_of(g, model), doing)?;
    let compares = g.recipe.method == GrowMethod::LlamaPro;
    let logits = if compares { some_logits(model, &texts.texts)? } else { Vec::new() };
    Ok(OnTexts { info, nll, work, logits })
}

/// Everything known before anything is measured.
fn describe(g: &Grow, run: &mut Value, texts: &Texts) {
    let lesa = (g.recipe.method == GrowMethod::Lesa)
        .then(|| json!({"epochs": g.lesa.epochs, "norm_weight": g.lesa.norm_weight}));
    run["grow"] = json!({
        "method": g.recipe.method,
        "layers": g.recipe.layers,
        "insert": g.recipe.insert,
        "block": g.recipe.block,
        "norms": match g.norms { super::NewNorms::Mean => "mean", super::NewNorms::First => "first" },
        "lesa": lesa,
        "heldout": texts.about,
    });
    g.options.record(run);
}

/// The model that an earlier run of the same job wrote.
fn earlier(g: &Grow, folder: &Folder, run: &Value) -> Result<Option<Written>> {
    if g.options.overwrite {
        start_anew(folder)?;
    }
    let earlier = match folder.run()?.filter(|_| !g.options.overwrite) {
        Some(earlier) => {
            refuse_other_kind(&earlier, Some("grow"), folder.path())?;
            let compared = [
                ("another method", "/grow/method"),
                ("another number of layers", "/grow/layers"),
                ("other places of new layers (--insert)", "/grow/insert"),
                ("another block", "/grow/block"),
                ("other norms", "/grow/norms"),
                ("another training", "/grow/lesa"),
                ("other held-out texts", "/grow/heldout"),
            ];
            refuse_differences(&earlier, run, &compared, Vec::new(), folder.path())?;
            Written::of(&earlier, folder.path())
        }
        None => {
            refuse_foreign(folder)?;
            None
        }
    };
    let target = folder.path().join(GROWN);
    if earlier.is_none() && std::fs::symlink_metadata(&target).is_ok() {
        invalid!(
            "{} exists and would be overwritten; move it away, or choose another folder with -o",
            target.display()
        );
    }
    Ok(earlier)
}

/// Counts what [`grow`] takes.
pub(super) fn estimate(g: &Grow, observer: &dyn Observer) -> Result<GrowEstimate> {
    let data = OpenSet::open(&g.texts(), observer)?;
    g.options.model.device.run(observer, Estimating { g, data, observer })
}

struct Estimating<'a> {
    g: &'a Grow,
    data: OpenSet,
    observer: &'a dyn Observer,
}

impl OnDevice for Estimating<'_> {
    type Output = GrowEstimate;

    fn run<B: Backend>(self, backend: B) -> Result<GrowEstimate> {
        let Self { g, data, observer } = self;
        let (_, checkpoint) = g.options.model.open(observer)?;
        refuse_masked(checkpoint.config(), "growing")?;
        refuse_side_inputs(checkpoint.config(), "growing")?;
        let origins: Vec<LayerOrigin> = origins(g, &checkpoint)?;
        let (train, making_bytes) = {
            let grower = grower(g, &checkpoint, &origins)?;
            (grower.macs(), grower.bytes())
        };
        let loaded = g.options.model.load(checkpoint, backend, observer)?;
        let texts = read(g, data, &loaded, observer)?;
        let memory = memory_of(g, &loaded.model);
        let calibrating = uncounted(observer, "calibrating");
        let started = Instant::now();
        let first = &texts.texts[..1];
        losses(&loaded.model, first, memory, ("calibrating", &crate::Silent))?;
        let speed = macs(&loaded.model, first) as f64 / started.elapsed().as_secs_f64();
        drop(calibrating);
        let before = macs(&loaded.model, &texts.texts);
        let share = origins.len() as f64 / loaded.model.config().depth() as f64;
        let stages = [("train", train), ("measure", before + (before as f64 * share) as u64)];
        let stage = |(stage, macs): (&str, u64)| StageEstimate {
            stage: stage.to_owned(),
            macs,
            seconds: macs as f64 / speed,
        };
        Ok(GrowEstimate {
            stages: stages.into_iter().map(stage).collect(),
            weight_bytes: loaded.model.bytes(),
            making_bytes,
            memory_bytes: memory,
        })
    }
}
