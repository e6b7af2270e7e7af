//! Arguments of `fathom exit`.

use super::run::{ModelArgs, Resamples, RunArgs, optional, with_run_args};
use clap::{Args as Arguments, ValueEnum};
use fathom::ExitHead;

pub(super) const LONG: &str =
    "Measures at which levels tokens can leave a model early, and whether that pays.

Two heads predict at every level: lens, the final norm and the unembedding on the residual stream as it \
is, and linear, the same after an affine map to the last level. A rule lets a token leave at the first \
of some levels whose confidence (largest probability, margin, or entropy) reaches a threshold. Rules \
are chosen on fitting texts, and their thresholds calibrated on others, so that the mean share of tokens \
of a text whose prediction changes stays below --epsilon with probability 1 - --delta (Learn then Test). \
Everything shown is measured on held-out texts.

Savings are in multiply-adds and count every head that is looked at, maps, and the keys and values that \
later tokens need of skipped layers, so they can be negative. The first layers are also tried as the \
draft model of self-speculative decoding.

Texts are divided by a hash: a quarter for fitting, three eighths for calibration, the rest held out. \
The same command continues an interrupted run; --epsilon and --delta may change without measuring again.";

pub(super) const EXAMPLES: &str = "Examples:
  fathom exit                                     the default model on the built-in prose
  fathom exit model.gguf --epsilon 0.05           at most one token in twenty may change
  fathom exit model.gguf --heads lens             without maps
  fathom exit org/model --data mine.jsonl --heldout other.jsonl -o exits";

/// Which model, and what its tokens must keep.
#[derive(Arguments, Clone)]
pub(crate) struct Exit {
    #[command(flatten)]
    model: ModelArgs,
    /// The largest mean share of tokens of a text whose prediction may change
    #[arg(long, value_name = "E", default_value_t = fathom::Exit::EPSILON, allow_negative_numbers = true)]
    epsilon: f64,
    /// The probability with which a calibrated threshold may fail to keep that
    #[arg(long, value_name = "D", default_value_t = fathom::Exit::DELTA, allow_negative_numbers = true)]
    delta: f64,
    /// How levels predict, separated by commas
    #[arg(long, value_name = "LIST", value_enum, value_delimiter = ',', default_value = "lens,linear")]
    heads: Vec<HeadArg>,
    /// Texts: the name of a set (see `fathom data`) or a .jsonl, .parquet or .txt file
    #[arg(long, value_name = "ID|FILE", default_value = fathom::Exit::DATA)]
    data: String,
    /// Texts to measure on; those of --data are then for fitting and calibration [default: three eighths of --data]
    #[arg(long, value_name = "ID|FILE")]
    heldout: Option<String>,
    /// Use only the first N texts of each set [default: all, but 256 of prose]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    resamples: Resamples,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// How a level predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HeadArg {
    /// The final norm and the unembedding on the residual stream as it is
    Lens,
    /// The same after an affine map to the last level, fitted on the fitting texts
    Linear,
}

impl From<HeadArg> for ExitHead {
    fn from(arg: HeadArg) -> Self {
        match arg {
            HeadArg::Lens => Self::Lens,
            HeadArg::Linear => Self::Linear,
        }
    }
}

impl Exit {
    /// The measurement that the arguments describe.
    pub(crate) fn exit(&self, threads: Option<u16>) -> fathom::Exit {
        let heads: Vec<ExitHead> = self.heads.iter().map(|head| (*head).into()).collect();
        let e = fathom::Exit::new(self.model.model.as_str())
            .heads(&heads)
            .epsilon(self.epsilon)
            .delta(self.delta)
            .data(self.data.as_str())
            .resamples(self.resamples.get());
        let e = with_run_args!(e, &self.model, &self.run, threads);
        let e = optional(e, &self.heldout, |e, data| e.heldout(data.as_str()));
        optional(e, &self.limit, |e, limit| e.limit(*limit))
    }
}
