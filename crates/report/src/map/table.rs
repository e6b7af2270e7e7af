//! What maps between models print on a terminal.

use super::unit;
use crate::table::Style;
use crate::table::lines::{Emphasis, Lines};
use crate::text::column;
use fathom_results::Mapping;

/// The best target of each source, and what the slope says.
pub fn summary(mapping: &Mapping, style: Style) -> String {
    let mut lines = Lines::new(style);
    lines.line(Emphasis::Bold, &format!("{} to {}", mapping.source.id, mapping.target.id));
    for (what, set) in [("fit", &mapping.fit), ("held out", &mapping.heldout)] {
        lines.line(Emphasis::Plain, &format!("{what}: {set}"));
    }
    lines.line(Emphasis::Plain, "");
    let unit = unit(mapping);
    let heading = format!(
        "{:>7} {:>12} {:>16} {:>15} {:>8}",
        "source", "best target", "95 % interval", "relative error", "R2"
    );
    lines.line(Emphasis::Bold, &format!("best {unit} of the target for each {unit} of the source"));
    lines.line(Emphasis::Faint, &heading);
    for (m, best) in mapping.best.iter().enumerate() {
        let Some(best) = best else {
            lines.line(Emphasis::Faint, &format!("{m:>7} {:>12}", "none"));
            continue;
        };
        let interval = mapping.best_interval[m].map_or(String::new(), |[low, high]| {
            let end = |x: f64| format!("{}", (x * 10.0).round() / 10.0);
            format!("{} to {}", end(low), end(high))
        });
        let (relative, r2) = (column(mapping.relative[m][*best]), column(mapping.r2[m][*best]));
        lines.line(Emphasis::Plain, &format!("{m:>7} {best:>12} {interval:>16} {relative:>15} {r2:>8}"));
    }
    lines.line(Emphasis::Plain, "");
    lines.paragraph(Emphasis::Accent, 0, &mapping.conclusion);
    lines.text
}
