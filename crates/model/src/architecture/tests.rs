//! What configurations mean that leave fields out, and which are refused.

use super::*;
use crate::config::{OutputNorm, Positions, RopeScaling};
use crate::rope;
use proptest::prelude::*;
use serde_json::json;

/// Describes a configuration, beside a file without tensors.
fn describe(json: &Value) -> Result<Config> {
    let folder = tempfile::tempdir().unwrap();
    let (config, weights) = (folder.path().join("config.json"), folder.path().join("w.safetensors"));
    std::fs::write(&config, json.to_string()).unwrap();
    std::fs::write(&weights, b"\x02\0\0\0\0\0\0\0{}").unwrap();
    Ok(HfConfig::read(&config)?.describe(&Weights::open_safetensors(&weights)?)?.config)
}

/// A small configuration of a type, with more fields.
fn with(kind: &str, more: Value) -> Value {
    let mut config = json!({
        "model_type": kind, "hidden_size": 256, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 32, "vocab_size": 8,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn rotary(config: &Config) -> &[crate::config::Rope] {
    let Positions::Rotary(ropes) = &config.positions else { panic!("no rotary positions") };
    ropes
}

#[test]
fn gemma3_text_config_of_differences_alone() {
    // The text part of google/gemma-3-4b-it's config.json, whole.
    let c = describe(&json!({"model_type": "gemma3", "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
    }}))
    .unwrap();
    assert_eq!((c.heads, c.kv_heads, c.head_dim, c.vocab, c.context), (8, 4, 256, 262_208, 131_072));
    assert_eq!((c.norm_eps, c.attention_scale, c.tied), (1e-6, 1.0 / 16.0, true));
    assert_eq!((c.attention_softcap, c.final_softcap), (None, None));
    assert_eq!(c.architecture, "gemma3_text");
    for (l, layer) in c.layers.iter().enumerate() {
        let local = (l + 1) % 6 != 0;
        assert_eq!((layer.window, layer.rope), (local.then_some(1024), Some(usize::from(local))));
    }
    let [global, local] = rotary(&c) else { panic!() };
    assert_eq!((global.theta, &global.scaling), (1e6, &RopeScaling::Linear(8.0)));
    assert_eq!((local.theta, &local.scaling), (1e4, &RopeScaling::None));
    let c = describe(&json!({"model_type": "gemma3", "text_config": {}})).unwrap();
    assert_eq!((c.hidden, c.intermediate, c.depth(), c.layers[0].window), (2304, 9216, 26, Some(4096)));
}

#[test]
fn gemma2_caps_unless_null() {
    let c = describe(&with("gemma2", json!({"num_attention_heads": 8}))).unwrap();
    assert_eq!((c.attention_softcap, c.final_softcap), (Some(50.0), Some(30.0)));
    let null = json!({"attn_logit_softcapping": null, "final_logit_softcapping": null});
    let c = describe(&with("gemma2", null)).unwrap();
    assert_eq!((c.attention_softcap, c.final_softcap), (None, None));
}

#[test]
fn mistral_has_a_window_unless_null_and_llama_none() {
    let window = |kind, more| describe(&with(kind, more)).unwrap().layers[1].window;
    assert_eq!(window("mistral", json!({})), Some(4096));
    assert_eq!(window("mistral", json!({"sliding_window": 7})), Some(7));
    assert_eq!(window("mistral", json!({"sliding_window": null})), None);
    assert_eq!(window("llama", json!({"sliding_window": 7})), None);
}

#[test]
fn gpt_neox_rotates_a_quarter_unless_told() {
    let dim = |more| rotary(&describe(&with("gpt_neox", more)).unwrap())[0].dim;
    assert_eq!(dim(json!({})), 2);
    assert_eq!(dim(json!({"rotary_pct": 0.5})), 4);
    // transformers fills in the quarter here too.
    assert_eq!(dim(json!({"rope_parameters": {"rope_theta": 20.0}})), 2);
    assert_eq!(dim(json!({"rope_parameters": {"partial_rotary_factor": 0.75}})), 6);
}

#[test]
fn other_absent_fields_mean_what_transformers_takes() {
    let of = |kind| {
        let c = describe(&with(kind, json!({}))).unwrap();
        (c.kv_heads, c.head_dim, c.context, c.norm_eps)
    };
    assert_eq!(of("llama"), (32, 8, 2048, 1e-6));
    assert_eq!(of("mistral"), (8, 8, 131_072, 1e-6));
    assert_eq!(of("qwen2"), (32, 8, 32_768, 1e-6));
    assert_eq!(of("qwen3"), (32, 128, 32_768, 1e-6));
    assert_eq!(of("gemma2"), (4, 256, 8192, 1e-6));
    assert_eq!(of("olmo2"), (32, 8, 2048, 1e-5));
    assert_eq!(of("phi3"), (32, 8, 4096, 1e-5));
    for (name, _, defaults) in FAMILIES {
        assert!(serde_json::from_str::<Value>(defaults).unwrap().is_object(), "{name}");
    }
}

#[test]
fn layers_that_do_not_rotate() {
    let rotate = |kind, more| {
        let c = describe(&with(kind, more)).unwrap();
        c.layers.iter().map(|layer| layer.rope.is_some()).collect::<Vec<bool>>()
    };
    let six = |more: Value| {
        let mut more = more;
        more["num_hidden_layers"] = json!(6);
        more
    };
    assert_eq!(rotate("smollm3", six(json!({}))), [true, true, true, false, true, true]);
    let marks = json!({"no_rope_layers": [0, 1, 1, 0, 1, 1, 1, 1]});
    assert_eq!(rotate("smollm3", six(marks)), [false, true, true, false, true, true]);
    assert_eq!(rotate("cohere2", six(json!({}))), [true, true, true, false, true, true]);
    assert_eq!(rotate("exaone4", six(json!({}))), [true, true, true, false, true, true]);
    assert_eq!(rotate("exaone4", six(json!({"sliding_window": null}))), [true; 6]);
    assert_eq!(rotate("olmo3", six(json!({}))), [true; 6]);
    refused(&with("smollm3", json!({"no_rope_layers": [1]})), "'no_rope_layers' does not mark 2 layers");
}

#[test]
fn factors_of_granite_minicpm_and_cohere() {
    let of = |kind, more| {
        let c = describe(&with(kind, more)).unwrap();
        (c.embedding_scale, c.residual_scale, c.logit_scale)
    };
    assert_eq!(of("granite", json!({})), (1.0, 1.0, 1.0));
    let granite = json!({"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8.0});
    assert_eq!(of("granite", granite), (12.0, 0.22, 0.125));
    let minicpm = json!({"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 64});
    assert_eq!(of("minicpm", minicpm), (12.0, (1.4 / 2f64.sqrt()) as f32, 0.25));
    assert_eq!(of("cohere", json!({})), (1.0, 1.0, 0.0625));
    refused(&with("granite", json!({"logits_scaling": 0.0})), "the factor on the logits is inf");
    refused(&with("granite", json!({"residual_multiplier": 0.0})), "the factor on what a sublayer adds is 0");
}

#[test]
fn text_models_of_checkpoints_with_images() {
    let nested = |kind: &str, inner: &str, more: Value| {
        let mut outer =
            json!({"model_type": kind, "text_config": with(inner, json!({})), "vision_config": {}});
        outer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        describe(&outer)
    };
    let c = nested("mistral3", "mistral", json!({})).unwrap();
    assert_eq!((c.architecture.as_str(), c.tied), ("mistral", false));
    assert_eq!(nested("mistral3", "ministral3", json!({})).unwrap().architecture, "ministral3");
    assert!(nested("qwen3_vl", "qwen3_vl_text", json!({"tie_word_embeddings": true})).unwrap().tied);
    assert!(nested("mistral3", "mixtral", json!({})).unwrap().experts().is_some_and(|of| of.count == 8));
    let error = nested("mistral3", "mamba", json!({})).unwrap_err().to_string();
    assert!(error.contains("mamba"), "{error}");
    let flat = with("qwen2_5_vl", json!({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}));
    assert_eq!(rotary(&describe(&flat).unwrap())[0].scaling, RopeScaling::None);
}

#[test]
fn variants_that_are_not_supported_are_refused() {
    refused(&with("llama", json!({"alibi": true})), "'alibi' is true");
    let opt = |more: Value| {
        let mut config = with("opt", json!({"ffn_dim": 64}));
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    assert!(describe(&opt(json!({}))).is_ok());
    refused(&opt(json!({"do_layer_norm_before": false})), "'do_layer_norm_before' is false");
    refused(&opt(json!({"word_embed_proj_dim": 8})), "'word_embed_proj_dim' differs");
    let granite = |more| with("granitemoehybrid", more);
    let dense = |types: &str| granite(json!({"num_local_experts": 0, "layer_types": [types, "attention"]}));
    refused(&dense("other"), "the layer type 'other' is not supported");
    refused(&granite(json!({"mamba_n_heads": 3})), "'mamba_n_heads' times 'mamba_d_head' is 3 times 170");
    refused(
        &granite(json!({"mamba_n_groups": 3})),
        "'mamba_n_heads' is 128; it must be a multiple of 'mamba_n_groups', which is 3",
    );
    refused(&granite(json!({"mamba_d_conv": 0})), "'mamba_d_conv' is 0; it must lie between 1 and 4096");
    refused(
        &granite(json!({"time_step_limit": [0.001, 0.1]})),
        "'time_step_limit' limits time steps to [0.001, 0.1]",
    );
    for infinite in [json!("Infinity"), json!({"__float__": "Infinity"})] {
        assert!(describe(&granite(json!({"time_step_limit": [0.0, infinite]}))).is_ok());
    }
    assert!(describe(&dense("attention")).unwrap().layers.iter().all(|layer| layer.rope.is_none()));
    let gptj = json!({"model_type": "gptj", "n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 8, "rotary_dim": null});
    refused(&gptj, "'rotary_dim' is null");
    let progen = json!({
        "model_type": "progen", "embed_dim": 16, "n_layer": 2, "n_head": 8, "n_positions": 8, "rotary_dim": 2,
        "vocab_size_emb": 8, "vocab_size_lm_head": 9, "activation_function": "gelu_new",
    });
    refused(&progen, "'vocab_size_lm_head' is 9 and 'vocab_size_emb' 8; they must be equal");
    let uneven = json!({"model_type": "codegen", "n_embd": 12, "n_layer": 2, "n_head": 6, "vocab_size": 8, "rotary_dim": 2});
    refused(&uneven, "'n_head' is 6, but q, k and v are stored in 4 parts");
}

#[test]
fn settings_of_hybrids() {
    let attention = |config: &Value| -> Vec<bool> {
        let config = describe(config).unwrap();
        (0..2).map(|l| config.has_attention(l)).collect()
    };
    for family in ["qwen3_next", "qwen3_5"] {
        let of = |more: Value| with(family, more);
        assert_eq!(attention(&of(json!({}))), [false, false]);
        assert_eq!(attention(&of(json!({"full_attention_interval": 2}))), [false, true]);
        refused(&of(json!({"full_attention_interval": 0})), "'full_attention_interval' is 0");
        refused(&of(json!({"layer_types": ["full_attention"]})), "'layer_types' does not name 2 layers");
        let other = json!({"layer_types": ["full_attention", "mamba"]});
        refused(&of(other), "the layer type 'mamba' is not supported");
        refused(
            &of(json!({"linear_num_value_heads": 24})),
            "'linear_num_value_heads' is 24; it must be a multiple of 'linear_num_key_heads', which is 16",
        );
        refused(&of(json!({"linear_key_head_dim": 0})), "'linear_key_head_dim' is 0; it must lie between 1");
        let c = describe(&of(json!({}))).unwrap();
        assert_eq!((rotary(&c)[0].dim, c.attention_gate, c.layers[0].rope), (64, true, None));
    }
    let lfm2 = |more: Value| with("lfm2", more);
    assert_eq!(attention(&lfm2(json!({"full_attn_idxs": [1]}))), [false, true]);
    assert_eq!(attention(&lfm2(json!({}))), [true, true]);
    // Two thirds of the width, in whole multiples.
    let width = |more: Value| describe(&lfm2(more)).unwrap().intermediate;
    assert_eq!(width(json!({"intermediate_size": 12288})), 8192);
    assert_eq!(width(json!({"block_ff_dim": 6656})), 4608);
    assert_eq!(width(json!({"intermediate_size": 100, "block_auto_adjust_ff_dim": false})), 100);
    refused(&lfm2(json!({"block_multiple_of": 0})), "'block_multiple_of' is 0");
    refused(&lfm2(json!({"conv_L_cache": 5000})), "'conv_L_cache' is 5000; it must lie between 1 and 4096");
}

#[test]
fn settings_of_mamba_2() {
    let mamba2 = |more: Value| {
        let mut config = json!({"model_type": "mamba2", "hidden_size": 16, "num_hidden_layers": 2, "num_heads": 4,
            "head_dim": 8, "vocab_size": 8});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let c = describe(&mamba2(json!({"n_groups": 2}))).unwrap();
    assert_eq!((c.heads, c.head_dim, c.intermediate, c.context), (0, 0, 0, 1 << 20));
    assert!((0..2).all(|l| !c.has_mlp(l) && !c.has_attention(l)));
    refused(&mamba2(json!({})), "'num_heads' is 4; it must be a multiple of 'n_groups', which is 8");
    refused(
        &mamba2(json!({"head_dim": 7})),
        "'num_heads' times 'head_dim' is 4 times 7; it must be 'expand' times",
    );
    refused(&mamba2(json!({"rms_norm": false})), "'rms_norm' is false");
    refused(&mamba2(json!({"n_groups": 2, "hidden_act": "gelu"})), "'hidden_act' is not 'silu'");
    let bamba = |more: Value| with("bamba", more);
    let c = describe(&bamba(json!({"attn_layer_indices": [1]}))).unwrap();
    assert_eq!((c.has_attention(0), c.has_attention(1), rotary(&c)[0].dim), (false, true, 4));
}

#[test]
fn settings_of_falcon_h1() {
    let of = |more: Value| {
        let mut config = with("falcon_h1", json!({"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8}));
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let norm = |more: Value| describe(&of(more)).unwrap().recurrence(0).unwrap().norm;
    assert_eq!(norm(json!({})), OutputNorm::None);
    assert_eq!(norm(json!({"mamba_rms_norm": true})), OutputNorm::BeforeGate);
    assert_eq!(
        norm(json!({"mamba_rms_norm": true, "mamba_norm_before_gate": false})),
        OutputNorm::BehindGate
    );
    let c = describe(&of(json!({"ssm_in_multiplier": 2.0, "ssm_multipliers": [1, 2, 3, 4, 5]}))).unwrap();
    assert_eq!(c.multipliers.recurrence_in, [2.0, 8.0, 6.0, 4.0, 10.0]);
    assert!(c.has_attention(0) && c.has_mlp(0) && c.layers[0].rope == Some(0));
    refused(&of(json!({"ssm_multipliers": [1, 2]})), "'ssm_multipliers' has 2 numbers; it must have 5");
    refused(
        &of(json!({"mamba_d_ssm": 24})),
        "'mamba_n_heads' times 'mamba_d_head' is 4 times 8; it must be 'mamba_d_ssm', 24",
    );
    refused(&of(json!({"key_multiplier": 0.5, "attention_bias": true})), "'attention_bias' is true beside");
    refused(
        &of(json!({"ssm_in_multiplier": 0.5, "mamba_proj_bias": true})),
        "'mamba_proj_bias' is true beside",
    );
    refused(&of(json!({"mamba_use_mlp": false})), "'mamba_use_mlp' is false");
}

#[test]
fn settings_of_llama4() {
    let of = |more: Value| with("llama4_text", more);
    // Scout and Maverick, but for widths.
    let c = describe(&of(json!({"num_hidden_layers": 48, "intermediate_size_mlp": 128}))).unwrap();
    assert_eq!((c.head_dim, c.kv_heads, c.intermediate, c.norm_eps, c.context), (128, 8, 128, 1e-5, 131_072));
    let routing = c.experts().map(|of| (of.count, of.active, of.width, of.shared, of.routing.on_input));
    assert_eq!(routing, Some((16, 1, 64, 64, true)));
    assert_eq!(rotary(&c)[0].theta, 500_000.0);
    for (l, layer) in c.layers.iter().enumerate() {
        let rotates = (l + 1) % 4 != 0;
        assert_eq!((layer.chunk, layer.rope), (rotates.then_some(8192), rotates.then_some(0)));
        assert_eq!(layer.temperature.is_some(), !rotates);
        assert!(layer.mlp.experts().is_some());
    }
    assert_eq!(c.seen(0, 8191, 9000), 0..8192);
    assert_eq!(c.seen(0, 8200, 9000), 8192..8201);
    assert_eq!(c.seen(3, 8200, 9000), 0..8201);
    let unrotated = |more: Value| describe(&unrotated_config(more)).unwrap().layers[1].temperature;
    assert_eq!(unrotated(json!({})).map(|of| (of.floor, of.scale)), Some((8192, 0.1)));
    // Early configurations have a number.
    assert!(unrotated(json!({"attn_temperature_tuning": 4})).is_some());
    assert!(unrotated(json!({"attn_temperature_tuning": 0})).is_none());
    let every = |more: Value| {
        let layers = describe(&of(more)).unwrap().layers;
        layers.iter().map(|layer| layer.mlp.experts().is_some()).collect::<Vec<bool>>()
    };
    assert_eq!(every(json!({"interleave_moe_layer_step": 2})), [false, true]);
    assert_eq!(every(json!({"moe_layers": [0]})), [true, false]);
    refused(&of(json!({"no_rope_layers": [1]})), "'no_rope_layers' does not mark 2 layers");
    refused(&of(json!({"layer_types": ["full_attention"]})), "'layer_types' does not name 2 layers");
    refused(&of(json!({"attention_chunk_size": 0})), "attention in chunks of 0 positions sees nothing");
    refused(&unrotated_config(json!({"floor_scale": 0})), "queries cannot grow by 0.1 every 0 positions");
    refused(&of(json!({"interleave_moe_layer_step": 0})), "'interleave_moe_layer_step' is 0");
    let chunked =
        json!({"attention_chunk_size": null, "layer_types": ["chunked_attention", "full_attention"]});
    refused(&of(chunked), "there is no 'attention_chunk_size'");
}

/// A Llama 4 whose second layer does not rotate.
fn unrotated_config(more: Value) -> Value {
    let mut config = with("llama4_text", json!({"no_rope_layers": [1, 0]}));
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

#[test]
fn settings_of_mllama() {
    let of = |more: Value| with("mllama_text_model", more);
    let c = describe(&of(json!({"num_hidden_layers": 40}))).unwrap();
    assert_eq!((c.depth(), c.kv_heads, c.head_dim, c.vocab, c.norm_eps), (32, 8, 8, 8, 1e-5));
    assert_eq!(rotary(&c)[0].theta, 500_000.0);
    assert_eq!(describe(&of(json!({"cross_attention_layers": []}))).unwrap().depth(), 2);
    refused(&of(json!({"cross_attention_layers": [0, 1]})), "the number of layers is 0");
}

#[test]
fn settings_of_gemma4() {
    let large = json!({"hidden_size_per_layer_input": 0, "num_attention_heads": 8, "num_hidden_layers": 12});
    let of = |more: Value| {
        let mut config = with("gemma4_text", large.clone());
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let c = describe(&of(json!({"attention_k_eq_v": true, "num_global_key_value_heads": 1}))).unwrap();
    assert_eq!((c.attention_scale, c.embedding_scale, c.tied), (1.0, 16.0, true));
    let heads = |c: &Config, l: usize| {
        let of = c.heads_of(l);
        (of.kv_heads, of.head_dim, of.keys_as_values)
    };
    for (l, layer) in c.layers.iter().enumerate() {
        let local = (l + 1) % 6 != 0;
        assert_eq!((layer.window, layer.rope), (local.then_some(512), Some(usize::from(local))));
        assert_eq!(heads(&c, l), if local { (4, 256, false) } else { (1, 512, true) });
    }
    let [global, local] = rotary(&c) else { panic!() };
    assert_eq!((global.dim, global.theta), (512, 1e6));
    assert_eq!(global.scaling, RopeScaling::Proportional { pairs: 64, factor: 1.0 });
    assert_eq!((local.dim, local.theta, &local.scaling), (256, 1e4, &RopeScaling::None));
    // Without shared projections the heads are as many as elsewhere.
    let c = describe(&of(json!({"num_global_key_value_heads": 1}))).unwrap();
    assert_eq!(heads(&c, 5), (4, 512, false));
    // As transformers 5 writes it; the last layer is global whatever its type says.
    let types = json!({"num_hidden_layers": 2, "layer_types": ["sliding_attention", "sliding_attention"],
        "per_layer_config": {"1": {"head_dim": 32, "num_key_value_heads": 2}}});
    assert_eq!(heads(&describe(&of(types)).unwrap(), 1), (2, 32, false));
    let other = json!({"per_layer_config": {"5": {"head_dim": 32}, "11": {"intermediate_size": 2}}});
    refused(&of(other), "'per_layer_config.11.intermediate_size' makes layers differ");
    refused(&of(json!({"per_layer_config": {"0": {"head_dim": 32}}})), "is about a local layer");
    refused(&of(json!({"per_layer_config": {"5": {"head_dim": 32}}})), "of several widths, [32, 256]");
    refused(&of(json!({"use_bidirectional_attention": "all"})), "attention sees the whole text");
    assert!(describe(&of(json!({"use_bidirectional_attention": "vision"}))).is_ok());
    let shares = json!({"rope_parameters": {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 1.5}}});
    refused(&of(shares), "'partial_rotary_factor' is 1.5; it must lie between 0 and 1");
    let unified = |more: Value| {
        let mut config = with("gemma4_unified_text", json!({"num_attention_heads": 8}));
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let c = describe(&unified(json!({}))).unwrap();
    assert_eq!((c.layers[0].window, c.context, c.heads_of(1).head_dim), (Some(1024), 262_144, 512));
    refused(
        &unified(json!({"hidden_size_per_layer_input": 8})),
        "'hidden_size_per_layer_input' is 8, which 'gemma4_unified_text' does not have",
    );
    for model_type in ["gemma3n", "gemma3n_text"] {
        refused(&with(model_type, json!({})), "layers do not add to one stream");
    }
}

#[test]
fn settings_of_small_gemma4() {
    let of = |more: Value| {
        let mut config = with("gemma4_text", json!({"num_attention_heads": 8, "num_hidden_layers": 12}));
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    // What transformers takes where a file says nothing.
    assert_eq!(describe(&of(json!({}))).unwrap().token_inputs, Some(256));
    assert_eq!(describe(&of(json!({"hidden_size_per_layer_input": 0}))).unwrap().token_inputs, None);
    refused(&of(json!({"hidden_size_per_layer_input": null})), "'hidden_size_per_layer_input' is missing");
    let rows = json!({"vocab_size": 300, "vocab_size_per_layer_input": 299});
    refused(&of(rows), "'vocab_size_per_layer_input' is less than 'vocab_size', 300");
    // Local layers read the last local one before them, global layers the last global one.
    let c = describe(&of(json!({"num_kv_shared_layers": 4, "use_double_wide_mlp": true}))).unwrap();
    let of_layers: Vec<usize> = (0..12).map(|l| c.keys_of(l)).collect();
    assert_eq!(of_layers, [0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 5]);
    assert_eq!(
        (c.mlp_width(7), c.mlp_width(8), c.widest_mlp()),
        (c.intermediate, 2 * c.intermediate, 2 * c.intermediate)
    );
    assert_eq!([c.cached_width(7), c.cached_width(8)], [2 * 4 * 256, 0]);
    let c = describe(&of(json!({"num_kv_shared_layers": 4}))).unwrap();
    assert_eq!(c.mlp_width(8), c.intermediate);
    refused(&of(json!({"num_kv_shared_layers": 12})), "'num_kv_shared_layers' is 12; it must be less than");
    refused(&of(json!({"num_kv_shared_layers": 99})), "'num_kv_shared_layers' is 99; it must be less than");
    refused(&of(json!({"num_kv_shared_layers": 8})), "layer 5 has no layer of its type before layer 4");
    // As transformers writes the numbers of more than ten layers.
    let padded = json!({"per_layer_config": {"05": {"head_dim": 64}, "11": {"head_dim": 64}}});
    assert_eq!(describe(&of(padded)).unwrap().heads_of(5).head_dim, 64);
    for name in ["12", "full_attention", "-1"] {
        let odd = json!({"per_layer_config": {name: {"head_dim": 64}}});
        refused(&of(odd), &format!("'per_layer_config.{name}' is not about one of the 12 layers"));
    }
    let twice = json!({"per_layer_config": {"5": {"head_dim": 64}, "05": {"head_dim": 64}}});
    refused(&of(twice), "or is there twice");
    let wide = json!({"hidden_size_per_layer_input": 1u64 << 40});
    refused(&of(wide), "('hidden_size_per_layer_input') is 1099511627776 wide");
    let other_heads = json!({"num_kv_shared_layers": 4, "per_layer_config": {"5": {"head_dim": 512}, "11": {
        "head_dim": 512, "num_key_value_heads": 2}}});
    refused(&of(other_heads), "layer 11 cannot read keys and values of layer 5");
}

#[test]
fn settings_of_gpt_oss() {
    let scaling = json!({"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
        "original_max_position_embeddings": 4096});
    let of = |more: Value| {
        let mut config = with(
            "gpt_oss",
            json!({"rope_scaling": scaling, "quantization_config": {"quant_method": "mxfp4"}}),
        );
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let c = describe(&of(json!({}))).unwrap();
    assert_eq!((c.head_dim, c.kv_heads, c.context, c.norm_eps), (64, 8, 131_072, 1e-5));
    let windows: Vec<_> = c.layers.iter().map(|layer| layer.window).collect();
    assert_eq!(windows, [Some(128), None]);
    assert_eq!(c.experts().map(|of| (of.count, of.active, of.width)), Some((128, 4, 64)));
    let [rope] = rotary(&c) else { panic!() };
    assert!(matches!(rope.scaling, RopeScaling::Yarn { truncate: false, .. }) && rope.theta == 150_000.0);
    assert!(describe(&of(json!({"swiglu_limit": 7.0, "swiglu_alpha": 1.702}))).is_ok());
    refused(&of(json!({"swiglu_limit": 5.0})), "'swiglu_limit' is 5, which is not supported; only 7 is");
    refused(&of(json!({"swiglu_alpha": 1.0})), "'swiglu_alpha' is 1, which is not supported; only 1.702 is");
    refused(&of(json!({"rope_scaling": null})), "neither 'rope_parameters' nor 'rope_scaling'");
    refused(&of(json!({"quantization_config": {"quant_method": "gptq"}})), "the weights are quantised: GPTQ");
    refused(
        &with("llama", json!({"quantization_config": {"quant_method": "mxfp4"}})),
        "the weights are quantised: mxfp4",
    );
}

#[test]
fn settings_of_families_with_alibi() {
    let slopes = |config: &Value| match describe(config).unwrap().positions {
        Positions::Alibi(alibi) => (alibi.slopes[31], alibi.rounded),
        other => panic!("{other:?}"),
    };
    assert_eq!(slopes(&with("bloom", json!({}))), (0.00390625, false));
    assert_eq!(slopes(&with("falcon", json!({"alibi": true}))), (0.00390625, true));
    let mpt = |more: Value| json!({"model_type": "mpt", "d_model": 256, "n_heads": 32, "n_layers": 2, "vocab_size": 8, "attn_config": more});
    assert_eq!(slopes(&mpt(json!({}))), (0.00390625, false));
    assert_eq!(slopes(&mpt(json!({"alibi_bias_max": 16}))), (2f32.powi(-16), false));
    assert_eq!(describe(&mpt(json!({"softmax_scale": 0.5}))).unwrap().attention_scale, 0.5);
    for (more, says) in [
        (json!({"alibi": false}), "'attn_config.alibi' is false"),
        (json!({"clip_qkv": 6.0}), "'attn_config.clip_qkv' limits"),
        (json!({"qk_ln": true}), "'attn_config.qk_ln' is true"),
        (json!({"prefix_lm": true}), "'attn_config.prefix_lm' is true"),
        (json!({"attn_type": "multiquery_attention"}), "'attn_config.attn_type' is 'multiquery_attention'"),
        (json!({"alibi_bias_max": -1}), "the slopes of 32 heads are"),
    ] {
        refused(&mpt(more), says);
    }
    for (field, value, says) in [
        ("logit_scale", json!(0.5), "'logit_scale' is set"),
        ("no_bias", json!(false), "'no_bias' is false"),
        ("expansion_ratio", json!(2), "'expansion_ratio' is 2"),
        ("norm_type", json!("rmsnorm"), "the norm 'rmsnorm' is not supported"),
    ] {
        let mut config = mpt(json!({}));
        config[field] = value;
        refused(&config, says);
    }
    let most = json!({"n_head": 1u64 << 62, "num_attention_heads": 1u64 << 62, "hidden_size": 1u64 << 62, "alibi": true});
    for family in ["bloom", "falcon", "baichuan"] {
        assert!(describe(&with(family, most.clone())).is_err(), "{family}");
    }
    let post = json!({"apply_residual_connection_post_layernorm": true});
    refused(&with("bloom", post), "'apply_residual_connection_post_layernorm' is true");
    refused(&with("bloom", json!({"n_inner": 8})), "'n_inner' is 8, which is not supported; only 1024 is");
    // Baichuan 7B rotates, 13B does not.
    let baichuan = |more: Value| describe(&with("baichuan", more)).unwrap();
    let seven = baichuan(json!({"max_position_embeddings": 4096}));
    assert_eq!((rotary(&seven).len(), seven.context), (1, 4096));
    assert_eq!(slopes(&with("baichuan", json!({"model_max_length": 4096}))), (0.00390625, false));
    assert_eq!(baichuan(json!({"model_max_length": 4096})).context, 4096);
    refused(&with("baichuan", json!({})), "the field 'model_max_length' is missing");
}

#[test]
fn ministral3_is_read_up_to_where_queries_are_scaled() {
    let rope = |beta: f64| {
        json!({"rope_parameters": {"type": "yarn", "factor": 16.0, "rope_theta": 1e6, "llama_4_scaling_beta": beta,
            "original_max_position_embeddings": 16_384}})
    };
    assert_eq!(describe(&with("ministral3", rope(0.1))).unwrap().context, 16_384);
    assert_eq!(describe(&with("ministral3", rope(0.0))).unwrap().context, 262_144);
}

#[test]
fn hunyuan_stretches_the_base_by_alpha() {
    let scaled = |kind: &str| json!({"rope_scaling": {"type": kind, "alpha": 1000.0, "factor": 1.0}});
    let c = describe(&with("hunyuan_v1_dense", scaled("dynamic"))).unwrap();
    let [rope] = rotary(&c) else { panic!() };
    assert_eq!((rope.theta, &rope.scaling), (1e4 * 1000f64.powf(8.0 / 6.0), &RopeScaling::None));
}

#[track_caller]
fn refused(config: &Value, says: &str) {
    let error = describe(config).expect_err("this must be refused").to_string();
    assert!(error.contains(says) && error.contains("config.json"), "'{error}' does not say '{says}'");
}

#[test]
fn numbers_that_lead_to_nan_are_refused() {
    let llama = |more| with("llama", more);
    refused(&llama(json!({"rms_norm_eps": 0.0})), "the epsilon of the norms is 0");
    refused(&llama(json!({"rms_norm_eps": 1e39})), "the epsilon of the norms is inf");
    refused(&llama(json!({"rope_theta": 1e300})), "the base of the rotary embedding is");
    refused(&llama(json!({"rope_theta": 1e-300})), "the base of the rotary embedding is");
    refused(&llama(json!({"rope_theta": 1e-37})), "frequency ");
    refused(&llama(json!({"head_dim": 7})), "7 of the 7 dimensions");
    let gemma = |more| with("gemma2", more);
    refused(&gemma(json!({"attn_logit_softcapping": 0.0})), "the soft-capping of attention is 0");
    refused(&gemma(json!({"final_logit_softcapping": -1.0})), "the soft-capping of the logits is -1");
    refused(&gemma(json!({"final_logit_softcapping": 1e-300})), "the soft-capping of the logits is 0");
    refused(&gemma(json!({"query_pre_attn_scalar": -1.0})), "the scale of attention is NaN");
    refused(&gemma(json!({"query_pre_attn_scalar": 0.0})), "the scale of attention is inf");
}

#[test]
fn impossible_rotary_scalings_are_refused() {
    let scaled = |more| with("llama", json!({"rope_scaling": more}));
    let llama3 = |more: Value| {
        let mut all = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        scaled(all)
    };
    assert!(describe(&llama3(json!({}))).is_ok());
    refused(&scaled(json!({"type": "linear", "factor": 0.0})), "'factor' of the rotary scaling is 0");
    refused(&scaled(json!({"type": "linear", "factor": 1e-36})), "frequency 0");
    refused(&llama3(json!({"factor": -8.0})), "'factor' of the rotary scaling is -8");
    refused(&llama3(json!({"high_freq_factor": 1.0})), "'high_freq_factor' is 1; it must be above");
    refused(&llama3(json!({"original_max_position_embeddings": 0})), "'original_max_position_embeddings' of");
    let yarn =
        |original: f64| json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": original});
    refused(&scaled(yarn(1.0)), "YaRN needs both above 1");
    refused(
        &with("llama", json!({"rope_theta": 1.0, "rope_scaling": yarn(64.0)})),
        "YaRN needs both above 1",
    );
    let long = |first: f64, original: usize| {
        json!({"type": "longrope", "factor": 2.0, "original_max_position_embeddings": original,
            "short_factor": [first, 1.0, 1.0, 1.0], "long_factor": [1.0, 1.0, 1.0, 1.0]})
    };
    assert!(describe(&scaled(long(1.0, 64))).is_ok());
    refused(&scaled(long(1.0, 1)), "'attention_factor' of the rotary scaling is inf");
    refused(&scaled(long(0.0, 64)), "frequency 0 of the rotary embedding is inf");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    /// Whatever a configuration says, what is accepted has finite angles.
    #[test]
    fn accepted_rotary_embeddings_are_finite(
        kind in prop::sample::select(vec!["linear", "llama3", "yarn"]),
        n in prop::collection::vec(prop::sample::select(
            vec![0.0, -1.0, 1e-45, 1e-30, 0.5, 1.0, 1.000_000_1, 4.0, 64.0, 1e6, 1e30, 1e38, 1e39, 1e300]), 7),
    ) {
        let config = with("llama", json!({"rope_theta": n[0], "rope_scaling": {
            "rope_type": kind, "factor": n[1], "low_freq_factor": n[2], "high_freq_factor": n[3],
            "original_max_position_embeddings": n[4], "beta_fast": n[5], "beta_slow": n[6],
        }}));
        if let Ok(config) = describe(&config) {
            let table = rope::table(&rotary(&config)[0], &[(40, 41)]);
            prop_assert!(table.cos.iter().chain(&table.sin).all(|x| x.is_finite()));
        }
    }
}
