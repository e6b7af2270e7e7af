//! Time to plan edited runs, and to carry them out, on a tiny model: `cargo bench -p fathom-probes`.

use divan::{Bencher, black_box};
use fathom_kernels::Buffer;
use fathom_model::source::{Checkpoint, Loaded};
use fathom_model::{Dtype, Trace};
use fathom_probes::planner::{Action, Edit, EditSink, Request, Site, count, execute};
use fathom_probes::{ExecOptions, MemoryPlan};
use std::ops::Range;
use std::path::Path;

fn main() {
    divan::main();
}

const TOKENS: [usize; 3] = [16, 64, 128];

fn model() -> Loaded {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/llama3");
    Checkpoint::open(&folder).unwrap().load(Dtype::F32, &|| ()).unwrap()
}

fn clean_run(loaded: &Loaded, tokens: usize) -> Trace {
    let vocab = loaded.model.config().vocab as u32;
    let tokens: Vec<u32> = (0..tokens as u32).map(|t| (7 * t + 3) % vocab).collect();
    loaded.model.run(&[&tokens]).unwrap().remove(0)
}

/// Every layer bypassed before each fourth position, read from there on: the requests of the skip probe.
fn skips(depth: usize, tokens: usize) -> Vec<Request<'static, Buffer>> {
    let positions = (4..tokens).step_by(4);
    let request = |layer, t| Request {
        edits: vec![Edit { layer, site: Site::Layer, positions: 1..t, action: Action::Skip }],
        added: (t..tokens).into(),
        logits: (t..tokens).into(),
        until: depth,
    };
    positions.flat_map(|t| (0..depth).map(move |layer| request(layer, t))).collect()
}

/// Reads everything and keeps nothing.
struct Ignore;

impl EditSink for Ignore {
    fn added(&mut self, _request: usize, _layer: usize, _positions: Range<usize>, changes: &[f64]) {
        black_box(changes);
    }

    fn logits(&mut self, _request: usize, _position: usize, numbers: &[f64]) {
        black_box(numbers);
    }
}

#[divan::bench(args = TOKENS)]
fn plan(bencher: Bencher<'_, '_>, tokens: usize) {
    let loaded = model();
    let requests = skips(loaded.model.config().depth(), tokens);
    let memory = MemoryPlan::fit(&loaded.model, tokens, 1 << 30).unwrap();
    bencher
        .counter(divan::counter::ItemsCount::new(requests.len()))
        .bench(|| count(&loaded.model, tokens, black_box(&requests), memory));
}

#[divan::bench(args = TOKENS)]
fn run(bencher: Bencher<'_, '_>, tokens: usize) {
    let loaded = model();
    let trace = clean_run(&loaded, tokens);
    let requests = skips(loaded.model.config().depth(), tokens);
    let exec = ExecOptions::planned(MemoryPlan::fit(&loaded.model, tokens, 1 << 30).unwrap());
    bencher
        .counter(divan::counter::ItemsCount::new(requests.len()))
        .bench_local(|| execute(&loaded.model, &trace, black_box(&requests), &exec, &mut Ignore));
}
