//! What descriptions begin with: a model with attention and an MLP in every layer and nothing beside them. Families
//! change what they do otherwise.

use super::{Layout, TensorRef, llama};
use crate::config::{Config, Layer, Multipliers, NormKind, Positions, QkNorm};
use crate::weights::Weights;
use fathom_kernels::elementwise::Activation;

/// The sizes of a model.
pub(super) struct Sizes {
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) intermediate: usize,
    pub(super) vocab: usize,
    pub(super) context: usize,
    pub(super) layers: Vec<Layer>,
}

impl Sizes {
    /// Layer norms before the sublayers, learned positions, as many key heads as heads, GELU without a gate, factors of
    /// 1, and a head tied to the embedding.
    pub(super) fn config(self, architecture: &str) -> Config {
        let Self { hidden, heads, intermediate, vocab, context, layers } = self;
        let head_dim = hidden / heads.max(1);
        Config {
            architecture: architecture.to_owned(),
            hidden,
            heads,
            kv_heads: heads,
            head_dim,
            intermediate,
            token_inputs: None,
            vocab,
            context,
            layers,
            positions: Positions::Learned,
            norm: NormKind::Layer,
            norm_eps: 1e-5,
            pre_norm: true,
            post_norm: false,
            parallel: false,
            qk_norm: QkNorm::None,
            attention_gate: false,
            latent: None,
            activation: Activation::GeluErf,
            gated: false,
            attention_scale: attention_scale(head_dim),
            attention_softcap: None,
            final_softcap: None,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            multipliers: Multipliers::NONE,
            logit_scale: 1.0,
            tied: true,
            encoder: None,
        }
    }
}

/// One over the square root of a head's width.
pub(super) fn attention_scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

/// The names of a model's tensors.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    /// What all names but the head's begin with, if the weights lack the embedding.
    pub(super) prefix: &'a str,
    pub(super) embedding: &'a str,
    pub(super) final_norm: &'a str,
    pub(super) head: &'a str,
    /// What those of a layer begin with, with `{}` for the layer.
    pub(super) layer: &'a str,
    pub(super) attn_norm: &'a str,
    /// One fused matrix, or q, k and v.
    pub(super) qkv: &'a [&'a str],
    pub(super) attn_out: &'a str,
    pub(super) mlp_norm: &'a str,
    /// One matrix (plain, or gate and up fused), or gate and up.
    pub(super) up: &'a [&'a str],
    pub(super) down: &'a str,
}

impl Names<'_> {
    /// The layout of weights with these names. Norms have biases or not, and so have matrices but for the head.
    pub(super) fn layout(&self, weights: &Weights, norm_bias: bool, matrix_bias: bool) -> Layout {
        let prefix = llama::prefix(weights, self.embedding, self.prefix);
        let outer = |name: &str| TensorRef::new(format!("{prefix}{name}"));
        let of_layer = |name: &str| outer(&format!("{}{name}", self.layer));
        let norm = |name: &str| Some(of_layer(name).biased(norm_bias));
        let matrix = |name: &str| of_layer(name).biased(matrix_bias);
        let matrices = |names: &[&str]| names.iter().map(|name| matrix(name)).collect();
        Layout {
            embedding: outer(self.embedding),
            embedding_norm: None,
            position: None,
            first_position: 0,
            final_norm: Some(outer(self.final_norm).biased(norm_bias)),
            head: TensorRef::new(format!("{}{}", llama::prefix(weights, self.head, ""), self.head)),
            normalised_head: false,
            attn_norm: norm(self.attn_norm),
            first_attn_norm: 0,
            qkv: matrices(self.qkv),
            qk_norms: None,
            layer_scalar: None,
            token_inputs: None,
            beside: None,
            attn_gate: None,
            mixer: None,
            sinks: None,
            latent: None,
            attn_out: matrix(self.attn_out),
            post_attn_norm: None,
            mlp_norm: norm(self.mlp_norm),
            up: matrices(self.up),
            down: matrix(self.down),
            experts: None,
            post_mlp_norm: None,
            norm_offset: 0.0,
            encoder: None,
        }
    }

    /// The name of another tensor outside the layers.
    pub(super) fn outer(&self, weights: &Weights, name: &str) -> TensorRef {
        TensorRef::new(format!("{}{name}", llama::prefix(weights, self.embedding, self.prefix)))
    }
}
