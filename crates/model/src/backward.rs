//! The backward pass through layers and head, with respect to activations.
//!
//! [`Model::layer_saved`] runs a layer and keeps the activations that [`Model::layer_backward`] needs;
//! [`Model::answer_backward`] starts the backward pass at the probabilities of given tokens. Weights are
//! constants, and texts are whole: every run of the batch starts at position 0.

use crate::config::QkNorm;
use crate::forward::{Batch, Buffers, Model};
use crate::load::Norm;
use crate::saved::SavedActivations;
use fathom_kernels::distribution::{log_sum_exp, scaled_softmax};
use fathom_kernels::{Buffer, backward};
use rayon::prelude::*;
use std::ops::Range;

impl Model {
    /// [`Self::layer`] over whole texts; returns the activations that [`Self::layer_backward`] needs.
    ///
    /// # Shapes
    /// `h`, `out [rows, d]`.
    pub fn layer_saved(
        &self,
        l: usize,
        batch: &Batch,
        h: &[f32],
        b: &mut Buffers,
        out: &mut [f32],
    ) -> SavedActivations {
        b.saved = Some(SavedActivations::default());
        self.layer(l, batch, &[], h, b, out);
        b.saved.take().unwrap_or_default()
    }

    /// [`Self::mlp`] alone; returns the activations that [`Self::mlp_backward`] needs.
    pub fn mlp_saved(&self, l: usize, x: &[f32], b: &mut Buffers) -> SavedActivations {
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
    pub fn layer_backward(&self, l: usize, batch: &Batch, saved: &SavedActivations, d: &mut [f32]) {
        let of_mlp = self.mlp_backward(l, saved, d);
        if self.config.parallel {
            let of_attn = self.attention_backward(l, batch, saved, d);
            add(d, &of_attn);
            add(d, &of_mlp);
        } else {
            add(d, &of_mlp);
            let of_attn = self.attention_backward(l, batch, saved, d);
            add(d, &of_attn);
        }
    }

    /// The gradient of the input of layer `l`'s MLP from that of its output.
    ///
    /// # Shapes
    /// `d_out` and the result `[rows, d]`.
    pub fn mlp_backward(&self, l: usize, saved: &SavedActivations, d_out: &[f32]) -> Vec<f32> {
        let (c, block) = (&self.config, &self.packed.layers[l]);
        let rows = d_out.len() / c.hidden;
        let mut d = d_out.to_vec(); // [rows, d]
        self.norm_backward(block.post_mlp_norm.as_ref(), &saved.raw_mlp, &mut d);
        let mut d_inner = vec![0.0; rows * c.intermediate];
        block.down.backward(&d, &mut d_inner); // [rows, f]
        let d_wide = if c.gated {
            let mut d_wide = vec![0.0; saved.wide.len()];
            backward::gated(c.activation, &saved.wide, c.intermediate, &d_inner, &mut d_wide);
            d_wide // [rows, 2 f]
        } else {
            backward::activate(c.activation, &saved.wide, &mut d_inner);
            d_inner // [rows, f]
        };
        block.up.backward(&d_wide, &mut d); // [rows, d]
        self.norm_backward(block.mlp_norm.as_ref(), &saved.mlp_in, &mut d);
        d
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
        batch: &Batch,
        saved: &SavedActivations,
        d_out: &[f32],
    ) -> Vec<f32> {
        let (c, block) = (&self.config, &self.packed.layers[l]);
        assert!(batch.runs.iter().all(|r| r.first == 0 && r.past.is_empty()), "gradients need whole texts");
        let texts: Vec<Range<usize>> = batch.runs.iter().map(|r| r.rows.clone()).collect();
        let mut d = d_out.to_vec(); // [rows, d]
        self.norm_backward(block.post_attn_norm.as_ref(), &saved.raw_attn, &mut d);
        let mut d_mixed = vec![0.0; batch.rows() * c.q_width()];
        block.attn_out.backward(&d, &mut d_mixed); // [rows, q]
        let mut d_qkv = vec![0.0; saved.qkv.len()];
        backward::attend(&self.shape(l), &saved.qkv, &texts, &d_mixed, &mut d_qkv); // [rows, q + 2 kv]
        self.norm_and_rotate_backward(l, batch, saved, &mut d_qkv);
        block.qkv.backward(&d_qkv, &mut d); // [rows, d]
        self.norm_backward(block.attn_norm.as_ref(), &saved.attn_in, &mut d);
        d
    }

    fn norm_and_rotate_backward(&self, l: usize, batch: &Batch, saved: &SavedActivations, d_qkv: &mut [f32]) {
        let c = &self.config;
        let (q, kv) = (c.q_width(), c.kv_width());
        let stride = q + 2 * kv;
        if let Some(table) = batch.tables.get(c.layers[l].rope) {
            backward::rotate(d_qkv, stride, c.heads + c.kv_heads, c.head_dim, table);
        }
        let Some([q_norm, k_norm]) = &self.packed.layers[l].qk_norms else { return };
        let (q_part, k_part) = match c.qk_norm {
            QkNorm::Full => (q, kv),
            _ => (c.head_dim, c.head_dim),
        };
        d_qkv.par_chunks_mut(stride).zip(saved.raw_qkv.par_chunks(stride)).for_each(|(d, raw)| {
            let (d_queries, d_keys) = d[..q + kv].split_at_mut(q);
            let (queries, keys) = raw[..q + kv].split_at(q);
            let of_queries = d_queries.chunks_exact_mut(q_part).zip(queries.chunks_exact(q_part));
            of_queries.for_each(|(d, x)| q_norm.row_backward(x, d));
            let of_keys = d_keys.chunks_exact_mut(k_part).zip(keys.chunks_exact(k_part));
            of_keys.for_each(|(d, x)| k_norm.row_backward(x, d));
        });
    }

    /// The probability of one token after each row, and its gradient with respect to the row. `logits` is
    /// a scratch buffer.
    ///
    /// # Shapes
    /// `h`, `d [rows, d]`, `tokens [rows]`; the result is `[rows]`.
    ///
    /// # Panics
    /// When the lengths do not fit, a token lies outside the vocabulary, or the system refuses memory for
    /// the logits.
    pub fn answer_backward(&self, h: &[f32], tokens: &[u32], logits: &mut Buffer, d: &mut [f32]) -> Vec<f64> {
        let vocab = self.config.vocab;
        logits.resize(tokens.len() * vocab);
        self.head(h, logits);
        let cap = self.config.final_softcap;
        let rows = logits.par_chunks_mut(vocab).zip(tokens);
        let probabilities = rows.map(|(row, token)| probability_backward(row, *token, cap)).collect();
        self.packed.head.backward(logits, d);
        self.norm_backward(Some(&self.packed.final_norm), h, d);
        probabilities
    }

    /// The probability of one token after each row. `logits` is a scratch buffer.
    ///
    /// # Shapes
    /// `h [rows, d]`, `tokens [rows]`; the result is `[rows]`.
    ///
    /// # Panics
    /// As [`Self::answer_backward`].
    pub fn answer(&self, h: &[f32], tokens: &[u32], logits: &mut Buffer) -> Vec<f64> {
        let vocab = self.config.vocab;
        logits.resize(tokens.len() * vocab);
        self.head(h, logits);
        let rows = logits.par_chunks(vocab).zip(tokens);
        rows.map(|(row, token)| (f64::from(row[*token as usize]) - log_sum_exp(row)).exp()).collect()
    }

    /// Approximate bytes that [`Self::layer_saved`] keeps per row of one layer.
    pub fn saved_bytes_per_row(&self) -> usize {
        let c = &self.config;
        let wide = self.packed.layers.first().map_or(0, |b| b.up.outputs());
        let copies = if c.qk_norm == QkNorm::None { 1 } else { 2 };
        let norms = usize::from(c.pre_norm) + usize::from(c.post_norm);
        4 * (2 * norms * c.hidden + copies * (c.q_width() + 2 * c.kv_width()) + wide)
    }

    fn norm_backward(&self, norm: Option<&Norm>, x: &[f32], d: &mut [f32]) {
        if let Some(norm) = norm {
            let width = self.config.hidden;
            let rows = d.par_chunks_mut(width).zip(x.par_chunks(width));
            rows.with_min_len((16_384 / width).max(1)).for_each(|(d, x)| norm.row_backward(x, d));
        }
    }
}

/// The softmax probability p of a token. The logits are replaced by their gradient
/// `p (onehot - softmax)`, taken through the soft-capping.
fn probability_backward(row: &mut [f32], token: u32, cap: Option<f32>) -> f64 {
    let lse = log_sum_exp(row);
    let token = token as usize;
    let log = f64::from(row[token]) - lse;
    let p = log.exp();
    let capped = cap.map(|cap| (cap, row.to_vec()));
    scaled_softmax(row, lse, -p as f32);
    // p (1 - p), accurate where p is close to 1.
    row[token] = (p * -log.exp_m1()) as f32;
    if let Some((cap, capped)) = capped {
        backward::softcap(cap, &capped, row);
    }
    p
}

fn add(to: &mut [f32], from: &[f32]) {
    const ELEMENTS_PER_JOB: usize = 16_384;
    let parts = to.par_chunks_mut(ELEMENTS_PER_JOB).zip(from.par_chunks(ELEMENTS_PER_JOB));
    parts.for_each(|(to, from)| to.iter_mut().zip(from).for_each(|(t, f)| *t += f));
}
