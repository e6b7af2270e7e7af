//! Finding and loading models.

use crate::error::invalid;
use crate::objective;
use crate::observer::{Downloads, counted, uncounted};
use crate::{Device, Observer, Result, Unit, memory, threads};
use bytesize::ByteSize;
use fathom_model::config::{Config, Mixer, Update};
use fathom_model::source::{self, Checkpoint, Loaded, Located};
use fathom_model::{Backend, Dtype};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Where a model comes from, and how its weights are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSpec {
    /// A folder, a .gguf or .safetensors file, a Hugging Face id, or a short name such as `smollm2-135m`.
    pub id: String,
    /// Branch, tag or commit of a model from the hub; `None` is its main branch.
    pub revision: Option<String>,
    /// The type in which weights are multiplied.
    pub dtype: Dtype,
    /// The device that it runs on.
    pub device: Device,
    /// Bytes of a mixture's experts in memory; the others are read from the files when tokens take them. `None` keeps all
    /// of them, or as many as fit.
    pub expert_memory: Option<u64>,
}

impl ModelSpec {
    /// A model in f32 on the processor.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), revision: None, dtype: Dtype::F32, device: Device::Cpu, expert_memory: None }
    }

    /// Finds the model, downloading it where needed, and opens its files.
    pub(crate) fn open(&self, observer: &dyn Observer) -> Result<(Located, Checkpoint)> {
        let located = source::locate(&self.id, self.revision.as_deref(), &Downloads(observer))?;
        let opening = uncounted(observer, "reading the tokenizer");
        let checkpoint = Checkpoint::open(&located.path);
        drop(opening);
        let checkpoint = checkpoint?;
        checkpoint.warnings().for_each(|warning| observer.warn(warning));
        Ok((located, checkpoint))
    }

    /// Loads the weights onto a device.
    pub(crate) fn load<B: Backend>(
        &self,
        checkpoint: Checkpoint,
        backend: B,
        observer: &dyn Observer,
    ) -> Result<Loaded<B>> {
        let experts = match self.expert_memory {
            None => memory_for_experts(&checkpoint, self.dtype, &backend, observer),
            given => {
                if checkpoint.config().experts().is_none() {
                    observer.warn("--expert-memory has no effect: the model has no experts");
                }
                given.filter(|_| checkpoint.config().experts().is_some())
            }
        };
        if experts.is_none() {
            check_fits(&checkpoint, self.dtype, &backend)?;
        }
        let loading = counted(observer, "loading", Unit::Items("layers"), checkpoint.steps() as u64);
        Ok(checkpoint.load_within(backend, self.dtype, experts, &|| loading.advance(1))?)
    }
}

impl ModelSpec {
    /// [`Self::load`] for what needs a causal model; `what` is named if it is not one.
    pub(crate) fn load_causal<B: Backend>(
        &self,
        checkpoint: Checkpoint,
        backend: B,
        what: &str,
        observer: &dyn Observer,
    ) -> Result<Loaded<B>> {
        objective::refuse_masked(checkpoint.config(), what)?;
        self.load(checkpoint, backend, observer)
    }
}

/// The memory that is left for the experts of a mixture, if they do not fit; a quarter stays free for what is computed.
fn memory_for_experts<B: Backend>(
    checkpoint: &Checkpoint,
    dtype: Dtype,
    backend: &B,
    observer: &dyn Observer,
) -> Option<u64> {
    let [all, experts] = checkpoint.packed_bytes(dtype);
    let room = backend.memory().unwrap_or_else(memory::of_machine) / 4 * 3;
    if experts == 0 || all <= room {
        return None;
    }
    let left = room.saturating_sub(all - experts);
    let size = |bytes| ByteSize(bytes).display().iec();
    observer.warn(&format!(
        "the experts take up to {} and {} is left for them; the others are read from the files when tokens take them, which is slower (--expert-memory sets how much is kept)",
        size(experts),
        size(left),
    ));
    Some(left)
}

/// Refuses a model that is larger than the memory of its device.
fn check_fits<B: Backend>(checkpoint: &Checkpoint, dtype: Dtype, backend: &B) -> Result<()> {
    let (needed, there) = (checkpoint.weight_bytes(dtype), backend.memory().unwrap_or(u64::MAX));
    if needed <= there {
        return Ok(());
    }
    let size = |bytes| ByteSize(bytes).display().iec();
    let rounded = match (dtype, checkpoint.weight_bytes(Dtype::Bf16)) {
        (Dtype::F32, bytes) if bytes <= there => format!("--dtype bf16, which takes {}, ", size(bytes)),
        _ => String::new(),
    };
    invalid!(
        "the weights take {} and {} has {}; use {rounded}a quantised GGUF file of the model, or the device cpu",
        size(needed),
        backend.name(),
        size(there),
    )
}

/// A model as described by its files, without its weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelDescription {
    /// The Hugging Face id or short name, or the name of the file or folder.
    pub id: String,
    /// Where its files are.
    pub path: PathBuf,
    /// The commit of a model from the hub.
    pub revision: Option<String>,
    /// The architecture's name.
    pub architecture: String,
    /// The number of layers L.
    pub layers: usize,
    /// The width of the residual stream.
    pub hidden: usize,
    /// The widths of dense MLPs, ascending; none where there are only experts, or no MLPs.
    pub mlp_widths: Vec<usize>,
    /// Layers without an MLP.
    pub without_mlp: usize,
    /// The experts, of a mixture of experts.
    pub experts: Option<ExpertsDescription>,
    /// Attention heads; 0 without attention.
    pub heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Layers whose heads have another width or number, that width, and their heads of keys and values.
    pub other_heads: Option<(usize, usize, usize)>,
    /// Layers that read the keys and values of other layers.
    pub sharing_keys: usize,
    /// The width of the embedding that every layer has of each token beside that of the model.
    pub token_inputs: Option<usize>,
    /// The size of the vocabulary.
    pub vocab: usize,
    /// Whether the head shares the embedding's weights.
    pub tied: bool,
    /// The longest text, in tokens.
    pub context: usize,
    /// Layers with sliding-window attention.
    pub windowed_layers: usize,
    /// Layers that mix positions otherwise than by attention alone, and by what.
    pub mixer: Option<(usize, &'static str)>,
    /// Whether that is beside attention, not in its place.
    pub beside_attention: bool,
    /// The tokenizer's kind.
    pub tokenizer: String,
    /// Tokens of the tokenizer.
    pub tokens: usize,
    /// The token for the beginning of a text, and whether it is added to every prompt.
    pub bos: (Option<String>, bool),
    /// The token for the end of a text, and whether it is added to every prompt.
    pub eos: (Option<String>, bool),
}

/// The experts of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExpertsDescription {
    /// Experts of a layer.
    pub count: usize,
    /// Experts that a token takes.
    pub active: usize,
    /// The width of an expert.
    pub width: usize,
    /// The width of the expert that every token takes; 0 without one.
    pub shared: usize,
    /// Layers with experts.
    pub layers: usize,
}

/// Describes a model without loading its weights.
///
/// # Errors
/// When the model cannot be found or its configuration or tokenizer cannot be read.
pub fn describe_model(spec: &ModelSpec, observer: &dyn Observer) -> Result<ModelDescription> {
    let (located, checkpoint) = threads::run(None, || spec.open(observer))?;
    let (c, t) = (checkpoint.config(), checkpoint.tokenizer().describe());
    Ok(ModelDescription {
        id: located.id,
        path: located.path,
        revision: located.revision,
        architecture: c.architecture.clone(),
        layers: c.depth(),
        hidden: c.hidden,
        mlp_widths: mlp_widths(c),
        without_mlp: (0..c.depth()).filter(|l| !c.has_mlp(*l)).count(),
        experts: c.experts().map(|of| ExpertsDescription {
            count: of.count,
            active: of.active,
            width: of.width,
            shared: of.shared,
            layers: c.layers.iter().filter(|layer| layer.mlp.experts().is_some()).count(),
        }),
        heads: c.heads,
        head_dim: c.head_dim,
        kv_heads: c.kv_heads,
        other_heads: other_heads(c),
        sharing_keys: c.layers.iter().filter(|layer| layer.keys_of.is_some()).count(),
        token_inputs: c.token_inputs,
        vocab: c.vocab,
        tied: c.tied,
        context: c.context,
        windowed_layers: c.layers.iter().filter(|l| l.window.is_some() || l.chunk.is_some()).count(),
        mixer: mixer(c),
        beside_attention: c.layers.iter().any(|layer| matches!(layer.mixer, Mixer::Both(_))),
        tokenizer: t.kind.to_string(),
        tokens: t.vocab,
        bos: (t.bos.clone(), t.adds_bos),
        eos: (t.eos.clone(), t.adds_eos),
    })
}

/// The widths of dense MLPs, ascending.
fn mlp_widths(c: &Config) -> Vec<usize> {
    let dense = (0..c.depth()).filter(|l| c.layers[*l].mlp.has_dense());
    dense.map(|l| c.mlp_width(l)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The layers whose heads are not the usual ones, the width of these, and their heads of keys and values.
fn other_heads(c: &Config) -> Option<(usize, usize, usize)> {
    let others = || c.layers.iter().filter_map(|layer| layer.heads);
    let first = others().next()?;
    Some((others().count(), first.head_dim, first.kv_heads))
}

/// The layers that mix positions otherwise than by attention alone, and by what.
fn mixer(c: &Config) -> Option<(usize, &'static str)> {
    let others = || {
        c.layers
            .iter()
            .map(|layer| layer.mixer)
            .filter(|mixer| !matches!(mixer, Mixer::Attention | Mixer::None))
    };
    let name = match others().next()? {
        Mixer::Attention | Mixer::None => return None,
        Mixer::Recurrence(of) if of.update == Update::Delta => "the gated delta rule",
        Mixer::Recurrence(_) | Mixer::Both(_) => "Mamba 2",
        Mixer::Convolution(_) => "short convolutions",
    };
    Some((others().count(), name))
}

/// A model with a short name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortName {
    /// The name.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// Bytes to download, about.
    pub bytes: u64,
}

/// The models with short names.
pub fn short_names() -> Vec<ShortName> {
    let all = fathom_hub::built_in::BUILT_IN.iter();
    all.map(|m| ShortName { name: m.name, title: m.title, bytes: m.size }).collect()
}
