//! GGUF files.

use super::*;
use support::gguf::File;

const HIDDEN: usize = 32;

/// Name, shape and bytes of a tensor.
type Named = (String, Vec<usize>, Vec<u8>);

/// A change of a file in the making.
type Change = fn(&mut File);

/// A llama of two layers in GGUF: its metadata, and its tensors by name.
fn tiny() -> (File, Vec<Named>) {
    let mut file = File::default();
    file.text("general.architecture", "llama");
    for (key, value) in [
        ("block_count", 2),
        ("context_length", 128),
        ("embedding_length", HIDDEN as u32),
        ("feed_forward_length", 64),
        ("attention.head_count", 4),
    ] {
        file.number(&format!("llama.{key}"), value);
    }
    file.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    file.text("tokenizer.ggml.model", "gpt2");
    file.text("tokenizer.ggml.pre", "llama-bpe");
    file.number("tokenizer.ggml.bos_token_id", 0);
    file.texts("tokenizer.ggml.tokens", &(0..40).map(|i| format!("t{i}")).collect::<Vec<_>>());
    file.texts("tokenizer.ggml.merges", &[]);
    let mut tensors = Vec::new();
    let mut seed = 1u32;
    let mut add = |name: String, shape: &[usize]| {
        let count: usize = shape.iter().product();
        let bytes = (0..count).flat_map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((seed >> 8) as f32 / (1 << 24) as f32 - 0.5).to_le_bytes()
        });
        tensors.push((format!("{name}.weight"), shape.to_vec(), bytes.collect()));
    };
    add("token_embd".into(), &[40, HIDDEN]);
    add("output_norm".into(), &[HIDDEN]);
    for l in 0..2 {
        for (name, shape) in [
            ("attn_norm", &[HIDDEN][..]),
            ("attn_q", &[HIDDEN, HIDDEN]),
            ("attn_k", &[HIDDEN / 2, HIDDEN]),
            ("attn_v", &[HIDDEN / 2, HIDDEN]),
            ("attn_output", &[HIDDEN, HIDDEN]),
            ("ffn_norm", &[HIDDEN]),
            ("ffn_gate", &[64, HIDDEN]),
            ("ffn_up", &[64, HIDDEN]),
            ("ffn_down", &[HIDDEN, 64]),
        ] {
            add(format!("blk.{l}.{name}"), shape);
        }
    }
    (file, tensors)
}

/// Writes the tiny model after a change of its metadata.
fn write(path: &Path, change: impl FnOnce(&mut File)) {
    let (mut file, tensors) = tiny();
    change(&mut file);
    tensors.iter().for_each(|(name, shape, bytes)| file.tensor(name, shape, 0, bytes));
    file.write(path);
}

/// A folder, and the tiny model in it with grouped heads and a change of its metadata.
fn gguf(change: impl FnOnce(&mut File)) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(&path, |file| {
        file.number("llama.attention.head_count_kv", 2);
        change(file);
    });
    (folder, path)
}

#[test]
fn gguf_rope_scale_linear() {
    let ran = |change: fn(&mut File)| {
        let (_folder, path) = gguf(change);
        run(&path)
    };
    let typed = ran(|f| {
        f.text("llama.rope.scaling.type", "linear");
        f.float("llama.rope.scaling.factor", 4.0);
    });
    same(&typed, &ran(|f| f.float("llama.rope.scale_linear", 4.0)));
    same(&typed, &ran(|f| f.float("llama.rope.scaling.factor", 4.0)));
    let plain = ran(|_| ());
    assert!(typed.resid != plain.resid);
    same(&plain, &ran(|f| f.float("llama.rope.scale_linear", 0.0)));
    same(
        &plain,
        &ran(|f| {
            f.text("llama.rope.scaling.type", "none");
            f.float("llama.rope.scaling.factor", 4.0);
        }),
    );
    assert_eq!(typed.warnings, [""; 0]);
}

#[test]
fn gguf_yarn_attn_factor() {
    let factor = |more: &dyn Fn(&mut File)| {
        let (_folder, path) = gguf(|f| {
            f.text("llama.rope.scaling.type", "yarn");
            f.float("llama.rope.scaling.factor", 4.0);
            f.number("llama.rope.scaling.original_context_length", 32);
            more(f);
        });
        let fathom_model::config::Positions::Rotary(ropes) = run(&path).config.positions else { panic!() };
        match ropes[0].scaling {
            fathom_model::config::RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            _ => panic!("{ropes:?}"),
        }
    };
    let usual = 0.1 * 4f64.ln() + 1.0;
    assert_eq!(factor(&|_| ()), usual);
    assert_eq!(factor(&|f| f.float("llama.rope.scaling.attn_factor", 0.5)), 0.5 * usual);
}

#[test]
fn gguf_mistrals_window() {
    let (_folder, path) = gguf(|f| f.number("llama.attention.sliding_window", 8));
    let ran = run(&path);
    assert!(ran.config.layers.iter().all(|layer| layer.window == Some(8)));
    assert_eq!(ran.warnings, [""; 0]);
}

#[test]
fn gguf_metadata_that_changes_the_forward_pass() {
    let changes: [(&str, Change); 5] = [
        ("attention.causal", |f| f.flag("llama.attention.causal", false)),
        ("attention.clamp_kqv", |f| f.float("llama.attention.clamp_kqv", 8.0)),
        ("logit_scale", |f| f.float("llama.logit_scale", 8.0)),
        ("attention.value_length", |f| f.number("llama.attention.value_length", 16)),
        ("rope.scaling.attn_factor", |f| f.float("llama.rope.scaling.attn_factor", 2.0)),
    ];
    for (says, change) in changes {
        let (_folder, path) = gguf(change);
        refused(&path, &["model.gguf", says, "support"]);
    }
    let (_folder, path) = gguf(|f| f.number("llama.expert_count", 4));
    refused(&path, &["model.gguf", "'llama.expert_count' is 4", "blk.0.ffn_gate_inp.weight"]);
    let (_folder, path) = gguf(|f| {
        f.flag("llama.attention.causal", true);
        f.number("llama.expert_count", 0);
        f.float("llama.logit_scale", 1.0);
        f.text("general.name", "x");
        f.number("llama.something_new", 3);
    });
    warned(&run(&path), &["model.gguf: this key", "'llama.something_new'"]);
}

#[test]
fn gguf_types_of_files() {
    for (kind, says) in [("adapter", "adapter (LoRA)"), ("mmproj", "'mmproj'"), ("imatrix", "'imatrix'")] {
        let (_folder, path) = gguf(|f| f.text("general.type", kind));
        refused(&path, &["model.gguf", says]);
    }
    let (_folder, path) = gguf(|f| f.text("general.type", "model"));
    run(&path);
}

#[test]
fn gguf_unknown_types_of_tensors_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let (mut file, tensors) = tiny();
    file.number("llama.attention.head_count_kv", 2);
    for (name, shape, bytes) in &tensors {
        file.tensor(name, shape, if name.contains("attn_q") { 17 } else { 0 }, bytes);
    }
    file.write(&path);
    refused(&path, &["blk.0.attn_q.weight", "IQ2_XS", "IQ4_XS"]);
}

#[test]
fn gguf_kv_array() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(&path, |f| f.numbers("llama.attention.head_count_kv", &[2, 2]));
    let (_other, plain) = gguf(|_| ());
    same(&run(&path), &run(&plain));
    write(&path, |f| f.numbers("llama.attention.head_count_kv", &[2, 4]));
    refused(&path, &["head_count_kv' differs from layer to layer"]);
    write(&path, |f| f.numbers("llama.attention.head_count_kv", &[2]));
    refused(&path, &["head_count_kv' is an array of 1 for 2 layers"]);
}

#[test]
fn gguf_no_extension() {
    let (folder, path) = gguf(|_| ());
    let plain = run(&path);
    for name in ["sha256-4f8a", "model.gguf.part"] {
        let other = folder.path().join(name);
        std::fs::copy(&path, &other).unwrap();
        same(&run(&other), &plain);
    }
}

#[test]
fn gguf_split() {
    let (folder, whole) = gguf(|_| ());
    let plain = run(&whole);
    std::fs::remove_file(&whole).unwrap();
    let (metadata, tensors) = tiny();
    let part = |i: usize| folder.path().join(format!("model-{:05}-of-00003.gguf", i + 1));
    let write_part = |i: usize, no: u32| {
        let mut file = if i == 0 { metadata.clone() } else { File::default() };
        if i == 0 {
            file.number("llama.attention.head_count_kv", 2);
        }
        file.number("split.no", no);
        file.number("split.count", 3);
        file.number("split.tensors.count", tensors.len() as u32);
        let held = tensors.iter().skip(i * 8).take(8);
        held.for_each(|(name, shape, bytes)| file.tensor(name, shape, 0, bytes));
        file.write(&part(i));
    };
    (0..3).for_each(|i| write_part(i, i as u32));
    for path in [&part(0), &part(1), &part(2), folder.path()] {
        let ran = run(path);
        same(&ran, &plain);
        assert_eq!(ran.warnings, [""; 0]);
    }
    write_part(1, 2);
    refused(&part(0), &["model-00002-of-00003.gguf", "does not say that it is part 2"]);
    std::fs::remove_file(part(1)).unwrap();
    refused(&part(0), &["part 2 of 3, model-00002-of-00003.gguf, is missing"]);
    let renamed = folder.path().join("other.gguf");
    std::fs::rename(part(0), &renamed).unwrap();
    refused(&renamed, &["one of 3 parts", "NAME-00001-of-00003.gguf", "--merge"]);
}
