//! The forward pass in steps: [`Model::embed`], then [`Model::attention`] and [`Model::mlp`] layer by
//! layer, then [`Model::head`] on the rows whose logits are needed.

use crate::cache::KvCache;
use crate::config::{Config, Positions, QkNorm};
use crate::error::{Error, Result};
use crate::load::{Embedding, Norm, PackedWeights};
use crate::rope;
use crate::saved::{SavedActivations, keep};
use fathom_kernels::attention::{AttentionRun, AttentionShape, KvSegment, attend};
use fathom_kernels::{Buffer, Dtype, elementwise as ops, norm};
use std::ops::Range;

/// A model, ready to run.
pub struct Model {
    pub(crate) config: Config,
    pub(crate) packed: PackedWeights,
    pub(crate) dtype: Dtype,
}

/// Where the keys and values of positions before a run are stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Span {
    /// In a KV cache: its index in the list passed to the step, and positions in it.
    Cache(usize, Range<usize>),
    /// In other rows of the same batch.
    Rows(Range<usize>),
}

/// Rows of consecutive positions of one text.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Position of the first row.
    pub first: usize,
    /// Length of the whole text, which some rotary scalings depend on.
    pub length: usize,
    /// Keys and values of positions `0..first`, in order.
    pub past: Vec<Span>,
}

/// Runs that pass through a layer together, in one matrix product.
pub struct Batch {
    pub(crate) runs: Vec<Run>,
    pub(crate) tables: Vec<ops::Rotation>,
    rows: usize,
}

impl Batch {
    /// Number of rows of all runs.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// Scratch buffers of a batch, reused from layer to layer.
#[derive(Default)]
pub struct Buffers {
    /// `h + attn_out`, `[rows, d]`.
    mid: Buffer,
    normed: Buffer,
    /// Queries, keys and values, `[rows, q + 2 kv]`.
    qkv: Buffer,
    mixed: Buffer,
    wide: Buffer,
    gated: Buffer,
    /// Output of attention, which is added to the residual stream, `[rows, d]`.
    pub attn_out: Buffer,
    /// Output of the MLP, which is added to the residual stream, `[rows, d]`.
    pub mlp_out: Buffer,
    /// Activations for the backward pass, when they are requested.
    pub(crate) saved: Option<SavedActivations>,
}

impl Buffers {
    /// Reserves the memory that `rows` rows of a model take, so that no step needs more.
    ///
    /// # Errors
    /// When the system refuses it.
    pub fn reserve(&mut self, model: &Model, rows: usize) -> Result<()> {
        let c = &model.config;
        let wide = model.packed.layers.first().map_or(0, |layer| layer.up.outputs());
        let sizes = [
            (&mut self.mid, c.hidden),
            (&mut self.normed, c.hidden),
            (&mut self.qkv, c.q_width() + 2 * c.kv_width()),
            (&mut self.mixed, c.q_width()),
            (&mut self.wide, wide),
            (&mut self.gated, if c.gated { c.intermediate } else { 0 }),
            (&mut self.attn_out, c.hidden),
            (&mut self.mlp_out, c.hidden),
        ];
        for (buffer, width) in sizes {
            buffer.try_resize(rows * width).map_err(Error::activations)?;
        }
        Ok(())
    }
}

impl Model {
    /// The description of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How the weights are multiplied.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Combines runs into a batch.
    ///
    /// # Panics
    /// When the runs do not follow each other in the batch's rows.
    pub fn batch(&self, runs: Vec<Run>) -> Batch {
        let mut places = Vec::new();
        for run in &runs {
            assert_eq!(run.rows.start, places.len(), "runs must follow each other");
            places.extend((0..run.rows.len()).map(|i| (run.first + i, run.length)));
        }
        let tables = match &self.config.positions {
            Positions::Learned => Vec::new(),
            Positions::Rotary(ropes) => ropes.iter().map(|r| rope::table(r, &places)).collect(),
        };
        Batch { rows: places.len(), runs, tables }
    }

    /// The residual stream before layer 0.
    ///
    /// # Shapes
    /// `tokens [rows]` from position `first` on; the result is `[rows, d]`.
    ///
    /// # Errors
    /// When a token is outside the vocabulary or a position beyond the learned ones.
    pub fn embed(&self, tokens: &[u32], first: usize) -> Result<Vec<f32>> {
        let d = self.config.hidden;
        let mut h = vec![0.0; tokens.len() * d];
        for (i, (token, row)) in tokens.iter().zip(h.chunks_exact_mut(d)).enumerate() {
            let token = *token as usize;
            if token >= self.config.vocab {
                return Err(Error::InvalidInput(format!(
                    "token {token} lies outside the model's vocabulary of {}; tokenizer and weights do not belong together",
                    self.config.vocab
                )));
            }
            match &self.packed.embedding {
                Embedding::Tied => self.packed.head.row(token, row),
                Embedding::Stored(weights, name) => {
                    weights.tensor(name, &[self.config.vocab, d])?.read(token..token + 1, row)?;
                }
            }
            row.iter_mut().for_each(|x| *x *= self.config.embedding_scale);
            if let Some(learned) = &self.packed.position {
                let Some(position) = learned.chunks_exact(d).nth(first + i) else {
                    return Err(Error::InvalidInput(format!(
                        "position {} lies beyond the {} positions that the model has learned; use shorter prompts",
                        first + i,
                        self.config.context
                    )));
                };
                row.iter_mut().zip(position).for_each(|(x, p)| *x += p);
            }
        }
        Ok(h)
    }

    /// The attention of layer `l`: fills `b.attn_out` from the residual stream `h [rows, d]`. `past`
    /// holds the KV caches of this layer that the spans of the runs refer to.
    ///
    /// # Panics
    /// When the lengths do not fit, and with `OutOfMemory` when the system refuses memory for the
    /// buffers; [`Buffers::reserve`] returns an error instead.
    pub fn attention(&self, l: usize, batch: &Batch, past: &[&KvCache], h: &[f32], b: &mut Buffers) {
        let (c, block) = (&self.config, &self.packed.layers[l]);
        let (q, kv) = (c.q_width(), c.kv_width());
        let stride = q + 2 * kv;
        keep(b.saved.as_mut().map(|s| &mut s.attn_in), block.attn_norm.is_some(), h);
        self.normalised(block.attn_norm.as_ref(), h, &mut b.normed); // [rows, d]
        b.qkv.resize(batch.rows * stride);
        block.qkv.forward(&b.normed, &mut b.qkv); // [rows, q + 2 kv]
        keep(b.saved.as_mut().map(|s| &mut s.raw_qkv), block.qk_norms.is_some(), &b.qkv);
        self.norm_and_rotate(l, batch, &mut b.qkv);
        keep(b.saved.as_mut().map(|s| &mut s.qkv), true, &b.qkv);

        let runs: Vec<_> = batch.runs.iter().map(|run| self.gather(run, past, &b.qkv)).collect();
        b.mixed.resize(batch.rows * q);
        attend(&self.shape(l), &b.qkv, stride, &runs, &mut b.mixed); // [rows, q]
        b.attn_out.resize(batch.rows * c.hidden);
        block.attn_out.forward(&b.mixed, &mut b.attn_out); // [rows, d]
        keep(b.saved.as_mut().map(|s| &mut s.raw_attn), block.post_attn_norm.is_some(), &b.attn_out);
        self.post_norm(block.post_attn_norm.as_ref(), &mut b.attn_out);
    }

    /// The shape of attention in layer `l`.
    pub(crate) fn shape(&self, l: usize) -> AttentionShape {
        let c = &self.config;
        AttentionShape {
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            scale: c.attention_scale,
            softcap: c.attention_softcap,
            window: c.layers[l].window,
        }
    }

    /// The MLP of layer `l`: fills `b.mlp_out` from the residual stream `x [rows, d]`, which is
    /// `h + attn_out`, or `h` itself where the two sublayers are parallel.
    ///
    /// # Panics
    /// As [`Self::attention`].
    pub fn mlp(&self, l: usize, x: &[f32], b: &mut Buffers) {
        let (c, block) = (&self.config, &self.packed.layers[l]);
        let rows = x.len() / c.hidden;
        keep(b.saved.as_mut().map(|s| &mut s.mlp_in), block.mlp_norm.is_some(), x);
        self.normalised(block.mlp_norm.as_ref(), x, &mut b.normed); // [rows, d]
        b.wide.resize(rows * block.up.outputs());
        block.up.forward(&b.normed, &mut b.wide); // [rows, 2 f] or [rows, f]
        keep(b.saved.as_mut().map(|s| &mut s.wide), true, &b.wide);
        b.mlp_out.resize(x.len());
        if c.gated {
            b.gated.resize(rows * c.intermediate);
            ops::gated(c.activation, &b.wide, c.intermediate, &mut b.gated); // [rows, f]
            block.down.forward(&b.gated, &mut b.mlp_out); // [rows, d]
        } else {
            ops::activate(c.activation, &mut b.wide);
            block.down.forward(&b.wide, &mut b.mlp_out); // [rows, d]
        }
        keep(b.saved.as_mut().map(|s| &mut s.raw_mlp), block.post_mlp_norm.is_some(), &b.mlp_out);
        self.post_norm(block.post_mlp_norm.as_ref(), &mut b.mlp_out);
    }

    /// One layer: fills `b.attn_out` and `b.mlp_out` from `h`, and `out` with the residual stream after
    /// the layer, `h + attn_out + mlp_out`.
    ///
    /// # Shapes
    /// `h`, `out [rows, d]`.
    ///
    /// # Panics
    /// As [`Self::attention`].
    pub fn layer(
        &self,
        l: usize,
        batch: &Batch,
        past: &[&KvCache],
        h: &[f32],
        b: &mut Buffers,
        out: &mut [f32],
    ) {
        let mut mid = std::mem::take(&mut b.mid);
        mid.resize(h.len());
        self.attention(l, batch, past, h, b);
        ops::add(h, &b.attn_out, &mut mid);
        self.mlp(l, if self.config.parallel { h } else { &mid }, b);
        ops::add(&mid, &b.mlp_out, out);
        b.mid = mid;
    }

    /// Copies the keys and values of some rows of the last attention step.
    pub fn kv_cache(&self, rows: Range<usize>, b: &Buffers) -> KvCache {
        let (q, kv) = (self.config.q_width(), self.config.kv_width());
        let take = |from: usize| {
            let mut taken = Vec::with_capacity(rows.len() * kv);
            let of_rows = b.qkv.chunks_exact(q + 2 * kv).skip(rows.start).take(rows.len());
            of_rows.for_each(|row| taken.extend_from_slice(&row[from..from + kv]));
            taken
        };
        KvCache { keys: take(q), values: take(q + kv) }
    }

    /// The logits of some rows: final norm and unembedding.
    ///
    /// # Shapes
    /// `h [rows, d]`, `logits [rows, V]`.
    ///
    /// # Panics
    /// When the lengths do not fit.
    pub fn head(&self, h: &[f32], logits: &mut [f32]) {
        let mut normed = Buffer::default();
        self.normalised(Some(&self.packed.final_norm), h, &mut normed);
        self.packed.head.forward(&normed, logits);
        if let Some(cap) = self.config.final_softcap {
            ops::softcap(cap, logits);
        }
    }

    /// Copies `x` and applies the norm, if there is one.
    fn normalised(&self, norm: Option<&Norm>, x: &[f32], out: &mut Buffer) {
        out.copy(x);
        self.post_norm(norm, out);
    }

    fn post_norm(&self, norm: Option<&Norm>, x: &mut [f32]) {
        if let Some(norm) = norm {
            norm::rows(x, self.config.hidden, |row| norm.row(row));
        }
    }

    fn norm_and_rotate(&self, l: usize, batch: &Batch, qkv: &mut [f32]) {
        let c = &self.config;
        let (q, kv) = (c.q_width(), c.kv_width());
        let stride = q + 2 * kv;
        if let Some([q_norm, k_norm]) = &self.packed.layers[l].qk_norms {
            norm::rows(qkv, stride, |row| {
                let (queries, keys) = row[..q + kv].split_at_mut(q);
                if c.qk_norm == QkNorm::Full {
                    q_norm.row(queries);
                    k_norm.row(keys);
                } else {
                    queries.chunks_exact_mut(c.head_dim).for_each(|head| q_norm.row(head));
                    keys.chunks_exact_mut(c.head_dim).for_each(|head| k_norm.row(head));
                }
            });
        }
        // Keys follow queries in each row, so one call rotates both.
        if let Some(t) = batch.tables.get(c.layers[l].rope) {
            let heads = c.heads + c.kv_heads;
            ops::rotate(qkv, stride, heads, c.head_dim, t);
        }
    }

    /// The keys and values that a run attends to: its past, then its own rows.
    fn gather<'a>(&self, run: &Run, past: &[&'a KvCache], qkv: &'a [f32]) -> AttentionRun<'a> {
        let (q, kv) = (self.config.q_width(), self.config.kv_width());
        let stride = q + 2 * kv;
        let of_rows = |rows: &Range<usize>| KvSegment {
            keys: &qkv[rows.start * stride + q..],
            values: &qkv[rows.start * stride + q + kv..],
            stride,
            count: rows.len(),
        };
        let of_span = |span: &Span| match span {
            Span::Rows(rows) => of_rows(rows),
            Span::Cache(cache, positions) => KvSegment {
                keys: &past[*cache].keys[positions.start * kv..],
                values: &past[*cache].values[positions.start * kv..],
                stride: kv,
                count: positions.len(),
            },
        };
        let segments = run.past.iter().map(of_span).chain([of_rows(&run.rows)]).collect();
        AttentionRun { rows: run.rows.clone(), first: run.first, segments }
    }
}
