//! Arguments of `fathom prune`.

use super::measure::PartArg;
use super::run::{ModelArgs, Resamples, RunArgs, optional, with_run_args};
use clap::{Args as Arguments, ValueEnum};
use fathom::PruneMethod;
use std::path::PathBuf;

pub(super) const LONG: &str = "Finds layers that can go, and shows on held-out text what that costs.

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

pub(super) const EXAMPLES: &str = "Examples:
  fathom prune                                    the default model, all methods, 1 to half of the layers
  fathom prune model.gguf --max-loss 0.2          as many layers as 0.2 nats per token allow
  fathom prune model.gguf --remove 4,8 --method greedy,block --replace linear
  fathom prune model.gguf --method layers=21..29  what your own choice costs
  fathom prune org/model --data mine.jsonl --heldout other.jsonl --choices hellaswag
  fathom prune model.gguf --max-loss 0.1 --export gguf
  fathom prune --verify fathom-out/model/prune-prose/pruned";

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
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
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
    #[command(flatten)]
    pub(crate) resamples: Resamples,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

impl Prune {
    /// The pruning that the arguments describe.
    pub(crate) fn prune(&self, threads: Option<u16>) -> fathom::Prune {
        let p = fathom::Prune::new(self.model.model.as_str())
            .methods(&self.method.methods)
            .unit(self.unit.into())
            .data(self.data.as_str())
            .replace(self.replace.into())
            .racing(!self.no_racing)
            .resamples(self.resamples.get());
        let p = with_run_args!(p, &self.model, &self.run, threads);
        let p = self.method.layers.iter().fold(p, |p, layers| p.layers(layers.as_str()));
        let p = if self.remove.is_empty() { p } else { p.remove(&self.remove) };
        let p = optional(p, &self.max_loss, |p, loss| p.max_loss(*loss));
        let p = optional(p, &self.heldout, |p, data| p.heldout(data.as_str()));
        let p = optional(p, &self.export, |p, format| p.export((*format).into()));
        let p = optional(p, &self.choices, |p, data| p.choices(data.as_str()));
        optional(p, &self.limit, |p, limit| p.limit(*limit))
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
