//! Input with nothing to measure gives no effect and no panic.

use crate::support::{MODELS, PLENTY, baseline, everywhere, has_part, planned, request, run};
use fathom_model::Cpu;
use fathom_probes::SkipOptions;
use fathom_probes::erasure::{MeanResiduals, measure as erase};
use fathom_probes::skip::{measure, plan, sample, summarise};
use fathom_probes::{ExecOptions, MemoryPlan, predicting};
use fathom_results::{SkipMode, SkipPart};

const MODES: [SkipMode; 3] = [SkipMode::Future, SkipMode::Current, SkipMode::Local];

#[test]
fn positions_without_a_future_or_a_past_give_no_effect() {
    everywhere(12, |name, model, trace| {
        for positions in [&[][..], &[0], &[1], &[12], &[13, usize::MAX, 0]] {
            for mode in [SkipMode::Future, SkipMode::Local] {
                let (effects, work) =
                    measure(model, trace, mode, SkipPart::Layer, positions, &ExecOptions::planned(PLENTY));
                assert!(effects.layer_effect.iter().flatten().all(|e| *e == 0.0), "{name}, {positions:?}");
                assert!(effects.output_effect.iter().flatten().all(|e| *e == 0.0), "{name}, {positions:?}");
                assert_eq!((work.macs, work.macs_naive), (0, 0), "{name}, {positions:?}");
            }
        }
    });
}

#[test]
fn the_shortest_prompts() {
    for tokens in [1, 2, 3] {
        everywhere(tokens, |name, model, trace| {
            for mode in MODES {
                for part in [SkipPart::Layer, SkipPart::Attn, SkipPart::Mlp] {
                    if (0..model.config().depth()).all(|l| !has_part(model, l, part)) {
                        continue;
                    }
                    let (effects, _) =
                        measure(model, trace, mode, part, &[0, 1, 2, 3], &ExecOptions::planned(PLENTY));
                    let effect = effects.layer_effect.iter().flatten();
                    let none = effect.clone().all(|e| *e == 0.0);
                    let most = if mode == SkipMode::Current { 1 } else { 2 };
                    assert_eq!(none, tokens <= most, "{name}, {mode:?}, {tokens} tokens");
                    assert!(effect.clone().all(|e| e.is_finite()), "{name}");
                }
            }
        });
    }
}

/// A prompt of one token has nothing to skip: it counts in no mean, and nothing runs.
#[test]
fn a_prompt_of_one_token_does_not_count_in_means() {
    let (_, model) = &MODELS[0];
    let options = SkipOptions::default();
    let of = |tokens| sample(model, &run(model, tokens), &options, &[], &ExecOptions::planned(PLENTY));
    let (short, work) = of(1);
    assert!(short.effects.is_empty());
    assert_eq!((work, plan(model, 1, &options, &[], PLENTY)), Default::default());
    let (long, _) = of(9);
    assert_eq!(long.effects.keys().collect::<Vec<_>>(), [&SkipMode::Current]);
    assert_eq!(summarise(&[&short, &long]), summarise(&[&long]));
}

#[test]
fn answers_as_long_as_the_prompt_and_longer() {
    everywhere(6, |name, model, trace| {
        let baseline = baseline(model);
        let of = |answer| erase(model, trace, answer, &baseline, &ExecOptions::planned(PLENTY)).0;
        // Every predicted token then belongs to the answer.
        let all = of(5);
        assert!(all[0][..5].iter().all(|e| *e > 0.0), "{name}");
        for answer in [6, 7, 1000, usize::MAX] {
            assert_eq!(of(answer), all, "{name}, {answer} tokens");
        }
        assert!(of(0).iter().flatten().all(|e| *e == 0.0), "{name}");
        let (one, work) = erase(model, &run(model, 1), 1, &baseline, &ExecOptions::planned(PLENTY));
        assert!(one.iter().flatten().all(|e| *e == 0.0) && work.macs == 0, "{name}");
    });
    assert_eq!(predicting(0, 0), 0..0);
    assert_eq!(predicting(0, 3), 0..0);
}

#[test]
fn no_requests_and_requests_without_edits_or_reads() {
    let (_, model) = &MODELS[0];
    let trace = run(model, 12);
    for limits in [PLENTY, MemoryPlan { clean: 1, rows: 0, bytes: 0, saved: 0 }] {
        assert_eq!(planned(model, &trace, &[], limits).1, 0);
        let (seen, macs) = planned(model, &trace, &[request(model, vec![], 0..12)], limits);
        assert!(seen.added.is_empty() && seen.logits.is_empty() && macs == 0);
    }
}

#[test]
fn the_mean_of_nothing_is_zero() {
    let (_, model) = &MODELS[0];
    let means = MeanResiduals::new(model).means(&Cpu);
    assert_eq!(means[..], vec![0.0; (model.config().depth() + 1) * model.config().hidden]);
}
