//! Executes requests on one prompt: starts from the saved clean residuals, reuses the clean
//! keys and values of earlier positions, and runs each layer as one batch.

use super::edit::{Action, Edit, EditSink, Request, Site};
use super::group::Group;
use super::naive;
use super::tree::{Acting, Node};
use crate::{ExecOptions, MemoryPlan, Work};
use fathom_kernels::elementwise::add;
use fathom_model::{Batch, Buffers, KvCache, Model, Run, Span, Trace};
use std::ops::Range;

/// Executes the requests, passes what they read to `sink`, and returns the work done.
///
/// # Panics
/// If an edit or a read lies outside the model or the prompt.
pub fn execute(
    model: &Model,
    trace: &Trace,
    requests: &[Request],
    exec: &ExecOptions<'_>,
    sink: &mut dyn EditSink,
) -> Work {
    check(model, trace, requests);
    let mut work = unshared(model, trace.tokens.len(), requests);
    if exec.naive {
        naive::execute(model, trace, requests, exec.on_progress, sink);
        return Work { runs: work.edits, macs: work.macs_naive, ..work };
    }
    let mut b = Buffers::default();
    for group in Group::all(requests, exec.memory.rows) {
        work.runs += group.nodes.len() as u64;
        work.macs += Running::run(model, trace, requests, &group, exec, &mut b, sink);
    }
    work
}

/// The work of [`execute()`] on a prompt of `tokens` tokens, counted without running the model.
/// The values of actions are only compared.
pub fn count(model: &Model, tokens: usize, requests: &[Request], memory: MemoryPlan) -> Work {
    let mut work = unshared(model, tokens, requests);
    for group in Group::all(requests, memory.rows) {
        work.runs += group.nodes.len() as u64;
        work.macs += group.count(model, tokens, requests, memory);
    }
    work
}

/// The number of edits and the naive work, before anything is shared.
fn unshared(model: &Model, tokens: usize, requests: &[Request]) -> Work {
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

/// The execution of a group.
pub(super) struct Running<'a> {
    pub(super) model: &'a Model,
    pub(super) trace: &'a Trace,
    pub(super) requests: &'a [Request],
    pub(super) group: &'a Group,
    pub(super) exec: &'a ExecOptions<'a>,
    pub(super) macs: u64,
    /// Multiply-adds already passed to the progress callback.
    reported: u64,
    b: &'a mut Buffers,
}

impl<'a> Running<'a> {
    /// Runs a group and returns its multiply-adds.
    fn run(
        model: &'a Model,
        trace: &'a Trace,
        requests: &'a [Request],
        group: &'a Group,
        exec: &'a ExecOptions<'a>,
        b: &'a mut Buffers,
        sink: &mut dyn EditSink,
    ) -> u64 {
        if group.nodes.is_empty() {
            return 0;
        }
        let depth = model.config().depth();
        let mut running = Self { model, trace, requests, group, macs: 0, reported: 0, exec, b };
        let mut streams: Vec<Vec<f32>> = Vec::with_capacity(group.nodes.len());
        for node in 0..group.nodes.len() {
            streams.push(running.start(node, sink));
        }
        let first = group.nodes.iter().map(|n| n.level).min().unwrap_or(depth);
        for l in first..depth {
            running.layer(l, &mut streams, sink);
            running.report_progress();
        }
        running.head(&streams, sink);
        running.macs
    }

    pub(super) fn report_progress(&mut self) {
        (self.exec.on_progress)(self.macs - self.reported);
        self.reported = self.macs;
    }

    /// The stream at the start of a node: the clean one with the edits that act on clean
    /// values. It needs no attention, because keys and values of the previous layer are clean.
    fn start(&mut self, node: usize, sink: &mut dyn EditSink) -> Vec<f32> {
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
            self.send_added(node, level - 1, position..position + 1, &added, sink);
        }
        edit_rows(here(), Site::Resid, positions, d, &mut h);
        h
    }

    /// The contribution of a layer to a clean row with edits of its parts. Writes the stream
    /// that leaves the layer to `out`.
    fn edited_layer(&mut self, node: &Node, position: usize, edits: &[&Edit], out: &mut [f32]) -> Vec<f32> {
        let layer = node.level - 1;
        let row = position * self.trace.hidden..(position + 1) * self.trace.hidden;
        let h = &self.trace.resid[layer][row.clone()];
        let mut attn = self.trace.attn_out[layer][row.clone()].to_vec();
        let mut mlp = self.trace.mlp_out[layer][row].to_vec();
        let of = |site: Site| edits.iter().filter(move |e| e.site == site);
        of(Site::Attn).for_each(|e| e.apply(position, &mut attn));
        let mid: Vec<f32> = h.iter().zip(&attn).map(|(h, a)| h + a).collect();
        if node.recomputes_mlp(self.model, position) {
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
            // Same order of additions as in the clean run, so that an empty edit changes no bit.
            add(&mid, &mlp, out);
        }
        added
    }

    /// One layer of all nodes that run it.
    fn layer(&mut self, l: usize, streams: &mut [Vec<f32>], sink: &mut dyn EditSink) {
        let d = self.trace.hidden;
        let active: Vec<usize> = (0..streams.len())
            .filter(|n| (self.group.nodes[*n].level..self.group.nodes[*n].until).contains(&l))
            .collect();
        if active.is_empty() {
            return;
        }
        let (batch, rows) = self.batch(l, &active);
        let mut h: Vec<f32> = Vec::with_capacity(batch.rows() * d);
        active.iter().for_each(|n| h.extend_from_slice(&streams[*n]));
        let past: [&KvCache; 1] = [&self.trace.kv_cache[l]];
        self.model.attention(l, &batch, &past, &h, self.b);
        let mut attn = std::mem::take(&mut self.b.attn_out);
        self.edit(l, Site::Attn, &active, &rows, &mut attn);
        let mut mid = vec![0.0; h.len()];
        add(&h, &attn, &mut mid);
        self.model.mlp(l, if self.model.config().parallel { &h } else { &mid }, self.b);
        let mut mlp = std::mem::take(&mut self.b.mlp_out);
        self.edit(l, Site::Mlp, &active, &rows, &mut mlp);
        let mut added = vec![0.0; h.len()];
        add(&attn, &mlp, &mut added);
        self.edit(l, Site::Layer, &active, &rows, &mut added);
        for (n, rows) in active.iter().zip(&rows) {
            let positions = self.group.nodes[*n].positions.clone();
            self.send_added(*n, l, positions.clone(), &added[rows.start * d..rows.end * d], sink);
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
                    // Same order of additions as in the clean run and in `edited_layer`, so that
                    // bits do not depend on which positions share a node.
                    add(&mid[row.clone()], &mlp[row], out);
                }
            }
        }
        (self.b.attn_out, self.b.mlp_out) = (attn, mlp);
        for n in active {
            let node = &self.group.nodes[n];
            let next = node.edits.iter().filter(|e| e.edit.layer == l + 1);
            edit_rows(next, Site::Resid, &node.positions, d, &mut streams[n]);
        }
    }

    /// The batch of the active nodes of a layer, and the rows of each.
    fn batch(&mut self, l: usize, active: &[usize]) -> (Batch, Vec<Range<usize>>) {
        let mut rows_of = vec![0..0; self.group.nodes.len()];
        let (mut runs, mut next) = (Vec::with_capacity(active.len()), 0);
        for &n in active {
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
        (self.model.batch(runs), active.iter().map(|n| rows_of[*n].clone()).collect())
    }

    /// Applies the edits at a site of layer `l`.
    fn edit(&self, l: usize, site: Site, active: &[usize], rows: &[Range<usize>], values: &mut [f32]) {
        let d = self.trace.hidden;
        for (n, rows) in active.iter().zip(rows) {
            let node = &self.group.nodes[*n];
            let here = node.edits.iter().filter(|e| e.edit.layer == l);
            edit_rows(here, site, &node.positions, d, &mut values[rows.start * d..rows.end * d]);
        }
    }

    /// Passes the contribution of a layer at some positions of a node to all requests that read it.
    fn send_added(
        &self,
        node: usize,
        layer: usize,
        positions: Range<usize>,
        added: &[f32],
        sink: &mut dyn EditSink,
    ) {
        let d = self.trace.hidden;
        for (request, leaf) in &self.group.leaves {
            let read = &self.requests[*request];
            if layer >= read.until || read.added.is_empty() {
                continue;
            }
            for (n, part) in self.group.pieces(*leaf, &read.added) {
                let part = part.start.max(positions.start)..part.end.min(positions.end);
                if n == node && !part.is_empty() {
                    let from = (part.start - positions.start) * d;
                    sink.added(*request, layer, part.clone(), &added[from..from + part.len() * d]);
                }
            }
        }
    }
}

/// Applies the edits at a site to rows of consecutive positions.
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
