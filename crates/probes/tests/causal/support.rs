//! Fixtures, recorded values of runs, and comparisons.

#[path = "../common/mod.rs"]
mod common;

use common::ARCHITECTURES;
use fathom_model::source::Checkpoint;
use fathom_model::{Dtype, Model, Trace};
use fathom_probes::planner::{Action, Edit, EditSink, Request, Site, count, execute, naive};
use fathom_probes::{ExecOptions, MemoryPlan};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, LazyLock};

/// The fixture of every architecture, loaded once.
pub(crate) static MODELS: LazyLock<Vec<(&str, Model)>> = LazyLock::new(|| {
    let load = |name: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
        let checkpoint = Checkpoint::open(&folder).unwrap_or_else(|e| panic!("{e}"));
        checkpoint.load(Dtype::F32, &|| ()).unwrap_or_else(|e| panic!("{e}")).model
    };
    ARCHITECTURES.iter().map(|name| (*name, load(name))).collect()
});

/// A memory plan that puts everything into one batch.
pub(crate) const PLENTY: MemoryPlan = MemoryPlan { clean: 1, rows: 1 << 20, bytes: 1 << 28, saved: 1 << 28 };

/// The trace of a prompt in the vocabulary of every fixture.
pub(crate) fn run(model: &Model, tokens: usize) -> Trace {
    let text: Vec<u32> = (0..tokens as u32).map(|i| (i * i * 5 + i * 37 + 7) % 300).collect();
    model.run(&[&text]).unwrap().remove(0)
}

/// Calls `check` with the name, the model and the trace of a prompt for every architecture.
pub(crate) fn everywhere(tokens: usize, check: impl Fn(&str, &Model, &Trace)) {
    for (name, model) in MODELS.iter() {
        check(name, model, &run(model, tokens));
    }
}

/// Values between -1 and 1, different for every seed.
pub(crate) fn noise(count: usize, seed: u64) -> Arc<[f32]> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// One edit.
pub(crate) fn edit(site: Site, layer: usize, positions: Range<usize>, action: Action) -> Edit {
    Edit { layer, site, positions, action }
}

/// A request that reads everything at some positions.
pub(crate) fn request(model: &Model, edits: Vec<Edit>, read: Range<usize>) -> Request {
    Request { edits, added: read.clone(), logits: read, until: model.config().depth() }
}

/// The values of a run.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Seen {
    width: usize,
    /// D' by request, layer and position.
    pub(crate) added: BTreeMap<(usize, usize, usize), Vec<f32>>,
    /// Clean and edited logits by request and position.
    pub(crate) logits: BTreeMap<(usize, usize), [Vec<f32>; 2]>,
}

impl EditSink for Seen {
    fn added(&mut self, request: usize, layer: usize, positions: Range<usize>, added: &[f32]) {
        assert_eq!(added.len(), positions.len() * self.width);
        for (position, row) in positions.zip(added.chunks_exact(self.width)) {
            let twice = self.added.insert((request, layer, position), row.to_vec());
            assert!(twice.is_none(), "D of request {request}, layer {layer}, position {position} came twice");
        }
    }

    fn logits(&mut self, position: usize, clean: &[f32], requests: &[usize], edited: &[f32]) {
        assert_eq!(edited.len(), requests.len() * clean.len());
        for (request, row) in requests.iter().zip(edited.chunks_exact(clean.len())) {
            let twice = self.logits.insert((*request, position), [clean.to_vec(), row.to_vec()]);
            assert!(twice.is_none(), "logits of request {request}, position {position} came twice");
        }
    }
}

/// The values of the planner, and the multiply-adds it counts.
pub(crate) fn planned(model: &Model, trace: &Trace, requests: &[Request], limits: MemoryPlan) -> (Seen, u64) {
    let mut seen = Seen { width: trace.hidden, ..Seen::default() };
    let work = execute(model, trace, requests, &ExecOptions::planned(limits), &mut seen);
    let counted = count(model, trace.tokens.len(), requests, limits);
    assert_eq!(work, counted, "what is counted beforehand is what is done");
    (seen, work.macs)
}

/// The values of full forward passes.
pub(crate) fn full(model: &Model, trace: &Trace, requests: &[Request]) -> Seen {
    let mut seen = Seen { width: trace.hidden, ..Seen::default() };
    naive::execute(model, trace, requests, &|_| (), &mut seen);
    seen
}

/// D of the clean run.
pub(crate) fn clean_added(trace: &Trace, layer: usize, position: usize) -> Vec<f32> {
    let row = position * trace.hidden..(position + 1) * trace.hidden;
    let attn = &trace.attn_out[layer][row.clone()];
    attn.iter().zip(&trace.mlp_out[layer][row]).map(|(a, m)| a + m).collect()
}

/// The logits of the clean run.
pub(crate) fn clean_logits(model: &Model, trace: &Trace, position: usize) -> Vec<f32> {
    let mut logits = vec![0.0; model.config().vocab];
    let row = position * trace.hidden..(position + 1) * trace.hidden;
    model.head(&trace.resid[model.config().depth()][row], &mut logits);
    logits
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
