//! GGUF files as Hugging Face folders.

use crate::support::*;
use fathom_results::SkipPart;
use fathom_surgery::Removal;
use fathom_surgery::export::ExportFormat::Hf;
use serde_json::Value;
use std::path::PathBuf;

/// The tables of token ids, by the name of the file.
fn tables() -> Value {
    let text = std::fs::read_to_string(fixtures().join("gguf/tokenizers.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["files"].take()
}

/// The files of families that can be written as folders, which have tables of token ids, and the other files.
fn files() -> [Vec<PathBuf>; 2] {
    let tables = tables();
    let (with, without) = ggufs()
        .into_iter()
        .partition(|file| tables.get(file.file_stem().unwrap().to_str().unwrap()).is_some());
    [with, without]
}

#[test]
fn every_file_gives_the_logits_of_the_run_without_the_layers() {
    for file in files()[0].iter().filter(|file| file.file_stem().unwrap() != "llama3") {
        check(file, Hf);
    }
}

#[test]
fn families_without_a_form_are_refused() {
    for file in &files()[1] {
        let place = Place::new();
        let nothing = Removal::nothing(SkipPart::Layer);
        let error =
            try_export(file, &nothing, None, Hf, &place.path().join("out")).err().unwrap().to_string();
        let reasons = ["has no form of transformers here", "multiplies the stream by a number"];
        assert!(reasons.iter().any(|reason| error.contains(reason)), "{error}");
    }
}

/// The folder has the formula of the rotation, the file its rounded results.
#[test]
fn llama_3s_rotation_becomes_its_formula() {
    let source = fixtures().join("gguf/llama3.gguf");
    let place = Place::new();
    let done = exported(&source, &Removal::nothing(SkipPart::Layer), Hf, &place);
    let config: Value =
        serde_json::from_slice(&std::fs::read(done.model.join("config.json")).unwrap()).unwrap();
    let original: Value =
        serde_json::from_slice(&std::fs::read(fixtures().join("llama3/config.v4.json")).unwrap()).unwrap();
    for name in ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"] {
        let number = |json: &Value| json["rope_scaling"][name].as_f64().unwrap();
        assert_eq!(number(&config), number(&original), "{name}");
    }
    let (one, other) = (load(&source), load(&done.model));
    let tokens = tokens(&one);
    let floats = |bits: Vec<u32>| bits.into_iter().map(f32::from_bits).collect::<Vec<_>>();
    let one = floats(logits(&one, &all_layers(&one), &tokens));
    let other = floats(logits(&other, &all_layers(&other), &tokens));
    let gap = one.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(gap < 1e-4, "{gap}");
}

/// The converter and the fixtures' own folder agree about every tensor that is stored in full precision.
#[test]
fn tensors_get_the_names_and_orders_of_the_original_folder() {
    let mut compared = 0;
    for (file, folder) in [
        ("llama3", "llama3"),
        ("qwen3", "qwen3"),
        ("gptneox", "gpt_neox"),
        ("gpt2", "gpt2"),
        ("phi3", "phi3"),
        ("olmo2", "olmo2"),
    ] {
        let place = Place::new();
        let source = fixtures().join(format!("gguf/{file}.gguf"));
        let done = exported(&source, &Removal::nothing(SkipPart::Layer), Hf, &place);
        let (got, want) = (open(&done.model), open(&fixtures().join(folder)));
        assert_eq!(got.weights().names(), want.weights().names(), "{file}");
        for name in want.weights().names() {
            let shape = want.weights().shape(name).unwrap();
            let read = |c: &fathom_model::source::Checkpoint| {
                let tensor = c.weights().tensor(name, shape).unwrap();
                let mut all = vec![0.0; shape.iter().product()];
                tensor.read(0..shape[..shape.len() - 1].iter().product::<usize>().max(1), &mut all).unwrap();
                all
            };
            assert!(read(&got) == read(&want), "{file}: {name}");
            compared += 1;
        }
    }
    assert!(compared > 150, "{compared}");
}

/// Norms of Gemma are stored around zero in one form and around one in the other.
#[test]
fn each_tensor_is_in_the_smallest_type_that_holds_it() {
    use fathom_model::weights::StoredType;
    let place = Place::new();
    let source = fixtures().join("gguf/gemma3.gguf");
    let done = exported(&source, &Removal::nothing(SkipPart::Layer), Hf, &place);
    let of = |name: &str| {
        let opened = open(&done.model);
        let tensors = opened.weights().stored();
        tensors.iter().find(|t| t.name.ends_with(name)).unwrap().kind
    };
    // Stored as BF16; as F32 with random digits.
    assert_eq!(of("layers.0.mlp.up_proj.weight"), StoredType::Plain(safetensors::Dtype::BF16));
    assert_eq!(of("layers.0.input_layernorm.weight"), StoredType::Plain(safetensors::Dtype::F32));
}

#[test]
fn the_tokenizer_gives_the_same_ids() {
    let tables = tables();
    for file in &files()[0] {
        let place = Place::new();
        let done = exported(file, &Removal::nothing(SkipPart::Layer), Hf, &place);
        let (before, after) = (open(file), open(&done.model));
        let rows = tables[file.file_stem().unwrap().to_str().unwrap()]["texts"].as_array().unwrap().clone();
        assert!(rows.len() > 5);
        for row in rows {
            let text = row["text"].as_str().unwrap();
            let (one, other) = (before.tokenizer().encode(text), after.tokenizer().encode(text));
            assert_eq!(one.unwrap(), other.unwrap(), "{}: {text:?}", file.display());
            let bare = |c: &fathom_model::source::Checkpoint| c.tokenizer().encode_bare(text).unwrap();
            assert_eq!(bare(&before), bare(&after), "{}: {text:?}", file.display());
        }
    }
}
