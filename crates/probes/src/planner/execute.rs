//! Executes requests on one prompt: starts from the saved clean residuals, reuses the clean
//! keys and values of earlier positions, and runs each layer as one batch.

use super::edit::{EditSink, Request, Site};
use super::group::Group;
use super::logits::Slots;
use super::naive;
use super::reading::Readings;
use super::tree::Node;
use crate::{ExecOptions, MemoryPlan, Work};
use fathom_kernels::backend::RowEdit;
use fathom_model::{Backend, Batch, Buffers, LayerKeys, Model, Run, Span, Trace};
use std::collections::BTreeMap;
use std::mem::{replace, swap};
use std::ops::Range;

/// Executes the requests, passes what they read to `sink`, and returns the work done.
///
/// # Panics
/// If an edit or a read lies outside the model or the prompt.
pub fn execute<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    requests: &[Request<'_, B::Buffer>],
    exec: &ExecOptions<'_>,
    sink: &mut dyn EditSink,
) -> Work {
    check(model, trace, requests);
    let mut work = unshared(model, trace.tokens.len(), requests);
    if exec.naive {
        naive::execute(model, trace, requests, exec.on_progress, sink);
        return Work { runs: work.edits, macs: work.macs_naive, ..work };
    }
    let mut scratch = Scratch::new(model);
    for group in Group::all(model, trace.tokens.len(), requests, exec.memory.rows) {
        work.runs += group.nodes.len() as u64;
        work.macs += Running::run(model, trace, requests, &group, exec, &mut scratch, sink);
    }
    work
}

/// The work of [`execute()`] on a prompt of `tokens` tokens, counted without running the model.
/// The values of actions are only compared.
pub fn count<B: Backend>(
    model: &Model<B>,
    tokens: usize,
    requests: &[Request<'_, B::Buffer>],
    memory: MemoryPlan,
) -> Work {
    let mut work = unshared(model, tokens, requests);
    for group in Group::all(model, tokens, requests, memory.rows) {
        work.runs += group.nodes.len() as u64;
        work.macs += group.count(model, tokens, requests, memory);
    }
    work
}

/// The number of edits and the naive work, before anything is shared.
fn unshared<B: Backend>(model: &Model<B>, tokens: usize, requests: &[Request<'_, B::Buffer>]) -> Work {
    let macs_naive = requests.iter().map(|r| naive::macs_of(model, tokens, r)).sum();
    Work { edits: requests.len() as u64, macs_naive, ..Work::default() }
}

fn check<B: Backend>(model: &Model<B>, trace: &Trace<B>, requests: &[Request<'_, B::Buffer>]) {
    let (depth, tokens) = (model.config().depth(), trace.tokens.len());
    for request in requests {
        assert!(request.added.end() <= tokens && request.logits.end() <= tokens && request.until <= depth);
        assert!(request.logits.is_empty() || request.until == depth, "logits need all layers");
        for edit in &request.edits {
            let last = if edit.site == Site::Resid { depth } else { depth - 1 };
            assert!(edit.layer <= last && edit.positions.end <= tokens && !edit.positions.is_empty());
            if let Some((values, rows)) = edit.values() {
                let enough = model.backend().len(values) >= rows * trace.hidden;
                assert!(enough, "values of an edit are missing");
            }
        }
    }
}

/// Scratch buffers of groups, `[rows, d]`.
struct Scratch<B: Backend> {
    b: Buffers<B>,
    h: B::Buffer,
    mid: B::Buffer,
    added: B::Buffer,
    out: B::Buffer,
    /// Some rows of another buffer.
    part: B::Buffer,
    slots: Slots<B>,
}

impl<B: Backend> Scratch<B> {
    fn new(model: &Model<B>) -> Self {
        let (on, b) = (model.backend(), Buffers::new(model));
        let [h, mid, added, out, part] = std::array::from_fn(|_| on.empty());
        Self { b, h, mid, added, out, part, slots: Slots::new(on) }
    }
}

/// A row of a buffer: a position of a node.
type NodeRow = (usize, usize);

/// The execution of a group.
pub(super) struct Running<'a, B: Backend> {
    pub(super) model: &'a Model<B>,
    pub(super) trace: &'a Trace<B>,
    pub(super) requests: &'a [Request<'a, B::Buffer>],
    pub(super) group: &'a Group<'a, B::Buffer>,
    pub(super) exec: &'a ExecOptions<'a>,
    pub(super) macs: u64,
    /// Multiply-adds already passed to the progress callback.
    reported: u64,
    /// The first row of each node in the streams of the group.
    first_row: Vec<usize>,
    /// Requests that read contributions, with the nodes and positions at which they do.
    reads: Vec<(usize, usize, Range<usize>)>,
    /// The keys that layers share, of all rows of the streams.
    keys: LayerKeys<B>,
    /// The nodes of the batch of the last layer, which often serves the next one too.
    batch: Option<(Vec<usize>, Batch<B>)>,
    pub(super) readings: Readings<B>,
}

impl<'a, B: Backend> Running<'a, B> {
    /// Runs a group and returns its multiply-adds.
    fn run(
        model: &'a Model<B>,
        trace: &'a Trace<B>,
        requests: &'a [Request<'a, B::Buffer>],
        group: &'a Group<'a, B::Buffer>,
        exec: &'a ExecOptions<'a>,
        scratch: &mut Scratch<B>,
        sink: &mut dyn EditSink,
    ) -> u64 {
        if group.nodes.is_empty() {
            return 0;
        }
        let depth = model.config().depth();
        let first_row = group.nodes.iter().scan(0, |next, node| {
            let first = *next;
            *next += node.positions.len();
            Some(first)
        });
        let first_row = first_row.collect();
        let mut running = Self {
            model,
            trace,
            requests,
            group,
            exec,
            macs: 0,
            reported: 0,
            first_row,
            reads: reads(requests, group),
            keys: LayerKeys::default(),
            batch: None,
            readings: Readings::default(),
        };
        let mut streams = running.start(scratch);
        let first = group.nodes.iter().map(|n| n.level).min().unwrap_or(depth);
        for l in first..depth {
            running.layer(l, &mut streams, scratch);
            running.report_progress();
        }
        running.head(&streams, &mut scratch.slots, sink);
        running.readings.deliver(model.backend(), sink);
        running.macs
    }

    pub(super) fn report_progress(&mut self) {
        (self.exec.on_progress)(self.macs - self.reported);
        self.reported = self.macs;
    }

    /// The row of a position of a node in the streams.
    pub(super) fn stream_row(&self, (node, position): NodeRow) -> usize {
        self.first_row[node] + position - self.group.nodes[node].positions.start
    }

    fn rows_of(&self, nodes: &[usize]) -> Vec<NodeRow> {
        let of_node = |&n: &usize| self.group.nodes[n].positions.clone().map(move |p| (n, p));
        nodes.iter().flat_map(of_node).collect()
    }

    /// The streams of all nodes where each starts, `[rows, d]`: the clean ones with the edits that act on
    /// clean values. They need no attention, because keys and values of the previous layer are clean.
    fn start(&mut self, s: &mut Scratch<B>) -> B::Buffer {
        let (on, d) = (self.model.backend(), self.trace.hidden);
        let mut streams = on.empty();
        let rows: usize = self.group.nodes.iter().map(|node| node.positions.len()).sum();
        on.resize(&mut streams, rows * d);
        let all: Vec<usize> = (0..self.group.nodes.len()).collect();
        self.keys = self.model.clean_keys(self.trace, &positions(&self.rows_of(&all)));
        let mut levels: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        self.group
            .nodes
            .iter()
            .enumerate()
            .for_each(|(n, node)| levels.entry(node.level).or_default().push(n));
        for (level, nodes) in levels {
            let at = self.rows_of(&nodes);
            on.gather(d, &self.trace.resid[level], &positions(&at), &mut s.h);
            let mut h = replace(&mut s.h, on.empty());
            self.edited_layer(level, &at, &mut h, s);
            self.edit(level, Site::Resid, &at, &mut h);
            let rows: Vec<u32> = at.iter().map(|row| self.stream_row(*row) as u32).collect();
            on.scatter(d, &h, &rows, &mut streams);
            s.h = h;
        }
        streams
    }

    /// Replaces the rows of the stream `h` at a level where edits act on parts of the layer before it.
    fn edited_layer(&mut self, level: usize, at: &[NodeRow], h: &mut B::Buffer, s: &mut Scratch<B>) {
        let (model, on, d) = (self.model, self.model.backend(), self.trace.hidden);
        let edited = |(_, (n, p)): &(usize, &NodeRow)| {
            let mut acting = self.group.nodes[*n].edits.iter().filter(|e| e.positions.contains(p));
            acting.any(|e| e.edit.site != Site::Resid && e.edit.level() == level)
        };
        let (index, at): (Vec<u32>, Vec<NodeRow>) =
            at.iter().enumerate().filter(edited).map(|(i, row)| (i as u32, *row)).unzip();
        if at.is_empty() {
            return;
        }
        let (layer, rows) = (level - 1, positions(&at));
        let [mut before, mut attn, mut mlp] = [&self.trace.resid, &self.trace.attn_out, &self.trace.mlp_out]
            .map(|of| {
                let mut part = on.empty();
                on.gather(d, &of[layer], &rows, &mut part);
                part
            });
        self.edit(layer, Site::Attn, &at, &mut attn);
        model.after_attention(layer, &before, &attn, &mut s.mid);
        let again = |(_, (n, p)): &(usize, &NodeRow)| self.group.nodes[*n].recomputes_mlp(model, *p);
        let again: Vec<u32> = at.iter().enumerate().filter(again).map(|(i, _)| i as u32).collect();
        if !again.is_empty() {
            on.gather(d, &s.mid, &again, &mut s.part);
            let rows: Vec<u32> = again.iter().map(|i| rows[*i as usize]).collect();
            model.read_tokens(layer, self.trace, &rows, &mut s.b);
            model.mlp(layer, &s.part, &mut s.b);
            self.macs += model.mlp_macs_per_row(layer) * again.len() as u64;
            on.scatter(d, &s.b.mlp_out, &again, &mut mlp);
        }
        self.edit(layer, Site::Mlp, &at, &mut mlp);
        // Same order of additions as in the clean run, so that an empty edit changes no bit, and bits do not
        // depend on which positions share a node.
        model.after_mlp(layer, &s.mid, &mlp, &mut s.out);
        model.contribution(&before, [&attn, &mlp], &s.out, &mut s.added);
        self.edit(layer, Site::Layer, &at, &mut s.added);
        let row_of: BTreeMap<NodeRow, usize> = at.iter().enumerate().map(|(i, row)| (*row, i)).collect();
        self.read_added(layer, |row| row_of.get(&row).copied(), &s.added);
        self.leave_layer(layer, &at, &mut before, s);
        on.scatter(d, &s.out, &index, h);
    }

    /// Puts the stream `h` before a layer and its edited contribution in the place of the stream after it in `s.out`,
    /// where the contribution as a whole is edited.
    fn leave_layer(&self, l: usize, at: &[NodeRow], h: &mut B::Buffer, s: &mut Scratch<B>) {
        let (on, d) = (self.model.backend(), self.trace.hidden);
        let whole = |(_, (n, p)): &(usize, &NodeRow)| {
            let mut acting = self.group.nodes[*n].edits.iter().filter(|e| e.positions.contains(p));
            acting.any(|e| e.edit.site == Site::Layer && e.edit.layer == l)
        };
        if !self.is_edited(l, Site::Layer, at) {
            return;
        }
        let whole: Vec<u32> = at.iter().enumerate().filter(whole).map(|(i, _)| i as u32).collect();
        on.add_assign(h, &s.added);
        on.gather(d, h, &whole, &mut s.part);
        on.scatter(d, &s.part, &whole, &mut s.out);
    }

    /// One layer of all nodes that run it.
    fn layer(&mut self, l: usize, streams: &mut B::Buffer, s: &mut Scratch<B>) {
        let (model, on, d) = (self.model, self.model.backend(), self.trace.hidden);
        let nodes = &self.group.nodes;
        let active: Vec<usize> =
            (0..nodes.len()).filter(|n| (nodes[*n].level..nodes[*n].until).contains(&l)).collect();
        if active.is_empty() {
            return;
        }
        let at = self.rows_of(&active);
        let batch = self.batch(l, &active);
        let rows: Vec<u32> = at.iter().map(|row| self.stream_row(*row) as u32).collect();
        let all = active.len() == nodes.len();
        let mut h = replace(&mut s.h, on.empty());
        match all {
            true => swap(&mut h, streams),
            false => on.gather(d, streams, &rows, &mut h),
        }
        s.b.keys = model.keys_for(l, &self.keys, &rows);
        model.read_tokens(l, self.trace, &positions(&at), &mut s.b);
        let past = &self.trace.kv_cache[model.config().keys_of(l)];
        model.attention(l, &batch, Some(past), &h, &mut s.b);
        model.replace_keys(l, &s.b.keys, &rows, &mut self.keys);
        let first_of = first_rows(nodes, &active);
        self.batch = Some((active, batch));
        let mut attn = replace(&mut s.b.attn_out, on.empty());
        self.edit(l, Site::Attn, &at, &mut attn);
        model.after_attention(l, &h, &attn, &mut s.mid);
        model.mlp(l, if model.config().parallel { &h } else { &s.mid }, &mut s.b);
        let mut mlp = replace(&mut s.b.mlp_out, on.empty());
        self.edit(l, Site::Mlp, &at, &mut mlp);
        model.after_mlp(l, &s.mid, &mlp, &mut s.out);
        if self.is_edited(l, Site::Layer, &at) || self.reads_added(l) {
            model.contribution(&h, [&attn, &mlp], &s.out, &mut s.added);
            self.edit(l, Site::Layer, &at, &mut s.added);
            let row_of = |(n, p): NodeRow| Some(first_of[n]? + p - self.group.nodes[n].positions.start);
            self.read_added(l, row_of, &s.added);
        }
        self.leave_layer(l, &at, &mut h, s);
        (s.b.attn_out, s.b.mlp_out, s.h) = (attn, mlp, h);
        self.edit(l + 1, Site::Resid, &at, &mut s.out);
        match all {
            true => swap(&mut s.out, streams),
            false => on.scatter(d, &s.out, &rows, streams),
        }
    }

    /// The batch of the active nodes of a layer. Counts the multiply-adds of the layer.
    fn batch(&mut self, l: usize, active: &[usize]) -> Batch<B> {
        let positions = || active.iter().flat_map(|n| self.group.nodes[*n].positions.clone());
        let attention =
            positions().map(|p| self.model.attention_macs(l, p, self.trace.tokens.len())).sum::<u64>();
        self.macs += attention + self.model.layer_macs_per_row(l) * positions().count() as u64;
        match self.batch.take() {
            Some((nodes, batch)) if nodes == active => batch,
            _ => self.new_batch(active),
        }
    }

    fn new_batch(&self, active: &[usize]) -> Batch<B> {
        let mut rows_of = vec![0..0; self.group.nodes.len()];
        let (mut runs, mut next) = (Vec::with_capacity(active.len()), 0);
        for &n in active {
            let node = &self.group.nodes[n];
            rows_of[n] = next..next + node.positions.len();
            next += node.positions.len();
            let past = self.past(n, &rows_of);
            let (rows, first) = (rows_of[n].clone(), node.positions.start);
            runs.push(Run { rows, first, length: self.trace.tokens.len(), past });
        }
        self.model.batch(runs)
    }

    /// Where the keys and values before a node are: the clean ones, then those of its ancestors, which come
    /// before their descendants, so that their rows are known.
    fn past(&self, node: usize, rows_of: &[Range<usize>]) -> Vec<Span> {
        let nodes = &self.group.nodes;
        let mut past = Vec::new();
        let (mut at, mut start) = (nodes[node].parent, nodes[node].positions.start);
        while let Some(ancestor) = at {
            past.push(Span::Rows(rows_of[ancestor].clone()));
            start = nodes[ancestor].positions.start;
            at = nodes[ancestor].parent;
        }
        past.push(Span::Cache(0..start));
        past.reverse();
        past
    }

    /// Whether an edit acts at a site of layer `l` of one of the nodes.
    fn is_edited(&self, l: usize, site: Site, at: &[NodeRow]) -> bool {
        at.chunk_by(|a, b| a.0 == b.0).any(|rows| {
            let edits = &self.group.nodes[rows[0].0].edits;
            edits.iter().any(|e| e.edit.site == site && e.edit.layer == l)
        })
    }

    /// Applies the edits at a site of layer `l` to rows of values.
    fn edit(&self, l: usize, site: Site, at: &[NodeRow], values: &mut B::Buffer) {
        let mut edits = Vec::new();
        let mut row = 0;
        for rows in at.chunk_by(|a, b| a.0 == b.0) {
            let acting = self.group.nodes[rows[0].0].edits.iter();
            for acting in acting.filter(|e| e.edit.site == site && e.edit.layer == l) {
                for (i, (_, p)) in rows.iter().enumerate().filter(|(_, (_, p))| acting.positions.contains(p))
                {
                    let action = acting.edit.at(*p);
                    edits.extend(action.map(|action| RowEdit { row: row + i, action }));
                }
            }
            row += rows.len();
        }
        if !edits.is_empty() {
            self.model.backend().edit(self.trace.hidden, &edits, values);
        }
    }

    /// Whether a request reads the contribution of a layer.
    fn reads_added(&self, layer: usize) -> bool {
        self.reads.iter().any(|(request, ..)| layer < self.requests[*request].until)
    }

    /// Reads the changes of the contribution of a layer for all requests that ask for them. `row_of` gives
    /// the row of a position of a node in `added`, if it is there.
    fn read_added(&mut self, layer: usize, row_of: impl Fn(NodeRow) -> Option<usize>, added: &B::Buffer) {
        let (mut rows, mut positions, mut of) = (Vec::new(), Vec::new(), Vec::new());
        for (request, node, part) in &self.reads {
            if layer >= self.requests[*request].until {
                continue;
            }
            for position in part.clone() {
                if let Some(row) = row_of((*node, position)) {
                    rows.push(row as u32);
                    positions.push(position as u32);
                    of.push((*request, position));
                }
            }
        }
        if !rows.is_empty() {
            let clean = self.trace.contribution(layer);
            let sums = self.model.backend().change_sums(self.trace.hidden, added, &rows, clean, &positions);
            self.readings.push_added(layer, of, sums);
        }
    }
}

/// Requests that read contributions, with the nodes and positions at which they do.
fn reads<T>(requests: &[Request<'_, T>], group: &Group<'_, T>) -> Vec<(usize, usize, Range<usize>)> {
    let of_leaf = |(request, leaf): &(usize, usize)| {
        let added = requests[*request].added.ranges();
        let pieces: Vec<_> = added.flat_map(|range| group.pieces(*leaf, &range)).collect();
        let request = *request;
        pieces.into_iter().map(move |(node, part)| (request, node, part))
    };
    group.leaves.iter().flat_map(of_leaf).collect()
}

/// The first row of each active node in a batch of them.
fn first_rows<T>(nodes: &[Node<'_, T>], active: &[usize]) -> Vec<Option<usize>> {
    let (mut first, mut next) = (vec![None; nodes.len()], 0);
    for n in active {
        first[*n] = Some(next);
        next += nodes[*n].positions.len();
    }
    first
}

fn positions(at: &[NodeRow]) -> Vec<u32> {
    at.iter().map(|(_, position)| *position as u32).collect()
}
