//! Evaluations of many removals against one forward pass for each, and searches against exhaustive ones.

use fathom_kernels::Buffer;
use fathom_model::source::{Checkpoint, Loaded};
use fathom_model::{Buffers, DownProjection, Dtype, Model, Run};
use fathom_results::SkipPart;
use fathom_surgery::{
    EvaluateOptions, Reading, Removal, Score, Search, Text, Variant, count, evaluate, group_sizes, scores,
};
use std::path::Path;

const OPTIONS: EvaluateOptions<'static> = EvaluateOptions { memory: 1 << 28, on_progress: &|_| () };

const ARCHITECTURES: [&str; 9] = [
    "llama3",
    "gemma3",
    "gemma2",
    "qwen2-window",
    "olmo2",
    "gpt2",
    "gpt_neox",
    "llama-dynamic",
    "phi3-longrope",
];

fn load(name: &str) -> Loaded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    Checkpoint::open(&path).unwrap().load(Dtype::F32, &|| ()).unwrap()
}

fn tokens(model: &Model, count: usize, seed: u32) -> Vec<u32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % model.config().vocab as u32
    };
    (0..count).map(|_| next()).collect()
}

/// The probe angles runs the stream of each level through the last layer: the model without the layers between.
#[test]
fn losses_after_the_last_layer_are_those_without_the_layers_between() {
    for name in ARCHITECTURES {
        let Loaded { model, .. } = load(name);
        let (tokens, depth) = (tokens(&model, 40, 7), model.config().depth());
        let trace = model.run(&[&tokens]).unwrap().remove(0);
        let memory = fathom_probes::MemoryPlan { clean: 1, rows: 1 << 12, bytes: 1 << 24, saved: 1 };
        let probe =
            fathom_probes::angles::measure(&model, &trace, &fathom_probes::ExecOptions::planned(memory));
        let removals: Vec<Removal> =
            (0..depth).map(|l| Removal::block(SkipPart::Layer, l..depth - 1)).collect();
        let variants: Vec<Variant<'_, _>> = removals.iter().map(Variant::without).collect();
        let done = evaluate(&model, &[Text::whole(tokens)], &variants, Reading::Loss, &OPTIONS).unwrap();
        for (l, (scores, loss)) in done.scores.iter().zip(&probe.last_layer_nll).enumerate() {
            let want = scores[0].nll / 39.0;
            assert!((loss - want).abs() < 1e-5 * want, "{name}, level {l}: {loss} {want}");
        }
    }
}

fn removal(unit: SkipPart, layers: &[usize]) -> Removal {
    Removal::new(unit, layers.iter().copied()).unwrap()
}

/// The logits of every position, in f32, by the steps of the forward pass that are left.
fn logits(model: &Model, tokens: &[u32], removal: &Removal) -> Vec<f32> {
    let batch =
        model.batch(vec![Run { rows: 0..tokens.len(), first: 0, length: tokens.len(), past: vec![] }]);
    let mut buffers = Buffers::new(model);
    let mut h: Vec<f32> = model.embed(tokens, 0).unwrap();
    for l in 0..model.config().depth() {
        let before = Buffer::from(h.clone());
        if !removal.drops_attention(l) {
            model.attention(l, &batch, None, &before, &mut buffers);
            h.iter_mut().zip(buffers.attn_out.iter()).for_each(|(h, a)| *h += a);
        }
        if !removal.drops_mlp(l) {
            let mid = Buffer::from(h.clone());
            model.mlp(l, if model.config().parallel { &before } else { &mid }, &mut buffers);
            h.iter_mut().zip(buffers.mlp_out.iter()).for_each(|(h, m)| *h += m);
        }
    }
    let mut logits = Buffer::default();
    model.head(&h.into(), &mut logits);
    logits.to_vec()
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
    logits.iter().map(|x| f64::from(x - largest) - sum.ln()).collect()
}

/// The score in f64 from the logits of both models.
fn expected(model: &Model, text: &Text, removal: &Removal) -> Score {
    let vocab = model.config().vocab;
    let of = |removal: &Removal| -> Vec<Vec<f64>> {
        logits(model, &text.tokens[..text.scored.end - 1], removal).chunks(vocab).map(log_softmax).collect()
    };
    let (pruned, full) = (of(removal), of(&Removal::nothing(removal.unit())));
    let top = |row: &[f64]| (0..vocab).max_by(|a, b| row[*a].total_cmp(&row[*b]));
    let mut score = Score::default();
    for position in text.scored.clone() {
        let (p, q) = (&full[position - 1], &pruned[position - 1]);
        score.nll -= q[text.tokens[position] as usize];
        score.kl += p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        score.agreements += f64::from(u8::from(top(p) == top(q)));
    }
    score
}

fn variants(model: &Model) -> Vec<Removal> {
    let depth = model.config().depth();
    let last = depth - 1;
    let mut all = Vec::new();
    for unit in SkipPart::ALL {
        all.extend(
            [vec![0], vec![last], vec![0, last], (0..last).collect()].map(|layers| removal(unit, &layers)),
        );
    }
    all.retain(|removal| removal.check(depth).is_ok());
    all.push(Removal::nothing(SkipPart::Layer));
    all
}

#[test]
fn shared_layers_give_what_separate_runs_give() {
    for name in ARCHITECTURES {
        let loaded = load(name);
        let model = &loaded.model;
        let removals = variants(model);
        let variants: Vec<Variant<'_, _>> = removals.iter().map(Variant::without).collect();
        let texts = [Text::whole(tokens(model, 19, 1)), Text::whole(tokens(model, 7, 2))];
        let done = evaluate(model, &texts, &variants, Reading::Comparison, &OPTIONS).unwrap();
        for (removal, scores) in removals.iter().zip(&done.scores) {
            for (text, score) in texts.iter().zip(scores) {
                let expected = expected(model, text, removal);
                let near = |a: f64, b: f64| (a - b).abs() < 2e-4 * b.abs().max(1.0);
                assert!(
                    near(score.nll, expected.nll) && near(score.kl, expected.kl),
                    "{name} {removal}: {score:?}, expected {expected:?}"
                );
                assert!((score.agreements - expected.agreements).abs() <= 1.0, "{name} {removal}");
            }
        }
        let nothing = done.scores.last().unwrap();
        assert!(nothing.iter().all(|score| score.kl == 0.0));
        assert!(done.work.macs < done.work.macs_naive, "{name}: {:?}", done.work);
        assert_eq!(done.work.macs, count(model, &texts, &variants), "{name}");
        let whole = fathom_surgery::logits(model, &texts[0].tokens, variants[1]).unwrap();
        assert_eq!(whole, logits(model, &texts[0].tokens, &removals[1]), "{name}");
    }
}

#[test]
fn scores_do_not_depend_on_what_shares_a_group() {
    for name in ARCHITECTURES {
        let loaded = load(name);
        let model = &loaded.model;
        let removals = variants(model);
        let variants: Vec<Variant<'_, _>> = removals.iter().map(Variant::without).collect();
        // The choices of a question share their beginning, of which the last scores a part.
        let (context, endings) = (tokens(model, 12, 3), [4, 9, 2]);
        let mut texts: Vec<Text> = (5..)
            .zip(endings)
            .map(|(seed, length)| {
                let mut tokens = context.clone();
                tokens.extend(self::tokens(model, length, seed));
                Text { scored: context.len()..tokens.len(), tokens }
            })
            .collect();
        texts.push(Text { scored: 3..12, tokens: context.clone() });
        texts.push(Text::whole(tokens(model, 21, 7)));
        let together = evaluate(model, &texts, &variants, Reading::Comparison, &OPTIONS).unwrap();
        for (i, text) in texts.iter().enumerate() {
            for (v, variant) in variants.iter().enumerate() {
                let pair = [*variant, *variants.last().unwrap()];
                let one = std::slice::from_ref(text);
                let alone = evaluate(model, one, &pair, Reading::Comparison, &OPTIONS).unwrap();
                assert_eq!(together.scores[v][i], alone.scores[0][0], "{name}: text {i}, variant {v}");
                let loss = evaluate(model, one, &pair[..1], Reading::Loss, &OPTIONS).unwrap();
                assert_eq!(loss.scores[0][0].nll, alone.scores[0][0].nll);
            }
        }
    }
}

#[test]
fn another_down_projection_is_used() {
    let loaded = load("gpt2");
    let model = &loaded.model;
    let removal = removal(SkipPart::Layer, &[2]);
    let own = loaded.down_projection(1).unwrap();
    let zero = DownProjection {
        weight: vec![0.0; own.weight.len()],
        bias: own.bias.as_ref().map(|b| vec![0.0; b.len()]),
    };
    let (own, zero) = (model.pack_down(&own).unwrap(), model.pack_down(&zero).unwrap());
    let plain = Variant::without(&removal);
    let variants =
        [plain, Variant { down: Some((1, &own)), ..plain }, Variant { down: Some((1, &zero)), ..plain }];
    let text = [Text::whole(tokens(model, 9, 1))];
    let [without, same, changed] =
        &evaluate(model, &text, &variants, Reading::Loss, &OPTIONS).unwrap().scores[..]
    else {
        panic!("three variants");
    };
    assert_eq!(without, same);
    assert_ne!(without, changed);
}

fn search<'a>(model: &'a Model, texts: &'a [Text], racing: bool) -> Search<'a, fathom_model::Cpu> {
    Search { model, texts, racing, options: OPTIONS, is_cancelled: &|| false }
}

#[test]
fn greedy_and_block_find_the_least_loss() {
    for name in ["llama3", "gemma3", "gpt_neox"] {
        let loaded = load(name);
        let model = &loaded.model;
        let texts: Vec<Text> = (0..40).map(|seed| Text::whole(tokens(model, 9, seed))).collect();
        let loss =
            |removal: &Removal| texts.iter().map(|t| expected(model, t, removal).nll).sum::<f64>() / 320.0;
        let depth = model.config().depth();
        for unit in SkipPart::ALL {
            let mut removed = Removal::nothing(unit);
            for _ in 0..(depth - 1).min(2) {
                let all = (0..depth).filter(|l| !removed.contains(*l)).map(|l| removed.with(l));
                let best = all.min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap();
                let found = search(model, &texts, false).next_greedy(&removed).unwrap().unwrap();
                assert!(
                    (found.loss - loss(&best)).abs() < 1e-4,
                    "{name} {unit:?}: {} for {best}",
                    found.removal
                );
                let raced = search(model, &texts, true).next_greedy(&removed).unwrap().unwrap();
                assert_eq!((&raced.removal, raced.loss), (&found.removal, found.loss));
                assert!(raced.work.macs <= found.work.macs && found.work.macs <= found.work.macs_naive);
                removed = found.removal;
            }
        }
        let block = |l: usize| Removal::block(SkipPart::Layer, l..l + depth - 1);
        let best = loss(&block(0)).min(loss(&block(1)));
        for racing in [false, true] {
            let found =
                search(model, &texts, racing).best_block(SkipPart::Layer, depth - 1).unwrap().unwrap();
            assert!((found.loss - best).abs() < 1e-4, "{name}: {found:?}, expected {best}");
        }
    }
}

#[test]
fn a_cancelled_search_finds_nothing() {
    let loaded = load("llama3");
    let texts = [Text::whole(tokens(&loaded.model, 9, 1))];
    let search = Search { is_cancelled: &|| true, ..search(&loaded.model, &texts, true) };
    assert_eq!(search.next_greedy(&Removal::nothing(SkipPart::Layer)).unwrap(), None);
}

#[test]
fn influence_of_layers_is_that_of_the_probe() {
    let loaded = load("llama3");
    let model = &loaded.model;
    let tokens = tokens(model, 23, 4);
    let trace = model.run(&[&tokens]).unwrap().remove(0);
    let probe = fathom_probes::similarity::measure(model.backend(), &trace).block_influence;
    let mut influence = scores::Influence::new(SkipPart::Layer, trace.depth());
    influence.add(model.backend(), &trace);
    for (own, probe) in influence.values().iter().zip(&probe) {
        assert!((own - probe).abs() < 1e-6, "{own} {probe}");
    }
}

#[test]
fn groups_hold_all_texts_and_fit_the_memory() {
    let loaded = load("llama3");
    let texts: Vec<Text> = (1..40).map(|n| Text::whole(tokens(&loaded.model, n, 1))).collect();
    for memory in [0, 1 << 20, 1 << 40] {
        let sizes = group_sizes(&loaded.model, &texts, 5, memory);
        assert_eq!(sizes.iter().sum::<usize>(), texts.len());
        assert!(!sizes.contains(&0) && (memory > 0 || sizes.len() == texts.len()));
    }
}
