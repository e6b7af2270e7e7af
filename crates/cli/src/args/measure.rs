//! Arguments of `fathom measure`.

use super::run::{Bootstrap, ModelArgs, RunArgs, optional, with_run_args};
use clap::{Args as Arguments, ValueEnum};
use fathom::{
    GradientSite, Lens, Measurement, Objective, PathBaseline, Probe, Quadrature, Shard, SkipMode, SkipPart,
};

#[derive(Arguments, Clone)]
pub(crate) struct Measure {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Prompts: the name of a set (see `fathom data`) or a .jsonl, .parquet, .txt or .fasta file
    #[arg(long, value_name = "ID|FILE", default_value = fathom::DEFAULT_DATA)]
    pub(crate) data: String,
    /// Use only the first N prompts, and the first N pairs of --qa
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Probes, separated by commas: contributions, lens, similarity, settling, angles, experts, skip, order,
    /// erasure, gradients. `clean` is the first four, which need only one forward pass; `all` is all but experts
    /// (mixtures of experts only) and takes minutes (see --dry-run)
    #[arg(long, value_name = "LIST", default_value = "clean", value_parser = probes)]
    pub(crate) probes: Probes,
    /// Question-answer pairs for erasure and gradients: a set with answers or a file of
    /// rows with "question" and "answer"
    #[arg(long, value_name = "ID|FILE", default_value = "qa")]
    pub(crate) qa: String,
    /// How lens and settling read the stream: logit, linear (after an affine map to the last level, fitted to other texts),
    /// or the folder of a checkpoint of the tuned-lens project (config.json, params.pt)
    #[arg(long, value_name = "KIND|DIR", default_value = "logit")]
    pub(crate) lens: Lens,
    /// Texts that a linear lens is fitted to, none of which is measured [default: prose]
    #[arg(long, value_name = "ID|FILE")]
    pub(crate) lens_data: Option<String>,
    #[command(flatten)]
    pub(crate) masks: Masks,
    #[command(flatten)]
    pub(crate) causal: Causal,
    #[command(flatten)]
    pub(crate) bootstrap: Bootstrap,
    /// Measure only part I of N, every N-th prompt and pair; `fathom merge` puts the parts together
    #[arg(long, value_name = "I/N", conflicts_with = "dry_run")]
    pub(crate) shard: Option<Shard>,
    /// Run every edit as a separate full forward pass: slow, for checking
    #[arg(long)]
    pub(crate) naive: bool,
    /// Write the samples as samples.parquet too, a table that pandas, polars and DuckDB read
    #[arg(long)]
    pub(crate) parquet: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

impl Measure {
    /// The measurement that the arguments describe.
    pub(crate) fn measurement(&self, threads: Option<u16>) -> Measurement {
        let causal = &self.causal;
        let m = Measurement::new(self.model.model.as_str())
            .data(self.data.as_str())
            .probes(&self.probes.0)
            .qa(self.qa.as_str())
            .skip_parts(&all(&causal.skip_parts))
            .positions(causal.positions.into())
            .sites(&all(&causal.sites))
            .baseline(causal.baseline.into())
            .quadrature(causal.quadrature)
            .resamples(self.bootstrap.resamples.get())
            .naive(self.naive)
            .lens(self.lens.clone())
            .parquet(self.parquet);
        let m = with_run_args!(m, &self.model, &self.run, threads);
        let m = optional(m, &self.limit, |m, limit| m.limit(*limit));
        let m = if causal.skip_modes.is_empty() { m } else { m.skip_modes(&all(&causal.skip_modes)) };
        let m = self.masks.of(m);
        let m = optional(m, &self.lens_data, |m, data| m.lens_data(data.as_str()));
        let m = optional(m, &self.shard, |m, shard| m.shard(*shard));
        let m = optional(m, &causal.baseline_data, |m, data| m.baseline_data(data.as_str()));
        self.bootstrap.threshold.iter().fold(m, |m, (rule, value)| m.threshold(*rule, *value))
    }
}

/// What a masked model is asked to predict.
#[derive(Arguments, Clone)]
pub(crate) struct Masks {
    /// What is predicted [default: what the model was trained for]
    #[arg(long, value_name = "NAME", value_enum, help_heading = "Masked models")]
    pub(crate) objective: Option<ObjectiveArg>,
    /// The share of a text that is masked; several for --objective diffusion, which measures each
    /// [default: 0.15; of diffusion 0.1,0.3,0.5,0.7,0.9]
    #[arg(long, value_name = "R,..", value_delimiter = ',', help_heading = "Masked models")]
    pub(crate) mask_ratio: Vec<f64>,
    /// Seed of the masks [default: 0]
    #[arg(long, value_name = "N", help_heading = "Masked models")]
    pub(crate) mask_seed: Option<u64>,
    /// Mask one position at a time, in a run of its own each: the lens then gives the
    /// pseudo-log-likelihood
    #[arg(long, value_name = "HOW", value_enum, help_heading = "Masked models")]
    pub(crate) mask: Option<MaskArg>,
}

impl Masks {
    fn of(&self, m: Measurement) -> Measurement {
        let m = optional(m, &self.objective, |m, objective| m.objective((*objective).into()));
        let m = optional(m, &self.mask_seed, |m, seed| m.mask_seed(*seed));
        let m = if self.mask_ratio.is_empty() { m } else { m.mask_ratios(&self.mask_ratio) };
        m.mask_each(self.mask == Some(MaskArg::Each))
    }
}

/// What a model is asked to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ObjectiveArg {
    /// The next token
    Causal,
    /// Masked tokens
    Masked,
    /// Masked tokens, with several shares of a text masked
    Diffusion,
}

/// How positions are masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MaskArg {
    /// One at a time
    Each,
}

impl From<ObjectiveArg> for Objective {
    fn from(arg: ObjectiveArg) -> Self {
        match arg {
            ObjectiveArg::Causal => Self::Causal,
            ObjectiveArg::Masked => Self::Masked,
            ObjectiveArg::Diffusion => Self::Diffusion,
        }
    }
}

/// Options of the probes that edit the model's runs.
#[derive(Arguments, Clone)]
pub(crate) struct Causal {
    /// Skip: where a layer is bypassed and where the effect is read [default: future,current,local; of
    /// masked models current,others]
    #[arg(
        long,
        value_name = "LIST",
        value_enum,
        value_delimiter = ',',
        help_heading = "Probes that edit runs"
    )]
    pub(crate) skip_modes: Vec<ModeArg>,
    /// Skip: the part of a layer that is bypassed
    #[arg(
        long,
        value_name = "LIST",
        value_enum,
        value_delimiter = ',',
        default_value = "layer",
        help_heading = "Probes that edit runs"
    )]
    pub(crate) skip_parts: Vec<PartArg>,
    /// Skip: the largest number of positions t per prompt, drawn from 8, 16, ... T - 5
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..), help_heading = "Probes that edit runs")]
    pub(crate) positions: u16,
    /// Erasure: prompts whose mean residual replaces a token's [default: those of --data]
    #[arg(long, value_name = "ID|FILE", help_heading = "Probes that edit runs")]
    pub(crate) baseline_data: Option<String>,
    /// Gradients: the activations that attributions are computed for
    #[arg(
        long,
        value_name = "LIST",
        value_enum,
        value_delimiter = ',',
        default_value = "resid",
        help_heading = "Probes that edit runs"
    )]
    pub(crate) sites: Vec<SiteArg>,
    /// Gradients: the start of the integration paths
    #[arg(
        long,
        value_name = "KIND",
        value_enum,
        default_value = "sequence",
        help_heading = "Probes that edit runs"
    )]
    pub(crate) baseline: BaselineArg,
    /// Gradients: adaptive (to an error of 0.01), gauss-legendre (32 nodes), riemann (the papers' 256 steps), each also with
    /// a number, as in adaptive:0.05 or riemann:64
    #[arg(long, value_name = "RULE", default_value = "adaptive", help_heading = "Probes that edit runs")]
    pub(crate) quadrature: Quadrature,
}

/// A mode of the skip probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum ModeArg {
    /// Bypass at positions 1 to t - 1, effect from position t on
    Future,
    /// Bypass and effect at all positions but the first
    Current,
    /// As future, but nothing propagates: each later layer misses only what the bypassed one added
    Local,
    /// Of masked models: bypass at a random half of the positions, effect at the other half
    Others,
}

/// A part of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum PartArg {
    /// The whole layer
    Layer,
    /// Its attention
    Attn,
    /// Its MLP
    Mlp,
}

/// A site of the gradients probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum SiteArg {
    /// The residual stream after the layer
    Resid,
    /// The output of its attention
    Attn,
    /// The output of its MLP
    Mlp,
}

/// A baseline of the gradients probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BaselineArg {
    /// The mean of all positions
    Sequence,
    /// At each position the mean of its features
    Feature,
}

/// A list of probes. A newtype, because clap treats a `Vec` as many arguments.
#[derive(Clone, Debug)]
pub(crate) struct Probes(pub(crate) Vec<Probe>);

fn probes(text: &str) -> Result<Probes, String> {
    Probe::list(text).map(Probes).map_err(|e| e.to_string())
}

impl From<ModeArg> for SkipMode {
    fn from(arg: ModeArg) -> Self {
        match arg {
            ModeArg::Future => Self::Future,
            ModeArg::Current => Self::Current,
            ModeArg::Local => Self::Local,
            ModeArg::Others => Self::Others,
        }
    }
}

impl From<PartArg> for SkipPart {
    fn from(arg: PartArg) -> Self {
        match arg {
            PartArg::Layer => Self::Layer,
            PartArg::Attn => Self::Attn,
            PartArg::Mlp => Self::Mlp,
        }
    }
}

impl From<SiteArg> for GradientSite {
    fn from(arg: SiteArg) -> Self {
        match arg {
            SiteArg::Resid => Self::Resid,
            SiteArg::Attn => Self::Attn,
            SiteArg::Mlp => Self::Mlp,
        }
    }
}

impl From<BaselineArg> for PathBaseline {
    fn from(arg: BaselineArg) -> Self {
        match arg {
            BaselineArg::Sequence => Self::Sequence,
            BaselineArg::Feature => Self::Feature,
        }
    }
}

/// The library's type for each of the values.
fn all<A: Copy, T: From<A>>(args: &[A]) -> Vec<T> {
    args.iter().map(|arg| T::from(*arg)).collect()
}
