//! Every rule on small curves computed by eye, and on unusable ones.

use approx::assert_relative_eq;
use fathom_depth::{
    BootstrapError, Curves, Depth, Interval, IntervalOf, Rule, Thresholds, all, depth, sweep, with_interval,
};
use proptest::prelude::*;

#[track_caller]
fn check(rule: Rule, curves: Curves<'_>, value: f64, ratio: f64) {
    let found = depth(rule, &curves, &Thresholds::default());
    assert_eq!((found.reason, found.caution), (None, None));
    assert_relative_eq!(found.value.unwrap(), value, max_relative = 1e-12);
    assert_relative_eq!(found.ratio.unwrap(), ratio, max_relative = 1e-12);
}

#[track_caller]
fn check_none(rule: Rule, curves: Curves<'_>, part_of_reason: &str) {
    let found = depth(rule, &curves, &Thresholds::default());
    assert_eq!((found.value, found.ratio, found.interval), (None, None, None));
    let reason = found.reason.expect("a depth without a value has a reason");
    assert!(reason.contains(part_of_reason), "{reason}");
}

fn cosine<'a>(curves: [&'a [f64]; 3]) -> Curves<'a> {
    Curves { layers: curves[0].len(), cosine: Some(curves), ..Curves::default() }
}

fn kl(layers: usize, curve: &[f64]) -> Curves<'_> {
    Curves { layers, kl_lens_final: Some(curve), ..Curves::default() }
}

fn overlap(layers: usize, curve: &[f64]) -> Curves<'_> {
    Curves { layers, overlap: Some(curve), ..Curves::default() }
}

fn output(layers: usize, effect: &[f64]) -> Curves<'_> {
    Curves { layers, output_effect: Some(effect), ..Curves::default() }
}

#[test]
fn cosine_takes_the_last_turn_of_the_mean() {
    let mean: &[f64] = &[0.1, -0.1, 0.2, -0.3, -0.1, 0.0, 0.4, 0.5];
    check(Rule::Cosine, cosine([mean; 3]), 4.0, 5.0 / 8.0);
    // No single curve turns after layer 1; their mean is -1/3, -1/3, 1/3.
    check(Rule::Cosine, cosine([&[-3.0, 1.0, 1.0], &[1.0, 1.0, 1.0], &[1.0, -3.0, -1.0]]), 1.0, 2.0 / 3.0);
}

#[test]
fn cosine_without_a_turn() {
    check_none(Rule::Cosine, cosine([&[0.1, 0.0, 0.3]; 3]), "negative at no layer");
    check_none(Rule::Cosine, cosine([&[-0.1, -0.2]; 3]), "negative at every layer");
    check_none(Rule::Cosine, cosine([&[0.1, -0.2]; 3]), "only the other way");
    check_none(Rule::Cosine, cosine([&[-0.1]; 3]), "one layer");
    check_none(
        Rule::Cosine,
        cosine([&[-0.1, 0.1], &[-0.1, 0.1], &[-0.1, f64::NAN]]),
        "layer cosine curve is NaN at layer 1",
    );
    check_none(
        Rule::Cosine,
        cosine([&[-0.1, 0.1], &[-0.1, f64::INFINITY], &[-0.1, 0.1]]),
        "MLP cosine curve is inf at layer 1",
    );
    check_none(Rule::Cosine, cosine([&[-0.1, 0.1], &[-0.1], &[-0.1, 0.1]]), "1 values for 2 layers");
}

/// The mean is over the parts that a layer has.
#[test]
fn cosine_of_layers_without_a_part() {
    let none = f64::NAN;
    check(Rule::Cosine, cosine([&[-0.1, 0.3, 0.1], &[none; 3], &[-0.1, 0.3, 0.1]]), 0.0, 1.0 / 3.0);
    check(Rule::Cosine, cosine([&[none, -0.1, none], &[-0.1, none, 0.2], &[0.2, -0.1, 0.2]]), 1.0, 2.0 / 3.0);
}

#[test]
fn kl_falls_below_half_strictly() {
    check(Rule::Kl, kl(5, &[8.0, 10.0, 5.0, 4.9, 1.0]), 3.0, 4.0 / 5.0);
    check(Rule::KlLast, kl(5, &[8.0, 10.0, 5.0, 4.9, 1.0]), 3.0, 4.0 / 5.0);
    // The last value, of the output with itself, is neither searched nor part of the maximum.
    check(Rule::Kl, kl(3, &[4.0, 1.0, 1.0, 99.0]), 1.0, 2.0 / 3.0);
}

#[test]
fn kl_last_needs_the_curve_to_stay_low() {
    let curve = [10.0, 4.0, 6.0, 5.0, 3.0, 1.0];
    check(Rule::KlLast, kl(6, &curve), 4.0, 5.0 / 6.0);
    // Only the last layer is below, which neither rule gives.
    let late = [10.0, 9.0, 1.0];
    check_none(Rule::Kl, kl(3, &late), "0.5 of its maximum (5.000 nats) at no layer before the last");
    check_none(Rule::KlLast, kl(3, &late), "(5.000 nats) at the last layer alone");
    check_none(Rule::KlLast, kl(3, &[10.0, 1.0, 9.0]), "or above at the last layer");
}

#[track_caller]
fn check_caution(rule: Rule, curves: Curves<'_>, value: f64, caution: &str) {
    let found = depth(rule, &curves, &Thresholds::default());
    assert_eq!((found.value, found.reason), (Some(value), None));
    assert_eq!(found.caution.as_deref(), Some(caution));
}

/// The papers take the first layer even if the curve is low before it is high.
#[test]
fn a_curve_that_turns_back_gets_a_caution() {
    check_caution(
        Rule::Kl,
        kl(6, &[10.0, 4.0, 6.0, 5.0, 3.0, 1.0]),
        1.0,
        "the KL curve rises after layer 1 and is at 0.5 of its maximum or above as late as layer 3",
    );
    check_caution(
        Rule::Kl,
        kl(4, &[1.0, 2.0, 9.0, 8.0]),
        0.0,
        "the KL curve rises after layer 0 and is at 0.5 of its maximum or above as late as layer 3",
    );
    check_caution(
        Rule::Overlap,
        overlap(5, &[0.4, 0.1, 0.3, 0.9, 0.9]),
        0.0,
        "the overlap falls after layer 0 and is at 0.3 or below as late as layer 2",
    );
}

#[test]
fn unusable_kl_curves() {
    for rule in [Rule::Kl, Rule::KlLast] {
        check_none(rule, Curves { layers: 3, ..Curves::default() }, "not measured");
        check_none(rule, kl(3, &[]), "0 values for 3 layers");
        check_none(rule, kl(0, &[]), "no layers");
        check_none(rule, kl(usize::MAX, &[1.0]), "1 values for");
        check_none(rule, kl(3, &[1.0; 5]), "5 values for 3 layers");
        check_none(rule, kl(1, &[1.0, 0.0]), "one layer");
        check_none(rule, kl(3, &[0.0; 3]), "nowhere above zero");
        check_none(rule, kl(3, &[1.0, f64::INFINITY, 0.0]), "inf at layer 1");
        check_none(rule, kl(3, &[1.0, f64::NAN, 0.0]), "NaN at layer 1");
    }
}

#[test]
fn overlap_exceeds_strictly() {
    check(Rule::Overlap, overlap(4, &[0.0, 0.3, 0.31, 0.9]), 2.0, 3.0 / 4.0);
    check(Rule::Overlap, overlap(4, &[0.4, 0.31, 0.5, 0.9, 0.0]), 0.0, 1.0 / 4.0);
    check_none(Rule::Overlap, overlap(4, &[0.0, 0.25, 0.2, 0.9, 1.0]), "largest is 0.250 at layer 1");
    check_none(Rule::Overlap, overlap(2, &[0.0, f64::NAN]), "NaN at layer 1");
    check_none(Rule::Overlap, Curves { layers: 2, ..Curves::default() }, "not measured");
}

#[test]
fn skip_weights_layers_by_their_effect() {
    // Means over later layers: (2 + 4) / 2 = 3, 1, and none for the last layer.
    let effect = [vec![0.0, 2.0, 4.0], vec![0.0, 0.0, 1.0], vec![0.0; 3]];
    let curves = Curves { layers: 3, layer_effect: Some(&effect), ..Curves::default() };
    check(Rule::SkipLayer, curves, 0.25, 1.25 / 3.0);
    check(Rule::SkipOutput, output(3, &[1.0, 0.0, 3.0]), 1.5, 2.5 / 3.0);
    check(Rule::SkipOutput, output(1, &[1.0]), 0.0, 1.0);
}

#[test]
fn unusable_skip_effects() {
    let none = |effect: &[Vec<f64>], reason: &str| {
        let curves = Curves { layers: 3, layer_effect: Some(effect), ..Curves::default() };
        check_none(Rule::SkipLayer, curves, reason);
    };
    none(&[vec![0.0; 3], vec![0.0; 3]], "2 rows for 3 layers");
    none(&[vec![0.0; 3], vec![0.0; 2], vec![0.0; 3]], "2 values for skipped layer 1");
    none(&[vec![1.0; 3], vec![0.0, 0.0, f64::NAN], vec![0.0; 3]], "skipping layer 1 holds NaN");
    none(&[vec![1.0, 2.0, -1.0], vec![0.0; 3], vec![0.0; 3]], "skipping layer 0 holds -1");
    none(&[vec![0.0, f64::MAX, f64::MAX], vec![0.0; 3], vec![0.0; 3]], "inf at layer 0");
    none(&[vec![0.0; 3], vec![0.0; 3], vec![0.0; 3]], "no later layer");
    check_none(Rule::SkipLayer, Curves { layers: 3, ..Curves::default() }, "not measured");
    for rule in [Rule::SkipOutput, Rule::InfluenceNumber, Rule::Influence90] {
        check_none(rule, output(3, &[0.0; 3]), "at no layer");
        check_none(rule, output(3, &[0.0; 4]), "4 values for 3 layers");
        check_none(rule, output(3, &[0.0, -0.5, 1.0]), "negative (-0.5) at layer 1");
        check_none(rule, output(0, &[]), "no layers");
        check_none(rule, Curves { layers: 3, ..Curves::default() }, "not measured");
    }
}

#[test]
fn influence_counts_layers() {
    check(Rule::InfluenceNumber, output(4, &[0.5; 4]), 4.0, 1.0);
    check(Rule::InfluenceNumber, output(4, &[0.0, 0.3, 0.3, 0.0]), 2.0, 0.5);
    check(Rule::Influence90, output(10, &[0.1; 10]), 9.0, 0.9);
    check(Rule::Influence90, output(4, &[0.05, 0.5, 0.4, 0.05]), 2.0, 0.5);
}

#[test]
fn settling_ranges_from_zero_to_all_layers() {
    let settled = |mean| Curves { layers: 10, settle_mean: Some(mean), ..Curves::default() };
    check(Rule::Settling, settled(0.0), 0.0, 0.0);
    check(Rule::Settling, settled(6.5), 6.5, 0.65);
    check(Rule::Settling, settled(9.5), 9.5, 0.95);
    check(Rule::Settling, settled(10.0), 10.0, 1.0);
    check_none(Rule::Settling, settled(f64::NAN), "NaN is outside 0 to 10");
    check_none(Rule::Settling, settled(10.5), "outside 0 to 10");
    check_none(Rule::Settling, Curves { layers: 10, ..Curves::default() }, "not measured");
    check_none(
        Rule::Settling,
        Curves { layers: 0, settle_mean: Some(0.0), ..Curves::default() },
        "no layers",
    );
}

#[test]
fn all_lists_the_rules_that_were_measured() {
    let rules = |curves: &Curves<'_>| -> Vec<Rule> {
        all(curves, &Thresholds::default()).into_iter().map(|depth| depth.rule).collect()
    };
    assert_eq!(rules(&Curves::default()), []);
    assert_eq!(rules(&kl(2, &[1.0, 0.0])), [Rule::Kl, Rule::KlLast]);
    assert_eq!(rules(&output(2, &[1.0, 0.0])), [Rule::SkipOutput, Rule::InfluenceNumber, Rule::Influence90]);
}

#[test]
fn sweeps_change_one_threshold() {
    let curve = [10.0, 7.0, 4.0, 1.0, 0.5];
    let swept = sweep(Rule::Kl, &kl(5, &curve), &Thresholds::default(), &[0.8, 0.5, 0.2, 0.01, 2.0]);
    let values: Vec<Option<f64>> = swept.iter().map(|depth| depth.value).collect();
    assert_eq!(values, [Some(1.0), Some(2.0), Some(3.0), None, None]);
    assert_eq!(swept[0].threshold, Some(0.8));
    assert_eq!(swept[4].reason.as_deref(), Some("the threshold 2 is outside (0, 1]"));
    assert!(sweep(Rule::Cosine, &kl(5, &curve), &Thresholds::default(), &[0.5]).is_empty());
}

#[test]
fn results_have_every_key() {
    let found = depth(Rule::Overlap, &overlap(2, &[0.4, 0.9]), &Thresholds::default());
    let json = serde_json::to_string(&found).unwrap();
    let written = r#"{"rule":"overlap","threshold":0.3,"value":0.0,"layers_used":1.0,"ratio":0.5,"mean":null,"interval":null,"interval_of":null,"reason":null,"caution":null}"#;
    assert_eq!(json, written);
    assert_eq!(serde_json::from_str::<Depth>(&json).unwrap(), found);
}

#[test]
fn intervals_never_replace_a_value() {
    let interval = |none_share| Ok(Interval { lo: 1.0, hi: 3.0, none_share, resamples: 1000 });
    let found = depth(Rule::Kl, &kl(4, &[4.0, 3.0, 1.0, 1.0]), &Thresholds::default());
    let whole = with_interval(found.clone(), &interval(0.0));
    assert_eq!((whole.interval, whole.reason), (Some([1.0, 3.0]), None));
    assert_eq!(whole.interval_of, Some(IntervalOf::Value));
    let part = with_interval(found.clone(), &interval(0.125));
    assert!(part.interval.is_some() && part.reason.unwrap().contains("12.5 %"));
    let none = with_interval(found, &Err(BootstrapError::TooFewPrompts { prompts: 1 }));
    assert!(none.interval.is_none() && none.value.is_some() && none.reason.unwrap().contains("two prompts"));
    let missing = depth(Rule::Kl, &kl(2, &[0.0; 2]), &Thresholds::default());
    assert_eq!(with_interval(missing.clone(), &interval(0.0)), missing);
    // The interval of a rule on the largest effects is that of the mean, and needs one.
    let largest = depth(Rule::SkipOutput, &output(2, &[1.0, 1.0]), &Thresholds::default());
    assert_eq!(with_interval(largest.clone(), &interval(0.0)), largest);
    let mean = with_interval(Depth { mean: Some(0.75), ..largest }, &interval(0.0));
    assert_eq!(
        (mean.value, mean.interval, mean.interval_of),
        (Some(0.5), Some([1.0, 3.0]), Some(IntervalOf::Mean))
    );
}

/// Any number, with special values such as NaN over-represented.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => -1.0..20.0f64,
        1 => Just(0.0),
        1 => Just(f64::NAN),
        1 => any::<f64>(),
        1 => Just(f64::MAX),
    ]
}

fn curve() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(number(), 0..7)
}

/// A curve that fits the number of layers about half of the time.
#[test]
fn top1_is_the_level_from_which_on_the_likeliest_tokens_agree() {
    let at = |curve: &[f64]| {
        let curves = Curves { layers: curve.len(), top1: Some(curve), ..Curves::default() };
        depth(Rule::Top1, &curves, &Thresholds::default()).layers_used
    };
    assert_eq!(at(&[0.1, 0.6, 0.5, 0.51]), Some(3.0));
    assert_eq!(at(&[0.6, 0.7]), Some(0.0));
    // The output agrees with itself.
    assert_eq!(at(&[0.6, 0.2]), Some(2.0));
}

fn fitting(layers: usize) -> impl Strategy<Value = Vec<f64>> {
    prop_oneof![prop::collection::vec(0.0..9.0f64, layers), prop::collection::vec(number(), layers), curve()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_curve_gives_a_valid_result(
        (layers, one, matrix) in (0usize..6).prop_flat_map(|layers| (
            prop_oneof![9 => Just(layers), 1 => Just(usize::MAX)],
            prop::collection::vec(fitting(layers), 6),
            prop_oneof![prop::collection::vec(fitting(layers), layers), prop::collection::vec(curve(), 0..7)],
        )),
        settle in number(),
        cutoffs in prop::collection::vec(prop_oneof![0.0..1.0f64, number()], 4),
    ) {
        let curves = Curves {
            layers,
            cosine: Some([&one[0], &one[1], &one[2]]),
            kl_lens_final: Some(&one[3]),
            overlap: Some(&one[4]),
            top1: Some(&one[4]),
            layer_effect: Some(&matrix),
            output_effect: Some(&one[5]),
            settle_mean: Some(settle),
        };
        let thresholds = Thresholds {
            kl_share: cutoffs[0],
            overlap: cutoffs[1],
            top1: cutoffs[1],
            influence_share: cutoffs[2],
            settling_bits: cutoffs[3],
        };
        let found = all(&curves, &thresholds);
        prop_assert_eq!(found.len(), Rule::ALL.len());
        for depth in found {
            prop_assert_eq!(depth.value.is_some(), depth.reason.is_none());
            prop_assert_eq!(depth.value.is_some(), depth.ratio.is_some());
            if let (Some(value), Some(ratio)) = (depth.value, depth.ratio) {
                prop_assert!(value >= 0.0 && value <= layers as f64, "{} {value}", depth.rule);
                prop_assert!((0.0..=1.0).contains(&ratio), "{} {ratio}", depth.rule);
                // A token can settle before the first layer; every other rule uses at least one layer.
                prop_assert!(ratio > 0.0 || matches!(depth.rule, Rule::Settling | Rule::Top1), "{}", depth.rule);
                prop_assert_eq!(depth.layers_used, Some(depth.rule.layers_used(value)));
            }
        }
    }
}
