//! Every request as a full forward pass, as a reference for the planner.

use super::edit::{EditSink, LogitReading, Request, Site};
use crate::vector::SMALLEST;
use fathom_kernels::backend::RowEdit;
use fathom_model::{Backend, Buffers, Model, Run, Trace};

/// Executes the requests without sharing; `on_progress` receives multiply-adds.
pub fn execute<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    requests: &[Request<'_, B::Buffer>],
    on_progress: &dyn Fn(u64),
    sink: &mut dyn EditSink,
) {
    for (index, request) in requests.iter().enumerate() {
        one(model, trace, index, request, sink);
        on_progress(macs_of(model, trace.tokens.len(), request));
    }
}

/// Multiply-adds of one full forward pass with the logits of every position.
pub fn macs<B: Backend>(model: &Model<B>, tokens: usize) -> u64 {
    model.layers_macs(tokens) + model.head_macs_per_row() * tokens as u64
}

/// Multiply-adds of one request: its layers from the first on, and the logits of every position if it
/// reads any.
pub(super) fn macs_of<B: Backend>(model: &Model<B>, tokens: usize, request: &Request<'_, B::Buffer>) -> u64 {
    let head = if request.logits.is_empty() { 0 } else { model.head_macs_per_row() * tokens as u64 };
    model.first_layers_macs(request.until, tokens) + head
}

fn one<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    index: usize,
    request: &Request<'_, B::Buffer>,
    sink: &mut dyn EditSink,
) {
    let (on, d, tokens) = (model.backend(), trace.hidden, trace.tokens.len());
    let depth = model.config().depth();
    let edit = |l: usize, site: Site, rows: &mut B::Buffer| {
        let here = request.edits.iter().filter(|e| e.layer == l && e.site == site);
        for e in here {
            let edits = e.positions.clone().filter_map(|p| Some(RowEdit { row: p, action: e.at(p)? }));
            on.edit(d, &edits.collect::<Vec<_>>(), rows);
        }
    };
    let batch = model.batch(vec![Run { rows: 0..tokens, first: 0, length: tokens, past: vec![] }]);
    let whole = 0..tokens * d;
    let mut h = on.copy(&trace.resid[0], whole.clone());
    let (mut b, mut mid, mut out, mut added) = (Buffers::new(model), on.empty(), on.empty(), on.empty());
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let reads_from = request.level().saturating_sub(1);
    for l in 0..request.until {
        edit(l, Site::Resid, &mut h);
        model.read_tokens(l, trace, &positions, &mut b);
        model.attention(l, &batch, None, &h, &mut b);
        let mut attn = on.copy(&b.attn_out, whole.clone());
        edit(l, Site::Attn, &mut attn);
        model.after_attention(l, &h, &attn, &mut mid);
        model.mlp(l, if model.config().parallel { &h } else { &mid }, &mut b);
        let mut mlp = on.copy(&b.mlp_out, whole.clone());
        edit(l, Site::Mlp, &mut mlp);
        model.after_mlp(l, &mid, &mlp, &mut out);
        model.contribution(&h, [&attn, &mlp], &out, &mut added);
        edit(l, Site::Layer, &mut added);
        if l >= reads_from && !request.added.is_empty() {
            read_added(model, trace, index, request, l, &added, sink);
        }
        let whole_layer = request.edits.iter().any(|e| e.layer == l && e.site == Site::Layer);
        match model.is_post_norm() && !whole_layer {
            true => std::mem::swap(&mut h, &mut out),
            false => on.add_assign(&mut h, &added),
        }
    }
    edit(depth, Site::Resid, &mut h);
    read_logits(model, trace, index, request, &h, sink);
}

fn read_added<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    index: usize,
    request: &Request<'_, B::Buffer>,
    l: usize,
    added: &B::Buffer,
    sink: &mut dyn EditSink,
) {
    let rows: Vec<u32> = request.added.iter().map(|p| p as u32).collect();
    let clean = trace.contribution(l);
    let sums = model.backend().change_sums(trace.hidden, added, &rows, clean, &rows);
    let sums = model.backend().read(vec![sums]).concat();
    let mut changes =
        sums.as_chunks::<2>().0.iter().map(|[gap, clean]| gap.sqrt() / clean.sqrt().max(SMALLEST));
    for range in request.added.ranges() {
        let some: Vec<f64> = changes.by_ref().take(range.len()).collect();
        sink.added(index, l, range, &some);
    }
}

fn read_logits<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    index: usize,
    request: &Request<'_, B::Buffer>,
    h: &B::Buffer,
    sink: &mut dyn EditSink,
) {
    let (on, d, vocab) = (model.backend(), trace.hidden, model.config().vocab);
    let (mut rows, mut logits) = (on.empty(), on.empty());
    for position in request.logits.iter() {
        let row = position * d..(position + 1) * d;
        let clean = on.copy(&trace.resid[model.config().depth()], row.clone());
        let edited = on.copy(h, row);
        on.resize(&mut rows, 2 * d);
        on.scatter(d, &clean, &[0], &mut rows);
        on.scatter(d, &edited, &[1], &mut rows);
        model.head(&rows, &mut logits);
        let numbers = match sink.reading() {
            LogitReading::Distance => {
                on.read(vec![on.distances(vocab, &logits, &[0, 0])]).concat().split_off(1)
            }
            LogitReading::Probability => {
                let numbers = on.log_probabilities(vocab, &logits, &[sink.token(position); 2]);
                on.read(vec![numbers]).concat().into_iter().map(f64::exp).collect()
            }
            LogitReading::Rows => on.download(&logits, 0..2 * vocab).into_iter().map(f64::from).collect(),
        };
        sink.logits(index, position, &numbers);
    }
}
