//! Damaged files end in an error that names the file, never in a panic.

use fathom_model::Dtype;
use fathom_model::source::Checkpoint;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// A copy of a model in a temporary folder; the file to damage, and what to open.
struct Copy {
    folder: tempfile::TempDir,
    file: String,
    original: Vec<u8>,
    open_folder: bool,
}

impl Copy {
    fn of(path: &str) -> Self {
        let source = fixtures().join(path);
        let folder = tempfile::tempdir().unwrap();
        let file = source.file_name().unwrap().to_str().unwrap().to_owned();
        let open_folder = !file.ends_with(".gguf");
        if open_folder {
            for name in ["config.json", "tokenizer.json"] {
                std::fs::copy(source.with_file_name(name), folder.path().join(name)).unwrap();
            }
        }
        Self { original: std::fs::read(&source).unwrap(), folder, file, open_folder }
    }

    /// Writes these bytes, loads, runs a token if it still loads; the error, if there is one.
    fn load(&self, bytes: &[u8]) -> Option<String> {
        let path = self.folder.path().join(&self.file);
        std::fs::write(&path, bytes).unwrap();
        let path = if self.open_folder { self.folder.path() } else { &path };
        let loaded = Checkpoint::open(path).and_then(|c| c.load(Dtype::F32, &|| ()));
        match loaded.and_then(|l| l.model.run(&[&[1, 2, 3]])) {
            Ok(_) => None,
            Err(e) => Some(e.to_string()),
        }
    }
}

/// Bytes from the start of the file in which the header lies, about.
fn edits(within: usize) -> impl Strategy<Value = Vec<(usize, u8)>> {
    prop::collection::vec((0..within, any::<u8>()), 1..6)
}

fn check(copy: &Copy, edits: &[(usize, u8)], cut: Option<usize>) {
    let mut bytes = copy.original.clone();
    for (at, byte) in edits {
        let len = bytes.len();
        bytes[at % len] = *byte;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut % (bytes.len() + 1));
    }
    // What matters is that this returns; where it fails, it says where.
    if let Some(error) = copy.load(&bytes) {
        assert!(!error.is_empty() && !error.contains('\n'), "{error}");
    }
}

macro_rules! damaged {
    ($($name:ident: $path:literal, $header:literal;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(150))]
            $(#[test]
            fn $name(edits in edits($header), cut in prop::option::weighted(0.3, any::<usize>())) {
                thread_local!(static COPY: Copy = Copy::of($path));
                COPY.with(|copy| check(copy, &edits, cut));
            })*
        }
    };
}

damaged! {
    safetensors: "qwen2-f16/model.safetensors", 4000;
    gguf_llama: "gguf/llama2.gguf", 20_000;
    gguf_gemma: "gguf/gemma3.gguf", 20_000;
    gguf_quantised: "gguf/mistral.gguf", 60_000;
    pickle: "llama2-bin/pytorch_model.bin", 40_000;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn configuration(field in 0usize..40, value in prop::sample::select(vec![
        "null", "0", "-1", "1", "7", "1e30", "18446744073709551615", "\"x\"", "[]", "{}", "true", "0.5", "100000",
    ])) {
        thread_local!(static COPY: Copy = Copy::of("gemma3/model.safetensors"));
        COPY.with(|copy| {
            let text = std::fs::read_to_string(fixtures().join("gemma3/config.json")).unwrap();
            let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
            let fields = json.as_object_mut().unwrap();
            let key = fields.keys().nth(field % fields.len()).unwrap().clone();
            fields.insert(key, serde_json::from_str(value).unwrap());
            std::fs::write(copy.folder.path().join("config.json"), json.to_string()).unwrap();
            check(copy, &[], None);
        });
    }
}

#[track_caller]
fn names(path: &str, damage: impl Fn(&mut Vec<u8>), expected: &[&str]) {
    let copy = Copy::of(path);
    let mut bytes = copy.original.clone();
    damage(&mut bytes);
    let error = copy.load(&bytes).expect("the damage must be noticed");
    for part in expected.iter().chain(&[copy.file.as_str()]) {
        assert!(error.contains(part), "'{error}' does not say '{part}'");
    }
}

#[test]
fn errors_name_the_file_and_the_tensor() {
    let half = |b: &mut Vec<u8>| b.truncate(b.len() / 2);
    names("qwen2-f16/model.safetensors", half, &["fetch the file again"]);
    names("gguf/llama2.gguf", half, &["cut off", "tensor '"]);
    names("gguf/llama2.gguf", |b| b.truncate(2000), &["fetch the file again"]);
    names("gguf/llama2.gguf", |b| b[0] = b'X', &["GGUF"]);
    names("llama2-bin/pytorch_model.bin", half, &["fetch the file again"]);
    // The last tensor's last value.
    let nan = |b: &mut Vec<u8>| {
        let end = b.len();
        b[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    };
    names("llama2/model.safetensors", nan, &["NaN", "tensor '"]);
}

/// Where the value of a key of 32 bits lies in a GGUF file.
fn value_of(bytes: &[u8], key: &str) -> Option<usize> {
    let at = bytes.windows(key.len()).position(|w| w == key.as_bytes())?;
    Some(at + key.len() + 4)
}

fn set(bytes: &mut [u8], key: &str, value: u32) {
    let at = value_of(bytes, key).unwrap();
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn heads_without_halves_are_refused() {
    let unrotated = |b: &mut Vec<u8>| set(b, "llama.rope.dimension_count", 0);
    let expected = ["'llama.rope.dimension_count' is 0; it must be even and the whole width of a head"];
    names("gguf/llama2.gguf", unrotated, &expected);
    // One dimension a head, so that all shapes fit: taking rows by halves of it divided by zero.
    let narrow = |b: &mut Vec<u8>| {
        let at = value_of(b, "llama.embedding_length").unwrap();
        let width = u32::from_le_bytes(b[at..at + 4].try_into().unwrap());
        for key in ["attention.head_count", "attention.head_count_kv"] {
            set(b, &format!("llama.{key}"), width);
        }
        for key in ["attention.key_length", "attention.value_length"] {
            if value_of(b, key).is_some() {
                set(b, key, 1);
            }
        }
        unrotated(b);
    };
    names("gguf/llama2.gguf", narrow, &expected);
}

#[test]
fn tensors_that_share_bytes_are_refused() {
    // The offsets of the two norms of a layer, of equal shape, come after rank, length and type.
    let share = |b: &mut Vec<u8>| {
        let offset = |b: &[u8], name: &str| value_of(b, name).unwrap() + 8 + 4;
        let (one, other) = (offset(b, "blk.0.attn_norm.weight"), offset(b, "blk.0.ffn_norm.weight"));
        b.copy_within(one..one + 8, other);
    };
    names("gguf/llama2.gguf", share, &["attn_norm.weight' and 'blk.0.ffn_norm.weight' overlap"]);
}
