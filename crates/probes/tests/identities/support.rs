//! Fixtures, reference tensors and plain `f64` arithmetic.

#[path = "../common/mod.rs"]
mod common;

pub(crate) use common::{ARCHITECTURES, buffers, read_tokens};

use fathom_kernels::Buffer;
use fathom_model::source::Checkpoint;
use fathom_model::{Dtype, Hook, Model, Trace};
use fathom_probes::{ExecOptions, MemoryPlan, Observer, Probe, ProbeOptions, Sample, TokenizedPrompt};
use safetensors::SafeTensors;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// More memory than any fixture needs, for a single batch.
pub(crate) const PLENTY: usize = 1 << 28;

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

pub(crate) fn load(name: &str) -> Model {
    let checkpoint = Checkpoint::open(&folder(name)).unwrap_or_else(|e| panic!("{e}"));
    checkpoint.load(Dtype::F32, &|| ()).unwrap_or_else(|e| panic!("{e}")).model
}

/// Tokens in the vocabulary of every fixture, different for every `seed`.
pub(crate) fn tokens(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (i * i * 5 + i * 37 + seed * 101 + 3) % 300).collect()
}

pub(crate) fn run(model: &Model, tokens: &[u32]) -> Trace {
    model.run(&[tokens]).unwrap().remove(0)
}

/// Calls `check` with the name, the model and the trace of a prompt of 45 tokens,
/// longer than any window of the fixtures, for every architecture.
pub(crate) fn on_every_architecture(check: impl Fn(&str, &Model, &Trace)) {
    for name in ARCHITECTURES {
        let model = load(name);
        let trace = run(&model, &tokens(45, 1));
        check(name, &model, &trace);
    }
}

pub(crate) fn text(id: &str, tokens: Vec<u32>) -> TokenizedPrompt {
    TokenizedPrompt {
        masked: None,
        id: id.to_owned(),
        group: None,
        text_sha256: None,
        pieces: vec!["x".to_owned(); tokens.len()],
        tokens,
        positions: vec![],
    }
}

/// One prompt per length, all different.
pub(crate) fn texts(lengths: &[usize]) -> Vec<TokenizedPrompt> {
    let of = |(i, n): (usize, &usize)| text(&format!("p{i}"), tokens(*n, i as u32));
    lengths.iter().enumerate().map(of).collect()
}

pub(crate) fn options(probes: &[Probe]) -> ProbeOptions {
    ProbeOptions {
        probes: probes.to_vec(),
        memory: 1 << 26,
        naive: false,
        longest_text: 0,
        longest_pair: 0,
        skip: fathom_probes::SkipOptions::default(),
        gradients: fathom_probes::GradientOptions::default(),
        lens_maps: 0,
    }
}

/// A measurement without callbacks.
pub(crate) fn watch(stop: &dyn Fn() -> bool) -> Observer<'_> {
    Observer { is_cancelled: stop, ..Observer::NONE }
}

/// Default options with a bound on the bytes of logits.
pub(crate) fn exec(bytes: usize) -> ExecOptions<'static> {
    ExecOptions::planned(MemoryPlan { clean: 1, rows: 1 << 20, bytes, saved: bytes })
}

/// All probes on some prompts.
pub(crate) fn samples(model: &Model, texts: &[TokenizedPrompt]) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut keep = |sample| {
        samples.push(sample);
        Ok::<_, std::fmt::Error>(())
    };
    fathom_probes::measure(model, texts, &options(&Probe::CLEAN), watch(&|| false), &mut keep).unwrap();
    samples
}

/// The trace of some tokens of another, without its KV cache.
pub(crate) fn part(trace: &Trace, tokens: Range<usize>) -> Trace {
    let rows = tokens.start * trace.hidden..tokens.end * trace.hidden;
    let cut = |levels: &[Buffer]| levels.iter().map(|x| x[rows.clone()].to_vec().into()).collect();
    Trace {
        tokens: trace.tokens[tokens].to_vec(),
        hidden: trace.hidden,
        resid: cut(&trace.resid),
        attn_out: cut(&trace.attn_out),
        mlp_out: cut(&trace.mlp_out),
        kv_cache: vec![],
        token_inputs: vec![],
        post_norm: vec![],
        routes: vec![],
        without: trace.without.clone(),
    }
}

/// The values at a hook of layer `l`, as rows of `f64`.
pub(crate) fn hook(model: &Model, trace: &Trace, l: usize, name: &str) -> Vec<Vec<f64>> {
    let hook = Hook::parse(&format!("blocks.{l}.{name}"), trace.attn_out.len()).unwrap();
    rows(&model.hook(trace, hook), trace.hidden)
}

pub(crate) fn rows(x: &[f32], width: usize) -> Vec<Vec<f64>> {
    x.chunks_exact(width).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect()
}

/// Tensors of `golden.safetensors`, computed by Hugging Face transformers.
pub(crate) struct Golden {
    bytes: Vec<u8>,
    case: &'static str,
}

impl Golden {
    pub(crate) fn open(name: &str, case: &'static str) -> Self {
        Self { bytes: std::fs::read(folder(name).join("golden.safetensors")).unwrap(), case }
    }

    fn data(&self, name: &str) -> (Vec<u8>, Vec<usize>) {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors.tensor(&format!("{}.{name}", self.case)).unwrap();
        (tensor.data().to_vec(), tensor.shape().to_vec())
    }

    pub(crate) fn rows(&self, name: &str) -> Vec<Vec<f64>> {
        let (data, shape) = self.data(name);
        let floats: Vec<f32> = data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        rows(&floats, shape[1])
    }

    pub(crate) fn hook(&self, l: usize, name: &str) -> Vec<Vec<f64>> {
        self.rows(&format!("blocks.{l}.{name}"))
    }

    /// The tokens of a case with all of its positions.
    pub(crate) fn tokens(&self) -> Vec<u32> {
        let integers = |name| {
            let (data, _) = self.data(name);
            data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect::<Vec<_>>()
        };
        let tokens = integers("tokens");
        assert!(integers("rows").into_iter().eq(0..tokens.len() as u32), "rows are missing");
        tokens
    }
}

pub(crate) fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(crate) fn norm(a: &[f64]) -> f64 {
    product(a, a).sqrt()
}

pub(crate) fn cosine(a: &[f64], b: &[f64]) -> f64 {
    product(a, b) / (norm(a) * norm(b))
}

pub(crate) fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

pub(crate) fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.into_iter().collect();
    values.iter().sum::<f64>() / values.len() as f64
}

/// `log softmax` of a row of logits.
pub(crate) fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let shift = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let normaliser = shift + logits.iter().map(|x| (x - shift).exp()).sum::<f64>().ln();
    logits.iter().map(|x| x - normaliser).collect()
}

/// Fails if `got` differs from `want` by more than both tolerances.
#[track_caller]
pub(crate) fn close(what: &str, got: f64, want: f64, relative: f64, absolute: f64) {
    let gap = (got - want).abs();
    assert!(gap <= absolute.max(relative * want.abs()), "{what}: {got} against {want}, apart by {gap:.1e}");
}
