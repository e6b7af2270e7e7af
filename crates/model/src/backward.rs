//! The backward pass through layers and head, with respect to activations.
//!
//! [`Model::layer_saved`] runs a layer and keeps the activations that [`Model::layer_backward`] needs;
//! [`Model::answer_backward`] starts the backward pass at the probabilities of given tokens. Weights are
//! constants, and texts are whole: every run of the batch starts at position 0.

use crate::config::{Layer, Mlp, QkNorm};
use crate::forward::{Batch, Buffers, Model};
use crate::latent::QkvWeights;
use crate::load::MlpWeights;
use crate::saved::SavedActivations;
use fathom_kernels::backend::{Backend, Columns, Norm};

impl<B: Backend> Model<B> {
    /// [`Self::layer`] over whole texts; returns the activations that [`Self::layer_backward`] needs.
    ///
    /// # Shapes
    /// `h`, `out [rows, d]`.
    pub fn layer_saved(
        &self,
        l: usize,
        batch: &Batch<B>,
        h: &B::Buffer,
        b: &mut Buffers<B>,
        out: &mut B::Buffer,
    ) -> SavedActivations<B> {
        b.saved = Some(SavedActivations::default());
        self.layer(l, batch, h, b, out);
        b.saved.take().unwrap_or_default()
    }

    /// [`Self::mlp`] alone; returns the activations that [`Self::mlp_backward`] needs.
    pub fn mlp_saved(&self, l: usize, x: &B::Buffer, b: &mut Buffers<B>) -> SavedActivations<B> {
        b.saved = Some(SavedActivations::default());
        self.mlp(l, x, b);
        b.saved.take().unwrap_or_default()
    }

    /// Turns the gradient of the residual stream after layer `l` into that before it, in place.
    ///
    /// # Shapes
    /// `d [rows, d]`.
    ///
    /// # Panics
    /// When `saved` belongs to another batch, or a run does not start at position 0.
    pub fn layer_backward(&self, l: usize, batch: &Batch<B>, saved: &SavedActivations<B>, d: &mut B::Buffer) {
        let on = &self.backend;
        let of_mlp = self.mlp_backward(l, saved, d);
        if self.config.parallel {
            let of_attn = self.attention_backward(l, batch, saved, d);
            on.add_assign(d, &of_attn);
            on.add_assign(d, &of_mlp);
        } else {
            on.add_assign(d, &of_mlp);
            let of_attn = self.attention_backward(l, batch, saved, d);
            on.add_assign(d, &of_attn);
        }
    }

    /// The gradient of the input of layer `l`'s MLP from that of its output.
    ///
    /// # Shapes
    /// `d_out` and the result `[rows, d]`.
    ///
    /// # Panics
    /// When `saved` belongs to another batch.
    pub fn mlp_backward(&self, l: usize, saved: &SavedActivations<B>, d_out: &B::Buffer) -> B::Buffer {
        let (on, block) = (&self.backend, &self.packed.layers[l]);
        let mut d = on.empty();
        on.assign(d_out, &mut d); // [rows, d]
        self.scale_residual(&mut d);
        self.norm_backward(block.post_mlp_norm.as_ref(), &saved.raw_mlp, &mut d);
        let mut d_in = on.empty(); // [rows, d]
        match &block.mlp {
            MlpWeights::Dense(mlp) => {
                let wide = of_pass(&saved.wide);
                self.feed_forward_backward(mlp.matrices(), wide, None, &d, &mut d_in);
            }
            MlpWeights::Experts(experts) => {
                self.experts_backward(experts, of_pass(&saved.experts), &d, &mut d_in);
            }
        }
        self.norm_backward(block.mlp_norm.as_ref(), &saved.mlp_in, &mut d_in);
        d_in
    }

    /// The gradient of the input of layer `l`'s attention from that of its output.
    ///
    /// # Shapes
    /// `d_out` and the result `[rows, d]`.
    ///
    /// # Panics
    /// As [`Self::layer_backward`].
    pub fn attention_backward(
        &self,
        l: usize,
        batch: &Batch<B>,
        saved: &SavedActivations<B>,
        d_out: &B::Buffer,
    ) -> B::Buffer {
        let (on, block) = (&self.backend, &self.packed.layers[l]);
        let mut d = on.empty();
        on.assign(d_out, &mut d); // [rows, d]
        self.scale_residual(&mut d);
        self.norm_backward(block.post_attn_norm.as_ref(), &saved.raw_attn, &mut d);
        let (mut d_mixed, mut d_qkv) = (on.empty(), on.empty());
        on.linear_backward(&block.attn_out, &d, &mut d_mixed); // [rows, q]
        let qkv = of_pass(&saved.qkv);
        on.attend_backward(&self.shape(l), &batch.on_device, qkv, &d_mixed, &mut d_qkv); // [rows, q + 2 kv]
        self.norm_and_rotate_backward(l, batch, saved, &mut d_qkv);
        match &block.qkv {
            QkvWeights::Plain(qkv) => on.linear_backward(qkv, &d_qkv, &mut d), // [rows, d]
            QkvWeights::Latent(latent) => {
                self.latent_qkv_backward(latent, of_pass(&saved.latent), &d_qkv, &mut d);
            }
        }
        self.norm_backward(block.attn_norm.as_ref(), &saved.attn_in, &mut d);
        d
    }

    fn norm_and_rotate_backward(
        &self,
        l: usize,
        batch: &Batch<B>,
        saved: &SavedActivations<B>,
        d_qkv: &mut B::Buffer,
    ) {
        let rotated_first = self.config.qk_norm == QkNorm::HeadRotated;
        if !rotated_first {
            self.rotate(l, batch, true, d_qkv);
        }
        for (norm, at) in &self.packed.layers[l].qk_norms {
            self.backend.norm_backward(norm, *at, of_pass(&saved.raw_qkv), d_qkv);
        }
        if rotated_first {
            self.rotate(l, batch, true, d_qkv);
        }
    }

    /// The probability of one token after each row, and its gradient with respect to the row. `logits` is
    /// a scratch buffer.
    ///
    /// # Shapes
    /// `h`, `d [rows, d]`, `tokens [rows]`; the result is `[rows]`.
    ///
    /// # Panics
    /// When the lengths do not fit, a token lies outside the vocabulary, or the device refuses memory for
    /// the logits.
    pub fn answer_backward(
        &self,
        h: &B::Buffer,
        tokens: &[u32],
        logits: &mut B::Buffer,
        d: &mut B::Buffer,
    ) -> B::Numbers {
        let on = &self.backend;
        self.head(h, logits);
        let probabilities =
            on.probability_backward(self.config.vocab, tokens, self.config.final_softcap, logits);
        on.linear_backward(&self.packed.head, logits, d);
        on.norm_backward(&self.packed.final_norm, Columns::whole(self.config.hidden), h, d);
        probabilities
    }

    /// The log-probability of one token after each row, in nats. `logits` is a scratch buffer.
    ///
    /// # Shapes
    /// `h [rows, d]`, `tokens [rows]`; the result is `[rows]`.
    ///
    /// # Panics
    /// As [`Self::answer_backward`].
    pub fn answer(&self, h: &B::Buffer, tokens: &[u32], logits: &mut B::Buffer) -> B::Numbers {
        self.head(h, logits);
        self.backend.log_probabilities(self.config.vocab, logits, tokens)
    }

    /// Approximate bytes that [`Self::layer_saved`] keeps per row of one layer.
    pub fn saved_bytes_per_row(&self) -> usize {
        let c = &self.config;
        let up = if c.gated { 2 } else { 1 };
        let of_mlp = |layer: &Layer| match layer.mlp {
            Mlp::Dense => up * c.intermediate,
            Mlp::Experts(of) => up * (of.active * of.width + of.shared) + of.count + 2 * of.active,
        };
        let wide = c.layers.iter().map(of_mlp).max().unwrap_or(0);
        let copies = if c.qk_norm == QkNorm::None { 1 } else { 2 };
        let norms = usize::from(c.pre_norm) + usize::from(c.post_norm);
        let latent = c.latent.map_or(0, |l| l.q_rank.unwrap_or(0) + l.rank + l.rotated);
        4 * (latent + 2 * norms * c.hidden + copies * (c.q_width() + 2 * c.kv_width()) + wide)
    }

    fn norm_backward(&self, norm: Option<&Norm<B>>, x: &Option<B::Buffer>, d: &mut B::Buffer) {
        if let Some(norm) = norm {
            self.backend.norm_backward(norm, Columns::whole(self.config.hidden), of_pass(x), d);
        }
    }
}

/// Activations that the forward pass has saved.
fn of_pass<T>(saved: &Option<T>) -> &T {
    saved.as_ref().expect("the activations belong to another layer")
}
