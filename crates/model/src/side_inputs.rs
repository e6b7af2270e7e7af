//! What layers read beside the residual stream (Gemma 4 E2B and E4B): an embedding of each token for every layer, and the
//! keys and values of an earlier layer.
//!
//! Token inputs follow from the tokens and one projection of their embeddings, so edits of the stream do not reach them.
//! Shared keys and values belong to the state of a run, as the stream does: a run that begins above the layer that makes
//! them takes those of the clean run ([`Model::clean_keys`]), and each layer that makes some replaces them.

use crate::error::Result;
use crate::forward::{Buffers, Model, halves};
use crate::saved::SavedActivations;
use crate::trace::Trace;
use crate::weights::Weights;
use fathom_kernels::backend::{Backend, Columns, Cpu, Norm};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Keys and values that later layers read too, `[rows, 2 kv]`, or their gradients, by the layer that makes them.
pub struct LayerKeys<B: Backend = Cpu> {
    by_layer: BTreeMap<usize, B::Buffer>,
}

impl<B: Backend> Default for LayerKeys<B> {
    fn default() -> Self {
        Self { by_layer: BTreeMap::new() }
    }
}

/// What gives the token inputs of all layers, each of width p.
pub(crate) struct TokenInputs<B: Backend> {
    /// The checkpoint, and the name of `[rows, L p]` in it: few rows are needed, so none are kept.
    pub(crate) stored: (Weights, String, usize),
    /// Of the embedding of the model, `[L p, d]`.
    pub(crate) projection: B::Linear,
    /// On what a layer has of it, `[p]`.
    pub(crate) norm: Norm<B>,
}

/// What adds the token inputs of a layer to the stream: `out (act(gate x) * inputs)`, normalised.
pub(crate) struct TokenGate<B: Backend> {
    /// `[p, d]`.
    pub(crate) gate: B::Linear,
    /// A factor on what the gate returns: the stream is that many times smaller in the checkpoint's own scale.
    pub(crate) scale: f32,
    /// `[d, p]`.
    pub(crate) out: B::Linear,
    pub(crate) norm: Norm<B>,
}

impl<B: Backend> TokenGate<B> {
    pub(crate) fn matrices(&self) -> [&B::Linear; 2] {
        [&self.gate, &self.out]
    }
}

/// Scratch buffers and inputs of the rows that run.
pub(crate) struct SideBuffers<B: Backend> {
    /// The layer that runs, and its token inputs, `[rows, p]`.
    pub(crate) inputs: Option<(usize, B::Buffer)>,
    /// `[rows, q]`, of layers without keys of their own.
    pub(crate) queries: B::Buffer,
    /// The stream behind the MLP, and what the token inputs add to it, `[rows, d]`.
    sum: B::Buffer,
    part: B::Buffer,
    /// `[rows, p]`, and with the inputs behind it `[rows, 2 p]`.
    gate: B::Buffer,
    both: B::Buffer,
    inner: B::Buffer,
}

impl<B: Backend> SideBuffers<B> {
    pub(crate) fn new(on: &B) -> Self {
        let empty = || on.empty();
        Self {
            inputs: None,
            queries: empty(),
            sum: empty(),
            part: empty(),
            gate: empty(),
            both: empty(),
            inner: empty(),
        }
    }

    /// The buffers with their widths, for queries of width `q`, inputs of width `p` and a stream of width `d`.
    pub(crate) fn sizes(&mut self, q: usize, p: usize, d: usize) -> [(&mut B::Buffer, usize); 6] {
        let d = if p > 0 { d } else { 0 };
        [
            (&mut self.queries, q),
            (&mut self.sum, d),
            (&mut self.part, d),
            (&mut self.gate, p),
            (&mut self.both, 2 * p),
            (&mut self.inner, p),
        ]
    }
}

/// Where the first `width` numbers of each of `rows` rows of `stride` numbers are, and where the others are, counted in
/// pieces of `piece` numbers. `piece` divides both widths.
fn pieces(rows: usize, stride: usize, width: usize, piece: usize) -> [Vec<u32>; 2] {
    let (each, first) = (stride / piece, width / piece);
    let all = (0..rows * each).map(|i| (i % each < first, i as u32));
    let (first, rest): (Vec<_>, Vec<_>) = all.partition(|(is_first, _)| *is_first);
    [first, rest].map(|part| part.into_iter().map(|(_, i)| i).collect())
}

/// Token inputs.
impl<B: Backend> Model<B> {
    /// The token inputs of each layer, `[tokens, p]`; none in models without.
    pub(crate) fn token_inputs(&self, tokens: &[u32]) -> Result<Vec<B::Buffer>> {
        let (Some(of), Some(p)) = (&self.packed.token_inputs, self.config.token_inputs) else {
            return Ok(Vec::new());
        };
        let (on, depth, d) = (&self.backend, self.config.depth(), self.config.hidden);
        let mut embedded = vec![0.0; tokens.len() * d];
        let mut own = vec![0.0; tokens.len() * depth * p];
        let (weights, name, rows) = &of.stored;
        let table = weights.tensor(name, &[*rows, depth * p])?;
        let scale = (p as f32).sqrt();
        let rows = embedded.par_chunks_exact_mut(d).zip(own.par_chunks_exact_mut(depth * p)).zip(tokens);
        rows.with_min_len(8).try_for_each(|((embedded, own), token)| -> Result<()> {
            self.embedding_row(*token as usize, embedded)?;
            embedded.iter_mut().for_each(|x| *x *= self.config.embedding_scale);
            table.read(*token as usize..*token as usize + 1, own)?;
            own.iter_mut().for_each(|x| *x *= scale);
            Ok(())
        })?;
        let mut all = on.empty(); // [tokens, L p]
        on.linear(&of.projection, &on.buffer_of(&embedded), &mut all);
        on.scale(1.0 / (d as f32).sqrt(), &mut all);
        let columns = |start, count| Columns { stride: depth * p, start, width: p, count };
        on.norm(&of.norm, columns(0, depth), &mut all);
        on.add_assign(&mut all, &on.buffer_of(&own));
        on.scale(std::f32::consts::FRAC_1_SQRT_2, &mut all);
        Ok((0..depth).map(|l| on.copy_columns(columns(l * p, 1), &all, 0..tokens.len())).collect())
    }

    /// Makes the token inputs of layer `l` ready for rows at some positions of a text, of which `trace` is the clean run.
    /// Needed before each step of a layer where [`Config::token_inputs`](crate::Config::token_inputs) is set, and does
    /// nothing elsewhere.
    pub fn read_tokens(&self, l: usize, trace: &Trace<B>, positions: &[u32], b: &mut Buffers<B>) {
        let Some(p) = self.config.token_inputs else { return };
        let (_, mut inputs) = b.side.inputs.take().unwrap_or((l, self.backend.empty()));
        self.backend.gather(p, &trace.token_inputs[l], positions, &mut inputs);
        b.side.inputs = Some((l, inputs));
    }

    /// Adds to `b.mlp_out` what the token inputs of layer `l` give, from the stream `x` that the MLP read.
    pub(crate) fn add_token_part(&self, l: usize, x: &B::Buffer, b: &mut Buffers<B>) {
        let (Some(of), Some(p)) = (&self.packed.layers[l].token_gate, self.config.token_inputs) else {
            return;
        };
        let (on, d) = (&self.backend, self.config.hidden);
        let SideBuffers { inputs, sum, part, gate, both, inner, .. } = &mut b.side;
        let rows = on.len(x) / d;
        let inputs = inputs.as_ref().filter(|(layer, inputs)| *layer == l && on.len(inputs) == rows * p);
        let (_, inputs) = inputs.expect("the token inputs of the rows are missing");
        on.add(x, &b.mlp_out, sum);
        on.linear(&of.gate, sum, gate);
        self.scale(of.scale, gate);
        let [of_gate, of_inputs] = halves(rows);
        on.resize(both, 2 * rows * p);
        on.scatter(p, gate, &of_gate, both);
        on.scatter(p, inputs, &of_inputs, both);
        on.gated(self.config.activation, p, both, inner);
        on.linear(&of.out, inner, part);
        if let Some(saved) = &mut b.saved {
            saved.token_gate = Some([on.copy(both, 0..on.len(both)), on.copy(part, 0..on.len(part))]);
        }
        on.norm(&of.norm, Columns::whole(d), part);
        on.add_assign(&mut b.mlp_out, part);
    }

    /// The gradient of the stream behind the MLP of layer `l` from that of what its token inputs add; none without these.
    pub(crate) fn token_part_backward(
        &self,
        l: usize,
        saved: &SavedActivations<B>,
        d_out: &B::Buffer,
    ) -> Option<B::Buffer> {
        let (of, p) = (self.packed.layers[l].token_gate.as_ref()?, self.config.token_inputs?);
        let on = &self.backend;
        let [both, part] = saved.token_gate.as_ref().expect("the activations belong to another layer");
        let [mut d, mut d_inner, mut d_both, mut d_gate] = [(); 4].map(|()| on.empty());
        on.assign(d_out, &mut d);
        on.norm_backward(&of.norm, Columns::whole(self.config.hidden), part, &mut d);
        on.linear_backward(&of.out, &d, &mut d_inner);
        on.gated_backward(self.config.activation, p, both, &d_inner, &mut d_both);
        let [of_gate, _] = halves(on.len(both) / (2 * p));
        on.gather(p, &d_both, &of_gate, &mut d_gate);
        self.scale(of.scale, &mut d_gate);
        on.linear_backward(&of.gate, &d_gate, &mut d);
        Some(d)
    }
}

/// Shared keys and values.
impl<B: Backend> Model<B> {
    /// The keys and values that later layers read too, as the clean run has them, for rows at some positions of its text.
    pub fn clean_keys(&self, trace: &Trace<B>, positions: &[u32]) -> LayerKeys<B> {
        let mut keys = LayerKeys::default();
        for l in self.config.shared_layers() {
            let mut rows = self.backend.empty();
            self.backend.gather(2 * self.config.kv_width(l), &trace.kv_cache[l], positions, &mut rows);
            keys.by_layer.insert(l, rows);
        }
        keys
    }

    /// Some rows of the keys that layer `l` reads, if it reads those of another one.
    pub fn keys_for(&self, l: usize, keys: &LayerKeys<B>, rows: &[u32]) -> LayerKeys<B> {
        let mut some = LayerKeys::default();
        let Some(from) = self.config.layers[l].keys_of else { return some };
        let mut part = self.backend.empty();
        self.backend.gather(2 * self.config.kv_width(from), &keys.by_layer[&from], rows, &mut part);
        some.by_layer.insert(from, part);
        some
    }

    /// Writes what layer `l` has made for later layers to rows of `keys`.
    pub fn replace_keys(&self, l: usize, made: &LayerKeys<B>, rows: &[u32], keys: &mut LayerKeys<B>) {
        if let (Some(made), Some(to)) = (made.by_layer.get(&l), keys.by_layer.get_mut(&l))
            && self.config.is_shared(l)
        {
            self.backend.scatter(2 * self.config.kv_width(l), made, rows, to);
        }
    }

    /// Some keys with the rows of others behind them.
    pub fn append_keys(&self, keys: &LayerKeys<B>, others: &LayerKeys<B>) -> LayerKeys<B> {
        let on = &self.backend;
        let mut all = LayerKeys::default();
        for (l, others) in &others.by_layer {
            let width = 2 * self.config.kv_width(*l);
            let (first, more) = (keys.by_layer.get(l), (on.len(others) / width) as u32);
            let before = first.map_or(0, |first| on.len(first) / width) as u32;
            let mut both = on.empty();
            on.resize(&mut both, (before + more) as usize * width);
            if let Some(first) = first {
                on.scatter(width, first, &(0..before).collect::<Vec<u32>>(), &mut both);
            }
            on.scatter(width, others, &(before..before + more).collect::<Vec<u32>>(), &mut both);
            all.by_layer.insert(*l, both);
        }
        all
    }

    /// Fills `qkv` with the queries of layer `l` and the keys and values of the layer that it reads them of.
    ///
    /// # Shapes
    /// `queries [rows, q]`, `qkv [rows, q + 2 kv]`.
    pub(crate) fn with_shared_keys(
        &self,
        [l, from]: [usize; 2],
        keys: &LayerKeys<B>,
        queries: &B::Buffer,
        qkv: &mut B::Buffer,
    ) {
        let on = &self.backend;
        let (q, stride) = (self.config.q_width(l), self.config.attention_width(l));
        let rows = on.len(queries) / q;
        let keys = keys.by_layer.get(&from).filter(|keys| on.len(keys) == rows * (stride - q));
        let keys = keys.expect("the keys and values that the layer reads are missing");
        let piece = self.config.heads_of(l).head_dim;
        let [of_queries, of_keys] = pieces(rows, stride, q, piece);
        on.resize(qkv, rows * stride);
        on.scatter(piece, queries, &of_queries, qkv);
        on.scatter(piece, keys, &of_keys, qkv);
    }

    /// Keeps the keys and values of layer `l` where later layers read them.
    pub(crate) fn keep_keys(&self, l: usize, b: &mut Buffers<B>) {
        if self.config.is_shared(l) {
            let rows = self.backend.len(&b.qkv) / self.config.attention_width(l);
            b.keys.by_layer.insert(l, self.kv_cache(l, 0..rows, b));
        }
    }

    /// Takes the gradient of shared keys and values through layer `l`: adds that of a layer that reads them to `d_keys`,
    /// and what has been added to that of the layer that makes them.
    pub(crate) fn shared_keys_backward(&self, l: usize, d_qkv: &mut B::Buffer, d_keys: &mut LayerKeys<B>) {
        let (on, c) = (&self.backend, &self.config);
        let from = c.layers[l].keys_of;
        let added = if c.is_shared(l) { d_keys.by_layer.get(&l) } else { None };
        if from.is_none() && added.is_none() {
            return;
        }
        let (q, stride, piece) = (c.q_width(l), c.attention_width(l), c.heads_of(l).head_dim);
        let rows = on.len(d_qkv) / stride;
        let columns = Columns { stride, start: q, width: stride - q, count: 1 };
        let mut of_keys = on.copy_columns(columns, d_qkv, 0..rows);
        if let Some(added) = added {
            on.add_assign(&mut of_keys, added);
            let [_, at] = pieces(rows, stride, q, piece);
            on.scatter(piece, &of_keys, &at, d_qkv);
        }
        match from.map(|from| (from, d_keys.by_layer.get_mut(&from))) {
            Some((_, Some(sum))) => on.add_assign(sum, &of_keys),
            Some((from, None)) => drop(d_keys.by_layer.insert(from, of_keys)),
            None => {}
        }
    }

    /// The gradient of queries alone.
    pub(crate) fn of_queries(&self, l: usize, d_qkv: &B::Buffer) -> B::Buffer {
        let (width, stride) = (self.config.q_width(l), self.config.attention_width(l));
        let columns = Columns { stride, start: 0, width, count: 1 };
        self.backend.copy_columns(columns, d_qkv, 0..self.backend.len(d_qkv) / stride)
    }
}
