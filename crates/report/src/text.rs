//! Text in figures and tables: numbers with few digits, and tokens made visible and safe.

use fathom_results::text::is_hidden;

/// The longest text of a token on an axis, in characters.
const LONGEST: usize = 12;
/// The longest question or answer in a note.
const LONGEST_TEXT: usize = 300;

/// At most two decimals, none for a whole number: enough for a label.
pub(crate) fn number(value: f64) -> String {
    let rounded = (value * 100.0).round() / 100.0;
    format!("{rounded}")
}

/// Three digits, as a plain decimal where that is short.
pub(crate) fn decimal(value: f64) -> String {
    // Printing in scientific form and reading back drops the noise of a power of ten.
    let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    if rounded == 0.0 {
        "0".to_owned()
    } else if (1e-4..1e5).contains(&rounded.abs()) {
        format!("{rounded}")
    } else {
        format!("{rounded:e}")
    }
}

/// Four significant digits without trailing zeros, for the tables of a page; nothing for a missing value.
pub(crate) fn digits(value: f64) -> String {
    significant(value, 4)
}

/// At most `digits` significant digits without trailing zeros, whole numbers in full; nothing for a missing value.
pub(crate) fn significant(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return String::new();
    }
    // Printing in scientific form and reading back rounds to significant digits.
    let rounded: f64 = format!("{value:.*e}", digits - 1).parse().unwrap_or(value);
    if value.fract() == 0.0 && value.abs() < 1e15 {
        format!("{value}")
    } else if rounded.abs() < 1e-4 || rounded.abs() >= 1e15 {
        format!("{rounded:e}")
    } else {
        format!("{rounded}")
    }
}

/// About four significant digits in at most eight characters, for columns of a terminal.
pub(crate) fn column(value: f64) -> String {
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

/// A value for a reader who points at it.
pub(crate) fn value(value: f64) -> String {
    if value.is_nan() { "no value".to_owned() } else { decimal(value) }
}

/// A token's text with spaces as open boxes and control characters escaped, cut where it is too long for an axis.
pub(crate) fn visible(token: &str) -> String {
    let shown = |c: char| match c {
        ' ' => "␣".to_owned(),
        '\n' => "\\n".to_owned(),
        '\t' => "\\t".to_owned(),
        '\r' => "\\r".to_owned(),
        c if is_hidden(c) => format!("\\u{{{:x}}}", c as u32),
        c => c.to_string(),
    };
    cut(token.chars().map(shown), LONGEST)
}

/// A question or an answer on one line, cut where it would fill the page.
pub(crate) fn line(text: &str) -> String {
    cut(text.chars().map(|c| if is_hidden(c) { " ".to_owned() } else { c.to_string() }), LONGEST_TEXT)
}

/// The pieces up to `longest` characters, with an ellipsis if some are left out.
fn cut(pieces: impl Iterator<Item = String>, longest: usize) -> String {
    let (mut text, mut length) = (String::new(), 0);
    for piece in pieces {
        length += piece.chars().count();
        if length > longest {
            text.push('…');
            break;
        }
        text.push_str(&piece);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_spelled_out() {
        assert_eq!(visible(" the"), "␣the");
        assert_eq!(visible("\n\t\0"), "\\n\\t\\u{0}");
        assert_eq!(visible("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(visible("\u{fffe}"), "\\u{fffe}");
        assert_eq!(visible("日本語"), "日本語");
        assert_eq!(visible(&"x".repeat(5000)), format!("{}…", "x".repeat(12)));
        assert_eq!(line("two\nlines"), "two lines");
    }

    #[test]
    fn numbers_keep_four_digits() {
        let check = |value, text: &str| assert_eq!(digits(value), text);
        check(22.0, "22");
        check(0.123456, "0.1235");
        check(-1234.56, "-1235");
        check(0.0000123456, "1.235e-5");
        check(f64::NAN, "");
        check(123456.0, "123456");
    }

    #[test]
    fn columns_are_narrow() {
        let check = |value, text: &str| assert_eq!(column(value), text);
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
}
