//! Draws the depth gauge: all layers of the model as a column, and where each rule puts the effective depth.

use super::canvas::{Anchor, COLUMN, Canvas, Frame, Stroke};
use super::color::Color;
use super::font::{TEXT, Weight, fitted, wrapped};
use super::legend::{LegendEntry, LegendMark, draw_legend};
use super::table::FigureTable;
use crate::gauge::{Gauge, MarkKind, RuleMark, short};

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
/// The right ends of the columns of numbers.
const DEPTH_AT: f64 = 371.0;
const SHARE_AT: f64 = 417.0;
const INTERVAL_AT: f64 = COLUMN - 4.0;
/// The distance between marks side by side, and between labels one above the other.
const LANE: f64 = 12.0;
const ROW: f64 = 20.0;
/// The height of a line of notes.
const NOTE: f64 = 17.0;
/// Lines of a note that are printed.
const NOTE_LINES: usize = 4;

fn entry(kind: MarkKind) -> LegendEntry {
    let (label, color, mark) = match kind {
        MarkKind::UpTo => ("works up to here", Color::Blue, LegendMark::Dot),
        MarkKind::Doubtful => ("works up to here, with a caution", Color::Soft, LegendMark::Ring),
        MarkKind::Centre => ("centre of the effect of skipping", Color::Vermilion, LegendMark::Dot),
        MarkKind::Count => {
            ("number of layers that carry it, wherever they are", Color::Purple, LegendMark::Ring)
        }
    };
    LegendEntry { label: label.to_owned(), color, mark }
}

/// The numbers of the gauge, a row per rule.
pub(super) fn table(gauge: &Gauge) -> FigureTable {
    let row = |mark: &RuleMark| {
        let [low, high] = mark.interval.unwrap_or([f64::NAN; 2]);
        (mark.label(), vec![mark.value, mark.used / gauge.layers as f64, low, high])
    };
    let headings = ["depth", "share of layers", "interval from", "to"].map(str::to_owned).to_vec();
    FigureTable { index: "rule".to_owned(), headings, rows: gauge.marks.iter().map(row).collect() }
}

/// Draws the gauge from `top` downward.
pub(super) fn draw(gauge: &Gauge, canvas: &mut Canvas, top: f64) {
    let kinds = [MarkKind::UpTo, MarkKind::Doubtful, MarkKind::Centre, MarkKind::Count];
    let kinds = kinds.into_iter().filter(|kind| gauge.of_kind(*kind).next().is_some());
    let top = draw_legend(canvas, &kinds.map(entry).collect::<Vec<_>>(), 8.0, top) + 26.0;
    let scale = Scale { layers: gauge.layers as f64, top };
    draw_column(gauge, canvas, &scale);
    draw_ticks(gauge.layers, canvas, &scale);
    draw_labels(gauge, canvas, &scale);
    draw_marks(gauge, canvas, &scale);
    draw_notes(gauge, canvas, top + HEIGHT + 26.0);
}

/// Maps layers to heights.
struct Scale {
    layers: f64,
    top: f64,
}

impl Scale {
    /// The y of the upper end of `used` layers.
    fn y(&self, used: f64) -> f64 {
        self.top + HEIGHT * (1.0 - used / self.layers)
    }
}

fn draw_column(gauge: &Gauge, canvas: &mut Canvas, scale: &Scale) {
    let steps = gauge.layers.min(STEPS);
    let gap = if gauge.layers <= 64 { 1.0 } else { 0.0 };
    let rules = gauge.of_kind(MarkKind::UpTo).count();
    for step in 0..steps {
        let [low, high] = [step, step + 1].map(|step| scale.layers * step as f64 / steps as f64);
        let height = (scale.y(low) - scale.y(high) - gap).max(0.5);
        let frame = Frame { x: COLUMN_AT, y: scale.y(high), width: COLUMN_WIDTH, height };
        let share = gauge.share(low, high);
        if share < 1.0 {
            canvas.rect(frame, Color::Line, 1.0);
        }
        if share > 0.0 {
            canvas.rect(frame, Color::Blue, share);
        }
        let using = gauge.of_kind(MarkKind::UpTo).filter(|mark| mark.used >= high).count();
        let name = if high - low > 1.0 {
            format!("layers {low:.0} to {high:.0}")
        } else {
            format!("layer {low:.0}")
        };
        canvas.hover(frame, format!("{name}\nused by {using} of {rules} rules"));
    }
}

fn draw_ticks(layers: usize, canvas: &mut Canvas, scale: &Scale) {
    let step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].into_iter();
    let step = step.clone().find(|step| layers / step <= 7).unwrap_or(2000);
    // The top is always named, and no tick crowds it.
    let ticks = (0..layers).step_by(step).filter(|tick| layers - tick > step / 2).chain([layers]);
    for at in ticks {
        let y = scale.y(at as f64);
        canvas.line((COLUMN_AT - 5.0, y), (COLUMN_AT - 1.0, y), Color::Soft, 1.0, Stroke::Solid);
        canvas.text(COLUMN_AT - 8.0, y + 4.5, Anchor::End, Color::Text, &at.to_string());
    }
    let middle = COLUMN_AT + COLUMN_WIDTH / 2.0;
    canvas.text(middle, scale.top - 10.0, Anchor::Middle, Color::Soft, "layers");
}

/// A row of text for each rule beside its mark, moved where two would overlap.
fn draw_labels(gauge: &Gauge, canvas: &mut Canvas, scale: &Scale) {
    let top = scale.top;
    for (x, anchor, head) in [
        (LABELS_AT, Anchor::Start, "rule"),
        (DEPTH_AT, Anchor::End, "depth"),
        (SHARE_AT, Anchor::End, "share"),
        (INTERVAL_AT, Anchor::End, "95 % interval"),
    ] {
        canvas.text(x, top - 10.0, anchor, Color::Soft, head);
    }
    let wanted: Vec<f64> = gauge.marks.iter().map(|mark| scale.y(mark.used)).collect();
    let rows = spread(&wanted, ROW, top + 8.0, top + HEIGHT - 4.0);
    for ((mark, row), lane) in gauge.marks.iter().zip(rows).zip(lanes(gauge, scale)) {
        let at = scale.y(mark.used);
        let points =
            vec![(MARKS_AT + LANE * lane as f64, at), (LABELS_AT - 28.0, at), (LABELS_AT - 6.0, row)];
        canvas.lines(points, Color::Line, 1.2, Stroke::Solid);
        draw_label(mark, canvas, row + 4.5, scale.layers);
    }
}

fn draw_label(mark: &RuleMark, canvas: &mut Canvas, baseline: f64, layers: f64) {
    let star = if mark.is_mean { "*" } else { "" };
    let label = format!("{}{star}", fitted(mark.rule.name(), LABEL_WIDTH, TEXT, Weight::Bold));
    canvas.bold(LABELS_AT, baseline, Anchor::Start, Color::Text, &label);
    canvas.text(DEPTH_AT, baseline, Anchor::End, Color::Text, &short(mark.value));
    let share = format!("{:.0} %", 100.0 * mark.used / layers);
    canvas.text(SHARE_AT, baseline, Anchor::End, Color::Text, &share);
    let interval =
        mark.interval.map_or("none".to_owned(), |[low, high]| format!("{} to {}", short(low), short(high)));
    canvas.text(INTERVAL_AT, baseline, Anchor::End, Color::Soft, &interval);
}

/// The lane of each mark, such that the intervals of a lane do not overlap.
fn lanes(gauge: &Gauge, scale: &Scale) -> Vec<usize> {
    let mut ends: Vec<f64> = Vec::new();
    let lane = |mark: &RuleMark| {
        let [low, high] = mark.used_interval().unwrap_or([mark.used; 2]);
        let (upper, lower) = (scale.y(high.max(mark.used)) - 7.0, scale.y(low.min(mark.used)) + 7.0);
        // Marks come from the deepest down, so an interval may begin where every earlier one of its lane has ended.
        let lane = ends.iter().position(|end| *end <= upper).unwrap_or(ends.len());
        match ends.get_mut(lane) {
            Some(end) => *end = lower,
            None => ends.push(lower),
        }
        lane
    };
    gauge.marks.iter().map(lane).collect()
}

fn draw_marks(gauge: &Gauge, canvas: &mut Canvas, scale: &Scale) {
    for (mark, lane) in gauge.marks.iter().zip(lanes(gauge, scale)) {
        let entry = entry(mark.kind);
        let x = MARKS_AT + LANE * lane as f64;
        if let Some(ends) = mark.used_interval() {
            let [low, high] = ends.map(|end| scale.y(end.clamp(0.0, scale.layers)));
            canvas.line((x, low), (x, high), entry.color, 2.0, Stroke::Solid);
            for end in [low, high] {
                canvas.line((x - 3.0, end), (x + 3.0, end), entry.color, 2.0, Stroke::Solid);
            }
        }
        canvas.dot((x, scale.y(mark.used)), 4.5, entry.color, entry.mark == LegendMark::Dot);
    }
}

fn draw_notes(gauge: &Gauge, canvas: &mut Canvas, top: f64) {
    let mut y = top;
    let mean = gauge.marks.iter().any(|mark| mark.is_mean);
    let mean = mean.then(|| "* On the mean effect of skipping over prompts.".to_owned());
    let none = gauge.none.iter().map(|(rule, reason)| format!("{rule}: none; {reason}"));
    for text in mean.into_iter().chain(none) {
        for line in wrapped(&text, COLUMN - 24.0).iter().take(NOTE_LINES) {
            canvas.text(8.0, y, Anchor::Start, Color::Soft, line);
            y += NOTE;
        }
    }
    canvas.reach(y - 10.0);
}

/// Places as near as possible to those wanted, in their order, at least `distance` apart and between the ends where
/// there is room.
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

    #[test]
    fn labels_never_overlap() {
        let places = spread(&[10.0, 10.0, 11.0, 100.0], 20.0, 0.0, 100.0);
        assert_eq!(places, [10.0, 30.0, 50.0, 100.0]);
        assert_eq!(spread(&[99.0, 100.0], 20.0, 0.0, 100.0), [80.0, 100.0]);
        assert_eq!(spread(&[], 20.0, 0.0, 100.0), [0.0; 0]);
    }
}
