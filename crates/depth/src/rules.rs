//! The depth rules.

use crate::curves::{checked, checked_effect, checked_where_present};
use crate::{BootstrapError, Curves, Depth, Interval, IntervalOf, Rule, Thresholds, effects};

/// Adds the bootstrap interval of its estimate to a depth. A depth without an estimate is unchanged; the reason notes an
/// interval that could not be computed or that rests on only part of the resamples.
pub fn with_interval(mut depth: Depth, interval: &Result<Interval, BootstrapError>) -> Depth {
    if depth.estimate().is_none() {
        return depth;
    }
    match interval {
        Ok(found) => {
            depth.interval = Some([found.lo, found.hi]);
            depth.interval_of = Some(IntervalOf::rule(depth.rule));
            depth.reason = (found.none_share > 0.0).then(|| {
                let share = 100.0 * found.none_share;
                format!(
                    "the rule finds nothing in {share:.1} % of the resamples, which the interval leaves out"
                )
            });
        }
        Err(error) => {
            depth.interval = None;
            depth.interval_of = None;
            depth.reason = Some(format!("no interval: {error}"));
        }
    }
    depth
}

/// Applies one rule. Curves that are missing, have the wrong length or are not finite, and
/// curves in which the rule finds nothing, give a reason instead of a value.
pub fn depth(rule: Rule, curves: &Curves<'_>, thresholds: &Thresholds) -> Depth {
    let found = thresholds.check(rule).and_then(|()| match rule {
        Rule::Cosine => plain(cosine(curves)),
        Rule::Kl => kl(curves, thresholds.kl_share),
        Rule::KlLast => plain(kl_last(curves, thresholds.kl_share)),
        Rule::Overlap => overlap(curves, thresholds.overlap),
        Rule::Top1 => plain(top1(curves, thresholds.top1)),
        Rule::SkipLayer => plain(skip_layer(curves)),
        Rule::SkipOutput => plain(of_output(curves, effects::depth_score)),
        Rule::InfluenceNumber => plain(of_output(curves, effects::effective_number)),
        Rule::Influence90 => plain(of_output(curves, |effect| {
            effects::min_layers_for_share(effect, thresholds.influence_share).map(|n| n as f64)
        })),
        Rule::Settling => plain(settling(curves)),
    });
    let (value, caution, reason) = match found {
        Ok((value, caution)) => (Some(value), caution, None),
        Err(reason) => (None, None, Some(reason)),
    };
    let layers_used = value.map(|value| rule.layers_used(value));
    let ratio = layers_used.map(|used| used / curves.layers as f64);
    Depth {
        rule,
        threshold: thresholds.of(rule),
        value,
        layers_used,
        ratio,
        mean: None,
        interval: None,
        interval_of: None,
        reason,
        caution,
    }
}

/// Applies every rule whose curves were measured, in the order of [`Rule::ALL`].
pub fn all(curves: &Curves<'_>, thresholds: &Thresholds) -> Vec<Depth> {
    let measured = |rule: &Rule| match rule {
        Rule::Cosine => curves.cosine.is_some(),
        Rule::Kl | Rule::KlLast => curves.kl_lens_final.is_some(),
        Rule::Overlap => curves.overlap.is_some(),
        Rule::Top1 => curves.top1.is_some(),
        Rule::SkipLayer => curves.layer_effect.is_some(),
        Rule::SkipOutput | Rule::InfluenceNumber | Rule::Influence90 => curves.output_effect.is_some(),
        Rule::Settling => curves.settle_mean.is_some(),
    };
    Rule::ALL.into_iter().filter(measured).map(|rule| depth(rule, curves, thresholds)).collect()
}

/// Applies one rule at each cut-off, with all other thresholds as given.
///
/// Empty for rules without a threshold and for `settling`, whose threshold is applied by
/// the probe and cannot be changed afterwards.
pub fn sweep(rule: Rule, curves: &Curves<'_>, thresholds: &Thresholds, cutoffs: &[f64]) -> Vec<Depth> {
    if rule == Rule::Settling || thresholds.of(rule).is_none() {
        return Vec::new();
    }
    cutoffs.iter().map(|&cutoff| depth(rule, curves, &thresholds.with(rule, cutoff))).collect()
}

/// The value of a rule, or the reason why there is none.
type RuleValue = Result<f64, String>;

/// As [`RuleValue`], with an optional caution.
type CautiousValue = Result<(f64, Option<String>), String>;

fn plain(found: RuleValue) -> CautiousValue {
    Ok((found?, None))
}

/// Refuses models of one layer, for rules that look for a change between layers.
fn require_two_layers(layers: usize) -> Result<(), String> {
    if layers == 1 { Err("a model of one layer is too shallow for this rule".to_owned()) } else { Ok(()) }
}

/// The largest value and its layer, the first of equals; (0, -inf) for an empty curve.
fn largest(curve: &[f64]) -> (usize, f64) {
    let start = (0, f64::NEG_INFINITY);
    curve.iter().copied().enumerate().fold(start, |best, now| if now.1 > best.1 { now } else { best })
}

fn cosine(curves: &Curves<'_>) -> RuleValue {
    let [attn, mlp, layer] = curves.cosine.ok_or("the cosine curves were not measured")?;
    let attn = checked_where_present(attn, curves.layers, "attention cosine")?;
    let mlp = checked_where_present(mlp, curves.layers, "MLP cosine")?;
    let layer = checked(layer, curves.layers, "layer cosine")?;
    require_two_layers(curves.layers)?;
    let mean: Vec<f64> = (0..curves.layers).map(|l| mean_of_present([attn[l], mlp[l], layer[l]])).collect();
    let turns = mean.windows(2).rposition(|pair| pair[0] < 0.0 && pair[1] >= 0.0);
    turns.map(|l| l as f64).ok_or_else(|| {
        let negative = mean.iter().filter(|value| **value < 0.0).count();
        match negative {
            0 => "the mean cosine is negative at no layer".to_owned(),
            n if n == mean.len() => "the mean cosine is negative at every layer".to_owned(),
            _ => "the mean cosine never turns from negative to positive, only the other way".to_owned(),
        }
    })
}

/// The mean of the parts that a layer has.
fn mean_of_present(parts: [f64; 3]) -> f64 {
    let present = parts.iter().filter(|part| !part.is_nan());
    present.clone().sum::<f64>() / present.count() as f64
}

/// The divergence curve, and `share` of its maximum.
fn kl_cut<'a>(curves: &Curves<'a>, share: f64) -> Result<(&'a [f64], f64), String> {
    let kl = curves.kl_lens_final.ok_or("the lens's KL curve was not measured")?;
    let kl = checked(kl, curves.layers, "KL")?;
    require_two_layers(curves.layers)?;
    let (_, top) = largest(kl);
    if top <= 0.0 {
        return Err("the KL curve is nowhere above zero".to_owned());
    }
    Ok((kl, share * top))
}

/// The first layer before the last whose value passes, and the last layer after it whose value does
/// not pass, if any: the curve has turned back by then, so the first layer says little.
fn first_passing(curve: &[f64], passes: impl Fn(f64) -> bool) -> Option<(usize, Option<usize>)> {
    let first = curve[..curve.len() - 1].iter().position(|value| passes(*value))?;
    let back = curve.iter().rposition(|value| !passes(*value)).filter(|back| *back > first);
    Some((first, back))
}

fn kl(curves: &Curves<'_>, share: f64) -> CautiousValue {
    let (kl, cut) = kl_cut(curves, share)?;
    let Some((first, back)) = first_passing(kl, |value| value < cut) else {
        return Err(format!(
            "the KL curve falls below {share} of its maximum ({cut:.3} nats) at no layer before the last"
        ));
    };
    let rises = |back| {
        format!(
            "the KL curve rises after layer {first} and is at {share} of its maximum or above as late as layer {back}"
        )
    };
    Ok((first as f64, back.map(rises)))
}

fn kl_last(curves: &Curves<'_>, share: f64) -> RuleValue {
    let (kl, cut) = kl_cut(curves, share)?;
    let last = kl.len() - 1;
    match kl.iter().rposition(|value| *value >= cut).map_or(0, |above| above + 1) {
        stays if stays < last => Ok(stays as f64),
        stays if stays == last => Err(format!(
            "the KL curve is below {share} of its maximum ({cut:.3} nats) at the last layer alone"
        )),
        _ => Err(format!(
            "the KL curve is still at {share} of its maximum ({cut:.3} nats) or above at the last layer"
        )),
    }
}

fn overlap(curves: &Curves<'_>, threshold: f64) -> CautiousValue {
    let overlap = curves.overlap.ok_or("the lens's overlap curve was not measured")?;
    let overlap = checked(overlap, curves.layers, "overlap")?;
    require_two_layers(curves.layers)?;
    let Some((first, back)) = first_passing(overlap, |value| value > threshold) else {
        let (layer, top) = largest(&overlap[..overlap.len() - 1]);
        return Err(format!(
            "the overlap exceeds {threshold} at no layer before the last; its largest is {top:.3} at layer {layer}"
        ));
    };
    let falls = |back| {
        format!(
            "the overlap falls after layer {first} and is at {threshold} or below as late as layer {back}"
        )
    };
    Ok((first as f64, back.map(falls)))
}

/// The output agrees with itself, so there always is such a level.
fn top1(curves: &Curves<'_>, threshold: f64) -> RuleValue {
    let agreement = curves.top1.ok_or("the lens's agreement with the output was not measured")?;
    let agreement = checked(agreement, curves.layers, "agreement")?;
    Ok(agreement.iter().rposition(|value| *value <= threshold).map_or(0, |below| below + 1) as f64)
}

fn skip_layer(curves: &Curves<'_>) -> RuleValue {
    let layers = curves.layers;
    let rows = curves.layer_effect.ok_or("the effect of skipping on later layers was not measured")?;
    if rows.len() != layers {
        return Err(format!("the layer effect has {} rows for {layers} layers", rows.len()));
    }
    if let Some(skipped) = rows.iter().position(|row| row.len() != layers) {
        let length = rows[skipped].len();
        return Err(format!(
            "the layer effect has {length} values for skipped layer {skipped}, not {layers}"
        ));
    }
    // The mean of a row could hide a negative entry, so entries are checked too.
    for (skipped, row) in rows.iter().enumerate() {
        let bad = row.iter().skip(skipped + 1).find(|value| !(value.is_finite() && **value >= 0.0));
        if let Some(bad) = bad {
            return Err(format!("the layer effect of skipping layer {skipped} holds {bad}"));
        }
    }
    require_two_layers(layers)?;
    let effect = effects::on_later_layers(rows).unwrap_or_default();
    let effect = checked_effect(&effect, layers, "layer effect")?;
    effects::depth_score(effect).ok_or_else(|| "skipping changes no later layer".to_owned())
}

/// A rule on the effect of skipping on the output.
fn of_output(curves: &Curves<'_>, statistic: impl Fn(&[f64]) -> Option<f64>) -> RuleValue {
    let effect = curves.output_effect.ok_or("the effect of skipping on the output was not measured")?;
    let effect = checked_effect(effect, curves.layers, "output effect")?;
    statistic(effect).ok_or_else(|| "skipping changes the output at no layer".to_owned())
}

fn settling(curves: &Curves<'_>) -> RuleValue {
    let mean = curves.settle_mean.ok_or("the tokens' settle layers were not measured")?;
    if curves.layers == 0 {
        return Err("the model has no layers".to_owned());
    }
    if (0.0..=curves.layers as f64).contains(&mean) {
        Ok(mean)
    } else {
        Err(format!("the mean settle layer {mean} is outside 0 to {}", curves.layers))
    }
}
