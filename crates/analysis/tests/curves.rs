//! The depth table against the probes' own summaries, and small cases computed by hand.

mod common;

use approx::assert_relative_eq;
use common::{CAUSAL_RULES, prompt, samples, seen, with_threads};
use fathom_analysis::{BootstrapOptions, Curve, Error, PromptCurves, rows};
use fathom_depth::{Curves, IntervalOf, Rule, Thresholds, bootstrap, depth};
use fathom_probes::summarise;
use fathom_results::{QaPair, Sample};
use fathom_results::{SkipMode, SkipPart};

fn options(resamples: usize) -> BootstrapOptions {
    BootstrapOptions { resamples, ..BootstrapOptions::seeded(42) }
}

/// The summary is independent code: its depths must equal those of the pooled prompts.
#[test]
fn every_rule_agrees_with_the_summary() {
    let (layers, samples) = (9, samples(12, 9, 0));
    let summary = summarise(&samples, layers);
    let (contributions, lens) = (summary.contributions.unwrap(), summary.lens.unwrap());
    let skip = &summary.skip.unwrap()[&SkipMode::Future][&SkipPart::Layer];
    let cosine = &contributions.cosine;
    let curves = Curves {
        layers,
        cosine: Some([&cosine.attn.mean, &cosine.mlp.mean, &cosine.layer.mean]),
        kl_lens_final: Some(&lens.kl_lens_final),
        overlap: Some(&lens.overlap),
        top1: None,
        layer_effect: Some(&skip.layer_effect.max),
        output_effect: Some(&skip.output_effect.as_ref().unwrap().max),
        settle_mean: Some(summary.settling.unwrap().mean_settle_layer),
    };
    let found = rows(&samples, layers, &options(200)).unwrap();
    // It is about masked models.
    let rules: Vec<Rule> = Rule::ALL.into_iter().filter(|rule| *rule != Rule::Top1).collect();
    assert_eq!(found.iter().map(|row| row.rule).collect::<Vec<_>>(), rules);
    for row in found {
        let expected = depth(row.rule, &curves, &Thresholds::default());
        assert_eq!(row.value.is_some(), expected.value.is_some(), "{}", row.rule);
        let (value, of_summary) = (row.value.unwrap_or(0.0), expected.value.unwrap_or(0.0));
        assert_relative_eq!(value, of_summary, max_relative = 1e-12);
        assert_eq!(row.threshold, expected.threshold);
        // The same rule on the mean effects, which is what the interval is of.
        let of_means = Curves {
            layer_effect: Some(&skip.layer_effect.mean),
            output_effect: Some(&skip.output_effect.as_ref().unwrap().mean),
            ..curves
        };
        let mean =
            depth(row.rule, &of_means, &Thresholds::default()).value.filter(|_| row.rule.reads_largest());
        assert_eq!(row.mean.is_some(), mean.is_some());
        assert_relative_eq!(row.mean.unwrap_or(0.0), mean.unwrap_or(0.0), max_relative = 1e-12);
        assert_eq!(row.interval_of, Some(IntervalOf::rule(row.rule)));
        let [lo, hi] = row.interval.unwrap();
        assert!(lo <= hi && lo >= 0.0 && hi <= layers as f64, "{}: [{lo}, {hi}]", row.rule);
    }
}

#[test]
fn every_curve_agrees_with_the_summary() {
    let (layers, samples) = (7, samples(11, 7, 1));
    let summary = summarise(&samples, layers);
    let contributions = summary.contributions.unwrap();
    let (norm, cosine) = (&contributions.relative_norm, &contributions.cosine);
    let lens = summary.lens.unwrap();
    let skip = &summary.skip.unwrap()[&SkipMode::Future][&SkipPart::Layer];
    let later = |rows: &[Vec<f64>]| -> Vec<f64> {
        let mean = |s: usize| rows[s][s + 1..].iter().sum::<f64>() / (layers - 1 - s).max(1) as f64;
        (0..layers).map(mean).collect()
    };
    let output = skip.output_effect.as_ref().unwrap();
    let curves = PromptCurves::of(&samples, layers).unwrap();
    for (curve, expected) in [
        (Curve::NormAttn, norm.attn.mean.clone()),
        (Curve::NormMlp, norm.mlp.mean.clone()),
        (Curve::NormLayer, norm.layer.mean.clone()),
        (Curve::CosineAttn, cosine.attn.mean.clone()),
        (Curve::CosineMlp, cosine.mlp.mean.clone()),
        (Curve::CosineLayer, cosine.layer.mean.clone()),
        (Curve::KlLensFinal, lens.kl_lens_final[..layers].to_vec()),
        (Curve::Overlap, lens.overlap[..layers].to_vec()),
        (Curve::BlockInfluence, summary.similarity.unwrap().block_influence),
        (Curve::Angle, summary.angles.unwrap().step),
        (Curve::SkipLayerMax, later(&skip.layer_effect.max)),
        (Curve::SkipLayerMean, later(&skip.layer_effect.mean)),
        (Curve::SkipOutputMax, output.max.clone()),
        (Curve::SkipOutputMean, output.mean.clone()),
    ] {
        let found = curves.curve(curve, &curves.once()).unwrap();
        assert_eq!(found.len(), layers, "{}", curve.name());
        for (found, expected) in found.iter().zip(&expected) {
            assert_relative_eq!(*found, *expected, max_relative = 1e-12);
        }
    }
}

/// One token of kl [4, 4, 1] and three of [4, 0, 0]: the mean is [4, 1, 0.25], below half at layer 1.
#[test]
fn prompts_are_weighted_by_tokens() {
    let samples = [
        seen("a", 1, &[4.0, 4.0, 1.0, 0.0], &[0.0, 0.2, 0.4, 1.0]),
        seen("b", 3, &[4.0, 0.0, 0.0, 0.0], &[0.0, 0.4, 0.4, 1.0]),
    ];
    let curves = PromptCurves::of(&samples, 3).unwrap();
    assert_eq!(curves.curve(Curve::KlLensFinal, &[1, 1]), Some(vec![4.0, 1.0, 0.25]));
    let value = |rule, weights: &[u32]| curves.apply(rule, weights, &Thresholds::default()).unwrap().value;
    assert_eq!(value(Rule::Kl, &[1, 1]), Some(1.0));
    assert_eq!(value(Rule::Kl, &[1, 0]), None);
    assert_eq!(value(Rule::KlLast, &[2, 1]), Some(1.0));
    assert_eq!(value(Rule::KlLast, &[1, 0]), None);
    // Overlap at layer 1: (0.2 + 3 * 0.4) / 4 = 0.35; of the first alone 0.2.
    assert_eq!(value(Rule::Overlap, &[1, 1]), Some(1.0));
    assert_eq!(value(Rule::Overlap, &[1, 0]), None);
    assert_eq!(curves.apply(Rule::Settling, &[1, 1], &Thresholds::default()), None);
    assert_eq!(curves.apply(Rule::Kl, &[0, 0], &Thresholds::default()), None);
}

#[test]
fn the_interval_is_the_bootstrap_of_the_rule() {
    let samples = samples(6, 8, 2);
    let by_hand = |weights: &[u32]| {
        let (mut sum, mut total) = (vec![0.0; 8], 0.0);
        for (sample, weight) in samples.iter().zip(weights) {
            let tokens = sample.tokens.len() as f64 * f64::from(*weight);
            total += tokens;
            sum.iter_mut().zip(&sample.lens.as_ref().unwrap().overlap).for_each(|(s, o)| *s += tokens * o);
        }
        sum[..7].iter().position(|value| value / total > 0.3).map(|l| l as f64)
    };
    let expected = bootstrap(6, 500, 42, by_hand).unwrap();
    let found = rows(&samples, 8, &options(500)).unwrap();
    let row = found.iter().find(|row| row.rule == Rule::Overlap).unwrap();
    assert_eq!(row.interval, Some([expected.lo, expected.hi]));
}

#[test]
fn samples_of_one_prompt_are_merged_and_qa_pairs_skipped() {
    let whole = samples(5, 6, 3);
    let mut lines: Vec<Sample> =
        whole.iter().map(|s| Sample { skip: None, settling: None, ..s.clone() }).collect();
    lines.push(Sample { qa: Some(QaPair::default()), ..prompt("qa/0", 4) });
    lines.extend(whole.iter().rev().map(|s| Sample {
        skip: s.skip.clone(),
        settling: s.settling.clone(),
        ..prompt(&s.id, s.tokens.len())
    }));
    assert_eq!(PromptCurves::of(&lines, 6), PromptCurves::of(&whole, 6));
}

#[test]
fn the_latest_sample_of_a_prompt_wins() {
    let lines = [seen("a", 2, &[4.0, 1.0], &[0.0; 2]), seen("a", 2, &[3.0, 2.0], &[0.0; 2])];
    let curves = PromptCurves::of(&lines, 2).unwrap();
    assert_eq!(curves.curve(Curve::KlLensFinal, &[1]), Some(vec![3.0, 2.0]));
}

#[test]
fn a_probe_missing_on_one_prompt_feeds_no_rule() {
    let mut samples = samples(4, 6, 4);
    samples[2].lens = None;
    let found = rows(&samples, 6, &options(10)).unwrap();
    assert!(found.iter().all(|row| !matches!(row.rule, Rule::Kl | Rule::KlLast | Rule::Overlap)));
    assert_eq!(found.len(), CAUSAL_RULES - 3);
    assert_eq!(rows(&[], 6, &options(10)), Ok(vec![]));
}

#[test]
fn one_prompt_has_values_without_intervals() {
    let found = rows(&samples(1, 6, 5), 6, &options(10)).unwrap();
    assert!(found.iter().any(|row| row.value.is_some()));
    assert!(found.iter().all(|row| row.interval.is_none()));
}

#[test]
fn curves_of_another_model_are_refused() {
    let mut samples = samples(3, 6, 6);
    assert_eq!(PromptCurves::of(&samples, 0), Err(Error::NoLayers));
    let error = PromptCurves::of(&samples, 5).unwrap_err().to_string();
    assert!(error.starts_with("prompt 'p0' has 6 values of norm_attn where 5 layers need 5;"), "{error}");
    let future = samples[1].skip.as_mut().unwrap().effects.get_mut(&SkipMode::Future).unwrap();
    future.get_mut(&SkipPart::Layer).unwrap().layer_effect[4].pop();
    let error = PromptCurves::of(&samples, 6).unwrap_err().to_string();
    assert!(
        error.starts_with("prompt 'p1' has 5 values of skip_layer_max where 6 layers need 6;"),
        "{error}"
    );
}

#[test]
fn prompts_match_by_id_and_text_across_tokenizers() {
    let with = |id: &str, pieces: &[&str]| Sample {
        pieces: pieces.iter().map(|piece| (*piece).to_owned()).collect(),
        ..prompt(id, pieces.len())
    };
    let curves = |samples: &[Sample]| PromptCurves::of(samples, 4).unwrap();
    let a = curves(&[with("x", &["<s>", " Caf", "é", " au", " lait"]), with("y", &["two"])]);
    let b =
        curves(&[with("y", &["t", "wo", "<|end|>"]), with("x", &["Ca", "f\u{fffd}", "\u{fffd} au lait"])]);
    assert_eq!(a.places_in(&b), Ok(vec![1, 0]));
    assert_eq!(b.places_in(&a), Ok(vec![1, 0]));
    let c = curves(&[with("x", &["Cafe au lait"]), with("y", &["two"])]);
    assert_eq!(a.places_in(&c), Err(1));
    assert_eq!(b.places_in(&c), Err(1));
    assert_eq!(a.places_in(&curves(&[with("y", &["two"])])), Err(1));
    assert_eq!(a.places_in(&curves(&[with("z", &["two"])])), Err(0));
}

/// Old samples have no hashes; texts in any script must be told apart.
#[test]
fn texts_in_any_script_are_distinguished() {
    let paired = |a: &[&str], b: &[&str]| {
        let curves = |pieces: &[&str]| {
            let pieces = pieces.iter().map(|piece| (*piece).to_owned()).collect();
            PromptCurves::of(&[Sample { pieces, ..prompt("train-1", 3) }], 4).unwrap()
        };
        curves(a).places_in(&curves(b)).is_ok()
    };
    assert!(paired(&["法国", "的", "首都"], &["法", "国的首都"]));
    assert!(!paired(&["法国", "的", "首都"], &["德国", "的", "首都"]));
    assert!(paired(&["ما ", "عاصمة"], &["ما", " عاصمة"]));
    assert!(!paired(&["ما ", "عاصمة"], &["من ", "عاصمة"]));
    assert!(!paired(&["3", " +", " 4"], &["3", " *", " 4"]));
    // Characters cut in parts by one tokenizer, each of which shows as broken.
    let broken = ["\u{fffd}", "\u{fffd}", "国", "\u{fffd}\u{fffd}", "首", "\u{fffd}"];
    assert!(paired(&broken, &["法国的首都"]) && paired(&["法国的首都"], &broken));
    assert!(paired(&["\u{fffd}", "国x"], &["国国国国x"]));
    assert!(!paired(&broken, &["法国的都"]) && !paired(&broken, &["法国的首a"]));
    assert!(!paired(&["\u{fffd}a"], &["a"]) && !paired(&["\u{fffd}"], &["x"]));
    // Both are broken in different places: unknown, so different.
    assert!(!paired(&["\u{fffd}国"], &["法\u{fffd}"]));
}

#[test]
fn prompts_match_by_the_hash_of_their_text() {
    let with = |id: &str, hash: &str| Sample {
        text_sha256: Some(hash.to_owned()),
        pieces: vec![format!("{id} in its own tokens")],
        ..prompt(id, 2)
    };
    let curves = |samples: &[Sample]| PromptCurves::of(samples, 4).unwrap();
    let a = curves(&[with("a-1", "aa"), with("a-2", "bb"), with("a-3", "aa")]);
    // Ids and tokens differ; of a text that comes twice, the first is paired with the first.
    let b = curves(&[with("b-1", "bb"), with("b-2", "aa"), with("b-3", "aa")]);
    assert_eq!(a.places_in(&b), Ok(vec![1, 0, 2]));
    let c = curves(&[with("a-1", "aa"), with("a-2", "cc"), with("a-3", "dd")]);
    assert_eq!(a.places_in(&c), Err(1));
    // Against samples without hashes, id and text decide.
    let old = |id: &str| Sample { text_sha256: None, ..with(id, "") };
    let d = curves(&[old("a-2"), old("a-1"), old("a-3")]);
    assert_eq!(a.places_in(&d), Ok(vec![1, 0, 2]));
    assert_eq!(d.places_in(&a), Ok(vec![1, 0, 2]));
}

#[test]
fn results_do_not_depend_on_threads() {
    let samples = samples(7, 6, 7);
    let one = with_threads(1, || rows(&samples, 6, &options(300)));
    assert_eq!(with_threads(3, || rows(&samples, 6, &options(300))), one);
}
