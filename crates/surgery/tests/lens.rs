//! Linear lenses: maps of least squared error to the last level.

use fathom_model::source::Checkpoint;
use fathom_model::{Backend, Dtype, Model, Trace};
use fathom_probes::{ExecOptions, LensMaps, MemoryPlan, lens};
use fathom_surgery::exit::{HeadFit, pack};
use std::path::Path;

fn load(name: &str) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    Checkpoint::open(&path).unwrap().load(Dtype::F32, &|| ()).unwrap().model
}

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// A run whose last level is an affine function of level 1 and of no other.
fn planted(model: &Model, rows: usize, seed: u32) -> Trace {
    let (on, d) = (model.backend(), model.config().hidden);
    let tokens: Vec<u32> = (0..rows as u32).map(|i| (i * 37 + seed) % model.config().vocab as u32).collect();
    let mut trace = model.run(&[&tokens]).unwrap().remove(0);
    let (weights, bias) = (numbers(d * d, 7), numbers(d, 8));
    let x = numbers(rows * d, seed);
    let row = |x: &[f32]| -> Vec<f32> {
        (0..d).map(|j| x.iter().zip(&weights[j * d..]).map(|(x, w)| x * w).sum::<f32>() + bias[j]).collect()
    };
    let last: Vec<f32> = x.chunks_exact(d).flat_map(row).collect();
    trace.resid[1] = on.buffer_of(&x);
    let depth = model.config().depth();
    trace.resid[depth] = on.buffer_of(&last);
    trace
}

#[test]
fn a_planted_affine_level_is_read_without_an_error() {
    let model = load("qwen2");
    let (d, depth) = (model.config().hidden, model.config().depth());
    let levels: Vec<usize> = (0..depth).collect();
    let mut fit = HeadFit::new(&levels, d);
    (0..8).for_each(|text| fit.add(model.backend(), &planted(&model, 60, 100 + text)));
    let maps = fit.solve().into_iter().map(|fitted| fitted.map(|f| pack(&model, &f).unwrap()));
    let maps = LensMaps::new(maps.collect());
    // On other tokens than the maps were fitted to.
    let trace = planted(&model, 30, 999);
    let memory = MemoryPlan { rows: 64, clean: 64, bytes: 1 << 26, saved: 1 << 26 };
    let exec = ExecOptions { memory, naive: false, on_progress: &|_| () };
    let through = lens::curves(&lens::sweep_through(&model, &trace, &maps, &exec));
    let plain = lens::curves(&lens::sweep(&model, &trace, &exec));
    assert!(through.kl_final_lens[1] < 1e-6, "{:?}", through.kl_final_lens);
    assert!(plain.kl_final_lens[1] > 0.1 && through.kl_final_lens[0] > 0.1, "{:?}", plain.kl_final_lens);
    assert!((through.overlap[1] - 1.0).abs() < 1e-12);
    // The last level is the lens.
    assert_eq!(through.kl_final_lens[depth], 0.0);
    assert_eq!(through.nll[depth], plain.nll[depth]);
}
