//! Settings of config.json.

use super::*;

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
    assert!(own.resid == tied.resid && !own.config.tied);
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
    assert!(empty.resid != both.resid);
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
fn hf_unknown_settings() {
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
fn hf_lists_of_one_value_per_layer() {
    let folder = Folder::of("llama3");
    let plain = run(folder.path());
    let heads = plain.config.kv_heads;
    folder.set(json!({"num_key_value_heads": [heads, heads, heads]}));
    same(&run(folder.path()), &plain);
    folder.set(json!({"num_key_value_heads": [heads, 2 * heads, heads]}));
    refused(folder.path(), &["'num_key_value_heads' differs from layer to layer"]);
    folder.set(json!({"num_key_value_heads": [heads]}));
    same(&run(folder.path()), &plain);
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
    assert!(ran.resid != plain.resid && ran.warnings.is_empty(), "{:?}", ran.warnings);
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
    assert!(usual.resid != own.resid);
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

/// Layers of Gemma 4 that read the keys of others, and embeddings of layers.
#[test]
fn hf_side_inputs() {
    let mut folder = Folder::of("gemma4-e2b");
    let plain = run(folder.path());
    assert!(plain.warnings.is_empty());
    // Spare tensors of sharing layers, and rows behind those of the vocabulary.
    for name in ["k_proj.weight", "v_proj.weight", "k_norm.weight"] {
        let tensor = folder.tensors[&format!("model.layers.1.self_attn.{name}")].clone();
        folder.tensors.insert(format!("model.layers.3.self_attn.{name}"), tensor);
    }
    let table = folder.tensors["model.embed_tokens_per_layer.weight"].clone();
    let width = table.shape[1];
    let more: Vec<f32> = table.floats().into_iter().chain(vec![9.0; 3 * width]).collect();
    let shape = [table.shape[0] + 3, width];
    folder.tensors.insert("model.embed_tokens_per_layer.weight".into(), Tensor::of(&shape, &more));
    folder.write_weights();
    folder.set(json!({"vocab_size_per_layer_input": shape[0]}));
    let spare = run(folder.path());
    assert!(spare.warnings.is_empty(), "{:?}", spare.warnings);
    same(&plain, &spare);
    folder.set(json!({"hidden_size_per_layer_input": 0}));
    refused(folder.path(), &["'hidden_size_per_layer_input' is 0", "'model.embed_tokens_per_layer.weight'"]);
    folder.set(json!({"hidden_size_per_layer_input": 16, "rope_parameters": 3}));
    refused(folder.path(), &["which is not an object"]);
}
