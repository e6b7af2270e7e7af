//! Arguments of `fathom map`.

use super::run::{DtypeArg, ModelArgs, Resamples, RunArgs, optional, with_run_args};
use clap::Args as Arguments;
use fathom::Device;

pub(super) const LONG: &str = "Maps every level of a model to every level of another one.

For each pair of a level of SOURCE and a level of TARGET, the affine map of least squared error is \
fitted to the residual streams of both models on the same tokens, and measured on held-out texts. The \
command prints the level of TARGET that each level of SOURCE predicts best, and the slope of relative \
depth: 1 means that levels correspond at the same relative depth, so the deeper model stretches the \
same work; a plateau means that it does something there that the other model does not do.

Both models must have the same tokenizer. Maps need more tokens than the source is wide; three \
quarters of the texts, drawn by a hash, are for fitting and the rest is held out. Source levels are \
fitted in groups that fit the working memory, and the same command continues an interrupted run.";

pub(super) const EXAMPLES: &str = "Examples:
  fathom map small.gguf large.gguf                all levels, on the built-in prose
  fathom map small.gguf large.gguf --differences  what layers add, instead of the stream
  fathom map small.gguf small.gguf                a model onto itself: errors vanish on the diagonal
  fathom map org/small org/large --data wikitext --limit 100 --memory 8GiB -o mapped";

/// Which models, and what of them is mapped.
#[derive(Arguments, Clone)]
pub(crate) struct Map {
    /// The model that is mapped from: a folder, .gguf or .safetensors file, a Hugging Face id, or a short name
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The model that is mapped to
    #[arg(value_name = "TARGET")]
    target: String,
    /// Branch, tag or commit of a source from the hub
    #[arg(long, value_name = "REV")]
    revision: Option<String>,
    /// Branch, tag or commit of a target from the hub
    #[arg(long, value_name = "REV")]
    target_revision: Option<String>,
    /// The type in which weights are multiplied
    #[arg(long, value_enum, default_value = "f32")]
    dtype: DtypeArg,
    /// Where the models run: cpu, auto, gpu, gpu:N, cuda or cuda:N; see `fathom devices`. Maps are fitted on the
    /// processor
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,
    /// Memory for the experts of a mixture in each model, such as 8GiB [default: all of them, or as many as fit]
    #[arg(long, value_name = "SIZE")]
    expert_memory: Option<bytesize::ByteSize>,
    /// Map what each layer adds to the residual stream, instead of the stream at each level
    #[arg(long)]
    differences: bool,
    /// Texts: the name of a set (see `fathom data`) or a .jsonl, .parquet or .txt file
    #[arg(long, value_name = "ID|FILE", default_value = fathom::LayerMap::DATA)]
    data: String,
    /// Texts to measure on; maps are then fitted to all of --data [default: a quarter of --data]
    #[arg(long, value_name = "ID|FILE")]
    heldout: Option<String>,
    /// Use only the first N texts of each set
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    resamples: Resamples,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

impl Map {
    /// The mapping that the arguments describe.
    pub(crate) fn map(&self, threads: Option<u16>) -> fathom::LayerMap {
        let m = fathom::LayerMap::new(self.source.as_str(), self.target.as_str())
            .differences(self.differences)
            .data(self.data.as_str())
            .resamples(self.resamples.get());
        let source = ModelArgs {
            model: self.source.clone(),
            revision: self.revision.clone(),
            dtype: self.dtype,
            device: self.device,
            expert_memory: self.expert_memory,
        };
        let m = with_run_args!(m, &source, &self.run, threads);
        let m = optional(m, &self.target_revision, |m, revision| m.target_revision(revision.as_str()));
        let m = optional(m, &self.heldout, |m, data| m.heldout(data.as_str()));
        optional(m, &self.limit, |m, limit| m.limit(*limit))
    }
}
