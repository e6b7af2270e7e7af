//! Sweeps, widths and histograms against the depth table and against theory.

mod common;

use approx::assert_relative_eq;
use common::{samples, with_threads};
use fathom_analysis::curves::rows_of;
use fathom_analysis::{BootstrapOptions, PromptCurves, uncertainty};
use fathom_depth::{Rule, Thresholds};
use fathom_results::Uncertainty;

const LAYERS: usize = 10;

fn curves(prompts: usize) -> PromptCurves {
    PromptCurves::of(&samples(prompts, LAYERS, 1), LAYERS).unwrap()
}

fn options() -> BootstrapOptions {
    BootstrapOptions { resamples: 400, ..BootstrapOptions::seeded(3) }
}

#[test]
fn the_sweep_at_the_threshold_in_use_equals_the_depth_table() {
    let curves = curves(9);
    let thresholds = Thresholds { overlap: 0.37, ..Thresholds::default() };
    let options = BootstrapOptions { thresholds, ..options() };
    let found = uncertainty(&curves, &options);
    let rows = rows_of(&curves, &options);
    assert_eq!(found.rules.len(), rows.len());
    for row in rows {
        let of = found.of(row.rule).unwrap();
        let swept = matches!(row.rule, Rule::Kl | Rule::KlLast | Rule::Overlap | Rule::Influence90);
        assert_eq!(!of.sweep.is_empty(), swept, "{}", row.rule);
        for point in of.sweep.iter().filter(|point| Some(point.threshold) == row.threshold) {
            assert_eq!((point.value, point.ratio, point.interval), (row.value, row.ratio, row.interval));
            assert_eq!(point.mean, row.mean);
        }
        assert_eq!(
            of.sweep.iter().filter(|point| Some(point.threshold) == row.threshold).count(),
            usize::from(swept)
        );
    }
}

/// An overlap of 0.05 at layer 0, 0.1 at layer 1 and so on exceeds 0.05 k first at layer k.
#[test]
fn the_sweep_crosses_exactly_at_its_thresholds() {
    let overlap: Vec<f64> = (1..=20).map(|l| f64::from(5 * l) / 100.0).collect();
    let samples = ["a", "b"].map(|id| common::seen(id, 2, &[1.0; 20], &overlap));
    let found = uncertainty(&PromptCurves::of(&samples, 20).unwrap(), &options());
    let of = found.of(Rule::Overlap).unwrap();
    assert_eq!(of.sweep.len(), 19);
    for (k, point) in (1..).zip(&of.sweep) {
        assert_eq!(point.threshold, f64::from(5 * k) / 100.0);
        // The last layer is not searched.
        let expected = (k < 19).then_some(f64::from(k));
        assert_eq!((point.value, point.interval), (expected, expected.map(|value| [value; 2])));
    }
}

/// A higher overlap is reached later, a larger share of the KL's maximum earlier, and more of the effect
/// takes more layers.
#[test]
fn depth_is_monotonic_in_the_threshold() {
    let found = uncertainty(&curves(9), &options());
    let values =
        |rule| -> Vec<f64> { found.of(rule).unwrap().sweep.iter().filter_map(|point| point.value).collect() };
    assert!(values(Rule::Overlap).is_sorted() && values(Rule::Overlap).len() > 5);
    assert!(values(Rule::Influence90).is_sorted() && values(Rule::Influence90).len() == 11);
    for rule in [Rule::Kl, Rule::KlLast] {
        assert!(values(rule).iter().rev().is_sorted() && values(rule).len() > 5);
    }
}

#[test]
fn the_width_with_all_prompts_equals_the_depth_table() {
    let curves = curves(11);
    let found = uncertainty(&curves, &options());
    for row in rows_of(&curves, &options()) {
        let of = found.of(row.rule).unwrap();
        assert_eq!(of.by_prompts.iter().map(|width| width.prompts).collect::<Vec<_>>(), [2, 4, 8, 11]);
        let all = of.by_prompts.last().unwrap();
        assert_eq!(all.interval, row.interval, "{}", row.rule);
        assert_eq!(all.width, row.interval.map(|[lo, hi]| hi - lo));
        let histogram = of.histogram.as_ref().unwrap();
        assert_eq!(histogram.counts.iter().sum::<u64>() + histogram.none, 400);
        let [lo, hi] = row.interval.unwrap();
        assert!(histogram.edges[0] <= lo && hi <= *histogram.edges.last().unwrap());
    }
}

/// The mean settle layer of prompts of equal length is a mean over prompts, whose interval is that of
/// Student's distribution, narrower with the root of the number of prompts.
#[test]
fn the_width_of_a_mean_shrinks_with_the_root_of_the_prompts() {
    let mut samples = samples(128, LAYERS, 1);
    for (i, sample) in samples.iter_mut().enumerate() {
        sample.settling.as_mut().unwrap().layers = vec![i % 9, (i * i) % 7, (i / 3) % 8];
    }
    let means: Vec<f64> = samples
        .iter()
        .map(|s| s.settling.as_ref().unwrap().layers.iter().sum::<usize>() as f64 / 3.0)
        .collect();
    let mean = means.iter().sum::<f64>() / 128.0;
    let deviation = (means.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 128.0).sqrt();
    for sample in &mut samples {
        (sample.contributions, sample.lens, sample.skip) = (None, None, None);
    }
    let curves = PromptCurves::of(&samples, LAYERS).unwrap();
    let found = uncertainty(&curves, &BootstrapOptions { resamples: 20_000, ..options() });
    assert_eq!(found.rules.len(), 1);
    let of = found.of(Rule::Settling).unwrap();
    // With 7, 15, 31, 63 and 127 degrees of freedom, from a table.
    let quantiles = [2.36462, 2.13145, 2.03951, 1.99834, 1.97882];
    for (width, quantile) in of.by_prompts.iter().filter(|width| width.prompts >= 8).zip(quantiles) {
        let expected = 2.0 * quantile * deviation / (width.prompts as f64 - 1.0).sqrt();
        assert_relative_eq!(width.width.unwrap(), expected, max_relative = 0.04);
    }
    let expected_at = |prompts: f64| 2.0 * 1.959_964 * deviation / prompts.sqrt();
    assert_eq!(of.enough(1.1 * expected_at(32.0)), Some(32));
    assert_eq!(of.enough(0.5 * expected_at(128.0)), None);
}

#[test]
fn one_prompt_has_only_a_sweep() {
    let found = uncertainty(&curves(1), &options());
    let of = found.of(Rule::Kl).unwrap();
    assert!(of.by_prompts.is_empty() && of.histogram.is_none());
    assert!(of.sweep.iter().any(|point| point.value.is_some()));
    assert!(of.sweep.iter().all(|point| point.interval.is_none()));
    let none = PromptCurves::of(&[], LAYERS).unwrap();
    assert!(uncertainty(&none, &options()).rules.is_empty());
}

#[test]
fn json_round_trips_and_does_not_depend_on_threads() {
    let curves = curves(6);
    let one = with_threads(1, || uncertainty(&curves, &options()));
    assert_eq!(with_threads(4, || uncertainty(&curves, &options())), one);
    let text = serde_json::to_string(&one).unwrap();
    let again: Uncertainty = serde_json::from_str(&text).unwrap();
    assert!(again == one);
}

/// The loss of the output is the mean over tokens that follow another one, and its interval the bootstrap over prompts.
#[test]
fn the_loss_of_the_output_has_its_interval() {
    let prompt = |id: &str, tokens: usize, loss: f64| {
        let mut sample = common::seen(id, tokens, &[1.0; 3], &[0.5; 3]);
        sample.lens.as_mut().unwrap().nll = if tokens > 1 { vec![9.0, loss] } else { Vec::new() };
        sample
    };
    // Two prompts of 2 and 4 predictions; one of a single token predicts nothing.
    let samples = [prompt("a", 3, 4.0), prompt("b", 5, 1.0), prompt("c", 1, 0.0)];
    let of = |samples: &[_]| PromptCurves::of(samples, 3).unwrap();
    let found = uncertainty(&of(&samples), &options()).nll.unwrap();
    assert_relative_eq!(found.value, (2.0 * 4.0 + 4.0 * 1.0) / 6.0);
    let options = options();
    let expected = fathom_depth::bootstrap(3, options.resamples, options.seed, |weights| {
        let [a, b, _] = *weights else { unreachable!() };
        let tokens = f64::from(2 * a + 4 * b);
        (tokens > 0.0).then(|| f64::from(8 * a + 4 * b) / tokens)
    });
    let expected = expected.unwrap();
    let interval = found.interval.unwrap();
    assert_relative_eq!(interval[0], expected.lo);
    assert_relative_eq!(interval[1], expected.hi);
    // One prompt has a loss without an interval.
    let one = uncertainty(&of(&samples[..1]), &options).nll.unwrap();
    assert_eq!((one.value, one.interval), (4.0, None));
    // Samples without a loss, as older versions wrote them, leave none rather than that of the others.
    let mut older = samples.clone();
    older[1].lens.as_mut().unwrap().nll.clear();
    assert_eq!(uncertainty(&of(&older), &options).nll, None);
}
