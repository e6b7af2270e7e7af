//! What a growth prints on a terminal.

use super::rows;
use crate::table::Style;
use crate::table::lines::{Emphasis, Lines};
use crate::text::column;
use fathom_results::Growing;

/// Both models side by side, and what was found.
pub fn summary(growing: &Growing, style: Style) -> String {
    let mut lines = Lines::new(style);
    let method = growing.method;
    lines.line(Emphasis::Bold, &format!("{} grown by {}", growing.model.id, method.name()));
    lines.line(Emphasis::Plain, &format!("held out: {}", growing.heldout));
    lines.paragraph(Emphasis::Plain, 0, &format!("layers: {}", growing.layer_list()));
    lines.line(Emphasis::Plain, "");
    lines.line(Emphasis::Faint, &format!("{:<34} {:>28} {:>28}", "", "before", "after"));
    for [what, before, after] in rows(growing) {
        lines.line(Emphasis::Plain, &format!("{what:<34} {before:>28} {after:>28}"));
    }
    if !growing.networks.is_empty() {
        lines.line(Emphasis::Plain, "");
        lines.line(Emphasis::Bold, "mean squared error of a right singular vector's elements");
        let heading = format!("{:<34} {:>9} {:>9} {:>9} {:>9}", "matrix", "rows", "network", "copy", "mean");
        lines.line(Emphasis::Faint, &heading);
    }
    for n in &growing.networks {
        let [mse, copy, mean] = [n.mse, n.mse_copy, n.mse_mean].map(column);
        let name = n.matrix.trim_matches('.');
        lines.line(Emphasis::Plain, &format!("{name:<34} {:>9} {mse:>9} {copy:>9} {mean:>9}", n.rows));
    }
    lines.line(Emphasis::Plain, "");
    lines.paragraph(Emphasis::Accent, 0, &growing.conclusion);
    lines.text
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_results::fixture;

    #[test]
    fn both_models_stand_side_by_side() {
        let growing = fixture::growing();
        let style = Style { unicode: false, width: 100, colour: false };
        let text = summary(&growing, style);
        let line = |start: &str| {
            let found = text.lines().find(|line| line.starts_with(start));
            found.unwrap_or_else(|| panic!("no {start} in {text}")).to_owned()
        };
        assert!(line("layers  ").ends_with("8") && line("layers  ").contains(" 6 "));
        assert!(line("loss").contains("3 (2.9 to 3.1)") && line("loss").contains("3.4 (3.3 to 3.5)"));
        assert!(line("layers:").contains("0..4, predicted from 3 and 4, 4, predicted from 4 and 5, 5"));
        assert!(line("mlp.down_proj.weight").contains("0.002"));
        assert!(text.contains(&growing.conclusion) && text.contains("effective depth, settling"));
    }
}
