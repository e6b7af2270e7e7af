//! Numbers and names as tables show them.

use fathom_depth::Rule;

/// Text from files, safe to print: control characters and those that turn the writing direction
/// would reach the terminal otherwise.
pub(crate) fn clean(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if harmful(c) { '?' } else { c }).collect()
}

/// A number of layers or a layer: whole numbers as they are, others with one digit.
pub(crate) fn layer(value: f64) -> String {
    unsigned_zero(if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.1}") })
}

/// A share, with two digits; never "-0.00", which would be read as a sign.
pub(crate) fn share(value: f64) -> String {
    unsigned_zero(format!("{value:.2}"))
}

/// A change of a share, with three digits: one layer of a hundred is a hundredth.
pub(crate) fn change(value: f64) -> String {
    unsigned_zero(format!("{value:.3}"))
}

/// A p-value; one below a ten-thousandth only as that.
pub(crate) fn p_value(value: f64) -> String {
    match value {
        _ if value < 1e-4 => "p < 0.0001".to_owned(),
        _ if value < 0.1 => format!("p = {value:.4}"),
        _ => format!("p = {value:.2}"),
    }
}

/// A number of comparisons that may be a fraction: one digit, none for whole numbers.
pub(crate) fn count(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    format!("{rounded}")
}

/// A value of any size, with about three digits.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    unsigned_zero(match size {
        _ if !value.is_finite() => "n/a".to_owned(),
        _ if size == 0.0 => "0".to_owned(),
        _ if !(0.001..10_000.0).contains(&size) => format!("{value:.1e}"),
        _ if size < 1.0 => format!("{value:.3}"),
        _ if size < 100.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    })
}

fn unsigned_zero(text: String) -> String {
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| matches!(c, '0' | '.')) => rest.to_owned(),
        _ => text,
    }
}

/// Fewer prompts than this make an interval hold the truth clearly less often than in 95 of 100 cases:
/// hardly a resample is far enough out for the ends.
pub(crate) const FEW: usize = 5;

/// What must be said of few prompts, or nothing.
pub(crate) fn caution(prompts: impl IntoIterator<Item = usize>) -> String {
    match prompts.into_iter().min() {
        Some(least) if least < FEW => {
            format!(
                "With fewer than {FEW} prompts, here {least}, intervals are narrower than they should be."
            )
        }
        _ => String::new(),
    }
}

/// What must be said of rules that read the largest effect of any prompt, or nothing.
pub(crate) fn largest(rules: impl IntoIterator<Item = Rule>) -> String {
    let names: Vec<&str> = rules.into_iter().filter(|rule| rule.reads_largest()).map(Rule::name).collect();
    if names.is_empty() {
        return String::new();
    }
    format!(
        "{} read the largest effect of any prompt, as the papers do; their intervals and differences are of \
         the same rule on the mean effect over prompts, because the bootstrap of a maximum is not valid.",
        names.join(", ")
    )
}

/// In how many resamples a rule finds nothing, for behind an interval; often empty.
pub(crate) fn none(share: f64) -> String {
    match share > 0.0 {
        true => format!(" ({:.0} % none)", (100.0 * share).max(1.0)),
        false => String::new(),
    }
}

/// `[lo, hi]`, or a dash.
pub(crate) fn interval(interval: Option<[f64; 2]>, show: fn(f64) -> String) -> String {
    interval.map_or("-".to_owned(), |[lo, hi]| format!("[{}, {}]", show(lo), show(hi)))
}

/// A Markdown table whose columns line up, so that it reads as plain text too. Rows shorter than the
/// heading are filled up.
pub(crate) fn markdown(heading: &[String], rows: &[Vec<String>]) -> String {
    let escape = |cell: &String| clean(cell).replace('|', "\\|");
    let lines: Vec<Vec<String>> = std::iter::once(heading)
        .chain(rows.iter().map(Vec::as_slice))
        .map(|line| line.iter().map(escape).collect())
        .collect();
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(|column| width(column).max(3)).collect();
    let mut out = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells = widths.iter().enumerate().map(|(column, &width)| {
            let cell = line.get(column).map_or("", String::as_str);
            format!(" {cell:width$} |")
        });
        out.push('|');
        out.extend(cells);
        out.push('\n');
        if number == 0 {
            out.push('|');
            out.extend(widths.iter().map(|width| format!("{}|", "-".repeat(width + 2))));
            out.push('\n');
        }
    }
    out
}

/// Text for LaTeX's text mode.
pub(crate) fn latex(text: &str) -> String {
    let mut out = String::new();
    let text: Vec<char> = clean(text).chars().collect();
    for (i, &c) in text.iter().enumerate() {
        let after = |known: &[char]| i.checked_sub(1).is_none_or(|before| known.contains(&text[before]));
        let minus = || after(&[' ', '[']) && text.get(i + 1).is_some_and(char::is_ascii_digit);
        match c {
            '-' if minus() => out.push_str("$-$"),
            '\\' => out.push_str(r"\textbackslash{}"),
            '~' => out.push_str(r"\textasciitilde{}"),
            '^' => out.push_str(r"\textasciicircum{}"),
            '<' => out.push_str(r"\textless{}"),
            '>' => out.push_str(r"\textgreater{}"),
            '|' => out.push_str(r"\textbar{}"),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            // An optional argument would be looked for after a row's end.
            '[' => out.push_str("{[}"),
            ']' => out.push_str("{]}"),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_zero_has_no_sign() {
        assert_eq!(
            (share(-0.004), share(-0.006), share(0.5)),
            ("0.00".into(), "-0.01".into(), "0.50".into())
        );
        assert_eq!((layer(17.0), layer(16.34), layer(-1.0)), ("17".into(), "16.3".into(), "-1".into()));
        let check = |value, text: &str| assert_eq!(number(value), text);
        check(0.0, "0");
        check(-0.12345, "-0.123");
        check(123.4, "123");
        check(-0.00012, "-1.2e-4");
        check(f64::NAN, "n/a");
    }

    #[test]
    fn a_table_lines_up_and_keeps_its_columns() {
        let rows = [vec!["a|b".into(), "1".into()], vec!["\x1b[2J".into()]];
        let table = markdown(&["name".into(), "value".into()], &rows);
        assert_eq!(table, "| name | value |\n|------|-------|\n| a\\|b | 1     |\n| ?[2J |       |\n");
    }

    #[test]
    fn latex_is_escaped() {
        assert_eq!(latex(r"a_b & 5% \x {~}"), r"a\_b \& 5\% \textbackslash{}x \{\textasciitilde{}\}");
        assert_eq!(latex("[-16, 18] of f-16 - -2"), "{[}$-$16, 18{]} of f-16 - $-$2");
    }
}
