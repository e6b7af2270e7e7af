//! Arguments that commands share.

use clap::{Args as Arguments, ValueEnum};
use fathom::{Crop, Device, Dtype, Options, Rng, Rule};
use std::path::PathBuf;

/// Which model, in which precision.
#[derive(Arguments, Clone)]
pub(crate) struct ModelArgs {
    /// A folder, .gguf or .safetensors file, a Hugging Face id, or a short name (see `fathom models`)
    #[arg(value_name = "MODEL", default_value = fathom::DEFAULT_MODEL)]
    pub(crate) model: String,
    /// Branch, tag or commit of a model from the hub
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
    /// The type in which weights are multiplied
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) dtype: DtypeArg,
    /// Where the model runs: cpu, auto (the best GPU, or cpu where there is none), gpu or gpu:N (Vulkan,
    /// Metal or DirectX 12), cuda or cuda:N; see `fathom devices`
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: Device,
    /// Memory for the experts of a mixture, such as 8GiB; the others are read from the files when tokens take
    /// them [default: all of them, or as many as fit]
    #[arg(long, value_name = "SIZE")]
    pub(crate) expert_memory: Option<bytesize::ByteSize>,
}

/// The type in which weights are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DtypeArg {
    /// Arithmetic in 32-bit floats; weights stay in their stored precision
    F32,
    /// bfloat16 weights and inputs, sums in f32: up to twice as fast, about three digits
    Bf16,
}

impl From<DtypeArg> for Dtype {
    fn from(arg: DtypeArg) -> Self {
        match arg {
            DtypeArg::F32 => Self::F32,
            DtypeArg::Bf16 => Self::Bf16,
        }
    }
}

/// Options of commands that run a model on texts and write a results folder.
#[derive(Arguments, Clone)]
pub(crate) struct RunArgs {
    /// Split of a published data set
    #[arg(long, value_name = "NAME")]
    pub(crate) split: Option<String>,
    /// Leave out prompts of more tokens, and those beyond the model's context [default: set by the data
    /// set, such as 400 for aime24]
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    #[command(flatten)]
    pub(crate) sequences: Sequences,
    /// Seed of generated prompts and of the bootstrap
    #[arg(long, value_name = "N", default_value_t = Options::SEED)]
    pub(crate) seed: u64,
    /// Random number generator of generated prompts: native, or python for CPython's
    #[arg(long, value_name = "KIND", default_value = "native")]
    pub(crate) rng: Rng,
    /// Working memory beside the weights, such as 4GiB [default: a fifth of the machine's memory; on a GPU
    /// with its own memory most of what the weights leave free]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<bytesize::ByteSize>,
    /// Print what the work will cost (multiply-adds, memory, time) without doing it
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Results folder [default: under fathom-out/MODEL]
    #[arg(short, long, value_name = "OUT")]
    pub(crate) out: Option<PathBuf>,
    /// Continue an interrupted run. This is the default; the option exists for scripts
    #[arg(long, conflicts_with = "overwrite")]
    pub(crate) resume: bool,
    /// Delete the results of an earlier run in the folder, and begin again
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Print the results as JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is done to sequences before they are tokens.
#[derive(Arguments, Clone)]
pub(crate) struct Sequences {
    /// Keep at most N residues of each sequence
    #[arg(long, value_name = "N", help_heading = "Sequences")]
    pub(crate) max_residues: Option<usize>,
    /// Which part of a longer sequence is kept: its start, or a random window
    #[arg(long, value_name = "PART", value_enum, default_value = "start", help_heading = "Sequences")]
    pub(crate) crop: CropArg,
    /// Text before each prompt, such as the marks that a protein model expects: '[HEAVY][HUMAN]'
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        help_heading = "Sequences"
    )]
    pub(crate) prefix: String,
    /// Text behind each prompt
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        help_heading = "Sequences"
    )]
    pub(crate) suffix: String,
}

/// Which part of a long sequence is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CropArg {
    /// Its start
    Start,
    /// A random window, the same in every run
    Random,
}

impl From<CropArg> for Crop {
    fn from(arg: CropArg) -> Self {
        match arg {
            CropArg::Start => Self::Start,
            CropArg::Random => Self::Random,
        }
    }
}

/// Sets on a builder of the library what [`ModelArgs`], [`RunArgs`] and the number of threads say.
macro_rules! with_run_args {
    ($builder:expr, $model:expr, $run:expr, $threads:expr) => {{
        use $crate::args::run::{command_line, optional};
        let (model, run): (&$crate::args::ModelArgs, &$crate::args::run::RunArgs) = ($model, $run);
        let builder = $builder
            .dtype(model.dtype.into())
            .device(model.device)
            .seed(run.seed)
            .rng(run.rng)
            .crop(run.sequences.crop.into())
            .around(run.sequences.prefix.as_str(), run.sequences.suffix.as_str())
            .overwrite(run.overwrite)
            .command(command_line());
        let builder = optional(builder, &model.revision, |b, revision| b.revision(revision.as_str()));
        let builder = optional(builder, &model.expert_memory, |b, memory| b.expert_memory(memory.as_u64()));
        let builder = optional(builder, &run.split, |b, split| b.split(split.as_str()));
        let builder = optional(builder, &run.max_tokens, |b, tokens| b.max_tokens(*tokens));
        let builder = optional(builder, &run.sequences.max_residues, |b, most| b.max_residues(*most));
        let builder = optional(builder, &run.memory, |b, memory| b.memory(memory.as_u64()));
        let builder = optional(builder, &run.out, |b, out| b.out(out.as_path()));
        optional(builder, &$threads, |b, threads| b.threads((*threads).into()))
    }};
}
pub(crate) use with_run_args;

/// The number of resamples of the bootstrap.
#[derive(Arguments, Clone)]
pub(crate) struct Resamples {
    /// Resamples of the bootstrap
    #[arg(long, value_name = "N", default_value_t = fathom::BootstrapOptions::RESAMPLES as u32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    resamples: u32,
}

impl Resamples {
    pub(crate) fn get(&self) -> usize {
        self.resamples as usize
    }
}

/// Options of the depth rules and the bootstrap.
#[derive(Arguments, Clone)]
pub(crate) struct Bootstrap {
    /// Another threshold for a depth rule, such as kl=0.4; may be given more than once
    #[arg(long, value_name = "RULE=VALUE", value_parser = threshold)]
    pub(crate) threshold: Vec<(Rule, f64)>,
    #[command(flatten)]
    pub(crate) resamples: Resamples,
}

fn threshold(text: &str) -> Result<(Rule, f64), String> {
    let (rule, value) = text.split_once('=').ok_or("give a rule and a number, such as kl=0.4")?;
    let rule: Rule = rule.parse().map_err(|e: fathom::UnknownRule| e.to_string())?;
    let value: f64 = value.parse().map_err(|_| format!("'{value}' is not a number"))?;
    fathom::bootstrap_options(&[(rule, value)], 1, 0).map_err(|e| e.to_string())?;
    Ok((rule, value))
}

/// The command line, for run.json. Arguments that are not UTF-8 are shown as far as they can be.
pub(crate) fn command_line() -> Vec<String> {
    std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect()
}

/// Applies a setter where an option was given.
pub(crate) fn optional<B, T>(builder: B, value: &Option<T>, set: impl FnOnce(B, &T) -> B) -> B {
    match value {
        Some(value) => set(builder, value),
        None => builder,
    }
}
