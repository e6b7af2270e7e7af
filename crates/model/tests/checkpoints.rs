//! Checkpoints as people have them: each is read as transformers or llama.cpp read it, or refused or
//! warned of by name.

mod support;

use fathom_model::source::Checkpoint;
use fathom_model::{Config, Dtype, Trace};
use safetensors::tensor::Dtype as Stored;
use serde_json::json;
use std::path::Path;
use support::gguf::File;
use support::hf::{Folder, Tensor, Tensors};

/// The stream and the logits of a text, the configuration, and the warnings.
struct Ran {
    trace: Trace,
    logits: Vec<f32>,
    config: Config,
    warnings: Vec<String>,
}

fn run(path: &Path) -> Ran {
    let checkpoint = Checkpoint::open(path).unwrap_or_else(|e| panic!("{e}"));
    let warnings = checkpoint.warnings().map(str::to_owned).collect();
    let model = checkpoint.load(Dtype::F32, &|| ()).unwrap_or_else(|e| panic!("{e}")).model;
    let tokens: Vec<u32> = (0..80).map(|i| (i * 7 + 3) % 40).collect();
    let trace = model.run(&[&tokens]).unwrap().remove(0);
    let mut logits = vec![0.0; tokens.len() * model.config().vocab];
    model.head(trace.resid.last().unwrap(), &mut logits);
    Ran { trace, logits, config: model.config().clone(), warnings }
}

/// Fails unless both run alike to the bit.
#[track_caller]
fn same(one: &Ran, other: &Ran) {
    assert!(one.trace.resid == other.trace.resid, "the streams differ");
    assert!(one.logits == other.logits, "the logits differ");
}

/// Fails unless opening says all of this in one line.
#[track_caller]
fn refused(path: &Path, says: &[&str]) {
    let error = Checkpoint::open(path).map(|_| ()).expect_err("this must be refused").to_string();
    assert!(says.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{error}");
    assert!(!error.contains("fetch the model again"), "{error}");
}

/// Fails unless there is one warning, which says all of this.
#[track_caller]
fn warned(ran: &Ran, says: &[&str]) {
    let [warning] = &ran.warnings[..] else { panic!("{:?}", ran.warnings) };
    assert!(says.iter().all(|part| warning.contains(part)), "{warning}");
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258\nsize 134\n";

#[test]
fn hf_tied_but_own_head() {
    let mut folder = Folder::of("smollm2");
    let tied = run(folder.path());
    assert!(tied.warnings.is_empty() && tied.config.tied);
    let embedding = folder.tensors["model.embed_tokens.weight"].clone();
    folder.tensors.insert("lm_head.weight".into(), embedding.clone());
    folder.write_weights();
    // A copy of the embedding is what tied models often store.
    let copied = run(folder.path());
    assert!(copied.warnings.is_empty() && copied.config.tied);
    same(&copied, &tied);
    let half: Vec<f32> = embedding.floats().iter().map(|x| x / 2.0).collect();
    folder.tensors.insert("lm_head.weight".into(), Tensor::of(&embedding.shape, &half));
    folder.write_weights();
    let own = run(folder.path());
    warned(&own, &["'lm_head.weight'", "ties"]);
    assert!(own.trace.resid == tied.trace.resid && !own.config.tied);
    assert!(own.logits.iter().zip(&tied.logits).all(|(a, b)| *a == b / 2.0));
}

#[test]
fn hf_rope_scaling_beside_rope_parameters() {
    let folder = Folder::of("qwen2");
    let scaling = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
    // The base is lost with the object that loses.
    folder.set(
        json!({"rope_scaling": scaling, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    );
    let both = run(folder.path());
    warned(&both, &["'rope_scaling' and 'rope_parameters'", "config.json"]);
    folder.set(json!({"rope_scaling": scaling, "rope_parameters": null, "rope_theta": 10000.0}));
    let alone = run(folder.path());
    same(&both, &alone);
    // An empty object says nothing.
    folder.set(json!({"rope_scaling": {}, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rope_theta": null}));
    let empty = run(folder.path());
    folder.set(json!({"rope_scaling": null}));
    same(&empty, &run(folder.path()));
    assert!(empty.trace.resid != both.trace.resid);
}

#[test]
fn hf_settings_that_change_the_forward_pass() {
    for (field, value) in [
        ("is_causal", json!(false)),
        ("use_bidirectional_attention", json!(true)),
        ("is_encoder_decoder", json!(true)),
        ("add_cross_attention", json!(true)),
        ("alibi", json!(true)),
        ("pruned_heads", json!({"0": [1]})),
        ("num_local_experts", json!(8)),
        ("n_routed_experts", json!(64)),
    ] {
        let folder = Folder::of("llama3");
        folder.set(json!({field: value}));
        refused(folder.path(), &["config.json", &format!("'{field}'"), "not supported"]);
    }
    let folder = Folder::of("llama3");
    folder.set(json!({"is_causal": true, "use_bidirectional_attention": false, "num_experts": 0}));
    assert_eq!(run(folder.path()).warnings, [""; 0]);
}

#[test]
fn hf_settings_that_nobody_knows() {
    let folder = Folder::of("llama3");
    let plain = run(folder.path());
    folder.set(json!({
        "logits_scaling": 8.0, "some_norm": "yes", "off": false, "nothing": null, "torch_dtype": "float16",
        "rope_theta": 500.0,
    }));
    folder.edit("config.json", |config| config["rope_parameters"]["attn_factor"] = json!(0.5));
    let ran = run(folder.path());
    warned(
        &ran,
        &["config.json: these settings", "'logits_scaling', 'rope_parameters.attn_factor', 'some_norm'"],
    );
    same(&ran, &plain);
}

#[test]
fn hf_biases_follow_attention_bias_in_every_family_that_has_it() {
    for name in ["gemma2", "olmo2", "qwen3"] {
        let mut folder = Folder::of(name);
        folder.set(json!({"attention_bias": true}));
        refused(folder.path(), &["there is no tensor", "_proj.bias'"]);
        for (weight, tensor) in folder.tensors.clone() {
            if let Some(matrix) = weight.strip_suffix("_proj.weight").filter(|m| m.contains("self_attn")) {
                let zeros = vec![0.0; tensor.shape[0]];
                folder.tensors.insert(format!("{matrix}_proj.bias"), Tensor::of(&[zeros.len()], &zeros));
            }
        }
        folder.write_weights();
        same(&run(folder.path()), &run(Folder::of(name).path()));
    }
}

#[test]
fn hf_quantised_by_name() {
    for (config, says) in [
        (json!({"quant_method": "gptq", "bits": 4}), "GPTQ"),
        (json!({"quant_method": "awq", "bits": 4}), "AWQ"),
        (json!({"quant_method": "bitsandbytes", "load_in_4bit": true}), "bitsandbytes"),
        (json!({"load_in_8bit": true}), "bitsandbytes"),
        (json!({"quant_method": "torchao"}), "torchao"),
        (json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}), "compressed-tensors"),
        (json!({"bits": 3}), "unnamed"),
    ] {
        let mut folder = Folder::of("llama3");
        folder.set(json!({"quantization_config": config}));
        // The weights of such a model lack what the architecture needs.
        folder.tensors.retain(|name, _| !name.contains("q_proj"));
        folder.write_weights();
        refused(folder.path(), &["config.json", "quantised", says, "'quantization_config'"]);
    }
}

/// The nearest 8-bit float, as bits: a search, for this is a test.
fn f8(value: f32) -> u8 {
    let decode = |bits: u8| {
        let (exponent, fraction) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
        let magnitude = match exponent {
            0 => fraction / 8.0 * 2f32.powi(-6),
            _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
        };
        if bits >= 128 { -magnitude } else { magnitude }
    };
    let finite = (0..=255u8).filter(|bits| bits & 0x7f != 0x7f);
    finite.min_by(|a, b| (decode(*a) - value).abs().total_cmp(&(decode(*b) - value).abs())).unwrap()
}

/// Matrices of 8-bit floats with a scale for each block, row or matrix are what they are dequantised.
#[test]
fn hf_fp8() {
    let decode: Vec<f32> = (0..=255u8)
        .map(|bits| {
            let (e, f) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
            let m = if e == 0 { f * 2f32.powi(-9) } else { (8.0 + f) * 2f32.powi(e - 10) };
            if bits >= 128 { -m } else { m }
        })
        .collect();
    let config = |block: serde_json::Value| {
        json!({"quantization_config": {
            "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block,
        }})
    };
    // [rows, columns] of a block; 0 is all of them.
    for (block, suffix) in
        [([16, 24], "_scale_inv"), ([0, 0], "_scale_inv"), ([1, 0], "_scale"), ([0, 0], "_scale")]
    {
        let (mut quantised, mut plain) = (Folder::of("llama3"), Folder::of("llama3"));
        for (name, tensor) in plain.tensors.clone() {
            if !name.contains("_proj") {
                continue;
            }
            let [n, k] = tensor.shape[..] else { panic!() };
            let [rows, columns] = [block[0], block[1]].map(|b| b);
            let (rows, columns) = (if rows == 0 { n } else { rows }, if columns == 0 { k } else { columns });
            let (down, across) = (n.div_ceil(rows), k.div_ceil(columns));
            let scales: Vec<f32> = (0..down * across).map(|i| 0.01 + i as f32 / 777.0).collect();
            let scale = |i: usize| scales[i / k / rows * across + i % k / columns];
            let bytes: Vec<u8> = tensor.floats().iter().enumerate().map(|(i, x)| f8(x / scale(i))).collect();
            let back: Vec<f32> =
                bytes.iter().enumerate().map(|(i, b)| decode[usize::from(*b)] * scale(i)).collect();
            plain.tensors.insert(name.clone(), Tensor::of(&tensor.shape, &back));
            let shape = match block {
                [0, 0] => vec![],
                [1, 0] => vec![n, 1],
                _ => vec![down, across],
            };
            quantised.tensors.insert(format!("{name}{suffix}"), Tensor::of(&shape, &scales));
            let stored = Tensor { dtype: Stored::F8_E4M3, shape: tensor.shape, bytes };
            quantised.tensors.insert(name, stored);
        }
        quantised.write_weights();
        plain.write_weights();
        quantised.set(match block {
            [16, 24] => config(json!(block)),
            [1, 0] => json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}}),
            _ => config(json!(null)),
        });
        let ran = run(quantised.path());
        same(&ran, &run(plain.path()));
        warned(&ran, &["activations are not quantised"]);
        let name = "model.layers.0.mlp.up_proj.weight";
        quantised.tensors.remove(&format!("{name}{suffix}"));
        quantised.write_weights();
        let error = Checkpoint::open(quantised.path()).and_then(|c| c.load(Dtype::F32, &|| ())).map(|_| ());
        let error = error.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("without a scale"), "{error}");
    }
}

#[test]
fn hf_types_that_are_not_read_are_named() {
    let mut folder = Folder::of("llama3");
    let name = "model.layers.1.self_attn.q_proj.weight";
    let shape = folder.tensors[name].shape.clone();
    let bytes = vec![1; shape.iter().product()];
    folder.tensors.insert(name.into(), Tensor { dtype: Stored::U8, shape, bytes });
    folder.write_weights();
    refused(folder.path(), &["model.safetensors", name, "U8, which is not read"]);
}

#[test]
fn hf_missing_tensors_show_what_is_there() {
    let mut folder = Folder::of("llama3");
    folder.tensors.remove("model.layers.1.self_attn.q_proj.weight");
    folder.write_weights();
    refused(
        folder.path(),
        &[
            "no tensor 'model.layers.1.self_attn.q_proj.weight'",
            "'model.layers.0.self_attn.q_proj.weight'",
            "do not belong together",
        ],
    );
}

#[test]
fn hf_shard_overlay() {
    let folder = Folder::of("llama3");
    let all = folder.tensors.clone();
    let name = "model.layers.1.mlp.down_proj.weight";
    let mut base: Tensors = all.clone();
    let zeros = vec![0.0; all[name].floats().len()];
    base.insert(name.into(), Tensor::of(&all[name].shape, &zeros));
    let overlay = Tensors::from([(name.to_owned(), all[name].clone())]);
    folder.write_shard("model-base.safetensors", &base);
    folder.write_shard("model-overlay.safetensors", &overlay);
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let place = |overlaid: bool| {
        let of = |tensor: &String| {
            if overlaid && tensor == name { "model-overlay.safetensors" } else { "model-base.safetensors" }
        };
        let map: std::collections::BTreeMap<&String, &str> = all.keys().map(|t| (t, of(t))).collect();
        let index = json!({"metadata": {}, "weight_map": map});
        std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    };
    place(true);
    let overlaid = run(folder.path());
    same(&overlaid, &run(Folder::of("llama3").path()));
    warned(&overlaid, &[name, "model-base.safetensors", "index"]);
    place(false);
    assert!(run(folder.path()).trace.resid != overlaid.trace.resid);
    // An index that promises what no shard holds is what an incomplete download looks like.
    let index = json!({"weight_map": {"model.gone": "model-base.safetensors"}});
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let error = Checkpoint::open(folder.path()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("'model.gone'") && error.contains("fetch the model again"), "{error}");
}

#[test]
fn hf_fewer_layers_in_config() {
    let folder = Folder::of("llama3");
    let depth = run(folder.path()).config.depth();
    folder.set(json!({"num_hidden_layers": depth - 1}));
    let ran = run(folder.path());
    warned(
        &ran,
        &[
            &format!("'model.layers.{}.", depth - 1),
            &format!("the weights have {depth} layers where the configuration says {}", depth - 1),
        ],
    );
    assert_eq!(ran.config.depth(), depth - 1);
}

#[test]
fn hf_tensors_that_nobody_reads() {
    let mut folder = Folder::of("llama3");
    for name in [
        "mtp.norm.weight",
        "value_head.weight",
        "model.vision_tower.x.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
    ] {
        folder.tensors.insert(name.into(), Tensor::of(&[2], &[0.0; 2]));
    }
    folder.write_weights();
    warned(&run(folder.path()), &["2 tensors are not read: 'mtp.norm.weight', 'value_head.weight'"]);
}

#[test]
fn hf_names_of_wrappers() {
    type Rename = fn(&str) -> String;
    let bare = |name: &str| name.trim_start_matches("model.").to_owned();
    for (fixture, renames) in [
        (
            "llama2",
            &[
                (|n| format!("_orig_mod.{n}")) as Rename,
                |n| format!("module.{n}"),
                |n| format!("module._orig_mod.{n}"),
                |n| n.replace("layers.1.", "layers.1._orig_mod."),
                |n| n.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
                |n| format!("model.{n}"),
                |n| format!("net.inner.{n}"),
                bare,
            ][..],
        ),
        (
            "gpt2",
            &[
                |n| format!("_orig_mod.{n}"),
                |n| n.trim_start_matches("transformer.").to_owned(),
                |n| format!("transformer.{n}"),
            ],
        ),
        ("gpt_neox", &[|n| format!("module.{n}"), |n| n.trim_start_matches("gpt_neox.").to_owned()]),
    ] {
        let plain = run(Folder::of(fixture).path());
        for rename in renames {
            let mut folder = Folder::of(fixture);
            folder.rename(rename);
            let renamed = run(folder.path());
            same(&renamed, &plain);
            assert_eq!(renamed.warnings, [""; 0]);
        }
    }
}

#[test]
fn hf_lfs_pointers() {
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        let folder = Folder::of("llama3");
        std::fs::write(folder.path().join(file), POINTER).unwrap();
        refused(folder.path(), &[file, "Git LFS pointer", "git lfs pull"]);
    }
    let folder = Folder::of("llama3");
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    std::fs::write(folder.path().join("pytorch_model.bin"), POINTER).unwrap();
    refused(folder.path(), &["pytorch_model.bin", "Git LFS pointer"]);
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, POINTER).unwrap();
    refused(&path, &["m.gguf", "Git LFS pointer"]);
}

#[test]
fn hf_adapters() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("adapter_config.json"), r#"{"base_model_name_or_path": "org/base"}"#)
        .unwrap();
    refused(folder.path(), &["adapter_config.json", "adapter to org/base", "merge"]);
}

#[test]
fn hf_lists_of_one_value_a_layer() {
    let folder = Folder::of("llama3");
    let plain = run(folder.path());
    let heads = plain.config.kv_heads;
    folder.set(json!({"num_key_value_heads": [heads, heads, heads]}));
    same(&run(folder.path()), &plain);
    folder.set(json!({"num_key_value_heads": [heads, 2 * heads, heads]}));
    refused(folder.path(), &["'num_key_value_heads' differs from layer to layer"]);
}

#[test]
fn hf_files_without_an_extension() {
    let folder = Folder::of("llama3");
    let plain = run(folder.path());
    let blob = folder.path().join("4f8a2");
    std::fs::rename(folder.path().join("model.safetensors"), &blob).unwrap();
    same(&run(&blob), &plain);
    std::fs::write(&blob, "some text").unwrap();
    refused(&blob, &["4f8a2", "GGUF, safetensors or PyTorch"]);
}

#[test]
fn tok_added_only_in_config() {
    let folder = Folder::of("qwen2");
    let mut removed = json!(null);
    folder.edit("tokenizer.json", |file| {
        let list = file["added_tokens"].as_array_mut().unwrap();
        let at = list.iter().position(|t| t["content"] == "<|im_start|>").unwrap();
        removed = list.remove(at);
    });
    let ids = |folder: &Folder| {
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let warnings: Vec<String> = checkpoint.warnings().map(str::to_owned).collect();
        (checkpoint.tokenizer().encode("<|im_start|>user<|im_end|>").unwrap(), warnings)
    };
    let whole = ids(&Folder::of("qwen2"));
    let lacking = ids(&folder);
    assert!(lacking.0.len() > whole.0.len(), "{:?} against {:?}", lacking.0, whole.0);
    // The ids of tokens behind the missing one are not what the file says.
    assert!(lacking.1.iter().any(|w| w.contains("'<|im_end|>'")), "{:?}", lacking.1);
    folder.edit("tokenizer_config.json", |config| {
        config["added_tokens_decoder"] = json!({removed["id"].to_string(): removed});
    });
    assert_eq!(ids(&folder), whole);
}

/// What transformers has as a field and does not use for a family is warned of, and changes nothing.
#[test]
fn hf_fields_that_a_family_does_not_use() {
    for (name, fields, says) in [
        ("qwen3", json!({"partial_rotary_factor": 0.5}), "'partial_rotary_factor'"),
        ("gemma3", json!({"attn_logit_softcapping": 3.0}), "'attn_logit_softcapping'"),
        ("llama3", json!({"sliding_window": 8}), "'sliding_window'"),
    ] {
        let folder = Folder::of(name);
        let plain = run(folder.path());
        folder.set(fields);
        let ran = run(folder.path());
        same(&ran, &plain);
        warned(&ran, &[says, "not honoured"]);
    }
    let folder = Folder::of("phi3");
    let plain = run(folder.path());
    folder.edit("config.json", |config| config["rope_parameters"]["partial_rotary_factor"] = json!(0.5));
    let ran = run(folder.path());
    assert!(ran.trace.resid != plain.trace.resid && ran.warnings.is_empty(), "{:?}", ran.warnings);
    // Without the layers' kinds, the pattern counts under one name only.
    let folder = Folder::of("gemma3");
    let ran = |pattern: serde_json::Value| {
        folder.set(json!({"layer_types": null, "_sliding_window_pattern": null}));
        folder.set(pattern);
        run(folder.path())
    };
    let [usual, own, other] = ["x", "sliding_window_pattern", "_sliding_window_pattern"].map(|name| {
        folder.set(json!({"x": null, "sliding_window_pattern": null}));
        ran(json!({name: 3}))
    });
    same(&usual, &other);
    assert!(usual.trace.resid != own.trace.resid);
    warned(&other, &["'_sliding_window_pattern'"]);
}

#[test]
fn hf_settings_that_contradict_each_other() {
    let folder = Folder::of("qwen2-window");
    folder.set(json!({"use_sliding_window": false}));
    refused(folder.path(), &["'layer_types'", "'sliding_window'"]);
    let folder = Folder::of("qwen2-yarn");
    folder.edit("config.json", |config| {
        config["rope_parameters"].as_object_mut().unwrap().remove("factor");
    });
    refused(folder.path(), &["no 'factor'"]);
    // A method alone does not make weights quantised.
    let folder = Folder::of("llama3");
    folder.set(json!({"quantization_config": {"quant_method": "fp8"}}));
    assert_eq!(run(folder.path()).warnings, [""; 0]);
}

#[test]
fn tok_settings_of_the_configuration() {
    let folder = Folder::of("llama2");
    folder.edit("tokenizer_config.json", |config| {
        config["extra_special_tokens"] = json!({"image_token": "<X>"});
        config["split_special_tokens"] = json!(true);
    });
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.tokenizer().encode("<X>").unwrap().len(), 2);
    assert!(checkpoint.warnings().any(|w| w.contains("'split_special_tokens'")));
    // Merges that are dropped at random would give other tokens each time.
    let folder = Folder::of("qwen2");
    let text = "the keeper of the lighthouse had not spoken";
    let whole = Checkpoint::open(folder.path()).unwrap().tokenizer().encode(text).unwrap();
    folder.edit("tokenizer.json", |file| file["model"]["dropout"] = json!(0.5));
    folder.edit("tokenizer_config.json", |config| config["add_prefix_space"] = json!(true));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.tokenizer().encode(text).unwrap(), whole);
    assert!(checkpoint.warnings().any(|w| w.contains("'add_prefix_space'")));
}

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
    assert!(typed.trace.resid != plain.trace.resid);
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
    let changes: [(&str, Change); 6] = [
        ("attention.causal", |f| f.flag("llama.attention.causal", false)),
        ("mixture of experts", |f| f.number("llama.expert_count", 4)),
        ("attention.clamp_kqv", |f| f.float("llama.attention.clamp_kqv", 8.0)),
        ("logit_scale", |f| f.float("llama.logit_scale", 8.0)),
        ("attention.value_length", |f| f.number("llama.attention.value_length", 16)),
        ("rope.scaling.attn_factor", |f| f.float("llama.rope.scaling.attn_factor", 2.0)),
    ];
    for (says, change) in changes {
        let (_folder, path) = gguf(change);
        refused(&path, &["model.gguf", says, "support"]);
    }
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
