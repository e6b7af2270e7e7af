//! Multiply-adds, counted from shapes.

use crate::forward::Model;

impl Model {
    /// Multiply-adds of the matrix products of one row in one layer.
    pub fn layer_macs_per_row(&self) -> u64 {
        let b = match self.packed.layers.first() {
            Some(block) => block,
            None => return 0,
        };
        [&b.qkv, &b.attn_out, &b.up, &b.down].iter().map(|l| (l.inputs() * l.outputs()) as u64).sum()
    }

    /// Multiply-adds of the MLP for one row in one layer.
    pub fn mlp_macs_per_row(&self) -> u64 {
        let products = |b: &crate::load::LayerWeights| {
            [&b.up, &b.down].iter().map(|l| (l.inputs() * l.outputs()) as u64).sum()
        };
        self.packed.layers.first().map_or(0, products)
    }

    /// Multiply-adds of attention in layer `l` for a row at `position`: scores and mixing.
    pub fn attention_macs(&self, l: usize, position: usize) -> u64 {
        let seen = self.config.layers[l].window.map_or(position + 1, |w| w.min(position + 1));
        2 * (self.config.q_width() * seen) as u64
    }

    /// Multiply-adds of attention on the way back in layer `l` for a row at `position`:
    /// the scores again, the gradients of weights, queries, keys and values.
    pub fn attention_backward_macs(&self, l: usize, position: usize) -> u64 {
        self.attention_macs(l, position) / 2 * 5
    }

    /// Multiply-adds of the head for one row.
    pub fn head_macs_per_row(&self) -> u64 {
        (self.config.vocab * self.config.hidden) as u64
    }

    /// Multiply-adds of all layers over one text of `tokens` tokens, without the head.
    pub fn layers_macs(&self, tokens: usize) -> u64 {
        self.first_layers_macs(self.config.depth(), tokens)
    }

    /// Multiply-adds of the first `depth` layers over one text of `tokens` tokens.
    pub fn first_layers_macs(&self, depth: usize, tokens: usize) -> u64 {
        let attention: u64 = (0..depth)
            .flat_map(|l| (0..tokens).map(move |p| (l, p)))
            .map(|(l, p)| self.attention_macs(l, p))
            .sum();
        self.layer_macs_per_row() * (depth * tokens) as u64 + attention
    }

    /// Number of parameters, embedding and head counted once when tied.
    pub fn parameters(&self) -> u64 {
        let c = &self.config;
        let head = self.head_macs_per_row();
        let embedding = if c.tied { head } else { 2 * head };
        let position = self.packed.position.as_ref().map_or(0, |p| p.len() as u64);
        let blocks: u64 = self.packed.layers.iter().map(|b| b.parameters()).sum();
        embedding + position + blocks + self.packed.final_norm.parameters()
    }

    /// Bytes that a [`Trace`](crate::Trace) keeps of one token.
    pub fn trace_bytes_per_token(&self) -> usize {
        let c = &self.config;
        4 * ((3 * c.depth() + 1) * c.hidden + 2 * c.depth() * c.kv_width())
    }

    /// Bytes that one row takes on its way through a layer, about: the stream before
    /// and after, what the sublayers add, and [`Buffers`](crate::Buffers).
    pub fn row_bytes(&self) -> usize {
        let c = &self.config;
        let wide = self.packed.layers.first().map_or(0, |b| b.up.outputs());
        4 * (10 * c.hidden + 2 * c.q_width() + 2 * c.kv_width() + wide + c.intermediate)
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> u64 {
        let blocks = self.packed.layers.iter().flat_map(|b| [&b.qkv, &b.attn_out, &b.up, &b.down]);
        let position = self.packed.position.as_ref().map_or(0, |p| 4 * p.len());
        blocks.chain([&self.packed.head]).map(|l| l.bytes() as u64).sum::<u64>() + position as u64
    }
}
