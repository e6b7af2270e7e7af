//! The depth gauge as data: where each rule puts the effective depth, and what kind of statement that is. `plots/gauge.rs`
//! draws it, `table` prints it, `answer` puts it in words.

use fathom_results::{Depth, Results, Rule, RuleKind};

use crate::text::line;

/// Rules that fit; there are ten.
const MOST: usize = 16;

/// What the value of a rule states. The rules measure different things; only values of one kind are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MarkKind {
    /// The layer up to which the model works.
    UpTo,
    /// The same with a caution: shown, but not counted.
    Doubtful,
    /// The layer around which the effect of skipping is centred.
    Centre,
    /// How many layers carry the effect of skipping, wherever they are.
    Count,
}

impl MarkKind {
    pub(crate) fn of(rule: Rule) -> Self {
        match rule.kind() {
            RuleKind::UpTo => Self::UpTo,
            RuleKind::Centre => Self::Centre,
            RuleKind::Count => Self::Count,
        }
    }
}

/// A rule that found a depth.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RuleMark {
    pub(crate) rule: Rule,
    pub(crate) kind: MarkKind,
    /// The number that the interval belongs to: the value of the rule, or its mean.
    pub(crate) value: f64,
    /// Whether it is the mean over prompts; the rule's own value is then of the largest effect.
    pub(crate) is_mean: bool,
    pub(crate) interval: Option<[f64; 2]>,
    /// Why the value is doubtful.
    pub(crate) caution: Option<String>,
    /// The layers used, from 0 to L.
    pub(crate) used: f64,
}

impl RuleMark {
    fn of(row: &Depth, layers: usize) -> Option<Self> {
        let value = row.shown().filter(|value| value.is_finite())?;
        let caution = row.caution.as_deref().map(line);
        let kind = match MarkKind::of(row.rule) {
            MarkKind::UpTo if caution.is_some() => MarkKind::Doubtful,
            kind => kind,
        };
        let used = row.rule.layers_used(value);
        let interval = row.interval.filter(|ends| ends.iter().all(|end| end.is_finite()));
        let within = |number: f64| (0.0..=layers as f64 + 1e-9).contains(&number);
        let is_mean = row.mean.is_some();
        (within(used) && within(value)).then_some(Self {
            rule: row.rule,
            kind,
            value,
            is_mean,
            interval,
            caution,
            used,
        })
    }

    /// The name of the rule, with a note on a mean.
    pub(crate) fn label(&self) -> String {
        if self.is_mean { format!("{} (mean)", self.rule) } else { self.rule.name().to_owned() }
    }

    /// The interval in layers used.
    pub(crate) fn used_interval(&self) -> Option<[f64; 2]> {
        self.interval.map(|ends| ends.map(|end| end + (self.used - self.value)))
    }
}

/// Where all rules put the depth.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gauge {
    pub(crate) layers: usize,
    /// From the deepest to the shallowest.
    pub(crate) marks: Vec<RuleMark>,
    /// The rules without a depth, and why.
    pub(crate) none: Vec<(Rule, String)>,
}

impl Gauge {
    pub(crate) fn of(results: &Results) -> Option<Self> {
        let layers = results.model.layers;
        let rows = results.depth.iter().take(MOST);
        let mut gauge = Self { layers, marks: Vec::new(), none: Vec::new() };
        for row in rows {
            match RuleMark::of(row, layers) {
                Some(mark) => gauge.marks.push(mark),
                None => {
                    let reason = row.reason.as_deref().map_or("no depth within the model".to_owned(), line);
                    gauge.none.push((row.rule, reason));
                }
            }
        }
        gauge.marks.sort_by(|a, b| b.used.total_cmp(&a.used));
        (!results.depth.is_empty()).then_some(gauge)
    }

    pub(crate) fn of_kind(&self, kind: MarkKind) -> impl Iterator<Item = &RuleMark> {
        self.marks.iter().filter(move |mark| mark.kind == kind)
    }

    /// The share of the up-to rules that count the layers from `low` to `high` as used.
    pub(crate) fn share(&self, low: f64, high: f64) -> f64 {
        let covered = |mark: &RuleMark| ((mark.used - low) / (high - low)).clamp(0.0, 1.0);
        let rules = self.of_kind(MarkKind::UpTo).count().max(1);
        self.of_kind(MarkKind::UpTo).map(covered).sum::<f64>() / rules as f64
    }
}

/// At most one decimal: a gauge is for looking at, and the table has the digits.
pub(crate) fn short(value: f64) -> String {
    format!("{}", (value * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_results::fixture;

    #[test]
    fn a_layer_is_filled_by_the_share_of_rules_that_use_it() {
        let gauge = Gauge::of(&fixture::results()).unwrap();
        // kl and overlap use 23 layers, kl_last 24, settling 23.4; cosine has no depth.
        assert_eq!(gauge.marks.iter().map(|mark| mark.used).collect::<Vec<_>>(), [24.0, 23.4, 23.0, 23.0]);
        assert_eq!(gauge.share(0.0, 1.0), 1.0);
        assert!((gauge.share(23.0, 24.0) - 0.35).abs() < 1e-12);
        assert_eq!(gauge.share(24.0, 25.0), 0.0);
        assert_eq!(gauge.none[0].0, Rule::Cosine);
    }

    #[test]
    fn a_number_of_layers_is_not_the_index_of_one() {
        let mut results = fixture::results();
        results.depth[0].rule = Rule::Influence90;
        results.depth[0].layers_used = Some(22.0);
        let gauge = Gauge::of(&results).unwrap();
        let mark = gauge.of_kind(MarkKind::Count).next().unwrap();
        assert_eq!((mark.used, mark.used_interval()), (22.0, Some([21.0, 22.5])));
    }

    /// A prediction that settles within the last layer uses that layer too.
    #[test]
    fn a_level_within_the_last_layer_is_a_depth() {
        let mut results = fixture::results();
        let settling = &mut results.depth[4];
        (settling.value, settling.layers_used) = (Some(29.6), Some(29.6));
        settling.interval = Some([29.2, 30.0]);
        let gauge = Gauge::of(&results).unwrap();
        assert_eq!((gauge.marks[0].rule, gauge.marks[0].used), (Rule::Settling, 29.6));
        assert_eq!(gauge.marks[0].used_interval(), Some([29.2, 30.0]));
        assert!((gauge.share(29.0, 30.0) - 0.15).abs() < 1e-12);
        let headline = crate::answer::headline(&results);
        assert!(headline.contains("to 29.6 (settling) of 30 layers"), "{headline}");
    }

    /// The mark and its interval belong to the same number, and the label says which.
    #[test]
    fn a_rule_on_the_largest_effect_is_drawn_by_its_mean() {
        let mut results = fixture::results();
        results.depth.push(fixture::skip_output());
        let gauge = Gauge::of(&results).unwrap();
        let mark = gauge.of_kind(MarkKind::Centre).next().unwrap();
        assert_eq!((mark.value, mark.used, mark.label().as_str()), (13.5, 14.5, "skip_output (mean)"));
        let [low, high] = mark.used_interval().unwrap();
        assert!(low < mark.used && mark.used < high);
    }

    #[test]
    fn a_depth_with_a_caution_fills_no_layer() {
        let mut results = fixture::results();
        results.depth[0].caution = Some("the curve rises later".to_owned());
        let gauge = Gauge::of(&results).unwrap();
        assert_eq!((gauge.marks.len(), gauge.of_kind(MarkKind::UpTo).count()), (4, 3));
        // Without kl, overlap alone of three ends at 23.
        assert!((gauge.share(23.0, 24.0) - 1.4 / 3.0).abs() < 1e-12);
    }

    /// Files written before `layers_used` have the ratio alone.
    #[test]
    fn the_ratio_stands_in_for_layers_used() {
        let mut results = fixture::results();
        results.depth.iter_mut().for_each(|row| row.layers_used = None);
        let used: Vec<f64> = Gauge::of(&results).unwrap().marks.iter().map(|mark| mark.used).collect();
        assert!(used.iter().zip([24.0, 23.4, 23.0, 23.0]).all(|(a, b)| (a - b).abs() < 1e-12), "{used:?}");
    }

    #[test]
    fn values_outside_of_the_model_are_not_drawn() {
        let mut results = fixture::results();
        results.depth[0].value = Some(1e300);
        results.depth[1].value = Some(-7.0);
        results.depth[2].interval = Some([-1e300, 1e300]);
        let gauge = Gauge::of(&results).unwrap();
        assert_eq!((gauge.marks.len(), gauge.none.len()), (2, 3));
        let figure = crate::plots::depth_gauge(&results).unwrap();
        assert!(figure.svg().unwrap().len() < 100_000);
        figure.png().unwrap();
    }
}
