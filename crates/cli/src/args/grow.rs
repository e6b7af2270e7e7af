//! Arguments of `fathom grow`.

use super::run::{ModelArgs, Resamples, RunArgs, optional, with_run_args};
use clap::{Args as Arguments, ValueEnum};
use fathom::{Grow as Job, GrowMethod, NewNorms};

pub(super) const LONG: &str = "Makes a deeper model of the layers of a model, and measures both.

The deeper model is written in the format of its source, as a Hugging Face folder or a GGUF file, into \
the folder `grown` of the results folder. Loss, perplexity and effective depth of both stand side by \
side, on texts that nothing was fitted to. Nothing trains the model: but for llama-pro, which changes no \
prediction, the loss before further training says how good a start the new layers are.

Methods:
  solar        layers 0..L-m, then m..L, with N = 2(L-m) (arXiv 2312.15166)
  llama-pro    after every L/(N-L) layers a copy that adds nothing (arXiv 2401.02415)
  interpolate  means of two neighbours
  midas        a copy of the middle block (arXiv 2409.19044)
  lidas        a copy of the layers around the end of the middle block (arXiv 2512.08819)
  lesa         layers that a small network predicts from their neighbours (arXiv 2502.13794)";

pub(super) const EXAMPLES: &str = "Examples:
  fathom grow model.gguf --method solar --layers 40
  fathom grow model.gguf --method lesa --layers 45 -o deeper
  fathom grow model.gguf --method lesa --layers 45 --epochs 10 --norm-weight 5e-4 --norms first
                                          as the published code of lesa
  fathom grow org/model --method interpolate --layers 26 --insert 11,12
  fathom measure deeper/grown             the grown model is a model like any other";

/// How the model grows, and on which texts it is measured.
#[derive(Arguments, Clone)]
pub(crate) struct Grow {
    #[command(flatten)]
    model: ModelArgs,
    /// How new layers are made
    #[arg(long, value_enum, value_name = "METHOD")]
    method: MethodArg,
    /// Layers of the deeper model, N
    #[arg(long, value_name = "N")]
    layers: usize,
    /// For interpolate and lesa: the layers that a new one follows, such as 11,12 [default: the last ones]
    #[arg(long, value_name = "LAYERS", value_delimiter = ',')]
    insert: Option<Vec<usize>>,
    /// For midas and lidas: layers of a block [default: the most that reach N]
    #[arg(long, value_name = "B")]
    block: Option<usize>,
    /// For interpolate and lesa: weights of the norms of new layers
    #[arg(long, value_enum, value_name = "KIND", default_value = "mean")]
    norms: NormsArg,
    /// For lesa: times that the network sees all rows; the paper has 5, its code 10 [default: 5]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// For lesa: weight of the norms in the loss of the network; the paper has 5e-5, its code 5e-4 [default: 5e-5]
    #[arg(long, value_name = "W")]
    norm_weight: Option<f64>,
    /// Texts to measure on: the name of a set (see `fathom data`) or a .jsonl, .parquet or .txt file
    #[arg(long, value_name = "ID|FILE", default_value = Job::DATA)]
    heldout: String,
    /// Use only the first N texts
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Texts on which effective depths are measured; 0 for none
    #[arg(long, value_name = "N", default_value_t = Job::DEPTH_PROMPTS)]
    depth_prompts: usize,
    #[command(flatten)]
    resamples: Resamples,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// How new layers are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MethodArg {
    /// Two overlapping copies of the model, one behind the other
    Solar,
    /// Copies that add nothing, at even distances
    LlamaPro,
    /// Means of two neighbours
    Interpolate,
    /// A copy of the middle block
    Midas,
    /// A copy of the layers around the end of the middle block
    Lidas,
    /// Layers that a small network predicts from their neighbours
    Lesa,
}

/// Weights of the norms of new layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NormsArg {
    /// The mean of both neighbours
    Mean,
    /// Those of layer 0, as the published code of lesa has it
    First,
}

impl Grow {
    /// The growth that the arguments describe.
    pub(crate) fn grow(&self, threads: Option<u16>) -> Job {
        let method = match self.method {
            MethodArg::Solar => GrowMethod::Solar,
            MethodArg::LlamaPro => GrowMethod::LlamaPro,
            MethodArg::Interpolate => GrowMethod::Interpolate,
            MethodArg::Midas => GrowMethod::Midas,
            MethodArg::Lidas => GrowMethod::Lidas,
            MethodArg::Lesa => GrowMethod::Lesa,
        };
        let norms = match self.norms {
            NormsArg::Mean => NewNorms::Mean,
            NormsArg::First => NewNorms::First,
        };
        let g = Job::new(self.model.model.as_str(), method, self.layers)
            .norms(norms)
            .heldout(self.heldout.as_str())
            .depth_prompts(self.depth_prompts)
            .resamples(self.resamples.get());
        let g = with_run_args!(g, &self.model, &self.run, threads);
        let g = optional(g, &self.insert, |g, layers| g.insert(layers));
        let g = optional(g, &self.block, |g, layers| g.block(*layers));
        let g = optional(g, &self.epochs, |g, epochs| g.epochs(*epochs));
        let g = optional(g, &self.norm_weight, |g, weight| g.norm_weight(*weight));
        optional(g, &self.limit, |g, limit| g.limit(*limit))
    }
}
