//! Packing the tensors of a checkpoint for the forward pass.

mod sublayers;

use crate::architecture::{Description, Layout, RowOrder, TensorRef};
use crate::config::{Config, Head, Positions, QkNorm};
use crate::error::{Error, Result};
use crate::expert_cache::ExpertCache;
use crate::experts::{ExpertWeights, FeedForward};
use crate::latent::QkvWeights;
use crate::mixer::Beside;
use crate::side_inputs::{TokenGate, TokenInputs};
use crate::weights::{Tensor, Weights};
use fathom_kernels::Dtype;
use fathom_kernels::attention::HeadBias;
use fathom_kernels::backend::{Backend, Columns, LinearLayer, Norm};
use fathom_kernels::elementwise::Activation;
use std::ops::Range;

/// The weights of one layer.
pub(crate) struct LayerWeights<B: Backend> {
    pub(crate) attn_norm: Option<Norm<B>>,
    pub(crate) qkv: QkvWeights<B>,
    /// Norms on queries, keys and values, and the columns of `qkv`'s output that each applies to.
    pub(crate) qk_norms: Vec<(Norm<B>, Columns)>,
    /// Numbers of attention that are not in the checkpoint or are there once: norms without weights, and keys that are
    /// values too.
    pub(crate) copies: u64,
    /// `[q, d]`; its sigmoid multiplies what attention returns.
    pub(crate) attn_gate: Option<B::Linear>,
    /// Sinks and slopes of the heads.
    pub(crate) head_bias: HeadBias<B::Buffer>,
    /// `[d, q]`, or `[d, values]` behind a recurrence; none where nothing mixes positions.
    pub(crate) attn_out: Option<B::Linear>,
    pub(crate) beside: Option<Beside<B>>,
    pub(crate) post_attn_norm: Option<Norm<B>>,
    pub(crate) mlp_norm: Option<Norm<B>>,
    /// Whether the norm before the MLP is the one before attention, read twice.
    pub(crate) shared_norm: bool,
    pub(crate) mlp: MlpWeights<B>,
    pub(crate) post_mlp_norm: Option<Norm<B>>,
    pub(crate) token_gate: Option<TokenGate<B>>,
    /// Norms on the stream after attention and after the MLP.
    pub(crate) stream_norms: Option<[Norm<B>; 2]>,
}

/// The matrices of a layer's MLP.
pub(crate) enum MlpWeights<B: Backend> {
    Dense(FeedForward<B>),
    Experts(Box<ExpertWeights<B>>),
    None,
    DenseAndExperts(Box<DenseAndExperts<B>>),
}

/// A dense MLP and experts beside it.
pub(crate) struct DenseAndExperts<B: Backend> {
    pub(crate) dense: FeedForward<B>,
    /// Behind it.
    pub(crate) dense_norm: Norm<B>,
    pub(crate) experts: ExpertWeights<B>,
    /// Before the experts and behind them.
    pub(crate) expert_norms: [Norm<B>; 2],
    /// Before the router.
    pub(crate) router_norm: Norm<B>,
}

impl<B: Backend> DenseAndExperts<B> {
    fn norms(&self) -> impl Iterator<Item = &Norm<B>> {
        [&self.dense_norm, &self.router_norm].into_iter().chain(&self.expert_norms)
    }
}

impl<B: Backend> MlpWeights<B> {
    /// All matrices.
    pub(crate) fn matrices(&self) -> Vec<&B::Linear> {
        match self {
            Self::Dense(mlp) => mlp.matrices().to_vec(),
            Self::Experts(experts) => experts.matrices().collect(),
            Self::DenseAndExperts(of) => {
                of.dense.matrices().into_iter().chain(of.experts.matrices()).collect()
            }
            Self::None => Vec::new(),
        }
    }

    /// The norms between the one before the MLP and the one behind it.
    fn inner_norms(&self) -> impl Iterator<Item = &Norm<B>> {
        let both = match self {
            Self::DenseAndExperts(of) => Some(of),
            Self::Dense(_) | Self::Experts(_) | Self::None => None,
        };
        both.into_iter().flat_map(|of| of.norms())
    }

    /// Parameters that are in no matrix in memory.
    pub(crate) fn correction(&self) -> u64 {
        match self {
            Self::Dense(_) | Self::None => 0,
            Self::Experts(experts) => experts.small(),
            Self::DenseAndExperts(of) => of.experts.small(),
        }
    }
}

impl<B: Backend> LayerWeights<B> {
    /// All matrices.
    pub(crate) fn matrices(&self) -> Vec<&B::Linear> {
        let mut all = self.qkv.matrices();
        all.extend(&self.attn_out);
        all.extend(&self.attn_gate);
        all.extend(self.beside.iter().flat_map(Beside::matrices));
        all.extend(self.mlp.matrices());
        all.extend(self.token_gate.iter().flat_map(TokenGate::matrices));
        all
    }

    /// Weights and biases of the layer.
    pub(crate) fn parameters(&self, on: &B, c: &Config) -> u64 {
        let linear: usize = self.matrices().iter().map(|l| l.parameters()).sum();
        let norms: u64 = self.norms().iter().flatten().map(|norm| norm_parameters(on, norm)).sum();
        linear as u64 + norms + self.sinks(on) + self.mlp.correction() + self.small()
            - self.qkv.padding(c.hidden, c.heads)
            - self.copies
    }

    /// Parameters of what mixes positions that are in no matrix and no norm.
    pub(crate) fn small(&self) -> u64 {
        self.qkv.small() + self.beside.as_ref().map_or(0, |beside| beside.mixer.small())
    }

    /// Number of attention sinks.
    pub(crate) fn sinks(&self, on: &B) -> u64 {
        self.head_bias.sinks.as_ref().map_or(0, |sinks| on.len(sinks) as u64)
    }

    /// The norms of attention and of the MLP, each once.
    pub(crate) fn norms(&self) -> [Vec<&Norm<B>>; 2] {
        let of_attention = [&self.attn_norm, &self.post_attn_norm].into_iter().flatten();
        let [after_attention, after_mlp] = match &self.stream_norms {
            Some([attention, mlp]) => [Some(attention), Some(mlp)],
            None => [None, None],
        };
        let of_attention = of_attention.chain(after_attention);
        let mlp_norm = self.mlp_norm.as_ref().filter(|_| !self.shared_norm);
        [
            of_attention.chain(self.qk_norms.iter().map(|(norm, _)| norm)).chain(self.qkv.norms()).collect(),
            mlp_norm
                .into_iter()
                .chain(self.mlp.inner_norms())
                .chain(&self.post_mlp_norm)
                .chain(self.token_gate.iter().map(|of| &of.norm))
                .chain(after_mlp)
                .collect(),
        ]
    }
}

/// Weights and biases of a norm.
pub(crate) fn norm_parameters<B: Backend>(on: &B, norm: &Norm<B>) -> u64 {
    (on.len(&norm.weight) + norm.bias.as_ref().map_or(0, |bias| on.len(bias))) as u64
}

/// The source of the embedding's rows.
pub(crate) enum Embedding {
    /// The matrix of the head.
    Tied,
    /// The memory-mapped checkpoint: few rows are needed, so none are kept. The name and the rows of the matrix.
    Stored(Weights, String, usize),
}

/// All weights of a model.
pub(crate) struct PackedWeights<B: Backend> {
    pub(crate) layers: Vec<LayerWeights<B>>,
    pub(crate) embedding: Embedding,
    /// A factor on what [`Model::embed`](crate::Model::embed) returns ([`Layout::layer_scalar`]).
    pub(crate) stream_scale: f32,
    /// What layers have of each token beside the stream.
    pub(crate) token_inputs: Option<TokenInputs<B>>,
    /// `[context, d]` for learned positions.
    pub(crate) position: Option<Vec<f32>>,
    pub(crate) embedding_norm: Option<Norm<B>>,
    pub(crate) final_norm: Option<Norm<B>>,
    /// The matrix before the unembedding, its activation, and the norm behind it.
    pub(crate) head_dense: Option<(B::Linear, Activation, Norm<B>)>,
    /// `[V, d]`; absent from encoders without a head.
    pub(crate) head: Option<B::Linear>,
    /// Experts that stay in the checkpoint.
    pub(crate) expert_cache: Option<ExpertCache<B>>,
}

impl<B: Backend> PackedWeights<B> {
    /// The unembedding.
    ///
    /// # Panics
    /// Without one.
    pub(crate) fn head(&self) -> &B::Linear {
        self.head.as_ref().expect("the model has no head")
    }

    /// The norms outside the layers.
    pub(crate) fn outer_norms(&self) -> impl Iterator<Item = &Norm<B>> {
        let of_head = self.head_dense.iter().map(|(_, _, norm)| norm);
        self.embedding_norm.iter().chain(&self.final_norm).chain(of_head)
    }
}

/// Packs all weights; the progress callback `tick` is called after each layer and after the head. With `expert_bytes`,
/// experts stay in the checkpoint, and at most that many bytes of them are kept in memory.
pub(crate) fn pack<B: Backend>(
    on: &B,
    d: &Description,
    weights: &Weights,
    dtype: Dtype,
    expert_bytes: Option<u64>,
    tick: &dyn Fn(),
) -> Result<PackedWeights<B>> {
    let map_experts = expert_bytes.is_some();
    let mut loader =
        Loader { on, config: &d.config, layout: &d.layout, weights, dtype, map_experts, scales: Vec::new() };
    loader.scales = loader.stream_scales()?;
    let mut layers = Vec::with_capacity(d.config.depth());
    for layer in 0..d.config.depth() {
        layers.push(loader.block(layer)?);
        tick();
    }
    let packed = loader.ends(layers);
    tick();
    let cache = |bytes| ExpertCache::new(d.layout.clone(), weights.clone(), bytes);
    packed.map(|packed| PackedWeights { expert_cache: expert_bytes.map(cache), ..packed })
}

/// Packs one expert of a layer.
pub(crate) fn expert<B: Backend>(
    on: &B,
    config: &Config,
    layout: &Layout,
    weights: &Weights,
    dtype: Dtype,
    layer: usize,
    expert: usize,
) -> Result<FeedForward<B>> {
    let scales = vec![1.0; config.depth() + 1];
    let loader = Loader { on, config, layout, weights, dtype, map_experts: false, scales };
    let (Some(about), Some(names)) = (config.layers[layer].mlp.experts(), &layout.experts) else {
        unreachable!("the layer has experts")
    };
    loader.expert(&about, names, expert, layer)
}

/// What the stream is multiplied by at least: norms of rows must stay far above the smallest that probes divide by.
const LEAST_SCALE: f64 = 1.0 / 16_384.0;

/// What the stream is multiplied by at most: sums of squares must stay in the range of f32.
const MOST_SCALE: f64 = (1u64 << 50) as f64;

/// What shorter rows of a normalised head are divided by, as in PyTorch.
const LEAST_LENGTH: f64 = 1e-12;

struct Loader<'a, B> {
    on: &'a B,
    config: &'a Config,
    layout: &'a Layout,
    weights: &'a Weights,
    dtype: Dtype,
    /// Whether experts stay in the checkpoint.
    map_experts: bool,
    /// What the stream before each layer and before the head is multiplied by ([`Layout::layer_scalar`]): 1 in most models.
    scales: Vec<f64>,
}

impl<B: Backend> Loader<'_, B> {
    fn block(&self, layer: usize) -> Result<LayerWeights<B>> {
        let (c, at) = (self.config, self.layout);
        let d = c.hidden;
        let before = |tensor_ref: &Option<TensorRef>| {
            tensor_ref.as_ref().map(|s| self.norm_of_stream(s, layer)).transpose()
        };
        let behind = |tensor_ref: &Option<TensorRef>| {
            tensor_ref.as_ref().map(|s| self.norm_to_stream(s, layer)).transpose()
        };
        Ok(LayerWeights {
            attn_norm: before(
                &at.attn_norm.clone().filter(|_| layer >= at.first_attn_norm && c.has_mixer(layer)),
            )?,
            qkv: self.qkv(layer)?,
            qk_norms: self.qk_norms(layer)?,
            copies: self.copies(layer),
            attn_gate: self.attn_gate(layer)?,
            head_bias: self.head_bias(layer)?,
            attn_out: c.has_mixer(layer).then(|| self.attn_out(layer)).transpose()?,
            beside: self.beside(layer)?,
            post_attn_norm: behind(&at.post_attn_norm)?,
            mlp_norm: before(&at.mlp_norm.clone().filter(|_| c.has_mlp(layer)))?,
            shared_norm: c.has_mixer(layer) && at.mlp_norm.is_some() && at.mlp_norm == at.attn_norm,
            mlp: self.mlp(layer)?,
            post_mlp_norm: behind(&at.post_mlp_norm)?,
            token_gate: self.token_gate(layer)?,
            stream_norms: match at.encoder.as_ref().and_then(|of| of.stream_norms.as_ref()) {
                Some([attention, mlp]) => Some([self.norm(attention, layer, d)?, self.norm(mlp, layer, d)?]),
                None => None,
            },
        })
    }

    /// Embedding, positions, final norm and head.
    fn ends(&self, layers: Vec<LayerWeights<B>>) -> Result<PackedWeights<B>> {
        let (c, at) = (self.config, self.layout);
        let rows = c.vocab + at.embedding.more_rows;
        self.weights.tensor(&at.embedding.weight(0), &[rows, c.hidden])?;
        let tied = TensorRef {
            name: at.embedding.name.clone(),
            more_rows: at.embedding.more_rows,
            ..at.head.clone()
        };
        let head = if c.tied { &tied } else { &at.head };
        let embedding = if c.tied && c.has_head() && B::READS_ROWS {
            Embedding::Tied
        } else {
            Embedding::Stored(self.weights.clone(), at.embedding.weight(0), rows)
        };
        let position = match (&c.positions, &at.position) {
            (Positions::Learned, Some(tensor_ref)) => Some(self.positions(tensor_ref)?),
            _ => None,
        };
        let of_encoder = at.encoder.clone().unwrap_or_default();
        let head_dense = match (&of_encoder.head_dense, c.encoder.map(|encoder| encoder.head)) {
            (Some([dense, norm]), Some(Head::Dense(activation))) => {
                let dense = self.linear(std::slice::from_ref(dense), &[c.hidden], c.hidden, 0)?;
                Some((dense, activation, self.norm(norm, 0, c.hidden)?))
            }
            _ => None,
        };
        Ok(PackedWeights {
            layers,
            embedding,
            stream_scale: self.scales.first().map_or(1.0, |scale| *scale as f32),
            token_inputs: self.token_inputs()?,
            position,
            embedding_norm: match &at.embedding_norm {
                Some(tensor_ref) => Some(self.norm(tensor_ref, 0, c.hidden)?),
                None => None,
            },
            final_norm: at.final_norm.as_ref().map(|at| self.final_norm(at)).transpose()?,
            head_dense,
            head: match c.has_head() {
                true if at.normalised_head => Some(self.normalised_head(head)?),
                true => Some(self.linear(std::slice::from_ref(head), &[c.vocab], c.hidden, 0)?),
                false => None,
            },
            expert_cache: None,
        })
    }

    /// The vectors that are added to the embeddings by position.
    fn positions(&self, tensor_ref: &TensorRef) -> Result<Vec<f32>> {
        let (rows, width, first) = (self.config.context, self.config.hidden, self.layout.first_position);
        let tensor = self.weights.tensor(&tensor_ref.weight(0), &[first + rows, width])?;
        let mut all = vec![0.0; rows * width];
        tensor.read(first..first + rows, &mut all)?;
        if let (Some(encoder), Some(at)) = (self.config.encoder, &self.layout.encoder)
            && let Some(types) = &at.token_types
        {
            let tensor = self.weights.tensor(&types.weight(0), &[encoder.token_types, width])?;
            let mut first = vec![0.0; width];
            tensor.read(0..1, &mut first)?;
            all.chunks_exact_mut(width).for_each(|row| row.iter_mut().zip(&first).for_each(|(x, t)| *x += t));
        }
        Ok(all)
    }

    /// The unembedding with every row divided by its length.
    fn normalised_head(&self, head: &TensorRef) -> Result<B::Linear> {
        let (n, k) = (self.config.vocab, self.config.hidden);
        let tensor = self.weights.tensor(&head.weight(0), &[n, k])?;
        self.on.pack(n, k, self.dtype, None, |rows, block| {
            tensor.read(rows, block)?;
            for row in block.chunks_exact_mut(k) {
                let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                row.iter_mut().for_each(|x| *x = (f64::from(*x) / length.max(LEAST_LENGTH)) as f32);
            }
            Ok(())
        })
    }

    /// What the stream before each layer and before the head is multiplied by, so that every layer adds to it: the product
    /// of the numbers by which this layer and those after it multiply the stream, and one factor, a power of two.
    fn stream_scales(&self) -> Result<Vec<f64>> {
        let depth = self.config.depth();
        let mut scales = vec![1.0; depth + 1];
        let Some(at) = &self.layout.layer_scalar else { return Ok(scales) };
        for layer in (0..depth).rev() {
            let name = at.weight(layer);
            let scalar = f64::from(self.weights.vector(&name, 1)?[0]);
            if !(scalar > 0.0 && scalar.is_finite()) {
                return self.bad_scale(format!(
                    "'{name}' multiplies the stream by {scalar}; supported are positive numbers"
                ));
            }
            scales[layer] = scales[layer + 1] * scalar;
        }
        let least = scales.iter().copied().fold(1.0, f64::min);
        let most = scales.iter().copied().fold(1.0, f64::max);
        let factor = (LEAST_SCALE / least).max(1.0).log2().ceil().exp2();
        scales.iter_mut().for_each(|scale| *scale *= factor);
        match scales.iter().all(|scale| (LEAST_SCALE..=MOST_SCALE).contains(scale)) {
            true => Ok(scales),
            false => self.bad_scale(format!(
                "the numbers by which layers multiply the stream ('{}' and so on) have products from {least:.0e} to {most:.0e}, which is not supported",
                at.weight(0)
            )),
        }
    }

    fn bad_scale<T>(&self, what: String) -> Result<T> {
        let path = self.weights.paths().first().map(|path| path.to_path_buf()).unwrap_or_default();
        Err(Error::config(&path, what))
    }

    /// A norm that reads the stream of a layer. What is scaled is the stream, so epsilon is, too.
    fn norm_of_stream(&self, tensor_ref: &TensorRef, layer: usize) -> Result<Norm<B>> {
        Ok(self.scaled(self.norm(tensor_ref, layer, self.config.hidden)?, layer))
    }

    fn scaled(&self, norm: Norm<B>, level: usize) -> Norm<B> {
        let eps = (f64::from(norm.eps) * self.scales[level].powi(2)) as f32;
        Norm { eps, ..norm }
    }

    /// A norm whose output is added to the stream of a layer.
    fn norm_to_stream(&self, tensor_ref: &TensorRef, layer: usize) -> Result<Norm<B>> {
        let (mut weight, mut bias) = self.norm_values(tensor_ref, layer, self.config.hidden)?;
        let scale = self.scales[layer] as f32;
        weight.iter_mut().chain(bias.iter_mut().flatten()).for_each(|x| *x *= scale);
        Ok(self.norm_of(&weight, bias.as_deref()))
    }

    /// The norm before the head. The factor on the logits is a factor on what the head reads.
    fn final_norm(&self, at: &TensorRef) -> Result<Norm<B>> {
        let (mut weight, mut bias) = self.norm_values(at, 0, self.config.hidden)?;
        weight.iter_mut().chain(bias.iter_mut().flatten()).for_each(|x| *x *= self.config.logit_scale);
        let norm = self.norm_of(&weight, bias.as_deref());
        Ok(self.scaled(norm, self.config.depth()))
    }

    fn norm(&self, tensor_ref: &TensorRef, layer: usize, width: usize) -> Result<Norm<B>> {
        let (weight, bias) = self.norm_values(tensor_ref, layer, width)?;
        Ok(self.norm_of(&weight, bias.as_deref()))
    }

    fn norm_values(
        &self,
        at: &TensorRef,
        layer: usize,
        width: usize,
    ) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
        let mut weight = self.weights.vector(&at.weight(layer), width)?;
        weight.iter_mut().for_each(|w| *w += self.layout.norm_offset);
        let bias = at.bias.then(|| self.weights.vector(&at.bias(layer), width)).transpose()?;
        Ok((weight, bias))
    }

    fn norm_of(&self, weight: &[f32], bias: Option<&[f32]>) -> Norm<B> {
        Norm {
            weight: self.on.buffer_of(weight),
            bias: bias.map(|bias| self.on.buffer_of(bias)),
            eps: self.config.norm_eps,
            kind: self.config.norm,
        }
    }

    fn qk_norms(&self, layer: usize) -> Result<Vec<(Norm<B>, Columns)>> {
        let c = self.config;
        if !c.has_attention(layer) {
            return Ok(Vec::new());
        }
        let (of, q, stride) = (c.heads_of(layer), c.q_width(layer), c.attention_width(layer));
        let width = of.head_dim;
        let unit =
            |start, count| (self.norm_of(&vec![1.0; width], None), Columns { stride, start, width, count });
        if c.qk_norm == QkNorm::UnitRotated {
            return Ok(c.layers[layer].rope.map(|_| unit(0, c.heads + of.kv_heads)).into_iter().collect());
        }
        let Some(refs) = &self.layout.qk_norms else { return Ok(Vec::new()) };
        let mut norms = Vec::new();
        let own_keys = c.layers[layer].keys_of.is_none();
        let both = [(&refs[0], 0, c.heads), (&refs[1], q, of.kv_heads)];
        for (tensor_ref, start, heads) in both.into_iter().take(if own_keys { 2 } else { 1 }) {
            match c.qk_norm {
                QkNorm::None | QkNorm::UnitRotated => {}
                QkNorm::Full => {
                    let all = heads * width;
                    let columns = Columns { stride, start, width: all, count: 1 };
                    norms.push((self.norm(tensor_ref, layer, all)?, columns));
                }
                QkNorm::Head | QkNorm::HeadRotated | QkNorm::HeadAndValues => {
                    let columns = Columns { stride, start, width, count: heads };
                    norms.push((self.norm(tensor_ref, layer, width)?, columns));
                }
                QkNorm::OwnHead => {
                    for (head, norm) in self.own_norms(tensor_ref, layer, heads)?.into_iter().enumerate() {
                        norms.push((norm, Columns { stride, start: start + head * width, width, count: 1 }));
                    }
                }
            }
        }
        if c.qk_norm == QkNorm::HeadAndValues && own_keys {
            norms.push(unit(q + of.kv_heads * width, of.kv_heads));
        }
        Ok(norms)
    }

    /// Numbers of attention that are not in the checkpoint or are there once.
    fn copies(&self, layer: usize) -> u64 {
        let (c, of) = (self.config, self.config.heads_of(layer));
        let values = if of.keys_as_values && c.layers[layer].keys_of.is_none() {
            c.kv_width(layer) * c.hidden
        } else {
            0
        };
        let unit = match c.qk_norm {
            QkNorm::UnitRotated if c.layers[layer].rope.is_some() => of.head_dim,
            QkNorm::HeadAndValues if c.layers[layer].keys_of.is_none() => of.head_dim,
            _ => 0,
        };
        (values + unit) as u64
    }

    /// A norm for each head: tensors of their own, or the rows of one matrix.
    fn own_norms(&self, tensor_ref: &TensorRef, layer: usize, heads: usize) -> Result<Vec<Norm<B>>> {
        let width = self.config.head_dim;
        if tensor_ref.has_heads() {
            return (0..heads).map(|head| self.norm(&tensor_ref.of_head(head), layer, width)).collect();
        }
        let tensor = self.weights.tensor(&tensor_ref.weight(layer), &[heads, width])?;
        let mut all = vec![0.0; heads * width];
        tensor.read(0..heads, &mut all)?;
        let row = |stored: &[f32]| {
            let weight = (0..width).map(|i| stored[tensor_ref.order.stored_row(self.config, i)]);
            self.norm_of(&weight.map(|w| w + self.layout.norm_offset).collect::<Vec<f32>>(), None)
        };
        Ok(all.chunks_exact(width).map(row).collect())
    }

    /// Stacks the rows of stored matrices into one linear layer.
    fn linear(&self, refs: &[TensorRef], rows: &[usize], k: usize, layer: usize) -> Result<B::Linear> {
        let mut parts = Vec::with_capacity(refs.len());
        let mut bias = Vec::new();
        for (tensor_ref, &n) in refs.iter().zip(rows) {
            parts.push(self.part(tensor_ref, n, k, layer)?);
            if tensor_ref.bias {
                let stored = self.bias(tensor_ref, n, layer)?;
                bias.extend((0..n).map(|r| stored[tensor_ref.order.stored_row(self.config, r)]));
            }
        }
        let n = rows.iter().sum();
        let bias = (bias.len() == n).then_some(bias);
        let packed = match self.columns_per_scale(&parts, k) {
            Some(columns) => self.on.pack_quantised(n, k, columns, self.dtype, bias, |wanted, mut block| {
                in_parts(&parts, &wanted, |part, rows, at| {
                    self.read(part, rows, |rows, i| {
                        let at = at + i..at + i + rows.len();
                        part.tensor.read_blocks(rows, block.rows(at, wanted.len()))
                    })
                })
            }),
            None => self.on.pack(n, k, self.dtype, bias, |wanted, block| {
                in_parts(&parts, &wanted, |part, rows, at| match &part.columns {
                    Some(all) => {
                        let columns = rows.map(|row| part.order.stored_row(self.config, row));
                        part.transpose(all, columns, k, &mut block[at * k..]);
                        Ok(())
                    }
                    None => self.read(part, rows, |rows, i| {
                        let at = at + i..at + i + rows.len();
                        part.tensor.read(rows, &mut block[at.start * k..at.end * k])
                    }),
                })
            }),
        }?;
        // Packed weights are not read again.
        self.weights.release();
        Ok(packed)
    }

    /// The bias of a matrix, or of one of a stack of matrices.
    fn bias(&self, tensor_ref: &TensorRef, n: usize, layer: usize) -> Result<Vec<f32>> {
        let name = tensor_ref.bias(layer);
        let Some((slice, count)) = tensor_ref.slice else { return self.weights.vector(&name, n) };
        let mut bias = vec![0.0; n];
        self.weights.tensor(&name, &[count, n])?.read(slice..slice + 1, &mut bias)?;
        Ok(bias)
    }

    fn part(&self, tensor_ref: &TensorRef, n: usize, k: usize, layer: usize) -> Result<StoredPart<'_>> {
        let name = tensor_ref.weight(layer);
        let transposed = tensor_ref.order.is_transposed();
        let [rows, width] = if transposed { [k, n] } else { [n, k] };
        let (shape, first) = match tensor_ref.slice {
            Some((slice, count)) => (vec![count, rows, width], slice * rows),
            None if matches!(tensor_ref.order, RowOrder::HeadHalves { .. }) => (vec![2 * rows, width], 0),
            // A matrix of one row may be stored as a vector.
            None if rows == 1 && self.weights.shape(&name) == Some(&[width]) => (vec![width], 0),
            None => (vec![rows + tensor_ref.more_rows, width], 0),
        };
        let tensor = self.weights.tensor(&name, &shape)?;
        let columns = if transposed {
            let mut all = vec![0.0; n * k];
            tensor.read(first..first + k, &mut all)?;
            Some(all)
        } else {
            None
        };
        Ok(StoredPart { tensor, columns, n, first, order: tensor_ref.order })
    }

    /// Columns per scale, if all parts are quantised and can be packed without dequantising.
    fn columns_per_scale(&self, parts: &[StoredPart<'_>], k: usize) -> Option<usize> {
        if !self.on.supports_quantised(k, self.dtype) || parts.iter().any(|part| part.columns.is_some()) {
            return None;
        }
        let columns: Option<Vec<usize>> = parts.iter().map(|part| part.tensor.columns_per_scale()).collect();
        columns?.into_iter().min()
    }

    /// Calls `read` with ranges of stored rows that together are rows `rows` of a part in the order of the
    /// forward pass, and with the offset of each range in them.
    fn read(
        &self,
        part: &StoredPart<'_>,
        rows: Range<usize>,
        mut read: impl FnMut(Range<usize>, usize) -> Result<()>,
    ) -> Result<()> {
        if part.order == RowOrder::AsStored {
            return read(part.first + rows.start..part.first + rows.end, 0);
        }
        rows.enumerate().try_for_each(|(i, r)| {
            let stored = part.first + part.order.stored_row(self.config, r);
            read(stored..stored + 1, i)
        })
    }
}

/// A stored matrix with some rows of a linear layer.
struct StoredPart<'a> {
    tensor: Tensor<'a>,
    /// The whole matrix `[k, n]`, if the rows of the layer are its columns.
    columns: Option<Vec<f32>>,
    n: usize,
    /// The row of the tensor that holds the first one: tensors may hold the matrices of all experts.
    first: usize,
    order: RowOrder,
}

impl StoredPart<'_> {
    /// Writes columns of the matrix as rows.
    fn transpose(&self, all: &[f32], columns: impl Iterator<Item = usize>, k: usize, out: &mut [f32]) {
        for (r, out) in columns.zip(out.chunks_exact_mut(k)) {
            out.iter_mut().zip(all[r..].iter().step_by(self.n)).for_each(|(o, w)| *o = *w);
        }
    }
}

/// Calls `read` for each part that holds some of the wanted rows of a layer, with their range in the part
/// and the offset of the first among the wanted.
fn in_parts(
    parts: &[StoredPart<'_>],
    wanted: &Range<usize>,
    mut read: impl FnMut(&StoredPart<'_>, Range<usize>, usize) -> Result<()>,
) -> Result<()> {
    let mut start = 0;
    for part in parts {
        let held = wanted.start.max(start)..wanted.end.min(start + part.n);
        if !held.is_empty() {
            read(part, held.start - start..held.end - start, held.start - wanted.start)?;
        }
        start += part.n;
    }
    Ok(())
}
