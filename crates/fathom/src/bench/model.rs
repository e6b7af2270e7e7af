//! The speed of a model: prefill, and each probe.

use super::clock::{self, Speed};
use super::effort::Effort;
use crate::{Error, Observer, Result, tokenise};
use fathom_data::{Options, Prompt, PromptSet};
use fathom_model::Backend;
use fathom_model::source::{Loaded, Located};
use fathom_probes::{
    Cost, Costs, GradientOptions, ProbeOptions, SkipOptions, TokenizedPair, TokenizedPrompt,
};
use fathom_results::{Probe, Quadrature};
use serde::Serialize;
use std::convert::Infallible;

/// Timings of a model: the prompt and each probe.
pub(super) const STEPS: usize = 1 + Probe::COMMON.len();

/// Positions of the skip probe in each prompt.
const POSITIONS: usize = 4;

/// What probes may hold beside the weights; they need less on models of usual sizes, and
/// what does not depend on the machine can be compared.
const MEMORY: u64 = 4 << 30;

/// Everything that is measured of a model.
#[derive(Clone, Debug, Serialize)]
pub struct ModelSpeed {
    /// The model.
    pub id: String,
    /// The commit, where known.
    pub revision: Option<String>,
    /// The architecture's name.
    pub architecture: String,
    /// The number of layers.
    pub layers: usize,
    /// The number of parameters.
    pub parameters: u64,
    /// The type in which weights are multiplied.
    pub dtype: &'static str,
    /// One prompt through all layers.
    pub prefill: PrefillSpeed,
    /// Prompts of the probes.
    pub prompts: usize,
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Question-answer pairs of erasure and gradients.
    pub pairs: usize,
    /// Steps on the paths of gradients.
    pub steps: u32,
    /// Each probe.
    pub probes: Vec<ProbeSpeed>,
}

/// One prompt through all layers, every step kept, without the head.
#[derive(Clone, Debug, Serialize)]
pub struct PrefillSpeed {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Multiply-adds.
    #[serde(rename = "madds")]
    pub macs: u64,
    /// Times and speed.
    #[serde(flatten)]
    pub speed: Speed,
}

/// How fast a probe is, without the clean run.
#[derive(Clone, Debug, Serialize)]
pub struct ProbeSpeed {
    /// The probe.
    pub probe: &'static str,
    /// Edited runs.
    pub edits: u64,
    /// Multiply-adds.
    #[serde(rename = "madds")]
    pub macs: u64,
    /// Times and speed.
    #[serde(flatten)]
    pub speed: Speed,
}

/// Describes a model and times its way through a prompt.
pub(super) fn describe<B: Backend>(
    located: &Located,
    loaded: &Loaded<B>,
    effort: &Effort,
    observer: &dyn Observer,
) -> Result<ModelSpeed> {
    let (model, config) = (&loaded.model, loaded.model.config());
    let texts = prompts(loaded, effort)?;
    Ok(ModelSpeed {
        id: located.id.clone(),
        revision: located.revision.clone(),
        architecture: config.architecture.clone(),
        layers: config.depth(),
        parameters: model.parameters(),
        dtype: model.dtype().name(),
        prefill: prefill(loaded, effort)?,
        prompts: texts.len(),
        tokens: texts.iter().map(|t| t.tokens.len()).sum(),
        pairs: pairs(loaded, effort, observer)?.len(),
        steps: effort.steps,
        probes: Vec::new(),
    })
}

fn prefill<B: Backend>(loaded: &Loaded<B>, effort: &Effort) -> Result<PrefillSpeed> {
    let model = &loaded.model;
    let mut tokens = Vec::new();
    for prompt in builtin(fathom_data::DEFAULT)?.prompts {
        tokens.extend(loaded.tokenizer.encode(&prompt.text)?);
    }
    tokens.truncate(effort.prefill.min(model.config().context));
    let run = || model.run(&[&tokens]);
    // The first time touches memory.
    run()?;
    let macs = model.layers_macs(tokens.len());
    let speed = clock::time(model.backend(), effort, model.dtype(), macs, &mut || {
        let (seconds, traces) = clock::seconds(model.backend(), run);
        traces?;
        Ok(seconds)
    })?;
    Ok(PrefillSpeed {
        tokens: tokens.len(),
        tokens_per_second: tokens.len() as f64 / speed.seconds,
        macs,
        speed,
    })
}

/// Measures each probe on its own and hands its speed out.
pub(super) fn measure_probes<B: Backend>(
    loaded: &Loaded<B>,
    effort: &Effort,
    of_model: &mut ModelSpeed,
    observer: &dyn Observer,
    each: &mut dyn FnMut(&ProbeSpeed) -> Result<()>,
) -> Result<()> {
    let (texts, pairs) = (prompts(loaded, effort)?, pairs(loaded, effort, observer)?);
    for probe in Probe::COMMON {
        let speed = one(loaded, probe, (&texts, &pairs), effort, observer)?;
        each(&speed)?;
        of_model.probes.push(speed);
    }
    Ok(())
}

fn one<B: Backend>(
    loaded: &Loaded<B>,
    probe: Probe,
    (prompts, pairs): (&[TokenizedPrompt], &[TokenizedPair]),
    effort: &Effort,
    observer: &dyn Observer,
) -> Result<ProbeSpeed> {
    let options = options(probe, effort);
    let mut last = Cost::default();
    let mut speed = clock::time(loaded.model.backend(), effort, loaded.model.dtype(), 0, &mut || {
        last = cost(loaded, probe, (prompts, pairs), &options, observer)?;
        Ok(last.resources.seconds.max(1e-9))
    })?;
    // The same work every time, which is counted only while it is done.
    speed.gflops = clock::gflops(last.work.macs as f64 / speed.seconds);
    speed.share_of_peak = speed.gflops / speed.peak_gflops;
    Ok(ProbeSpeed { probe: probe.name(), edits: last.work.edits, macs: last.work.macs, speed })
}

/// What one probe costs, without the clean runs that it starts from.
fn cost<B: Backend>(
    loaded: &Loaded<B>,
    probe: Probe,
    (prompts, pairs): (&[TokenizedPrompt], &[TokenizedPair]),
    options: &ProbeOptions,
    observer: &dyn Observer,
) -> Result<Cost> {
    let callbacks = fathom_probes::Observer {
        is_cancelled: &|| observer.is_cancelled(),
        ..fathom_probes::Observer::NONE
    };
    let mut ignore = |_| Ok::<(), Infallible>(());
    let costs: Costs = match probe.needs_pairs() {
        false => fathom_probes::measure(&loaded.model, prompts, options, callbacks, &mut ignore)?,
        true => fathom_probes::measure_pairs(&loaded.model, prompts, pairs, options, callbacks, &mut ignore)?,
    };
    costs
        .get(probe.name())
        .copied()
        .ok_or_else(|| Error::Invalid(format!("probe {} reported no cost", probe.name())))
}

fn options(probe: Probe, effort: &Effort) -> ProbeOptions {
    let quadrature = Quadrature::Riemann(effort.steps);
    let gradients = GradientOptions { quadrature, ..GradientOptions::default() };
    ProbeOptions {
        lens_maps: 0,
        probes: vec![probe],
        memory: MEMORY,
        naive: false,
        longest_text: 0,
        longest_pair: 0,
        skip: SkipOptions::default(),
        gradients,
    }
}

fn builtin(name: &str) -> Result<PromptSet> {
    let options = Options { limit: None, seed: Options::SEED, rng: fathom_data::Rng::default() };
    Ok(fathom_data::load(name, &options)?)
}

/// The first built-in prompts, cut to the tokens that the effort allows.
fn prompts<B: Backend>(loaded: &Loaded<B>, effort: &Effort) -> Result<Vec<TokenizedPrompt>> {
    let most = effort.tokens.min(loaded.model.config().context);
    let prompts = builtin(fathom_data::DEFAULT)?.prompts;
    prompts.into_iter().take(effort.prompts).map(|prompt| text(loaded, prompt, most)).collect()
}

fn text<B: Backend>(loaded: &Loaded<B>, prompt: Prompt, most: usize) -> Result<TokenizedPrompt> {
    let mut tokens = loaded.tokenizer.encode(&prompt.text)?;
    tokens.truncate(most);
    let spread = (1..=POSITIONS).map(|i| i * tokens.len() / (POSITIONS + 1));
    let positions = spread.filter(|t| (2..tokens.len()).contains(t)).collect();
    let pieces = tokens.iter().map(|t| loaded.tokenizer.piece(*t)).collect();
    Ok(TokenizedPrompt {
        masked: None,
        id: prompt.id,
        group: prompt.group,
        text_sha256: None,
        tokens,
        pieces,
        positions,
    })
}

/// The first built-in pairs.
fn pairs<B: Backend>(
    loaded: &Loaded<B>,
    effort: &Effort,
    observer: &dyn Observer,
) -> Result<Vec<TokenizedPair>> {
    let mut set = builtin("qa")?;
    set.prompts.truncate(effort.pairs);
    tokenise::pairs(&set, &loaded.tokenizer, loaded.model.config(), observer)
}
