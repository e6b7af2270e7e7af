//! Every architecture against what Hugging Face transformers computes: each
//! layer's stream and contributions, and the logits.

use fathom_kernels::Buffer;
use fathom_model::source::{Checkpoint, Loaded};
use fathom_model::{Dtype, Hook, Trace};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn load(path: &Path) -> Loaded {
    let checkpoint = Checkpoint::open(path).unwrap_or_else(|e| panic!("{e}"));
    checkpoint.load(Dtype::F32, &|| ()).unwrap_or_else(|e| panic!("{e}"))
}

struct Golden(Vec<u8>);

impl Golden {
    fn open(path: &Path) -> Self {
        Self(std::fs::read(path).unwrap())
    }

    fn parsed(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let tensors = self.parsed();
        let data = tensors.tensor(name).ok()?.data().to_vec();
        Some(data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn integers(&self, name: &str) -> Vec<usize> {
        let tensors = self.parsed();
        let data = tensors.tensor(name).unwrap().data().to_vec();
        data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as usize).collect()
    }

    fn cases(&self) -> Vec<String> {
        let tensors = self.parsed();
        let mut cases: Vec<_> =
            tensors.names().iter().filter_map(|n| n.strip_suffix(".tokens").map(str::to_owned)).collect();
        cases.sort();
        cases
    }
}

/// Compares rows by the norm of their difference; returns the largest difference.
#[track_caller]
fn compare(what: &str, got: &[f32], rows: &[usize], width: usize, want: &[f32], tolerance: f64) -> f64 {
    let mut worst = 0.0f64;
    assert_eq!(want.len(), rows.len() * width, "{what}");
    for (row, want) in rows.iter().zip(want.chunks_exact(width)) {
        let got = &got[row * width..(row + 1) * width];
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let gap = norm(&mut got.iter().zip(want).map(|(g, w)| f64::from(g - w)));
        let size = norm(&mut want.iter().map(|w| f64::from(*w)));
        assert!(gap <= tolerance * size, "{what}, row {row}: differs by {:.2e}", gap / size);
        worst = worst.max(gap / size);
    }
    worst
}

fn logits(loaded: &Loaded, trace: &Trace) -> Buffer {
    let last = trace.resid.last().unwrap();
    let mut logits = Buffer::default();
    loaded.model.head(last, &mut logits);
    logits
}

const TOLERANCE: f64 = 5e-5;

// The numbers printed here are those of the table in docs/src/models.md.
#[allow(clippy::print_stdout)]
#[track_caller]
fn check(model: &Path, golden: &Path, tolerance: f64) {
    let (loaded, golden) = (load(model), Golden::open(golden));
    let config = loaded.model.config();
    let cases = golden.cases();
    assert!(cases.len() >= 2, "{}: goldens hold {cases:?}", model.display());
    let [mut streams, mut logits_off] = [0.0f64; 2];
    for case in cases {
        let name = format!("{} {case}", model.display());
        let tokens: Vec<u32> = golden.integers(&format!("{case}.tokens")).iter().map(|t| *t as u32).collect();
        let rows = golden.integers(&format!("{case}.rows"));
        let trace = loaded.model.run(&[&tokens]).unwrap().remove(0);
        let mut compared = 0;
        for l in 0..config.depth() {
            for hook in ["hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post"] {
                let hook = format!("blocks.{l}.{hook}");
                if let Some(want) = golden.floats(&format!("{case}.{hook}")) {
                    let got = loaded.model.hook(&trace, Hook::parse(&hook, config.depth()).unwrap());
                    let off =
                        compare(&format!("{name} {hook}"), &got, &rows, config.hidden, &want, tolerance);
                    streams = streams.max(off);
                    compared += 1;
                }
            }
        }
        assert!(compared > 0, "{name}: no hook was compared");
        let want = golden.floats(&format!("{case}.logits"));
        assert_eq!(want.is_some(), config.has_head(), "{name}");
        let Some(want) = want else { continue };
        let got = logits(&loaded, &trace);
        let off = compare(&format!("{name} logits"), &got, &rows, config.vocab, &want, tolerance);
        logits_off = logits_off.max(off);
    }
    println!("{}: streams differ by {streams:.1e}, logits by {logits_off:.1e}", model.display());
}

macro_rules! folders {
    ($($test:ident: $folder:literal,)*) => {
        $(#[test]
        fn $test() {
            let folder = fixtures().join($folder);
            check(&folder, &folder.join("golden.safetensors"), TOLERANCE);
            let old = folder.join("config.v4.json");
            if old.exists() {
                let copy = tempfile::tempdir().unwrap();
                for entry in std::fs::read_dir(&folder).unwrap() {
                    let entry = entry.unwrap();
                    std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
                }
                std::fs::copy(old, copy.path().join("config.json")).unwrap();
                check(copy.path(), &folder.join("golden.safetensors"), TOLERANCE);
            }
        })*

        #[test]
        fn every_folder_is_tested() {
            let listed = [$($folder),*];
            for entry in std::fs::read_dir(fixtures()).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                if path.join("config.json").exists() {
                    assert!(listed.contains(&name), "fixtures/{name} has no test");
                }
            }
        }
    };
}

folders! {
    llama2: "llama2",
    llama3: "llama3",
    smollm2: "smollm2",
    mistral: "mistral",
    qwen2: "qwen2",
    qwen2_window: "qwen2-window",
    qwen2_yarn: "qwen2-yarn",
    qwen3: "qwen3",
    gemma2: "gemma2",
    gemma3: "gemma3",
    olmo2: "olmo2",
    phi3: "phi3",
    phi3_longrope: "phi3-longrope",
    gpt_neox: "gpt_neox",
    gpt_neox_serial: "gpt_neox-serial",
    gpt2: "gpt2",
    gpt2_hub: "gpt2-hub",
    smollm3: "smollm3",
    phi: "phi",
    phi_norms: "phi-norms",
    gemma: "gemma",
    olmo3: "olmo3",
    starcoder2: "starcoder2",
    granite: "granite",
    granite4: "granite4",
    cohere: "cohere",
    cohere2: "cohere2",
    stablelm: "stablelm",
    stablelm_parallel: "stablelm-parallel",
    ministral: "ministral",
    ministral3: "ministral3",
    exaone4: "exaone4",
    hunyuan: "hunyuan",
    ernie4_5: "ernie4_5",
    seed_oss: "seed_oss",
    nemotron: "nemotron",
    gptj: "gptj",
    codegen: "codegen",
    progen: "progen",
    falcon: "falcon",
    falcon_new: "falcon-new",
    falcon_rw: "falcon-rw",
    opt: "opt",
    internlm2: "internlm2",
    internlm3: "internlm3",
    minicpm: "minicpm",
    bloom: "bloom",
    mpt: "mpt",
    baichuan: "baichuan",
    baichuan2_13b: "baichuan2-13b",
    qwen2_5_vl: "qwen2_5_vl",
    qwen3_vl: "qwen3_vl",
    mistral3: "mistral3",
    mixtral: "mixtral",
    qwen3_moe: "qwen3_moe",
    qwen3_moe_dense: "qwen3_moe-dense",
    qwen2_moe: "qwen2_moe",
    olmoe: "olmoe",
    granitemoe: "granitemoe",
    granitemoeshared: "granitemoeshared",
    glm4_moe: "glm4_moe",
    deepseek_v2: "deepseek_v2",
    deepseek_v3: "deepseek_v3",
    qwen3_next: "qwen3_next",
    qwen3_5: "qwen3_5",
    qwen3_5_moe: "qwen3_5_moe",
    granite4_hybrid: "granite4-hybrid",
    lfm2: "lfm2",
    lfm2_moe: "lfm2_moe",
    mamba2: "mamba2",
    bamba: "bamba",
    nemotron_h: "nemotron_h",
    nemotron_h_moe: "nemotron_h-moe",
    falcon_h1: "falcon_h1",
    falcon_h1_norm: "falcon_h1-norm",
    gpt_oss: "gpt_oss",
    llama4: "llama4",
    llama4_vision: "llama4-vision",
    mllama: "mllama",
    gemma4: "gemma4",
    gemma4_e2b: "gemma4-e2b",
    gemma4_moe: "gemma4-moe",
    gemma4_unified: "gemma4-unified",
    gpt_oss_mxfp4: "gpt_oss-mxfp4",
    llama_dynamic: "llama-dynamic",
    llama_linear: "llama-linear",
    llama2_sharded_bf16: "llama2-sharded-bf16",
    qwen2_f16: "qwen2-f16",
    llama2_bin: "llama2-bin",
    llama2_bin_sharded: "llama2-bin-sharded",
    esm: "esm",
    esm_first: "esm-first",
    bert: "bert",
    bert_symbols: "bert-symbols",
    bert_headless: "bert-headless",
    gemma3_encoder: "gemma3-encoder",
    roberta: "roberta",
    distilbert: "distilbert",
    modernbert: "modernbert",
}

/// Real protein models, with the values that `fixtures/check_proteins.py` writes.
#[test]
#[ignore = "FATHOM_PROTEINS names a folder of real models"]
fn real_proteins() {
    let folder = PathBuf::from(std::env::var("FATHOM_PROTEINS").unwrap());
    for name in ["antiberty", "iglm", "iglm-s"] {
        check(&folder.join(name), &folder.join(name).join("golden.safetensors"), 1e-4);
    }
}

#[test]
fn every_setting_and_tensor_of_the_fixtures_is_known() {
    // What a warning is meant to say of some fixtures.
    let meant = [
        "only its text model is read",
        "queries beyond position 96 are scaled",
        "attend to images and are left out",
        "the vocabulary is neither that of Baichuan (64000) nor that of Baichuan 2 (125696)",
    ];
    let mut others = Vec::new();
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if path.join("config.json").exists() {
            let checkpoint = Checkpoint::open(&path).unwrap();
            let said = checkpoint.warnings().filter(|what| !meant.iter().any(|known| what.contains(known)));
            others.extend(said.map(str::to_owned));
        }
    }
    assert!(others.is_empty(), "{others:#?}");
    for (name, says) in [
        ("qwen3_vl", meant[0]),
        ("mistral3", meant[0]),
        ("ministral3", meant[1]),
        ("baichuan", meant[3]),
        ("mllama", meant[2]),
    ] {
        let checkpoint = Checkpoint::open(&fixtures().join(name)).unwrap();
        assert!(checkpoint.warnings().any(|what| what.contains(says)), "{name}");
    }
}

#[test]
fn gguf_files() {
    let folder = fixtures().join("gguf");
    let text = std::fs::read_to_string(folder.join("tokenizers.json")).unwrap();
    let listed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (mut checked, mut said) = (0, Vec::new());
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.extension().is_none_or(|e| e != "gguf") || stem == "quants" {
            continue;
        }
        let own = folder.join(format!("{stem}.golden.safetensors"));
        let shared =
            fixtures().join(if stem == "gptneox" { "gpt_neox" } else { &stem }).join("golden.safetensors");
        check(&path, if own.exists() { &own } else { &shared }, TOLERANCE);
        said.extend(Checkpoint::open(&path).unwrap().warnings().map(str::to_owned));
        checked += 1;
    }
    assert!(checked >= 50, "{checked} of {listed}");
    assert!(said.is_empty(), "{said:#?}");
}

#[test]
fn quantised_formats_agree_with_the_reference() {
    let folder = fixtures().join("gguf");
    let (weights, header) = fathom_model::weights::Weights::open_gguf(&folder.join("quants.gguf")).unwrap();
    let golden = Golden::open(&folder.join("quants.golden.safetensors"));
    assert_eq!(header.tensors.len(), 16);
    for info in &header.tensors {
        let tensor = weights.tensor(&info.name, &[3, 512]).unwrap();
        let want = golden.floats(&info.name).unwrap();
        for row in 0..3 {
            let mut got = vec![0.0; 512];
            tensor.read(row..row + 1, &mut got).unwrap();
            for (g, w) in got.iter().zip(&want[row * 512..]) {
                assert!((g - w).abs() <= 1e-6 * w.abs().max(1e-3), "{}: {g} against {w}", info.name);
            }
        }
    }
}

/// The numbers of each level or layer.
fn levels(buffers: &[Buffer]) -> Vec<&[f32]> {
    buffers.iter().map(|x| &x[..]).collect()
}

/// The architectures, one folder each.
const ONE_EACH: [&str; 51] = [
    "esm",
    "bert",
    "roberta",
    "distilbert",
    "modernbert",
    "llama2",
    "llama3",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "olmo2",
    "phi3-longrope",
    "gpt_neox",
    "gpt2",
    "smollm3",
    "phi",
    "granite",
    "cohere",
    "stablelm-parallel",
    "exaone4",
    "hunyuan",
    "falcon-new",
    "opt",
    "mixtral",
    "qwen3_moe",
    "qwen2_moe",
    "granitemoeshared",
    "glm4_moe",
    "deepseek_v2",
    "deepseek_v3",
    "qwen3_next",
    "qwen3_5",
    "granite4-hybrid",
    "lfm2",
    "lfm2_moe",
    "mamba2",
    "bamba",
    "nemotron_h",
    "nemotron_h-moe",
    "falcon_h1",
    "falcon_h1-norm",
    "gpt_oss-mxfp4",
    "llama4",
    "mllama",
    "gemma4",
    "gemma4-e2b",
    "gemma4-moe",
    "bloom",
    "baichuan2-13b",
];

#[test]
fn a_batch_gives_what_each_text_gives_alone() {
    for folder in ONE_EACH {
        let loaded = load(&fixtures().join(folder));
        let vocab = loaded.model.config().vocab as u32;
        let texts: Vec<Vec<u32>> = [70usize, 1, 33, 9]
            .iter()
            .map(|n| (0..*n as u32).map(|i| (i * 7 + 3) % vocab.min(250)).collect())
            .collect();
        let together = loaded.model.run(&texts.iter().map(|t| &t[..]).collect::<Vec<_>>()).unwrap();
        for (text, batched) in texts.iter().zip(together) {
            let alone = loaded.model.run(&[text]).unwrap().remove(0);
            // Equal to the bit: rows do not depend on their batch.
            assert_eq!(levels(&alone.resid), levels(&batched.resid), "{folder}");
            assert_eq!(levels(&alone.kv_cache), levels(&batched.kv_cache), "{folder}");
        }
    }
}

#[test]
fn the_stream_is_the_sum_of_its_parts() {
    for folder in ONE_EACH {
        let loaded = load(&fixtures().join(folder));
        let vocab = loaded.model.config().vocab as u32;
        let text: Vec<u32> = (0..40).map(|i| i % vocab).collect();
        if loaded.model.is_post_norm() {
            continue;
        }
        let trace = loaded.model.run(&[&text]).unwrap().remove(0);
        for l in 0..loaded.model.config().depth() {
            for (i, after) in trace.resid[l + 1].iter().enumerate() {
                let sum = trace.resid[l][i] + trace.attn_out[l][i] + trace.mlp_out[l][i];
                assert!((after - sum).abs() <= 1e-5 * after.abs().max(1.0), "{folder}");
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let loaded = load(&fixtures().join("qwen3"));
    let text: Vec<u32> = (0..100).collect();
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| loaded.model.run(&[&text]).unwrap().remove(0).resid)
    };
    assert_eq!(levels(&with(1)), levels(&with(3)));
}

fn refusal(loaded: &Loaded, texts: &[&[u32]]) -> String {
    loaded.model.run(texts).err().unwrap().to_string()
}

#[test]
fn empty_texts_are_refused() {
    let loaded = load(&fixtures().join("llama2"));
    for texts in [&[&[][..]][..], &[&[1, 2], &[]]] {
        let error = refusal(&loaded, texts);
        assert!(error.contains(&format!("text {} has no tokens; give", texts.len() - 1)), "{error}");
    }
    assert!(loaded.model.run(&[]).unwrap().is_empty());
}

#[test]
fn tokens_outside_the_vocabulary_are_refused() {
    let loaded = load(&fixtures().join("llama2"));
    let error = refusal(&loaded, &[&[100_000]]);
    assert!(error.contains("token 100000 lies outside"), "{error}");
    let gpt2 = load(&fixtures().join("gpt2"));
    let long = vec![1; gpt2.model.config().context + 1];
    assert!(refusal(&gpt2, &[&long]).contains("beyond"));
}
