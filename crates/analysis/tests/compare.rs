//! Comparisons: identities, small cases, and the paired bootstrap computed by hand.

mod common;

use approx::assert_relative_eq;
use common::{CAUSAL_RULES, samples, seen, with_threads};
use fathom_analysis::{
    BootstrapOptions, Comparison, Curve, Error, Pairing, PromptCurves, RunCurves, compare,
    compare_with_baseline,
};
use fathom_depth::{IntervalOf, Rule, paired};
use fathom_results::Sample;
use fathom_results::{SkipMode, SkipPart};

fn options() -> BootstrapOptions {
    BootstrapOptions { resamples: 500, ..BootstrapOptions::seeded(5) }
}

fn curves(samples: &[Sample], layers: usize) -> PromptCurves {
    PromptCurves::of(samples, layers).unwrap()
}

fn compared(a: &PromptCurves, b: &PromptCurves, pairing: Pairing) -> Comparison {
    compare(RunCurves { name: "a", curves: a }, RunCurves { name: "b", curves: b }, pairing, &options())
        .unwrap()
}

#[test]
fn a_run_equals_itself() {
    let a = curves(&samples(9, 8, 0), 8);
    let found = compared(&a, &a, Pairing::Paired);
    assert_eq!((found.rules.len(), found.curves.len()), (CAUSAL_RULES, Curve::ALL.len() - 1));
    for rule in &found.rules {
        for difference in [rule.value.unwrap(), rule.ratio.unwrap()] {
            assert_eq!(
                (difference.difference, difference.interval),
                (0.0, Some([0.0, 0.0])),
                "{}",
                rule.rule
            );
            assert!(!difference.excludes_zero);
        }
    }
    for curve in &found.curves {
        assert_eq!((curve.separate, curve.largest, curve.relative), (0, None, false));
        assert_eq!(curve.at, (0..8).map(f64::from).collect::<Vec<_>>());
        // Of the largest effects of any prompt, resamples say nothing.
        let interval = (!curve.curve.is_largest()).then_some([0.0, 0.0]);
        assert!(curve.differences.iter().all(|d| d.difference == 0.0 && d.interval == interval));
    }
    // Drawn on its own, it differs by chance in every resample and not on the whole.
    let apart = compared(&a, &a, Pairing::Unpaired);
    let resampled = apart.curves.iter().filter(|curve| !curve.curve.is_largest());
    assert!(
        resampled.clone().count() == 12
            && resampled.clone().all(|curve| curve.differences.iter().all(|d| {
                let [lo, hi] = d.interval.unwrap();
                d.difference == 0.0 && lo <= 0.0 && hi >= 0.0
            }))
    );
    let spread = apart.curves[6].differences[0].interval.unwrap();
    assert!(spread[1] - spread[0] > 0.01, "{spread:?}");
}

/// A curve that is higher by a constant on every prompt differs by it in every resample, however much the
/// prompts differ, and nowhere else.
#[test]
fn a_constant_shift_is_found_at_its_layers() {
    let (a, mut b) = (samples(9, 8, 1), samples(9, 8, 1));
    for sample in &mut b {
        sample.lens.as_mut().unwrap().kl_lens_final[3] += 0.25;
        sample.lens.as_mut().unwrap().kl_lens_final[5] -= 0.125;
    }
    let found = compared(&curves(&a, 8), &curves(&b, 8), Pairing::Paired);
    for curve in &found.curves {
        let changed = curve.curve == Curve::KlLensFinal;
        assert_eq!((curve.separate, curve.largest), if changed { (2, Some(3)) } else { (0, None) });
        if changed {
            for (layer, constant) in [(3, 0.25), (5, -0.125)] {
                let difference = curve.differences[layer];
                let [lo, hi] = difference.interval.unwrap();
                for value in [difference.difference, lo, hi, curve.b[layer] - curve.a[layer]] {
                    assert_relative_eq!(value, constant, max_relative = 1e-12);
                }
            }
        }
    }
    let apart = compared(&curves(&a, 8), &curves(&b, 8), Pairing::Unpaired);
    let [lo, hi] = apart.curves[6].differences[3].interval.unwrap();
    assert!(lo < 0.23 && hi > 0.27, "[{lo}, {hi}]");
}

#[test]
fn swapping_the_runs_flips_every_sign() {
    let (a, b) = (curves(&samples(9, 8, 1), 8), curves(&samples(9, 8, 2), 8));
    let (there, back) = (compared(&a, &b, Pairing::Paired), compared(&b, &a, Pairing::Paired));
    assert!(there.rules.iter().any(|rule| rule.value.is_some_and(|value| value.difference != 0.0)));
    for (there, back) in there.rules.iter().zip(&back.rules) {
        let (Some(there), Some(back)) = (there.value, back.value) else { continue };
        assert_eq!(there.difference, -back.difference);
        let ([lo, hi], [back_lo, back_hi]) = (there.interval.unwrap(), back.interval.unwrap());
        assert_relative_eq!(lo, -back_hi, epsilon = 1e-9);
        assert_relative_eq!(hi, -back_lo, epsilon = 1e-9);
    }
    for (there, back) in there.curves.iter().zip(&back.curves) {
        assert_eq!((there.separate, there.largest), (back.separate, back.largest));
    }
}

#[test]
fn paired_comparison_ignores_the_order_of_prompts() {
    let (a, mut b) = (samples(9, 8, 1), samples(9, 8, 2));
    let straight = compared(&curves(&a, 8), &curves(&b, 8), Pairing::Paired);
    b.reverse();
    let reversed = compared(&curves(&a, 8), &curves(&b, 8), Pairing::Paired);
    for (straight, reversed) in straight.rules.iter().zip(&reversed.rules) {
        let (straight, reversed) = (straight.ratio.unwrap(), reversed.ratio.unwrap());
        let ([lo, hi], [r_lo, r_hi]) = (straight.interval.unwrap(), reversed.interval.unwrap());
        // Sums in another order round otherwise.
        assert_relative_eq!(straight.difference, reversed.difference, epsilon = 1e-9);
        assert_relative_eq!(lo, r_lo, epsilon = 1e-9);
        assert_relative_eq!(hi, r_hi, epsilon = 1e-9);
    }
}

#[test]
fn a_paired_interval_is_the_paired_bootstrap_of_the_rule() {
    let (a, b) = (samples(9, 8, 1), samples(9, 8, 2));
    let settle = |samples: &[Sample], weights: &[u32]| {
        let tokens = samples.iter().zip(weights).flat_map(|(s, w)| {
            s.settling.as_ref().unwrap().layers.iter().map(|l| (*l as f64 * f64::from(*w), f64::from(*w)))
        });
        let (sum, count) = tokens.fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
        Some(sum / count)
    };
    let expected = paired(9, 500, 5, |w| settle(&a, w), |w| settle(&b, w)).unwrap();
    let found = compared(&curves(&a, 8), &curves(&b, 8), Pairing::Paired);
    let rule = found.rules.iter().find(|rule| rule.rule == Rule::Settling).unwrap();
    let [lo, hi] = rule.value.unwrap().interval.unwrap();
    assert_relative_eq!(lo, expected.lo, epsilon = 1e-12);
    assert_relative_eq!(hi, expected.hi, epsilon = 1e-12);
    let [lo, hi] = rule.ratio.unwrap().interval.unwrap();
    assert_relative_eq!(lo, expected.lo / 8.0, epsilon = 1e-12);
    assert_relative_eq!(hi, expected.hi / 8.0, epsilon = 1e-12);
}

/// The table shows the largest effect of any prompt; the difference is that of the mean.
#[test]
fn rules_on_the_largest_effect_are_compared_by_the_mean() {
    let (a, mut b) = (samples(9, 8, 1), samples(9, 8, 1));
    for sample in &mut b {
        let Some(parts) = sample.skip.as_mut().unwrap().effects.get_mut(&SkipMode::Future) else { continue };
        // Twice every effect moves neither centre nor number of layers, one prompt's alone moves both.
        let factor = if sample.id == "p1" { 9.0 } else { 2.0 };
        let output = parts.get_mut(&SkipPart::Layer).unwrap().output_effect.as_mut().unwrap();
        output.iter_mut().enumerate().for_each(|(l, e)| *e *= if l == 7 { factor } else { 2.0 });
    }
    let (a, b) = (curves(&a, 8), curves(&b, 8));
    let found = compared(&a, &b, Pairing::Paired);
    let rule = found.rules.iter().find(|rule| rule.rule == Rule::SkipOutput).unwrap();
    assert_eq!(rule.difference_of, IntervalOf::Mean);
    let value = rule.value.unwrap();
    assert_relative_eq!(value.difference, rule.b.mean.unwrap() - rule.a.mean.unwrap(), epsilon = 1e-12);
    assert!((value.difference - (rule.b.value.unwrap() - rule.a.value.unwrap())).abs() > 0.1);
    // In words, the numbers of the mean stand beside their interval.
    let table = found.table();
    let line = table.lines().find(|line| line.contains("skip_output (mean)")).unwrap();
    assert!(line.contains(&format!(" {:.1} ", rule.a.mean.unwrap())), "{line}");
    assert!(!table.contains("skip_output_max"));
}

/// The same straight line sampled at 5 layers and at 9.
#[test]
fn models_of_different_depth_are_compared_at_relative_depth() {
    let line = |i: usize, layers: usize, up: f64| {
        let kl: Vec<f64> =
            (0..layers).map(|l| (8 + i) as f64 * (1.0 - l as f64 / (layers - 1) as f64) + up).collect();
        seen(&format!("p{i}"), 4 + i, &kl, &vec![0.0; layers])
    };
    let run = |layers, up| curves(&(0..6).map(|i| line(i, layers, up)).collect::<Vec<_>>(), layers);
    let found = compared(&run(5, 0.0), &run(9, 0.0), Pairing::Paired);
    let kl = &found.curves[0];
    assert_eq!((kl.curve, kl.relative, kl.separate), (Curve::KlLensFinal, true, 0));
    assert_eq!(kl.at, (0..9).map(|i| f64::from(i) / 8.0).collect::<Vec<_>>());
    assert!(kl.differences.iter().all(|d| d.difference.abs() < 1e-12));
    // Below half of the top at layer 3 of 5 and at layer 5 of 9.
    let rule = &found.rules[0];
    assert_eq!((rule.rule, rule.a.value, rule.b.value, rule.value), (Rule::Kl, Some(3.0), Some(5.0), None));
    let ratio = rule.ratio.unwrap();
    assert_relative_eq!(ratio.difference, 6.0 / 9.0 - 4.0 / 5.0, epsilon = 1e-12);
    assert!(ratio.excludes_zero);
    let up = compared(&run(5, 0.0), &run(9, 0.5), Pairing::Paired);
    assert_eq!(up.curves[0].separate, 9);
    assert!(found.table().contains("at relative depth"));
}

#[test]
fn refusals_name_the_cause_and_the_remedy() {
    let (a, b) = (samples(9, 8, 1), samples(12, 8, 1));
    let error = |a: &PromptCurves, b: &PromptCurves, pairing| {
        compare(RunCurves { name: "a", curves: a }, RunCurves { name: "b", curves: b }, pairing, &options())
            .unwrap_err()
    };
    let (a, b) = (curves(&a, 8), curves(&b, 8));
    assert_eq!(
        error(&a, &b, Pairing::Paired).to_string(),
        "'a' has 9 prompts and 'b' has 12, of which 9 have the same text; measure both on the same \
         prompts, or compare them with --unpaired, which resamples each on its own"
    );
    assert!(compared(&a, &b, Pairing::Unpaired).rules.len() == CAUSAL_RULES);
    let one = curves(&samples(1, 8, 1), 8);
    for pairing in [Pairing::Paired, Pairing::Unpaired] {
        let expected = Error::TooFewPrompts { run: "b".to_owned(), prompts: 1 };
        assert_eq!(error(&a, &one, pairing), expected);
    }
    let bare: Vec<Sample> = samples(9, 8, 1)
        .into_iter()
        .map(|s| Sample {
            lens: None,
            contributions: None,
            similarity: None,
            angles: None,
            settling: None,
            skip: None,
            ..s
        })
        .collect();
    let expected = Error::NothingCommon { a: "a".to_owned(), b: "b".to_owned() };
    assert_eq!(error(&a, &curves(&bare, 8), Pairing::Paired), expected);
    let options = BootstrapOptions { resamples: 0, ..options() };
    let (a, b) = (RunCurves { name: "a", curves: &a }, RunCurves { name: "b", curves: &a });
    assert!(matches!(compare(a, b, Pairing::Paired, &options), Err(Error::Bootstrap(_))));
}

/// Two prompts with equal curves, so that all resamples agree and numbers are round.
#[test]
fn the_table_of_a_small_case() {
    let run = |kl: &[f64], overlap: &[f64]| {
        let samples = ["x", "y"].map(|id| seen(id, 2, kl, overlap));
        curves(&samples, 4)
    };
    let a = run(&[8.0, 7.0, 3.0, 1.0, 0.0], &[0.0, 0.0, 0.4, 0.6, 1.0]);
    let b = run(&[8.0, 3.0, 2.0, 1.0, 0.0], &[0.0, 0.0, 0.2, 0.6, 1.0]);
    let run = |curves, name| RunCurves { name, curves };
    let found = compare(run(&a, "one|\u{1b}[2J"), run(&b, "two"), Pairing::Paired, &options()).unwrap();
    let expected = "\
A: one|?[2J, 4 layers, 2 prompts  
B: two, 4 layers, 2 prompts  
Differences are B - A; 95 % bootstrap intervals, 500 resamples, the same resamples of the same prompts in both; * excludes 0.

| rule    | A | B    | B - A | interval   | ratio A | ratio B | B - A | interval         |
|---------|---|------|-------|------------|---------|---------|-------|------------------|
| kl      | 2 | 1    | -1    | [-1, -1] * | 0.75    | 0.50    | -0.25 | [-0.25, -0.25] * |
| kl_last | 2 | 1    | -1    | [-1, -1] * | 0.75    | 0.50    | -0.25 | [-0.25, -0.25] * |
| overlap | 2 | none | -     | -          | 0.75    | none    | -     | -                |

| curve         | differ | at layer | A     | B     | B - A  | interval           |
|---------------|--------|----------|-------|-------|--------|--------------------|
| kl_lens_final | 2 of 4 | 1        | 7.00  | 3.00  | -4.00  | [-4.00, -4.00] *   |
| overlap       | 1 of 4 | 2        | 0.400 | 0.200 | -0.200 | [-0.200, -0.200] * |

Each curve is shown where it differs most among the layers whose interval excludes 0. The intervals hold layer by layer: of layers that do not differ, about one in twenty is still among them.

With fewer than 5 prompts, here 2, intervals are narrower than they should be.
";
    // Columns are at least three wide.
    assert_eq!(
        found.table().replace("| A   |", "| A |").replace("| 2   |", "| 2 |").replace("|-----|", "|---|"),
        expected
    );
}

#[test]
fn json_is_complete_and_independent_of_threads() {
    let (a, b) = (curves(&samples(6, 8, 1), 8), curves(&samples(6, 8, 2), 8));
    let one = with_threads(1, || compared(&a, &b, Pairing::Paired));
    assert_eq!(with_threads(3, || compared(&a, &b, Pairing::Paired)), one);
    let json = serde_json::to_value(&one).unwrap();
    assert_eq!(json["pairing"], "paired");
    assert_eq!(json["curves"][6]["curve"], "kl_lens_final");
    assert_eq!(json["curves"][6]["differences"].as_array().unwrap().len(), 8);
    assert_eq!(json["rules"][1]["rule"], "kl");
    assert!(json["rules"][1]["ratio"]["interval"][0].is_number());
}

#[test]
fn several_runs_are_compared_with_one_as_each_alone_and_their_p_values_are_corrected() {
    let runs = [curves(&samples(9, 8, 0), 8), curves(&samples(9, 8, 3), 8), curves(&samples(9, 6, 7), 6)];
    let [a, b, c] =
        [("a", &runs[0]), ("b", &runs[1]), ("c", &runs[2])].map(|(name, curves)| RunCurves { name, curves });
    let all = compare_with_baseline(a, &[b, c, a], Pairing::Paired, &options()).unwrap();
    for (found, other) in all.comparisons.iter().zip([b, c, a]) {
        assert_eq!(*found, compare(a, other, Pairing::Paired, &options()).unwrap());
    }
    assert_eq!((all.baseline.name.as_str(), all.baseline.layers, all.rules.len()), ("a", 8, CAUSAL_RULES));
    for row in &all.rules {
        let p_values: Vec<Option<f64>> = all
            .comparisons
            .iter()
            .map(|one| one.rules.iter().find(|found| found.rule == row.rule)?.ratio?.p_value)
            .collect();
        let tested = p_values.iter().flatten().count() as f64;
        let least = p_values.iter().flatten().copied().fold(f64::INFINITY, f64::min);
        for (corrected, alone) in row.p_holm.iter().zip(&p_values) {
            assert_eq!(corrected.is_some(), alone.is_some());
            let (Some(corrected), Some(alone)) = (corrected, alone) else { continue };
            assert!(*corrected >= *alone && *corrected <= (tested * alone).min(1.0) + 1e-12);
            if *alone == least {
                assert_relative_eq!(*corrected, (tested * alone).min(1.0));
            }
        }
        // A run does not differ from itself.
        assert!(row.p_holm[2].is_none_or(|p| p == 1.0));
    }
    let table = all.table();
    for part in ["A: a, 8 layers", "D: a, 8 layers", "Holm", "| rule ", "kl", "of 8"] {
        assert!(table.contains(part), "{table}");
    }
}
