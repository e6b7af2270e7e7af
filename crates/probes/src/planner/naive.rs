//! Every request as a full forward pass, as a reference for the planner.

use super::edit::{Edit, EditSink, Request, Site};
use fathom_kernels::elementwise::add;
use fathom_model::{Buffers, Model, Run, Trace};

/// Executes the requests without sharing; `on_progress` receives multiply-adds.
pub fn execute(
    model: &Model,
    trace: &Trace,
    requests: &[Request],
    on_progress: &dyn Fn(u64),
    sink: &mut dyn EditSink,
) {
    for (index, request) in requests.iter().enumerate() {
        one(model, trace, index, request, sink);
        on_progress(macs_of(model, trace.tokens.len(), request));
    }
}

/// Multiply-adds of one full forward pass with the logits of every position.
pub fn macs(model: &Model, tokens: usize) -> u64 {
    model.layers_macs(tokens) + model.head_macs_per_row() * tokens as u64
}

/// Multiply-adds of one request: its layers from the first on, and the logits of every position if it
/// reads any.
pub(super) fn macs_of(model: &Model, tokens: usize, request: &Request) -> u64 {
    let head = if request.logits.is_empty() { 0 } else { model.head_macs_per_row() * tokens as u64 };
    model.first_layers_macs(request.until, tokens) + head
}

fn one(model: &Model, trace: &Trace, index: usize, request: &Request, sink: &mut dyn EditSink) {
    let (d, tokens) = (trace.hidden, trace.tokens.len());
    let depth = model.config().depth();
    let edit = |l: usize, site: Site, rows: &mut [f32]| {
        let here = request.edits.iter().filter(|e| e.layer == l && e.site == site);
        here.for_each(|e| edit_rows(e, d, rows));
    };
    let batch = model.batch(vec![Run { rows: 0..tokens, first: 0, length: tokens, past: vec![] }]);
    let mut h = trace.resid[0].clone();
    let mut b = Buffers::default();
    let reads_from = request.level().saturating_sub(1);
    for l in 0..request.until {
        edit(l, Site::Resid, &mut h);
        model.attention(l, &batch, &[], &h, &mut b);
        let mut attn = b.attn_out.to_vec();
        edit(l, Site::Attn, &mut attn);
        let mut mid = vec![0.0; h.len()];
        add(&h, &attn, &mut mid);
        model.mlp(l, if model.config().parallel { &h } else { &mid }, &mut b);
        let mut added = b.mlp_out.to_vec();
        edit(l, Site::Mlp, &mut added);
        added.iter_mut().zip(&attn).for_each(|(m, a)| *m += a);
        edit(l, Site::Layer, &mut added);
        if l >= reads_from && !request.added.is_empty() {
            let part = request.added.start * d..request.added.end * d;
            sink.added(index, l, request.added.clone(), &added[part]);
        }
        h.iter_mut().zip(&added).for_each(|(h, x)| *h += x);
    }
    edit(depth, Site::Resid, &mut h);
    let vocab = model.config().vocab;
    for position in request.logits.clone() {
        let row = position * d..(position + 1) * d;
        let (mut clean, mut edited) = (vec![0.0; vocab], vec![0.0; vocab]);
        model.head(&trace.resid[depth][row.clone()], &mut clean);
        model.head(&h[row], &mut edited);
        sink.logits(position, &clean, &[index], &edited);
    }
}

/// Applies an edit to the rows of all positions.
fn edit_rows(edit: &Edit, d: usize, rows: &mut [f32]) {
    for position in edit.positions.clone() {
        edit.apply(position, &mut rows[position * d..(position + 1) * d]);
    }
}
