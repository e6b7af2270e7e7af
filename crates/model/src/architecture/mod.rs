//! The supported architectures: one file per family. Each turns the configuration of a checkpoint into a
//! [`Config`] and the names of its tensors into a [`Layout`].

mod alibi;
mod audit;
mod baichuan;
mod bloom;
mod cohere;
mod deepseek;
mod encoders;
mod exaone;
mod experts;
mod falcon;
mod falcon_h1;
mod fields;
mod gemma;
mod gemma4;
mod gguf_experts;
mod gguf_families;
mod gguf_gemma4;
mod gguf_latent;
mod gguf_mixers;
mod gguf_names;
mod gguf_to_hf;
mod glm;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod gptj;
mod granite;
mod internlm;
mod inventory;
mod lfm;
mod llama;
mod llama4;
mod mamba;
mod mllama;
mod mpt;
mod nemotron_h;
mod olmo;
mod opt;
mod phi;
mod plain;
mod qwen;
mod qwen_next;
mod relatives;
mod smollm;
mod stablelm;
mod starcoder;
#[cfg(test)]
mod tests;

use crate::config::{Config, Recurrence};
use crate::error::{Error, Result};
use crate::files;
use crate::gguf::Header;
use crate::weights::Weights;
pub(crate) use fields::Fields;
pub(crate) use gguf_to_hf::config as hf_config;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A decoder and the names of its tensors.
pub(crate) struct Description {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    /// Tensors that the configuration was read from.
    pub(crate) read: Vec<String>,
    /// Warnings about settings and tensors that are not honoured, one sentence each.
    pub(crate) warnings: Vec<String>,
}

impl Description {
    fn new(config: Config, layout: Layout) -> Self {
        Self { config, layout, read: Vec::new(), warnings: Vec::new() }
    }
}

/// How the rows of a stored matrix are ordered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RowOrder {
    /// As the forward pass uses them.
    AsStored,
    /// The matrix is stored `[k, n]` (GPT-2's Conv1D).
    Transposed,
    /// Rows of gate and up in turn (gpt-oss). Packing puts the gate first.
    InterleavedGate {
        /// Whether the matrix is stored `[k, n]`.
        transposed: bool,
    },
    /// The two numbers that are rotated together lie side by side, not half of the rotated part of a head
    /// apart: in Cohere and GPT-J, and where llama.cpp's converter interleaves the halves. Packing separates
    /// them, so that all families share one rotation.
    InterleavedHalves,
    /// GPT-NeoX, Falcon and InternLM 2 store for each key head its query heads, its keys and its values.
    /// Packing gathers all q, then all k, then all v.
    PerHeadQkv,
    /// CodeGen and ProGen 2 store for each of `parts` equal parts of the heads all q, then all v, then all k, rotated
    /// numbers side by side. Packing gathers all q, then all k, then all v.
    PartitionedQvk {
        /// The number of processors that the model was trained on.
        parts: usize,
    },
    /// Of each head, queries and a gate lie side by side (Qwen3-Next). These are the queries, or the gates.
    HeadHalves {
        /// Whether these are the gates.
        gates: bool,
    },
    /// Qwen3-Next stores for each key head its queries, its keys, and the values and gates of its value heads. Packing
    /// gathers all gates, q, k, v.
    PerKeyHead,
    /// As [`Self::PerKeyHead`], for the numbers of the strengths and those of the decays.
    NumbersPerKeyHead,
    /// Mamba 2 stores gates, values, keys, queries, numbers. Packing orders them as gates, q, k, v, numbers.
    ValuesFirst,
    /// As [`Self::ValuesFirst`], for the channels of the convolution.
    ChannelsValuesFirst,
    /// LFM2 stores the gate of its convolution's input before that of the output. Packing swaps them.
    OutputGateSecond,
    /// The rotated numbers of a head come last, side by side or not. Packing puts them first, as halves.
    RotatedLast {
        /// Whether the two numbers that are rotated together lie side by side.
        interleaved: bool,
    },
}

impl RowOrder {
    /// Whether the matrix is stored `[k, n]`.
    pub(crate) fn is_transposed(self) -> bool {
        matches!(self, Self::Transposed | Self::InterleavedGate { transposed: true })
    }

    /// The row of the stored matrix that holds row `r` of the layer.
    pub(crate) fn stored_row(self, c: &Config, r: usize) -> usize {
        let width = c.head_dim.max(1);
        let (head, i) = (r / width, r % width);
        match self {
            Self::AsStored | Self::Transposed => r,
            Self::HeadHalves { gates } => (2 * head + usize::from(gates)) * c.head_dim + i,
            Self::OutputGateSecond => match r / c.hidden {
                0 => r + c.hidden,
                1 => r - c.hidden,
                _ => r,
            },
            Self::PerKeyHead => c.first_recurrence().map_or(r, |of| per_key_head(&of, r)),
            Self::NumbersPerKeyHead => c.first_recurrence().map_or(r, |of| {
                let each = of.heads / of.key_heads;
                let (second, head) = (r / of.heads, r % of.heads);
                (head / each * 2 + second) * each + head % each
            }),
            Self::ValuesFirst => c.first_recurrence().map_or(r, |of| match r.checked_sub(of.values()) {
                Some(behind) => of.values() + values_first(&of, behind),
                None => r,
            }),
            Self::ChannelsValuesFirst => c.first_recurrence().map_or(r, |of| values_first(&of, r)),
            Self::InterleavedGate { .. } => match r.checked_sub(c.intermediate) {
                None => 2 * r,
                Some(up) => 2 * up + 1,
            },
            Self::InterleavedHalves => head * c.head_dim + side_by_side(c, i),
            Self::PartitionedQvk { parts } => {
                let (kind, head) = (head / c.heads, head % c.heads);
                let in_part = c.heads / parts;
                let (place, i) = match kind {
                    0 => (0, side_by_side(c, i)),
                    1 => (2, side_by_side(c, i)),
                    _ => (1, i),
                };
                ((head / in_part * 3 + place) * in_part + head % in_part) * c.head_dim + i
            }
            Self::RotatedLast { interleaved } => {
                let (half, plain) = (c.rotated() / 2, c.head_dim - c.rotated());
                let stored = match i < 2 * half {
                    true if interleaved => plain + i % half * 2 + i / half,
                    true => plain + i,
                    false => i - 2 * half,
                };
                head * c.head_dim + stored
            }
            Self::PerHeadQkv => {
                let queries = c.heads / c.kv_heads;
                let (group, place) = match head.checked_sub(c.heads) {
                    None => (head / queries, head % queries),
                    Some(other) => (other % c.kv_heads, queries + other / c.kv_heads),
                };
                (group * (queries + 2) + place) * c.head_dim + i
            }
        }
    }
}

/// Where row `r` of gates, queries, keys and values is stored if these lie together for each key head.
fn per_key_head(of: &Recurrence, r: usize) -> usize {
    let values = of.values() / of.key_heads;
    let group = 2 * of.key_width + 2 * values;
    let place = |width: usize, at: usize, r: usize| r / width * group + at + r % width;
    match r.checked_sub(of.values()) {
        None => place(values, 2 * of.key_width + values, r),
        Some(r) if r < of.keys() => place(of.key_width, 0, r),
        Some(r) if r < 2 * of.keys() => place(of.key_width, of.key_width, r - of.keys()),
        Some(r) => place(values, 2 * of.key_width, r - 2 * of.keys()),
    }
}

/// Where row `r` of queries, keys, values and what follows is stored if values come first, then keys, then queries.
fn values_first(of: &Recurrence, r: usize) -> usize {
    match r {
        _ if r < of.keys() => of.values() + of.keys() + r,
        _ if r < 2 * of.keys() => of.values() + r - of.keys(),
        _ if r < of.channels() => r - 2 * of.keys(),
        _ => r,
    }
}

/// Where number `i` of a head is stored if the two numbers that are rotated together lie side by side.
fn side_by_side(c: &Config, i: usize) -> usize {
    let half = c.rotated() / 2;
    if i < 2 * half { i % half * 2 + i / half } else { i }
}

/// The name of a matrix or norm, with `{}` for the layer and without `.weight` or `.bias`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorRef {
    pub(crate) name: String,
    pub(crate) bias: bool,
    pub(crate) order: RowOrder,
    /// Whether the name is that of a parameter, with nothing behind it.
    pub(crate) bare: bool,
    /// The name of the bias, where it does not lie beside the weight.
    pub(crate) other_bias: Option<String>,
    /// The matrix among those of a stacked tensor, and their number.
    pub(crate) slice: Option<(usize, usize)>,
    /// Rows behind those that are used.
    pub(crate) more_rows: usize,
    /// The numbers that layers have in names, where some layers are left out.
    pub(crate) numbers: Option<Arc<[usize]>>,
}

impl TensorRef {
    fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            bias: false,
            order: RowOrder::AsStored,
            bare: false,
            other_bias: None,
            slice: None,
            more_rows: 0,
            numbers: None,
        }
    }

    fn biased(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    fn ordered(self, order: RowOrder) -> Self {
        Self { order, ..self }
    }

    fn bare(self) -> Self {
        Self { bare: true, ..self }
    }

    /// With a bias of another name.
    fn biased_by(self, name: String) -> Self {
        Self { bias: true, other_bias: Some(name), ..self }
    }

    /// The matrix of one of `count` experts: a tensor of its own, or a part of one that holds those of all.
    pub(crate) fn of_expert(&self, expert: usize, count: usize) -> Self {
        match self.has_experts() {
            true => Self { name: self.name.replace("{expert}", &expert.to_string()), ..self.clone() },
            false => Self { slice: Some((expert, count)), ..self.clone() },
        }
    }

    /// Whether each expert has a tensor of its own.
    pub(crate) fn has_experts(&self) -> bool {
        self.name.contains("{expert}")
    }

    /// Whether each head has a tensor of its own.
    pub(crate) fn has_heads(&self) -> bool {
        self.name.contains("{head}")
    }

    /// The tensor of one head.
    pub(crate) fn of_head(&self, head: usize) -> Self {
        Self { name: self.name.replace("{head}", &head.to_string()), ..self.clone() }
    }

    /// The name in a layer, with nothing behind it.
    fn in_layer(&self, name: &str, layer: usize) -> String {
        let number = self.numbers.as_ref().map_or(layer, |numbers| numbers[layer]);
        name.replace("{}", &number.to_string())
    }

    /// The name of the weight in a layer.
    pub(crate) fn weight(&self, layer: usize) -> String {
        format!("{}{}", self.in_layer(&self.name, layer), if self.bare { "" } else { ".weight" })
    }

    /// The name of the bias in a layer.
    pub(crate) fn bias(&self, layer: usize) -> String {
        match &self.other_bias {
            Some(name) => self.in_layer(name, layer),
            None => format!("{}.bias", self.in_layer(&self.name, layer)),
        }
    }
}

/// The names of all tensors of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    pub(crate) embedding: TensorRef,
    pub(crate) embedding_norm: Option<TensorRef>,
    pub(crate) position: Option<TensorRef>,
    /// The row of the first position (OPT has two rows before it).
    pub(crate) first_position: usize,
    pub(crate) final_norm: Option<TensorRef>,
    pub(crate) head: TensorRef,
    /// Whether the rows of the head are divided by their lengths (Baichuan 2).
    pub(crate) normalised_head: bool,
    pub(crate) attn_norm: Option<TensorRef>,
    /// The first layer that has it.
    pub(crate) first_attn_norm: usize,
    /// A number that multiplies the stream after a layer (Gemma 4).
    pub(crate) layer_scalar: Option<TensorRef>,
    /// The tensors of layers with experts beside a dense MLP, beyond those of both.
    pub(crate) beside: Option<BesideLayout>,
    /// The tensors of what layers have of each token beside the stream.
    pub(crate) token_inputs: Option<TokenLayout>,
    /// One fused matrix, or q, k and v.
    pub(crate) qkv: Vec<TensorRef>,
    pub(crate) qk_norms: Option<[TensorRef; 2]>,
    /// The projection whose sigmoid multiplies what attention returns.
    pub(crate) attn_gate: Option<TensorRef>,
    /// The tensors of layers without attention, in the place of [`Self::qkv`] and [`Self::attn_out`], or those of what is
    /// beside attention.
    pub(crate) mixer: Option<MixerLayout>,
    /// A score for each head that joins the softmax of its rows.
    pub(crate) sinks: Option<TensorRef>,
    /// The tensors of latent attention, in the place of [`Self::qkv`].
    pub(crate) latent: Option<LatentLayout>,
    pub(crate) attn_out: TensorRef,
    pub(crate) post_attn_norm: Option<TensorRef>,
    pub(crate) mlp_norm: Option<TensorRef>,
    /// One matrix (plain, or gate and up fused), or gate and up.
    pub(crate) up: Vec<TensorRef>,
    pub(crate) down: TensorRef,
    /// The tensors of layers with experts, in the place of [`Self::up`] and [`Self::down`].
    pub(crate) experts: Option<ExpertLayout>,
    pub(crate) post_mlp_norm: Option<TensorRef>,
    /// Added to norm weights (Gemma stores them around zero).
    pub(crate) norm_offset: f32,
    /// The tensors that only encoders have.
    pub(crate) encoder: Option<EncoderLayout>,
}

/// The names of the tensors of token inputs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenLayout {
    /// Those of all layers.
    pub(crate) embedding: TensorRef,
    pub(crate) projection: TensorRef,
    pub(crate) norm: TensorRef,
    /// Those of one layer.
    pub(crate) gate: TensorRef,
    pub(crate) out: TensorRef,
    pub(crate) gate_norm: TensorRef,
}

/// The names of tensors that only encoders have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EncoderLayout {
    /// The first row is added to every embedding.
    pub(crate) token_types: Option<TensorRef>,
    /// Norms on the stream after attention and after the MLP.
    pub(crate) stream_norms: Option<[TensorRef; 2]>,
    /// The matrix before the unembedding, and the norm behind it.
    pub(crate) head_dense: Option<[TensorRef; 2]>,
}

/// The names of the tensors of a recurrence or a short convolution.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MixerLayout {
    /// All rows, or gates, queries with keys and values, and the numbers of strengths and decays, these together or apart.
    pub(crate) input: Vec<TensorRef>,
    /// `[channels, 1, taps]`.
    pub(crate) conv: TensorRef,
    /// Those that only recurrences have.
    pub(crate) recurrence: Option<RecurrenceLayout>,
    pub(crate) out: TensorRef,
}

/// The names of the tensors that only recurrences have.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RecurrenceLayout {
    /// The logarithm of the rate of decay, or minus the rate.
    pub(crate) rate: TensorRef,
    pub(crate) negative_rate: bool,
    pub(crate) time_bias: TensorRef,
    /// Of the state-space model.
    pub(crate) skip: Option<TensorRef>,
    /// Absent where outputs are not normalised.
    pub(crate) norm: Option<TensorRef>,
}

impl MixerLayout {
    pub(crate) fn all(&self) -> impl Iterator<Item = &TensorRef> {
        let own = self
            .recurrence
            .iter()
            .flat_map(|of| [&of.rate, &of.time_bias].into_iter().chain(&of.norm).chain(&of.skip));
        self.input.iter().chain([&self.conv, &self.out]).chain(own)
    }
}

/// The names of the tensors of latent attention.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LatentLayout {
    /// A matrix and the norm behind it.
    pub(crate) q_down: Option<[TensorRef; 2]>,
    pub(crate) q: TensorRef,
    pub(crate) kv_down: TensorRef,
    pub(crate) kv_norm: TensorRef,
    /// How the rotated part of keys is ordered.
    pub(crate) order: RowOrder,
    pub(crate) kv_up: KvUpLayout,
}

/// The matrix that makes keys, without their rotated part, and values of a latent vector.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum KvUpLayout {
    /// Stored head by head, keys, then values.
    Whole(TensorRef),
    /// `[heads, rank, key]` and `[heads, value, rank]`.
    Split { keys: TensorRef, values: TensorRef },
}

impl LatentLayout {
    pub(crate) fn all(&self) -> impl Iterator<Item = &TensorRef> {
        let kv_up = match &self.kv_up {
            KvUpLayout::Whole(all) => vec![all],
            KvUpLayout::Split { keys, values } => vec![keys, values],
        };
        self.q_down.iter().flatten().chain([&self.q, &self.kv_down, &self.kv_norm]).chain(kv_up)
    }
}

/// The names of tensors of layers with experts beside a dense MLP.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BesideLayout {
    /// The norm on what the dense MLP returns.
    pub(crate) dense_out: TensorRef,
    /// The norms before and after the experts.
    pub(crate) experts: [TensorRef; 2],
    /// The norm before the router, whose weights are the root of the width times too large.
    pub(crate) router: TensorRef,
    /// A factor on the weight of each expert.
    pub(crate) expert_scale: TensorRef,
}

impl BesideLayout {
    pub(crate) fn all(&self) -> impl Iterator<Item = &TensorRef> {
        [&self.dense_out, &self.router, &self.expert_scale].into_iter().chain(&self.experts)
    }
}

/// The names of the tensors of a mixture of experts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ExpertLayout {
    pub(crate) router: TensorRef,
    /// Numbers that are added to scores while experts are chosen.
    pub(crate) correction: Option<TensorRef>,
    /// As [`Layout::up`], with `{expert}` for the expert, or stacked.
    pub(crate) up: Vec<TensorRef>,
    pub(crate) down: TensorRef,
    pub(crate) shared: Option<(Vec<TensorRef>, TensorRef)>,
    pub(crate) shared_gate: Option<TensorRef>,
}

impl Layout {
    /// What the names of a layer's tensors begin with, before the number of the layer.
    pub(crate) fn layer_prefix(&self) -> &str {
        self.attn_out.name.split("{}").next().unwrap_or_default()
    }
}

/// Whether a prefix of names belongs to the image or audio part of a model.
fn is_other_modality(prefix: &str) -> bool {
    const OTHERS: [&str; 8] = [
        "vision_tower",
        "vision_model",
        "visual",
        "audio_tower",
        "multi_modal_projector",
        "embed_vision",
        "embed_audio",
        "encoder",
    ];
    prefix.split('.').any(|part| OTHERS.contains(&part))
}

type Family = (&'static str, FromConfig, &'static str);

type FromConfig = fn(&Fields<'_>, &Weights) -> Result<Description>;

/// `model_type` of config.json, the function that reads it, and the defaults of transformers.
const FAMILIES: &[Family] = &[
    ("llama", llama::describe, "{}"),
    ("mistral", llama::describe, llama::MISTRAL),
    ("qwen2", qwen::describe, qwen::QWEN2),
    ("qwen3", qwen::describe, qwen::QWEN3),
    ("gemma2", gemma::describe, gemma::GEMMA2),
    ("gemma3_text", gemma::describe, gemma::GEMMA3),
    ("gemma3", gemma::describe, gemma::GEMMA3),
    ("gemma4_text", gemma4::describe, gemma4::DEFAULTS),
    ("gemma4", gemma4::describe, gemma4::DEFAULTS),
    ("gemma4_unified_text", gemma4::describe, gemma4::UNIFIED),
    ("gemma4_unified", gemma4::describe, gemma4::UNIFIED),
    ("mllama_text_model", mllama::describe, mllama::DEFAULTS),
    ("mllama", mllama::describe, mllama::DEFAULTS),
    ("olmo2", olmo::describe, r#"{"rms_norm_eps": 1e-5}"#),
    ("phi3", phi::describe, phi::DEFAULTS),
    ("smollm3", smollm::describe, smollm::DEFAULTS),
    ("phi", phi::describe_first, phi::PHI),
    ("gemma", gemma::describe_first, gemma::GEMMA),
    ("olmo3", olmo::describe_third, olmo::OLMO3),
    ("starcoder2", starcoder::describe, starcoder::DEFAULTS),
    ("granite", granite::describe, "{}"),
    ("cohere", cohere::describe, cohere::COHERE),
    ("cohere2", cohere::describe, cohere::COHERE2),
    ("stablelm", stablelm::describe, stablelm::DEFAULTS),
    ("ministral", llama::describe, llama::MISTRAL),
    ("ministral3", llama::describe, llama::MINISTRAL3),
    ("exaone4", exaone::describe, exaone::DEFAULTS),
    ("hunyuan_v1_dense", relatives::hunyuan, relatives::HUNYUAN),
    ("ernie4_5", relatives::ernie, relatives::ERNIE),
    ("seed_oss", relatives::seed_oss, relatives::SEED_OSS),
    ("nemotron", relatives::nemotron, relatives::NEMOTRON),
    ("gptj", gptj::describe, gptj::DEFAULTS),
    ("codegen", gptj::describe_codegen, gptj::DEFAULTS),
    ("progen", gptj::describe_progen, gptj::PROGEN),
    ("falcon", falcon::describe, falcon::DEFAULTS),
    ("opt", opt::describe, opt::DEFAULTS),
    ("internlm2", internlm::describe_second, internlm::INTERNLM2),
    ("internlm3", internlm::describe_third, internlm::INTERNLM3),
    ("minicpm", granite::describe_minicpm, granite::MINICPM),
    ("bloom", bloom::describe, bloom::DEFAULTS),
    ("mpt", mpt::describe, mpt::DEFAULTS),
    ("baichuan", baichuan::describe, baichuan::DEFAULTS),
    ("qwen2_vl", qwen::describe, qwen::QWEN2_VL),
    ("qwen2_vl_text", qwen::describe, qwen::QWEN2_VL),
    ("qwen2_5_vl", qwen::describe, qwen::QWEN2_VL),
    ("qwen2_5_vl_text", qwen::describe, qwen::QWEN2_VL),
    ("qwen3_vl", qwen::describe, qwen::QWEN3_VL),
    ("qwen3_vl_text", qwen::describe, qwen::QWEN3_VL),
    ("mistral3", llama::describe, llama::MISTRAL3),
    ("gpt_neox", gpt_neox::describe, r#"{"rotary_pct": 0.25}"#),
    ("gpt2", gpt2::describe, "{}"),
    ("esm", encoders::esm, encoders::ESM),
    ("bert", encoders::bert, encoders::BERT),
    ("roberta", encoders::roberta, encoders::ROBERTA),
    ("distilbert", encoders::distilbert, encoders::DISTILBERT),
    ("modernbert", encoders::modernbert, encoders::MODERNBERT),
];

/// As [`FAMILIES`], for mixtures of experts.
const EXPERT_FAMILIES: &[Family] = &[
    ("mixtral", experts::mixtral, experts::MIXTRAL),
    ("qwen3_moe", experts::qwen3, experts::QWEN3_MOE),
    ("qwen2_moe", experts::qwen2, experts::QWEN2_MOE),
    ("olmoe", experts::olmoe, experts::OLMOE),
    ("granitemoe", granite::describe_experts, granite::GRANITE_MOE),
    ("granitemoeshared", granite::describe_experts, granite::GRANITE_MOE),
    ("glm4_moe", glm::describe_experts, glm::GLM4_MOE),
    ("deepseek_v2", deepseek::second, deepseek::V2),
    ("deepseek_v3", deepseek::third, deepseek::V3),
    ("gpt_oss", gpt_oss::describe, gpt_oss::DEFAULTS),
    ("llama4_text", llama4::describe, llama4::DEFAULTS),
    ("llama4", llama4::describe, llama4::DEFAULTS),
];

/// As [`FAMILIES`], for models some of whose layers mix positions by a recurrence.
const HYBRID_FAMILIES: &[Family] = &[
    ("qwen3_next", qwen_next::describe, qwen_next::QWEN3_NEXT),
    ("qwen3_5", qwen_next::dense, qwen_next::QWEN3_5),
    ("qwen3_5_text", qwen_next::dense, qwen_next::QWEN3_5),
    ("qwen3_5_moe", qwen_next::describe, qwen_next::QWEN3_5_MOE),
    ("qwen3_5_moe_text", qwen_next::describe, qwen_next::QWEN3_5_MOE),
    ("granitemoehybrid", granite::describe_fourth, granite::GRANITE4),
    ("lfm2", lfm::describe, lfm::LFM2),
    ("lfm2_moe", lfm::describe_experts, lfm::LFM2_MOE),
    ("mamba2", mamba::describe, mamba::MAMBA2),
    ("bamba", mamba::bamba, mamba::BAMBA),
    ("falcon_h1", falcon_h1::describe, falcon_h1::FALCON_H1),
    ("nemotron_h", nemotron_h::describe, nemotron_h::NEMOTRON_H),
];

/// Those of [`FAMILIES`] and [`HYBRID_FAMILIES`] that may have experts.
const OTHERS_WITH_EXPERTS: &[&str] = &[
    "qwen3_next",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "granitemoehybrid",
    "lfm2_moe",
    "nemotron_h",
    "gemma4_text",
    "gemma4",
];

/// All families.
fn families() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().chain(EXPERT_FAMILIES).chain(HYBRID_FAMILIES)
}

/// The architectures that can be loaded, as `model_type` names them.
pub fn supported() -> Vec<&'static str> {
    families().map(|f| f.0).collect()
}

/// Those of [`supported`] that are mixtures of experts.
pub fn mixtures_of_experts() -> Vec<&'static str> {
    EXPERT_FAMILIES.iter().map(|f| f.0).collect()
}

/// Those of [`supported`] some of whose layers mix positions by a recurrence.
pub fn hybrids() -> Vec<&'static str> {
    HYBRID_FAMILIES.iter().map(|f| f.0).collect()
}

/// The architectures whose GGUF files are read, by llama.cpp's names.
pub fn gguf_architectures() -> Vec<&'static str> {
    gguf_families::GGUF_FAMILIES.iter().map(|family| family.arch).collect()
}

fn unknown(path: &Path, name: &str, supported: &[&str]) -> Error {
    Error::Architecture { path: path.to_owned(), name: name.to_owned(), supported: supported.join(", ") }
}

/// A Hugging Face `config.json` without unsupported settings.
pub(crate) struct HfConfig {
    path: PathBuf,
    json: Value,
}

impl HfConfig {
    /// Reads the file and refuses unsupported settings, so that a model can be refused before its weights are
    /// fetched.
    ///
    /// # Errors
    /// When the file is damaged or has an unsupported setting.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let json = files::json(path)?;
        audit::refuse(path, &json)?;
        let this = Self { path: path.to_owned(), json };
        this.family()?;
        Ok(this)
    }

    /// A configuration that was made, not read; `path` is for messages.
    pub(crate) fn made(path: &Path, json: Value) -> Self {
        Self { path: path.to_owned(), json }
    }

    fn family(&self) -> Result<&'static Family> {
        let name = |json: &Value| json.get("model_type").and_then(Value::as_str).map(str::to_owned);
        let find = |name: &str| {
            families().find(|f| f.0 == name).ok_or_else(|| unknown(&self.path, name, &supported()))
        };
        // The text models of Mistral 3 are of more than one family.
        let text = self.json.get("text_config").and_then(name);
        match name(&self.json) {
            Some(outer) => find(&outer).and_then(|family| text.map_or(Ok(family), |inner| find(&inner))),
            None => Err(Error::config(&self.path, "it has no 'model_type', which names the architecture")),
        }
    }

    /// Rows and columns that share a scale in matrices of 8-bit floats.
    ///
    /// # Errors
    /// When the value is impossible.
    pub(crate) fn fp8_block(&self) -> Result<Option<[usize; 2]>> {
        audit::fp8_block(&self.path, &self.json)
    }

    /// Describes the decoder in `weights`.
    ///
    /// # Errors
    /// When a field is missing or impossible.
    pub(crate) fn describe(&self, weights: &Weights) -> Result<Description> {
        let (_, describe, defaults) = self.family()?;
        let mut defaults: Value = serde_json::from_str(defaults).expect("the defaults are JSON");
        // Models of several modalities keep the language part in 'text_config', and may say outside it whether the
        // head is tied.
        let text = self.json.get("text_config");
        let outside = self.json.get("tie_word_embeddings").and_then(Value::as_bool);
        if let (Some(_), Some(tied)) = (text, outside) {
            defaults["tie_word_embeddings"] = tied.into();
        }
        let fields = Fields::new(&self.path, text.unwrap_or(&self.json), &defaults);
        let mut description = describe(&fields, weights)?;
        description.config.tied |= outside == Some(true);
        description.config.check(&self.path)?;
        let said = fields.warnings();
        description.warnings.extend(said.iter().map(|what| format!("{}: {what}", self.path.display())));
        let unknown = audit::unknown(&fields);
        if !unknown.is_empty() {
            description.warnings.push(format!(
                "{}: {} not known and not honoured: '{}'",
                self.path.display(),
                if unknown.len() == 1 { "this setting is" } else { "these settings are" },
                unknown.join("', '")
            ));
        }
        if ["vision_config", "audio_config"]
            .iter()
            .any(|part| self.json.get(*part).is_some_and(|p| !p.is_null()))
        {
            description.warnings.push(
                "the checkpoint also has parts for images or sound; only its text model is read and measured"
                    .into(),
            );
        }
        if weights.has_fp8() {
            description.warnings.push(
                "weights of 8 bits are multiplied as they are stored; activations are not quantised".into(),
            );
        }
        Ok(description)
    }
}

/// Reads the metadata of a GGUF file.
///
/// # Errors
/// When it is not a model, the architecture is unknown, or a key is missing, impossible or unsupported.
pub(crate) fn from_gguf(path: &Path, header: &Header, weights: &Weights) -> Result<Description> {
    let description = gguf_names::describe(path, header, weights)?;
    description.config.check(path)?;
    Ok(description)
}
