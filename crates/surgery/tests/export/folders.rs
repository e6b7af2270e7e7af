//! Hugging Face folders.

use crate::support::*;
use fathom_model::config::Mlp;
use fathom_results::SkipPart;
use fathom_surgery::Removal;
use fathom_surgery::export::ExportFormat::Hf;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[test]
fn every_folder_gives_the_logits_of_the_run_without_the_layers() {
    for folder in folders() {
        check(&folder, Hf);
    }
}

/// A copy of a fixture with another config.json.
fn with_config(place: &Place, name: &str, change: impl FnOnce(&mut Value), config: &str) -> PathBuf {
    let (source, copy) = (fixtures().join(name), place.path().join(name));
    std::fs::create_dir(&copy).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        std::fs::copy(source.join(file), copy.join(file)).unwrap();
    }
    let mut json: Value = serde_json::from_slice(&std::fs::read(source.join(config)).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(copy.join("config.json"), json.to_string()).unwrap();
    copy
}

fn config_of(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn configurations_of_transformers_4_are_cut_too() {
    for folder in folders().iter().filter(|folder| folder.join("config.v4.json").is_file()) {
        let place = Place::new();
        let name = folder.file_name().unwrap().to_str().unwrap();
        check(&with_config(&place, name, |_| (), "config.v4.json"), Hf);
    }
}

#[test]
fn gemma_3_keeps_the_window_of_each_layer() {
    let place = Place::new();
    let source = with_config(&place, "gemma3", |_| (), "config.v4.json");
    let removal = Removal::parse(SkipPart::Layer, "1").unwrap();
    let out = Place::new();
    let done = exported(&source, &removal, Hf, &out);
    let config = config_of(&done.model);
    let local = "sliding_attention";
    assert_eq!(config["num_hidden_layers"], 6);
    assert_eq!(config["layer_types"], json!([local, local, local, local, "full_attention", local]));
    assert!(config.get("sliding_window_pattern").is_none());
    assert!(done.warnings[0].contains("layer_types"), "{:?}", done.warnings);
    // Layers at the end leave the pattern as it is.
    let removal = Removal::parse(SkipPart::Layer, "6").unwrap();
    let out = Place::new();
    let done = exported(&source, &removal, Hf, &out);
    let config = config_of(&done.model);
    assert_eq!((&config["sliding_window_pattern"], config.get("layer_types")), (&json!(6), None));
    assert_eq!(done.warnings, [""; 0]);
}

#[test]
fn qwen_2_begins_its_windows_where_the_layers_now_are() {
    for (list, first, windows) in [("0", 0, [true, true]), ("1", 1, [false, true]), ("2", 1, [false, true])] {
        for config in ["config.json", "config.v4.json"] {
            let place = Place::new();
            let source = with_config(&place, "qwen2-window", |_| (), config);
            let removal = Removal::parse(SkipPart::Layer, list).unwrap();
            let out = Place::new();
            let done = exported(&source, &removal, Hf, &out);
            assert_eq!(config_of(&done.model)["max_window_layers"], first);
            let layers = &open(&done.model).config().layers.clone();
            assert_eq!([layers[0].window.is_some(), layers[1].window.is_some()], windows);
        }
    }
}

#[test]
fn layers_keep_or_lack_their_experts() {
    for (name, list, dense, field) in [
        ("qwen3_moe-dense", "0", vec![0], "mlp_only_layers"),
        ("qwen3_moe-dense", "1", vec![], "mlp_only_layers"),
        ("glm4_moe", "0", vec![], "first_k_dense_replace"),
        ("glm4_moe", "1", vec![0], "first_k_dense_replace"),
    ] {
        let out = Place::new();
        let removal = Removal::parse(SkipPart::Layer, list).unwrap();
        let done = exported(&fixtures().join(name), &removal, Hf, &out);
        let layers = &open(&done.model).config().layers.clone();
        let found: Vec<usize> = (0..2).filter(|l| layers[*l].mlp == Mlp::Dense).collect();
        assert_eq!(found, dense, "{name} without {list}");
        let want = if field == "mlp_only_layers" { json!(dense) } else { json!(dense.len()) };
        assert_eq!(config_of(&done.model)[field], want, "{name} without {list}");
    }
}

#[test]
fn layers_that_count_on_each_other_are_not_cut() {
    let scalars = "multiplies the stream by a number";
    for (name, why) in [
        ("mllama", "attend to images"),
        ("gemma4", scalars),
        ("gemma4-e2b", scalars),
        ("gguf/gemma4.gguf", scalars),
        ("gguf/gemma4-e2b.gguf", scalars),
    ] {
        let out = Place::new();
        let removal = Removal::parse(SkipPart::Layer, "1").unwrap();
        let error = try_export(&fixtures().join(name), &removal, None, Hf, &out.path().join("pruned"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(why) && error.contains("cannot be taken out"), "{error}");
    }
}

#[test]
fn hybrids_name_how_their_layers_mix_positions() {
    let interval = |config: &mut Value| {
        config.as_object_mut().unwrap().remove("layer_types");
        config["full_attention_interval"] = json!(3);
    };
    let check = |source: &Path, gone: &str, types: [&str; 3]| {
        let out = Place::new();
        let removal = Removal::parse(SkipPart::Layer, "0").unwrap();
        let done = exported(source, &removal, Hf, &out);
        let written = config_of(&done.model);
        assert_eq!((&written["layer_types"], written.get(gone)), (&json!(types), None), "{gone}");
        let found = open(&done.model).config().clone();
        let attention: Vec<bool> = (0..3).map(|l| found.has_attention(l)).collect();
        assert_eq!(attention, types.map(|kind| kind == "full_attention"), "{gone}");
    };
    let place = Place::new();
    let lfm2 = with_config(&place, "lfm2", |_| (), "config.v4.json");
    check(&lfm2, "full_attn_idxs", ["full_attention", "conv", "conv"]);
    let qwen = with_config(&place, "qwen3_next", interval, "config.json");
    let types = ["linear_attention", "full_attention", "linear_attention"];
    check(&qwen, "full_attention_interval", types);
}

#[test]
fn lists_per_layer_are_cut_and_unknown_ones_named() {
    let place = Place::new();
    let change = |config: &mut Value| {
        config["no_rope_layers"] = json!([1, 0, 1]);
        config["made_up"] = json!(["a", "b", "c"]);
        config["eos_token_id"] = json!([1, 2, 3]);
        config["num_key_value_heads"] = json!([4, 4, 4]);
        config["vision_config"] = json!({"num_hidden_layers": 3, "made_up": [1, 2, 3]});
        config["other"] = json!({"made_up": [[1], [2], [3]], "n_layer": 3});
        config["quantization_config"] = json!({"quant_method": "fp8", "modules_to_not_convert":
            ["lm_head", "model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj", "model.layers.2.mlp"]});
    };
    let source = with_config(&place, "llama2", change, "config.json");
    let out = Place::new();
    let done = exported(&source, &Removal::parse(SkipPart::Layer, "1").unwrap(), Hf, &out);
    let config = config_of(&done.model);
    assert_eq!(config["no_rope_layers"], json!([1, 1]));
    assert_eq!(config["made_up"], json!(["a", "c"]));
    assert_eq!(config["eos_token_id"], json!([1, 2, 3]));
    assert_eq!(config["num_key_value_heads"], json!([4, 4]));
    assert_eq!(config["vision_config"], json!({"num_hidden_layers": 3, "made_up": [1, 2, 3]}));
    assert_eq!(config["other"], json!({"made_up": [[1], [3]], "n_layer": 2}));
    assert_eq!(
        config["quantization_config"]["modules_to_not_convert"],
        json!(["lm_head", "model.layers.0.mlp.up_proj", "model.layers.1.mlp"])
    );
    let named: Vec<&str> = done.warnings.iter().map(|w| w.split('\'').nth(1).unwrap()).collect();
    assert_eq!(named, ["made_up", "other.made_up"]);
}

#[test]
fn untouched_tensors_are_the_same_bytes() {
    let source = fixtures().join("llama2-sharded-bf16");
    let place = Place::new();
    let done = exported(&source, &Removal::parse(SkipPart::Layer, "1").unwrap(), Hf, &place);
    let (before, after) = (open(&source), open(&done.model));
    let tensors = after.weights().stored();
    assert!(tensors.iter().any(|t| t.name == "model.layers.1.mlp.down_proj.weight"));
    for tensor in &tensors {
        let name = tensor.name.replace("layers.1.", "layers.2.");
        let all = before.weights().stored();
        let old = all.iter().find(|old| old.name == name).unwrap();
        assert_eq!((old.kind, old.shape, old.bytes), (tensor.kind, tensor.shape, tensor.bytes), "{name}");
    }
    let removed = before.weights().names().iter().filter(|name| name.contains("layers.1.")).count();
    assert_eq!(tensors.len(), before.weights().names().len() - removed);
}

/// Masks of old GPT-2 files are of types that Fathom does not read.
#[test]
fn tensors_of_other_types_are_copied() {
    let source = fixtures().join("gpt2-hub");
    let place = Place::new();
    let done = exported(&source, &Removal::parse(SkipPart::Layer, "1").unwrap(), Hf, &place);
    let (before, after) = (open(&source), open(&done.model));
    let of = |c: &fathom_model::source::Checkpoint, start: &str| {
        c.weights().stored().iter().filter(|t| t.name.starts_with(start)).count()
    };
    assert!(after.weights().stored().iter().any(|t| t.name == "h.0.attn.bias"));
    let layers = |c: &fathom_model::source::Checkpoint| [0, 1, 2].map(|layer| of(c, &format!("h.{layer}.")));
    let [first, _, third] = layers(&before);
    assert_eq!(layers(&after), [first, third, 0]);
}

#[test]
fn the_tokenizer_and_settings_of_generation_come_along() {
    let place = Place::new();
    let source = with_config(&place, "smollm2", |_| (), "config.json");
    for name in ["generation_config.json", "chat_template.jinja", "LICENSE", "notes.txt", "model.bin.part"] {
        std::fs::write(source.join(name), name).unwrap();
    }
    let out = Place::new();
    let done = exported(&source, &Removal::parse(SkipPart::Layer, "0").unwrap(), Hf, &out);
    let copied = |name: &str| std::fs::read(done.model.join(name)).ok();
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "LICENSE",
    ] {
        assert_eq!(copied(name), std::fs::read(source.join(name)).ok(), "{name}");
        assert!(copied(name).is_some(), "{name}");
    }
    assert_eq!((copied("notes.txt"), copied("model.bin.part")), (None, None));
}

#[test]
fn a_single_file_is_a_source() {
    let place = Place::new();
    let source = fixtures().join("llama2/model.safetensors");
    check(&source, Hf);
    let removal = Removal::parse(SkipPart::Layer, "2").unwrap();
    let done = exported(&source, &removal, Hf, &place);
    assert_eq!(open(&done.model).config().depth(), 2);
}
