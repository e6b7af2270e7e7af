//! Damaged and foreign models: each is one sentence, however it is damaged.

use crate::support::{
    Place, check_failure, edit_json, edit_safetensors, fail, fathom, find, finish, fixture, json, measure,
    overwrite, truncate,
};
use serde_json::json;
use std::fs;
use std::path::Path;

/// What is said about a fixture after `damage`.
#[track_caller]
fn check(name: &str, damage: impl FnOnce(&Path), parts: &[&str]) {
    let place = Place::new();
    let model = place.model(name);
    damage(&model);
    let parts = [&[place.path().to_str().unwrap()], parts].concat();
    fail(&mut measure(&model, place.data(), &place.out()), &parts);
    assert!(!place.at("out/results.json").exists());
}

const GGUF: &str = "gguf/llama2.gguf";

#[test]
fn a_gguf_file_that_is_cut_off() {
    let whole = |damage: &dyn Fn(&Path), parts: &[&str]| check(GGUF, damage, parts);
    let check = |at: &str, parts: &[&str]| {
        check(GGUF, |m| truncate(m, find(&fs::read(m).unwrap(), at) + 3), parts);
    };
    check("GGUF", &["does not start with the letters GGUF"]);
    check("general.architecture", &["header", "fetch the file again"]);
    check("tokenizer.ggml.tokens", &["header", "fetch the file again"]);
    check("blk.1.ffn_down.weight", &["header", "fetch the file again"]);
    whole(&|m| truncate(m, 0), &["letters GGUF"]);
    whole(&|m| truncate(m, fs::read(m).unwrap().len() - 500), &["cut off: tensor '", "fetch the file again"]);
}

/// Wherever a download broke off, there is one sentence and no more.
#[test]
fn a_gguf_file_cut_anywhere() {
    let place = Place::new();
    let whole = fs::read(fixture(GGUF)).unwrap();
    let path = place.at("cut.gguf");
    for piece in 0..40 {
        fs::write(&path, &whole[..whole.len() * piece / 40]).unwrap();
        check_failure(&finish(fathom().arg("models").arg(&path)), &["cut.gguf"]);
    }
}

#[test]
fn a_safetensors_file_cut_anywhere() {
    let place = Place::new();
    let model = place.model("gpt2");
    let path = model.join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for piece in 0..20 {
        fs::write(&path, &whole[..whole.len() * piece / 20]).unwrap();
        check_failure(&finish(fathom().arg("models").arg(&model)), &["model.safetensors", "again"]);
    }
}

/// Bytes changed in the header of a safetensors file give numbers or a sentence.
#[test]
fn a_safetensors_header_with_wrong_bytes_never_panics() {
    let place = Place::new();
    let model = place.model("gpt2");
    let path = model.join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for i in 0..60 {
        let mut bytes = whole.clone();
        bytes[(i * 7919) % header] ^= [0xff, 0x01, 0x04][i % 3];
        fs::write(&path, bytes).unwrap();
        let done = finish(&mut measure(&model, place.data(), &place.out()));
        if done.code != Some(0) {
            check_failure(&done, &[place.path().to_str().unwrap()]);
        }
    }
}

/// Bytes changed in the header of a GGUF file give a model or a sentence.
#[test]
fn a_gguf_header_with_wrong_bytes_never_panics() {
    let place = Place::new();
    let whole = fs::read(fixture(GGUF)).unwrap();
    let header = find(&whole, "output_norm.weight");
    let path = place.at("wrong.gguf");
    for i in 0..60 {
        let mut bytes = whole.clone();
        // Steps that share no factor with the alignment of anything.
        let at = 4 + (i * 7919) % header;
        bytes[at] ^= [0xff, 0x01, 0x80][i % 3];
        fs::write(&path, bytes).unwrap();
        let done = finish(fathom().arg("models").arg(&path));
        if done.code != Some(0) {
            check_failure(&done, &["wrong.gguf"]);
        }
    }
}

#[test]
fn a_gguf_file_that_says_something_else() {
    check(GGUF, |m| overwrite(m, "GGUF", "GGML"), &["does not start with the letters GGUF"]);
    let rename = |m: &Path| {
        let mut bytes = fs::read(m).unwrap();
        // The key, its type and the length of the value come before the value.
        let at = find(&bytes, "general.architecture") + 20 + 4 + 8;
        bytes[at..at + 5].copy_from_slice(b"mamba");
        fs::write(m, bytes).unwrap();
    };
    check(GGUF, rename, &["'mamba' is not supported", "llama", "gemma"]);
    let vanish = |m: &Path| overwrite(m, "blk.1.ffn_down.weight", "blk.1.ffn_gone.weight");
    check(GGUF, vanish, &["no tensor 'blk.1.ffn_down.weight'"]);
    check(GGUF, |m| overwrite(m, "llama.block_count", "llama.block_caunt"), &["llama.block_count"]);
}

#[test]
fn a_safetensors_file_that_is_damaged() {
    let check = |damage: &dyn Fn(&Path), parts: &[&str]| {
        let parts = [&["model.safetensors"], parts].concat();
        check("llama2", |m| damage(&m.join("model.safetensors")), &parts);
    };
    check(&|p| overwrite(p, "{\"", "{{"), &["header", "fetch the file again"]);
    check(&|p| fs::write(p, [0xff; 64]).unwrap(), &["header", "fetch the file again"]);
    check(&|p| fs::write(p, "").unwrap(), &["again"]);
    check(&|p| fs::write(p, "<!DOCTYPE html>").unwrap(), &["header", "fetch the file again"]);
    check(&|p| truncate(p, 9000), &["again"]);
}

#[test]
fn a_tensor_that_is_missing_or_foreign() {
    let name = "model.layers.1.mlp.down_proj.weight";
    let rename = |m: &Path| {
        edit_safetensors(&m.join("model.safetensors"), |header, _| {
            let tensor = header.as_object_mut().unwrap().remove(name).unwrap();
            header["model.layers.1.mlp.elsewhere.weight"] = tensor;
        });
    };
    check("llama2", rename, &["model.safetensors", &format!("no tensor '{name}'"), "do not belong together"]);
    let config = |edit: fn(&mut serde_json::Value)| move |m: &Path| edit_json(&m.join("config.json"), edit);
    check("llama2", config(|c| c["intermediate_size"] = 71.into()), &["shape [72, 32]", "[71, 32]"]);
    check("llama2", config(|c| c["num_hidden_layers"] = 4.into()), &["no tensor 'model.layers.3."]);
    check("llama2", config(|c| c["vocab_size"] = 100.into()), &["shape [384, 32]", "[100, 32]"]);
}

#[test]
fn a_weight_that_is_no_number() {
    let put = |value| move |m: &Path| put_weight(m, value);
    let parts = ["model.safetensors", "tensor 'model.layers.2.self_attn.v_proj.weight'", "row 5", "diverged"];
    check("llama2", put(f32::NAN), &[&parts[..], &["NaN"]].concat());
    check("llama2", put(f32::NEG_INFINITY), &[&parts[..], &["-inf"]].concat());
}

/// Finite, and too large for the sums to be.
#[test]
fn a_weight_that_overflows() {
    let place = Place::new();
    let model = place.model("llama2");
    put_weight(&model, 3e38);
    fail(
        &mut measure(&model, place.data(), &place.out()),
        &["no prompt could be measured", "'d-1'", "overflows", "dtype"],
    );
}

/// A prompt on which the model overflows is recorded, and neither stops the run nor enters a mean.
#[test]
fn a_prompt_that_overflows() {
    let place = Place::new();
    let model = place.model("gpt_neox");
    finish(&mut measure(&model, place.data(), &place.at("clean")));
    let samples = fs::read_to_string(place.at("clean/samples.jsonl")).unwrap();
    let samples: Vec<serde_json::Value> = samples.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let tokens = |i: usize| samples[i]["tokens"].as_array().unwrap();
    let others = [0, 1, 3].map(tokens);
    let own = tokens(2).iter().find(|t| others.iter().all(|other| !other.contains(t))).unwrap();
    edit_safetensors(&model.join("model.safetensors"), |header, data| {
        let start = header["gpt_neox.embed_in.weight"]["data_offsets"][0].as_u64().unwrap();
        let row = (start + own.as_u64().unwrap() * 4 * 32) as usize;
        data[row..row + 4 * 32].as_chunks_mut::<4>().0.fill(3e38f32.to_le_bytes());
    });
    let run = || finish(&mut measure(&model, place.data(), &place.out()));
    for attempt in ["first", "again"] {
        let done = run();
        assert_eq!(done.code, Some(0), "{attempt}: {}", done.stderr);
        assert!(done.stderr.contains("warning: 'mine' is left out: the residual stream"), "{}", done.stderr);
        let results = json(&place.at("out/results.json"));
        assert_eq!(
            (&results["data"]["prompts"], &results["data"]["failed"][0]["id"]),
            (&3.into(), &"mine".into())
        );
        let all = fs::read_to_string(place.at("out/samples.jsonl")).unwrap();
        assert_eq!(all.lines().count(), 4, "{attempt}");
        assert!(all.lines().nth(2).unwrap().contains("\"failed\":\"the residual stream is not a number"));
    }
    // The others are as if the prompt had never been there.
    let text = fs::read_to_string(place.data()).unwrap();
    let three: Vec<&str> = text.lines().filter(|line| !line.contains("mine")).collect();
    fs::write(place.data(), three.join("\n")).unwrap();
    finish(&mut measure(&model, place.data(), &place.at("three")));
    let probes = |out: &str| json(&place.at(out).join("results.json"))["probes"].clone();
    assert_eq!(probes("out"), probes("three"));
    assert_eq!(finish(fathom().arg("depth").arg(place.out())).code, Some(0));
}

fn put_weight(model: &Path, value: f32) {
    edit_safetensors(&model.join("model.safetensors"), |header, data| {
        let tensor = &header["model.layers.2.self_attn.v_proj.weight"];
        let at = tensor["data_offsets"][0].as_u64().unwrap() as usize + 4 * 32 * 5;
        data[at..at + 4].copy_from_slice(&value.to_le_bytes());
    });
}

/// The embedding is read row by row, as tokens need it, so it must be checked all the same.
#[test]
fn an_embedding_that_is_no_number() {
    let put = |m: &Path| {
        edit_safetensors(&m.join("model.safetensors"), |header, data| {
            let range = &header["model.embed_tokens.weight"]["data_offsets"];
            let range = [0, 1].map(|i| range[i].as_u64().unwrap() as usize);
            data[range[0]..range[1]].fill(0xff);
        });
    };
    check("llama2", put, &["tensor 'model.embed_tokens.weight'", "NaN", "diverged"]);
}

#[test]
fn a_folder_that_lacks_a_file() {
    let remove = |name: &'static str| move |m: &Path| fs::remove_file(m.join(name)).unwrap();
    check("llama2", remove("config.json"), &["config.json", "give the folder of a complete model"]);
    check("llama2", remove("tokenizer.json"), &["tokenizer.json", "save_pretrained"]);
    check("llama2", remove("model.safetensors"), &["no model.safetensors", "folder"]);
    let shard = "model-00002-of-00003.safetensors";
    check("llama2-sharded-bf16", remove(shard), &["index.json", shard, "missing", "again"]);
    let shard = "pytorch_model-00002-of-00003.bin";
    check("llama2-bin-sharded", remove(shard), &["index.json", shard, "missing", "again"]);
}

#[test]
fn an_index_of_shards_that_is_damaged() {
    let index = |content: &'static str| {
        move |m: &Path| fs::write(m.join("model.safetensors.index.json"), content).unwrap()
    };
    let check = |content, parts: &[&str]| check("llama2-sharded-bf16", index(content), parts);
    check("{", &["index.json", "not JSON"]);
    check("{}", &["index.json", "weight_map"]);
    check(r#"{"weight_map": {"a": "../../x.safetensors"}}"#, &["index.json", "not a plain file name"]);
}

#[test]
fn a_config_that_is_damaged_or_foreign() {
    let check = |content: &str, parts: &[&str]| {
        let parts = [&["config.json"], parts].concat();
        check("llama2", |m| fs::write(m.join("config.json"), content).unwrap(), &parts);
    };
    check("", &["JSON"]);
    check("{\"model_type\": ", &["JSON", "line 1"]);
    check("[]", &["model_type"]);
    check("{}", &["model_type"]);
    check("{\"model_type\": \"llama\"}", &["hidden_size"]);
    check("{\"model_type\": \"mamba\"}", &["'mamba' is not supported", "llama", "gemma"]);
}

/// Numbers that no model has: each must end in a sentence, without a large allocation.
#[test]
fn a_config_with_impossible_numbers() {
    let fields = [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
    ];
    for field in fields {
        for value in
            [json!(0), json!(-1), json!(3), json!(1u64 << 62), json!("four"), json!(null), json!(1e300)]
        {
            let place = Place::new();
            let model = place.model("llama2");
            edit_json(&model.join("config.json"), |c| c[field] = value.clone());
            let done = finish(&mut measure(&model, place.data(), &place.out()));
            // Some are no mistakes: a large context, a default in place of null.
            if done.code != Some(0) {
                check_failure(&done, &[place.path().to_str().unwrap()]);
            }
        }
    }
}

#[test]
fn a_tokenizer_that_is_damaged() {
    let check = |content: &str, parts: &[&str]| {
        let parts = [&["tokenizer.json"], parts].concat();
        check("llama2", |m| fs::write(m.join("tokenizer.json"), content).unwrap(), &parts);
    };
    check("", &[]);
    check("{\"model\": 3}", &[]);
    let foreign = fs::read_to_string(fixture("qwen2").join("tokenizer.json")).unwrap();
    check(&foreign[..foreign.len() / 2], &[]);
}

/// A tokenizer of a larger vocabulary than the model's.
#[test]
fn a_tokenizer_of_another_model() {
    let swap = |m: &Path| {
        edit_json(&m.join("tokenizer.json"), |t| {
            for id in t["model"]["vocab"].as_object_mut().unwrap().values_mut() {
                *id = (id.as_u64().unwrap() + 5000).into();
            }
        });
    };
    check("gpt2", swap, &["prompt 'd-1' of", "tokenizer", "vocabulary"]);
}

#[test]
fn a_pickle_that_is_damaged() {
    let check = |damage: &dyn Fn(&Path), parts: &[&str]| {
        let parts = [&["pytorch_model.bin"], parts].concat();
        check("llama2-bin", |m| damage(&m.join("pytorch_model.bin")), &parts);
    };
    let len = fs::read(fixture("llama2-bin").join("pytorch_model.bin")).unwrap().len();
    check(&|p| truncate(p, len / 2), &["again"]);
    check(&|p| truncate(p, 3), &["again"]);
    check(&|p| fs::write(p, "").unwrap(), &["again"]);
    check(&|p| fs::write(p, "an old pickle").unwrap(), &["zip format", "safetensors"]);
}

#[test]
fn a_pickle_with_wrong_bytes_never_panics() {
    let place = Place::new();
    let model = place.model("llama2-bin");
    let path = model.join("pytorch_model.bin");
    let whole = fs::read(&path).unwrap();
    let (pickle, directory) = (find(&whole, "data.pkl"), whole.len() - 4000);
    for i in 0..40 {
        let mut bytes = whole.clone();
        let start = if i % 2 == 0 { pickle } else { directory };
        bytes[start + (i * 101) % 4000] ^= [0xff, 0x01, 0x80][i % 3];
        fs::write(&path, bytes).unwrap();
        let done = finish(fathom().arg("models").arg(&model));
        if done.code != Some(0) {
            check_failure(&done, &["pytorch_model.bin"]);
        }
    }
}

#[test]
fn a_model_that_does_not_exist() {
    let place = Place::new();
    let with = |model: &str, parts: &[&str]| {
        fail(&mut measure(Path::new(model), place.data(), &place.out()), parts);
    };
    with("/no/such/model", &["no file or folder", "/no/such/model"]);
    with("./none.gguf", &["no file or folder", "./none.gguf"]);
    with("smollm3-135m", &["`smollm3-135m`", "short names", "smollm2-135m"]);
    with("a b/c", &["'a b/c'", "org/name"]);
    assert!(!place.out().exists());
}

#[test]
fn a_path_that_is_no_model() {
    let place = Place::new();
    fs::create_dir(place.at("empty")).unwrap();
    fs::write(place.at("notes.txt"), "x").unwrap();
    fs::write(place.at("notes.gguf"), "This is no model.").unwrap();
    fs::create_dir(place.at("folder.gguf")).unwrap();
    for (name, part) in [
        ("empty", "give"),
        ("notes.txt", "GGUF, safetensors or PyTorch"),
        ("notes.gguf", "letters GGUF"),
        ("folder.gguf", "give"),
    ] {
        fail(&mut measure(&place.at(name), place.data(), &place.out()), &[name, part]);
    }
}
