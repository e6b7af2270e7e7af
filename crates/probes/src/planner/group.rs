//! Groups of requests whose runs go through the layers as one batch.

use super::edit::Request;
use super::tree::{self, Forest, Node};
use crate::MemoryPlan;
use fathom_model::{Backend, Model};
use std::ops::Range;

/// Splits requests of one level into parts of at most `rows` rows. Prefixes are shared only
/// within a part.
fn split(family: &[usize], size: impl Fn(usize) -> usize, rows: usize) -> Vec<&[usize]> {
    let mut parts = Vec::new();
    let mut rest = family;
    while !rest.is_empty() {
        let mut sum = 0;
        let fits = |r: &&usize| {
            sum += size(**r);
            sum <= rows
        };
        let (part, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        parts.push(part);
        rest = later;
    }
    parts
}

/// Requests whose runs go through the layers together.
pub(super) struct Group<'a, T> {
    pub(super) nodes: Vec<Node<'a, T>>,
    /// Each request and the node of its last position.
    pub(super) leaves: Vec<(usize, usize)>,
    rows: usize,
}

impl<T> Default for Group<'_, T> {
    fn default() -> Self {
        Self { nodes: Vec::new(), leaves: Vec::new(), rows: 0 }
    }
}

impl<'a, T> Group<'a, T> {
    /// Groups requests by the level at which they start, about `rows` rows to a group.
    pub(super) fn all<B: Backend>(
        model: &Model<B>,
        tokens: usize,
        requests: &[Request<'a, T>],
        rows: usize,
    ) -> Vec<Self> {
        let mut by_level: Vec<usize> =
            (0..requests.len()).filter(|r| !requests[*r].edits.is_empty()).collect();
        by_level.sort_by_key(|r| requests[*r].level());
        let (mut groups, mut group) = (Vec::new(), Self::default());
        for family in by_level.chunk_by(|a, b| requests[*a].level() == requests[*b].level()) {
            let level = requests[family[0]].level();
            let size = |r: usize| requests[r].positions(model, tokens).len();
            for part in split(family, size, rows) {
                let some: Vec<_> =
                    part.iter().map(|r| (&requests[*r], requests[*r].positions(model, tokens))).collect();
                let forest = match model.config().is_causal() {
                    true => tree::build(&some, level),
                    false => tree::apart(&some, level),
                };
                let more: usize = forest.nodes.iter().map(|n| n.positions.len()).sum();
                if group.rows > 0 && group.rows + more > rows {
                    groups.push(std::mem::take(&mut group));
                }
                group.join(part, forest, more);
            }
        }
        groups.push(group);
        groups
    }

    /// Multiply-adds of a run of the group.
    pub(super) fn count<B: Backend>(
        &self,
        model: &Model<B>,
        tokens: usize,
        requests: &[Request<'_, T>],
        memory: MemoryPlan,
    ) -> u64 {
        let depth = model.config().depth();
        let of_node = |n: &Node<'_, T>| {
            let rows = n.positions.len() as u64;
            let of_layer = |l| {
                let attention: u64 = n.positions.clone().map(|p| model.attention_macs(l, p, tokens)).sum();
                rows * model.layer_macs_per_row(l) + attention
            };
            let recomputed = n.positions.clone().filter(|p| n.recomputes_mlp(model, *p)).count() as u64;
            recomputed * model.mlp_macs_per_row(n.level.saturating_sub(1))
                + (n.level..n.until.min(depth)).map(of_layer).sum::<u64>()
        };
        let at_once = rows_at_once(model, memory);
        let head_rows = |position: usize| {
            let reads = |(request, leaf): &&(usize, usize)| {
                requests[*request].logits.contains(position)
                    && !self.pieces(*leaf, &(position..position + 1)).is_empty()
            };
            let readers = self.leaves.iter().filter(reads).count();
            (readers + readers.div_ceil(at_once)) as u64
        };
        let head = (0..tokens).map(head_rows).sum::<u64>() * model.head_macs_per_row();
        self.nodes.iter().map(of_node).sum::<u64>() + head
    }

    fn join(&mut self, part: &[usize], forest: Forest<'a, T>, rows: usize) {
        let shift = self.nodes.len();
        self.nodes
            .extend(forest.nodes.into_iter().map(|n| Node { parent: n.parent.map(|p| p + shift), ..n }));
        let leaves = part.iter().zip(forest.leaves);
        self.leaves.extend(leaves.filter_map(|(request, leaf)| Some((*request, leaf? + shift))));
        self.rows += rows;
    }

    /// The nodes of a request that contain some of `positions`, and which of them.
    pub(super) fn pieces(&self, leaf: usize, positions: &Range<usize>) -> Vec<(usize, Range<usize>)> {
        let mut pieces = Vec::new();
        let mut at = Some(leaf);
        while let Some(node) = at {
            let of = &self.nodes[node].positions;
            let part = positions.start.max(of.start)..positions.end.min(of.end);
            if !part.is_empty() {
                pieces.push((node, part));
            }
            at = self.nodes[node].parent;
        }
        pieces
    }
}

/// Rows of logits computed at once, without the clean row.
pub(super) fn rows_at_once<B: Backend>(model: &Model<B>, memory: MemoryPlan) -> usize {
    (memory.bytes / (model.config().vocab * 4)).max(2) - 1
}
