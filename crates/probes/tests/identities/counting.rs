//! Multiply-adds and parameters, counted by hand from the fixtures' `config.json`.

use crate::support::{ARCHITECTURES, folder, load, options, texts, watch};
use fathom_probes::{Probe, measure};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// Counts that follow from the `config.json` of a fixture.
struct Hand {
    layers: u64,
    /// Multiply-adds of the matrices of one layer for one row.
    a_row: u64,
    /// Width of all query heads.
    queries: u64,
    /// Window of each layer; `u64::MAX` for none.
    windows: Vec<u64>,
    head: u64,
    parameters: u64,
}

const NONE: u64 = u64::MAX;

fn llama2() -> Hand {
    // Width 32, 4 heads of 8, 4 key heads, MLP 72, 3 layers, 384 tokens, untied.
    let a_row = 4 * 32 * 32 + 3 * 32 * 72;
    let parameters = 2 * 384 * 32 + 3 * (a_row + 2 * 32) + 32;
    Hand { layers: 3, a_row, queries: 32, windows: vec![NONE; 3], head: 384 * 32, parameters }
}

fn gpt2() -> Hand {
    // Width 32, 4 heads of 8, MLP 4 * 32, 3 layers, 313 tokens, 320 positions, tied,
    // biases on all four matrices, norms of weight and bias.
    let a_row = 32 * 96 + 32 * 32 + 32 * 128 + 128 * 32;
    let biases = 96 + 32 + 128 + 32;
    let parameters = 313 * 32 + 320 * 32 + 3 * (a_row + biases + 4 * 32) + 2 * 32;
    Hand { layers: 3, a_row, queries: 32, windows: vec![NONE; 3], head: 313 * 32, parameters }
}

fn gemma3() -> Hand {
    // Width 32, 4 heads of 16, 2 key heads, MLP 48, 392 tokens, tied, four norms a
    // layer and one each on queries and keys; the sixth of 7 layers sees everything,
    // the others 24 positions.
    let a_row = 32 * 64 + 2 * 32 * 32 + 64 * 32 + 3 * 32 * 48;
    let parameters = 392 * 32 + 7 * (a_row + 4 * 32 + 2 * 16) + 32;
    let windows = vec![24, 24, 24, 24, 24, NONE, 24];
    Hand { layers: 7, a_row, queries: 64, windows, head: 392 * 32, parameters }
}

#[test]
fn counts_agree_with_those_by_hand() {
    for (name, hand) in [("llama2", llama2()), ("gpt2", gpt2()), ("gemma3", gemma3())] {
        let model = load(name);
        assert_eq!(model.parameters(), hand.parameters, "{name}");
        assert_eq!(model.head_macs_per_row(), hand.head, "{name}");
        assert_eq!(model.layer_macs_per_row(0), hand.a_row, "{name}");
        for tokens in [0, 1, 23, 24, 25, 100] {
            // A query multiplies every visible position once for the score and once for the value.
            let seen = |window: &u64| (1..=tokens).map(|p| p.min(*window)).sum::<u64>();
            let attention: u64 = hand.windows.iter().map(|w| 2 * hand.queries * seen(w)).sum();
            let want = hand.layers * tokens * hand.a_row + attention;
            assert_eq!(model.layers_macs(tokens as usize), want, "{name}, {tokens} tokens");
        }
    }
}

#[test]
fn parameters_are_the_numbers_in_the_file() {
    for name_of in ARCHITECTURES {
        let bytes = std::fs::read(folder(name_of).join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let numbers = |(name, tensor): (String, TensorView<'_>)| {
            let elements = tensor.shape().iter().product::<usize>();
            match name.as_str() {
                // Two 4-bit floats a byte; their scales are no parameters.
                blocks if blocks.ends_with("_blocks") => 2 * elements,
                scales if scales.ends_with("_scales") => 0,
                // A buffer, folded into norms and embedding.
                scalar if scalar.ends_with(".layer_scalar") => 0,
                // Llama 3.2 Vision's parts for images: of the text model the layers that attend to them, and rows of the
                // embedding behind those of the vocabulary.
                other if other.starts_with("vision_model.") || other.starts_with("multi_modal_") => 0,
                layer
                    if [".layers.1.", ".layers.3."]
                        .iter()
                        .any(|at| layer.contains(at) && name_of == "mllama") =>
                {
                    0
                }
                rows if rows.ends_with("embed_tokens.weight") && name_of == "mllama" => elements - 8 * 16,
                _ => elements,
            }
        };
        let stored: usize = tensors.tensors().into_iter().map(numbers).sum();
        assert_eq!(load(name_of).parameters(), stored as u64, "{name_of}");
    }
}

#[test]
fn costs_of_a_run_add_up() {
    let lengths = [10, 40, 250];
    let (hand, model) = (gemma3(), load("gemma3"));
    let mut ignore = |_| Ok::<_, std::fmt::Error>(());
    let costs =
        measure(&model, &texts(&lengths), &options(&Probe::CLEAN), watch(&|| false), &mut ignore).unwrap();
    let tokens: u64 = lengths.iter().map(|n| *n as u64).sum();
    let (levels, width) = (hand.layers + 1, 32);
    let forward: u64 = lengths.iter().map(|n| model.layers_macs(*n)).sum();
    // Five norms and three dot products per layer; one norm per level and one dot product per pair of levels.
    let contributions = 8 * hand.layers * tokens * width;
    let similarity = (levels + levels * (levels - 1) / 2) * tokens * width;
    let want = [
        ("contributions", contributions),
        ("forward", forward),
        ("lens", levels * tokens * hand.head),
        ("similarity", similarity),
    ];
    assert!(costs.iter().map(|(name, cost)| (&name[..], cost.work.macs)).eq(want), "{costs:?}");
    assert!(costs.values().all(|c| c.work.macs_naive == c.work.macs && c.resources.seconds >= 0.0));
}
