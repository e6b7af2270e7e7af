//! Measuring one model on one set of prompts.

use crate::error::invalid;
use crate::objective::MaskOptions;
use crate::run_options::{RunOptions, run_setters};
use crate::sequences::Sequences;
use crate::{Estimate, Lens, Observer, Result, Shard, estimate, execute, lens, memory, threads};
use bytesize::ByteSize;
use fathom_analysis::BootstrapOptions;
use fathom_model::{Backend, Dtype, Model};
use fathom_probes::{GradientOptions, ProbeOptions, SkipOptions};
use fathom_results::{
    GradientSite, Objective, PathBaseline, Probe, Quadrature, Results, Rule, SkipMode, SkipPart,
};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// A measurement to be made: a model, prompts, probes and their options.
///
/// ```no_run
/// use fathom::{Measurement, Probe, Silent};
///
/// let measured = Measurement::new("Qwen/Qwen2.5-0.5B")
///     .data("gsm8k")
///     .limit(16)
///     .probes(&[Probe::Contributions, Probe::Lens])
///     .run(&Silent)?;
/// for depth in &measured.results.depth {
///     println!("{}: {:?} of {} layers", depth.rule, depth.layers_used, measured.results.model.layers);
/// }
/// # Ok::<(), fathom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    pub(crate) options: RunOptions,
    pub(crate) probes: Vec<Probe>,
    pub(crate) qa: String,
    pub(crate) skip: SkipOptions,
    /// Whether the modes of skip were set; the usual ones depend on the model.
    pub(crate) modes_chosen: bool,
    pub(crate) masks: MaskOptions,
    pub(crate) positions: usize,
    pub(crate) baseline_data: Option<String>,
    pub(crate) gradients: GradientOptions,
    pub(crate) thresholds: Vec<(Rule, f64)>,
    pub(crate) naive: bool,
    pub(crate) parquet: bool,
    pub(crate) shard: Option<Shard>,
    pub(crate) lens: Lens,
    pub(crate) lens_data: Option<String>,
}

/// A finished or cancelled measurement.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The results folder.
    pub folder: PathBuf,
    /// What was measured: `results.json`.
    pub results: Results,
    /// How far the measurement came, in a sentence, if it was cancelled. The same measurement goes on from there.
    pub cancelled: Option<String>,
    /// Wall-clock time.
    pub elapsed: Duration,
}

/// Positions per prompt of the skip probe, unless set otherwise.
pub(crate) const POSITIONS: usize = 4;

/// The set of question-answer pairs, unless set otherwise.
pub(crate) const QA: &str = "qa";

run_setters!(Measurement);

impl Measurement {
    /// The set of texts that a linear lens is fitted to, unless set otherwise.
    pub const LENS_DATA: &str = "prose";

    /// A measurement of `model` (a folder, a .gguf or .safetensors file, a Hugging Face id or a short name) by the
    /// probes of the clean run on the built-in prompts.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            options: RunOptions::new(model, fathom_data::DEFAULT),
            probes: Probe::CLEAN.to_vec(),
            qa: QA.to_owned(),
            skip: SkipOptions::default(),
            modes_chosen: false,
            masks: MaskOptions::default(),
            positions: POSITIONS,
            baseline_data: None,
            gradients: GradientOptions::default(),
            thresholds: Vec::new(),
            naive: false,
            parquet: false,
            shard: None,
            lens: Lens::Logit,
            lens_data: None,
        }
    }

    /// The prompts: the name of a set or the path of a .jsonl, .parquet, .txt or .fasta file.
    #[must_use]
    pub fn data(mut self, data: impl Into<String>) -> Self {
        self.options.data.id = data.into();
        self
    }

    /// Takes only the first `limit` prompts, and the first `limit` pairs.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.options.data.limit = Some(limit);
        self
    }

    /// The probes; those of the clean run unless set otherwise.
    #[must_use]
    pub fn probes(mut self, probes: &[Probe]) -> Self {
        self.probes = each(probes);
        self
    }

    /// The question-answer pairs of erasure and gradients: a set with answers or a file.
    #[must_use]
    pub fn qa(mut self, qa: impl Into<String>) -> Self {
        self.qa = qa.into();
        self
    }

    /// What the model is asked to predict; what it was trained for unless set otherwise.
    #[must_use]
    pub fn objective(mut self, objective: Objective) -> Self {
        self.masks.objective = Some(objective);
        self
    }

    /// The shares of a text that are masked: one, or several for [`Objective::Diffusion`].
    #[must_use]
    pub fn mask_ratios(mut self, ratios: &[f64]) -> Self {
        self.masks.ratios = ratios.to_vec();
        self
    }

    /// The seed that masks are drawn with.
    #[must_use]
    pub fn mask_seed(mut self, seed: u64) -> Self {
        self.masks.seed = Some(seed);
        self
    }

    /// Masks one position at a time, which gives the pseudo-log-likelihood of a text.
    #[must_use]
    pub fn mask_each(mut self, each: bool) -> Self {
        self.masks.each = each;
        self
    }

    /// Skip: where the bypass holds and its effect is read.
    #[must_use]
    pub fn skip_modes(mut self, modes: &[SkipMode]) -> Self {
        self.skip.modes = each(modes);
        self.modes_chosen = true;
        self
    }

    /// Skip: what of a layer is bypassed.
    #[must_use]
    pub fn skip_parts(mut self, parts: &[SkipPart]) -> Self {
        self.skip.parts = each(parts);
        self
    }

    /// Skip: the largest number of positions t per prompt, drawn from 8, 16, ... T - 5.
    #[must_use]
    pub fn positions(mut self, positions: usize) -> Self {
        self.positions = positions;
        self
    }

    /// Erasure: the prompts whose mean residual replaces a token's; those of [`data`](Self::data) unless set otherwise.
    #[must_use]
    pub fn baseline_data(mut self, data: impl Into<String>) -> Self {
        self.baseline_data = Some(data.into());
        self
    }

    /// Gradients: where attributions are taken.
    #[must_use]
    pub fn sites(mut self, sites: &[GradientSite]) -> Self {
        self.gradients.sites = each(sites);
        self
    }

    /// Gradients: where the paths start.
    #[must_use]
    pub fn baseline(mut self, baseline: PathBaseline) -> Self {
        self.gradients.baseline = baseline;
        self
    }

    /// Gradients: how integrals are taken.
    #[must_use]
    pub fn quadrature(mut self, quadrature: Quadrature) -> Self {
        self.gradients.quadrature = quadrature;
        self
    }

    /// Another threshold for a depth rule. Invalid thresholds are refused when the measurement runs.
    #[must_use]
    pub fn threshold(mut self, rule: Rule, value: f64) -> Self {
        self.thresholds.push((rule, value));
        self
    }

    /// The lens that the probes lens and settling read the stream with; the logit lens unless set otherwise.
    #[must_use]
    pub fn lens(mut self, lens: Lens) -> Self {
        self.lens = lens;
        self
    }

    /// The texts that a linear lens is fitted to: a set or a file, none of whose texts is measured;
    /// [`LENS_DATA`](Self::LENS_DATA) unless set otherwise.
    #[must_use]
    pub fn lens_data(mut self, data: impl Into<String>) -> Self {
        self.lens_data = Some(data.into());
        self
    }

    /// Whether the samples are also written as `samples.parquet`, as by [`write_samples_parquet`](crate::write_samples_parquet).
    #[must_use]
    pub fn parquet(mut self, parquet: bool) -> Self {
        self.parquet = parquet;
        self
    }

    /// Runs every edit as a full forward pass of its own: slow, for checking.
    #[must_use]
    pub fn naive(mut self, naive: bool) -> Self {
        self.naive = naive;
        self
    }

    /// Measures only a part of the prompts and pairs; [`Merge`](crate::Merge) puts the results of all parts together.
    #[must_use]
    pub fn shard(mut self, shard: Shard) -> Self {
        self.shard = Some(shard);
        self
    }

    /// Sets an option that a study may have, by its name on the command line without the dashes: `limit`, `seed`, `qa`,
    /// `dtype`, `revision`, `probes` and those of [`STUDY_OPTIONS`](crate::STUDY_OPTIONS).
    ///
    /// # Errors
    /// When the option does not exist, or the value is invalid.
    pub fn set(self, name: &str, value: &str) -> Result<Self> {
        Ok(match name {
            "limit" => self.limit(number(name, value)?),
            "split" => self.split(value),
            "max-tokens" => self.max_tokens(number(name, value)?),
            "seed" => self.seed(number(name, value)?),
            "rng" => self.rng(parsed(name, value)?),
            "qa" => self.qa(value),
            "dtype" => self.dtype(choice(name, value, &[("f32", Dtype::F32), ("bf16", Dtype::Bf16)])?),
            "revision" => self.revision(value),
            "device" => self.device(parsed(name, value)?),
            "expert-memory" => self.expert_memory(parsed::<ByteSize>(name, value)?.as_u64()),
            "probes" => self.probes(&Probe::list(value).map_err(|e| invalid_option(name, &e))?),
            "skip-modes" => self.skip_modes(&choices(name, value, &SkipMode::ALL.map(|m| (m.name(), m)))?),
            "skip-parts" => self.skip_parts(&choices(name, value, &SkipPart::ALL.map(|p| (p.name(), p)))?),
            "objective" => self.objective(choice(name, value, &Objective::ALL.map(|o| (o.name(), o)))?),
            "mask-ratio" => {
                let ratios: Result<Vec<f64>> =
                    value.split(',').map(|ratio| parsed(name, ratio.trim())).collect();
                self.mask_ratios(&ratios?)
            }
            "mask-seed" => self.mask_seed(number(name, value)?),
            "mask" => self.mask_each(choice(name, value, &[("each", true)])?),
            "positions" => match number::<u16>(name, value)? {
                0 => invalid!("{name}: give at least 1"),
                positions => self.positions(positions.into()),
            },
            "baseline-data" => self.baseline_data(value),
            "sites" => self.sites(&choices(name, value, &GradientSite::ALL.map(|s| (s.name(), s)))?),
            "baseline" => self.baseline(choice(name, value, &PathBaseline::ALL.map(|b| (b.name(), b)))?),
            "quadrature" => self.quadrature(parsed(name, value)?),
            "lens" => self.lens(parsed(name, value)?),
            "lens-data" => self.lens_data(value),
            "memory" => self.memory(parsed::<ByteSize>(name, value)?.as_u64()),
            _ => self.set_sequences(name, value)?,
        })
    }

    /// Measures, and writes the results folder. Continues what an earlier run with the same options left there.
    ///
    /// # Errors
    /// When the model or prompts cannot be read, the folder belongs to another measurement or process or cannot be
    /// written, or the observer cancels before the first prompt is finished.
    pub fn run(&self, observer: &dyn Observer) -> Result<Measured> {
        self.check()?;
        threads::run(self.options.threads, || execute::measure(self, observer))
    }

    /// Counts what the measurement will take, without measuring: edits, multiply-adds, memory and time.
    ///
    /// # Errors
    /// As [`run`](Self::run), apart from the folder.
    pub fn estimate(&self, observer: &dyn Observer) -> Result<Estimate> {
        self.check()?;
        threads::run(self.options.threads, || estimate::estimate(self, observer))
    }

    /// Refuses options that no command line can give.
    pub(crate) fn check(&self) -> Result<()> {
        self.bootstrap()?;
        lens::check(self)?;
        checked_quadrature(self.gradients.quadrature)?;
        self.masks.check()?;
        self.options.sequences.check()?;
        if self.probes.is_empty() {
            invalid!("give at least one probe");
        }
        if self.skip.modes.is_empty() || self.skip.parts.is_empty() || self.gradients.sites.is_empty() {
            invalid!("give at least one mode and part of skip, and one site of gradients");
        }
        Ok(())
    }

    /// What is measured, as `run.json` records it: every option that a result depends on, apart from those of depth rules,
    /// which can be changed afterwards.
    pub(crate) fn request(&self) -> Value {
        let RunOptions { model, data, .. } = &self.options;
        let mut request = json!({
            "model": model.id,
            "revision": model.revision,
            "dtype": model.dtype.name(),
            "device": model.device.to_string(),
            "data": data.id,
            "limit": data.limit,
            "split": data.split,
            "max_tokens": data.max_tokens,
            "seed": data.seed,
            "rng": data.rng.to_string(),
            "probes": self.probes,
            "qa": self.qa,
            "skip": {"modes": self.skip.modes, "parts": self.skip.parts, "positions": self.positions},
            "baseline_data": self.baseline_data,
            "gradients": self.gradients,
            "naive": self.naive,
        });
        // Runs of earlier versions know none of these.
        if self.lens != Lens::Logit {
            request["lens"] = json!(self.lens.to_string());
            request["lens_data"] = json!(self.lens_data);
        }
        if self.masks != MaskOptions::default() {
            request["masks"] = json!(self.masks);
        }
        if self.options.sequences != Sequences::default() {
            request["sequences"] = json!(self.options.sequences);
        }
        request
    }

    /// The options of the bootstrap and the rules.
    pub(crate) fn bootstrap(&self) -> Result<BootstrapOptions> {
        bootstrap_options(&self.thresholds, self.options.resamples, self.options.data.seed)
    }

    /// The options of the probes; the longest texts are not known yet.
    pub(crate) fn probe_options<B: Backend>(&self, model: &Model<B>) -> ProbeOptions {
        ProbeOptions {
            probes: self.probes.clone(),
            memory: self.options.memory.unwrap_or_else(|| memory::default_for(model)),
            naive: self.naive,
            longest_text: 0,
            longest_pair: 0,
            skip: self.skip.clone(),
            gradients: self.gradients.clone(),
            lens_maps: if self.lens == Lens::Logit { 0 } else { model.config().depth() },
        }
    }
}

/// A quadrature whose number of nodes is within bounds: the parser of its name is what checks them.
pub(crate) fn checked_quadrature(quadrature: Quadrature) -> Result<Quadrature> {
    parsed("quadrature", &quadrature.to_string())
}

/// Options of the bootstrap with other thresholds.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) for a rule without a threshold that can be changed afterwards, or a value
/// outside its range.
pub fn bootstrap_options(
    thresholds: &[(Rule, f64)],
    resamples: usize,
    seed: u64,
) -> Result<BootstrapOptions> {
    let mut options = BootstrapOptions { resamples, ..BootstrapOptions::seeded(seed) };
    for (rule, value) in thresholds {
        if options.thresholds.of(*rule).is_none() || *rule == Rule::Settling {
            invalid!("the rule {} has no threshold that can be changed here", rule.name());
        }
        options.thresholds = options.thresholds.with(*rule, *value);
        options.thresholds.check(*rule).map_err(crate::Error::Invalid)?;
    }
    Ok(options)
}

/// Each value once, in the order of the type.
fn each<T: Copy + Ord>(values: &[T]) -> Vec<T> {
    let mut values = values.to_vec();
    values.sort();
    values.dedup();
    values
}

fn invalid_option(name: &str, error: &dyn std::fmt::Display) -> crate::Error {
    crate::Error::Invalid(format!("{name}: {error}"))
}

pub(crate) fn parsed<T: std::str::FromStr>(name: &str, value: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    value.parse().map_err(|e| invalid_option(name, &e))
}

pub(crate) fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
    match value.parse() {
        Ok(number) => Ok(number),
        Err(_) => invalid!("{name}: '{value}' is not a whole number"),
    }
}

pub(crate) fn choice<T: Copy>(name: &str, value: &str, all: &[(&str, T)]) -> Result<T> {
    match all.iter().find(|(one, _)| *one == value) {
        Some((_, found)) => Ok(*found),
        None => {
            let names: Vec<&str> = all.iter().map(|(one, _)| *one).collect();
            invalid!("{name}: '{value}' is not one of {}", names.join(", "))
        }
    }
}

pub(crate) fn choices<T: Copy>(name: &str, value: &str, all: &[(&str, T)]) -> Result<Vec<T>> {
    value.split(',').map(|word| choice(name, word.trim(), all)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_by_name_are_those_of_the_builder() {
        let by_name = [
            ("limit", "3"),
            ("skip-modes", "local,future"),
            ("sites", "mlp"),
            ("baseline", "feature"),
            ("quadrature", "riemann:8"),
            ("memory", "2GiB"),
            ("rng", "python"),
            ("positions", "2"),
            ("dtype", "bf16"),
        ];
        let by_name =
            by_name.into_iter().try_fold(Measurement::new("m"), |m, (name, value)| m.set(name, value));
        let built = Measurement::new("m")
            .limit(3)
            .skip_modes(&[SkipMode::Future, SkipMode::Local])
            .sites(&[GradientSite::Mlp])
            .baseline(PathBaseline::Feature)
            .quadrature(Quadrature::Riemann(8))
            .memory(2 << 30)
            .rng("python".parse().unwrap())
            .positions(2)
            .dtype(Dtype::Bf16);
        assert_eq!(by_name.unwrap(), built);
    }

    #[test]
    fn wrong_options_are_named() {
        let refuse = |name: &str, value: &str, sentence: &str| {
            let message = Measurement::new("m").set(name, value).unwrap_err().to_string();
            assert!(message.contains(sentence), "{message}");
        };
        refuse(
            "skip-modes",
            "future,later",
            "skip-modes: 'later' is not one of future, current, local, others",
        );
        refuse("limit", "many", "limit: 'many' is not a whole number");
        refuse("positions", "0", "positions: give at least 1");
        refuse("depth", "3", "cannot set the option 'depth'");
        refuse("quadrature", "gauss", "quadrature: unknown quadrature");
        let thresholds = |rule, value| bootstrap_options(&[(rule, value)], 10, 1).map(|o| o.thresholds);
        assert_eq!(thresholds(Rule::Kl, 0.4).unwrap().kl_share, 0.4);
        assert!(thresholds(Rule::Settling, 0.4).is_err() && thresholds(Rule::Overlap, 1.0).is_err());
    }
}
