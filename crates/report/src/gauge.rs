//! The depth gauge: all layers of the model as a column, and where each rule puts the effective depth.
//!
//! No chart of the drawing library is of this kind, so it is put together from its primitives; SVG and PNG
//! come from the same description.

use crate::plots::Numbers;
use crate::plots::canvas::{Anchor, COLUMN, Canvas, Frame, Ink, Stroke, TEXT, fitted, wrapped};
use crate::plots::panel::{Entry, Shape, draw_legend};
use crate::plots::text::line;
use fathom_results::{Depth, Results, Rule, RuleKind};

/// The height of the column of layers.
const HEIGHT: f64 = 280.0;
/// Steps of the column that can be told apart; a deeper model shows groups of layers.
const STEPS: usize = 140;
/// The left ends of the column, of the first mark and of the labels.
const COLUMN_AT: f64 = 40.0;
const COLUMN_WIDTH: f64 = 38.0;
const MARKS_AT: f64 = 92.0;
const LABELS_AT: f64 = 196.0;
/// The room for a rule's name before the depth.
const LABEL_WIDTH: f64 = 136.0;
/// The distance of marks side by side, and of labels one above the other.
const LANE: f64 = 12.0;
const ROW: f64 = 20.0;
/// Rules that have room; there are nine.
const MOST: usize = 16;

/// What a rule's value says. The rules measure different things, and only those of one kind are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The layer up to which the model works.
    UpTo,
    /// The same, with a caution: it is shown and counts for nothing.
    Doubtful,
    /// The layer around which the effect of skipping is centred.
    Centre,
    /// How many layers carry the effect of skipping, wherever they are.
    Count,
}

impl Kind {
    pub(crate) fn of(rule: Rule) -> Self {
        match rule.kind() {
            RuleKind::UpTo => Self::UpTo,
            RuleKind::Centre => Self::Centre,
            RuleKind::Count => Self::Count,
        }
    }

    fn entry(self) -> Entry {
        let (label, ink, shape) = match self {
            Self::UpTo => ("works up to here", Ink::Blue, Shape::Dot),
            Self::Doubtful => ("works up to here, with a caution", Ink::Soft, Shape::Ring),
            Self::Centre => ("centre of the effect of skipping", Ink::Vermilion, Shape::Dot),
            Self::Count => ("number of layers that carry it, wherever they are", Ink::Purple, Shape::Ring),
        };
        Entry { label: label.to_owned(), ink, shape }
    }
}

/// A rule that found a depth.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(crate) rule: Rule,
    pub(crate) kind: Kind,
    /// What the interval is of: the value as the rule gives it, or its mean.
    pub(crate) value: f64,
    /// Whether it is the mean over prompts, where the rule's own value is of the largest effect.
    pub(crate) is_mean: bool,
    pub(crate) interval: Option<[f64; 2]>,
    /// Why the value says little.
    pub(crate) caution: Option<String>,
    /// The layers used, from 0 to L.
    pub(crate) used: f64,
}

impl Found {
    fn of(row: &Depth, layers: usize) -> Option<Self> {
        let value = row.shown().filter(|value| value.is_finite())?;
        let caution = row.caution.as_deref().map(line);
        let kind = match Kind::of(row.rule) {
            Kind::UpTo if caution.is_some() => Kind::Doubtful,
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

    /// The rule, and that a mean is one.
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
    pub(crate) found: Vec<Found>,
    /// The rules without a depth, and why.
    pub(crate) none: Vec<(Rule, String)>,
}

impl Gauge {
    pub(crate) fn of(results: &Results) -> Option<Self> {
        let layers = results.model.layers;
        let rows = results.depth.iter().take(MOST);
        let mut gauge = Self { layers, found: Vec::new(), none: Vec::new() };
        for row in rows {
            match Found::of(row, layers) {
                Some(found) => gauge.found.push(found),
                None => {
                    let reason = row.reason.as_deref().map_or("no depth within the model".to_owned(), line);
                    gauge.none.push((row.rule, reason));
                }
            }
        }
        gauge.found.sort_by(|a, b| b.used.total_cmp(&a.used));
        (!results.depth.is_empty()).then_some(gauge)
    }

    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Found> {
        self.found.iter().filter(move |found| found.kind == kind)
    }

    pub(crate) fn numbers(&self) -> Numbers {
        let row = |found: &Found| {
            let [low, high] = found.interval.unwrap_or([f64::NAN; 2]);
            (found.label(), vec![found.value, found.used / self.layers as f64, low, high])
        };
        let headings = ["depth", "share of layers", "interval from", "to"].map(str::to_owned).to_vec();
        Numbers { index: "rule".to_owned(), headings, rows: self.found.iter().map(row).collect() }
    }

    /// By how many of the rules that say up to where the model works the layers from `low` to `high` are used.
    fn share(&self, low: f64, high: f64) -> f64 {
        let covered = |found: &Found| ((found.used - low) / (high - low)).clamp(0.0, 1.0);
        let rules = self.of_kind(Kind::UpTo).count().max(1);
        self.of_kind(Kind::UpTo).map(covered).sum::<f64>() / rules as f64
    }

    pub(crate) fn draw(&self, canvas: &mut Canvas, top: f64) {
        let kinds = [Kind::UpTo, Kind::Doubtful, Kind::Centre, Kind::Count];
        let kinds = kinds.into_iter().filter(|kind| self.of_kind(*kind).next().is_some());
        let top = draw_legend(canvas, &kinds.map(Kind::entry).collect::<Vec<_>>(), 8.0, top) + 26.0;
        self.draw_column(canvas, top);
        let y = |used: f64| top + HEIGHT * (1.0 - used / self.layers as f64);
        self.draw_labels(canvas, top, y);
        self.draw_marks(canvas, y);
        self.draw_notes(canvas, top + HEIGHT + 26.0);
    }

    fn draw_column(&self, canvas: &mut Canvas, top: f64) {
        let layers = self.layers as f64;
        let steps = self.layers.min(STEPS);
        let gap = if self.layers <= 64 { 1.0 } else { 0.0 };
        for step in 0..steps {
            let [low, high] = [step, step + 1].map(|step| layers * step as f64 / steps as f64);
            let [bottom, upper] = [low, high].map(|l| top + HEIGHT * (1.0 - l / layers));
            let height = (bottom - upper - gap).max(0.5);
            let frame = Frame { x: COLUMN_AT, y: upper, width: COLUMN_WIDTH, height };
            let share = self.share(low, high);
            canvas.rect(frame, Ink::Line, 1.0);
            if share > 0.0 {
                canvas.rect(frame, Ink::Blue, share);
            }
            let rules = self.of_kind(Kind::UpTo).filter(|found| found.used >= high).count();
            let all = self.of_kind(Kind::UpTo).count();
            let name = if high - low > 1.0 {
                format!("layers {low:.0} to {high:.0}")
            } else {
                format!("layer {low:.0}")
            };
            canvas.hover(frame, format!("{name}\nused by {rules} of {all} rules"));
        }
        let tick = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].into_iter();
        let tick = tick.clone().find(|tick| self.layers / tick <= 7).unwrap_or(2000);
        // The top is always named, and no tick crowds it.
        let ticks =
            (0..self.layers).step_by(tick).filter(|t| self.layers - t > tick / 2).chain([self.layers]);
        for at in ticks {
            let y = top + HEIGHT * (1.0 - at as f64 / layers);
            canvas.line((COLUMN_AT - 5.0, y), (COLUMN_AT - 1.0, y), Ink::Soft, 1.0, Stroke::Solid);
            canvas.text(COLUMN_AT - 8.0, y + 4.5, Anchor::End, Ink::Text, &at.to_string());
        }
        canvas.text(COLUMN_AT + COLUMN_WIDTH / 2.0, top - 10.0, Anchor::Middle, Ink::Soft, "layers");
    }

    /// A row of text for each rule beside its mark, moved where two would meet.
    fn draw_labels(&self, canvas: &mut Canvas, top: f64, y: impl Fn(f64) -> f64) {
        let heads = [
            (LABELS_AT, Anchor::Start, "rule"),
            (374.0, Anchor::End, "depth"),
            (424.0, Anchor::End, "share"),
        ];
        for (x, anchor, head) in heads.into_iter().chain([(COLUMN - 4.0, Anchor::End, "95 % interval")]) {
            canvas.text(x, top - 10.0, anchor, Ink::Soft, head);
        }
        let wanted: Vec<f64> = self.found.iter().map(|found| y(found.used)).collect();
        let rows = spread(&wanted, ROW, top + 8.0, top + HEIGHT - 4.0);
        let lanes = self.lanes(&y);
        for ((found, row), lane) in self.found.iter().zip(rows).zip(lanes) {
            let at = y(found.used);
            let bend = LABELS_AT - 28.0;
            let points = vec![(MARKS_AT + LANE * lane as f64, at), (bend, at), (LABELS_AT - 6.0, row)];
            canvas.lines(points, Ink::Line, 1.2, Stroke::Solid);
            let text = row + 4.5;
            let star = if found.is_mean { "*" } else { "" };
            let label = format!("{}{star}", fitted(found.rule.name(), LABEL_WIDTH, TEXT));
            canvas.bold(LABELS_AT, text, Anchor::Start, Ink::Text, &label);
            canvas.text(374.0, text, Anchor::End, Ink::Text, &short(found.value));
            let share = format!("{:.0} %", 100.0 * found.used / self.layers as f64);
            canvas.text(424.0, text, Anchor::End, Ink::Text, &share);
            let interval = found
                .interval
                .map_or("none".to_owned(), |[low, high]| format!("{} to {}", short(low), short(high)));
            canvas.text(COLUMN - 4.0, text, Anchor::End, Ink::Soft, &interval);
        }
    }

    /// Which of the lines side by side each mark stands on, so that no two intervals meet.
    fn lanes(&self, y: impl Fn(f64) -> f64) -> Vec<usize> {
        let mut ends: Vec<f64> = Vec::new();
        let lane = |found: &Found| {
            let [low, high] = found.used_interval().unwrap_or([found.used; 2]);
            let (upper, lower) = (y(high.max(found.used)) - 7.0, y(low.min(found.used)) + 7.0);
            // From the deepest down, so an interval may begin where every earlier one of its lane has ended.
            let lane = ends.iter().position(|end| *end <= upper).unwrap_or(ends.len());
            match ends.get_mut(lane) {
                Some(end) => *end = lower,
                None => ends.push(lower),
            }
            lane
        };
        self.found.iter().map(lane).collect()
    }

    fn draw_marks(&self, canvas: &mut Canvas, y: impl Fn(f64) -> f64) {
        for (found, lane) in self.found.iter().zip(self.lanes(&y)) {
            let entry = found.kind.entry();
            let x = MARKS_AT + LANE * lane as f64;
            if let Some([low, high]) = found.used_interval() {
                let [low, high] = [low, high].map(|end| y(end.clamp(0.0, self.layers as f64)));
                canvas.line((x, low), (x, high), entry.ink, 2.0, Stroke::Solid);
                for end in [low, high] {
                    canvas.line((x - 3.0, end), (x + 3.0, end), entry.ink, 2.0, Stroke::Solid);
                }
            }
            canvas.dot((x, y(found.used)), 4.5, entry.ink, entry.shape == Shape::Dot);
        }
    }

    fn draw_notes(&self, canvas: &mut Canvas, top: f64) {
        let mut y = top;
        let mean = self.found.iter().any(|found| found.is_mean);
        let mean = mean.then(|| "* On the mean effect of skipping over prompts.".to_owned());
        let none = self.none.iter().map(|(rule, reason)| format!("{rule}: none; {reason}"));
        for text in mean.into_iter().chain(none) {
            for line in wrapped(&text, COLUMN - 24.0, TEXT).iter().take(4) {
                canvas.text(8.0, y, Anchor::Start, Ink::Soft, line);
                y += 17.0;
            }
        }
        canvas.reach(y - 10.0);
    }
}

/// One decimal at most: a gauge is for looking at, and the table has the digits.
pub(crate) fn short(value: f64) -> String {
    format!("{}", (value * 10.0).round() / 10.0)
}

/// Places as near as can be to those wanted, in their order, no two nearer than `distance`, between the ends
/// where there is room.
fn spread(wanted: &[f64], distance: f64, low: f64, high: f64) -> Vec<f64> {
    let mut places = wanted.to_vec();
    let mut least = low;
    for place in &mut places {
        *place = place.max(least);
        least = *place + distance;
    }
    let mut most = high.max(low + distance * places.len().saturating_sub(1) as f64);
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - distance;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_results::fixture;

    #[test]
    fn a_layer_is_filled_by_the_share_of_rules_that_use_it() {
        let gauge = Gauge::of(&fixture::results()).unwrap();
        // kl and overlap use 23 layers, kl_last 24, settling 23.4; cosine has no depth.
        assert_eq!(gauge.found.iter().map(|found| found.used).collect::<Vec<_>>(), [24.0, 23.4, 23.0, 23.0]);
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
        let found = gauge.of_kind(Kind::Count).next().unwrap();
        assert_eq!((found.used, found.used_interval()), (22.0, Some([21.0, 22.5])));
    }

    /// A prediction that settles within the last layer uses that layer too.
    #[test]
    fn a_level_within_the_last_layer_is_a_depth() {
        let mut results = fixture::results();
        let settling = &mut results.depth[4];
        (settling.value, settling.layers_used) = (Some(29.6), Some(29.6));
        settling.interval = Some([29.2, 30.0]);
        let gauge = Gauge::of(&results).unwrap();
        assert_eq!((gauge.found[0].rule, gauge.found[0].used), (Rule::Settling, 29.6));
        assert_eq!(gauge.found[0].used_interval(), Some([29.2, 30.0]));
        assert!((gauge.share(29.0, 30.0) - 0.15).abs() < 1e-12);
        let headline = crate::answer::headline(&results);
        assert!(headline.contains("to 29.6 (settling) of 30 layers"), "{headline}");
    }

    /// The mark and its interval are of one number, and say which.
    #[test]
    fn a_rule_on_the_largest_effect_is_drawn_by_its_mean() {
        let mut results = fixture::results();
        results.depth.push(fixture::skip_output());
        let gauge = Gauge::of(&results).unwrap();
        let found = gauge.of_kind(Kind::Centre).next().unwrap();
        assert_eq!((found.value, found.used, found.label().as_str()), (13.5, 14.5, "skip_output (mean)"));
        let [low, high] = found.used_interval().unwrap();
        assert!(low < found.used && found.used < high);
    }

    #[test]
    fn a_depth_with_a_caution_fills_no_layer() {
        let mut results = fixture::results();
        results.depth[0].caution = Some("the curve rises later".to_owned());
        let gauge = Gauge::of(&results).unwrap();
        assert_eq!((gauge.found.len(), gauge.of_kind(Kind::UpTo).count()), (4, 3));
        // Without kl, overlap alone of three ends at 23.
        assert!((gauge.share(23.0, 24.0) - 1.4 / 3.0).abs() < 1e-12);
    }

    /// Files written before `layers_used` have the ratio alone.
    #[test]
    fn the_ratio_stands_in_for_layers_used() {
        let mut results = fixture::results();
        results.depth.iter_mut().for_each(|row| row.layers_used = None);
        let used: Vec<f64> = Gauge::of(&results).unwrap().found.iter().map(|found| found.used).collect();
        assert!(used.iter().zip([24.0, 23.4, 23.0, 23.0]).all(|(a, b)| (a - b).abs() < 1e-12), "{used:?}");
    }

    #[test]
    fn values_outside_of_the_model_are_not_drawn() {
        let mut results = fixture::results();
        results.depth[0].value = Some(1e300);
        results.depth[1].value = Some(-7.0);
        results.depth[2].interval = Some([-1e300, 1e300]);
        let gauge = Gauge::of(&results).unwrap();
        assert_eq!((gauge.found.len(), gauge.none.len()), (2, 3));
        let figure = crate::plots::depth_gauge(&results).unwrap();
        assert!(figure.svg().unwrap().len() < 100_000);
        figure.png().unwrap();
    }

    #[test]
    fn labels_never_meet() {
        let places = spread(&[10.0, 10.0, 11.0, 100.0], 20.0, 0.0, 100.0);
        assert_eq!(places, [10.0, 30.0, 50.0, 100.0]);
        assert_eq!(spread(&[99.0, 100.0], 20.0, 0.0, 100.0), [80.0, 100.0]);
        assert_eq!(spread(&[], 20.0, 0.0, 100.0), [0.0; 0]);
    }
}
