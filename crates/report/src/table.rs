//! The summary printed at the end of a run: head, answer, depth table, a gauge of the depths, one line per curve, a
//! table by layer.
//!
//! No line is wider than asked for, and text from files is stripped of control characters, so that a model's
//! name cannot send commands to the terminal.

use crate::answer;
use crate::gauge::{Gauge, RuleKind, RuleMark};
use crate::results::{DepthRow, Results};

/// How the terminal wants its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Whether characters outside ASCII may be used.
    pub unicode: bool,
    /// The widest line allowed, in columns.
    pub width: usize,
    /// Whether to use colour and weight.
    pub colour: bool,
}

/// The summary of `results`, ready to print, with a newline after every line.
pub fn summary(results: &Results, style: Style) -> String {
    let mut page = Page { style, text: String::new() };
    head(results, &mut page);
    answered(results, &mut page);
    depth(results, &mut page);
    gauge(results, &mut page);
    let curves = curves(results);
    sparklines(&curves, &mut page);
    by_layer(results, &curves, &mut page);
    page.text
}

/// The head and the depth table alone.
pub fn depths(results: &Results, style: Style) -> String {
    let mut page = Page { style, text: String::new() };
    head(results, &mut page);
    depth(results, &mut page);
    page.text
}

/// The weight of a line.
#[derive(Clone, Copy)]
enum Weight {
    Plain,
    Bold,
    Faint,
    Accent,
}

impl Weight {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "\x1b[1m",
            Self::Faint => "\x1b[2m",
            Self::Accent => "\x1b[36m",
        }
    }
}

struct Page {
    style: Style,
    text: String,
}

impl Page {
    /// Adds one line, cut to the width; colour is added after cutting, so it never counts.
    fn line(&mut self, weight: Weight, line: &str) {
        self.pieces(&[(weight, line.trim_end())]);
    }

    /// Adds one line of pieces with a weight each, cut to the width together.
    fn pieces(&mut self, pieces: &[(Weight, &str)]) {
        let mut room = self.style.width;
        for (weight, piece) in pieces {
            let piece = fit(piece, Style { width: room, ..self.style });
            room -= piece.chars().map(columns).sum::<usize>().min(room);
            let code = weight.code();
            if self.style.colour && !code.is_empty() && !piece.trim().is_empty() {
                self.text.extend([code, &piece, "\x1b[0m"]);
            } else {
                self.text.push_str(&piece);
            }
        }
        // What was cut in the middle of a line must leave no spaces at its end.
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }
}

/// Columns that a character takes: two for the wide scripts and pictures, one for everything else.
fn columns(c: char) -> usize {
    let wide = matches!(u32::from(c),
        0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f | 0xff00..=0xff60
        | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd);
    if wide { 2 } else { 1 }
}

/// Replaces what the terminal must not see and cuts to the width.
fn fit(line: &str, style: Style) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::new();
    let mut used = 0;
    for c in line.chars() {
        let c = if harmful(c) || (!style.unicode && !c.is_ascii()) { '?' } else { c };
        used += columns(c);
        if used > style.width {
            break;
        }
        out.push(c);
    }
    out
}

fn head(results: &Results, page: &mut Page) {
    let (model, data) = (&results.model, &results.data);
    page.line(Weight::Bold, &model.id);
    let parameters = model.parameters as f64 / 1e6;
    page.line(
        Weight::Plain,
        &format!(
            "{}, {} layers, {parameters:.0} M parameters, {}",
            model.architecture, model.layers, model.dtype
        ),
    );
    let pairs = match data.pairs {
        0 => String::new(),
        pairs => format!(", {pairs} question-answer pairs"),
    };
    let failed = match data.failed.len() {
        0 => String::new(),
        count => format!("; {count} left out, on which the model overflows"),
    };
    let line = format!("{}: {} prompts, {} tokens{pairs}{failed}", data.id, data.prompts, data.tokens);
    page.line(Weight::Plain, &line);
}

/// The answer in words.
fn answered(results: &Results, page: &mut Page) {
    if results.depth.is_empty() {
        return;
    }
    page.line(Weight::Plain, "");
    for line in wrap(&answer::headline(results), page.style.width) {
        page.line(Weight::Bold, &line);
    }
}

/// The longest bar of the gauge, in columns.
const BAR: usize = 60;

/// A bar for each rule from the first layer to the last.
fn gauge(results: &Results, page: &mut Page) {
    let Some(gauge) = Gauge::of(results).filter(|gauge| !gauge.marks.is_empty()) else { return };
    let name = gauge.marks.iter().map(|found| found.label().chars().count()).max().unwrap_or(0).clamp(4, 24);
    // The name, two spaces, the bar, and the share.
    let bar = page.style.width.saturating_sub(name + 12).min(BAR);
    if bar < 10 {
        return;
    }
    page.line(Weight::Plain, "");
    page.line(Weight::Faint, &format!("{:name$}  share of the {} layers", "rule", gauge.layers));
    // As in the table above, not by depth, so that a rule is found at once.
    let rows = results
        .depth
        .iter()
        .filter_map(|row| gauge.marks.iter().find(|found| found.rule == crate::text::line(&row.rule)));
    for found in rows {
        let label: String = found.label().chars().take(name).collect();
        let (filled, rest) = bars(found, gauge.layers, bar, page.style.unicode);
        let share = format!("  {:>3.0} %", 100.0 * found.used / gauge.layers as f64);
        page.pieces(&[
            (Weight::Plain, &format!("{label:name$}  ")),
            (Weight::Accent, &filled),
            (Weight::Faint, &rest),
            (Weight::Plain, &share),
        ]);
    }
    let Marks { full, below, above, centre, count, doubt, .. } = Marks::of(page.style.unicode);
    let mut legend = Vec::new();
    for (kind, mark, what) in [
        (RuleKind::UpTo, full, "works up to here"),
        (RuleKind::Doubtful, doubt, "the same with a caution"),
        (RuleKind::Centre, centre, "centre of the effect of skipping a layer"),
        (RuleKind::Count, count, "number of layers that carry it"),
    ] {
        if gauge.of_kind(kind).next().is_some() {
            legend.push(format!("{mark} {what}"));
        }
    }
    legend.push(format!("{below}{above} 95 % interval"));
    // Lines are broken between entries, not within them.
    let room = page.style.width.saturating_sub(name + 2);
    let mut lines: Vec<String> = Vec::new();
    for entry in legend {
        match lines.last_mut() {
            Some(line) if line.chars().count() + entry.chars().count() + 3 <= room => {
                *line += &format!("   {entry}")
            }
            _ => lines.push(entry),
        }
    }
    for line in lines {
        page.line(Weight::Faint, &format!("{:name$}  {line}", ""));
    }
}

/// What bars are made of.
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

/// The bar of a rule: what is drawn, and the empty rest. A rule that says up to where the model works fills the
/// bar; others only mark a place on it.
fn bars(found: &RuleMark, layers: usize, width: usize, unicode: bool) -> (String, String) {
    let marks = Marks::of(unicode);
    let share = |used: f64| (used / layers as f64).clamp(0.0, 1.0);
    let column = |used: f64| ((share(used) * width as f64).round() as usize).min(width);
    let [low, high] = found.used_interval().map_or([column(found.used); 2], |ends| ends.map(column));
    let used = column(found.used).max(1);
    let cell = |at: usize| match found.kind {
        RuleKind::UpTo if at < used => {
            if at < low {
                marks.full
            } else {
                marks.below
            }
        }
        RuleKind::UpTo if at < high => marks.above,
        RuleKind::Doubtful if at == used - 1 => marks.doubt,
        RuleKind::Centre if at == used - 1 => marks.centre,
        RuleKind::Count | RuleKind::Other if at == used - 1 => marks.count,
        RuleKind::UpTo => marks.empty,
        _ if (low.saturating_sub(1)..used).contains(&at) => marks.below,
        _ if (used..high).contains(&at) => marks.above,
        _ => marks.empty,
    };
    let all: Vec<char> = (0..width).map(cell).collect();
    let end = all.iter().rposition(|c| *c != marks.empty).map_or(0, |at| at + 1);
    (all[..end].iter().collect(), all[end..].iter().collect())
}

fn depth(results: &Results, page: &mut Page) {
    let (rows, layers) = (&results.depth, results.model.layers);
    if rows.is_empty() {
        return;
    }
    let rule_width = rows.iter().map(|row| row.rule.chars().count()).max().unwrap_or(0).clamp(4, 24);
    page.line(Weight::Plain, "");
    page.line(
        Weight::Faint,
        &format!("{:rule_width$} {:>7} {:>6} {:>16}  threshold", "rule", "depth", "ratio", "95 % interval"),
    );
    for row in rows {
        let rule: String = row.rule.chars().take(rule_width).collect();
        let value = row.value.map_or("none".to_owned(), number);
        let ratio = row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let ends =
            row.interval.map_or("-".to_owned(), |[low, high]| format!("[{}, {}]", number(low), number(high)));
        let interval = if row.mean.is_some() { "-" } else { &ends };
        // A threshold is a setting, so it is shown as it was given.
        let threshold = row.threshold.map_or("-".to_owned(), |threshold| threshold.to_string());
        let weight = if row.value.is_some() { Weight::Plain } else { Weight::Faint };
        let line = format!("{rule:rule_width$} {value:>7} {ratio:>6} {interval:>16}  {threshold}");
        page.line(weight, &line);
        if let Some(mean) = row.mean {
            let used = row.used_by(mean, layers).map(|used| used / layers as f64);
            let share = used.map_or("-".to_owned(), |share| format!("{share:.2}"));
            let (label, mean) = ("  mean", number(mean));
            page.line(weight, &format!("{label:rule_width$} {mean:>7} {share:>6} {ends:>16}"));
        }
        for line in wrap(row.caution.as_deref().unwrap_or(""), page.style.width.saturating_sub(4)) {
            page.line(weight, &format!("    {line}"));
        }
        for line in wrap(row.reason.as_deref().unwrap_or(""), page.style.width.saturating_sub(4)) {
            page.line(weight, &format!("    {line}"));
        }
    }
    if rows.iter().any(|row| row.mean.is_some()) {
        let note = "Rules with a mean read the largest effect of any prompt, as the papers do; their intervals are of the \
                    mean effect over prompts.";
        wrap(note, page.style.width).iter().for_each(|line| page.line(Weight::Faint, line));
    }
}

/// Breaks text between words so that no line has more than `width` columns, except for a longer word.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let wide = |text: &str| text.chars().map(columns).sum::<usize>();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if wide(line) + 1 + wide(word) <= width => line.extend([" ", word]),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// One measured curve: its name as a line, its heading as a column, its values by layer.
struct Curve<'a> {
    name: &'static str,
    heading: &'static str,
    values: &'a [f64],
    /// Whether it is worth a column in the table by layer.
    column: bool,
}

fn curves(results: &Results) -> Vec<Curve<'_>> {
    let mut all = Vec::new();
    let mut add = |name, heading, values, column| all.push(Curve { name, heading, values, column });
    if let Some(contributions) = &results.probes.contributions {
        let (norm, cosine) = (&contributions.relative_norm, &contributions.cosine);
        add("norm attn", "|a|/|h|", norm.attn.mean.as_slice(), true);
        add("norm mlp", "|m|/|h|", &norm.mlp.mean, true);
        add("norm layer", "|D|/|h|", &norm.layer.mean, true);
        add("cos attn", "cos attn", &cosine.attn.mean, false);
        add("cos mlp", "cos mlp", &cosine.mlp.mean, false);
        add("cos layer", "cos", &cosine.layer.mean, true);
    }
    if let Some(lens) = &results.probes.lens {
        add("KL lens|final", "KL", &lens.kl_lens_final, true);
        add("overlap", "overlap", &lens.overlap, true);
    }
    if let Some(similarity) = &results.probes.similarity {
        add("block influence", "BI", &similarity.block_influence, true);
    }
    let skip = results.probes.skip.as_ref().and_then(|skip| skip.future.as_ref()?.layer.as_ref());
    if let Some(output) = skip.and_then(|effects| effects.output_effect.as_ref()) {
        add("skip output", "skip", &output.max, true);
    }
    all
}

fn sparklines(curves: &[Curve<'_>], page: &mut Page) {
    if curves.is_empty() {
        return;
    }
    page.line(Weight::Plain, "");
    page.line(Weight::Faint, "curves over layers, first to last");
    for curve in curves {
        let finite = || curve.values.iter().enumerate().filter(|(_, value)| value.is_finite());
        let low = finite().min_by(|a, b| a.1.total_cmp(b.1));
        let high = finite().max_by(|a, b| a.1.total_cmp(b.1));
        let (Some((at_low, &low)), Some((at_high, &high))) = (low, high) else {
            page.line(Weight::Plain, &format!("{:15}  no finite value", curve.name));
            continue;
        };
        let range = format!("min {:>7} @ {at_low:<3}  max {:>7} @ {at_high:<3}", number(low), number(high));
        // The name and the range take 17 and 36 columns; a narrow terminal keeps the range and loses bars.
        let bars = page.style.width.saturating_sub(17 + 37);
        let spark = if page.style.unicode && bars >= 8 {
            sparkline(curve.values, low, high, bars)
        } else {
            String::new()
        };
        let gap = if spark.is_empty() { "" } else { "  " };
        page.line(Weight::Plain, &format!("{:15}  {spark}{gap}{range}", curve.name));
    }
}

/// At most `width` bars; more values than that are averaged in neighbouring groups of equal size.
fn sparkline(values: &[f64], low: f64, high: f64, width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    values
        .chunks(values.len().div_ceil(width).max(1))
        .map(|group| {
            let finite: Vec<f64> = group.iter().copied().filter(|value| value.is_finite()).collect();
            if finite.is_empty() {
                return ' ';
            }
            let mean = finite.iter().sum::<f64>() / finite.len() as f64;
            let height = if high > low { (mean - low) / (high - low) } else { 0.5 };
            BARS[((height * 8.0) as usize).min(7)]
        })
        .collect()
}

const COLUMN: usize = 9;

fn by_layer(results: &Results, curves: &[Curve<'_>], page: &mut Page) {
    // Columns that do not fit are left out whole: half a number would be a wrong number.
    let room = page.style.width.saturating_sub(5) / COLUMN;
    let shown: Vec<&Curve<'_>> = curves.iter().filter(|curve| curve.column).take(room).collect();
    let rows = shown.iter().map(|curve| curve.values.len()).max().unwrap_or(0);
    if rows == 0 {
        return;
    }
    page.line(Weight::Plain, "");
    let headings: String = shown.iter().map(|curve| format!("{:>COLUMN$}", curve.heading)).collect();
    page.line(Weight::Faint, &format!("layer{headings}"));
    for layer in 0..rows {
        let cells: String = shown
            .iter()
            .map(|curve| curve.values.get(layer).map_or(String::new(), |&value| number(value)))
            .map(|cell| format!("{cell:>COLUMN$}"))
            .collect();
        let rules = rules_at(&results.depth, layer);
        page.line(Weight::Plain, &format!("{layer:>5}{cells}{rules}"));
    }
}

/// Names the rules that put the effective depth at this layer. Rules that count
/// layers put it nowhere.
fn rules_at(rows: &[DepthRow], layer: usize) -> String {
    let here = |row: &&DepthRow| {
        row.value.is_some_and(|value| value.floor() == layer as f64)
            && RuleKind::of(&row.rule) != RuleKind::Count
    };
    let names: Vec<&str> = rows.iter().filter(here).map(|row| row.rule.as_str()).collect();
    if names.is_empty() { String::new() } else { format!("  <- {}", names.join(", ")) }
}

/// About four significant digits in at most eight characters.
fn number(value: f64) -> String {
    let size = value.abs();
    let digits = match size {
        _ if !value.is_finite() => return "n/a".to_owned(),
        _ if size == 0.0 => return "0".to_owned(),
        _ if !(0.001..10_000.0).contains(&size) => return format!("{value:.1e}"),
        _ if size < 1.0 => 3,
        _ if size < 100.0 => 2,
        _ if size < 1_000.0 => 1,
        _ => 0,
    };
    if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.digits$}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixture;
    use crate::results::Probes;

    fn style(unicode: bool, width: usize) -> Style {
        Style { unicode, width, colour: false }
    }

    #[test]
    fn the_summary_holds_the_depths_the_curves_and_the_layers() {
        let text = summary(&fixture::results(), style(true, 100));
        for part in ["example/model-135m", "gsm8k: 32 prompts, 6411 tokens", "[21, 22.50]", "never changes"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(text.lines().any(|line| line.starts_with("cos layer") && line.contains('█')));
        assert!(
            text.lines().any(|line| line.trim_start().starts_with("22 ") && line.ends_with("<- kl, overlap"))
        );
        assert_eq!(text.lines().last().unwrap().split_whitespace().next(), Some("30"));
    }

    #[test]
    fn without_unicode_there_is_only_ascii() {
        let mut results = fixture::results();
        results.model.id = "modèle/深い".to_owned();
        let text = summary(&results, style(false, 80));
        assert!(text.is_ascii(), "{text}");
        assert!(text.starts_with("mod?le/??\n"));
    }

    #[test]
    fn a_name_cannot_send_commands_to_the_terminal() {
        let mut results = fixture::results();
        results.model.id = "a\x1b]0;title\x07\u{202e}b\r\nc".to_owned();
        results.depth[0].rule = "\x1b[2J".to_owned();
        let text = summary(&results, style(true, 80));
        assert!(!text.contains(['\x1b', '\x07', '\r', '\u{202e}']), "{text}");
        assert!(text.starts_with("a?]0;title??b??c\n"));
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let results = fixture::results();
        let coloured = summary(&results, Style { unicode: true, width: 80, colour: true });
        assert!(coloured.contains("\x1b[1mexample/model-135m\x1b[0m"));
        let plain = ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[36m"]
            .iter()
            .fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(plain, summary(&results, style(true, 80)));
    }

    #[test]
    fn results_without_probes_still_have_a_head() {
        let mut results = fixture::results();
        results.probes = Probes::default();
        results.depth.clear();
        assert_eq!(summary(&results, style(true, 80)).lines().count(), 3);
    }

    #[test]
    fn a_sparkline_follows_its_values() {
        assert_eq!(sparkline(&[0.0, 1.0, f64::NAN, 0.5], 0.0, 1.0, 10), "▁█ ▅");
        assert_eq!(sparkline(&[0.0, 0.0, 1.0, 1.0], 0.0, 1.0, 2), "▁█");
        assert_eq!(sparkline(&[3.0, 3.0], 3.0, 3.0, 9), "▅▅");
    }

    #[test]
    fn a_bar_is_filled_to_the_depth_and_its_interval_is_marked() {
        let found = |kind, interval| RuleMark {
            rule: String::new(),
            kind,
            value: 5.0,
            is_mean: false,
            interval,
            caution: None,
            used: 6.0,
        };
        let bar = |kind, interval, unicode| bars(&found(kind, interval), 10, 10, unicode);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(bar(RuleKind::UpTo, Some([3.0, 7.0]), true), pair("████▓▓▒▒", "··"));
        assert_eq!(bar(RuleKind::UpTo, None, false), pair("######", "...."));
        assert_eq!(bar(RuleKind::Centre, Some([4.0, 6.0]), false), pair("....=+-", "..."));
        assert_eq!(bar(RuleKind::Count, None, true), pair("·····○", "····"));
        assert_eq!(bar(RuleKind::Doubtful, Some([2.0, 6.0]), true), pair("··▓▓▓?▒", "···"));
        assert_eq!(bar(RuleKind::UpTo, Some([-1e300, 1e300]), false), pair("======----", ""));
    }

    /// An interval stands on a line with the number that it is of.
    #[test]
    fn the_largest_and_the_mean_have_a_line_each() {
        let mut results = fixture::results();
        results.depth.push(fixture::skip_output());
        results.depth[0].caution = Some("the KL curve rises later".to_owned());
        let text = summary(&results, style(false, 100));
        let at = text.lines().position(|line| line.starts_with("skip_output")).unwrap();
        let lines: Vec<&str> = text.lines().skip(at).take(2).map(str::trim).collect();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(lines[0]), ["skip_output", "11", "0.40", "-", "-"]);
        assert_eq!(words(lines[1]), ["mean", "13.50", "0.48", "[12.80,", "14.10]"]);
        assert!(
            text.contains("    the KL curve rises later")
                && text.contains("the largest effect of any prompt")
        );
    }

    #[test]
    fn the_answer_comes_before_the_numbers() {
        let text = summary(&fixture::results(), style(false, 100));
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} in\n{text}"));
        assert!(at("do the work") < at("threshold") && at("threshold") < at("share of the 30 layers"));
        assert!(text.lines().any(|line| line.starts_with("settling") && line.ends_with("78 %")));
    }

    #[test]
    fn a_long_reason_is_wrapped_and_not_cut() {
        assert_eq!(
            wrap("the curve never falls  below half", 10),
            ["the curve", "never", "falls", "below half"]
        );
        let text = summary(&fixture::results(), style(true, 40));
        let words = fixture::results().depth[3].reason.clone().unwrap();
        assert!(text.split_whitespace().collect::<Vec<_>>().join(" ").contains(&words), "{text}");
    }

    #[test]
    fn numbers_are_short() {
        let check = |value, text: &str| assert_eq!(number(value), text);
        check(0.0, "0");
        check(-0.12345, "-0.123");
        check(23.4, "23.40");
        check(22.0, "22");
        check(1234.5, "1234");
        check(0.00012, "1.2e-4");
        check(f64::NAN, "n/a");
        check(-1.5e300, "-1.5e300");
        check(123_456.0, "1.2e5");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_asked(width in 0usize..160, unicode: bool, id in ".{0,60}", scale in -1e9f64..1e9) {
            let mut results = fixture::results();
            results.model.id = id;
            let norm = &mut results.probes.contributions.as_mut().unwrap().relative_norm;
            norm.attn.mean.iter_mut().for_each(|value| *value *= scale);
            for line in summary(&results, style(unicode, width)).lines() {
                prop_assert!(line.chars().map(columns).sum::<usize>() <= width, "{line:?}");
            }
        }
    }
}
