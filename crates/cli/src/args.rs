//! The command line.

use crate::fit::{FIT, FIT_EXAMPLES, Fit};
use clap::{Args as Arguments, Parser, Subcommand, ValueEnum};
use fathom::{
    Device, Dtype, GradientSite, Measurement, Options, PathBaseline, Probe, PromptSpec, PruneMethod,
    Quadrature, Rng, Rule, SkipMode, SkipPart,
};
use std::path::PathBuf;

/// Measures how much of a language model's depth does useful work.
#[derive(Parser)]
#[command(name = "fathom", version, long_about = LONG, propagate_version = true, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Threads to use [default: all cores; RAYON_NUM_THREADS is honoured too]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

const LONG: &str = "Measures how much of a language model's depth does useful work.

A transformer adds layer after layer to a residual stream; the later layers often add little. \
Fathom measures what each layer adds, what the stream would predict at each depth and how similar \
the depths are, and turns the curves into effective depths with intervals.

  fathom measure                          the default model on the built-in prompts
  fathom measure Qwen/Qwen2.5-0.5B        a model from the Hugging Face hub (or its cache)
  fathom measure model.gguf --data my.jsonl --probes contributions,lens
  fathom prune model.gguf                 layers that can go, shown on held-out text
  fathom fit depth runs.csv               a scaling law, with how far it can be trusted
  fathom compare out-a out-b              two finished runs, with intervals
  fathom study study.toml                 models and data sets as a file describes
  fathom models                           models that can be loaded
  fathom data                             prompt sets
  fathom devices                          processor and GPUs that models can run on
  fathom bench                            the speed of this machine

Results go to stdout and to a folder; progress goes to stderr. \
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 after Ctrl-C (128 plus the signal's number).";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the probes on a model and write a results folder
    Measure(Box<Measure>),
    /// Find layers that can go, and show on held-out text what that costs
    #[command(long_about = PRUNE, after_long_help = PRUNE_EXAMPLES)]
    Prune(Box<Prune>),
    /// Fit a law of depth, data or compute to a table
    #[command(long_about = FIT, after_long_help = FIT_EXAMPLES)]
    Fit(Box<Fit>),
    /// Compare a model's numbers with reference values, or bf16 or a GPU with f32 on the processor
    #[command(long_about = VERIFY)]
    Verify(Verify),
    /// List the models that can be loaded, or describe one
    Models(Models),
    /// List the prompt sets, or show one
    Data(Data),
    /// List the devices that models can run on
    Devices,
    /// Draw the figures and reports of results folders again
    Report(Report),
    /// Effective depth of finished runs, with other thresholds, intervals and numbers of prompts
    Depth(DepthArgs),
    /// Compare two finished runs: depths and curves with intervals
    Compare(Compare),
    /// Measure models on data sets as a file describes, and answer its questions
    Study(StudyArgs),
    /// Time the kernels on this machine, and the prefill and probes of a model
    #[command(long_about = BENCH, after_long_help = BENCH_EXAMPLES)]
    Bench(Bench),
    /// Generate shell completions, man pages or the command-line reference
    #[command(subcommand)]
    Generate(Generate),
}

/// What is generated from these arguments.
#[derive(Subcommand)]
pub(crate) enum Generate {
    /// Print a completion script, to be sourced by the shell or put where it looks for such scripts
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write a man page for each command
    Man {
        /// The folder, such as ~/.local/share/man/man1
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Print the help of all commands as Markdown
    Reference,
}

const VERIFY: &str =
    "Compares a model's numbers with reference values, or bf16 or a GPU with f32 on the processor.

With --golden FILE, tokens, predictions and curves are compared with the values in FILE. The command \
fails if any of them differs by more than rounding.

With --dtype bf16 or --device and no FILE, the probes of the clean run are measured in f32 on the \
processor and again in that type and on that device, on the same prompts. The command prints where each \
curve moves most and the depth by every rule in both, and fails if a depth moves by more than one layer.";

const PRUNE: &str = "Finds layers that can go, and shows on held-out text what that costs.

Each method chooses layers on calibration texts, for every number of layers:

  influence  the layers of least block influence (ShortGPT)
  angular    the contiguous block of least angular distance
  output     the layers whose bypass changes the output least
  block      the contiguous block whose removal raises the loss least; all blocks are tried
  greedy     one layer after the other, each time the one whose removal raises the loss least (SLEB)
  layers=A..B  your own choice: layers and half-open ranges, as in layers=3,21..29

Every candidate is then measured on held-out texts: the loss with a 95 % interval of its rise over the \
whole model, KL divergence, share of unchanged predictions, parameters, multiply-adds and prefill speed. \
The recommendation is the largest number of layers whose rise stays below --max-loss, interval included.

Texts are split by a hash: a quarter is for calibration, the rest is held out. The same command \
continues an interrupted run.";

const PRUNE_EXAMPLES: &str = "Examples:
  fathom prune                                    the default model, all methods, 1 to half of the layers
  fathom prune model.gguf --max-loss 0.2          as many layers as 0.2 nats per token allow
  fathom prune model.gguf --remove 4,8 --method greedy,block --replace linear
  fathom prune model.gguf --method layers=21..29  what your own choice costs
  fathom prune org/model --data mine.jsonl --heldout other.jsonl --choices hellaswag
  fathom prune model.gguf --max-loss 0.1 --export gguf
  fathom prune --verify fathom-out/model/prune-prose/pruned";

const BENCH: &str = "Times the kernels on this machine, and with MODEL its prefill and each probe.

First the peak of the machine is measured: multiply-adds on registers alone, on all threads. Then \
linear layers are timed, forward and backward, in f32 and bf16, with unquantised and quantised \
weights (B/weight: bytes per weight), on 1 to 800 rows: at two fixed sizes, and at those of MODEL. \
MODEL also adds tokens per second of prefill (150 tokens through all layers) and the GFLOP/s of each \
probe on a built-in prompt and two pairs. A multiply-add counts as two operations (FLOP).

Each number is the lower quartile of repeated times, because other work on the machine only makes \
times longer. The peak is measured again in turn with them, so the share of peak is roughly right on \
a busy machine too; the GFLOP/s are not. With few rows the limit is memory bandwidth, not the peak: \
see the column GB/s.";

const BENCH_EXAMPLES: &str = "Examples:
  fathom bench                            peak and kernels, in a minute
  fathom bench smollm2-135m               a model as well, in about four minutes
  fathom bench model.gguf --dtype bf16    a model whose weights are rounded to bf16
  fathom bench --quick                    rough numbers in a few seconds
  fathom bench --out history --json       print JSON, and add it as a line to history/MACHINE.jsonl";

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

/// Which prompts.
#[derive(Arguments, Clone)]
pub(crate) struct Prompts {
    /// Prompts: the name of a set (see `fathom data`) or a .jsonl, .parquet or .txt file
    #[arg(long, value_name = "ID|FILE", default_value = fathom::DEFAULT_DATA)]
    pub(crate) data: String,
    /// Use only the first N prompts, and the first N pairs of --qa
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Split of a published data set
    #[arg(long, value_name = "NAME")]
    pub(crate) split: Option<String>,
    /// Leave out prompts of more tokens, and those beyond the model's context [default: set by the data
    /// set, such as 400 for aime24]
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// Seed of generated prompts and of the bootstrap
    #[arg(long, value_name = "N", default_value_t = Options::SEED)]
    pub(crate) seed: u64,
    /// Random number generator of generated prompts: native, or python for CPython's
    #[arg(long, value_name = "KIND", default_value = "native")]
    pub(crate) rng: Rng,
}

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
}

#[derive(Arguments, Clone)]
pub(crate) struct Measure {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) prompts: Prompts,
    /// Probes, separated by commas: contributions, lens, similarity, settling, skip, erasure, gradients.
    /// `clean` is the first four, which need only one forward pass; `all` takes minutes (see --dry-run)
    #[arg(long, value_name = "LIST", default_value = "clean", value_parser = probes)]
    pub(crate) probes: Probes,
    /// Question-answer pairs for erasure and gradients: a set with answers or a file of
    /// rows with "question" and "answer"
    #[arg(long, value_name = "ID|FILE", default_value = "qa")]
    pub(crate) qa: String,
    #[command(flatten)]
    pub(crate) causal: Causal,
    #[command(flatten)]
    pub(crate) bootstrap: Bootstrap,
    /// Working memory beside the weights, such as 4GiB [default: a fifth of the machine's memory; on a GPU
    /// with its own memory most of what the weights leave free]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<bytesize::ByteSize>,
    /// Print the cost of each probe (edits, multiply-adds, memory, time) without measuring
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Run every edit as a separate full forward pass: slow, for checking
    #[arg(long)]
    pub(crate) naive: bool,
    /// Results folder [default: fathom-out/MODEL/DATA]
    #[arg(short, long, value_name = "OUT")]
    pub(crate) out: Option<PathBuf>,
    /// Continue an interrupted run. This is the default; the option exists for scripts
    #[arg(long, conflicts_with = "overwrite")]
    pub(crate) resume: bool,
    /// Delete the results of an earlier run in the folder, and measure again
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Print results.json instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which layers to remove, and how to show what that costs.
#[derive(Arguments, Clone)]
pub(crate) struct Prune {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Numbers of layers to remove, separated by commas [default: 1 to half of the layers]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub(crate) remove: Vec<usize>,
    /// The rise in loss, in nats per token, that the recommendation may cost [default: 0.1; with --remove
    /// alone, the best candidate of the largest N is recommended whatever it costs]
    #[arg(long, value_name = "X")]
    pub(crate) max_loss: Option<f64>,
    /// Methods, separated by commas: influence, angular, output, block, greedy, layers=A..B
    #[arg(long, value_name = "LIST", default_value = "influence,angular,output,block,greedy", value_parser = prune_methods)]
    pub(crate) method: PruneMethods,
    /// What is removed of a layer
    #[arg(long, value_name = "UNIT", value_enum, default_value = "layer")]
    pub(crate) unit: PartArg,
    /// Texts: the name of a set (see `fathom data`) or a .jsonl, .parquet or .txt file
    #[arg(long, value_name = "ID|FILE", default_value = fathom::Prune::DATA)]
    pub(crate) data: String,
    /// Texts to measure on; those of --data are then all for calibration [default: three quarters of --data]
    #[arg(long, value_name = "ID|FILE")]
    pub(crate) heldout: Option<String>,
    /// Multiple-choice questions to measure on as well: a set or a file of rows with context, choices and
    /// label, or with the fields of HellaSwag, ARC or MMLU
    #[arg(long, value_name = "ID|FILE")]
    pub(crate) choices: Option<String>,
    /// Use only the first N texts of each set, and the first N questions [default: all, but 256 of prose]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Split of a published data set
    #[arg(long, value_name = "NAME")]
    pub(crate) split: Option<String>,
    /// Leave out texts of more tokens, and those beyond the model's context
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<usize>,
    /// What takes the place of removed layers
    #[arg(long, value_name = "KIND", value_enum, default_value = "none")]
    pub(crate) replace: ReplaceArg,
    /// Write the recommended model into OUT/pruned: hf for a Hugging Face folder, gguf where the source is GGUF
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) export: Option<ExportArg>,
    /// Load a model that --export wrote, and compare its logits with its source without the removed layers
    #[arg(long, value_name = "EXPORT", conflicts_with_all = ["export", "dry_run"])]
    pub(crate) verify: Option<PathBuf>,
    /// Compare all candidates of a search on all texts, even those that are clearly worse after some of them
    #[arg(long)]
    pub(crate) no_racing: bool,
    /// Seed of generated texts and of the bootstrap
    #[arg(long, value_name = "N", default_value_t = Options::SEED)]
    pub(crate) seed: u64,
    /// Resamples of the bootstrap
    #[arg(long, value_name = "N", default_value_t = fathom::BootstrapOptions::RESAMPLES as u32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) resamples: u32,
    /// Working memory beside the weights, such as 4GiB [default: a fifth of the machine's memory; on a GPU
    /// with its own memory most of what the weights leave free]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<bytesize::ByteSize>,
    /// Print the cost of each stage without doing anything
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Results folder [default: fathom-out/MODEL/prune-DATA]
    #[arg(short, long, value_name = "OUT")]
    pub(crate) out: Option<PathBuf>,
    /// Continue an interrupted run. This is the default; the option exists for scripts
    #[arg(long, conflicts_with = "overwrite")]
    pub(crate) resume: bool,
    /// Delete the results of an earlier run in the folder, and begin again
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Print prune.json instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

impl Prune {
    /// The pruning that the arguments describe.
    pub(crate) fn prune(&self, threads: Option<u16>) -> fathom::Prune {
        let prune = fathom::Prune::new(self.model.model.as_str())
            .dtype(self.model.dtype.into())
            .device(self.model.device)
            .methods(&self.method.methods)
            .unit(self.unit.into())
            .data(self.data.as_str())
            .replace(self.replace.into())
            .racing(!self.no_racing)
            .seed(self.seed)
            .resamples(self.resamples as usize)
            .overwrite(self.overwrite)
            .command(std::env::args().collect());
        let prune = self.method.layers.iter().fold(prune, |p, layers| p.layers(layers.as_str()));
        let prune = if self.remove.is_empty() { prune } else { prune.remove(&self.remove) };
        let prune = optional(prune, &self.max_loss, |p, loss| p.max_loss(*loss));
        let prune = optional(prune, &self.heldout, |p, data| p.heldout(data.as_str()));
        let prune = optional(prune, &self.export, |p, format| p.export((*format).into()));
        let prune = optional(prune, &self.choices, |p, data| p.choices(data.as_str()));
        let prune = optional(prune, &self.limit, |p, limit| p.limit(*limit));
        let prune = optional(prune, &self.split, |p, split| p.split(split.as_str()));
        let prune = optional(prune, &self.max_tokens, |p, tokens| p.max_tokens(*tokens));
        let prune = optional(prune, &self.memory, |p, memory| p.memory(memory.as_u64()));
        let prune = optional(prune, &self.model.revision, |p, revision| p.revision(revision.as_str()));
        let prune = optional(prune, &self.out, |p, out| p.out(out));
        optional(prune, &threads, |p, threads| p.threads((*threads).into()))
    }
}

/// What takes the place of removed layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReplaceArg {
    /// Nothing
    None,
    /// A linear map, merged into the down projection before a contiguous block (ReplaceMe); every such
    /// candidate is measured with and without it
    Linear,
}

impl From<ReplaceArg> for fathom::Replace {
    fn from(arg: ReplaceArg) -> Self {
        match arg {
            ReplaceArg::None => Self::None,
            ReplaceArg::Linear => Self::Linear,
        }
    }
}

/// A format of exported models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportArg {
    /// A Hugging Face folder: config.json, safetensors, tokenizer
    Hf,
    /// A GGUF file
    Gguf,
}

impl From<ExportArg> for fathom::ExportFormat {
    fn from(arg: ExportArg) -> Self {
        match arg {
            ExportArg::Hf => Self::Hf,
            ExportArg::Gguf => Self::Gguf,
        }
    }
}

/// Methods of a pruning, and layers of the user's own choice.
#[derive(Clone, Debug, Default)]
pub(crate) struct PruneMethods {
    pub(crate) methods: Vec<PruneMethod>,
    pub(crate) layers: Vec<String>,
}

/// Reads a list such as `greedy,layers=3,21..29`: what begins with a digit continues a list of layers.
fn prune_methods(text: &str) -> Result<PruneMethods, String> {
    let mut all = PruneMethods::default();
    for word in text.split(',').map(str::trim) {
        let method = PruneMethod::CHOOSING.into_iter().find(|m| m.name() == word);
        match (method, word.strip_prefix("layers="), all.layers.last_mut()) {
            (Some(method), ..) => all.methods.push(method),
            (None, Some(layers), _) => all.layers.push(layers.to_owned()),
            (None, None, Some(layers)) if word.starts_with(|c: char| c.is_ascii_digit()) => {
                layers.push_str(&format!(",{word}"));
            }
            _ => {
                let known = PruneMethod::CHOOSING.map(PruneMethod::name).join(", ");
                return Err(format!("'{word}' is not one of {known}, or layers=A..B"));
            }
        }
    }
    Ok(all)
}

/// Options of the depth rules and the bootstrap.
#[derive(Arguments, Clone)]
pub(crate) struct Bootstrap {
    /// Another threshold for a depth rule, such as kl=0.4; may be given more than once
    #[arg(long, value_name = "RULE=VALUE", value_parser = threshold)]
    pub(crate) threshold: Vec<(Rule, f64)>,
    /// Resamples of the bootstrap
    #[arg(long, value_name = "N", default_value_t = fathom::BootstrapOptions::RESAMPLES as u32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) resamples: u32,
}

fn threshold(text: &str) -> Result<(Rule, f64), String> {
    let (rule, value) = text.split_once('=').ok_or("give a rule and a number, such as kl=0.4")?;
    let rule: Rule = rule.parse().map_err(|e: fathom::UnknownRule| e.to_string())?;
    let value: f64 = value.parse().map_err(|_| format!("'{value}' is not a number"))?;
    fathom::bootstrap_options(&[(rule, value)], 1, 0).map_err(|e| e.to_string())?;
    Ok((rule, value))
}

/// Options of the probes that edit the model's runs.
#[derive(Arguments, Clone)]
pub(crate) struct Causal {
    /// Skip: where a layer is bypassed and where the effect is read
    #[arg(
        long,
        value_name = "LIST",
        value_enum,
        value_delimiter = ',',
        default_value = "future,current,local",
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
    /// Gradients: adaptive, gauss-legendre, riemann (the papers' 256 steps), or one of the latter
    /// two with a number, as in riemann:64
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

#[derive(Arguments)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Reference values, as JSON
    #[arg(long, value_name = "FILE", required_unless_present_any = ["dtype", "device"])]
    pub(crate) golden: Option<PathBuf>,
    /// Prompts on which bf16 or another device is compared with f32 on the processor, as for `fathom measure`
    #[arg(long, value_name = "ID|FILE", default_value = fathom::DEFAULT_DATA, conflicts_with = "golden")]
    pub(crate) data: String,
    /// How many of them
    #[arg(long, value_name = "N", default_value_t = 12, conflicts_with = "golden")]
    pub(crate) limit: usize,
}

#[derive(Arguments)]
pub(crate) struct Models {
    /// A model to describe, without loading its weights
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Branch, tag or commit of a model from the hub
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,
}

#[derive(Arguments)]
pub(crate) struct Data {
    /// A set to show: a name or a file
    #[arg(value_name = "ID|FILE")]
    pub(crate) data: Option<String>,
    /// Show only the first N prompts
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Split of a published data set
    #[arg(long, value_name = "NAME")]
    pub(crate) split: Option<String>,
    /// Seed of generated prompts
    #[arg(long, value_name = "N", default_value_t = Options::SEED)]
    pub(crate) seed: u64,
    /// Random number generator of generated prompts: native, or python for CPython's
    #[arg(long, value_name = "KIND", default_value = "native")]
    pub(crate) rng: Rng,
    /// Print JSONL that `--data` reads back
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Arguments)]
pub(crate) struct Report {
    /// Results folders, of runs or of studies
    #[arg(value_name = "OUT", required = true)]
    pub(crate) folders: Vec<PathBuf>,
}

#[derive(Arguments)]
pub(crate) struct DepthArgs {
    /// Results folders
    #[arg(value_name = "OUT", required = true)]
    pub(crate) folders: Vec<PathBuf>,
    /// One table per group of prompts: difficulty, level, hops, digits
    #[arg(long)]
    pub(crate) by_group: bool,
    #[command(flatten)]
    pub(crate) bootstrap: Bootstrap,
    /// Seed of the bootstrap
    #[arg(long, value_name = "N", default_value_t = Options::SEED)]
    pub(crate) seed: u64,
    /// Print JSON, with every threshold tried and the histograms of the bootstrap
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Arguments)]
pub(crate) struct Compare {
    /// Results folder of the first run
    #[arg(value_name = "A")]
    pub(crate) a: PathBuf,
    /// Results folder of the second run
    #[arg(value_name = "B")]
    pub(crate) b: PathBuf,
    /// Resample the prompts of each run separately, for runs on different prompts
    #[arg(long)]
    pub(crate) unpaired: bool,
    #[command(flatten)]
    pub(crate) bootstrap: Bootstrap,
    /// Seed of the bootstrap
    #[arg(long, value_name = "N", default_value_t = Options::SEED)]
    pub(crate) seed: u64,
    /// Print JSON, with every curve layer by layer
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Arguments)]
pub(crate) struct StudyArgs {
    /// The description: models, data sets, probes
    #[arg(value_name = "STUDY.toml")]
    pub(crate) file: PathBuf,
    /// Check the description and print the commands of its cells
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Make tables and page of finished cells, without measuring
    #[arg(long)]
    pub(crate) tables_only: bool,
    /// Delete cells that were measured with other options or prompts, and measure them again
    #[arg(long, conflicts_with = "tables_only")]
    pub(crate) overwrite: bool,
    #[command(flatten)]
    pub(crate) bootstrap: Bootstrap,
    /// Print study.json instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Arguments)]
pub(crate) struct Bench {
    /// A model to time, as for `fathom measure`; without it, only peak and kernels are timed
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Branch, tag or commit of a model from the hub
    #[arg(long, value_name = "REV", requires = "model")]
    pub(crate) revision: Option<String>,
    /// The type in which the model's weights are multiplied; kernels are timed in both
    #[arg(long, value_enum, default_value = "f32", requires = "model")]
    pub(crate) dtype: DtypeArg,
    /// The device that is timed: cpu, auto, gpu, gpu:N, cuda or cuda:N; see `fathom devices`
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: Device,
    /// Fewer sizes, prompts and repetitions: rough numbers in seconds
    #[arg(long)]
    pub(crate) quick: bool,
    /// Append the result as a line of JSON to DIR/MACHINE.jsonl, where MACHINE is processor and number
    /// of cores [default: benches/results if it exists, as in Fathom's source tree, except with --quick]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

impl From<ModeArg> for SkipMode {
    fn from(arg: ModeArg) -> Self {
        match arg {
            ModeArg::Future => Self::Future,
            ModeArg::Current => Self::Current,
            ModeArg::Local => Self::Local,
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

impl Data {
    /// The prompts that the arguments name, where they name any.
    pub(crate) fn spec(&self) -> Option<PromptSpec> {
        Some(PromptSpec {
            limit: self.limit,
            split: self.split.clone(),
            seed: self.seed,
            rng: self.rng,
            ..PromptSpec::new(self.data.as_ref()?.as_str())
        })
    }
}

impl Measure {
    /// The measurement that the arguments describe.
    pub(crate) fn measurement(&self, threads: Option<u16>) -> Measurement {
        let Self { model, prompts, causal, .. } = self;
        let m = Measurement::new(model.model.as_str())
            .dtype(model.dtype.into())
            .device(model.device)
            .data(prompts.data.as_str())
            .seed(prompts.seed)
            .rng(prompts.rng)
            .probes(&self.probes.0)
            .qa(self.qa.as_str())
            .skip_modes(&all(&causal.skip_modes))
            .skip_parts(&all(&causal.skip_parts))
            .positions(causal.positions.into())
            .sites(&all(&causal.sites))
            .baseline(causal.baseline.into())
            .quadrature(causal.quadrature)
            .resamples(self.bootstrap.resamples as usize)
            .naive(self.naive)
            .overwrite(self.overwrite)
            .command(command_line());
        let m = optional(m, &model.revision, |m, revision| m.revision(revision.as_str()));
        let m = optional(m, &prompts.limit, |m, limit| m.limit(*limit));
        let m = optional(m, &prompts.split, |m, split| m.split(split.as_str()));
        let m = optional(m, &prompts.max_tokens, |m, tokens| m.max_tokens(*tokens));
        let m = optional(m, &causal.baseline_data, |m, data| m.baseline_data(data.as_str()));
        let m = optional(m, &self.memory, |m, memory| m.memory(memory.as_u64()));
        let m = optional(m, &self.out, |m, out| m.out(out.as_path()));
        let m = optional(m, &threads, |m, threads| m.threads((*threads).into()));
        self.bootstrap.threshold.iter().fold(m, |m, (rule, value)| m.threshold(*rule, *value))
    }
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
