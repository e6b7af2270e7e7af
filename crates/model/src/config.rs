//! The description of a model: every difference between the supported architectures, as data.

use crate::error::{Error, Result};
use crate::rope;
pub use crate::rope::{Rope, RopeScaling};
pub use fathom_kernels::attention::Visibility;
use fathom_kernels::backend::Columns;
use fathom_kernels::elementwise::Activation;
pub use fathom_kernels::norm::NormKind;
pub use fathom_kernels::recurrence::{OutputNorm, Recurrence, Update};
pub use fathom_kernels::short_convolution::ShortConvolution;
use std::ops::Range;
use std::path::Path;

/// Norms on queries and keys, before the rotation unless the variant says otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QkNorm {
    /// None.
    None,
    /// Each head separately (Qwen3, Gemma 3).
    Head,
    /// Each head separately, after the rotation (Hunyuan).
    HeadRotated,
    /// Each head separately, with weights of its own (Cohere, StableLM).
    OwnHead,
    /// Each head separately, after the rotation and without weights, in the layers that rotate (Llama 4).
    UnitRotated,
    /// Each head separately, and the values without weights (Gemma 4).
    HeadAndValues,
    /// All heads together (OLMo 2).
    Full,
}

impl QkNorm {
    /// Whether the norms follow the rotation.
    pub(crate) fn is_behind_rotation(self) -> bool {
        matches!(self, Self::HeadRotated | Self::UnitRotated)
    }
}

/// How positions are encoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// A learned vector per position, added to the embedding (GPT-2).
    Learned,
    /// Rotary embeddings of queries and keys; [`Layer::rope`] indexes the list.
    Rotary(Vec<Rope>),
    /// A bias on attention scores that grows with the distance.
    Alibi(Alibi),
}

/// A bias on attention scores that grows with the distance (arXiv 2108.12409).
#[derive(Clone, Debug, PartialEq)]
pub struct Alibi {
    /// The slope of each head ([`HeadBias::slopes`](fathom_kernels::attention::HeadBias::slopes)).
    pub slopes: Vec<f32>,
    /// Whether they are multiplied by positions in bfloat16 (Falcon;
    /// [`HeadBias::rounded`](fathom_kernels::attention::HeadBias::rounded)).
    pub rounded: bool,
}

/// The settings of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layer {
    /// Sliding window: positions that a position sees, including itself, backwards and in encoders forwards too; `None`
    /// for all.
    pub window: Option<usize>,
    /// Chunked attention: texts are cut into chunks of this many positions, which do not see each other (Llama 4).
    pub chunk: Option<usize>,
    /// Index into [`Positions::Rotary`]; `None` for a layer without rotation (SmolLM3, Cohere 2).
    pub rope: Option<usize>,
    /// A factor on queries that grows with the position.
    pub temperature: Option<Temperature>,
    /// The heads of the layer, where they differ from those that [`Config`] names (Gemma 4).
    pub heads: Option<Heads>,
    /// The earlier layer whose keys and values it reads, where it has none of its own (Gemma 4 E2B and E4B).
    pub keys_of: Option<usize>,
    /// Width of the dense MLP, where it differs from [`Config::intermediate`] (Gemma 4 E2B).
    pub intermediate: Option<usize>,
    /// What follows attention.
    pub mlp: Mlp,
    /// How the layer mixes positions.
    pub mixer: Mixer,
}

/// A layer of dense attention that sees all positions and rotates by the first rotary embedding.
impl Default for Layer {
    fn default() -> Self {
        Self {
            window: None,
            chunk: None,
            rope: Some(0),
            temperature: None,
            heads: None,
            keys_of: None,
            intermediate: None,
            mlp: Mlp::Dense,
            mixer: Mixer::Attention,
        }
    }
}

/// A factor on the queries of a position p, counted from 0: `1 + scale ln(1 + floor((p + 1) / floor))`
/// (arXiv 2501.19399, as Llama 4 has it).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// Positions over which the factor stays the same.
    pub floor: usize,
    /// How fast it grows.
    pub scale: f32,
}

impl Temperature {
    /// The factor after some steps of [`Self::floor`] positions.
    pub(crate) fn factor(self, steps: usize) -> f32 {
        (1.0 + f64::from(self.scale) * (steps as f64).ln_1p()) as f32
    }
}

/// The heads of a layer's keys and values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Whether values are the projection that keys are, before their norm.
    pub keys_as_values: bool,
}

/// How a layer mixes positions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Mixer {
    /// Attention.
    #[default]
    Attention,
    /// A recurrence, in the place of attention (Qwen3-Next).
    Recurrence(Recurrence),
    /// A short convolution, in the place of attention (LFM2).
    Convolution(ShortConvolution),
    /// Attention and a recurrence that read the same; what both return is added (Falcon-H1).
    Both(Recurrence),
    /// Nothing: the layer is an MLP (Nemotron-H).
    None,
}

/// What follows attention in a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Mlp {
    /// One MLP that every token takes, of the width [`Config::intermediate`].
    #[default]
    Dense,
    /// A mixture of experts, of which every token takes a few.
    Experts(Experts),
    /// An MLP as in [`Self::Dense`] and a mixture of experts beside it, each with norms of its own, whose outputs are added
    /// (Gemma 4).
    DenseAndExperts(Experts),
    /// Nothing: the layer ends there (Mamba 2, Nemotron-H).
    None,
}

impl Mlp {
    /// The experts, of a mixture.
    pub fn experts(&self) -> Option<Experts> {
        match self {
            Self::Dense | Self::None => None,
            Self::Experts(experts) | Self::DenseAndExperts(experts) => Some(*experts),
        }
    }

    /// Whether it is [`Self::DenseAndExperts`].
    pub(crate) fn is_both(&self) -> bool {
        matches!(self, Self::DenseAndExperts(_))
    }

    /// Whether tokens take an MLP of the width [`Config::intermediate`].
    pub fn has_dense(&self) -> bool {
        matches!(self, Self::Dense | Self::DenseAndExperts(_))
    }
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// Number of experts, E.
    pub count: usize,
    /// Experts that a token takes, k.
    pub active: usize,
    /// Width of an expert.
    pub width: usize,
    /// Width of the expert that every token takes beside its own; 0 without one.
    pub shared: usize,
    /// Whether the sigmoid of one more projection is the weight of the shared expert (Qwen2-MoE). It is 1 otherwise.
    pub shared_gate: bool,
    /// How experts are chosen and weighed.
    pub routing: Routing,
}

/// How experts are chosen and weighed, from the logits of the router.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// What makes scores of logits.
    pub score: Score,
    /// Whether the scores of the chosen experts are divided by their sum.
    pub normalised: bool,
    /// Factor on the weights.
    pub scale: f32,
    /// Whether a stored number for each expert is added to its score while experts are chosen. The weights do not
    /// contain it.
    pub correction: bool,
    /// Whether weights multiply what experts read instead of what they return (Llama 4).
    pub on_input: bool,
    /// Whether a stored number for each expert multiplies its weight (Gemma 4).
    pub expert_scale: bool,
    /// Restricts the choice to the best groups of experts (DeepSeek).
    pub groups: Option<Groups>,
}

/// What makes the scores of experts of the router's logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Score {
    /// The softmax over all experts.
    Softmax,
    /// The sigmoid of each.
    Sigmoid,
}

/// Groups of experts, of which the best are kept before experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Groups {
    /// Number of groups of consecutive experts.
    pub count: usize,
    /// Groups that are kept.
    pub kept: usize,
    /// How many of its best experts a group is judged by: the sum of their scores.
    pub best: usize,
}

impl Experts {
    /// Checks that experts can be chosen as described.
    fn check(&self, path: &Path) -> Result<()> {
        let bad = |what: String| Err(Error::config(path, what));
        let Self { count, active, .. } = *self;
        if count == 0 || count > 1 << 14 || active == 0 || active > count {
            return bad(format!(
                "{active} of {count} experts cannot be chosen; there must be 1 to {} of them, and a token takes 1 or more",
                1 << 14
            ));
        }
        if self.width == 0 || self.width > 1 << 22 || self.shared > 1 << 22 {
            return bad(format!(
                "the width of experts is {}, and {} of the shared one; it must lie between 1 and {}",
                self.width,
                self.shared,
                1 << 22
            ));
        }
        rope::check_positive(path, "the factor on the weights of experts", self.routing.scale.into())?;
        let Some(groups) = self.routing.groups else { return Ok(()) };
        let size = count.checked_div(groups.count).unwrap_or(0);
        if size == 0 || size * groups.count != count || groups.best == 0 || groups.best > size {
            return bad(format!(
                "{count} experts cannot form {} equal groups of {} or more",
                groups.count, groups.best
            ));
        }
        if groups.kept == 0 || groups.kept > groups.count || groups.kept * size < active {
            return bad(format!(
                "{active} experts cannot be chosen from {} of {} groups of {size}",
                groups.kept, groups.count
            ));
        }
        Ok(())
    }
}

/// Latent attention (DeepSeek): keys and values are projections of one narrow vector per row.
///
/// [`Config::head_dim`] is the width of queries and keys. Heads begin with their rotated part, and values are padded
/// with zeros to the same width.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latent {
    /// Width of the vector that queries are projections of; `None` where they are of the stream.
    pub q_rank: Option<usize>,
    /// Width of the vector that keys and values are projections of.
    pub rank: usize,
    /// Numbers of a head's queries and keys that are rotated; those of the keys are the same in all heads.
    pub rotated: usize,
    /// The other numbers of a head's queries and keys.
    pub plain: usize,
    /// Width of a head's values.
    pub value: usize,
}

impl Latent {
    /// Width of a head's queries and keys.
    pub fn width(&self) -> usize {
        self.rotated.saturating_add(self.plain)
    }

    /// The columns of the latent vector that are normalised; the rotated part of the keys follows them.
    pub(crate) fn normalised(&self) -> Columns {
        Columns { stride: self.rank + self.rotated, start: 0, width: self.rank, count: 1 }
    }

    fn check(&self, path: &Path) -> Result<()> {
        let all = [self.q_rank.unwrap_or(1), self.rank, self.rotated, self.plain, self.value];
        if all.iter().any(|width| *width == 0 || *width > 1 << 16) || self.value > self.width() {
            return Err(Error::config(
                path,
                format!("the widths of latent attention are impossible: {self:?}"),
            ));
        }
        Ok(())
    }
}

/// Factors on parts of a layer (Falcon-H1); all are 1 elsewhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// On what attention adds to the stream.
    pub attention: f32,
    /// On the gates, queries, keys, values and numbers that the recurrence beside attention reads.
    pub recurrence_in: [f32; 5],
    /// On what that recurrence adds to the stream.
    pub recurrence: f32,
    /// On the gates of the MLP.
    pub gate: f32,
    /// On what the MLP adds to the stream.
    pub mlp: f32,
}

impl Multipliers {
    /// All are 1.
    pub const NONE: Self =
        Self { attention: 1.0, recurrence_in: [1.0; 5], recurrence: 1.0, gate: 1.0, mlp: 1.0 };

    fn check(&self, path: &Path) -> Result<()> {
        let own = [self.attention, self.recurrence, self.gate, self.mlp];
        match own.iter().chain(&self.recurrence_in).find(|factor| !factor.is_finite()) {
            None => Ok(()),
            Some(factor) => Err(Error::config(path, format!("a factor on a part of a layer is {factor}"))),
        }
    }
}

/// What encoders have and decoders have not. Attention of encoders sees both sides, and the windows of their layers
/// reach as far on each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Encoder {
    /// Rows of the embedding of token types, of which the first is added to every token; 0 without it.
    pub token_types: usize,
    /// The token whose embedding is replaced by zeros, while the others are scaled for its share of the text (ESM).
    pub token_dropout: Option<u32>,
    /// What makes logits of the stream.
    pub head: Head,
}

/// What makes logits of the stream of an encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Head {
    /// Nothing: the model predicts no tokens.
    None,
    /// A matrix, this activation, a norm and the unembedding.
    Dense(Activation),
}

/// The description of a transformer: a decoder, or an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the architecture, as Hugging Face's `model_type`.
    pub architecture: String,
    /// Width of the residual stream, d.
    pub hidden: usize,
    /// Query heads; 0 where no layer has attention, as are the next two.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the MLP of dense layers; 0 where there are none.
    pub intermediate: usize,
    /// Width of the embedding that every layer has of each token, beside that of the model; `None` in models without
    /// (Gemma 4 E2B and E4B).
    pub token_inputs: Option<usize>,
    /// Rows of the embedding, V.
    pub vocab: usize,
    /// Maximum context length.
    pub context: usize,
    /// The settings of each of the L layers.
    pub layers: Vec<Layer>,
    /// How positions are encoded.
    pub positions: Positions,
    /// Kind of norm.
    pub norm: NormKind,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Norms before the sublayers.
    pub pre_norm: bool,
    /// Norms on the outputs of the sublayers, before they are added to the residual stream.
    pub post_norm: bool,
    /// Attention and MLP are parallel: both read the residual stream before the layer.
    pub parallel: bool,
    /// Norms on queries and keys.
    pub qk_norm: QkNorm,
    /// Whether what attention returns is multiplied by the sigmoid of one more projection (Qwen3-Next).
    pub attention_gate: bool,
    /// Latent attention, where queries, keys and values are not projections of the stream.
    pub latent: Option<Latent>,
    /// Activation of the MLP.
    pub activation: Activation,
    /// Whether the MLP is gated: the activation is multiplied by a second projection.
    pub gated: bool,
    /// Factor on attention scores.
    pub attention_scale: f32,
    /// Soft-capping of attention scores.
    pub attention_softcap: Option<f32>,
    /// Soft-capping of the logits.
    pub final_softcap: Option<f32>,
    /// Factor on the embedding.
    pub embedding_scale: f32,
    /// Factor on what each sublayer adds to the residual stream (Granite).
    pub residual_scale: f32,
    /// Factors on parts of a layer.
    pub multipliers: Multipliers,
    /// Factor on the logits, before their soft-capping (Granite, Cohere).
    pub logit_scale: f32,
    /// Whether the head is tied to the embedding.
    pub tied: bool,
    /// What encoders have; `None` for decoders.
    pub encoder: Option<Encoder>,
}

impl Config {
    /// Number of layers, L.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// The positions that those of layer `l` see, within their chunk if the layer has some.
    pub fn visibility(&self, l: usize) -> Visibility {
        match (&self.encoder, self.layers[l].window) {
            (None, window) => Visibility::causal(window),
            (Some(_), None) => Visibility::Full,
            (Some(_), Some(window)) => Visibility::Around(window - 1),
        }
    }

    /// The positions that `position` of a text of `length` tokens sees in layer `l`.
    pub fn seen(&self, l: usize, position: usize, length: usize) -> Range<usize> {
        let start = self.layers[l].chunk.map_or(0, |chunk| position / chunk * chunk);
        let seen = self.visibility(l).seen(position - start, length - start);
        seen.start + start..seen.end + start
    }

    /// Whether no position sees one after it, in any layer.
    pub fn is_causal(&self) -> bool {
        self.encoder.is_none()
    }

    /// Whether the model predicts tokens.
    pub fn has_head(&self) -> bool {
        self.encoder.is_none_or(|encoder| encoder.head != Head::None)
    }

    /// The heads of keys and values in layer `l`.
    pub fn heads_of(&self, l: usize) -> Heads {
        let usual = Heads { kv_heads: self.kv_heads, head_dim: self.head_dim, keys_as_values: false };
        self.layers[l].heads.unwrap_or(usual)
    }

    /// Width of the dense MLP of layer `l`.
    pub fn mlp_width(&self, l: usize) -> usize {
        self.layers[l].intermediate.unwrap_or(self.intermediate)
    }

    /// Width of the widest dense MLP; 0 where there are none.
    pub fn widest_mlp(&self) -> usize {
        let dense = (0..self.depth()).filter(|l| self.layers[*l].mlp.has_dense());
        dense.map(|l| self.mlp_width(l)).max().unwrap_or(0)
    }

    /// The layer whose keys and values layer `l` reads.
    pub fn keys_of(&self, l: usize) -> usize {
        self.layers[l].keys_of.unwrap_or(l)
    }

    /// Whether later layers read the keys and values of layer `l`.
    pub(crate) fn is_shared(&self, l: usize) -> bool {
        self.layers.iter().any(|layer| layer.keys_of == Some(l))
    }

    /// The layers whose keys and values later layers read.
    pub(crate) fn shared_layers(&self) -> impl Iterator<Item = usize> {
        (0..self.depth()).filter(|l| self.is_shared(*l))
    }

    /// Whether layers read more than the residual stream: embeddings of their own, or keys of other layers.
    pub fn has_side_inputs(&self) -> bool {
        self.token_inputs.is_some() || self.layers.iter().any(|layer| layer.keys_of.is_some())
    }

    /// Width of all query heads in layer `l`.
    pub fn q_width(&self, l: usize) -> usize {
        self.heads * self.heads_of(l).head_dim
    }

    /// Width of all key heads in layer `l`, and of all value heads.
    pub fn kv_width(&self, l: usize) -> usize {
        let of = self.heads_of(l);
        of.kv_heads * of.head_dim
    }

    /// The widest query heads of a layer.
    pub(crate) fn widest_q(&self) -> usize {
        (0..self.depth()).map(|l| self.q_width(l)).max().unwrap_or(0)
    }

    /// Whether layer `l` mixes positions by attention, alone or beside a recurrence.
    pub fn has_attention(&self, l: usize) -> bool {
        matches!(self.layers[l].mixer, Mixer::Attention | Mixer::Both(_))
    }

    /// Whether layer `l` mixes positions.
    pub fn has_mixer(&self, l: usize) -> bool {
        self.layers[l].mixer != Mixer::None
    }

    /// Whether layer `l` has an MLP.
    pub fn has_mlp(&self, l: usize) -> bool {
        self.layers[l].mlp != Mlp::None
    }

    /// The recurrence of layer `l`, if it has one.
    pub fn recurrence(&self, l: usize) -> Option<Recurrence> {
        match self.layers[l].mixer {
            Mixer::Attention | Mixer::Convolution(_) | Mixer::None => None,
            Mixer::Recurrence(recurrence) | Mixer::Both(recurrence) => Some(recurrence),
        }
    }

    /// The recurrence of the first layer that has one.
    pub fn first_recurrence(&self) -> Option<Recurrence> {
        (0..self.depth()).find_map(|l| self.recurrence(l))
    }

    /// Width of a row before positions are mixed in layer `l`: queries, keys and values, or what takes their place.
    pub fn input_width(&self, l: usize) -> usize {
        match self.layers[l].mixer {
            Mixer::Attention => self.attention_width(l),
            Mixer::Recurrence(of) => of.width(),
            Mixer::Convolution(of) => of.width(),
            Mixer::Both(of) => self.attention_width(l) + of.width(),
            Mixer::None => 0,
        }
    }

    /// Width of queries, keys and values.
    pub(crate) fn attention_width(&self, l: usize) -> usize {
        self.q_width(l) + 2 * self.kv_width(l)
    }

    /// Width of what mixing positions returns in layer `l`, before the output projection.
    pub fn mixed_width(&self, l: usize) -> usize {
        match self.layers[l].mixer {
            Mixer::Attention => self.q_width(l),
            Mixer::Recurrence(of) => of.values(),
            Mixer::Convolution(of) => of.channels,
            Mixer::Both(of) => self.q_width(l) + of.values(),
            Mixer::None => 0,
        }
    }

    /// Width of what later positions read of a row in layer `l`: keys and values, or what takes their place.
    pub fn cached_width(&self, l: usize) -> usize {
        self.cached_columns(l).iter().map(|columns| columns.width).sum()
    }

    /// The parts of rows that later positions read in layer `l`, one for each matrix that rows come from. They are the last
    /// columns of their rows.
    pub(crate) fn cached_columns(&self, l: usize) -> Vec<Columns> {
        let last = |stride: usize, width: usize| Columns { stride, start: stride - width, width, count: 1 };
        let attention = || last(self.attention_width(l), 2 * self.kv_width(l));
        match self.layers[l].mixer {
            Mixer::Attention if self.layers[l].keys_of.is_some() => Vec::new(),
            Mixer::Attention => vec![attention()],
            Mixer::Recurrence(of) => vec![last(of.width(), of.cached())],
            Mixer::Convolution(of) => vec![last(of.width(), of.cached())],
            Mixer::Both(of) => vec![attention(), last(of.width(), of.cached())],
            Mixer::None => Vec::new(),
        }
    }

    /// The experts of the first layer that has some.
    pub fn experts(&self) -> Option<Experts> {
        self.layers.iter().find_map(|layer| layer.mlp.experts())
    }

    /// Rotated dimensions of a head.
    pub(crate) fn rotated(&self) -> usize {
        match &self.positions {
            Positions::Learned | Positions::Alibi(_) => 0,
            Positions::Rotary(ropes) => ropes.first().map_or(0, |rope| rope.dim),
        }
    }

    /// The same without the settings of sublayers that no layer has, which need not be stated.
    fn relevant(&self) -> Self {
        let mut c = self.clone();
        if !(0..c.depth()).any(|l| c.has_attention(l)) {
            (c.heads, c.kv_heads, c.head_dim, c.attention_scale) = (0, 0, 0, 1.0);
            c.qk_norm = QkNorm::None;
        }
        if c.layers.iter().all(|layer| layer.mlp != Mlp::Dense) {
            c.intermediate = 0;
        }
        c
    }

    /// The first setting in which two descriptions differ, with its value in each. Settings of sublayers that no
    /// layer has do not count.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let (one, other) = (self.relevant(), other.relevant());
        macro_rules! differs {
            ($($field:ident),+ $(,)?) => {
                // A field that is missing here does not compile.
                let Self { $($field: _),+ } = self;
                $(if one.$field != other.$field {
                    let name = stringify!($field);
                    return Some(format!("'{name}' is {:?} where it was {:?}", other.$field, one.$field));
                })+
            };
        }
        differs!(
            architecture,
            hidden,
            heads,
            kv_heads,
            head_dim,
            intermediate,
            token_inputs,
            vocab,
            context,
            layers,
            positions,
            norm,
            norm_eps,
            pre_norm,
            post_norm,
            parallel,
            qk_norm,
            attention_gate,
            latent,
            activation,
            gated,
            attention_scale,
            attention_softcap,
            final_softcap,
            embedding_scale,
            residual_scale,
            multipliers,
            logit_scale,
            tied,
            encoder,
        );
        None
    }

    /// Checks the assumptions of the forward pass, so that a wrong configuration causes an error instead of an
    /// overflow or a panic.
    ///
    /// # Errors
    /// Names the first impossible field.
    pub fn check(&self, path: &Path) -> Result<()> {
        let bad = |what: String| Err(Error::config(path, what));
        let attends = usize::from((0..self.depth()).any(|l| self.has_attention(l)) || self.layers.is_empty());
        // That of experts is a number of its own.
        let has_mlp = usize::from((0..self.depth()).any(|l| self.has_mlp(l)));
        for (name, value, least, most) in [
            ("the width of the stream", self.hidden, 1, 1 << 20),
            ("the number of heads", self.heads, attends, MOST_HEADS),
            ("the number of key heads", self.kv_heads, attends, 1 << 16),
            ("the width of a head", self.head_dim, attends, 1 << 16),
            ("the width of the MLP", self.intermediate, has_mlp, 1 << 22),
            ("the vocabulary", self.vocab, 1, 1 << 26),
            ("the context", self.context, 1, 1 << 40),
            ("the number of layers", self.layers.len(), 1, 1 << 14),
        ] {
            if value < least || value > most {
                return bad(format!("{name} is {value}; it must lie between {least} and {most}"));
            }
        }
        for l in (0..self.depth()).filter(|l| self.has_attention(*l)) {
            let Heads { kv_heads, head_dim, .. } = self.heads_of(l);
            if head_dim == 0 || head_dim > 1 << 16 {
                return bad(format!(
                    "the width of a head of layer {l} is {head_dim}; it must lie between 1 and 65536"
                ));
            }
            if kv_heads == 0 || !self.heads.is_multiple_of(kv_heads) {
                return bad(format!("{} heads cannot share {kv_heads} key heads evenly", self.heads));
            }
        }
        for (name, value) in [
            ("the epsilon of the norms", Some(self.norm_eps)),
            ("the scale of attention", Some(self.attention_scale)),
            ("the soft-capping of attention", self.attention_softcap),
            ("the soft-capping of the logits", self.final_softcap),
            ("the factor on the embedding", Some(self.embedding_scale)),
            ("the factor on what a sublayer adds", Some(self.residual_scale)),
            ("the factor on the logits", Some(self.logit_scale)),
        ] {
            value.map_or(Ok(()), |value| rope::check_positive(path, name, value.into()))?;
        }
        self.multipliers.check(path)?;
        if let Some(latent) = self.latent {
            latent.check(path)?;
        }
        if let Positions::Alibi(Alibi { slopes, .. }) = &self.positions
            && (slopes.len() != self.heads || !slopes.iter().all(|slope| *slope > 0.0 && *slope <= 1.0))
        {
            return bad(format!("the slopes of {} heads are {slopes:?}", self.heads));
        }
        if let Positions::Rotary(ropes) = &self.positions {
            if self.layers.iter().filter_map(|l| l.rope).any(|rope| rope >= ropes.len()) {
                return bad("a layer refers to a rotary embedding that does not exist".into());
            }
            for (i, rope) in ropes.iter().enumerate() {
                let turned = (0..self.depth()).filter(|l| self.layers[*l].rope == Some(i));
                let narrowest = turned.map(|l| self.heads_of(l).head_dim).min();
                rope.check(path, narrowest.unwrap_or(self.head_dim))?;
            }
        }
        for layer in &self.layers {
            if let Some(experts) = layer.mlp.experts() {
                experts.check(path)?;
            }
            if let Some(Temperature { floor, scale }) = layer.temperature
                && (floor == 0 || !(0.0..=1e6).contains(&scale))
            {
                return bad(format!("queries cannot grow by {scale} every {floor} positions"));
            }
            if layer.chunk == Some(0) {
                return bad("attention in chunks of 0 positions sees nothing".into());
            }
        }
        self.check_shared(path)?;
        self.check_side_inputs(path)?;
        let mut others = self
            .layers
            .iter()
            .map(|layer| layer.mixer)
            .filter(|mixer| !matches!(mixer, Mixer::Attention | Mixer::None));
        if let Some(mixer) = others.next() {
            check_mixer(path, &mixer, self.hidden)?;
            if others.any(|other| other != mixer) || self.encoder.is_some() {
                return bad("recurrences of several shapes, or in an encoder, are not supported".into());
            }
        }
        if self.layers.iter().any(|l| l.window == Some(0)) {
            return bad("a sliding window of 0 sees nothing".into());
        }
        Ok(())
    }

    /// Checks what layers read beside the stream.
    fn check_side_inputs(&self, path: &Path) -> Result<()> {
        let bad = |what: String| Err(Error::config(path, what));
        let most = (1 << 24) / self.depth().max(1);
        if let Some(width) = self.token_inputs.filter(|width| !(1..=most).contains(width)) {
            return bad(format!(
                "the embedding that each layer has of a token ('hidden_size_per_layer_input') is {width} wide; it must lie between 1 and {most}"
            ));
        }
        let wide = self.layers.iter().filter_map(|layer| layer.intermediate);
        if let Some(width) = wide.clone().find(|width| *width == 0 || *width > 1 << 22) {
            return bad(format!("the width of an MLP is {width}; it must lie between 1 and {}", 1 << 22));
        }
        let readers = (0..self.depth()).filter_map(|l| Some((l, self.layers[l].keys_of?)));
        let alike = |l: usize, from: usize| {
            let [one, other] = [l, from].map(|l| self.layers[l]);
            let same = one.mixer == Mixer::Attention
                && (one.mixer, one.window, one.chunk, one.rope)
                    == (other.mixer, other.window, other.chunk, other.rope);
            same && self.heads_of(l) == self.heads_of(from) && other.keys_of.is_none()
        };
        if let Some((l, from)) = readers.clone().find(|(l, from)| from >= l || !alike(*l, *from)) {
            return bad(format!("layer {l} cannot read keys and values of layer {from}"));
        }
        if readers.count() > 0 && (self.latent.is_some() || !self.is_causal()) {
            return bad("shared keys in latent attention or an encoder are not supported".into());
        }
        Ok(())
    }

    /// Checks that layers agree on what a batch has once.
    fn check_shared(&self, path: &Path) -> Result<()> {
        let differ = |mut all: Vec<usize>| {
            all.dedup();
            all.len() > 1
        };
        let temperatures: Vec<Temperature> =
            self.layers.iter().filter_map(|layer| layer.temperature).collect();
        let chunks = self.layers.iter().filter_map(|layer| layer.chunk).collect();
        let with = (0..self.depth()).filter(|l| self.layers[*l].temperature.is_some());
        let odd = self.layers.iter().any(|layer| layer.temperature.is_some() && layer.rope.is_some());
        let widths: Vec<usize> = with.map(|l| self.heads_of(l).head_dim).collect();
        if temperatures.windows(2).any(|two| two[0] != two[1]) || differ(chunks) || odd {
            return Err(Error::config(
                path,
                "layers with several chunks or growths of queries are not supported",
            ));
        }
        if widths.iter().any(|width| !width.is_multiple_of(2)) || differ(widths) {
            return Err(Error::config(
                path,
                "queries that grow with the position need heads of one even width",
            ));
        }
        Ok(())
    }

    /// The growth of queries of the layers that have it.
    pub(crate) fn temperature(&self) -> Option<(Temperature, usize)> {
        let with = |l: usize| self.layers[l].temperature.map(|of| (of, self.heads_of(l).head_dim));
        (0..self.depth()).find_map(with)
    }

    /// The length of the chunks of layers that have some.
    pub(crate) fn chunk(&self) -> Option<usize> {
        self.layers.iter().find_map(|layer| layer.chunk)
    }
}

/// The most heads that a model may have.
pub(crate) const MOST_HEADS: usize = 1 << 16;

/// The largest size of what mixes positions otherwise than by attention.
const MOST_OF_MIXER: usize = 1 << 12;

/// Why a recurrence cannot have these sizes, if it cannot. `names` are those of its heads of keys, their width, its heads
/// of values, their width, and its taps, in the file that gives them.
pub(crate) fn impossible_recurrence(of: &Recurrence, names: [&str; 5]) -> Option<String> {
    let sizes = [of.key_heads, of.key_width, of.heads, of.value_width, of.taps];
    let wrong = names.iter().zip(sizes).find(|(_, size)| !(1..=MOST_OF_MIXER).contains(size));
    match wrong {
        Some((name, size)) => Some(out_of_range(name, size)),
        None if !of.heads.is_multiple_of(of.key_heads) => Some(format!(
            "'{}' is {}; it must be a multiple of '{}', which is {}",
            names[2], of.heads, names[0], of.key_heads
        )),
        None => None,
    }
}

/// Why a short convolution cannot have that many taps, if it cannot; `name` is that of the number in the file.
pub(crate) fn impossible_taps(taps: usize, name: &str) -> Option<String> {
    (!(1..=MOST_OF_MIXER).contains(&taps)).then(|| out_of_range(name, taps))
}

fn out_of_range(name: &str, size: usize) -> String {
    format!("'{name}' is {size}; it must lie between 1 and {MOST_OF_MIXER}")
}

/// Readers refuse sizes by the names that files give them; this is for those that do not.
fn check_mixer(path: &Path, mixer: &Mixer, hidden: usize) -> Result<()> {
    let wrong = match mixer {
        Mixer::Attention | Mixer::None => None,
        Mixer::Recurrence(of) | Mixer::Both(of) => {
            impossible_recurrence(of, ["key heads", "key width", "heads", "value width", "taps"])
        }
        Mixer::Convolution(ShortConvolution { channels, taps }) => match *channels == hidden {
            true => impossible_taps(*taps, "taps"),
            false => Some(format!("a convolution has {channels} channels where the stream has {hidden}")),
        },
    };
    wrong.map_or(Ok(()), |what| Err(Error::config(path, what)))
}
