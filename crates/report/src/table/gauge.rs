//! The depth gauge in the terminal: a bar for each rule from the first layer to the last.

use fathom_results::Results;
use unicode_width::UnicodeWidthStr;

use super::lines::{Emphasis, Lines};
use crate::gauge::{Gauge, MarkKind, RuleMark};

/// The longest bar, in columns.
const BAR: usize = 60;

/// Adds a bar for each rule, in the order of the depth table, and a legend.
pub(super) fn bars(results: &Results, lines: &mut Lines) {
    let Some(gauge) = Gauge::of(results).filter(|gauge| !gauge.marks.is_empty()) else { return };
    let name = gauge.marks.iter().map(|mark| mark.label().width()).max().unwrap_or(0).clamp(4, 24);
    // The name, two spaces, the bar, and the share.
    let width = lines.style.width.saturating_sub(name + 12).min(BAR);
    if width < 10 {
        return;
    }
    lines.line(Emphasis::Plain, "");
    lines.line(Emphasis::Faint, &format!("{:name$}  share of the {} layers", "rule", gauge.layers));
    let marks = results.depth.iter().filter_map(|row| gauge.marks.iter().find(|mark| mark.rule == row.rule));
    for mark in marks {
        let label: String = mark.label().chars().take(name).collect();
        let (filled, rest) = bar(mark, gauge.layers, width, lines.style.unicode);
        let share = format!("  {:>3.0} %", 100.0 * mark.used / gauge.layers as f64);
        lines.pieces(&[
            (Emphasis::Plain, &format!("{label:name$}  ")),
            (Emphasis::Accent, &filled),
            (Emphasis::Faint, &rest),
            (Emphasis::Plain, &share),
        ]);
    }
    legend(&gauge, name + 2, lines);
}

/// Adds the meanings of the marks, indented; lines are broken between entries only.
fn legend(gauge: &Gauge, indent: usize, lines: &mut Lines) {
    let Marks { full, below, above, centre, count, doubt, .. } = Marks::of(lines.style.unicode);
    let kinds = [
        (MarkKind::UpTo, full, "works up to here"),
        (MarkKind::Doubtful, doubt, "the same with a caution"),
        (MarkKind::Centre, centre, "centre of the effect of skipping a layer"),
        (MarkKind::Count, count, "number of layers that carry it"),
    ];
    let shown = kinds.into_iter().filter(|(kind, ..)| gauge.of_kind(*kind).next().is_some());
    let entries = shown.map(|(_, mark, meaning)| format!("{mark} {meaning}"));
    let room = lines.style.width.saturating_sub(indent);
    let mut rows: Vec<String> = Vec::new();
    for entry in entries.chain([format!("{below}{above} 95 % interval")]) {
        match rows.last_mut() {
            Some(row) if row.width() + entry.width() + 3 <= room => *row += &format!("   {entry}"),
            _ => rows.push(entry),
        }
    }
    for row in rows {
        lines.line(Emphasis::Faint, &format!("{:indent$}{row}", ""));
    }
}

/// The characters of bars.
struct Marks {
    full: char,
    /// The part of the interval below the value, and above.
    below: char,
    above: char,
    empty: char,
    centre: char,
    count: char,
    doubt: char,
}

impl Marks {
    fn of(unicode: bool) -> Self {
        if unicode {
            Self {
                full: '█', below: '▓', above: '▒', empty: '·', centre: '◆', count: '○', doubt: '?'
            }
        } else {
            Self { full: '#', below: '=', above: '-', empty: '.', centre: '+', count: 'o', doubt: '?' }
        }
    }
}

/// The bar of a rule: its marks, and the empty rest. A rule of the up-to kind fills the bar; others mark a place on it.
fn bar(mark: &RuleMark, layers: usize, width: usize, unicode: bool) -> (String, String) {
    let marks = Marks::of(unicode);
    let share = |used: f64| (used / layers as f64).clamp(0.0, 1.0);
    let column = |used: f64| ((share(used) * width as f64).round() as usize).min(width);
    let [low, high] = mark.used_interval().map_or([column(mark.used); 2], |ends| ends.map(column));
    let used = column(mark.used).max(1);
    let cell = |at: usize| match mark.kind {
        MarkKind::UpTo if at < used.min(low) => marks.full,
        MarkKind::UpTo if at < used => marks.below,
        MarkKind::UpTo if at < high => marks.above,
        MarkKind::Doubtful if at == used - 1 => marks.doubt,
        MarkKind::Centre if at == used - 1 => marks.centre,
        MarkKind::Count if at == used - 1 => marks.count,
        MarkKind::UpTo => marks.empty,
        _ if (low.saturating_sub(1)..used).contains(&at) => marks.below,
        _ if (used..high).contains(&at) => marks.above,
        _ => marks.empty,
    };
    let all: Vec<char> = (0..width).map(cell).collect();
    let end = all.iter().rposition(|c| *c != marks.empty).map_or(0, |at| at + 1);
    (all[..end].iter().collect(), all[end..].iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_filled_to_the_depth_and_its_interval_is_marked() {
        let mark = |kind, interval| RuleMark {
            rule: fathom_results::Rule::Kl,
            kind,
            value: 5.0,
            is_mean: false,
            interval,
            caution: None,
            used: 6.0,
        };
        let drawn = |kind, interval, unicode| bar(&mark(kind, interval), 10, 10, unicode);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(drawn(MarkKind::UpTo, Some([3.0, 7.0]), true), pair("████▓▓▒▒", "··"));
        assert_eq!(drawn(MarkKind::UpTo, None, false), pair("######", "...."));
        assert_eq!(drawn(MarkKind::Centre, Some([4.0, 6.0]), false), pair("....=+-", "..."));
        assert_eq!(drawn(MarkKind::Count, None, true), pair("·····○", "····"));
        assert_eq!(drawn(MarkKind::Doubtful, Some([2.0, 6.0]), true), pair("··▓▓▓?▒", "···"));
        assert_eq!(drawn(MarkKind::UpTo, Some([-1e300, 1e300]), false), pair("======----", ""));
    }
}
