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
    lines.line(Emphasis::Bold, &format!("best {unit} of the target for each {unit} of the source"));
    let at = |m: usize, l: usize| (mapping.relative[m][l], mapping.r2[m][l]);
    levels(&mut lines, ["source", "best target"], (&mapping.best, &mapping.best_interval), &at);
    lines.paragraph(Emphasis::Accent, 0, &mapping.conclusion);
    if let Some(sources) = &mapping.sources {
        lines.line(Emphasis::Plain, "");
        lines.line(Emphasis::Bold, &format!("best {unit} of the source for each {unit} of the target"));
        let best = (&sources.best[..], &sources.best_interval[..]);
        levels(&mut lines, ["target", "best source"], best, &|l, m| at(m, l));
        lines.paragraph(Emphasis::Accent, 0, &sources.conclusion);
    }
    lines.text
}

/// A line a level: the best level of the other model, its interval, and the error and R² of the pair, which `at` gives.
fn levels(
    lines: &mut Lines,
    [of, among]: [&str; 2],
    (best, intervals): (&[Option<usize>], &[Option<[f64; 2]>]),
    at: &dyn Fn(usize, usize) -> (f64, f64),
) {
    let heading = format!("{of:>7} {among:>12} {:>16} {:>15} {:>8}", "95 % interval", "relative error", "R2");
    lines.line(Emphasis::Faint, &heading);
    for (level, (best, interval)) in best.iter().zip(intervals).enumerate() {
        let Some(best) = best else {
            lines.line(Emphasis::Faint, &format!("{level:>7} {:>12}", "none"));
            continue;
        };
        let interval = interval.map_or(String::new(), |[low, high]| {
            let end = |x: f64| format!("{}", (x * 10.0).round() / 10.0);
            format!("{} to {}", end(low), end(high))
        });
        let (relative, r2) = at(level, *best);
        let (relative, r2) = (column(relative), column(r2));
        lines.line(Emphasis::Plain, &format!("{level:>7} {best:>12} {interval:>16} {relative:>15} {r2:>8}"));
    }
    lines.line(Emphasis::Plain, "");
}
