//! What the depth table says in words: one sentence for the rules that say up to where the model works, and one
//! each for the others, which measure something else.

use crate::gauge::{Gauge, MarkKind, RuleMark, short};
use fathom_results::Results;

/// A spread of the rules over more than this share of the layers is called a disagreement.
const DISAGREEMENT: f64 = 0.25;

/// The answer in one sentence, for the top of a report. Never hides that rules differ or find nothing.
pub fn headline(results: &Results) -> String {
    let Some(gauge) = Gauge::of(results) else {
        return "No rule of effective depth could be applied to what was measured.".to_owned();
    };
    let found: Vec<&RuleMark> = gauge.of_kind(MarkKind::UpTo).collect();
    let layers = gauge.layers;
    // From the deepest to the shallowest.
    let (Some(deepest), Some(shallowest)) = (found.first(), found.last()) else {
        let caution =
            if gauge.of_kind(MarkKind::Doubtful).next().is_some() { " without a caution" } else { "" };
        return format!("No rule that says up to which layer the model works found a depth{caution}.");
    };
    let (low, high) = (short(shallowest.used), short(deepest.used));
    let (from, to) = (percent(shallowest.used, layers), percent(deepest.used, layers));
    let intervals = intervals(&found);
    if found.len() == 1 {
        let rule = &deepest.rule;
        return format!("By the rule {rule}, {high} of {layers} layers do the work ({to} %{intervals}).");
    }
    let same: Vec<&RuleMark> = found.iter().copied().filter(|rule| short(rule.used) == high).collect();
    if same.len() == found.len() {
        let rules = names(&found);
        return format!("By the rules {rules}, {high} of {layers} layers do the work ({to} %{intervals}).");
    }
    let least: Vec<&RuleMark> = found.iter().copied().filter(|rule| short(rule.used) == low).collect();
    let range = format!(
        "{low} ({}) to {high} ({}) of {layers} layers do the work ({from} to {to} %{intervals})",
        names(&least),
        names(&same)
    );
    let between = found.len() - same.len() - least.len();
    let count = if between > 0 { format!("{} rules", found.len()) } else { "rules".to_owned() };
    if deepest.used - shallowest.used > DISAGREEMENT * layers as f64 {
        format!("The {count} disagree: {range}.")
    } else {
        format!("By the {count} that say up to where the model works, {range}.")
    }
}

/// What the other rules say, and which found nothing and why; one sentence each.
pub fn details(results: &Results) -> Vec<String> {
    let Some(gauge) = Gauge::of(results) else { return Vec::new() };
    let mut all = Vec::new();
    let listed = |kind| {
        let mut found: Vec<String> =
            gauge.of_kind(kind).map(|found| format!("{} ({})", short(found.value), found.rule)).collect();
        found.reverse();
        joined(&found)
    };
    let centres = listed(MarkKind::Centre);
    // Files of earlier versions have the largest effect of any prompt alone.
    let effect = if gauge.marks.iter().any(|found| found.is_mean) { "mean effect" } else { "effect" };
    if !centres.is_empty() {
        all.push(format!("The {effect} of skipping a layer is centred at layer {centres}, counted from 0."));
    }
    let counts = listed(MarkKind::Count);
    if !counts.is_empty() {
        all.push(format!("That effect is carried by {counts} layers, wherever they are."));
    }
    all.extend(gauge.of_kind(MarkKind::Doubtful).filter_map(|found| {
        Some(format!(
            "{} gives {}, which says little: {}.",
            found.rule,
            short(found.value),
            found.caution.as_ref()?
        ))
    }));
    all.extend(gauge.none.iter().map(|(rule, reason)| format!("{rule} gives no depth: {reason}.")));
    all
}

/// How far the intervals reach, after a semicolon; nothing where no rule has one.
fn intervals(found: &[&RuleMark]) -> String {
    let ends: Vec<[f64; 2]> = found.iter().filter_map(|found| found.used_interval()).collect();
    let low = ends.iter().map(|ends| ends[0]).fold(f64::INFINITY, f64::min);
    let high = ends.iter().map(|ends| ends[1]).fold(f64::NEG_INFINITY, f64::max);
    if ends.is_empty() {
        return "; without an interval".to_owned();
    }
    let what = if found.len() == 1 { "95 % interval" } else { "their 95 % intervals span" };
    format!("; {what} {} to {} layers", short(low), short(high))
}

fn percent(used: f64, layers: usize) -> String {
    format!("{:.0}", 100.0 * used / layers as f64)
}

fn names(found: &[&RuleMark]) -> String {
    joined(&found.iter().map(|found| found.rule.name().to_owned()).collect::<Vec<_>>())
}

/// "a, b and c".
fn joined(all: &[String]) -> String {
    match all {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_results::{Rule, fixture};

    #[test]
    fn the_answer_names_the_range_its_ends_and_the_intervals() {
        assert_eq!(
            headline(&fixture::results()),
            "By the 4 rules that say up to where the model works, 23 (kl and overlap) to 24 (kl_last) of 30 layers \
             do the work (77 to 80 %; their 95 % intervals span 22 to 24.5 layers)."
        );
        let details = details(&fixture::results());
        assert_eq!(
            details,
            ["cosine gives no depth: the mean cosine never changes from negative to positive."]
        );
    }

    #[test]
    fn disagreement_is_said_first() {
        let mut results = fixture::results();
        (results.depth[0].value, results.depth[0].layers_used) = (Some(2.0), Some(3.0));
        assert!(headline(&results).starts_with("The 4 rules disagree: 3 (kl) to 24 (kl_last) of 30 layers"));
    }

    /// A curve that turns back makes no range of depths, and no disagreement.
    #[test]
    fn a_depth_with_a_caution_is_not_in_the_headline() {
        let mut results = fixture::results();
        let kl = &mut results.depth[0];
        (kl.value, kl.layers_used, kl.caution) =
            (Some(0.0), Some(1.0), Some("the KL curve rises".to_owned()));
        let headline = headline(&results);
        assert!(
            headline.starts_with("By the 3 rules") && headline.contains("23 (overlap) to 24"),
            "{headline}"
        );
        let details = details(&results);
        assert!(
            details.contains(&"kl gives 0, which says little: the KL curve rises.".to_owned()),
            "{details:?}"
        );
        results.depth.truncate(1);
        assert!(super::headline(&results).ends_with("found a depth without a caution."));
    }

    #[test]
    fn a_mean_is_called_one() {
        let mut results = fixture::results();
        results.depth.push(fixture::skip_output());
        assert_eq!(
            details(&results)[0],
            "The mean effect of skipping a layer is centred at layer 13.5 (skip_output), counted from 0."
        );
    }

    #[test]
    fn rules_of_another_kind_are_not_in_the_range() {
        let mut results = fixture::results();
        results.depth[1].rule = Rule::SkipOutput;
        (results.depth[1].value, results.depth[1].layers_used) = (Some(3.0), Some(4.0));
        results.depth[2].rule = Rule::Influence90;
        results.depth[4].value = None;
        let headline = headline(&results);
        assert!(headline.starts_with("By the rule kl, 23 of 30 layers do the work (77 %; 95 % interval"));
        let details = details(&results);
        assert!(details[0].contains("centred at layer 3 (skip_output)"));
        assert!(details[1].contains("carried by 22 (influence_90) layers"));
    }

    #[test]
    fn nothing_found_is_said() {
        let mut results = fixture::results();
        results.depth.iter_mut().for_each(|row| row.value = None);
        assert!(headline(&results).contains("found a depth"));
        results.depth.clear();
        assert!(headline(&results).starts_with("No rule"));
    }
}
