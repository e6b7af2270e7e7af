//! The command line.

mod exit;
mod fit;
mod grow;
mod map;
mod measure;
mod mix;
mod prune;
mod run;
mod version;

use clap::{Args as Arguments, Parser, Subcommand};
pub(crate) use exit::Exit;
use fathom::{Device, Options, PromptSpec, Rng, Scheduler};
pub(crate) use fit::Fit;
pub(crate) use grow::Grow;
pub(crate) use map::Map;
pub(crate) use measure::Measure;
pub(crate) use mix::Mix;
pub(crate) use prune::Prune;
pub(crate) use run::{Bootstrap, DtypeArg, ModelArgs, command_line, optional};
use std::ffi::OsString;
use std::path::PathBuf;
use version::{LONG_VERSION, VERSION};

/// Measures how much of a language model's depth does useful work.
#[derive(Parser)]
#[command(name = "fathom", version = VERSION, long_version = LONG_VERSION.as_str(), long_about = LONG, propagate_version = true, max_term_width = 100)]
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
  fathom exit model.gguf                  levels at which tokens can leave early
  fathom map small.gguf large.gguf        which layers of two models correspond
  fathom grow model.gguf --method solar --layers 40
                                          a deeper model, and what it does untrained
  fathom fit depth runs.csv               a scaling law, and how far it can be trusted
  fathom compare out-a out-b              finished runs, with intervals
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
    #[command(long_about = prune::LONG, after_long_help = prune::EXAMPLES)]
    Prune(Box<Prune>),
    /// Measure at which levels tokens can leave a model early, and whether that pays
    #[command(long_about = exit::LONG, after_long_help = exit::EXAMPLES)]
    Exit(Box<Exit>),
    /// Map every level of a model to every level of another one
    #[command(long_about = map::LONG, after_long_help = map::EXAMPLES)]
    Map(Box<Map>),
    /// Make a deeper model of a model's layers, and measure both
    #[command(long_about = grow::LONG, after_long_help = grow::EXAMPLES)]
    Grow(Box<Grow>),
    /// Fit a law of depth, data or compute to a table
    #[command(long_about = fit::LONG, after_long_help = fit::EXAMPLES)]
    Fit(Box<Fit>),
    /// Weight training sets of short and of long solutions by what a development set shows
    #[command(long_about = mix::LONG, after_long_help = mix::EXAMPLES)]
    Mix(Mix),
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
    /// Compare finished runs with one of them: depths and curves with intervals
    Compare(Compare),
    /// Print the curves and depths of finished runs and studies as a tidy table
    Table(TableArgs),
    /// Put the shards of a measurement together
    Merge(MergeArgs),
    /// Measure models on data sets as a file describes, and answer its questions
    #[command(after_long_help = STUDY_EXAMPLES)]
    Study(StudyArgs),
    /// Train small models that test what depth does, with the program `fathom-lab`
    #[command(disable_help_flag = true, long_about = LAB)]
    Lab(Lab),
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

const STUDY_EXAMPLES: &str = "Examples:
  fathom study study.toml                 measure what is missing, then make tables and page
  fathom study study.toml --plan          the cells, and how far each is
  fathom study study.toml --cell 3        one cell alone, for an array job
  fathom study study.toml --submit slurm > study.sbatch
  sbatch --array=$(fathom study study.toml --missing) study.sbatch
  fathom study study.toml --tables-only   tables of cells that were measured anywhere";

const LAB: &str = "Trains small models that test what depth does. The trainings are a program of their own, `fathom-lab`, which is looked for \
beside this one and on PATH; `cargo install --path lab` builds it from a checkout. `fathom lab --help` is its help.";

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

#[derive(Arguments)]
pub(crate) struct Report {
    /// Results folders, of runs or of studies
    #[arg(value_name = "OUT", required = true)]
    pub(crate) folders: Vec<PathBuf>,
    /// Open the page of each folder in the browser
    #[arg(long)]
    pub(crate) open: bool,
    /// Write the samples of each measurement as samples.parquet too
    #[arg(long)]
    pub(crate) parquet: bool,
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
    /// Results folder of the run that others are compared with
    #[arg(value_name = "A")]
    pub(crate) a: PathBuf,
    /// Results folder of the run that is compared with it, or of several
    #[arg(value_name = "B", required = true)]
    pub(crate) others: Vec<PathBuf>,
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
pub(crate) struct TableArgs {
    /// Results folders, of runs or of studies
    #[arg(value_name = "OUT", required = true)]
    pub(crate) folders: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) bootstrap: Bootstrap,
    /// Seed of the bootstrap
    #[arg(long, value_name = "N", default_value_t = Options::SEED)]
    pub(crate) seed: u64,
    /// Print CSV, with a line for each model, data set, quantity and layer. This is the default
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Arguments)]
pub(crate) struct MergeArgs {
    /// Results folders of all shards, in any order
    #[arg(value_name = "SHARD", required = true)]
    pub(crate) shards: Vec<PathBuf>,
    /// Results folder of the whole
    #[arg(short, long, value_name = "OUT", required = true)]
    pub(crate) out: PathBuf,
    /// Delete results that are in the folder of the whole
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Write the samples as samples.parquet too
    #[arg(long)]
    pub(crate) parquet: bool,
    /// Print the results as JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Arguments)]
pub(crate) struct StudyArgs {
    /// The description: models, data sets, probes
    #[arg(value_name = "STUDY.toml")]
    pub(crate) file: PathBuf,
    /// Check the description and print the commands of its cells
    #[arg(long, group = "what")]
    pub(crate) dry_run: bool,
    /// List the cells with their numbers and how far each is; with --json also the commands
    #[arg(long, group = "what")]
    pub(crate) plan: bool,
    /// Measure one cell, by its number from 1 or as MODEL/DATA, and make no tables
    #[arg(long, value_name = "N|MODEL/DATA", group = "what")]
    pub(crate) cell: Option<String>,
    /// As --cell, by its index from 0, as Kubernetes and AWS Batch count
    #[arg(long, value_name = "I", group = "what")]
    pub(crate) cell_index: Option<usize>,
    /// Print the numbers of cells that are not finished, as `sbatch --array` takes them: 3,7-9
    #[arg(long, group = "what")]
    pub(crate) missing: bool,
    /// Print a script that measures the unfinished cells: slurm, k8s or snakemake. Nothing is submitted
    #[arg(long, value_name = "SCHEDULER", group = "what")]
    pub(crate) submit: Option<Scheduler>,
    /// Count and time what unfinished cells will take, for --plan and --submit; loads every model
    #[arg(long)]
    pub(crate) estimate: bool,
    /// Make tables and page of finished cells, without measuring
    #[arg(long, group = "what")]
    pub(crate) tables_only: bool,
    /// Delete cells that were measured with other options or prompts, and measure them again
    #[arg(long, conflicts_with = "tables_only")]
    pub(crate) overwrite: bool,
    #[command(flatten)]
    pub(crate) bootstrap: Bootstrap,
    /// Print study.json instead of tables, or the plan as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Arguments)]
pub(crate) struct Lab {
    /// Arguments of `fathom-lab`
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<OsString>,
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
