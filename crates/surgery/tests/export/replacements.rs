//! Linear replacements.

use crate::support::*;
use fathom_model::source::Checkpoint;
use fathom_results::SkipPart;
use fathom_surgery::Removal;
use fathom_surgery::export::ExportFormat::{self, Gguf, Hf};
use fathom_surgery::export::Replacement;
use half::f16;
use std::path::Path;

/// Weights that F16 and BF16 hold exactly.
fn weights(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| (((i * 37 + seed * 11) % 61) as f32 - 30.0) / 64.0).collect()
}

fn replacement(source: &Checkpoint, layer: usize) -> Replacement {
    let c = source.config();
    let biased = source.down_projection(layer).bias.is_some();
    Replacement {
        layer,
        down: weights(c.hidden * c.intermediate, 1),
        bias: biased.then(|| weights(c.hidden, 2)),
    }
}

/// A copy of a folder whose projection was changed by hand: the reference, which no code of the export has touched.
fn reference(source: &Path, place: &Place, r: &Replacement) -> std::path::PathBuf {
    use safetensors::{Dtype, SafeTensors, tensor::TensorView};
    let copy = place.path().join("reference");
    std::fs::create_dir(&copy).unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(source.join(file), copy.join(file)).unwrap();
    }
    let opened = open(source);
    let down = opened.down_projection(r.layer);
    let (d, f) = (opened.config().hidden, opened.config().intermediate);
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut matrix = Vec::new();
    for i in 0..d * f {
        let x = if down.transposed { r.down[i % d * f + i / d] } else { r.down[i] };
        matrix.extend(x.to_le_bytes());
    }
    let bias: Vec<u8> = r.bias.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    let views = tensors.tensors().into_iter().map(|(name, view)| {
        let bytes = match &name {
            name if *name == down.weight => &matrix[..],
            name if Some(name) == down.bias.as_ref() => &bias[..],
            _ => return (name, view),
        };
        (name, TensorView::new(Dtype::F32, view.shape().to_vec(), bytes).unwrap())
    });
    std::fs::write(copy.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    copy
}

fn merged(
    source: &Path,
    removal: &Removal,
    r: &Replacement,
    format: ExportFormat,
    out: &Path,
) -> fathom_model::Model {
    let done = try_export(source, removal, Some(r), format, out)
        .unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    load(&done.model)
}

#[test]
fn folders_run_with_the_new_weights() {
    for name in ["llama2", "llama-linear", "qwen2-window", "gpt2", "gpt_neox", "phi3"] {
        let (place, source) = (Place::new(), fixtures().join(name));
        let removal = Removal::parse(SkipPart::Layer, "1").unwrap();
        let r = replacement(&open(&source), 0);
        let changed = load(&reference(&source, &place, &r));
        let got = merged(&source, &removal, &r, Hf, &place.path().join("out"));
        let tokens = tokens(&got);
        let want = logits(&changed, &removal.kept(changed.config().depth()), &tokens);
        assert!(logits(&got, &all_layers(&got), &tokens) == want, "{name}");
    }
}

/// F32 files of the same weights as their folders; the new weights are exact in F16.
#[test]
fn ggufs_run_with_the_new_weights() {
    for (name, folder) in [("qwen2", "qwen2"), ("gpt2", "gpt2"), ("gptneox", "gpt_neox")] {
        for format in [Gguf, Hf] {
            let (place, source) = (Place::new(), fixtures().join(format!("gguf/{name}.gguf")));
            let removal = Removal::parse(SkipPart::Layer, "2").unwrap();
            let r = replacement(&open(&source), 1);
            let changed = load(&reference(&fixtures().join(folder), &place, &r));
            let got = merged(&source, &removal, &r, format, &place.path().join("out"));
            let tokens = tokens(&got);
            let want = logits(&changed, &[0, 1], &tokens);
            assert!(logits(&got, &all_layers(&got), &tokens) == want, "{name} as {format:?}");
        }
    }
}

#[test]
fn large_weights_are_stored_in_full() {
    let (place, source) = (Place::new(), fixtures().join("gguf/qwen2.gguf"));
    let mut r = replacement(&open(&source), 1);
    let removal = Removal::parse(SkipPart::Layer, "2").unwrap();
    for (first, kind, out) in [(0.5, 1, "half"), (1e6, 0, "full")] {
        r.down[0] = first;
        let done = try_export(&source, &removal, Some(&r), Gguf, &place.path().join(out)).unwrap();
        let opened = open(&done.model);
        let tensors = opened.weights().stored();
        let down = tensors.iter().find(|t| t.name == "blk.1.ffn_down.weight").unwrap();
        assert_eq!(down.kind, fathom_model::weights::StoredType::Ggml(kind), "{first}");
    }
    assert!(f16::from_f32(1e6).is_infinite());
}

#[track_caller]
fn refused(source: &str, layer: usize, change: impl FnOnce(&mut Replacement), sentence: &str) {
    let (place, source) = (Place::new(), fixtures().join(source));
    let mut r = replacement(&open(&source), layer);
    change(&mut r);
    let removal = Removal::parse(SkipPart::Layer, "1").unwrap();
    let out = place.path().join("out");
    let error = try_export(&source, &removal, Some(&r), Hf, &out).unwrap_err().to_string();
    assert!(error.contains(sentence), "{error}");
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn what_cannot_be_merged_is_refused() {
    refused("gemma2", 0, |_| (), "normalises what an MLP returns");
    refused("olmo2", 0, |_| (), "normalises what an MLP returns");
    refused("mixtral", 0, |_| (), "layer 0 is a mixture of experts");
    refused("llama2", 1, |_| (), "layer 1 does not remain");
    refused("llama2", 0, |r| r.layer = 9, "layer 9 does not remain");
    refused("llama2", 0, |r| r.down.truncate(5), "it has 5 weights");
    refused("llama2", 0, |r| r.down[3] = f32::NAN, "a weight is NaN");
    refused("llama2", 0, |r| r.bias = Some(vec![0.0; 32]), "'model.layers.0.mlp.down_proj.weight' has none");
    refused("gpt2", 0, |r| r.bias = None, "no bias in place of 'transformer.h.0.mlp.c_proj.bias'");
    refused("gpt2", 0, |r| r.bias = Some(vec![0.0; 3]), "has 3 numbers");
}
