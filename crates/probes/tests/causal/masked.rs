//! Encoders: edits reach every position, and the probes of masked texts against full forward passes.

use crate::random::{Drafts, agree, finish, lists, only, values};
use crate::support::{
    Action, ENCODERS, PLENTY, Request, Seen, edit, full, logits, noise, planned, request, run,
};
use fathom_model::Model;
use fathom_probes::planner::{Rows, Site};
use fathom_probes::{
    GradientOptions, Masked, MemoryPlan, Observer, Plans, Probe, ProbeOptions, Sample, SkipOptions, Targets,
    TokenizedPair, TokenizedPrompt, Work, measure, measure_pairs, plan, plan_pairs,
};
use fathom_results::{GradientSite, PathBaseline, QaPair, Quadrature, SkipMode, SkipPart};
use proptest::prelude::*;

fn check(which: usize, tokens: usize, drafts: &[Drafts]) -> Result<(), String> {
    let (name, model) = &ENCODERS[which];
    let trace = run(model, tokens);
    let values = values(model);
    let requests: Vec<_> = drafts.iter().map(|d| finish(model, tokens, d, &values)).collect();
    let (seen, _) = planned(model, &trace, &requests, PLENTY);
    agree(model, &trace, &requests, &seen, &full(model, &trace, &requests))
        .map_err(|e| format!("{name}: {e}"))?;
    for (rows, bytes) in [(0, 0), (90, 1 << 20)] {
        if planned(model, &trace, &requests, MemoryPlan { rows, bytes, ..PLENTY }).0 != seen {
            return Err(format!("{name}: {rows} rows a batch change bits"));
        }
    }
    for (r, one) in requests.iter().enumerate() {
        let (alone, _) = planned(model, &trace, std::slice::from_ref(one), PLENTY);
        if only(&alone, 0) != only(&seen, r) {
            return Err(format!("{name}: request {r} alone has other bits"));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn planned_equals_naive(which in 0..7usize, tokens in 12..=60usize, drafts in lists()) {
        if let Err(e) = check(which, tokens, &drafts) {
            let requests: Vec<_> = drafts.iter().map(|d| format!("{d:?}")).collect();
            prop_assert!(false, "{e}\n{tokens} tokens, {}", requests.join("\n"));
        }
    }
}

/// An edit of a late position changes early ones: runs that start at the edit, as causal ones do, would miss it.
#[test]
fn edits_reach_positions_before_them() {
    for (name, model) in ENCODERS.iter() {
        let trace = run(model, 40);
        let row = noise(model.config().hidden, 1);
        let replace = edit(Site::Resid, 1, 30..31, Action::Replace(Rows::one(&row, 0)));
        let requests = [request(model, vec![replace], 0..40)];
        let (seen, _) = planned(model, &trace, &requests, PLENTY);
        let want = full(model, &trace, &requests);
        agree(model, &trace, &requests, &seen, &want).unwrap_or_else(|e| panic!("{name}: {e}"));
        let near = |seen: &Seen, position| seen.added[&(0, 1, position)];
        assert!(near(&seen, 25) > 1e-4 && near(&want, 25) > 1e-4, "{name}");
        let [clean, edited] = &seen.logits[&(0, 25)];
        assert_ne!(clean, edited, "{name}");
        assert_eq!(*clean, logits(model, &trace.resid[model.config().depth()], 25), "{name}");
    }
}

/// A request runs whole layers from the one that it edits on, and no layer below.
#[test]
fn only_the_layers_below_an_edit_are_shared() {
    let (_, model) = &ENCODERS[0];
    let (trace, row) = (run(model, 20), noise(model.config().hidden, 1));
    for layer in 0..model.config().depth() {
        let one = edit(Site::Resid, layer, 3..4, Action::Replace(Rows::one(&row, 0)));
        let mut requests: Vec<Request<'_>> = vec![request(model, vec![one], 5..6)];
        let twice = requests[0].edits.clone();
        let (_, macs) = planned(model, &trace, &requests, PLENTY);
        let layers: u64 = (layer..model.config().depth()).map(|l| model.layer_macs(l, 20)).sum();
        assert_eq!(macs, layers + 2 * model.head_macs_per_row());
        requests.push(Request { edits: twice, ..request(model, vec![], 5..6) });
        let (_, macs) = planned(model, &trace, &requests, PLENTY);
        assert_eq!(macs, 2 * layers + 3 * model.head_macs_per_row());
    }
}

#[track_caller]
fn close(what: &str, got: f64, want: f64) {
    assert!((got - want).abs() <= 2e-5 + 2e-4 * want.abs(), "{what}: {got} against {want}");
}

/// A text of 25 tokens with four masks and a special token at each end.
fn masked() -> Masked {
    let hidden = [3usize, 9, 10, 20];
    Masked {
        targets: Targets { positions: hidden.to_vec(), tokens: vec![5, 6, 7, 8] },
        own: (1..24).collect(),
        halves: vec![(1..24).step_by(2).collect(), vec![2, 3, 9, 15]],
        ratio: Some(0.15),
        one_at_a_time: None,
    }
}

fn text(model: &Model) -> TokenizedPrompt {
    let mut tokens = run(model, 25).tokens;
    masked().targets.positions.iter().for_each(|position| tokens[*position] = 4);
    TokenizedPrompt {
        id: "p".into(),
        group: None,
        text_sha256: None,
        pieces: vec!["x".into(); tokens.len()],
        tokens,
        positions: vec![],
        masked: Some(masked()),
    }
}

fn pair(model: &Model) -> TokenizedPair {
    let TokenizedPrompt { tokens, pieces, masked, .. } = text(model);
    let qa = QaPair { question: "q".into(), answer: "a".into(), answer_tokens: 4 };
    TokenizedPair { id: "qa/p".into(), group: None, qa, tokens, pieces, masked }
}

fn options(probes: &[Probe], naive: bool) -> ProbeOptions {
    ProbeOptions {
        lens_maps: 0,
        probes: probes.to_vec(),
        memory: 1 << 30,
        naive,
        longest_text: 25,
        longest_pair: 25,
        skip: SkipOptions {
            modes: vec![SkipMode::Current, SkipMode::Others],
            parts: vec![SkipPart::Layer, SkipPart::Attn, SkipPart::Mlp],
        },
        gradients: GradientOptions {
            sites: vec![GradientSite::Resid, GradientSite::Attn, GradientSite::Mlp],
            baseline: PathBaseline::Sequence,
            quadrature: Quadrature::GaussLegendre(8),
        },
    }
}

fn sample(model: &Model, probes: &[Probe], naive: bool) -> Sample {
    let mut found = Vec::new();
    let mut keep = |sample: Sample| {
        found.push(sample);
        Ok::<_, std::io::Error>(())
    };
    let options = options(probes, naive);
    if probes.iter().any(|probe| probe.needs_pairs()) {
        measure_pairs(model, &[text(model)], &[pair(model)], &options, Observer::NONE, &mut keep).unwrap();
    } else {
        measure(model, &[text(model)], &options, Observer::NONE, &mut keep).unwrap();
    }
    found.remove(0)
}

const OF_TEXTS: [Probe; 5] =
    [Probe::Contributions, Probe::Lens, Probe::Similarity, Probe::Settling, Probe::Skip];
const OF_PAIRS: [Probe; 2] = [Probe::Erasure, Probe::Gradients];

#[test]
fn probes_are_as_planned_and_as_naive() {
    for (name, model) in ENCODERS.iter() {
        let [fast, slow] = [false, true].map(|naive| sample(model, &OF_TEXTS, naive));
        let (fast_skip, slow_skip) = (fast.skip.unwrap(), slow.skip.unwrap());
        assert_eq!(fast_skip.effects.len(), 2, "{name}");
        for (mode, parts) in &fast_skip.effects {
            for (part, effects) in parts {
                let want = &slow_skip.effects[mode][part];
                let what = format!("{name}, {mode:?}, {part:?}");
                for (got, want) in
                    effects.layer_effect.iter().flatten().zip(want.layer_effect.iter().flatten())
                {
                    close(&what, *got, *want);
                }
                let outputs = effects.output_effect.iter().flatten().zip(want.output_effect.iter().flatten());
                outputs.for_each(|(got, want)| close(&what, *got, *want));
                // The last layer changes its own positions alone.
                let last = if *mode == SkipMode::Others { 1 } else { 0 };
                let outputs = effects.output_effect.as_ref().unwrap();
                assert!(outputs[..outputs.len() - last].iter().all(|x| *x > 0.0), "{what}");
            }
        }
        let [fast, slow] = [false, true].map(|naive| sample(model, &OF_PAIRS, naive));
        let erased = [fast.erasure.unwrap(), slow.erasure.unwrap()];
        for (got, want) in erased[0].iter().flatten().zip(erased[1].iter().flatten()) {
            close(&format!("{name}, erasure"), *got, *want);
        }
        // Special tokens are left out, others are not.
        assert!(erased[0][0][0] == 0.0 && erased[0][0][24] == 0.0 && erased[0][0][12] > 0.0, "{name}");
        for (fast, slow) in fast.gradients.unwrap().iter().zip(slow.gradients.unwrap()) {
            for (l, (got, want)) in fast.attribution.iter().zip(&slow.attribution).enumerate() {
                got.iter()
                    .zip(want)
                    .for_each(|(got, want)| close(&format!("{name}, {:?} {l}", fast.site), *got, *want));
            }
            // Gauss-Legendre with eight points is nearly exact on smooth paths.
            let worst = fast.completeness_error.iter().copied().fold(0.0, f64::max);
            assert!(worst < 0.05, "{name}, {:?}: {worst}", fast.site);
        }
    }
}

#[test]
fn plans_count_what_is_done() {
    for (name, model) in ENCODERS.iter() {
        let of = |plans: Plans| plans.into_iter().map(|(name, plan)| (name, plan.work)).collect::<Vec<_>>();
        let done = |probes: &[Probe]| -> Vec<(String, Work)> {
            sample(model, probes, false).work.into_iter().collect()
        };
        let planned = of(plan(model, &[text(model)], &options(&OF_TEXTS, false)).unwrap());
        let measured = done(&OF_TEXTS);
        for (probe, work) in planned {
            let found = measured.iter().find(|(name, _)| *name == probe);
            assert!(probe == "settling" || found == Some(&(probe.clone(), work)), "{name}, {probe}");
        }
        let planned = of(plan_pairs(model, &[], &[pair(model)], &options(&OF_PAIRS, false)).unwrap());
        let measured = done(&OF_PAIRS);
        for (probe, work) in planned {
            assert!(measured.contains(&(probe.clone(), work)), "{name}, {probe}: {work:?}, {measured:?}");
        }
    }
}

/// The lens reads the masks, with the tokens that they hide.
#[test]
fn the_lens_predicts_what_is_hidden() {
    for (name, model) in ENCODERS.iter() {
        let found = sample(model, &OF_TEXTS, false);
        let text = text(model);
        let trace = model.run(&[&text.tokens]).unwrap().remove(0);
        for (level, resid) in trace.resid.iter().enumerate() {
            let loss = |(position, token): (&usize, &u32)| {
                let row = logits(model, resid, *position);
                let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
                sum.ln() - f64::from(row[*token as usize] - most)
            };
            let targets = masked().targets;
            let losses: Vec<f64> = targets.positions.iter().zip(&targets.tokens).map(loss).collect();
            let mean = losses.iter().sum::<f64>() / losses.len() as f64;
            close(&format!("{name}, level {level}"), found.lens.as_ref().unwrap().nll[level], mean);
        }
        assert_eq!(found.settling.unwrap().layers.len(), 4);
        assert_eq!(found.contributions.unwrap().cosine.attn.tokens[0].len(), 23);
        let about = found.masked.unwrap();
        assert_eq!((about.positions, about.hidden, about.own), (vec![3, 9, 10, 20], vec![5, 6, 7, 8], 23));
    }
}

/// One position at a time: each has its own run.
#[test]
fn masks_one_at_a_time_give_the_pseudo_log_likelihood() {
    for (name, model) in ENCODERS.iter() {
        let clean = run(model, 9).tokens;
        let own: Vec<usize> = (1..8).collect();
        let hidden: Vec<u32> = own.iter().map(|position| clean[*position]).collect();
        let masked = Masked {
            targets: Targets { positions: own.clone(), tokens: hidden.clone() },
            own: own.clone(),
            one_at_a_time: Some(4),
            ..Masked::default()
        };
        let prompt = TokenizedPrompt { tokens: clean.clone(), masked: Some(masked), ..text(model) };
        let mut found = Vec::new();
        let mut keep = |sample: Sample| {
            found.push(sample);
            Ok::<_, std::io::Error>(())
        };
        let clean_probes = options(&OF_TEXTS[..4], false);
        measure(model, &[prompt], &clean_probes, Observer::NONE, &mut keep).unwrap();
        let mut want = 0.0;
        for (position, token) in own.iter().zip(&hidden) {
            let mut text = clean.clone();
            text[*position] = 4;
            let trace = model.run(&[&text]).unwrap().remove(0);
            let row = logits(model, &trace.resid[model.config().depth()], *position);
            let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            want += f64::from(row[*token as usize]) - sum.ln();
        }
        let got = found[0].masked.as_ref().unwrap().pseudo_log_likelihood.unwrap();
        assert!((got - want).abs() < 1e-4, "{name}: {got} against {want}");
        assert_eq!(found[0].work["forward"].runs, 7);
    }
}
