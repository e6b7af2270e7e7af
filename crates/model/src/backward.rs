//! The backward pass through layers and head, with respect to activations.
//!
//! [`Model::layer_saved`] runs a layer and keeps the activations that [`Model::layer_backward`] needs;
//! [`Model::answer_backward`] starts the backward pass at the probabilities of given tokens. Weights are
//! constants, and texts are whole: every run of the batch starts at position 0.

use crate::config::QkNorm;
use crate::forward::{Batch, Buffers, Model, halves};
use crate::latent::QkvWeights;
use crate::load::{DenseAndExperts, MlpWeights};
use crate::saved::SavedActivations;
use crate::side_inputs::LayerKeys;
use fathom_kernels::backend::{Backend, Columns, Norm};
use fathom_kernels::elementwise::Activation;

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

    /// [`Self::mlp`] alone; `saved` receives the activations that [`Self::mlp_backward`] needs.
    pub fn mlp_saved_in(&self, l: usize, x: &B::Buffer, b: &mut Buffers<B>, saved: &mut SavedActivations<B>) {
        b.saved = Some(std::mem::take(saved));
        self.mlp(l, x, b);
        *saved = b.saved.take().unwrap_or_default();
    }

    /// Turns the gradient of the residual stream after layer `l` into that before it, in place. `d_keys` are the gradients
    /// of keys and values that layers share, which layers add to from the last one down.
    ///
    /// # Shapes
    /// `d [rows, d]`.
    ///
    /// # Panics
    /// When `saved` belongs to another batch, or a run does not start at position 0.
    pub fn layer_backward(
        &self,
        l: usize,
        batch: &Batch<B>,
        saved: &SavedActivations<B>,
        d_keys: &mut LayerKeys<B>,
        d: &mut B::Buffer,
    ) {
        let on = &self.backend;
        if !self.config.parallel {
            self.mlp_half_backward(l, saved, d);
            self.after_attention_backward(l, saved, d);
            let of_attn = self.attention_backward(l, batch, saved, d_keys, d);
            on.add_assign(d, &of_attn);
        } else {
            let of_mlp = self.mlp_backward(l, saved, d);
            let of_attn = self.attention_backward(l, batch, saved, d_keys, d);
            on.add_assign(d, &of_attn);
            on.add_assign(d, &of_mlp);
        }
    }

    /// Turns the gradient of the residual stream after layer `l` into that of the stream that its MLP reads, in place,
    /// where attention and MLP are not parallel.
    ///
    /// # Shapes
    /// `d [rows, d]`.
    ///
    /// # Panics
    /// When `saved` belongs to another batch.
    pub fn mlp_half_backward(&self, l: usize, saved: &SavedActivations<B>, d: &mut B::Buffer) {
        self.after_mlp_backward(l, saved, d);
        if !self.config.has_mlp(l) {
            return;
        }
        let of_mlp = self.mlp_backward(l, saved, d);
        self.backend.add_assign(d, &of_mlp);
    }

    /// Backward of [`Self::after_attention`]: turns the gradient of the stream that the MLP of layer `l` reads into that
    /// of `h + attn_out`, in place.
    ///
    /// # Panics
    /// When `saved` belongs to another batch.
    pub fn after_attention_backward(&self, l: usize, saved: &SavedActivations<B>, d: &mut B::Buffer) {
        let norm = self.packed.layers[l].stream_norms.as_ref().map(|norms| &norms[0]);
        self.norm_backward(norm, &saved.raw_mid, d);
    }

    /// Backward of [`Self::after_mlp`]: turns the gradient of the residual stream after layer `l` into that of
    /// `mid + mlp_out`, in place.
    ///
    /// # Panics
    /// When `saved` belongs to another batch.
    pub fn after_mlp_backward(&self, l: usize, saved: &SavedActivations<B>, d: &mut B::Buffer) {
        let norm = self.packed.layers[l].stream_norms.as_ref().map(|norms| &norms[1]);
        self.norm_backward(norm, &saved.raw_out, d);
    }

    /// The gradient of the input of layer `l`'s MLP from that of its output.
    ///
    /// # Shapes
    /// `d_out` and the result `[rows, d]`.
    ///
    /// # Panics
    /// When `saved` belongs to another batch.
    pub fn mlp_backward(&self, l: usize, saved: &SavedActivations<B>, d_out: &B::Buffer) -> B::Buffer {
        let Some(d_sum) = self.token_part_backward(l, saved, d_out) else {
            return self.mlp_alone_backward(l, saved, d_out);
        };
        let on = &self.backend;
        let mut d = on.empty();
        on.add(d_out, &d_sum, &mut d);
        let mut d_in = self.mlp_alone_backward(l, saved, &d);
        on.add_assign(&mut d_in, &d_sum);
        d_in
    }

    /// [`Self::mlp_backward`] without what token inputs add.
    fn mlp_alone_backward(&self, l: usize, saved: &SavedActivations<B>, d_out: &B::Buffer) -> B::Buffer {
        let (on, block) = (&self.backend, &self.packed.layers[l]);
        let mut d = on.empty();
        on.assign(d_out, &mut d); // [rows, d]
        self.scale_residual(&mut d);
        self.norm_backward(block.post_mlp_norm.as_ref(), &saved.raw_mlp, &mut d);
        let mut d_in = on.empty(); // [rows, d]
        match &block.mlp {
            MlpWeights::None => return on.buffer_of(&vec![0.0; on.len(d_out)]),
            MlpWeights::Dense(mlp) => {
                let wide = of_pass(&saved.wide);
                self.scale(self.config.multipliers.mlp, &mut d);
                self.feed_forward_backward(mlp, wide, None, &d, &mut d_in);
            }
            MlpWeights::Experts(experts) => {
                self.experts_backward(l, experts, of_pass(&saved.experts), &d, &mut d_in, None);
            }
            MlpWeights::DenseAndExperts(of) => return self.dense_and_experts_backward(l, of, saved, d),
        }
        self.norm_backward(block.mlp_norm.as_ref(), &saved.mlp_in, &mut d_in);
        d_in
    }

    /// The gradient of what a dense MLP and experts beside it read, before the norms, from that of their sum.
    fn dense_and_experts_backward(
        &self,
        l: usize,
        of: &DenseAndExperts<B>,
        saved: &SavedActivations<B>,
        mut d: B::Buffer,
    ) -> B::Buffer {
        let on = &self.backend;
        let (mut d_dense, mut d_experts, mut d_router) = (on.empty(), on.empty(), on.empty());
        let mut d_out = on.empty();
        on.assign(&d, &mut d_out);
        self.norm_backward(Some(&of.dense_norm), &saved.raw_dense, &mut d_out);
        self.feed_forward_backward(&of.dense, of_pass(&saved.wide), None, &d_out, &mut d_dense);
        self.norm_backward(self.packed.layers[l].mlp_norm.as_ref(), &saved.mlp_in, &mut d_dense);
        self.norm_backward(Some(&of.expert_norms[1]), &saved.raw_experts, &mut d);
        let of_experts = of_pass(&saved.experts);
        self.experts_backward(l, &of.experts, of_experts, &d, &mut d_experts, Some(&mut d_router));
        self.norm_backward(Some(&of.expert_norms[0]), &saved.mlp_in, &mut d_experts);
        self.norm_backward(Some(&of.router_norm), &saved.mlp_in, &mut d_router);
        on.add_assign(&mut d_dense, &d_experts);
        on.add_assign(&mut d_dense, &d_router);
        d_dense
    }

    /// The gradient of the input of layer `l`'s attention from that of its output, and of shared keys as in
    /// [`Self::layer_backward`].
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
        d_keys: &mut LayerKeys<B>,
        d_out: &B::Buffer,
    ) -> B::Buffer {
        let (on, block) = (&self.backend, &self.packed.layers[l]);
        let Some(attn_out) = &block.attn_out else { return on.buffer_of(&vec![0.0; on.len(d_out)]) };
        let mut d = on.empty();
        on.assign(d_out, &mut d); // [rows, d]
        self.scale_residual(&mut d);
        self.norm_backward(block.post_attn_norm.as_ref(), &saved.raw_attn, &mut d);
        let of_beside = block
            .beside
            .as_ref()
            .map(|beside| self.mix_beside_backward(beside, batch, of_pass(&saved.beside), &d));
        self.scale(self.config.multipliers.attention, &mut d);
        let (mut d_mixed, mut d_qkv) = (on.empty(), on.empty());
        on.linear_backward(attn_out, &d, &mut d_mixed); // [rows, q]
        let d_gate = block.attn_gate.as_ref().map(|gate| (gate, self.gate_backward(l, saved, &mut d_mixed)));
        let qkv = of_pass(&saved.qkv);
        match &block.qkv {
            QkvWeights::Mixer(of) => self.mix_backward(of, batch, qkv, &d_mixed, &mut d_qkv),
            _ => on.attend_backward(
                &self.shape(l),
                &block.head_bias,
                batch.of_attention(self.config.layers[l].chunk.is_some()),
                qkv,
                &d_mixed,
                &mut d_qkv,
            ),
        }
        self.shared_keys_backward(l, &mut d_qkv, d_keys);
        self.norm_and_rotate_backward(l, batch, saved, &mut d_qkv); // [rows, q + 2 kv]
        match &block.qkv {
            QkvWeights::Plain(qkv) => on.linear_backward(qkv, &d_qkv, &mut d), // [rows, d]
            QkvWeights::Queries(queries, _) => {
                on.linear_backward(queries, &self.of_queries(l, &d_qkv), &mut d);
            }
            QkvWeights::Mixer(of) => on.linear_backward(&of.input, &d_qkv, &mut d),
            QkvWeights::None => {}
            QkvWeights::Latent(latent) => {
                self.latent_qkv_backward(latent, of_pass(&saved.latent), &d_qkv, &mut d);
            }
        }
        if let Some((gate, d_gate)) = d_gate {
            let mut of_gate = on.empty();
            on.linear_backward(gate, &d_gate, &mut of_gate);
            on.add_assign(&mut d, &of_gate);
        }
        if let Some(of_beside) = &of_beside {
            on.add_assign(&mut d, of_beside);
        }
        self.norm_backward(block.attn_norm.as_ref(), &saved.attn_in, &mut d);
        d
    }

    /// Turns the gradient of gated attention into that of what the gate multiplied, in place; returns that of the gate.
    fn gate_backward(&self, l: usize, saved: &SavedActivations<B>, d_mixed: &mut B::Buffer) -> B::Buffer {
        let (on, width) = (&self.backend, self.config.q_width(l));
        let (mut d_both, mut d_gate) = (on.empty(), on.empty());
        on.gated_backward(Activation::Sigmoid, width, of_pass(&saved.attn_gate), d_mixed, &mut d_both);
        let [of_gate, of_mixed] = halves(on.len(d_mixed) / width);
        on.gather(width, &d_both, &of_gate, &mut d_gate);
        on.gather(width, &d_both, &of_mixed, d_mixed);
        d_gate
    }

    fn norm_and_rotate_backward(
        &self,
        l: usize,
        batch: &Batch<B>,
        saved: &SavedActivations<B>,
        d_qkv: &mut B::Buffer,
    ) {
        let rotated_first = self.config.qk_norm.is_behind_rotation();
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
        on.linear_backward(self.packed.head(), logits, d);
        self.head_dense_backward(h, d);
        if let Some(norm) = &self.packed.final_norm {
            on.norm_backward(norm, Columns::whole(self.config.hidden), h, d);
        }
        probabilities
    }

    /// Turns the gradient of what the unembedding reads into that of what the dense part of the head reads, in place.
    fn head_dense_backward(&self, h: &B::Buffer, d: &mut B::Buffer) {
        let Some((dense, activation, norm)) = &self.packed.head_dense else { return };
        let (on, columns) = (&self.backend, Columns::whole(self.config.hidden));
        let (mut input, mut linear, mut activated) = (on.empty(), on.empty(), on.empty());
        on.assign(h, &mut input);
        if let Some(norm) = &self.packed.final_norm {
            on.norm(norm, columns, &mut input);
        }
        on.linear(dense, &input, &mut linear);
        on.assign(&linear, &mut activated);
        on.activate(*activation, &mut activated);
        on.norm_backward(norm, columns, &activated, d);
        on.activate_backward(*activation, &linear, d);
        let of_linear = std::mem::replace(d, on.empty());
        on.linear_backward(dense, &of_linear, d);
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
        let of_mlp = |l: usize| {
            let layer = &c.layers[l];
            let dense = if layer.mlp.has_dense() { up * c.mlp_width(l) } else { 0 };
            let experts = layer.mlp.experts().map_or(0, |of| {
                let input = if of.routing.on_input { c.hidden } else { 0 };
                up * (of.active * of.width + of.shared) + of.count + 2 * of.active + input
            });
            // What the two read and return.
            let both = if layer.mlp.is_both() { 4 * c.hidden } else { 0 };
            dense + experts + both
        };
        let wide = (0..c.depth()).map(of_mlp).max().unwrap_or(0);
        let copies = if c.qk_norm == QkNorm::None { 1 } else { 2 };
        let norms = usize::from(c.pre_norm) + usize::from(c.post_norm) + usize::from(self.is_post_norm());
        let latent = c.latent.map_or(0, |l| l.q_rank.unwrap_or(0) + l.rank + l.rotated);
        let qkv = (0..c.depth()).map(|l| c.input_width(l)).max().unwrap_or(0);
        let gate = if c.attention_gate { 2 * c.widest_q() } else { 0 };
        let tokens = c.token_inputs.map_or(0, |p| 2 * p + c.hidden);
        4 * (tokens + latent + 2 * norms * c.hidden + copies * qkv + gate + wide)
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
