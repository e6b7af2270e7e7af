//! The summary printed at the end of a run: head, answer, depth table, a gauge of the depths, one line per curve, a
//! table by layer.
//!
//! No line is wider than asked for, and control characters in text from files are replaced, so that a
//! model's name cannot send commands to the terminal.

mod curves;
mod gauge;
pub(crate) mod lines;

pub use self::lines::Style;

use self::lines::{Emphasis, Lines};
use crate::answer;
use crate::text::column;
use fathom_results::text::{amount, counted};
use fathom_results::{Depth, Results};

/// The summary of `results`, ready to print, with a newline after every line.
pub fn summary(results: &Results, style: Style) -> String {
    let mut lines = Lines::new(style);
    head(results, &mut lines);
    answered(results, &mut lines);
    depth(results, &mut lines);
    gauge::bars(results, &mut lines);
    let all = curves::curves(results);
    curves::sparklines(&all, &mut lines);
    curves::by_layer(results, &all, &mut lines);
    lines.text
}

/// The head and the depth table only.
pub fn depths(results: &Results, style: Style) -> String {
    let mut lines = Lines::new(style);
    head(results, &mut lines);
    depth(results, &mut lines);
    lines.text
}

fn head(results: &Results, lines: &mut Lines) {
    let (model, data) = (&results.model, &results.data);
    lines.line(Emphasis::Bold, &model.id);
    let parameters = amount(model.parameters);
    let device = model.device.as_ref().map(|device| format!(" on {device}")).unwrap_or_default();
    lines.line(
        Emphasis::Plain,
        &format!(
            "{}, {} layers, {parameters} parameters, {}{}",
            model.architecture, model.layers, model.dtype, device
        ),
    );
    let pairs = match data.pairs {
        0 => String::new(),
        pairs => format!(", {}", counted(pairs as u64, "question-answer pair")),
    };
    let failed = match data.failed.len() {
        0 => String::new(),
        count => format!("; {count} left out, on which the model overflows"),
    };
    let prompts = format!(
        "{}: {}, {}{pairs}{failed}",
        data.id,
        counted(data.prompts as u64, "prompt"),
        counted(data.tokens, results.objective.as_ref().map_or("token", |objective| &objective.unit))
    );
    lines.line(Emphasis::Plain, &prompts);
    if let Some(objective) = &results.objective {
        lines.line(Emphasis::Plain, &format!("predicted: {}", objective.sentence()));
    }
    if let Some(lens) = &results.lens {
        lines.line(Emphasis::Plain, &format!("lens: {lens}"));
    }
}

/// The answer in words.
fn answered(results: &Results, lines: &mut Lines) {
    if !results.depth.is_empty() {
        lines.line(Emphasis::Plain, "");
        lines.paragraph(Emphasis::Bold, 0, &answer::headline(results));
    }
}

/// The depth table, a row per rule, and a second one where a rule has a mean.
fn depth(results: &Results, lines: &mut Lines) {
    let rows = &results.depth;
    if rows.is_empty() {
        return;
    }
    let width = rows.iter().map(|row| row.rule.name().len()).max().unwrap_or(0).clamp(4, 24);
    lines.line(Emphasis::Plain, "");
    lines.line(
        Emphasis::Faint,
        &format!("{:width$} {:>7} {:>6} {:>16}  threshold", "rule", "depth", "ratio", "95 % interval"),
    );
    rows.iter().for_each(|row| depth_row(row, results.model.layers, width, lines));
    if rows.iter().any(|row| row.mean.is_some()) {
        let note = "Rules with a mean read the largest effect of any prompt, as the papers do; their intervals are of the \
                    mean effect over prompts.";
        lines.paragraph(Emphasis::Faint, 0, note);
    }
}

fn depth_row(row: &Depth, layers: usize, width: usize, lines: &mut Lines) {
    let rule = row.rule.name();
    let value = row.value.map_or("none".to_owned(), column);
    let ratio = row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    let ends =
        row.interval.map_or("-".to_owned(), |[low, high]| format!("[{}, {}]", column(low), column(high)));
    let interval = if row.mean.is_some() { "-" } else { &ends };
    // A threshold is a setting, so it is printed as it was given.
    let threshold = row.threshold.map_or("-".to_owned(), |threshold| threshold.to_string());
    let emphasis = if row.value.is_some() { Emphasis::Plain } else { Emphasis::Faint };
    lines.line(emphasis, &format!("{rule:width$} {value:>7} {ratio:>6} {interval:>16}  {threshold}"));
    if let Some(mean) = row.mean {
        let share = format!("{:.2}", row.rule.layers_used(mean) / layers as f64);
        let (label, mean) = ("  mean", column(mean));
        lines.line(emphasis, &format!("{label:width$} {mean:>7} {share:>6} {ends:>16}"));
    }
    for remark in [&row.caution, &row.reason].into_iter().flatten() {
        lines.paragraph(emphasis, 4, remark);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_width::UnicodeWidthStr;

    use super::*;
    use fathom_results::ProbeResults;
    use fathom_results::fixture;

    fn style(unicode: bool, width: usize) -> Style {
        Style { unicode, width, colour: false }
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
        results.probes = ProbeResults::default();
        results.depth.clear();
        assert_eq!(summary(&results, style(true, 80)).lines().count(), 3);
    }

    #[test]
    fn a_long_reason_is_wrapped_and_not_cut() {
        let text = summary(&fixture::results(), style(true, 40));
        let words = fixture::results().depth[3].reason.clone().unwrap();
        assert!(text.split_whitespace().collect::<Vec<_>>().join(" ").contains(&words), "{text}");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_asked(width in 0usize..160, unicode: bool, id in ".{0,60}", scale in -1e9f64..1e9) {
            let mut results = fixture::results();
            results.model.id = id;
            let norm = &mut results.probes.contributions.as_mut().unwrap().relative_norm;
            norm.attn.mean.iter_mut().for_each(|value| *value *= scale);
            for line in summary(&results, style(unicode, width)).lines() {
                prop_assert!(line.width() <= width, "{line:?}");
            }
        }
    }
}
