//! Quantised models give the very numbers that their dequantised twins give, whichever formats stand side
//! by side.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use fathom_model::source::Checkpoint;
use fathom_model::{Dtype, Model};
use std::path::Path;

const HIDDEN: usize = 256;
const WIDE: usize = 512;
const VOCAB: usize = 40;

/// A GGUF file in the making.
#[derive(Default)]
struct File {
    metadata: Vec<u8>,
    keys: u64,
    list: Vec<u8>,
    tensors: u64,
    data: Vec<u8>,
}

impl File {
    fn string(to: &mut Vec<u8>, text: &str) {
        to.extend((text.len() as u64).to_le_bytes());
        to.extend(text.as_bytes());
    }

    fn key(&mut self, key: &str, kind: u32, value: impl FnOnce(&mut Vec<u8>)) {
        Self::string(&mut self.metadata, key);
        self.metadata.extend(kind.to_le_bytes());
        value(&mut self.metadata);
        self.keys += 1;
    }

    fn number(&mut self, key: &str, value: u32) {
        self.key(key, 4, |to| to.extend(value.to_le_bytes()));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8, |to| Self::string(to, value));
    }

    fn texts(&mut self, key: &str, values: &[String]) {
        self.key(key, 9, |to| {
            to.extend(8u32.to_le_bytes());
            to.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| Self::string(to, value));
        });
    }

    /// A tensor of this shape, slowest axis first.
    fn tensor(&mut self, name: &str, shape: &[usize], kind: GgmlDType, bytes: &[u8]) {
        Self::string(&mut self.list, name);
        self.list.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|d| self.list.extend((*d as u64).to_le_bytes()));
        self.list.extend(number_of(kind).to_le_bytes());
        self.list.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.tensors += 1;
    }

    fn write(&self, path: &Path) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(self.tensors.to_le_bytes());
        bytes.extend(self.keys.to_le_bytes());
        bytes.extend(&self.metadata);
        bytes.extend(&self.list);
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        std::fs::write(path, bytes).unwrap();
    }
}

/// The number that ggml gives a format.
fn number_of(kind: GgmlDType) -> u32 {
    match kind {
        GgmlDType::F32 => 0,
        GgmlDType::F16 => 1,
        GgmlDType::Q4_1 => 3,
        GgmlDType::Q5_0 => 6,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q2K => 10,
        GgmlDType::Q3K => 11,
        GgmlDType::Q4K => 12,
        GgmlDType::Q5K => 13,
        GgmlDType::Q6K => 14,
        other => panic!("{other:?} is not used here"),
    }
}

/// The formats of a layer's matrices.
struct Formats {
    qkv: [GgmlDType; 3],
    out: GgmlDType,
    up: [GgmlDType; 2],
    down: GgmlDType,
    embedding: GgmlDType,
}

/// Writes a model of one layer, quantised, and the same with its weights dequantised.
fn write(formats: &Formats, quantised: &Path, plain: &Path) {
    let mut files = [File::default(), File::default()];
    for file in &mut files {
        file.text("general.architecture", "llama");
        for (key, value) in [
            ("block_count", 1),
            ("context_length", 64),
            ("embedding_length", HIDDEN as u32),
            ("feed_forward_length", WIDE as u32),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
        ] {
            file.number(&format!("llama.{key}"), value);
        }
        file.key("llama.attention.layer_norm_rms_epsilon", 6, |to| to.extend(1e-5f32.to_le_bytes()));
        file.text("tokenizer.ggml.model", "gpt2");
        file.text("tokenizer.ggml.pre", "llama-bpe");
        file.number("tokenizer.ggml.bos_token_id", 0);
        file.texts("tokenizer.ggml.tokens", &(0..VOCAB).map(|i| format!("t{i}")).collect::<Vec<_>>());
        file.texts("tokenizer.ggml.merges", &[]);
    }
    let mut seed = 1u32;
    let mut numbers = |count: usize| -> Vec<f32> {
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..count).map(|_| next()).collect()
    };
    let [q, k, v] = formats.qkv;
    for (name, shape, kind) in [
        ("token_embd", [VOCAB, HIDDEN], formats.embedding),
        ("blk.0.attn_q", [HIDDEN, HIDDEN], q),
        ("blk.0.attn_k", [HIDDEN / 2, HIDDEN], k),
        ("blk.0.attn_v", [HIDDEN / 2, HIDDEN], v),
        ("blk.0.attn_output", [HIDDEN, HIDDEN], formats.out),
        ("blk.0.ffn_gate", [WIDE, HIDDEN], formats.up[0]),
        ("blk.0.ffn_up", [WIDE, HIDDEN], formats.up[1]),
        ("blk.0.ffn_down", [HIDDEN, WIDE], formats.down),
    ] {
        let tensor = Tensor::from_vec(numbers(shape[0] * shape[1]), &shape[..], &Device::Cpu).unwrap();
        let packed = QTensor::quantize(&tensor, kind).unwrap();
        let floats =
            packed.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let bytes: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
        let name = format!("{name}.weight");
        files[0].tensor(&name, &shape, kind, &packed.data().unwrap());
        files[1].tensor(&name, &shape, GgmlDType::F32, &bytes);
    }
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
        let bytes: Vec<u8> = numbers(HIDDEN).iter().flat_map(|x| (1.0 + x).to_le_bytes()).collect();
        files.iter_mut().for_each(|f| f.tensor(&format!("{name}.weight"), &[HIDDEN], GgmlDType::F32, &bytes));
    }
    files[0].write(quantised);
    files[1].write(plain);
}

/// Everything of a run that depends on weights, as bits.
fn run(model: &Model) -> Vec<u32> {
    let tokens: Vec<u32> = (0..VOCAB as u32).collect();
    let trace = model.run(&[&tokens]).unwrap().remove(0);
    let mut logits = vec![0.0; VOCAB * VOCAB];
    model.head(&trace.resid[1], &mut logits);
    let parts = [&trace.resid[0], &trace.attn_out[0], &trace.mlp_out[0], &logits];
    parts.into_iter().flatten().map(|x| x.to_bits()).collect()
}

/// Loads both and compares them; gives the bytes that the weights take.
#[track_caller]
fn check(formats: &Formats) -> [u64; 2] {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["quantised.gguf", "plain.gguf"].map(|name| folder.path().join(name));
    write(formats, &paths[0], &paths[1]);
    let load = |path: &Path, dtype| Checkpoint::open(path).unwrap().load(dtype, &|| ()).unwrap().model;
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let [quantised, plain] = [load(&paths[0], dtype), load(&paths[1], dtype)];
        let (a, b) = (run(&quantised), run(&plain));
        // Zero times a negative scale is a zero of either sign.
        let same = a.iter().zip(&b).all(|(a, b)| a == b || (a | b) << 1 == 0);
        assert!(same && a.len() == b.len(), "{dtype:?}");
    }
    paths.each_ref().map(|path| load(path, Dtype::F32).bytes())
}

#[test]
fn scales_of_16_and_32_columns_stand_side_by_side() {
    use GgmlDType::{Q2K, Q3K, Q4K, Q5K, Q6K};
    let formats = Formats { qkv: [Q4K, Q4K, Q6K], out: Q2K, up: [Q4K, Q3K], down: Q5K, embedding: Q6K };
    let [quantised, plain] = check(&formats);
    assert!(quantised * 5 < plain * 2, "{quantised} against {plain} bytes");
}

#[test]
fn scales_of_32_columns_take_least() {
    use GgmlDType::{Q4_1, Q5_0, Q8_0};
    let formats =
        Formats { qkv: [Q5_0, Q5_0, Q8_0], out: Q4_1, up: [Q4_1, Q4_1], down: Q5_0, embedding: Q8_0 };
    let [quantised, plain] = check(&formats);
    assert_eq!(quantised * 16, plain * 5);
}

#[test]
fn quantised_matrices_beside_floats_become_floats() {
    use GgmlDType::{F16, F32, Q4K, Q8_0};
    let formats = Formats { qkv: [Q8_0, F16, F32], out: F16, up: [Q4K, F16], down: Q8_0, embedding: F32 };
    let [quantised, plain] = check(&formats);
    assert!(quantised < plain, "{quantised} against {plain} bytes");
}
