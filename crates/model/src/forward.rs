//! The forward pass in steps: [`Model::embed`], then [`Model::attention`] and [`Model::mlp`] layer by
//! layer, then [`Model::head`] on the rows whose logits are needed.

use crate::chunks;
use crate::config::{Config, Mixer, Mlp, Positions};
use crate::error::{Error, Result};
use crate::experts::{ExpertBuffers, FeedForward};
use crate::latent::{LatentBuffers, QkvWeights};
use crate::load::{DenseAndExperts, Embedding, MlpWeights, PackedWeights};
use crate::rope;
use crate::routing::Routes;
use crate::saved::SavedActivations;
use crate::side_inputs::{LayerKeys, SideBuffers};
use fathom_kernels::Dtype;
use fathom_kernels::attention::AttentionShape;
use fathom_kernels::backend::{Backend, Columns, Cpu, Norm, Run};
use fathom_kernels::elementwise::{Activation, Rotation};
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// A model, ready to run on a device.
pub struct Model<B: Backend = Cpu> {
    pub(crate) backend: B,
    pub(crate) config: Config,
    pub(crate) packed: PackedWeights<B>,
    pub(crate) dtype: Dtype,
}

/// Runs that pass through a layer together, in one matrix product.
pub struct Batch<B: Backend = Cpu> {
    pub(crate) runs: Vec<Run>,
    pub(crate) on_device: B::Batch,
    /// The parts of the runs in each chunk, for layers with chunked attention and texts of several chunks.
    chunks: Option<B::Batch>,
    rows: usize,
}

impl<B: Backend> Batch<B> {
    /// Number of rows of all runs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The runs as attention of a layer takes them, which has chunks or not.
    pub(crate) fn of_attention(&self, chunked: bool) -> &B::Batch {
        self.chunks.as_ref().filter(|_| chunked).unwrap_or(&self.on_device)
    }
}

/// The places of the left and the right halves of rows among all halves.
pub(crate) fn halves(rows: usize) -> [Vec<u32>; 2] {
    let all = 0..2 * rows as u32;
    let (left, right) = all.partition(|half| half % 2 == 0);
    [left, right]
}

/// Scratch buffers of a batch, reused from layer to layer.
pub struct Buffers<B: Backend = Cpu> {
    /// `h + attn_out`, `[rows, d]`.
    mid: B::Buffer,
    normed: B::Buffer,
    /// Queries, keys and values, `[rows, q + 2 kv]`.
    pub(crate) qkv: B::Buffer,
    /// What the recurrence beside attention reads, `[rows, width]`.
    pub(crate) beside: B::Buffer,
    pub(crate) mixed: B::Buffer,
    /// The projection that gates attention, `[rows, q]`, and both side by side, `[rows, 2 q]`.
    attn_gate: [B::Buffer; 2],
    wide: B::Buffer,
    gated: B::Buffer,
    /// What a dense MLP beside experts returns, and what their router reads, `[rows, d]`.
    dense_and_router: [B::Buffer; 2],
    latent: LatentBuffers<B>,
    pub(crate) experts: ExpertBuffers<B>,
    pub(crate) side: SideBuffers<B>,
    /// Keys and values that layers share, of the rows that run: those of [`Model::clean_keys`] where the layers that make
    /// them do not run, replaced by each that does. Empty in models whose layers share none.
    pub keys: LayerKeys<B>,
    /// The experts that the rows of the last MLP step took, if it had some.
    pub(crate) routes: Option<Routes>,
    /// Output of attention, which is added to the residual stream, `[rows, d]`.
    pub attn_out: B::Buffer,
    /// Output of the MLP, which is added to the residual stream, `[rows, d]`.
    pub mlp_out: B::Buffer,
    /// Activations for the backward pass, when they are requested.
    pub(crate) saved: Option<SavedActivations<B>>,
}

impl<B: Backend> Buffers<B> {
    /// Empty buffers of a model.
    pub fn new(model: &Model<B>) -> Self {
        let empty = || model.backend.empty();
        Self {
            mid: empty(),
            normed: empty(),
            qkv: empty(),
            beside: empty(),
            mixed: empty(),
            attn_gate: [empty(), empty()],
            wide: empty(),
            gated: empty(),
            dense_and_router: [empty(), empty()],
            latent: LatentBuffers::new(&model.backend),
            experts: ExpertBuffers::new(&model.backend),
            side: SideBuffers::new(&model.backend),
            keys: LayerKeys::default(),
            routes: None,
            attn_out: empty(),
            mlp_out: empty(),
            saved: None,
        }
    }

    /// The stream between the sublayers of the last layer, `[rows, d]`.
    pub(crate) fn mid(&self) -> &B::Buffer {
        &self.mid
    }

    /// Reserves the memory that `rows` rows of a model take, so that no step needs more.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn reserve(&mut self, model: &Model<B>, rows: usize) -> Result<()> {
        let c = &model.config;
        let up = if c.gated { 2 } else { 1 };
        let dense = c.widest_mlp();
        let experts = c.experts();
        let of_latent = c.latent.as_ref().map(|of| self.latent.sizes(of, c.widest_q()));
        let of_experts = experts.as_ref().map(|of| self.experts.sizes(c.hidden, of, up));
        let widest = |of: &dyn Fn(usize) -> usize| (0..c.depth()).map(of).max().unwrap_or(0);
        let readers = (0..c.depth()).filter(|l| c.layers[*l].keys_of.is_some());
        let queries = readers.map(|l| c.q_width(l)).max().unwrap_or(0);
        let of_side = self.side.sizes(queries, c.token_inputs.unwrap_or(0), c.hidden);
        let [gate, gated] = &mut self.attn_gate;
        let gate_width = if c.attention_gate { c.widest_q() } else { 0 };
        let [of_dense, of_router] = &mut self.dense_and_router;
        let both = if c.layers.iter().any(|layer| layer.mlp.is_both()) { c.hidden } else { 0 };
        let beside = |l: usize| match c.layers[l].mixer {
            Mixer::Both(of) => of.width(),
            _ => 0,
        };
        let sizes = [
            (&mut self.mid, c.hidden),
            (&mut self.normed, c.hidden),
            (&mut self.qkv, widest(&|l| c.input_width(l) - beside(l))),
            (&mut self.beside, widest(&beside)),
            (&mut self.mixed, widest(&|l| c.mixed_width(l))),
            (gate, gate_width),
            (gated, 2 * gate_width),
            (&mut self.wide, up * dense),
            (&mut self.gated, if c.gated { dense } else { 0 }),
            (of_dense, both),
            (of_router, both),
            (&mut self.attn_out, c.hidden),
            (&mut self.mlp_out, c.hidden),
        ];
        let of_kinds = of_latent.into_iter().flatten().chain(of_experts.into_iter().flatten()).chain(of_side);
        for (buffer, width) in sizes.into_iter().chain(of_kinds) {
            model.backend.try_resize(buffer, rows * width).map_err(Error::activations)?;
        }
        Ok(())
    }
}

impl<B: Backend> Model<B> {
    /// The device.
    pub fn backend(&self) -> &B {
        &self.backend
    }

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
    pub fn batch(&self, runs: Vec<Run>) -> Batch<B> {
        let mut places = Vec::new();
        for run in &runs {
            assert_eq!(run.rows.start, places.len(), "runs must follow each other");
            places.extend((0..run.rows.len()).map(|i| (run.first + i, run.length)));
        }
        let mut rotations: Vec<Rotation> = match &self.config.positions {
            Positions::Learned | Positions::Alibi(_) => Vec::new(),
            Positions::Rotary(ropes) => ropes.iter().map(|r| rope::table(r, &places)).collect(),
        };
        let growth = self.config.temperature();
        rotations.extend(growth.map(|(temperature, width)| rope::growth(temperature, width, &places)));
        let chunks = self.config.chunk().and_then(|chunk| chunks::cut(&runs, chunk));
        Batch {
            rows: places.len(),
            on_device: self.backend.batch(&runs, rotations),
            chunks: chunks.map(|runs| self.backend.batch(&runs, vec![])),
            runs,
        }
    }

    /// The residual stream before layer 0.
    ///
    /// # Shapes
    /// `tokens [rows]` from position `first` on; the result is `[rows, d]`.
    ///
    /// # Errors
    /// When a token is outside the vocabulary or a position beyond the learned ones.
    pub fn embed(&self, tokens: &[u32], first: usize) -> Result<Vec<f32>> {
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.config.vocab) {
            return Err(Error::InvalidInput(format!(
                "token {token} lies outside the model's vocabulary of {}; tokenizer and weights do not belong together",
                self.config.vocab
            )));
        }
        let d = self.config.hidden;
        let learned = self.packed.position.as_ref().map(|all| all.chunks_exact(d));
        let known = learned.as_ref().map_or(usize::MAX, |learned| learned.len());
        if first + tokens.len() > known {
            return Err(Error::InvalidInput(format!(
                "position {} lies beyond the {} positions that the model has learned; use shorter prompts",
                known.max(first),
                self.config.context
            )));
        }
        let dropout = self.token_dropout(tokens);
        let scale = self.config.embedding_scale * self.packed.stream_scale;
        let mut h = vec![0.0; tokens.len() * d];
        let rows = tokens.par_iter().zip(h.par_chunks_exact_mut(d)).enumerate();
        rows.with_min_len(8).try_for_each(|(i, (token, row))| -> Result<()> {
            self.embedding_row(*token as usize, row)?;
            row.iter_mut().for_each(|x| *x *= scale);
            if let Some((mask, factor)) = dropout {
                let factor = if *token == mask { 0.0 } else { factor };
                row.iter_mut().for_each(|x| *x *= factor);
            }
            if let Some(position) = learned.clone().and_then(|mut learned| learned.nth(first + i)) {
                row.iter_mut().zip(position).for_each(|(x, p)| *x += p);
            }
            Ok(())
        })?;
        if let Some(norm) = &self.packed.embedding_norm {
            let mut normed = self.backend.buffer_of(&h);
            self.backend.norm(norm, Columns::whole(d), &mut normed);
            h = self.backend.download(&normed, 0..h.len());
        }
        Ok(h)
    }

    /// The token whose embedding is zero in ESM, and the factor on the others: what was left of texts in training
    /// (15 % of the tokens were drawn, and 80 % of those masked) over what is left of this one.
    fn token_dropout(&self, tokens: &[u32]) -> Option<(u32, f32)> {
        let mask = self.config.encoder?.token_dropout?;
        let masked = tokens.iter().filter(|token| **token == mask).count();
        let left = 1.0 - masked as f64 / tokens.len() as f64;
        Some((mask, ((1.0 - 0.15 * 0.8) / left.max(f64::MIN_POSITIVE)) as f32))
    }

    pub(crate) fn embedding_row(&self, token: usize, row: &mut [f32]) -> Result<()> {
        match &self.packed.embedding {
            Embedding::Tied => self.backend.row(self.packed.head(), token, row),
            Embedding::Stored(weights, name, rows) => {
                weights.tensor(name, &[*rows, row.len()])?.read(token..token + 1, row)?;
                if self.config.tied && self.dtype == Dtype::Bf16 {
                    // The weights of the head, which a tied embedding shares, are rounded.
                    row.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
                }
            }
        }
        Ok(())
    }

    /// The attention of layer `l`: fills `b.attn_out` from the residual stream `h [rows, d]`. `past` is the
    /// KV cache of [`Config::keys_of`] this layer that the spans of the runs refer to, `[positions, 2 kv]`.
    ///
    /// # Panics
    /// When the lengths do not fit, and with `OutOfMemory` when the device refuses memory for the
    /// buffers; [`Buffers::reserve`] returns an error instead.
    pub fn attention(
        &self,
        l: usize,
        batch: &Batch<B>,
        past: Option<&B::Buffer>,
        h: &B::Buffer,
        b: &mut Buffers<B>,
    ) {
        let (on, block) = (&self.backend, &self.packed.layers[l]);
        if !self.config.has_mixer(l) {
            b.attn_out = on.buffer_of(&vec![0.0; on.len(h)]);
            return;
        }
        self.keep(b.saved.as_mut().map(|s| &mut s.attn_in), block.attn_norm.is_some(), h);
        let input = self.normalised(block.attn_norm.as_ref(), h, &mut b.normed); // [rows, d]
        match &block.qkv {
            QkvWeights::Plain(qkv) => on.linear(qkv, input, &mut b.qkv), // [rows, q + 2 kv]
            QkvWeights::Queries(queries, from) => {
                on.linear(queries, input, &mut b.side.queries); // [rows, q]
                self.with_shared_keys([l, *from], &b.keys, &b.side.queries, &mut b.qkv); // [rows, q + 2 kv]
            }
            QkvWeights::Mixer(of) => on.linear(&of.input, input, &mut b.qkv), // [rows, width]
            QkvWeights::None => {}
            QkvWeights::Latent(latent) => {
                let save = b.saved.is_some();
                let latent = self.latent_qkv(latent, input, &mut b.latent, &mut b.qkv, save);
                b.saved.iter_mut().zip(latent).for_each(|(saved, latent)| saved.latent = Some(latent));
            }
        }
        if let Some(gate) = &block.attn_gate {
            on.linear(gate, input, &mut b.attn_gate[0]); // [rows, q]
        }
        if let Some(beside) = &block.beside {
            on.linear(&beside.mixer.input, input, &mut b.beside); // [rows, width]
            self.keep(b.saved.as_mut().map(|s| &mut s.beside), true, &b.beside);
        }
        self.norm_and_rotate(l, batch, b);
        self.keep_keys(l, b);
        self.keep(b.saved.as_mut().map(|s| &mut s.qkv), true, &b.qkv);
        self.mix_positions(l, batch, past, b);
        self.keep(b.saved.as_mut().map(|s| &mut s.raw_attn), block.post_attn_norm.is_some(), &b.attn_out);
        self.finish(block.post_attn_norm.as_ref(), &mut b.attn_out);
    }

    /// Mixes positions: fills `b.attn_out` from the projected rows of layer `l`.
    fn mix_positions(&self, l: usize, batch: &Batch<B>, past: Option<&B::Buffer>, b: &mut Buffers<B>) {
        let (on, block) = (&self.backend, &self.packed.layers[l]);
        let apart = past.filter(|_| block.beside.is_some()).map(|past| self.parts_of_cache(l, past));
        let [past, past_beside] = match &apart {
            Some([of_attention, beside]) => [Some(of_attention), Some(beside)],
            None => [past, None],
        };
        match &block.qkv {
            QkvWeights::Mixer(of) => self.mix(of, batch, past, &b.qkv, &mut b.mixed),
            _ => {
                let runs = batch.of_attention(self.config.layers[l].chunk.is_some());
                on.attend(&self.shape(l), &block.head_bias, runs, past, &b.qkv, &mut b.mixed); // [rows, q]
            }
        }
        if block.attn_gate.is_some() {
            self.gate_attention(l, b);
        }
        if let Some(out) = &block.attn_out {
            on.linear(out, &b.mixed, &mut b.attn_out); // [rows, d]
        }
        self.scale(self.config.multipliers.attention, &mut b.attn_out);
        if let Some(beside) = &block.beside {
            self.mix_beside(beside, batch, past_beside, b);
        }
    }

    /// What attention and the recurrence beside it read of a cache.
    fn parts_of_cache(&self, l: usize, past: &B::Buffer) -> [B::Buffer; 2] {
        let stride = self.config.cached_width(l);
        let positions = self.backend.len(past) / stride;
        let attention = 2 * self.config.kv_width(l);
        [(0, attention), (attention, stride - attention)].map(|(start, width)| {
            let columns = Columns { stride, start, width, count: 1 };
            self.backend.copy_columns(columns, past, 0..positions)
        })
    }

    /// Multiplies what attention returned by the sigmoid of the gate.
    fn gate_attention(&self, l: usize, b: &mut Buffers<B>) {
        let (on, width) = (&self.backend, self.config.q_width(l));
        let [gate, both] = &mut b.attn_gate;
        let [of_gate, of_mixed] = halves(on.len(gate) / width);
        on.resize(both, 2 * on.len(gate));
        on.scatter(width, gate, &of_gate, both);
        on.scatter(width, &b.mixed, &of_mixed, both);
        self.keep(b.saved.as_mut().map(|s| &mut s.attn_gate), true, both);
        on.gated(Activation::Sigmoid, width, both, &mut b.mixed);
    }

    /// The shape of attention in layer `l`.
    pub(crate) fn shape(&self, l: usize) -> AttentionShape {
        let (c, of) = (&self.config, self.config.heads_of(l));
        AttentionShape {
            heads: c.heads,
            kv_heads: of.kv_heads,
            head_dim: of.head_dim,
            scale: c.attention_scale,
            softcap: c.attention_softcap,
            visibility: c.visibility(l),
        }
    }

    /// The MLP of layer `l`: fills `b.mlp_out` from the residual stream `x [rows, d]`, which is
    /// `h + attn_out`, or `h` itself where the two sublayers are parallel.
    ///
    /// # Panics
    /// As [`Self::attention`].
    pub fn mlp(&self, l: usize, x: &B::Buffer, b: &mut Buffers<B>) {
        self.mlp_with(l, None, x, b);
    }

    /// As [`Self::mlp`], with another down projection, `[d, f]`.
    ///
    /// # Panics
    /// As [`Self::attention`], and when the layer has experts.
    pub fn mlp_through(&self, l: usize, down: &B::Linear, x: &B::Buffer, b: &mut Buffers<B>) {
        assert!(self.config.layers[l].mlp == Mlp::Dense, "a layer with experts has many down projections");
        self.mlp_with(l, Some(down), x, b);
    }

    fn mlp_with(&self, l: usize, other_down: Option<&B::Linear>, x: &B::Buffer, b: &mut Buffers<B>) {
        let block = &self.packed.layers[l];
        self.keep(b.saved.as_mut().map(|s| &mut s.mlp_in), block.mlp_norm.is_some(), x);
        let input = self.normalised(block.mlp_norm.as_ref(), x, &mut b.normed); // [rows, d]
        let save = b.saved.is_some();
        b.routes = None;
        match &block.mlp {
            MlpWeights::None => {
                b.mlp_out = self.backend.buffer_of(&vec![0.0; self.backend.len(x)]);
                return;
            }
            MlpWeights::Dense(FeedForward { up, down, .. }) => {
                let matrices = [up, other_down.unwrap_or(down)];
                let inner = [&mut b.wide, &mut b.gated];
                let wide = self.feed_forward(matrices, input, inner, &mut b.mlp_out, save);
                self.scale(self.config.multipliers.mlp, &mut b.mlp_out);
                b.saved.iter_mut().zip(wide).for_each(|(saved, wide)| saved.wide = Some(wide));
            }
            MlpWeights::Experts(experts) => {
                let (routes, of_experts) =
                    self.experts(l, experts, [input, input], &mut b.experts, &mut b.mlp_out, save);
                b.saved.iter_mut().zip(of_experts).for_each(|(saved, of)| saved.experts = Some(of));
                b.routes = Some(routes);
            }
            MlpWeights::DenseAndExperts(of) => self.dense_and_experts(l, of, x, b),
        }
        self.keep(b.saved.as_mut().map(|s| &mut s.raw_mlp), block.post_mlp_norm.is_some(), &b.mlp_out);
        self.finish(block.post_mlp_norm.as_ref(), &mut b.mlp_out);
        self.add_token_part(l, x, b);
    }

    /// A dense MLP and experts beside it: fills `b.mlp_out` from their input `x`, which `b.normed` has normalised for the
    /// former.
    fn dense_and_experts(&self, l: usize, of: &DenseAndExperts<B>, x: &B::Buffer, b: &mut Buffers<B>) {
        let (on, d, save) = (&self.backend, self.config.hidden, b.saved.is_some());
        let [dense_out, router_in] = &mut b.dense_and_router;
        let inner = [&mut b.wide, &mut b.gated];
        let wide = self.feed_forward(of.dense.matrices(), &b.normed, inner, dense_out, save);
        self.keep(b.saved.as_mut().map(|s| &mut s.raw_dense), true, dense_out);
        on.norm(&of.dense_norm, Columns::whole(d), dense_out);
        on.norm_copy(&of.expert_norms[0], d, x, &mut b.normed);
        on.norm_copy(&of.router_norm, d, x, router_in);
        let inputs = [&b.normed, &*router_in];
        let (routes, experts) = self.experts(l, &of.experts, inputs, &mut b.experts, &mut b.mlp_out, save);
        self.keep(b.saved.as_mut().map(|s| &mut s.raw_experts), true, &b.mlp_out);
        on.norm(&of.expert_norms[1], Columns::whole(d), &mut b.mlp_out);
        on.add_assign(&mut b.mlp_out, dense_out);
        if let Some(saved) = &mut b.saved {
            (saved.wide, saved.experts) = (wide, experts);
        }
        b.routes = Some(routes);
    }

    /// Whether norms follow the additions to the stream (BERT).
    pub fn is_post_norm(&self) -> bool {
        self.packed.layers.iter().any(|block| block.stream_norms.is_some())
    }

    /// The stream between the sublayers of layer `l`: `h + attn_out`, normalised in post-norm blocks. `kept` receives
    /// the sum before the norm.
    fn add_attention(
        &self,
        l: usize,
        h: &B::Buffer,
        attn_out: &B::Buffer,
        mid: &mut B::Buffer,
        kept: Option<&mut Option<B::Buffer>>,
    ) {
        self.backend.add(h, attn_out, mid);
        self.norm_stream(self.packed.layers[l].stream_norms.as_ref().map(|norms| &norms[0]), mid, kept);
    }

    /// Normalises `h + attn_out` in place in post-norm blocks, as [`Self::after_attention`] does. `saved` receives what
    /// [`Self::after_attention_backward`] needs.
    pub fn norm_after_attention(
        &self,
        l: usize,
        sum: &mut B::Buffer,
        saved: Option<&mut SavedActivations<B>>,
    ) {
        let norm = self.packed.layers[l].stream_norms.as_ref().map(|norms| &norms[0]);
        self.norm_stream(norm, sum, saved.map(|saved| &mut saved.raw_mid));
    }

    /// Normalises `mid + mlp_out` in place in post-norm blocks, as [`Self::after_mlp`] does. `saved` receives what
    /// [`Self::after_mlp_backward`] needs.
    pub fn norm_after_mlp(&self, l: usize, sum: &mut B::Buffer, saved: Option<&mut SavedActivations<B>>) {
        let norm = self.packed.layers[l].stream_norms.as_ref().map(|norms| &norms[1]);
        self.norm_stream(norm, sum, saved.map(|saved| &mut saved.raw_out));
    }

    fn norm_stream(
        &self,
        norm: Option<&Norm<B>>,
        stream: &mut B::Buffer,
        kept: Option<&mut Option<B::Buffer>>,
    ) {
        let Some(norm) = norm else { return };
        self.keep(kept, true, stream);
        self.backend.norm(norm, Columns::whole(self.config.hidden), stream);
    }

    /// The stream that the MLP of layer `l` reads: `h + attn_out`, normalised in post-norm blocks.
    ///
    /// # Shapes
    /// `h`, `attn_out`, `mid [rows, d]`.
    ///
    /// # Panics
    /// When the lengths do not fit.
    pub fn after_attention(&self, l: usize, h: &B::Buffer, attn_out: &B::Buffer, mid: &mut B::Buffer) {
        self.add_attention(l, h, attn_out, mid, None);
    }

    /// The stream after layer `l`: `mid + mlp_out`, normalised in post-norm blocks.
    ///
    /// # Shapes
    /// `mid`, `mlp_out`, `out [rows, d]`.
    ///
    /// # Panics
    /// When the lengths do not fit.
    pub fn after_mlp(&self, l: usize, mid: &B::Buffer, mlp_out: &B::Buffer, out: &mut B::Buffer) {
        self.add_mlp(l, mid, mlp_out, out, None);
    }

    fn add_mlp(
        &self,
        l: usize,
        mid: &B::Buffer,
        mlp_out: &B::Buffer,
        out: &mut B::Buffer,
        kept: Option<&mut Option<B::Buffer>>,
    ) {
        self.backend.add(mid, mlp_out, out);
        self.norm_stream(self.packed.layers[l].stream_norms.as_ref().map(|norms| &norms[1]), out, kept);
    }

    /// What layer `l` contributes to the stream, D: `attn_out + mlp_out`, or what the stream changes by in post-norm
    /// blocks.
    ///
    /// # Shapes
    /// `h` and `out`, the stream before and after the layer, the others and the result `[rows, d]`.
    pub fn contribution(
        &self,
        h: &B::Buffer,
        [attn_out, mlp_out]: [&B::Buffer; 2],
        out: &B::Buffer,
        added: &mut B::Buffer,
    ) {
        match self.is_post_norm() {
            true => self.backend.subtract(out, h, added),
            false => self.backend.add(attn_out, mlp_out, added),
        }
    }

    /// The positions whose stream must be computed anew where an edit at position `first` may change it and the
    /// positions before `end` are read, in a text of `tokens` tokens. Without a causal order, an edit reaches every
    /// position in the layers after it.
    pub fn reached(&self, first: usize, end: usize, tokens: usize) -> Range<usize> {
        match self.config.is_causal() {
            true => first..end.max(first),
            false => 0..tokens,
        }
    }

    /// One layer: fills `b.attn_out` and `b.mlp_out` from `h`, and `out` with the residual stream after
    /// the layer, `h + attn_out + mlp_out`.
    ///
    /// # Shapes
    /// `h`, `out [rows, d]`.
    ///
    /// # Panics
    /// As [`Self::attention`].
    pub fn layer(&self, l: usize, batch: &Batch<B>, h: &B::Buffer, b: &mut Buffers<B>, out: &mut B::Buffer) {
        let mut mid = std::mem::replace(&mut b.mid, self.backend.empty());
        self.attention(l, batch, None, h, b);
        self.add_attention(l, h, &b.attn_out, &mut mid, b.saved.as_mut().map(|s| &mut s.raw_mid));
        self.mlp(l, if self.config.parallel { h } else { &mid }, b);
        self.add_mlp(l, &mid, &b.mlp_out, out, b.saved.as_mut().map(|s| &mut s.raw_out));
        b.mid = mid;
    }

    /// Copies the keys and values of some rows of the last attention step, which was that of layer `l`, `[rows, 2 kv]`;
    /// of a recurrence, what later positions read, which follows keys and values where there are both
    /// ([`Config::cached_width`]).
    pub fn kv_cache(&self, l: usize, rows: Range<usize>, b: &Buffers<B>) -> B::Buffer {
        let on = &self.backend;
        let columns = self.config.cached_columns(l);
        let Some(first) = columns.first() else { return on.empty() };
        let one = on.copy_columns(*first, &b.qkv, rows.clone());
        let Some(beside) = columns.get(1) else { return one };
        let other = on.copy_columns(*beside, &b.beside, rows);
        let (keys, others) = (on.on_host(&one), on.on_host(&other));
        let rows = keys.chunks_exact(first.width).zip(others.chunks_exact(beside.width));
        on.buffer_of(&rows.flat_map(|(keys, others)| [keys, others].concat()).collect::<Vec<f32>>())
    }

    /// The logits of some rows: final norm and unembedding, with what lies between them in encoders.
    ///
    /// # Shapes
    /// `h [rows, d]`, `logits [rows, V]`.
    ///
    /// # Panics
    /// When the lengths do not fit, or the model has no head ([`Config::has_head`]).
    pub fn head(&self, h: &B::Buffer, logits: &mut B::Buffer) {
        let mut normed = self.backend.empty();
        let mut input = self.normalised(self.packed.final_norm.as_ref(), h, &mut normed);
        let mut inner = self.backend.empty();
        if let Some((dense, activation, norm)) = &self.packed.head_dense {
            self.backend.linear(dense, input, &mut inner);
            self.backend.activate(*activation, &mut inner);
            self.backend.norm(norm, Columns::whole(self.config.hidden), &mut inner);
            input = &inner;
        }
        self.backend.linear(self.packed.head(), input, logits);
        if let Some(cap) = self.config.final_softcap {
            self.backend.softcap(cap, logits);
        }
    }

    /// A normalised copy of `x` in `scratch`, or `x` itself without a norm.
    fn normalised<'a>(
        &self,
        norm: Option<&Norm<B>>,
        x: &'a B::Buffer,
        scratch: &'a mut B::Buffer,
    ) -> &'a B::Buffer {
        let Some(norm) = norm else { return x };
        self.backend.norm_copy(norm, self.config.hidden, x, scratch);
        scratch
    }

    /// The norm and the factor on what a sublayer adds.
    fn finish(&self, norm: Option<&Norm<B>>, x: &mut B::Buffer) {
        if let Some(norm) = norm {
            self.backend.norm(norm, Columns::whole(self.config.hidden), x);
        }
        self.scale_residual(x);
    }

    /// Multiplies by the factor on what a sublayer adds, forwards or backwards.
    pub(crate) fn scale_residual(&self, x: &mut B::Buffer) {
        self.scale(self.config.residual_scale, x);
    }

    /// Multiplies by a factor that most models do not have.
    pub(crate) fn scale(&self, factor: f32, x: &mut B::Buffer) {
        if factor != 1.0 {
            self.backend.scale(factor, x);
        }
    }

    /// Keeps a copy of activations, if the backward pass needs them.
    fn keep(&self, place: Option<&mut Option<B::Buffer>>, needed: bool, activations: &B::Buffer) {
        if let (true, Some(place)) = (needed, place) {
            *place = Some(self.backend.copy(activations, 0..self.backend.len(activations)));
        }
    }

    /// The heads of queries and keys, which are rotated, in a row of queries, keys and values. Keys of another layer are
    /// rotated already.
    fn rotated_columns(&self, l: usize) -> Columns {
        let (c, of) = (&self.config, self.config.heads_of(l));
        let keys = if c.layers[l].keys_of.is_some() { 0 } else { of.kv_heads };
        Columns { stride: c.attention_width(l), start: 0, width: of.head_dim, count: c.heads + keys }
    }

    fn norm_and_rotate(&self, l: usize, batch: &Batch<B>, b: &mut Buffers<B>) {
        let norms = &self.packed.layers[l].qk_norms;
        let rotated_first = self.config.qk_norm.is_behind_rotation();
        if rotated_first {
            self.rotate(l, batch, false, &mut b.qkv);
        }
        self.keep(b.saved.as_mut().map(|s| &mut s.raw_qkv), !norms.is_empty(), &b.qkv);
        norms.iter().for_each(|(norm, at)| self.backend.norm(norm, *at, &mut b.qkv));
        if !rotated_first {
            self.rotate(l, batch, false, &mut b.qkv);
        }
    }

    /// Rotates queries and keys, or rotates them back. Multiplies queries that grow with the position, which is its own
    /// backward pass.
    pub(crate) fn rotate(&self, l: usize, batch: &Batch<B>, inverse: bool, qkv: &mut B::Buffer) {
        let (c, of) = (&self.config, &self.config.layers[l]);
        let Positions::Rotary(ropes) = &c.positions else { return };
        // Keys follow queries in each row, so one call rotates both.
        let both = self.rotated_columns(l);
        if let Some(table) = of.rope {
            self.backend.rotate(&batch.on_device, table, both, inverse, qkv);
        }
        if of.temperature.is_some() {
            let queries = Columns { count: c.heads, ..both };
            self.backend.rotate(&batch.on_device, ropes.len(), queries, inverse, qkv);
        }
    }

    /// Whether positions are encoded alike in texts of two lengths, so that texts which begin alike can share the
    /// rows of what they have in common.
    pub fn shares_positions(&self, one: usize, other: usize) -> bool {
        match &self.config.positions {
            Positions::Learned | Positions::Alibi(_) => true,
            Positions::Rotary(ropes) => {
                ropes.iter().all(|r| rope::variant(r, one) == rope::variant(r, other))
            }
        }
    }
}
