//! Quantised models give the same bits as their dequantised twins, whichever formats are mixed side
//! by side.

mod support;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use fathom_kernels::Buffer;
use fathom_model::source::Checkpoint;
use fathom_model::{Dtype, Model};
use std::path::Path;
use support::gguf::File;

const HIDDEN: usize = 256;
const WIDE: usize = 512;
const VOCAB: usize = 40;

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
        file.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
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
        files[0].tensor(&name, &shape, number_of(kind), &packed.data().unwrap());
        files[1].tensor(&name, &shape, number_of(GgmlDType::F32), &bytes);
    }
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
        let bytes: Vec<u8> = numbers(HIDDEN).iter().flat_map(|x| (1.0 + x).to_le_bytes()).collect();
        files
            .iter_mut()
            .for_each(|f| f.tensor(&format!("{name}.weight"), &[HIDDEN], number_of(GgmlDType::F32), &bytes));
    }
    files[0].write(quantised);
    files[1].write(plain);
}

/// Everything of a run that depends on weights, as bits.
fn run(model: &Model) -> Vec<u32> {
    let tokens: Vec<u32> = (0..VOCAB as u32).collect();
    let trace = model.run(&[&tokens]).unwrap().remove(0);
    let mut logits = Buffer::default();
    model.head(&trace.resid[1], &mut logits);
    let parts = [&trace.resid[0], &trace.attn_out[0], &trace.mlp_out[0], &logits];
    parts.into_iter().flat_map(|part| part.iter()).map(|x| x.to_bits()).collect()
}

/// Loads both and compares them; returns the bytes of the weights.
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
    use GgmlDType::{Q5_0, Q8_0};
    let formats =
        Formats { qkv: [Q5_0, Q5_0, Q8_0], out: Q5_0, up: [Q8_0, Q8_0], down: Q5_0, embedding: Q8_0 };
    let [quantised, plain] = check(&formats);
    assert_eq!(quantised * 16, plain * 5);
}

/// With their scales and offsets.
#[test]
fn four_bits_take_half_a_byte() {
    use GgmlDType::{Q4_1, Q4K};
    let formats = Formats { qkv: [Q4_1, Q4_1, Q4_1], out: Q4K, up: [Q4K, Q4_1], down: Q4_1, embedding: Q4_1 };
    let [quantised, plain] = check(&formats);
    assert_eq!(quantised * 16, plain * 3);
}

#[test]
fn quantised_matrices_beside_floats_become_floats() {
    use GgmlDType::{F16, F32, Q4K, Q8_0};
    let formats = Formats { qkv: [Q8_0, F16, F32], out: F16, up: [Q4K, F16], down: Q8_0, embedding: F32 };
    let [quantised, plain] = check(&formats);
    assert!(quantised < plain, "{quantised} against {plain} bytes");
}
