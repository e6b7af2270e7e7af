//! Tensors of Hugging Face checkpoints.

use super::*;

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
fn hf_unsupported_types_are_named() {
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
    assert!(run(folder.path()).resid != overlaid.resid);
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
fn hf_unread_tensors() {
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

/// transformers 5 holds the matrices of all experts in one tensor each.
#[test]
fn hf_stacked_experts() {
    for (name, module, names) in [
        ("mixtral", "block_sparse_moe", ["w1", "w3", "w2"]),
        ("qwen3_moe-dense", "mlp", ["gate_proj", "up_proj", "down_proj"]),
    ] {
        let mut folder = Folder::of(name);
        let want = run(folder.path());
        for layer in 0..3 {
            let at = format!("model.layers.{layer}.{module}");
            let Some(router) = folder.tensors.remove(&format!("{at}.gate.weight")) else { continue };
            let (mut up, mut down, count) = (vec![], vec![], router.shape[0]);
            let mut shapes = [vec![count], vec![count]];
            for expert in 0..count {
                let mut take = |name: &str| {
                    folder.tensors.remove(&format!("{at}.experts.{expert}.{name}.weight")).unwrap()
                };
                let [gate, of_up, of_down] = names.map(&mut take);
                shapes[0].truncate(1);
                shapes[0].extend([2 * gate.shape[0], gate.shape[1]]);
                shapes[1].truncate(1);
                shapes[1].extend(&of_down.shape);
                up.extend(gate.floats());
                up.extend(of_up.floats());
                down.extend(of_down.floats());
            }
            let stacked = format!("model.layers.{layer}.mlp");
            for (name, shape, values) in [("gate_up_proj", &shapes[0], up), ("down_proj", &shapes[1], down)] {
                folder.tensors.insert(format!("{stacked}.experts.{name}"), Tensor::of(shape, &values));
            }
            folder.tensors.insert(format!("{stacked}.gate.weight"), router);
        }
        folder.write_weights();
        let ran = run(folder.path());
        same(&ran, &want);
        assert_eq!(ran.warnings, [""; 0], "{name}");
    }
}

#[test]
fn hf_missing_experts_are_named() {
    let mut folder = Folder::of("qwen3_moe-dense");
    folder.tensors.retain(|name, _| name != "model.layers.2.mlp.experts.3.up_proj.weight");
    folder.write_weights();
    refused(folder.path(), &["model.layers.2.mlp.experts.3.up_proj.weight"]);
    let folder = Folder::of("glm4_moe");
    folder.set(json!({"topk_group": 9}));
    refused(folder.path(), &["config.json", "9 of 4 groups"]);
    folder.set(json!({"topk_group": 2, "num_experts_per_tok": 9}));
    refused(folder.path(), &["config.json", "9 of 8 experts"]);
}
