//! Gradients against finite differences, on the fixture of every architecture.

use fathom_model::source::Checkpoint;
use fathom_model::{Batch, Buffers, Dtype, Model, Run, Saved};
use std::path::Path;

const ARCHITECTURES: [&str; 14] = [
    "llama2",
    "llama3",
    "mistral",
    "qwen2",
    "qwen2-window",
    "qwen3",
    "gemma2",
    "gemma3",
    "olmo2",
    "phi3",
    "phi3-longrope",
    "gpt_neox",
    "gpt_neox-serial",
    "gpt2",
];

fn load(name: &str) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    Checkpoint::open(&folder).unwrap().load(Dtype::F32, &|| ()).unwrap().model
}

/// Numbers between -1 and 1.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn batch(model: &Model, tokens: usize) -> Batch {
    model.batch(vec![Run { rows: 0..tokens, first: 0, length: tokens, past: vec![] }])
}

/// The derivative of `f` at 0 by central differences with steps `h`, 2 `h` and 4 `h`,
/// extrapolated, so that the error of the formula is of order h^6.
fn derivative(h: f64, f: impl Fn(f64) -> f64) -> f64 {
    let central = |h: f64| (f(h) - f(-h)) / (2.0 * h);
    let (one, two, four) = (central(h), central(2.0 * h), central(4.0 * h));
    let (fine, coarse) = ((4.0 * one - two) / 3.0, (4.0 * two - four) / 3.0);
    (16.0 * fine - coarse) / 15.0
}

/// `base + step * direction`, and the step that was really taken, which rounding
/// to `f32` changes too little to matter.
fn moved(base: &[f32], step: f64, direction: &[f32]) -> Vec<f32> {
    base.iter().zip(direction).map(|(x, v)| (f64::from(*x) + step * f64::from(*v)) as f32).collect()
}

/// A direction whose rows are as long as those of `like`.
fn direction(like: &[f32], width: usize, seed: u32) -> Vec<f32> {
    let mut v = numbers(like.len(), seed);
    for (v, x) in v.chunks_exact_mut(width).zip(like.chunks_exact(width)) {
        let scale = (dot(x, x) / dot(v, v)).sqrt() as f32;
        v.iter_mut().for_each(|v| *v *= scale);
    }
    v
}

/// Each layer by itself: the derivative of `c . layer(h)` for random `c`.
#[test]
fn layers_agree_with_finite_differences() {
    for name in ARCHITECTURES {
        let model = load(name);
        let (d, tokens) = (model.config().hidden, 40);
        let text: Vec<u32> = (0..tokens as u32).map(|i| (i * i * 5 + i * 37 + 3) % 300).collect();
        let trace = model.run(&[&text]).unwrap().remove(0);
        let batch = batch(&model, tokens);
        for l in 0..model.config().depth() {
            let h = &trace.resid[l];
            let leave = |h: &[f32]| {
                let mut out = vec![0.0; h.len()];
                let saved = model.layer_saved(l, &batch, h, &mut Buffers::default(), &mut out);
                (out, saved)
            };
            let (out, saved) = leave(h);
            assert_eq!(out, trace.resid[l + 1], "{name}: saving changes a result");
            for seed in 0..4 {
                // One position alone at first, so that attention's gradient stands out.
                let mut c = numbers(h.len(), seed);
                if seed == 0 {
                    c[..(tokens - 1) * d].fill(0.0);
                }
                let mut gradient = c.clone();
                model.layer_backward(l, &batch, &saved, &mut gradient);
                let v = direction(h, d, seed + 100);
                let want = derivative(0.004, |step| dot(&c, &leave(&moved(h, step, &v)).0));
                let got = dot(&gradient, &v);
                // What a random direction sees of an error of the whole gradient.
                let size = (dot(&gradient, &gradient) * dot(&v, &v) / h.len() as f64).sqrt();
                let gap = (got - want).abs() / size;
                assert!(gap < 1e-3, "{name}, layer {l}, seed {seed}: {got} against {want}, {gap:.1e}");
            }
        }
    }
}

/// The target from the stream that leaves layer `l` on, and its gradient.
fn target(model: &Model, batch: &Batch, l: usize, x: &[f32], answer: &[u32]) -> (f64, Vec<f32>) {
    let d = model.config().hidden;
    let mut h = x.to_vec();
    let mut out = vec![0.0; h.len()];
    let mut saved: Vec<Saved> = Vec::new();
    for above in l + 1..model.config().depth() {
        saved.push(model.layer_saved(above, batch, &h, &mut Buffers::default(), &mut out));
        std::mem::swap(&mut h, &mut out);
    }
    let mut gradient = vec![0.0; h.len()];
    let from = h.len() - answer.len() * d;
    let p = model.answer_backward(&h[from..], answer, &mut gradient[from..]);
    for (p, q) in p.iter().zip(model.answer(&h[from..], answer)) {
        assert_eq!(*p, q);
    }
    for above in (l + 1..model.config().depth()).rev() {
        model.layer_backward(above, batch, &saved[above - l - 1], &mut gradient);
    }
    (p.iter().sum(), gradient)
}

/// The whole way from the output of each layer to the probabilities of an answer.
#[test]
fn targets_agree_with_finite_differences() {
    for name in ARCHITECTURES {
        let model = load(name);
        let (d, tokens) = (model.config().hidden, 32);
        let text: Vec<u32> = (0..tokens as u32).map(|i| (i * i * 5 + i * 41 + 3) % 300).collect();
        let trace = model.run(&[&text]).unwrap().remove(0);
        let batch = batch(&model, tokens);
        let answer = [17, 250, 3];
        for l in 0..model.config().depth() {
            let x = &trace.resid[l + 1];
            let (_, gradient) = target(&model, &batch, l, x, &answer);
            let norm = dot(&gradient, &gradient).sqrt();
            assert!(norm > 0.0);
            for seed in 0..4 {
                let mut v = direction(x, d, seed + 7);
                if seed == 0 {
                    // Along the gradient itself: its length.
                    let scale = (dot(x, x).sqrt() / norm) as f32;
                    v.iter_mut().zip(&gradient).for_each(|(v, g)| *v = g * scale);
                }
                let step = if seed == 0 { 0.002 } else { 0.01 };
                let want = derivative(step, |step| target(&model, &batch, l, &moved(x, step, &v), &answer).0);
                let got = dot(&gradient, &v);
                let dims = if seed == 0 { 1.0 } else { (answer.len() * d) as f64 };
                let size = norm * (dot(&v, &v) / dims).sqrt();
                let gap = (got - want).abs() / size;
                assert!(gap < 2e-3, "{name}, layer {l}, seed {seed}: {got} against {want}, {gap:.1e}");
            }
        }
    }
}

#[test]
fn a_text_does_not_depend_on_its_batch() {
    for name in ["gemma3", "gpt_neox", "olmo2"] {
        let model = load(name);
        let (d, tokens, texts) = (model.config().hidden, 33, 3);
        let all = model.batch(
            (0..texts)
                .map(|i| Run { rows: i * tokens..(i + 1) * tokens, first: 0, length: tokens, past: vec![] })
                .collect(),
        );
        let h = numbers(texts * tokens * d, 5);
        let mut together = numbers(h.len(), 6);
        let alone = together.clone();
        let mut out = vec![0.0; h.len()];
        let saved = model.layer_saved(1, &all, &h, &mut Buffers::default(), &mut out);
        model.layer_backward(1, &all, &saved, &mut together);
        let one = batch(&model, tokens);
        for text in 0..texts {
            let part = text * tokens * d..(text + 1) * tokens * d;
            let mut out = vec![0.0; tokens * d];
            let saved = model.layer_saved(1, &one, &h[part.clone()], &mut Buffers::default(), &mut out);
            let mut gradient = alone[part.clone()].to_vec();
            model.layer_backward(1, &one, &saved, &mut gradient);
            assert_eq!(gradient, together[part], "{name}");
        }
    }
}
