//! Fixtures, recorded values of runs, and comparisons.

#[path = "../common/mod.rs"]
mod common;

use common::ARCHITECTURES;
pub(crate) use common::{buffers, mixing_macs, mlp_macs, projection_macs, read_tokens};
use fathom_kernels::Buffer;
use fathom_model::source::Checkpoint;
use fathom_model::{Buffers, Dtype, Model, Run, Trace};
use fathom_probes::planner::{self, EditSink, LogitReading, Site, count, execute, naive};
use fathom_probes::{ExecOptions, MemoryPlan};
use fathom_results::SkipPart;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;

pub(crate) type Action<'a> = planner::Action<'a, Buffer>;
pub(crate) type Edit<'a> = planner::Edit<'a, Buffer>;
pub(crate) type Request<'a> = planner::Request<'a, Buffer>;

/// The fixtures of encoders, loaded once.
pub(crate) static ENCODERS: LazyLock<Vec<(&str, Model)>> = LazyLock::new(|| {
    ["esm", "esm-first", "bert", "bert-symbols", "roberta", "distilbert", "modernbert"]
        .into_iter()
        .map(|name| (name, load(name)))
        .collect()
});

fn load(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    let checkpoint = Checkpoint::open(&folder).unwrap_or_else(|e| panic!("{e}"));
    checkpoint.load(Dtype::F32, &|| ()).unwrap_or_else(|e| panic!("{e}")).model
}

/// The fixture of every architecture, loaded once.
pub(crate) static MODELS: LazyLock<Vec<(&str, Model)>> =
    LazyLock::new(|| ARCHITECTURES.iter().map(|name| (*name, load(name))).collect());

/// A memory plan that puts everything into one batch.
pub(crate) const PLENTY: MemoryPlan = MemoryPlan { clean: 1, rows: 1 << 20, bytes: 1 << 28, saved: 1 << 28 };

/// The trace of a prompt in the vocabulary of every fixture.
pub(crate) fn run(model: &Model, tokens: usize) -> Trace {
    let vocab = model.config().vocab.min(300) as u32;
    let text: Vec<u32> = (0..tokens as u32).map(|i| (i * i * 5 + i * 37 + 7) % vocab).collect();
    model.run(&[&text]).unwrap().remove(0)
}

/// Calls `check` with the name, the model and the trace of a prompt for every architecture.
pub(crate) fn everywhere(tokens: usize, check: impl Fn(&str, &Model, &Trace)) {
    for (name, model) in MODELS.iter() {
        check(name, model, &run(model, tokens));
    }
}

/// Whether a layer has the part.
pub(crate) fn has_part(model: &Model, layer: usize, part: SkipPart) -> bool {
    let c = model.config();
    match part {
        SkipPart::Attn => c.has_mixer(layer),
        SkipPart::Mlp => c.has_mlp(layer),
        _ => true,
    }
}

/// Values between -1 and 1, different for every seed.
pub(crate) fn noise(count: usize, seed: u64) -> Buffer {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect::<Vec<_>>().into()
}

/// Any rows to erase with, one for each level, `[L + 1, d]`.
pub(crate) fn baseline(model: &Model) -> Buffer {
    noise((model.config().depth() + 1) * model.config().hidden, 5)
}

/// One edit.
pub(crate) fn edit(site: Site, layer: usize, positions: Range<usize>, action: Action<'_>) -> Edit<'_> {
    Edit { layer, site, positions, action }
}

/// A request that reads everything at some positions.
pub(crate) fn request<'a>(model: &Model, edits: Vec<Edit<'a>>, read: Range<usize>) -> Request<'a> {
    Request { edits, added: read.clone().into(), logits: read.into(), until: model.config().depth() }
}

/// The values of a run.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// The relative change of D by request, layer and position.
    pub(crate) added: BTreeMap<(usize, usize, usize), f64>,
    /// Clean and edited logits by request and position.
    pub(crate) logits: BTreeMap<(usize, usize), [Vec<f32>; 2]>,
}

impl EditSink for Seen {
    fn reading(&self) -> LogitReading {
        LogitReading::Rows
    }

    fn added(&mut self, request: usize, layer: usize, positions: Range<usize>, changes: &[f64]) {
        assert_eq!(changes.len(), positions.len());
        for (position, change) in positions.zip(changes) {
            let twice = self.added.insert((request, layer, position), *change);
            assert!(twice.is_none(), "D of request {request}, layer {layer}, position {position} came twice");
        }
    }

    fn logits(&mut self, request: usize, position: usize, numbers: &[f64]) {
        let (clean, edited) = numbers.split_at(numbers.len() / 2);
        assert_eq!(clean.len(), edited.len());
        let rows = [clean, edited].map(|row| row.iter().map(|x| *x as f32).collect());
        let twice = self.logits.insert((request, position), rows);
        assert!(twice.is_none(), "logits of request {request}, position {position} came twice");
    }
}

/// The values of the planner, and the multiply-adds it counts.
pub(crate) fn planned(
    model: &Model,
    trace: &Trace,
    requests: &[Request<'_>],
    limits: MemoryPlan,
) -> (Seen, u64) {
    let mut seen = Seen::default();
    let work = execute(model, trace, requests, &ExecOptions::planned(limits), &mut seen);
    let counted = count(model, trace.tokens.len(), requests, limits);
    assert_eq!(work, counted, "what is counted beforehand is what is done");
    (seen, work.macs)
}

/// The values of full forward passes.
pub(crate) fn full(model: &Model, trace: &Trace, requests: &[Request<'_>]) -> Seen {
    let mut seen = Seen::default();
    naive::execute(model, trace, requests, &|_| (), &mut seen);
    seen
}

/// D of the clean run.
pub(crate) fn clean_added(trace: &Trace, layer: usize, position: usize) -> Vec<f32> {
    let row = position * trace.hidden..(position + 1) * trace.hidden;
    let attn = &trace.attn_out[layer][row.clone()];
    attn.iter().zip(&trace.mlp_out[layer][row]).map(|(a, m)| a + m).collect()
}

/// D' of each layer and the stream behind the last one, `[T, d]`, when a part of layer `skipped` adds nothing
/// at some positions: a plain forward pass.
pub(crate) fn skipping(
    model: &Model,
    trace: &Trace,
    (site, skipped): (Site, usize),
    positions: Range<usize>,
) -> (Vec<Buffer>, Buffer) {
    let tokens = trace.tokens.len();
    let lost = positions.start * trace.hidden..positions.end * trace.hidden;
    let batch = model.batch(vec![Run { rows: 0..tokens, first: 0, length: tokens, past: vec![] }]);
    let (mut b, mut all, mut h) = (Buffers::new(model), Vec::new(), Buffer::from(trace.resid[0].to_vec()));
    for l in 0..model.config().depth() {
        let cut = |here: Site, rows: &mut Buffer| {
            if (here, l) == (site, skipped) {
                rows[lost.clone()].fill(0.0);
            }
        };
        read_tokens(model, trace, l, &mut b);
        model.attention(l, &batch, None, &h, &mut b);
        cut(Site::Attn, &mut b.attn_out);
        let mid = sum(&h, &b.attn_out);
        model.mlp(l, if model.config().parallel { &h } else { &mid }, &mut b);
        cut(Site::Mlp, &mut b.mlp_out);
        let mut added = sum(&b.attn_out, &b.mlp_out);
        cut(Site::Layer, &mut added);
        h = sum(&h, &added);
        all.push(added);
    }
    (all, h)
}

fn sum(a: &[f32], b: &[f32]) -> Buffer {
    a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>().into()
}

/// The logits of the clean run.
pub(crate) fn clean_logits(model: &Model, trace: &Trace, position: usize) -> Vec<f32> {
    logits(model, &trace.resid[model.config().depth()], position)
}

/// The logits of one row of the stream behind the last layer.
pub(crate) fn logits(model: &Model, h: &[f32], position: usize) -> Vec<f32> {
    let (d, mut logits) = (model.config().hidden, Buffer::default());
    model.head(&h[position * d..(position + 1) * d].to_vec().into(), &mut logits);
    logits.to_vec()
}

pub(crate) fn norm(row: &[f32]) -> f64 {
    row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// |a - b|.
pub(crate) fn gap(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
}

/// Whether two rows agree up to rounding.
pub(crate) fn near(a: &[f32], b: &[f32], relative: f64) -> bool {
    gap(a, b) <= relative * norm(b) + 1e-7
}

/// Whether two changes of a row agree if the changed rows agree up to rounding.
pub(crate) fn near_change(a: f64, b: f64, relative: f64) -> bool {
    (a - b).abs() <= relative * (1.0 + b)
}

fn probabilities(logits: &[f32]) -> Vec<f64> {
    let shift = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let raised: Vec<f64> = logits.iter().map(|x| f64::from(x - shift).exp()).collect();
    let sum: f64 = raised.iter().sum();
    raised.iter().map(|x| x / sum).collect()
}

/// |p - p'| of two rows of logits.
pub(crate) fn output_gap(a: &[f32], b: &[f32]) -> f64 {
    let pairs = probabilities(a).into_iter().zip(probabilities(b));
    pairs.map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// Fails if two effects differ by more than rounding.
#[track_caller]
pub(crate) fn close(what: &str, got: f64, want: f64) {
    assert!((got - want).abs() <= 2e-5 + 2e-4 * want, "{what}: {got} against {want}");
}
