//! Numbers, intervals and cautions as tables print them.

use fathom_depth::Rule;

/// A layer or a number of layers: whole numbers as they are, others with one decimal.
pub(crate) fn layer(value: f64) -> String {
    unsigned_zero(if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.1}") })
}

/// A share with two decimals; never "-0.00", which would suggest a sign.
pub(crate) fn share(value: f64) -> String {
    unsigned_zero(format!("{value:.2}"))
}

/// A change of a share with three decimals, enough to resolve one layer of a hundred.
pub(crate) fn change(value: f64) -> String {
    unsigned_zero(format!("{value:.3}"))
}

/// A p-value, "p < 0.0001" below a ten-thousandth.
pub(crate) fn p_value(value: f64) -> String {
    match value {
        _ if value < 1e-4 => "p < 0.0001".to_owned(),
        _ if value < 0.1 => format!("p = {value:.4}"),
        _ => format!("p = {value:.2}"),
    }
}

/// An expected number of comparisons: one decimal, none for whole numbers.
pub(crate) fn count(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    format!("{rounded}")
}

/// A value of any magnitude with about three digits.
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

/// With fewer prompts than this, intervals cover the truth clearly less often than 95 % of the time:
/// too few resamples reach far enough out.
pub(crate) const FEW: usize = 5;

/// Caveat for few prompts, or nothing.
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

/// Caveat for rules that read the largest effect of any prompt, or nothing.
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

/// The share of resamples without a value, printed after an interval; empty if there are none.
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
}
