//! Models on GPUs against the processor, on the fixture of every architecture.
//!
//! Without a GPU the tests are skipped with a message; with `FATHOM_TEST_REQUIRE=1` they fail instead. An emulation on
//! the processor, such as Mesa's, will do.

#![allow(clippy::print_stderr, reason = "tests report what they skip and where they run")]

use fathom_gpu::{Interface, open_cuda, open_wgpu};
use fathom_model::source::{Checkpoint, Loaded};
use fathom_model::{Backend, Cpu, Dtype};
use fathom_probes::{
    GradientOptions, LensMaps, LevelMap, Masked, Observer, ProbeOptions, SkipOptions, Targets, TokenizedPair,
    TokenizedPrompt, measure, measure_pairs, measure_through,
};
use fathom_results::{GradientSite, Probe, QaPair, Quadrature, Sample, SkipMode, SkipPart};
use serde_json::Value;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};

/// Every architecture, and each variant that changes how the residual stream is composed.
fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    // All probes need a head.
    let folders = entries.filter(|path| path.join("model.safetensors").is_file());
    let headless =
        |path: &PathBuf| ["bert-headless", "gemma3-encoder"].iter().any(|name| path.ends_with(name));
    let mut all: Vec<PathBuf> = folders.filter(|path| !headless(path)).collect();
    all.extend(["llama2.gguf", "gemma2.gguf"].map(|file| folder.join("gguf").join(file)));
    all.sort();
    assert!(all.len() >= 15, "{all:?}");
    all
}

fn load<B: Backend>(backend: B, path: &Path) -> Loaded<B> {
    load_as(Dtype::F32, backend, path)
}

fn load_as<B: Backend>(dtype: Dtype, backend: B, path: &Path) -> Loaded<B> {
    Checkpoint::open(path).unwrap().load_on(backend, dtype, &|| ()).unwrap()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// A check that any device can make.
trait Check {
    fn check<B: Backend + Clone>(&self, backend: B);
}

/// Makes a check on the first device of each interface.
fn on_devices(check: &impl Check) {
    let all = fathom_gpu::devices();
    if all.is_empty() {
        let required =
            std::env::var("FATHOM_TEST_REQUIRE").is_ok_and(|v| v.split(',').any(|n| n == "1" || n == "gpu"));
        assert!(
            !required,
            "FATHOM_TEST_REQUIRE asks for this test, but neither a GPU nor an emulation of one was found"
        );
        eprintln!("skipped: neither a GPU nor an emulation of one was found");
        return;
    }
    for interface in [Interface::Wgpu, Interface::Cuda] {
        let Some(device) = all.iter().find(|device| device.interface == interface) else { continue };
        eprintln!("on {} ({})", device.name, device.system);
        match interface {
            Interface::Wgpu => check.check(open_wgpu(device.index).unwrap()),
            Interface::Cuda => check.check(open_cuda(device.index).unwrap()),
        }
    }
}

fn tokens(count: usize, vocab: usize, seed: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 31 + seed * 17 + i * i % 7) % vocab as u32).collect()
}

fn norm(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum::<f64>().sqrt()
}

/// Compares matrices row by row, by the norm of the difference.
#[track_caller]
fn close(what: &str, got: &[f32], want: &[f32], width: usize, tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (row, (got, want)) in got.chunks(width).zip(want.chunks(width)).enumerate() {
        let gap = norm(got.iter().zip(want).map(|(g, w)| f64::from(g - w)));
        let size = norm(want.iter().map(|w| f64::from(*w)));
        assert!(gap <= tolerance * size, "{what}, row {row}: differs by {:.1e}", gap / size);
    }
}

fn all<B: Backend>(on: &B, buffer: &B::Buffer) -> Vec<f32> {
    on.download(buffer, 0..on.len(buffer))
}

struct Streams;

impl Check for Streams {
    fn check<B: Backend + Clone>(&self, backend: B) {
        for path in fixtures() {
            let (cpu, gpu) = (load(Cpu, &path), load(backend.clone(), &path));
            let (d, vocab) = (cpu.model.config().hidden, cpu.model.config().vocab);
            let text = tokens(37, vocab, 1);
            let want = cpu.model.run(&[&text]).unwrap().remove(0);
            let got = gpu.model.run(&[&text]).unwrap().remove(0);
            for (what, got, want) in [
                ("stream", &got.resid, &want.resid),
                ("attention", &got.attn_out, &want.attn_out),
                ("MLP", &got.mlp_out, &want.mlp_out),
            ] {
                for (l, (got, want)) in got.iter().zip(want).enumerate() {
                    let what = format!("{}: {what} {l}", name(&path));
                    close(&what, &all(&backend, got), want, d, 1e-4);
                }
            }
            let (mut logits, mut wanted) = (backend.empty(), Cpu.empty());
            gpu.model.head(got.resid.last().unwrap(), &mut logits);
            cpu.model.head(want.resid.last().unwrap(), &mut wanted);
            close(&format!("{}: logits", name(&path)), &all(&backend, &logits), &wanted, vocab, 1e-4);
        }
    }
}

#[test]
fn streams_and_logits_are_those_of_the_processor() {
    on_devices(&Streams);
}

struct Rows;

impl Check for Rows {
    fn check<B: Backend + Clone>(&self, backend: B) {
        for path in fixtures() {
            let gpu = load(backend.clone(), &path);
            let vocab = gpu.model.config().vocab;
            let texts = [3, 41, 1, 18].map(|n| tokens(n, vocab, n as u32));
            let together = gpu.model.run(&texts.each_ref().map(|text| &text[..])).unwrap();
            for (text, together) in texts.iter().zip(&together) {
                let alone = gpu.model.run(&[text]).unwrap().remove(0);
                for (l, (a, b)) in alone.resid.iter().zip(&together.resid).enumerate() {
                    let is_same = all(&backend, a) == all(&backend, b);
                    assert!(is_same, "{}: level {l} of {} tokens", name(&path), text.len());
                }
            }
        }
    }
}

/// On one device, bit for bit.
#[test]
fn rows_do_not_depend_on_their_batch() {
    on_devices(&Rows);
}

fn options(memory: u64, naive: bool) -> ProbeOptions {
    ProbeOptions {
        lens_maps: 0,
        probes: Probe::ALL.to_vec(),
        memory,
        naive,
        longest_text: 0,
        longest_pair: 0,
        skip: SkipOptions { modes: SkipMode::ALL.to_vec(), parts: SkipPart::ALL.to_vec() },
        gradients: GradientOptions {
            sites: GradientSite::ALL.to_vec(),
            quadrature: Quadrature::GaussLegendre(3),
            ..GradientOptions::default()
        },
    }
}

fn samples<B: Backend>(loaded: &Loaded<B>, naive: bool) -> Vec<Sample> {
    samples_within(loaded, 1 << 28, naive)
}

/// The samples of a text and a pair by all probes.
fn samples_within<B: Backend>(loaded: &Loaded<B>, memory: u64, naive: bool) -> Vec<Sample> {
    let vocab = loaded.model.config().vocab;
    let hidden = |positions: &[usize], tokens: usize| {
        let targets = Targets { positions: positions.to_vec(), tokens: vec![5; positions.len()] };
        let (own, halves) = ((1..tokens - 1).collect(), vec![vec![1, 2, 5]]);
        let masked = Masked { targets, own, halves, ratio: Some(0.2), one_at_a_time: None };
        (!loaded.model.config().is_causal()).then_some(masked)
    };
    let text = TokenizedPrompt {
        masked: hidden(&[3, 8, 12], 19),
        id: "text".to_owned(),
        group: None,
        text_sha256: None,
        tokens: tokens(19, vocab, 3),
        pieces: Vec::new(),
        positions: vec![6, 12],
    };
    let qa = QaPair { question: String::new(), answer: String::new(), answer_tokens: 2 };
    let (tokens, pieces) = (tokens(9, vocab, 5), Vec::new());
    let pair =
        TokenizedPair { id: "pair".to_owned(), group: None, tokens, pieces, qa, masked: hidden(&[2, 5], 9) };
    let mut all = Vec::new();
    let mut keep = |sample: Sample| {
        assert_eq!(sample.failed, None);
        all.push(sample);
        Ok::<_, Infallible>(())
    };
    let (model, options, texts) = (&loaded.model, options(memory, naive), [text]);
    measure(model, &texts, &options, Observer::NONE, &mut keep).unwrap();
    measure_pairs(model, &texts, &[pair], &options, Observer::NONE, &mut keep).unwrap();
    all
}

/// Errors of quadratures, which say more of rounding than of the model.
const ERRORS: [&str; 2] = ["completeness_error", "interval_error"];

/// All numbers of a sample, by the names on the way to them.
fn numbers(sample: &Sample) -> BTreeMap<String, Vec<f64>> {
    fn collect(value: &Value, path: &str, into: &mut BTreeMap<String, Vec<f64>>) {
        match value {
            Value::Object(map) => {
                map.iter().for_each(|(key, value)| collect(value, &format!("{path}.{key}"), into));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, path, into)),
            Value::Number(number) => into.entry(path.to_owned()).or_default().extend(number.as_f64()),
            _ => {}
        }
    }
    let mut all = BTreeMap::new();
    collect(&serde_json::to_value(sample).unwrap(), "", &mut all);
    all.retain(|path, _| !path.contains(".work.") && !ERRORS.iter().any(|error| path.ends_with(error)));
    all
}

/// Compares samples within 1e-3 of each number, or 2e-3 for gradients. For numbers below a hundredth of the largest of
/// their kind, a hundredth of that counts instead.
#[track_caller]
fn agree(what: &str, got: &[Sample], want: &[Sample]) {
    for (got, want) in got.iter().map(numbers).zip(want.iter().map(numbers)) {
        assert!(got.keys().eq(want.keys()), "{what}");
        for ((path, got), want) in got.iter().zip(want.values()) {
            assert_eq!(got.len(), want.len(), "{what}{path}");
            let tolerance = if path.contains("gradients") { 2e-3 } else { 1e-3 };
            let largest = want.iter().fold(0f64, |most, x| most.max(x.abs()));
            for (got, want) in got.iter().zip(want) {
                let most = tolerance * want.abs().max(0.01 * largest);
                assert!((got - want).abs() <= most, "{what}{path}: {got} against {want}");
            }
        }
    }
}

struct Probes;

impl Check for Probes {
    fn check<B: Backend + Clone>(&self, backend: B) {
        for path in fixtures() {
            let (cpu, gpu) = (load(Cpu, &path), load(backend.clone(), &path));
            agree(&name(&path), &samples(&gpu, false), &samples(&cpu, false));
        }
    }
}

/// At all sites and parts of layers.
#[test]
fn all_probes_agree_with_the_processor() {
    on_devices(&Probes);
}

/// The samples of a text by the lens and settling, through maps of all levels but the last: each mixes the stream with
/// its columns in another order and adds a constant.
fn through_maps<B: Backend>(loaded: &Loaded<B>) -> Vec<Sample> {
    let model = &loaded.model;
    let (d, depth) = (model.config().hidden, model.config().depth());
    let map = |level: usize| {
        let mut transposed = vec![0.0; d * d];
        for i in 0..d {
            transposed[i * d + i] = 1.0;
            transposed[i * d + (i * 7 + level + 1) % d] += 0.3;
        }
        let bias: Vec<f64> = (0..d).map(|i| ((i * 5 + level) % 11) as f64 / 50.0).collect();
        Some(LevelMap::pack(model, &transposed, &bias).unwrap())
    };
    through(loaded, &LensMaps::new((0..depth).map(map).collect()))
}

fn without_maps<B: Backend>(loaded: &Loaded<B>) -> Vec<Sample> {
    through(loaded, &LensMaps::none())
}

fn through<B: Backend>(loaded: &Loaded<B>, maps: &LensMaps<B>) -> Vec<Sample> {
    let model = &loaded.model;
    let probes = vec![Probe::Lens, Probe::Settling];
    let options = ProbeOptions { probes, lens_maps: maps.count(), ..options(1 << 28, false) };
    let text = TokenizedPrompt {
        masked: None,
        id: "text".to_owned(),
        group: None,
        text_sha256: None,
        tokens: tokens(23, model.config().vocab, 4),
        pieces: Vec::new(),
        positions: Vec::new(),
    };
    let mut all = Vec::new();
    let mut keep = |sample: Sample| {
        all.push(sample);
        Ok::<_, Infallible>(())
    };
    measure_through(model, maps, &[text], &options, Observer::NONE, &mut keep).unwrap();
    all
}

struct Mapped;

impl Check for Mapped {
    fn check<B: Backend + Clone>(&self, backend: B) {
        // Tied and untied heads, soft caps, GGUF; maps are fitted to causal models only.
        for fixture in ["llama3", "qwen2", "gemma2", "gpt2", "llama2.gguf"] {
            let path = fixtures().into_iter().find(|path| name(path) == fixture).unwrap();
            let (cpu, gpu) = (load(Cpu, &path), load(backend.clone(), &path));
            let want = through_maps(&cpu);
            agree(fixture, &through_maps(&gpu), &want);
            // The maps are read: without them the curves are others.
            let curve = |samples: &[Sample]| samples[0].lens.as_ref().unwrap().kl_final_lens.clone();
            assert_ne!(curve(&want), curve(&without_maps(&cpu)), "{fixture}");
        }
    }
}

#[test]
fn a_lens_with_maps_agrees_with_the_processor() {
    on_devices(&Mapped);
}

struct Rounded;

impl Check for Rounded {
    fn check<B: Backend + Clone>(&self, backend: B) {
        for path in fixtures() {
            let cpu = load_as(Dtype::Bf16, Cpu, &path);
            let gpu = load_as(Dtype::Bf16, backend.clone(), &path);
            let d = cpu.model.config().hidden;
            let text = tokens(23, cpu.model.config().vocab, 2);
            let want = cpu.model.run(&[&text]).unwrap().remove(0);
            let got = gpu.model.run(&[&text]).unwrap().remove(0);
            let (got, want) = (got.resid.last().unwrap(), want.resid.last().unwrap());
            // A sum in another order can round an input to its neighbour, of which there are 256 per power of two.
            close(&name(&path), &all(&backend, got), want, d, 1e-2);
        }
    }
}

/// In bf16, as far as rounded inputs allow.
#[test]
fn rounded_models_are_near_those_of_the_processor() {
    on_devices(&Rounded);
}

struct Memory;

impl Check for Memory {
    fn check<B: Backend + Clone>(&self, backend: B) {
        let path = fixtures().into_iter().find(|path| name(path) == "llama3").unwrap();
        let gpu = load(backend, &path);
        let all = samples_within(&gpu, 1 << 28, false);
        for memory in [1 << 20, 1 << 18] {
            let some = samples_within(&gpu, memory, false);
            assert_eq!(some.len(), all.len());
            for (some, all) in some.iter().map(numbers).zip(all.iter().map(numbers)) {
                assert_eq!(some, all, "{memory} bytes");
            }
        }
    }
}

/// Smaller groups of edited runs give the same bits.
#[test]
fn results_do_not_depend_on_memory() {
    on_devices(&Memory);
}

struct Planned;

impl Check for Planned {
    fn check<B: Backend + Clone>(&self, backend: B) {
        // Sequential and parallel blocks, norms on the outputs of sublayers, experts, latent attention, sinks,
        // recurrences, alone and beside attention, and convolutions.
        let names = [
            "llama3",
            "gemma2",
            "gpt_neox",
            "qwen2_moe",
            "deepseek_v3",
            "gpt_oss",
            "qwen3_next",
            "granite4-hybrid",
            "lfm2",
            "mamba2",
            "falcon_h1",
            "nemotron_h",
        ];
        for fixture in names {
            let path = fixtures().into_iter().find(|path| name(path) == fixture).unwrap();
            let gpu = load(backend.clone(), &path);
            agree(fixture, &samples(&gpu, false), &samples(&gpu, true));
        }
    }
}

#[test]
fn planned_runs_agree_with_full_passes() {
    on_devices(&Planned);
}
