//! What early exits print on a terminal.

use crate::table::Style;
use crate::table::lines::{Emphasis, Lines};
use crate::text::column;
use fathom_results::text::amount;
use fathom_results::{ExitHead, ExitLevel, Exiting};

/// The heads at each level, the chosen rule at some values of epsilon, and the recommendation.
pub fn summary(exiting: &Exiting, style: Style) -> String {
    let mut lines = Lines::new(style);
    let model = &exiting.model;
    lines.line(Emphasis::Bold, &model.id);
    let parameters = amount(model.parameters);
    lines.line(
        Emphasis::Plain,
        &format!("{}, {} layers, {parameters} parameters, {}", model.architecture, model.layers, model.dtype),
    );
    let sets = [("fit", &exiting.fit), ("calibration", &exiting.calibration), ("held out", &exiting.heldout)];
    for (what, set) in sets {
        lines.line(Emphasis::Plain, &format!("{what}: {set}"));
    }
    lines.line(Emphasis::Plain, "");
    levels(exiting, &mut lines);
    lines.line(Emphasis::Plain, "");
    limits(exiting, &mut lines);
    lines.line(Emphasis::Plain, "");
    lines.paragraph(Emphasis::Accent, 0, &exiting.choice.reason);
    lines.text
}

fn levels(exiting: &Exiting, lines: &mut Lines) {
    let heads = ExitHead::ALL.into_iter().filter(|head| exiting.levels.iter().any(|l| l.head == *head));
    let heads: Vec<ExitHead> = heads.collect();
    lines.line(Emphasis::Bold, "share of tokens with the same most likely continuation, and loss, by level");
    let names = heads.iter().map(|head| format!("{:>9}{:>9}", head.name(), "loss"));
    lines.line(Emphasis::Faint, &format!("{:>7}{}", "level", names.collect::<String>()));
    for level in 0..exiting.model.layers {
        let found = |head: &ExitHead| exiting.levels.iter().find(|l| l.head == *head && l.level == level);
        let cell = |l: &ExitLevel| format!("{:>9}{:>9}", column(l.agreement), column(l.nll));
        let cells: String = heads.iter().filter_map(found).map(cell).collect();
        lines.line(Emphasis::Plain, &format!("{level:>7}{cells}"));
    }
    let whole = format!("{:>9}{:>9}", "1", column(exiting.full_nll.value)).repeat(heads.len());
    lines.line(Emphasis::Faint, &format!("{:>7}{whole}", exiting.model.layers));
}

fn limits(exiting: &Exiting, lines: &mut Lines) {
    lines.line(Emphasis::Bold, "the best rule by the share of tokens that may change");
    let heading = format!(
        "{:>8} {:>7} {:>8} {:>11} {:>10} {:>9} {:>10} {:>8}",
        "epsilon", "head", "by", "levels", "threshold", "changed", "mean level", "saved"
    );
    lines.line(Emphasis::Faint, &heading);
    for point in &exiting.by_epsilon {
        let emphasis = if point.epsilon == exiting.epsilon { Emphasis::Accent } else { Emphasis::Plain };
        let found =
            point.rule.as_ref().and_then(|rule| Some((rule, rule.threshold?, rule.measured.as_ref()?)));
        let Some((rule, threshold, m)) = found else {
            lines.line(emphasis, &format!("{:>8} {:>7}", point.epsilon, "none"));
            continue;
        };
        let levels = match rule.levels[..] {
            [one] => one.to_string(),
            [first, second, .., last] => format!("{first},{second}..{last}"),
            _ => rule.levels.iter().map(usize::to_string).collect::<Vec<_>>().join(","),
        };
        lines.line(
            emphasis,
            &format!(
                "{:>8} {:>7} {:>8} {levels:>11} {:>10} {:>9} {:>10.1} {:>6.1} %",
                point.epsilon,
                rule.head.name(),
                rule.confidence.name(),
                column(threshold),
                column(m.risk_heldout.value),
                m.mean_level,
                100.0 * m.net_saving.value,
            ),
        );
    }
}
