//! Multiply-adds (MACs) and bytes, counted from shapes.

use crate::config::{Experts, Mixer};
use crate::forward::Model;
use crate::load::{LayerWeights, MlpWeights, norm_parameters};
use crate::mixer::Beside;
use crate::side_inputs::TokenGate;
use fathom_kernels::backend::{Backend, LinearLayer, Norm};

/// The size of one sublayer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SublayerSize {
    /// Weights and biases, those of its norms included.
    pub parameters: u64,
    /// Bytes of its packed matrices.
    pub bytes: u64,
    /// MACs of its matrix products, per row.
    pub macs: u64,
}

impl<B: Backend> Model<B> {
    /// The sizes of attention and MLP of layer `l`.
    pub fn sublayer_sizes(&self, l: usize) -> [SublayerSize; 2] {
        let b = &self.packed.layers[l];
        let size = |matrices: &[&B::Linear], norms: &[&Norm<B>], macs: u64| SublayerSize {
            parameters: matrices.iter().map(|m| m.parameters() as u64).sum::<u64>()
                + norms.iter().map(|norm| norm_parameters(&self.backend, norm)).sum::<u64>(),
            bytes: matrices.iter().map(|m| m.bytes() as u64).sum(),
            macs,
        };
        let [of_attention, of_mlp] = b.norms();
        let mlp = self.mlp_macs_per_row(l);
        let mut attention = b.qkv.matrices();
        attention.extend(&b.attn_out);
        attention.extend(&b.attn_gate);
        attention.extend(b.beside.iter().flat_map(Beside::matrices));
        let mut mlp_matrices = b.mlp.matrices();
        mlp_matrices.extend(b.token_gate.iter().flat_map(TokenGate::matrices));
        let mut sizes = [
            size(&attention, &of_attention, self.layer_macs_per_row(l) - mlp),
            size(&mlp_matrices, &of_mlp, mlp),
        ];
        sizes[0].parameters -= b.qkv.padding(self.config.hidden, self.config.heads) + b.copies;
        sizes[0].parameters += b.small();
        sizes[0].parameters += b.sinks(&self.backend);
        sizes[1].parameters += b.mlp.correction();
        sizes
    }

    /// Bytes of the packed down projection of layer `l`; of all of them, if it has experts.
    pub fn down_bytes(&self, l: usize) -> u64 {
        match &self.packed.layers[l].mlp {
            MlpWeights::None => 0,
            MlpWeights::Dense(mlp) => mlp.down.bytes() as u64,
            MlpWeights::Experts(of) => of.down_bytes(),
            MlpWeights::DenseAndExperts(of) => of.dense.down.bytes() as u64 + of.experts.down_bytes(),
        }
    }

    /// MACs of the matrix products of layer `l`, per row. Of experts, those that a row takes count.
    pub fn layer_macs_per_row(&self, l: usize) -> u64 {
        let b = &self.packed.layers[l];
        let beside = b.beside.iter().flat_map(Beside::matrices);
        let of_qkv: u64 = b.qkv.matrices().into_iter().chain(&b.attn_gate).chain(beside).map(macs).sum();
        of_qkv + b.attn_out.as_ref().map_or(0, macs) + self.mlp_macs_per_row(l)
    }

    /// MACs of the MLP of layer `l`, per row. Of experts, those that a row takes count.
    pub fn mlp_macs_per_row(&self, l: usize) -> u64 {
        let tokens = self.packed.layers[l].token_gate.iter().flat_map(TokenGate::matrices);
        let of_tokens: u64 = tokens.map(macs).sum();
        let of_mlp = match &self.packed.layers[l].mlp {
            MlpWeights::None => 0,
            MlpWeights::Dense(mlp) => mlp.matrices().into_iter().map(macs).sum(),
            MlpWeights::Experts(experts) => experts.macs_of_a_row(),
            MlpWeights::DenseAndExperts(of) => {
                of.dense.matrices().into_iter().map(macs).sum::<u64>() + of.experts.macs_of_a_row()
            }
        };
        of_mlp + of_tokens
    }

    /// MACs of attention in layer `l` for a row at `position` of a text of `tokens` tokens: scores and weighted sums of
    /// values. Those of a recurrence are the same at every position; what it computes again of earlier ones is not counted.
    pub fn attention_macs(&self, l: usize, position: usize, tokens: usize) -> u64 {
        let seen = || self.config.seen(l, position, tokens).len();
        let attention = || 2 * (self.config.q_width(l) * seen()) as u64;
        match self.config.layers[l].mixer {
            Mixer::Attention => attention(),
            Mixer::Recurrence(of) => of.macs(),
            Mixer::Convolution(of) => of.macs(),
            Mixer::Both(of) => attention() + of.macs(),
            Mixer::None => 0,
        }
    }

    /// MACs of the backward pass of attention in layer `l` for a row at `position` of `tokens`: the scores once more,
    /// and the gradients of weights, queries, keys and values. A recurrence computes its states twice more, and takes
    /// about as many products for gradients.
    pub fn attention_backward_macs(&self, l: usize, position: usize, tokens: usize) -> u64 {
        let forward = self.attention_macs(l, position, tokens);
        match self.config.layers[l].mixer {
            Mixer::Attention => forward / 2 * 5,
            Mixer::Recurrence(_) | Mixer::Convolution(_) => 4 * forward,
            Mixer::None => 0,
            Mixer::Both(of) => (forward - of.macs()) / 2 * 5 + 4 * of.macs(),
        }
    }

    /// MACs of the head, per row.
    pub fn head_macs_per_row(&self) -> u64 {
        let dense = self.packed.head_dense.as_ref().map_or(0, |(dense, ..)| macs(dense));
        (self.config.vocab * self.config.hidden) as u64 + dense
    }

    /// MACs of all layers over a text of `tokens` tokens, without the head.
    pub fn layers_macs(&self, tokens: usize) -> u64 {
        self.first_layers_macs(self.config.depth(), tokens)
    }

    /// MACs of layer `l` over a text of `tokens` tokens.
    pub fn layer_macs(&self, l: usize, tokens: usize) -> u64 {
        let attention: u64 = (0..tokens).map(|position| self.attention_macs(l, position, tokens)).sum();
        self.layer_macs_per_row(l) * tokens as u64 + attention
    }

    /// MACs of the first `depth` layers over a text of `tokens` tokens.
    pub fn first_layers_macs(&self, depth: usize, tokens: usize) -> u64 {
        (0..depth).map(|l| self.layer_macs(l, tokens)).sum()
    }

    /// Number of parameters. Tied embedding and head count once.
    pub fn parameters(&self) -> u64 {
        let c = &self.config;
        let matrix = (c.vocab * c.hidden) as u64;
        let head = self.packed.head.as_ref().map_or(0, |head| head.parameters() as u64);
        let embedding = if c.tied && head > 0 { head } else { head + matrix };
        let dense = self.packed.head_dense.as_ref().map_or(0, |(dense, ..)| dense.parameters() as u64);
        let types = c.encoder.map_or(0, |encoder| (encoder.token_types * c.hidden) as u64);
        let position = self.packed.position.as_ref().map_or(0, |p| p.len() as u64);
        let norms: u64 = self.packed.outer_norms().map(|norm| norm_parameters(&self.backend, norm)).sum();
        let blocks: u64 = self.packed.layers.iter().map(|b| b.parameters(&self.backend, &self.config)).sum();
        embedding + self.token_input_parameters() + position + types + dense + blocks + norms
    }

    /// Parameters of what gives the token inputs of all layers.
    fn token_input_parameters(&self) -> u64 {
        let (Some(of), c) = (&self.packed.token_inputs, &self.config) else { return 0 };
        let table = of.stored.2 * c.depth() * c.token_inputs.unwrap_or(0);
        (table + of.projection.parameters()) as u64 + norm_parameters(&self.backend, &of.norm)
    }

    /// Bytes of a [`Trace`](crate::Trace) per token.
    pub fn trace_bytes_per_token(&self) -> usize {
        let c = &self.config;
        let of_post_norm = if self.is_post_norm() { 2 } else { 0 };
        let cached: usize = (0..c.depth()).map(|l| c.cached_width(l)).sum();
        let tokens = c.token_inputs.unwrap_or(0) * c.depth();
        4 * (((3 + of_post_norm) * c.depth() + 1) * c.hidden + cached + tokens)
    }

    /// Approximate bytes per row while a batch passes through a layer: the residual stream before and
    /// after it, the outputs of the sublayers, and [`Buffers`](crate::Buffers).
    pub fn row_bytes(&self) -> usize {
        let c = &self.config;
        let up = if c.gated { 2 } else { 1 };
        let latent = c.latent.map_or(0, |l| l.q_rank.unwrap_or(0) + l.rank + l.rotated + 3 * c.widest_q());
        let of_mlp = |l: usize| {
            let layer = &c.layers[l];
            let dense = if layer.mlp.has_dense() { (up + 1) * c.mlp_width(l) } else { 0 };
            // One expert at a time, at most with all rows.
            let experts = |of: Experts| (up + 1) * of.width.max(of.shared) + 2 * c.hidden + 2 * of.count;
            let both = if layer.mlp.is_both() { 2 * c.hidden } else { 0 };
            dense + layer.mlp.experts().map_or(0, experts) + both
        };
        let wide = (0..c.depth()).map(of_mlp).max().unwrap_or(0);
        let mixing = (0..c.depth()).map(|l| c.input_width(l) + c.mixed_width(l)).max().unwrap_or(0);
        let gate = if c.attention_gate { 3 * c.widest_q() } else { 0 };
        // Convolved rows, and outputs by head.
        let recurrence = c.first_recurrence().map_or(0, |of| of.channels() + 2 * of.values());
        let keys: usize = c.shared_layers().map(|l| 4 * c.kv_width(l)).sum();
        let side = keys + c.token_inputs.map_or(0, |p| 5 * p + 2 * c.hidden);
        4 * (10 * c.hidden + side + mixing + gate + recurrence + wide + latent)
    }

    /// Bytes of the packed weights, and of those that are kept of experts in the checkpoint.
    pub fn bytes(&self) -> u64 {
        let blocks = self.packed.layers.iter().flat_map(LayerWeights::matrices);
        let position = self.packed.position.as_ref().map_or(0, |p| 4 * p.len());
        let dense = self.packed.head_dense.iter().map(|(dense, ..)| dense);
        let experts = self.packed.expert_cache.as_ref().map_or(0, |cache| cache.budget());
        let tokens = self.packed.token_inputs.iter().map(|of| &of.projection);
        let packed =
            blocks.chain(&self.packed.head).chain(dense).chain(tokens).map(|l| l.bytes() as u64).sum::<u64>();
        packed + position as u64 + experts
    }
}

/// MACs of a linear layer, per row.
fn macs(layer: &impl LinearLayer) -> u64 {
    (layer.inputs() * layer.outputs()) as u64
}
