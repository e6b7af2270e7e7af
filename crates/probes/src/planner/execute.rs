//! Carries out requests on one text: from saved clean residuals, with clean keys
//! and values for what lies before an edit, layer by layer as one batch.

use super::edit::{Action, Edit, EditSink, Request, Site};
use super::naive;
use super::tree::{self, Acting, Node};
use crate::{ExecOptions, MemoryPlan, Work};
use fathom_kernels::Buffer;
use fathom_kernels::elementwise::add;
use fathom_model::{Batch, Buffers, KvCache, Model, Run, Span, Trace};
use std::ops::Range;

/// Carries out the requests and hands what they read to the visitor; gives the work
/// that was done.
///
/// # Panics
/// When an edit or a read lies outside the model or the text.
pub fn execute(
    model: &Model,
    trace: &Trace,
    requests: &[Request],
    exec: &ExecOptions<'_>,
    visitor: &mut dyn EditSink,
) -> Work {
    check(model, trace, requests);
    let mut work = asked(model, trace.tokens.len(), requests);
    if exec.naive {
        naive::execute(model, trace, requests, exec.on_progress, visitor);
        return Work { runs: work.edits, macs: work.macs_naive, ..work };
    }
    let mut b = Buffers::default();
    for group in Group::all(requests, exec.memory.rows) {
        work.runs += group.nodes.len() as u64;
        work.macs += group.run(model, trace, requests, exec, &mut b, visitor);
    }
    work
}

/// The work of [`execute()`] on a text of `tokens` tokens, counted and not done. Values
/// that actions carry are only compared.
pub fn count(model: &Model, tokens: usize, requests: &[Request], limits: MemoryPlan) -> Work {
    let mut work = asked(model, tokens, requests);
    for group in Group::all(requests, limits.rows) {
        work.runs += group.nodes.len() as u64;
        work.macs += group.count(model, tokens, requests, limits);
    }
    work
}

/// What is asked for, before anything is shared.
fn asked(model: &Model, tokens: usize, requests: &[Request]) -> Work {
    let macs_naive = requests.iter().map(|r| naive::macs_of(model, tokens, r)).sum();
    Work { edits: requests.len() as u64, macs_naive, ..Work::default() }
}

fn check(model: &Model, trace: &Trace, requests: &[Request]) {
    let (depth, tokens) = (model.config().depth(), trace.tokens.len());
    for request in requests {
        assert!(request.added.end <= tokens && request.logits.end <= tokens && request.until <= depth);
        assert!(request.logits.is_empty() || request.until == depth, "logits need all layers");
        for edit in &request.edits {
            let last = if edit.site == Site::Resid { depth } else { depth - 1 };
            assert!(edit.layer <= last && edit.positions.end <= tokens && !edit.positions.is_empty());
            if let Action::Replace(values) | Action::Add(values) = &edit.action {
                let rows = [1, edit.positions.len()].map(|rows| rows * trace.hidden);
                assert!(values.len() == rows[0] || values.len() >= rows[1], "values of an edit are missing");
            }
        }
    }
}

/// Cuts a family that is too large for one batch; prefixes are then shared within
/// the parts only.
fn parts<'a>(family: &'a [usize], requests: &[Request], rows: usize) -> Vec<&'a [usize]> {
    let mut parts = Vec::new();
    let mut rest = family;
    while !rest.is_empty() {
        let mut sum = 0;
        let fits = |r: &&usize| {
            sum += requests[**r].positions().len();
            sum <= rows
        };
        let (part, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        parts.push(part);
        rest = later;
    }
    parts
}

/// Requests whose runs go through the layers together.
#[derive(Default)]
struct Group {
    nodes: Vec<Node>,
    /// Request and the node of its last position.
    leaves: Vec<(usize, usize)>,
    rows: usize,
}

impl Group {
    /// Requests put into groups of about `rows` rows, by the level at which they start.
    fn all(requests: &[Request], rows: usize) -> Vec<Self> {
        let mut by_level: Vec<usize> =
            (0..requests.len()).filter(|r| !requests[*r].edits.is_empty()).collect();
        by_level.sort_by_key(|r| requests[*r].level());
        let (mut groups, mut group) = (Vec::new(), Self::default());
        for family in by_level.chunk_by(|a, b| requests[*a].level() == requests[*b].level()) {
            let level = requests[family[0]].level();
            for part in parts(family, requests, rows) {
                let forest = tree::build(&part.iter().map(|r| &requests[*r]).collect::<Vec<_>>(), level);
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

    /// Multiply-adds of [`Self::run`].
    fn count(&self, model: &Model, tokens: usize, requests: &[Request], limits: MemoryPlan) -> u64 {
        let depth = model.config().depth();
        let of_node = |n: &Node| {
            let rows = n.positions.len() as u64;
            let of_layer = |l| {
                let attention: u64 = n.positions.clone().map(|p| model.attention_macs(l, p)).sum();
                rows * model.layer_macs_per_row() + attention
            };
            let again = n.positions.clone().filter(|p| redoes_mlp(model, n, *p)).count() as u64;
            again * model.mlp_macs_per_row() + (n.level..n.until.min(depth)).map(of_layer).sum::<u64>()
        };
        let at_once = rows_at_once(model, limits);
        let head_rows = |position: usize| {
            let reads = |(request, leaf): &&(usize, usize)| {
                requests[*request].logits.contains(&position)
                    && !self.pieces(*leaf, &(position..position + 1)).is_empty()
            };
            let readers = self.leaves.iter().filter(reads).count();
            (readers + readers.div_ceil(at_once)) as u64
        };
        let head = (0..tokens).map(head_rows).sum::<u64>() * model.head_macs_per_row();
        self.nodes.iter().map(of_node).sum::<u64>() + head
    }

    fn join(&mut self, part: &[usize], forest: tree::Forest, rows: usize) {
        let shift = self.nodes.len();
        self.nodes
            .extend(forest.nodes.into_iter().map(|n| Node { parent: n.parent.map(|p| p + shift), ..n }));
        let leaves = part.iter().zip(forest.leaves);
        self.leaves.extend(leaves.filter_map(|(request, leaf)| Some((*request, leaf? + shift))));
        self.rows += rows;
    }

    fn run(
        self,
        model: &Model,
        trace: &Trace,
        requests: &[Request],
        exec: &ExecOptions<'_>,
        b: &mut Buffers,
        visitor: &mut dyn EditSink,
    ) -> u64 {
        if self.nodes.is_empty() {
            return 0;
        }
        let depth = model.config().depth();
        let mut work = Running { model, trace, requests, group: &self, macs: 0, told: 0, exec, b };
        let mut streams: Vec<Vec<f32>> = Vec::with_capacity(self.nodes.len());
        for node in 0..self.nodes.len() {
            streams.push(work.start(node, visitor));
        }
        let first = self.nodes.iter().map(|n| n.level).min().unwrap_or(depth);
        for l in first..depth {
            work.layer(l, &mut streams, visitor);
            work.tell();
        }
        work.head(&streams, visitor);
        work.macs
    }

    /// The parts of a request's positions and where they lie: node and row in it.
    fn pieces(&self, leaf: usize, positions: &Range<usize>) -> Vec<(usize, Range<usize>)> {
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

/// A group on its way through the layers.
struct Running<'a> {
    model: &'a Model,
    trace: &'a Trace,
    requests: &'a [Request],
    group: &'a Group,
    exec: &'a ExecOptions<'a>,
    macs: u64,
    /// Multiply-adds that were told of.
    told: u64,
    b: &'a mut Buffers,
}

impl Running<'_> {
    fn tell(&mut self) {
        (self.exec.on_progress)(self.macs - self.told);
        self.told = self.macs;
    }

    /// The stream at which a node starts: the clean one, changed by the edits that
    /// act on clean values. No attention is needed for it, because the keys and
    /// values of the layer before are clean.
    fn start(&mut self, node: usize, visitor: &mut dyn EditSink) -> Vec<f32> {
        let d = self.trace.hidden;
        let group = self.group;
        let Node { positions, edits, level, .. } = &group.nodes[node];
        let rows = positions.start * d..positions.end * d;
        let mut h = self.trace.resid[*level][rows].to_vec();
        let here = || edits.iter().filter(|e| e.edit.level() == *level);
        for position in positions.clone() {
            let acting = here().filter(|e| e.positions.contains(&position)).map(|e| &e.edit);
            let parts: Vec<&Edit> = acting.filter(|e| e.site != Site::Resid).collect();
            if parts.is_empty() {
                continue;
            }
            let at = (position - positions.start) * d;
            let added = self.edited_layer(&group.nodes[node], position, &parts, &mut h[at..at + d]);
            self.report(node, level - 1, position..position + 1, &added, visitor);
        }
        edit_rows(here(), Site::Resid, positions, d, &mut h);
        h
    }

    /// What a layer adds to a clean row under the edits of its parts, and in `out`
    /// the stream behind it.
    fn edited_layer(&mut self, node: &Node, position: usize, edits: &[&Edit], out: &mut [f32]) -> Vec<f32> {
        let layer = node.level - 1;
        let row = position * self.trace.hidden..(position + 1) * self.trace.hidden;
        let h = &self.trace.resid[layer][row.clone()];
        let mut attn = self.trace.attn_out[layer][row.clone()].to_vec();
        let mut mlp = self.trace.mlp_out[layer][row].to_vec();
        let of = |site: Site| edits.iter().filter(move |e| e.site == site);
        of(Site::Attn).for_each(|e| e.apply(position, &mut attn));
        let mid: Vec<f32> = h.iter().zip(&attn).map(|(h, a)| h + a).collect();
        if redoes_mlp(self.model, node, position) {
            self.model.mlp(layer, &mid, self.b);
            self.macs += self.model.mlp_macs_per_row();
            mlp.copy_from_slice(&self.b.mlp_out);
        }
        of(Site::Mlp).for_each(|e| e.apply(position, &mut mlp));
        let mut added: Vec<f32> = attn.iter().zip(&mlp).map(|(a, m)| a + m).collect();
        of(Site::Layer).for_each(|e| e.apply(position, &mut added));
        if of(Site::Layer).next().is_some() {
            add(h, &added, out);
        } else {
            // In the order of the clean run, so that an edit of nothing changes no bit.
            add(&mid, &mlp, out);
        }
        added
    }

    /// One layer of all runs that are alive there.
    fn layer(&mut self, l: usize, streams: &mut [Vec<f32>], visitor: &mut dyn EditSink) {
        let d = self.trace.hidden;
        let alive: Vec<usize> = (0..streams.len())
            .filter(|n| (self.group.nodes[*n].level..self.group.nodes[*n].until).contains(&l))
            .collect();
        if alive.is_empty() {
            return;
        }
        let (batch, rows) = self.batch(l, &alive);
        let mut h: Vec<f32> = Vec::with_capacity(batch.rows() * d);
        alive.iter().for_each(|n| h.extend_from_slice(&streams[*n]));
        let past: [&KvCache; 1] = [&self.trace.kv_cache[l]];
        self.model.attention(l, &batch, &past, &h, self.b);
        let mut attn = std::mem::take(&mut self.b.attn_out);
        self.edit(l, Site::Attn, &alive, &rows, &mut attn);
        let mut mid = vec![0.0; h.len()];
        add(&h, &attn, &mut mid);
        self.model.mlp(l, if self.model.config().parallel { &h } else { &mid }, self.b);
        let mut mlp = std::mem::take(&mut self.b.mlp_out);
        self.edit(l, Site::Mlp, &alive, &rows, &mut mlp);
        let mut added = vec![0.0; h.len()];
        add(&attn, &mlp, &mut added);
        self.edit(l, Site::Layer, &alive, &rows, &mut added);
        for (n, rows) in alive.iter().zip(&rows) {
            let positions = self.group.nodes[*n].positions.clone();
            self.report(*n, l, positions.clone(), &added[rows.start * d..rows.end * d], visitor);
            let whole: Vec<&Acting> = self.group.nodes[*n]
                .edits
                .iter()
                .filter(|e| e.edit.layer == l && e.edit.site == Site::Layer)
                .collect();
            for ((row, position), out) in rows.clone().zip(positions).zip(streams[*n].chunks_exact_mut(d)) {
                let row = row * d..(row + 1) * d;
                if whole.iter().any(|e| e.positions.contains(&position)) {
                    add(&h[row.clone()], &added[row], out);
                } else {
                    // In the order of the clean run, as where a node starts, so that
                    // bits do not depend on which positions share a node.
                    add(&mid[row.clone()], &mlp[row], out);
                }
            }
        }
        (self.b.attn_out, self.b.mlp_out) = (attn, mlp);
        for n in alive {
            let node = &self.group.nodes[n];
            let next = node.edits.iter().filter(|e| e.edit.layer == l + 1);
            edit_rows(next, Site::Resid, &node.positions, d, &mut streams[n]);
        }
    }

    /// The batch of the runs alive at a layer, and the rows of each.
    fn batch(&mut self, l: usize, alive: &[usize]) -> (Batch, Vec<Range<usize>>) {
        let mut rows_of = vec![0..0; self.group.nodes.len()];
        let (mut runs, mut next) = (Vec::with_capacity(alive.len()), 0);
        for &n in alive {
            let node = &self.group.nodes[n];
            rows_of[n] = next..next + node.positions.len();
            next += node.positions.len();
            // Ancestors come before their descendants, so their rows are known.
            let mut past = Vec::new();
            let (mut at, mut start) = (node.parent, node.positions.start);
            while let Some(ancestor) = at {
                past.push(Span::Rows(rows_of[ancestor].clone()));
                start = self.group.nodes[ancestor].positions.start;
                at = self.group.nodes[ancestor].parent;
            }
            past.push(Span::Cache(0, 0..start));
            past.reverse();
            runs.push(Run {
                rows: rows_of[n].clone(),
                first: node.positions.start,
                length: self.trace.tokens.len(),
                past,
            });
            self.macs += node.positions.clone().map(|p| self.model.attention_macs(l, p)).sum::<u64>();
        }
        self.macs += self.model.layer_macs_per_row() * next as u64;
        (self.model.batch(runs), alive.iter().map(|n| rows_of[*n].clone()).collect())
    }

    /// Applies the edits of a site of layer `l`.
    fn edit(&self, l: usize, site: Site, alive: &[usize], rows: &[Range<usize>], values: &mut [f32]) {
        let d = self.trace.hidden;
        for (n, rows) in alive.iter().zip(rows) {
            let node = &self.group.nodes[*n];
            let here = node.edits.iter().filter(|e| e.edit.layer == l);
            edit_rows(here, site, &node.positions, d, &mut values[rows.start * d..rows.end * d]);
        }
    }

    /// Hands what a layer adds at some positions of a node to all requests that read it.
    fn report(
        &self,
        node: usize,
        layer: usize,
        positions: Range<usize>,
        added: &[f32],
        visitor: &mut dyn EditSink,
    ) {
        let d = self.trace.hidden;
        for (request, leaf) in &self.group.leaves {
            let wanted = &self.requests[*request];
            if layer >= wanted.until || wanted.added.is_empty() {
                continue;
            }
            for (n, part) in self.group.pieces(*leaf, &wanted.added) {
                let part = part.start.max(positions.start)..part.end.min(positions.end);
                if n == node && !part.is_empty() {
                    let from = (part.start - positions.start) * d;
                    visitor.added(*request, layer, part.clone(), &added[from..from + part.len() * d]);
                }
            }
        }
    }

    /// The logits that are read, position by position, so that the clean row of a
    /// position is made once for all requests; those of several positions at once, because
    /// the head takes as long for a few rows as for a hundred.
    fn head(&mut self, streams: &[Vec<f32>], visitor: &mut dyn EditSink) {
        let d = self.trace.hidden;
        let at_once = rows_at_once(self.model, self.exec.memory);
        let mut read = Readings::default();
        for position in 0..self.trace.tokens.len() {
            let (readers, rows) = self.readers(streams, position);
            for (requests, edited) in readers.chunks(at_once).zip(rows.chunks(at_once * d)) {
                if read.rows.len() / d + requests.len() > at_once {
                    self.read(&mut read, visitor);
                }
                let clean = &self.trace.resid[self.model.config().depth()][position * d..(position + 1) * d];
                read.rows.extend_from_slice(clean);
                read.rows.extend_from_slice(edited);
                read.of.push((position, requests.to_vec()));
            }
        }
        self.read(&mut read, visitor);
    }

    /// The requests that read logits at a position, and their rows.
    fn readers(&self, streams: &[Vec<f32>], position: usize) -> (Vec<usize>, Vec<f32>) {
        let d = self.trace.hidden;
        let (mut readers, mut rows) = (Vec::new(), Vec::new());
        for (request, leaf) in &self.group.leaves {
            if !self.requests[*request].logits.contains(&position) {
                continue;
            }
            for (node, _) in self.group.pieces(*leaf, &(position..position + 1)) {
                let at = (position - self.group.nodes[node].positions.start) * d;
                rows.extend_from_slice(&streams[node][at..at + d]);
                readers.push(*request);
            }
        }
        (readers, rows)
    }

    /// Makes the logits of the rows that were put together and hands them out.
    fn read(&mut self, read: &mut Readings, visitor: &mut dyn EditSink) {
        let vocab = self.model.config().vocab;
        let rows = read.rows.len() / self.trace.hidden;
        read.logits.resize(rows * vocab);
        self.model.head(&read.rows, &mut read.logits);
        self.macs += self.model.head_macs_per_row() * rows as u64;
        let mut logits = &read.logits[..];
        for (position, requests) in read.of.drain(..) {
            let (clean, rest) = logits.split_at(vocab);
            let (edited, rest) = rest.split_at(requests.len() * vocab);
            visitor.logits(position, clean, &requests, edited);
            logits = rest;
        }
        read.rows.clear();
        self.tell();
    }
}

/// Rows whose logits are made together.
#[derive(Default)]
struct Readings {
    /// Positions and the requests that read there; each has its clean row first.
    of: Vec<(usize, Vec<usize>)>,
    /// `[rows, d]`.
    rows: Vec<f32>,
    /// `[rows, V]`; kept from time to time.
    logits: Buffer,
}

/// Rows of logits made at once beside the clean ones.
fn rows_at_once(model: &Model, limits: MemoryPlan) -> usize {
    (limits.bytes / (model.config().vocab * 4)).max(2) - 1
}

/// Whether the MLP of the layer before a node must be run again at a position: the
/// attention before it is edited, and nothing that the MLP adds is replaced.
fn redoes_mlp(model: &Model, node: &Node, position: usize) -> bool {
    let here = || {
        let acting = node.edits.iter().filter(|e| e.positions.contains(&position)).map(|e| &e.edit);
        acting.filter(|e| e.level() == node.level)
    };
    let replaced = here().any(|e| matches!(e.site, Site::Mlp | Site::Layer) && e.replaces());
    here().any(|e| e.site == Site::Attn) && !model.config().parallel && !replaced
}

/// Applies the edits of a site to rows of consecutive positions.
fn edit_rows<'a>(
    edits: impl Iterator<Item = &'a Acting>,
    site: Site,
    positions: &Range<usize>,
    d: usize,
    rows: &mut [f32],
) {
    for Acting { positions: on, edit } in edits.filter(|e| e.edit.site == site) {
        for position in on.clone() {
            let at = (position - positions.start) * d;
            edit.apply(position, &mut rows[at..at + d]);
        }
    }
}
