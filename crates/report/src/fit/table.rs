//! What a fit prints on a terminal.

use crate::table::Style;
use crate::table::lines::{Emphasis, Lines};
use crate::text::{column, significant};
use fathom_results::{Fitted, Fitting, Named, Optimal, Parameter, Prediction};

/// Parameters with standard errors and intervals, how well the law fits, scans, predictions, and what is optimal.
pub fn summary(fitting: &Fitting, style: Style) -> String {
    let mut lines = Lines::new(style);
    lines.line(Emphasis::Bold, &format!("{}: {}", fitting.law.name(), fitting.law.about()));
    lines.paragraph(Emphasis::Plain, 0, &fitting.expression);
    lines.line(Emphasis::Plain, &format!("{}, {} rows", fitting.data.file, fitting.data.rows));
    for (name, fit) in fitting.fits() {
        lines.line(Emphasis::Plain, "");
        if let Some(name) = name {
            lines.line(Emphasis::Bold, name);
        }
        one(fit, &mut lines);
    }
    lines.text
}

fn one(fit: &Fitted, lines: &mut Lines) {
    parameters(fit, lines);
    lines.line(Emphasis::Plain, "");
    lines.paragraph(Emphasis::Plain, 0, &quality(fit));
    scan(fit, lines);
    if !fit.predictions.is_empty() {
        heading(lines, "predictions");
        for prediction in &fit.predictions {
            lines.paragraph(Emphasis::Plain, 2, &predicted(prediction));
        }
    }
    if let Some(optimal) = &fit.optimal {
        best(optimal, lines);
    }
}

/// As [`significant`], but large whole numbers have as many digits as others.
pub(super) fn short(value: f64, digits: usize) -> String {
    if value.abs() < 1e7 || !value.is_finite() {
        return significant(value, digits);
    }
    // Printing in scientific form and reading back drops trailing zeros.
    let rounded: f64 = format!("{value:.*e}", digits - 1).parse().unwrap_or(value);
    format!("{rounded:e}")
}

fn heading(lines: &mut Lines, text: &str) {
    lines.line(Emphasis::Plain, "");
    lines.line(Emphasis::Bold, text);
}

fn parameters(fit: &Fitted, lines: &mut Lines) {
    let published = fit.published.as_ref();
    let widest = fit.parameters.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).clamp(9, 30);
    let mut head = format!("{:<widest$} {:>11} {:>10} {:>24}", "", "value", "std. error", "95 % interval");
    if fit.regression.is_some() {
        head += &format!(" {:>9} {:>9} {:>7}", "t", "p", "VIF");
    } else if published.is_some() {
        head += &format!(" {:>11}", "published");
    }
    lines.line(Emphasis::Faint, &head);
    for (name, parameter) in fit.parameters.iter() {
        let error = parameter.stderr.map_or("none".to_owned(), |error| short(error, 4));
        let interval = parameter
            .interval
            .map_or(String::new(), |[low, high]| format!("{} to {}", short(low, 4), short(high, 4)));
        let mut line =
            format!("{name:<widest$} {:>11} {error:>10} {interval:>24}", short(parameter.value, 6));
        if let Some(regression) = &fit.regression {
            let number = |value: Option<f64>| value.map_or(String::new(), |v| short(v, 3));
            let vif = number(regression.vif.get(name).copied());
            line += &format!(" {:>9} {:>9} {vif:>7}", number(parameter.t), number(parameter.p));
        } else if let Some(value) = published.and_then(|p| p.parameters.get(name)) {
            line += &format!(" {:>11}", short(*value, 7));
        }
        lines.line(Emphasis::Plain, &line);
    }
}

/// How well the law fits, in sentences.
pub(super) fn quality(fit: &Fitted) -> String {
    let objective = &fit.objective;
    let mut text = format!("{} rows", fit.rows);
    if fit.dropped > 0 {
        text += &format!(" ({} left out)", fit.dropped);
    }
    text +=
        &format!("; {} objective {}, R2 {}", objective.residual, short(objective.value, 6), short(fit.r2, 4));
    text += match (objective.schedule.as_str(), objective.converged) {
        ("published", _) => ", stopped as the source was.",
        (_, true) => ", converged.",
        (_, false) => ", NOT converged.",
    };
    if let Some(starts) = &fit.starts {
        text += &format!(" {} of {} starts agree.", starts.agreeing, starts.count);
    }
    if let Some(published) = &fit.published {
        text += &format!(
            " With the published parameters: objective {}, R2 {}.",
            short(published.objective, 6),
            short(published.r2, 4)
        );
    }
    if let Some(baseline) = &fit.baseline {
        text += &format!(
            " The log-linear law: mean squared log residual {}, R2 {}.",
            short(baseline.objective, 4),
            short(baseline.r2, 4)
        );
    }
    if let Some(heldout) = &fit.heldout {
        text += &format!(
            " Residuals on held-out rows: {} (root mean square over {} splits, standard deviation {}; {} on fitted rows).",
            short(heldout.rms, 3),
            heldout.repeats - heldout.failed.min(heldout.repeats),
            short(heldout.deviation, 2),
            short(heldout.rms_fitted, 3)
        );
    }
    if let Some(regression) = &fit.regression {
        text += &format!(
            " Adjusted R2 {}, {} degrees of freedom, residual standard deviation {}, condition number {}.",
            short(regression.adjusted_r2, 4),
            regression.freedom,
            short(regression.deviation, 4),
            short(regression.condition, 3)
        );
    }
    text
}

fn scan(fit: &Fitted, lines: &mut Lines) {
    let Some(first) = fit.scan.iter().find_map(|point| point.parameters.as_ref()) else { return };
    heading(lines, "other choices");
    let names: String = first.iter().map(|(name, _)| format!(" {name:>8}")).collect();
    lines.line(Emphasis::Faint, &format!("{:<25} {:>5} {:>9}{names}", "", "rows", "objective"));
    for point in &fit.scan {
        let value = |(name, _): (&str, &f64)| {
            let found = point.parameters.as_ref().and_then(|p| p.get(name));
            format!(" {:>7}", found.map_or(String::new(), |value| column(*value)))
        };
        let values: String = first.iter().map(value).collect();
        let objective = point.objective.map_or("none".to_owned(), |o| short(o, 4));
        let choice = format!("{} {}", point.choice, point.value);
        let line = format!("{choice:<25} {:>5} {objective:>9}{values}", point.rows);
        lines.line(if point.chosen { Emphasis::Accent } else { Emphasis::Plain }, &line);
    }
}

/// `name 1.2, name 3`.
pub(super) fn inputs(named: &Named<f64>) -> String {
    named.iter().map(|(name, value)| format!("{name} {}", short(*value, 4))).collect::<Vec<_>>().join(", ")
}

fn predicted(prediction: &Prediction) -> String {
    let mut text = inputs(&prediction.inputs);
    if !prediction.derived.is_empty() {
        text += &format!(" ({})", inputs(&prediction.derived));
    }
    text += &format!(": {}", short(prediction.value, 5));
    if let Some([low, high]) = prediction.interval {
        text += &format!(", {} to {}", short(low, 5), short(high, 5));
    }
    if let Some(error) = prediction.stderr {
        text += &format!(" (standard error {})", short(error, 3));
    }
    text
}

/// `45.5 (38.6 to 54.9)`.
pub(super) fn with_interval(parameter: &Parameter) -> String {
    let value = short(parameter.value, 4);
    match parameter.interval {
        Some([low, high]) => format!("{value} ({} to {})", short(low, 4), short(high, 4)),
        None => value,
    }
}

fn best(optimal: &Optimal, lines: &mut Lines) {
    heading(lines, &format!("optimal for {}", inputs(&optimal.inputs)));
    for (name, value) in optimal.values.iter() {
        lines.line(Emphasis::Accent, &format!("  {name:<24} {}", with_interval(value)));
    }
    let heads: String = optimal.table.headings.iter().map(|head| format!("  {head:>12}")).collect();
    lines.line(Emphasis::Faint, &heads);
    for (index, row) in optimal.table.rows.iter().enumerate() {
        let cells = row.iter().zip(&optimal.table.headings);
        let line: String =
            cells.map(|(value, head)| format!("  {:>1$}", short(*value, 5), head.len().max(12))).collect();
        let is_best = optimal.table.best == Some(index);
        lines.line(if is_best { Emphasis::Accent } else { Emphasis::Plain }, &line);
    }
    lines.paragraph(Emphasis::Plain, 0, &optimal.note);
}
