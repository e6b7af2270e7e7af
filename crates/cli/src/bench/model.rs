//! The speed of a model: its way through a prompt, and each probe.

use super::clock::{self, Effort, Speed};
use crate::{interrupt, texts};
use anyhow::{Result, anyhow};
use fathom_data::{Options, Prompt, PromptSet};
use fathom_model::source::{Loaded, Located};
use fathom_probes::{Cost, Costs, Pair, Probe, Settings, Text, Watch, gradients, skip};
use serde::Serialize;
use std::convert::Infallible;

/// Tokens of the prompt that is timed, as most built-in prompts have about.
pub(super) const PREFILL: usize = 150;

/// Timings of a model: the prompt and each probe.
pub(super) const STEPS: usize = 1 + Probe::ALL.len();

/// Positions of the skip probe in each prompt.
const POSITIONS: usize = 4;

/// What probes may hold beside the weights; they need less on models of usual sizes, and
/// what does not depend on the machine can be compared.
const MEMORY: u64 = 4 << 30;

/// Everything that is measured of a model.
#[derive(Serialize)]
pub(super) struct OfModel {
    pub(super) id: String,
    revision: Option<String>,
    architecture: String,
    layers: usize,
    parameters: u64,
    pub(super) dtype: &'static str,
    pub(super) prefill: Prefill,
    /// Prompts of the probes, with so many tokens in all.
    pub(super) prompts: usize,
    pub(super) tokens: usize,
    /// Question-answer pairs of erasure and gradients.
    pub(super) pairs: usize,
    /// Steps on the paths of gradients.
    pub(super) steps: u32,
    pub(super) probes: Vec<ProbeSpeed>,
}

/// One prompt through all layers, every step kept, without the head.
#[derive(Serialize)]
pub(super) struct Prefill {
    pub(super) tokens: usize,
    pub(super) tokens_per_second: f64,
    #[serde(rename = "madds")]
    macs: u64,
    #[serde(flatten)]
    pub(super) speed: Speed,
}

/// How fast a probe is, without the clean run.
#[derive(Serialize)]
pub(super) struct ProbeSpeed {
    pub(super) probe: &'static str,
    pub(super) edits: u64,
    #[serde(rename = "madds")]
    pub(super) macs: u64,
    #[serde(flatten)]
    pub(super) speed: Speed,
}

/// Describes a model and times its way through a prompt.
pub(super) fn describe(located: &Located, loaded: &Loaded, effort: &Effort) -> Result<OfModel> {
    let (model, config) = (&loaded.model, loaded.model.config());
    let texts = prompts(loaded, effort)?;
    Ok(OfModel {
        id: located.id.clone(),
        revision: located.revision.clone(),
        architecture: config.architecture.clone(),
        layers: config.depth(),
        parameters: model.parameters(),
        dtype: model.dtype().name(),
        prefill: prefill(loaded, effort)?,
        prompts: texts.len(),
        tokens: texts.iter().map(|t| t.tokens.len()).sum(),
        pairs: pairs(loaded, effort)?.len(),
        steps: effort.steps,
        probes: Vec::new(),
    })
}

fn prefill(loaded: &Loaded, effort: &Effort) -> Result<Prefill> {
    let model = &loaded.model;
    let mut tokens = Vec::new();
    for prompt in builtin(fathom_data::DEFAULT)?.prompts {
        tokens.extend(loaded.tokenizer.encode(&prompt.text)?);
    }
    tokens.truncate(PREFILL.min(model.config().context));
    let run = || model.run(&[&tokens]);
    // The first time touches memory.
    run()?;
    let macs = model.layers_macs(tokens.len());
    let speed = clock::time(effort, model.dtype(), macs, &mut || {
        let (seconds, traces) = clock::seconds(run);
        traces?;
        Ok(seconds)
    })?;
    Ok(Prefill { tokens: tokens.len(), tokens_per_second: tokens.len() as f64 / speed.seconds, macs, speed })
}

/// Measures each probe on its own and hands its speed out.
pub(super) fn measure_probes(
    loaded: &Loaded,
    effort: &Effort,
    of_model: &mut OfModel,
    each: &mut dyn FnMut(&ProbeSpeed) -> Result<()>,
) -> Result<()> {
    let (texts, pairs) = (prompts(loaded, effort)?, pairs(loaded, effort)?);
    for probe in Probe::ALL {
        let speed = one(loaded, probe, &texts, &pairs, effort)?;
        each(&speed)?;
        of_model.probes.push(speed);
    }
    Ok(())
}

fn one(loaded: &Loaded, probe: Probe, texts: &[Text], pairs: &[Pair], effort: &Effort) -> Result<ProbeSpeed> {
    let settings = settings(probe, effort);
    let mut last = Cost::default();
    let mut speed = clock::time(effort, loaded.model.dtype(), 0, &mut || {
        last = cost(loaded, probe, texts, pairs, &settings)?;
        Ok(last.seconds.max(1e-9))
    })?;
    // The same work every time, which is counted only while it is done.
    speed.gflops = clock::gflops(last.macs as f64 / speed.seconds);
    speed.share_of_peak = speed.gflops / speed.peak_gflops;
    Ok(ProbeSpeed { probe: probe.name(), edits: last.edits, macs: last.macs, speed })
}

/// What one probe costs, without the clean runs that it starts from.
fn cost(loaded: &Loaded, probe: Probe, texts: &[Text], pairs: &[Pair], settings: &Settings) -> Result<Cost> {
    let watch = Watch { stop: &interrupt::stopped, ..Watch::NOBODY };
    let mut ignore = |_| Ok::<(), Infallible>(());
    let costs: Costs = match probe.needs_pairs() {
        false => fathom_probes::measure(&loaded.model, texts, settings, watch, &mut ignore)?,
        true => fathom_probes::measure_pairs(&loaded.model, texts, pairs, settings, watch, &mut ignore)?,
    };
    costs.get(probe.name()).copied().ok_or_else(|| anyhow!("{} told no costs", probe.name()))
}

fn settings(probe: Probe, effort: &Effort) -> Settings {
    let quadrature = gradients::Quadrature::Riemann(effort.steps);
    let gradients = gradients::Settings { quadrature, ..gradients::Settings::default() };
    Settings {
        probes: vec![probe],
        memory: MEMORY,
        naive: false,
        longest_text: 0,
        longest_pair: 0,
        skip: skip::Settings::default(),
        gradients,
    }
}

fn builtin(name: &str) -> Result<PromptSet> {
    let options = Options { limit: None, seed: Options::SEED, rng: fathom_data::Rng::default() };
    Ok(fathom_data::load(name, &options)?)
}

/// The first built-in prompts, cut to the tokens that the effort allows.
fn prompts(loaded: &Loaded, effort: &Effort) -> Result<Vec<Text>> {
    let most = effort.tokens.min(loaded.model.config().context);
    let prompts = builtin(fathom_data::DEFAULT)?.prompts;
    prompts.into_iter().take(effort.prompts).map(|prompt| text(loaded, prompt, most)).collect()
}

fn text(loaded: &Loaded, prompt: Prompt, most: usize) -> Result<Text> {
    let mut tokens = loaded.tokenizer.encode(&prompt.text)?;
    tokens.truncate(most);
    let spread = (1..=POSITIONS).map(|i| i * tokens.len() / (POSITIONS + 1));
    let positions = spread.filter(|t| (2..tokens.len()).contains(t)).collect();
    let pieces = tokens.iter().map(|t| loaded.tokenizer.piece(*t)).collect();
    Ok(Text { id: prompt.id, group: prompt.group, text_sha256: None, tokens, pieces, positions })
}

/// The first built-in pairs.
fn pairs(loaded: &Loaded, effort: &Effort) -> Result<Vec<Pair>> {
    let mut set = builtin("qa")?;
    set.prompts.truncate(effort.pairs);
    texts::pairs(&set, &loaded.tokenizer, loaded.model.config())
}
