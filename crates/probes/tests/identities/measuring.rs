//! Measuring a list of prompts: a sample depends only on its prompt.

use crate::support::{load, options, samples, text, texts, tokens, watch};
use fathom_model::Model;
use fathom_probes::{Costs, Error, Probe, Sample, TokenizedPrompt, measure};
use std::cell::Cell;

/// Lengths that make one group, fill one exactly, overflow one, and a prompt longer than a whole group.
const LENGTHS: [usize; 9] = [40, 1, 9, 206, 2, 300, 130, 127, 12];

/// Lengths beyond one chain of attention sums, for models without learned positions.
const LONG: [usize; 3] = [40, 700, 333];

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("the disk is full after {0}")]
struct Full(usize);

/// Measures with a sink that fails after `room` samples.
fn until_full(
    model: &Model,
    texts: &[TokenizedPrompt],
    room: usize,
    stop: &dyn Fn(usize) -> bool,
) -> (Vec<Sample>, Result<Costs, Error<Full>>) {
    let (taken, mut kept) = (Cell::new(0), Vec::new());
    let mut sink = |sample| {
        if kept.len() == room {
            return Err(Full(room));
        }
        kept.push(sample);
        taken.set(kept.len());
        Ok(())
    };
    let all = options(&Probe::CLEAN);
    let result = measure(model, texts, &all, watch(&|| stop(taken.get())), &mut sink);
    (kept, result)
}

#[test]
fn grouping_changes_no_bit() {
    let texts_of = [("llama3", &LONG[..]), ("gemma3", &LONG), ("llama3", &LENGTHS), ("gemma3", &LENGTHS)];
    for (name, lengths) in texts_of.into_iter().chain([("gpt2", &LENGTHS[..]), ("phi3-longrope", &LENGTHS)]) {
        let (model, texts) = (load(name), texts(lengths));
        let together = samples(&model, &texts);
        let ids: Vec<&str> = together.iter().map(|s| &s.id[..]).collect();
        assert_eq!(ids, texts.iter().map(|t| &t.id[..]).collect::<Vec<_>>(), "{name}");
        for (text, sample) in texts.iter().zip(&together) {
            assert_eq!(
                samples(&model, std::slice::from_ref(text)),
                std::slice::from_ref(sample),
                "{name} {}",
                text.id
            );
        }
        let backwards: Vec<TokenizedPrompt> = texts.iter().rev().cloned().collect();
        let mut back = samples(&model, &backwards);
        back.reverse();
        assert_eq!(back, together, "{name}");
    }
}

#[test]
fn threads_change_no_bit() {
    let (model, texts) = (load("qwen3"), texts(&LENGTHS));
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| samples(&model, &texts))
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn samples_carry_their_prompt() {
    let mut texts = texts(&[4, 6]);
    texts[1].group = Some("hard".to_owned());
    texts[1].text_sha256 = Some("0123456789abcdef".to_owned());
    texts[1].pieces = (0..6).map(|i| format!("piece {i}")).collect();
    for (sample, text) in samples(&load("llama2"), &texts).into_iter().zip(texts) {
        let kept = TokenizedPrompt {
            masked: None,
            id: sample.id,
            group: sample.group,
            text_sha256: sample.text_sha256,
            tokens: sample.tokens,
            pieces: sample.pieces,
            positions: vec![],
        };
        assert_eq!(kept, text);
    }
}

#[test]
fn cancellation_leaves_exactly_the_first_samples() {
    let (model, texts) = (load("llama2"), texts(&LENGTHS));
    let all = samples(&model, &texts);
    for k in 0..=texts.len() {
        let (kept, result) = until_full(&model, &texts, usize::MAX, &|taken| taken >= k);
        assert!(result.is_ok());
        assert_eq!(kept, all[..k], "stopped after {k}");
    }
}

/// A measurement stays cancelled even if the callback returns true only once.
#[test]
fn cancellation_is_final() {
    let (model, texts) = (load("llama2"), texts(&LENGTHS));
    let said = Cell::new(false);
    let once = |taken| taken == 2 && !said.replace(true);
    let (kept, result) = until_full(&model, &texts, usize::MAX, &once);
    assert!(result.is_ok());
    assert_eq!(kept.len(), 2);
}

#[test]
fn errors_of_the_sink_are_returned() {
    let (model, texts) = (load("llama2"), texts(&LENGTHS));
    for room in [0, 3, 8] {
        let (kept, result) = until_full(&model, &texts, room, &|_| false);
        assert_eq!(kept.len(), room);
        match result {
            Err(Error::Sink(full)) => assert_eq!(full, Full(room)),
            other => panic!("{other:?}"),
        }
    }
}

/// Prompts run through the model in groups; the error must name the refused prompt, and earlier prompts of its
/// group must not be lost.
#[test]
fn a_refused_prompt_is_named_and_earlier_ones_are_kept() {
    let model = load("llama2");
    let mut texts = texts(&[5, 6, 7]);
    texts.insert(2, text("bad", vec![1, 100_000]));
    let (kept, result) = until_full(&model, &texts, usize::MAX, &|_| false);
    let message = result.unwrap_err().to_string();
    assert!(message.contains("prompt 'bad'") && message.contains("100000"), "{message}");
    assert_eq!(kept, samples(&model, &texts[..2]));
}

/// A mean over no tokens is not a number.
#[test]
fn an_empty_prompt_is_refused() {
    let (kept, result) =
        until_full(&load("llama2"), &[text("full", tokens(3, 0)), text("void", vec![])], 9, &|_| false);
    let message = result.unwrap_err().to_string();
    assert!(message.contains("prompt 'void'"), "{message}");
    assert_eq!(kept.len(), 1);
}

#[test]
fn no_prompts_give_no_samples() {
    let (kept, result) = until_full(&load("llama2"), &[], 0, &|_| false);
    assert!(kept.is_empty() && result.unwrap().is_empty());
}

#[test]
fn probes_give_the_same_alone_and_together() {
    let (model, texts) = (load("olmo2"), texts(&[12, 30]));
    let mut merged: Vec<Sample> = Vec::new();
    for probe in Probe::CLEAN {
        let mut some = Vec::new();
        let mut keep = |sample: Sample| {
            some.push(sample);
            Ok::<_, Full>(())
        };
        let costs = measure(&model, &texts, &options(&[probe]), watch(&|| false), &mut keep).unwrap();
        let mut names = ["forward", probe.name()];
        names.sort_unstable();
        assert!(costs.keys().eq(names.iter()), "{costs:?}");
        for sample in &some {
            let has: Vec<Probe> = Probe::CLEAN.into_iter().filter(|p| sample.has(*p)).collect();
            assert_eq!(has, [probe]);
        }
        if merged.is_empty() {
            merged = some;
        } else {
            merged.iter_mut().zip(some).for_each(|(m, s)| m.merge(s));
        }
    }
    // The clean run and the lens that two probes share are repeated for each.
    merged.iter_mut().for_each(|sample| sample.work.clear());
    let mut together = samples(&model, &texts);
    together.iter_mut().for_each(|sample| sample.work.clear());
    assert!(merged == together);
}
