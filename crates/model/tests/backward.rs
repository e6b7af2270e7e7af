//! Gradients against central differences of a reference in f64, for every architecture.

mod reference;

use fathom_kernels::Buffer;
use fathom_model::source::{Checkpoint, Loaded};
use fathom_model::{Batch, Buffers, Dtype, LayerKeys, Model, Run, Trace};
use reference::{Place, Reference, Row};
use std::ops::Range;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn load(name: &str) -> Loaded {
    Checkpoint::open(&fixtures().join(name)).unwrap().load(Dtype::F32, &|| ()).unwrap()
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

fn batch(model: &Model, tokens: usize) -> Batch {
    model.batch(vec![Run { rows: 0..tokens, first: 0, length: tokens, past: vec![] }])
}

/// Buffers with what layer `l` reads of a clean run beside the stream.
fn buffers(model: &Model, trace: &Trace, l: usize) -> Buffers {
    let positions: Vec<u32> = (0..trace.tokens.len() as u32).collect();
    let mut b = Buffers::new(model);
    b.keys = model.clean_keys(trace, &positions);
    model.read_tokens(l, trace, &positions, &mut b);
    b
}

fn copy(x: &[f32]) -> Buffer {
    x.to_vec().into()
}

/// The rows of a matrix in f64.
fn rows(x: &[f32], width: usize) -> Vec<Row> {
    x.chunks(width).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect()
}

fn norm<'a>(x: impl IntoIterator<Item = &'a f64>) -> f64 {
    x.into_iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The largest error of a row of the stream, of its length.
const FORWARD: f64 = 1e-5;

/// The largest error of a derivative, of the length of the gradient of what is moved.
const BACKWARD: f64 = 5e-5;

/// Tokens after the last rows of a text, whose probabilities are the target.
type Answer = [u32; 3];

/// After each of the last rows the likeliest token but one: its probability is neither nearly one,
/// where it does not change, nor tiny, where `f32` logits leave it few digits.
fn answer(reference: &Reference, last: &[Row]) -> Answer {
    let second = |h: &Row| {
        let chances = reference.probabilities(h);
        let mut tokens: Vec<u32> = (0..chances.len() as u32).collect();
        tokens.sort_by(|a, b| chances[*b as usize].total_cmp(&chances[*a as usize]));
        tokens[1]
    };
    let from = last.len() - 3;
    [0, 1, 2].map(|i| second(&last[from + i]))
}

/// The probabilities of an answer after the last rows of the stream.
fn probabilities(model: &Model, last: &Buffer, answer: Answer) -> Vec<f64> {
    let logs = model.answer(last, &answer, &mut Buffer::default());
    logs.into_iter().map(f64::exp).collect()
}

/// The target when `x` stands at a place in layer `l`, or behind the last layer.
fn target(
    reference: &Reference,
    trace: &Trace,
    answer: Answer,
    (l, place): (usize, Place),
    x: &[Row],
) -> f64 {
    let depth = trace.attn_out.len();
    let mut h = x.to_vec();
    reference.restore_keys();
    for above in l..depth {
        h = match above == l {
            true => reference.layer(l, &rows(&trace.resid[l], trace.hidden), place, x),
            false => reference.layer(above, &h, Place::Stream, &h),
        };
    }
    let last = &h[h.len() - answer.len()..];
    last.iter().zip(answer).map(|(h, token)| reference.probabilities(h)[token as usize]).sum()
}

/// A place, what stands there in the clean run, and the gradient of the target there.
type Gradient = (usize, Place, Vec<Row>, Vec<Row>);

/// The gradients at every place, by the backward pass under test.
fn gradients(model: &Model, trace: &Trace, answer: Answer) -> Vec<Gradient> {
    let (c, d) = (model.config(), trace.hidden);
    let batch = batch(model, trace.tokens.len());
    let last = &trace.resid[c.depth()];
    let from = last.len() - answer.len() * d;
    let answering = copy(&last[from..]);
    let mut of_answer = Buffer::default();
    let p = model.answer_backward(&answering, &answer, &mut Buffer::default(), &mut of_answer);
    assert_eq!(p, probabilities(model, &answering, answer));
    let mut gradient = copy(&vec![0.0; last.len()]);
    gradient[from..].copy_from_slice(&of_answer);
    let mut all = vec![(c.depth(), Place::Stream, rows(last, d), rows(&gradient, d))];
    let mut d_keys = LayerKeys::default();
    for l in (0..c.depth()).rev() {
        let (h, a, m) = (&trace.resid[l], &trace.attn_out[l], &trace.mlp_out[l]);
        let mut out = Buffer::default();
        let saved = model.layer_saved(l, &batch, h, &mut buffers(model, trace, l), &mut out);
        assert_eq!(out[..], trace.resid[l + 1][..], "saving changes a result");
        let mut mid = Buffer::default();
        model.after_attention(l, h, a, &mut mid);
        let mlp_reads = if c.parallel { h } else { &mid };
        let mut of_out = copy(&gradient);
        model.after_mlp_backward(l, &saved, &mut of_out);
        let of_mlp = model.mlp_backward(l, &saved, &of_out);
        let mut of_mid = copy(&of_out);
        if !c.parallel {
            of_mid.iter_mut().zip(of_mlp.iter()).for_each(|(d, m)| *d += m);
        }
        model.after_attention_backward(l, &saved, &mut of_mid);
        let mut same_keys = model.append_keys(&LayerKeys::default(), &d_keys);
        let of_attn = model.attention_backward(l, &batch, &saved, &mut same_keys, &of_mid);
        let mut of_stream = copy(&gradient);
        model.layer_backward(l, &batch, &saved, &mut d_keys, &mut of_stream);
        for (place, x, d_x) in [
            (Place::MlpOut, m, &of_out),
            (Place::MlpIn, mlp_reads, &of_mlp),
            (Place::AttnOut, a, &of_mid),
            (Place::AttnIn, h, &of_attn),
            (Place::Stream, h, &of_stream),
        ] {
            // What a layer does not have reads nothing.
            let absent = place == Place::MlpIn && !c.has_mlp(l) || place == Place::AttnIn && !c.has_mixer(l);
            if absent {
                assert!(d_x.iter().all(|x| *x == 0.0), "layer {l}, {place:?}");
                continue;
            }
            all.push((l, place, rows(x, d), rows(d_x, d)));
        }
        gradient = of_stream;
    }
    all
}

/// Whole directions, directions in one row, single coordinates: what of `x` is moved and
/// how, and the rows that this lies in.
fn directions(tokens: usize, width: usize, seed: u32) -> Vec<(Range<usize>, Vec<Row>)> {
    let random = rows(&numbers(tokens * width, seed), width);
    let mut all = vec![(0..tokens, random.clone())];
    for row in [0, tokens / 2, tokens - 1] {
        let mut v = vec![vec![0.0; width]; tokens];
        v[row].clone_from(&random[row]);
        all.push((row..row + 1, v.clone()));
        v[row].fill(0.0);
        v[row][seed as usize * 7 % width] = 1.0;
        all.push((row..row + 1, v));
    }
    all
}

/// The experts of every row of a layer against those of the reference.
#[track_caller]
fn check_routes(name: &str, (model, reference): (&Model, &Reference), trace: &Trace, l: usize) {
    let Some(routes) = &trace.routes[l] else { return };
    let (h, a) = (rows(&trace.resid[l], trace.hidden), rows(&trace.attn_out[l], trace.hidden));
    for (row, (h, a)) in h.iter().zip(&a).enumerate() {
        let read: Row = match model.config().parallel {
            true => h.clone(),
            false => h.iter().zip(a).map(|(h, a)| h + a).collect(),
        };
        let want = reference.route(l, &read);
        assert_eq!(want.len(), routes.active);
        let got = row * routes.active..(row + 1) * routes.active;
        for ((expert, weight), (want, w)) in
            routes.experts[got.clone()].iter().zip(&routes.weights[got]).zip(want)
        {
            assert_eq!(*expert as usize, want, "{name}, layer {l}, row {row}");
            assert!(
                (f64::from(*weight) - w).abs() < 1e-5,
                "{name}, layer {l}, row {row}: {weight} against {w}"
            );
        }
    }
}

/// Central differences at every place of every layer of a text of `tokens` tokens.
#[track_caller]
fn check(name: &str, tokens: usize) {
    check_loaded(name, load(name), tokens);
}

#[track_caller]
fn check_loaded(name: &str, loaded: Loaded, tokens: usize) {
    let (model, reference) = (&loaded.model, Reference::new(loaded.model.config(), &loaded.weights));
    let vocab = model.config().vocab.min(300) as u32;
    let text: Vec<u32> = (0..tokens as u32).map(|i| (i * i * 5 + i * 37 + 3) % vocab).collect();
    let trace = model.run(&[&text]).unwrap().remove(0);

    let mut h = reference.embed(&text);
    for l in 0..=model.config().depth() {
        for (i, (got, want)) in rows(&trace.resid[l], trace.hidden).into_iter().zip(&h).enumerate() {
            let gap: Row = got.iter().zip(want).map(|(g, w)| g - w).collect();
            let gap = norm(&gap) / norm(want);
            assert!(gap < FORWARD, "{name}, stream {l}, row {i}: differs by {gap:.1e}");
        }
        if l < model.config().depth() {
            check_routes(name, (model, &reference), &trace, l);
            h = reference.layer(l, &h, Place::Stream, &h);
        }
    }

    reference.keep_keys();
    let answer = answer(&reference, &h);
    let last = copy(&trace.resid[model.config().depth()][(tokens - answer.len()) * trace.hidden..]);
    let got = probabilities(model, &last, answer);
    for ((got, h), token) in got.iter().zip(rows(&last, trace.hidden)).zip(answer) {
        let want = reference.probabilities(&h)[token as usize];
        assert!((got - want).abs() < BACKWARD * want, "{name}: probability {got} against {want}");
    }

    for (seed, (l, place, x, gradient)) in gradients(model, &trace, answer).into_iter().enumerate() {
        assert!(norm(gradient.iter().flatten()) > 0.0);
        for (moved, v) in directions(tokens, trace.hidden, seed as u32) {
            let f = |step: f64| {
                let at = |(x, v): (&Row, &Row)| x.iter().zip(v).map(|(x, v)| x + step * v).collect();
                target(
                    &reference,
                    &trace,
                    answer,
                    (l, place),
                    &x.iter().zip(&v).map(at).collect::<Vec<Row>>(),
                )
            };
            // Of the size of what is moved: streams may be far from 1.
            let moved_from = norm(x.iter().flatten()) / ((tokens * trace.hidden) as f64).sqrt();
            // What a layer without a sublayer adds there is zero.
            let step = 1e-5 * if moved_from > 0.0 { moved_from } else { 1.0 };
            let want = (f(step) - f(-step)) / (2.0 * step);
            let got: f64 = gradient.iter().flatten().zip(v.iter().flatten()).map(|(g, v)| g * v).sum();
            // What a random direction sees of an error as large as the gradient itself.
            let part = gradient[moved.clone()].iter().flatten();
            let size = norm(part) * norm(v.iter().flatten()) / ((moved.len() * trace.hidden) as f64).sqrt();
            assert!(
                (got - want).abs() <= BACKWARD * size,
                "{name}, layer {l}, {place:?}, rows {moved:?}: {got} against {want}"
            );
        }
    }
}

macro_rules! folders {
    ($($test:ident: $folder:literal, $tokens:literal;)*) => {
        $(#[test]
        fn $test() {
            check($folder, $tokens);
        })*

        #[test]
        fn every_architecture_is_tested() {
            let architecture = |folder: &Path| {
                let checkpoint = Checkpoint::open(folder).unwrap();
                checkpoint.config().architecture.clone()
            };
            let tested = [$($folder),*].map(|name| architecture(&fixtures().join(name)));
            for entry in std::fs::read_dir(fixtures()).unwrap() {
                let path = entry.unwrap().path();
                if path.join("config.json").exists() {
                    assert!(tested.contains(&architecture(&path)), "{} has no test", path.display());
                }
            }
        }
    };
}

// Texts are longer than the windows, and one is longer than what LongRoPE's short
// factors hold for.
folders! {
    llama2: "llama2", 24;
    llama3: "llama3", 24;
    llama_dynamic: "llama-dynamic", 80;
    llama_linear: "llama-linear", 24;
    smollm2: "smollm2", 24;
    mistral: "mistral", 30;
    qwen2: "qwen2", 24;
    qwen2_window: "qwen2-window", 30;
    qwen2_yarn: "qwen2-yarn", 24;
    qwen3: "qwen3", 24;
    gemma2: "gemma2", 30;
    gemma3: "gemma3", 30;
    olmo2: "olmo2", 24;
    phi3: "phi3", 45;
    phi3_longrope: "phi3-longrope", 70;
    gpt_neox: "gpt_neox", 24;
    gpt_neox_serial: "gpt_neox-serial", 24;
    gpt2: "gpt2", 24;
    smollm3: "smollm3", 24;
    phi: "phi", 24;
    phi_norms: "phi-norms", 24;
    gemma: "gemma", 24;
    olmo3: "olmo3", 24;
    starcoder2: "starcoder2", 24;
    granite: "granite", 24;
    granite4: "granite4", 24;
    cohere: "cohere", 24;
    cohere2: "cohere2", 24;
    stablelm: "stablelm", 24;
    stablelm_parallel: "stablelm-parallel", 24;
    ministral: "ministral", 24;
    ministral3: "ministral3", 24;
    exaone4: "exaone4", 24;
    hunyuan: "hunyuan", 24;
    ernie4_5: "ernie4_5", 24;
    seed_oss: "seed_oss", 24;
    nemotron: "nemotron", 24;
    gptj: "gptj", 24;
    codegen: "codegen", 24;
    progen: "progen", 24;
    falcon: "falcon", 24;
    falcon_new: "falcon-new", 24;
    falcon_rw: "falcon-rw", 24;
    opt: "opt", 24;
    internlm2: "internlm2", 24;
    internlm3: "internlm3", 24;
    minicpm: "minicpm", 24;
    bloom: "bloom", 24;
    mpt: "mpt", 24;
    baichuan: "baichuan", 24;
    baichuan2_13b: "baichuan2-13b", 24;
    qwen2_5_vl: "qwen2_5_vl", 24;
    qwen3_vl: "qwen3_vl", 24;
    mistral3: "mistral3", 24;
    mixtral: "mixtral", 24;
    qwen3_moe: "qwen3_moe", 24;
    qwen3_moe_dense: "qwen3_moe-dense", 24;
    qwen2_moe: "qwen2_moe", 24;
    olmoe: "olmoe", 24;
    granitemoe: "granitemoe", 24;
    granitemoeshared: "granitemoeshared", 24;
    glm4_moe: "glm4_moe", 24;
    deepseek_v2: "deepseek_v2", 24;
    deepseek_v3: "deepseek_v3", 24;
    qwen3_next: "qwen3_next", 40;
    qwen3_5: "qwen3_5", 24;
    qwen3_5_moe: "qwen3_5_moe", 24;
    granite4_hybrid: "granite4-hybrid", 24;
    lfm2: "lfm2", 24;
    lfm2_moe: "lfm2_moe", 24;
    mamba2: "mamba2", 24;
    bamba: "bamba", 24;
    nemotron_h: "nemotron_h", 24;
    nemotron_h_moe: "nemotron_h-moe", 24;
    falcon_h1: "falcon_h1", 24;
    falcon_h1_norm: "falcon_h1-norm", 24;
    gpt_oss: "gpt_oss", 24;
    gpt_oss_mxfp4: "gpt_oss-mxfp4", 24;
    llama4: "llama4", 30;
    llama4_vision: "llama4-vision", 24;
    mllama: "mllama", 24;
    gemma4: "gemma4", 30;
    gemma4_e2b: "gemma4-e2b", 30;
    gemma4_moe: "gemma4-moe", 30;
    gemma4_unified: "gemma4-unified", 24;
    esm: "esm", 24;
    esm_first: "esm-first", 24;
    bert: "bert", 24;
    bert_symbols: "bert-symbols", 24;
    roberta: "roberta", 24;
    distilbert: "distilbert", 24;
    modernbert: "modernbert", 40;
}

/// Experts that are read from the checkpoint when rows take them give the bits of those in memory, forwards and
/// backwards, however many are kept.
#[test]
fn experts_in_the_checkpoint_are_those_in_memory() {
    for name in [
        "qwen2_moe",
        "gpt_oss-mxfp4",
        "deepseek_v3",
        "gguf/qwen3_moe.gguf",
        "gguf/gpt_oss.gguf",
        "gguf/llama4.gguf",
        "llama4",
        "gemma4-moe",
    ] {
        let model = load(name).model;
        let tokens: Vec<u32> = (0..24).map(|i| i * 5 + 3).collect();
        let trace = model.run(&[&tokens]).unwrap().remove(0);
        let all = |trace: &Trace| {
            [&trace.resid, &trace.mlp_out].map(|x| x.iter().map(|x| x.to_vec()).collect::<Vec<_>>())
        };
        let gradient = |model: &Model, trace: &Trace| gradients(model, trace, [7, 8, 9]);
        for kept in [0, 5000, u64::MAX] {
            let checkpoint = Checkpoint::open(&fixtures().join(name)).unwrap();
            let mapped =
                checkpoint.load_within(fathom_model::Cpu, Dtype::F32, Some(kept), &|| ()).unwrap().model;
            let other = mapped.run(&[&tokens]).unwrap().remove(0);
            assert_eq!(all(&trace), all(&other), "{name}, {kept} bytes");
            assert_eq!(trace.routes, other.routes, "{name}");
            assert_eq!(gradient(&model, &trace), gradient(&mapped, &other), "{name}, {kept} bytes");
            assert_eq!(mapped.parameters(), model.parameters(), "{name}");
            let last = model.config().depth() - 1;
            assert_eq!(
                mapped.sublayer_sizes(last)[1].parameters,
                model.sublayer_sizes(last)[1].parameters,
                "{name}"
            );
            assert_eq!(mapped.mlp_macs_per_row(last), model.mlp_macs_per_row(last), "{name}");
        }
    }
}

/// A copy of a fixture whose layers multiply the stream by other numbers.
fn with_scalars(name: &str, scalars: &[f32]) -> (tempfile::TempDir, fathom_model::Result<Loaded>) {
    let (from, copy) = (fixtures().join(name), tempfile::tempdir().unwrap());
    for entry in std::fs::read_dir(&from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let path = copy.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header: usize = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let list: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    for (l, scalar) in scalars.iter().enumerate() {
        let at = &list[format!("model.layers.{l}.layer_scalar")]["data_offsets"][0];
        let at = 8 + header + at.as_u64().unwrap() as usize;
        bytes[at..at + 4].copy_from_slice(&scalar.to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    let loaded = Checkpoint::open(copy.path()).and_then(|found| found.load(Dtype::F32, &|| ()));
    (copy, loaded)
}

#[test]
fn a_stream_that_layers_shrink() {
    // The product is 2e-16: squares of the stream in the scale of the last level would leave the range of f32.
    let (_copy, loaded) = with_scalars("gemma4", &[2e-4, 1e-5, 1e-3, 1e-4]);
    check_loaded("gemma4", loaded.unwrap(), 30);
    for (scalars, says) in [
        ([1.0, 0.0, 1.0, 1.0], "'model.layers.1.layer_scalar' multiplies the stream by 0"),
        ([-1.0, 1.0, 1.0, 1.0], "'model.layers.0.layer_scalar' multiplies the stream by -1"),
        ([1e-8, 1e-8, 1e-8, 1.0], "have products from"),
        ([1e8, 1e8, 1e8, 1.0], "have products from"),
    ] {
        let (_copy, loaded) = with_scalars("gemma4", &scalars);
        let error = loaded.err().expect("the numbers are impossible").to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_text_does_not_depend_on_its_batch() {
    for name in ["gemma3", "gpt_neox", "olmo2"] {
        let model = load(name).model;
        let (d, tokens, texts) = (model.config().hidden, 33, 3);
        let all = model.batch(
            (0..texts)
                .map(|i| Run { rows: i * tokens..(i + 1) * tokens, first: 0, length: tokens, past: vec![] })
                .collect(),
        );
        let h = Buffer::from(numbers(texts * tokens * d, 5));
        let mut together = Buffer::from(numbers(h.len(), 6));
        let alone = copy(&together);
        let mut out = Buffer::default();
        let saved = model.layer_saved(1, &all, &h, &mut Buffers::new(&model), &mut out);
        model.layer_backward(1, &all, &saved, &mut LayerKeys::default(), &mut together);
        let one = batch(&model, tokens);
        for text in 0..texts {
            let part = text * tokens * d..(text + 1) * tokens * d;
            let h = copy(&h[part.clone()]);
            let saved = model.layer_saved(1, &one, &h, &mut Buffers::new(&model), &mut out);
            let mut gradient = copy(&alone[part.clone()]);
            model.layer_backward(1, &one, &saved, &mut LayerKeys::default(), &mut gradient);
            assert_eq!(gradient[..], together[part], "{name}");
        }
    }
}
