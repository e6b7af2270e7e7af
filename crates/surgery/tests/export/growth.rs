//! Grown models, opened again and run.

use crate::support::{Place, fixtures, folders, ggufs, load, logits, open, tokens};
use fathom_model::source::Checkpoint;
use fathom_results::{GrowMethod, LayerOrigin};
use fathom_surgery::export::{ExportError, Growth};
use fathom_surgery::growth::{Grower, LesaOptions, NewNorms, Recipe};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Writes a model of these layers.
fn write(
    source: &Checkpoint,
    method: GrowMethod,
    origins: &[LayerOrigin],
    norms: NewNorms,
    out: &Path,
) -> Result<PathBuf, String> {
    let recipe = Recipe::new(method, origins.len());
    let options = LesaOptions { epochs: 1, ..LesaOptions::default() };
    let grower = Grower::new(source, &recipe, origins, norms, options).map_err(|e| e.to_string())?;
    let (layers, _) = grower.make(&|_| true).map_err(|e| e.to_string())?;
    let growth = Growth { source, layers: &layers, out, card: "# A card\n" };
    let staged = growth.stage(&|_, _| ControlFlow::Continue(())).map_err(|e| e.to_string())?;
    Ok(staged.publish().map_err(|e: ExportError| e.to_string())?.model)
}

fn copies(layers: &[usize]) -> Vec<LayerOrigin> {
    layers.iter().map(|layer| LayerOrigin::Copy { layer: *layer }).collect()
}

/// All models of the fixtures.
fn sources() -> impl Iterator<Item = PathBuf> {
    folders().into_iter().chain(ggufs())
}

#[test]
fn copies_run_as_layers_of_the_source_that_run_twice() {
    let mut written = 0;
    for source in sources() {
        let place = Place::new();
        let checkpoint = open(&source);
        let depth = checkpoint.config().depth();
        let layers: Vec<usize> = (0..depth).chain(1..depth).collect();
        let out = place.path().join("out");
        let made = match write(&checkpoint, GrowMethod::Solar, &copies(&layers), NewNorms::Mean, &out) {
            Ok(made) => made,
            // A kind of layer that a configuration can state for the first or the last layers only.
            Err(message) => {
                assert!(
                    [
                        "discarded",
                        "scales attention",
                        "full_attention_interval",
                        "the number of a layer",
                        "multiplies the stream",
                    ]
                    .iter()
                    .any(|reason| message.contains(reason)),
                    "{}: {message}",
                    source.display()
                );
                assert!(place.names().is_empty(), "{}", source.display());
                continue;
            }
        };
        let (before, after) = (load(&source), load(&made));
        let tokens = tokens(&before);
        let all: Vec<usize> = (0..layers.len()).collect();
        assert_eq!(logits(&after, &all, &tokens), logits(&before, &layers, &tokens), "{}", source.display());
        written += 1;
    }
    assert!(written > 60, "{written} models were written");
}

#[test]
fn copies_that_do_not_overlap_are_the_model() {
    for source in [fixtures().join("llama2"), fixtures().join("gguf/gemma3.gguf")] {
        let place = Place::new();
        let checkpoint = open(&source);
        let layers: Vec<usize> = (0..checkpoint.config().depth()).collect();
        let out = place.path().join("out");
        let made = write(&checkpoint, GrowMethod::Solar, &copies(&layers), NewNorms::Mean, &out).unwrap();
        let written = open(&made);
        assert_eq!(checkpoint.config().difference(written.config()), None);
        for tensor in checkpoint.weights().stored() {
            let same =
                written.weights().stored().into_iter().find(|other| other.name == tensor.name).unwrap();
            assert_eq!(same.bytes, tensor.bytes, "{}", tensor.name);
        }
    }
}

#[test]
fn silent_layers_change_no_bit() {
    let mut written = 0;
    for source in sources() {
        let place = Place::new();
        let checkpoint = open(&source);
        let depth = checkpoint.config().depth();
        let origins = Recipe::new(GrowMethod::LlamaPro, 2 * depth).origins(depth).unwrap();
        let out = place.path().join("out");
        let Ok(made) = write(&checkpoint, GrowMethod::LlamaPro, &origins, NewNorms::Mean, &out) else {
            continue;
        };
        let (before, after) = (load(&source), load(&made));
        let tokens = tokens(&before);
        let (all, twice): (Vec<usize>, Vec<usize>) = ((0..depth).collect(), (0..2 * depth).collect());
        let [wanted, found] = [logits(&before, &all, &tokens), logits(&after, &twice, &tokens)];
        // A scale by the root of the number of layers is rounded anew.
        let rounds = before.config().residual_scale != after.config().residual_scale;
        assert!(rounds || wanted == found, "{}", source.display());
        written += 1;
    }
    assert!(written > 60, "{written} models were written");
}

/// All numbers of a tensor.
fn numbers(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let shape = checkpoint.weights().shape(name).unwrap_or_else(|| panic!("no {name}")).to_vec();
    let tensor = checkpoint.weights().tensor(name, &shape).unwrap();
    let (rows, width) = tensor.size();
    let mut numbers = vec![0.0; rows * width];
    tensor.read(0..rows, &mut numbers).unwrap();
    numbers
}

#[test]
fn means_are_those_of_the_neighbours() {
    let f16 = |x: f32| half::f16::from_f32(x).to_f32();
    for (source, names) in [
        ("llama2", ["model.layers.{}.mlp.down_proj.weight", "model.layers.{}.input_layernorm.weight"]),
        ("gguf/qwen2.gguf", ["blk.{}.attn_q.weight", "blk.{}.attn_q.bias"]),
    ] {
        let place = Place::new();
        let checkpoint = open(&fixtures().join(source));
        let depth = checkpoint.config().depth();
        let origins = Recipe::new(GrowMethod::Interpolate, depth + 1).origins(depth).unwrap();
        let at = origins.iter().position(|o| matches!(o, LayerOrigin::Mean { .. })).unwrap();
        for norms in [NewNorms::Mean, NewNorms::First] {
            let out = place.path().join(format!("{norms:?}"));
            let made = write(&checkpoint, GrowMethod::Interpolate, &origins, norms, &out).unwrap();
            let written = open(&made);
            assert_eq!(written.config().depth(), depth + 1);
            for pattern in names {
                let of =
                    |c: &Checkpoint, layer: usize| numbers(c, &pattern.replace("{}", &layer.to_string()));
                let found = of(&written, at);
                let (one, other) = (of(&checkpoint, at - 1), of(&checkpoint, at));
                let first = norms == NewNorms::First && pattern.contains("norm");
                let wanted: Vec<f32> = match first {
                    true => of(&checkpoint, 0),
                    false => one.iter().zip(&other).map(|(a, b)| 0.5 * a + 0.5 * b).collect(),
                };
                assert!(
                    found.iter().zip(&wanted).all(|(a, b)| a == b || *a == f16(*b)),
                    "{source} {pattern}"
                );
                // Layers behind the new one keep theirs.
                assert_eq!(of(&written, at + 1), other);
            }
        }
    }
}

#[test]
fn predicted_layers_have_finite_weights_and_load() {
    for source in ["qwen2", "gguf/llama2.gguf", "gemma3"] {
        let place = Place::new();
        let checkpoint = open(&fixtures().join(source));
        let depth = checkpoint.config().depth();
        let origins = Recipe::new(GrowMethod::Lesa, depth + 1).origins(depth).unwrap();
        let out = place.path().join("out");
        let made = write(&checkpoint, GrowMethod::Lesa, &origins, NewNorms::Mean, &out).unwrap();
        let model = load(&made);
        let all: Vec<usize> = (0..depth + 1).collect();
        let found = logits(&model, &all, &tokens(&model));
        assert!(found.into_iter().all(|bits| f32::from_bits(bits).is_finite()), "{source}");
    }
}

#[track_caller]
fn refused(source: &str, method: GrowMethod, sentence: &str) {
    let place = Place::new();
    let checkpoint = open(&fixtures().join(source));
    let depth = checkpoint.config().depth();
    let origins = Recipe::new(method, depth + 1).origins(depth).unwrap();
    let message =
        write(&checkpoint, method, &origins, NewNorms::Mean, &place.path().join("out")).unwrap_err();
    assert!(message.contains(sentence), "{message}");
    assert!(place.names().is_empty());
}

#[test]
fn what_has_no_mean_is_refused_by_name() {
    refused("mixtral", GrowMethod::Interpolate, "has experts");
    refused("gguf/mixtral.gguf", GrowMethod::Lesa, "has experts");
    refused("qwen3_5", GrowMethod::Interpolate, "give with --insert layers whose next one mixes positions");
    refused("phi3", GrowMethod::Lesa, "qkv_proj.weight' holds several matrices");
}
