//! The comparison of several runs with one as a Markdown report.

use super::markdown::aligned_table;
use crate::baseline::{BaselineComparison, CorrectedRule};
use crate::compare::{Comparison, Difference, Pairing, Side};
use crate::curves::Curve;
use crate::format;
use fathom_depth::IntervalOf;
use fathom_results::text::clean;

/// The family-wise error rate below which a difference is marked.
const LEVEL: f64 = 0.05;

impl BaselineComparison {
    /// The comparison as Markdown with aligned tables, for terminals and documents: a column for each run.
    pub fn table(&self) -> String {
        let mut out = String::new();
        for (letter, side) in self.letters().iter().zip(self.sides()) {
            let Side { name, layers, prompts } = side;
            out += &format!("{letter}: {}, {layers} layers, {prompts} prompts  \n", clean(name));
        }
        out += &self.explanation();
        if !self.rules.is_empty() {
            out += &format!("\n{}", self.rule_table());
        }
        let curves = self.curve_table();
        if !curves.is_empty() {
            out += &format!(
                "\nLayers (of a grid of relative depths, where models differ in depth) whose interval excludes 0:\n\n{curves}"
            );
        }
        let cautions = [
            format::caution(self.sides().map(|side| side.prompts)),
            format::largest(self.rules.iter().map(|row| row.rule)),
        ];
        cautions.iter().filter(|c| !c.is_empty()).for_each(|caution| out += &format!("\n{caution}\n"));
        out
    }

    fn sides(&self) -> impl Iterator<Item = &Side> {
        std::iter::once(&self.baseline).chain(self.comparisons.iter().map(|comparison| &comparison.b))
    }

    /// A to Z, then with numbers.
    fn letters(&self) -> Vec<String> {
        let letter = |i: usize| {
            let letter = char::from(b'A' + (i % 26) as u8);
            if i < 26 { letter.to_string() } else { format!("{letter}{}", i / 26) }
        };
        (0..=self.comparisons.len()).map(letter).collect()
    }

    fn explanation(&self) -> String {
        let Some(first) = self.comparisons.first() else { return String::new() };
        let how = match first.pairing {
            Pairing::Paired => "the same resamples of the same prompts in all",
            Pairing::Unpaired => "the prompts of each resampled on their own",
        };
        format!(
            "Share of the layers that a rule says are used, and the difference to A; * p < {LEVEL} after Holm's correction for {} \
             runs.  \n95 % bootstrap intervals, {} resamples, {how}.\n",
            self.comparisons.len(),
            first.resamples
        )
    }

    fn rule_table(&self) -> String {
        let heading: Vec<String> = std::iter::once("rule".to_owned()).chain(self.letters()).collect();
        let rows: Vec<Vec<String>> = self.rules.iter().map(|row| self.rule_row(row)).collect();
        aligned_table(&heading, &rows)
    }

    fn rule_row(&self, row: &CorrectedRule) -> Vec<String> {
        let CorrectedRule { rule, p_holm } = row;
        let of = |comparison: &Comparison| comparison.rules.iter().find(|found| found.rule == *rule).cloned();
        let found: Vec<_> = self.comparisons.iter().map(of).collect();
        let share = |value: Option<f64>, layers: usize| {
            value.map_or("none".to_owned(), |value| format::share(rule.layers_used(value) / layers as f64))
        };
        let any = found.iter().flatten().next();
        let of_mean = any.is_some_and(|row| row.difference_of == IntervalOf::Mean);
        let mut cells = vec![
            format!("{}{}", rule.name(), if of_mean { " (mean)" } else { "" }),
            any.map_or("-".to_owned(), |row| share(row.a.estimate(), self.baseline.layers)),
        ];
        for ((row, comparison), p) in found.iter().zip(&self.comparisons).zip(p_holm) {
            cells.push(row.as_ref().map_or("-".to_owned(), |row| {
                let value = share(row.b.estimate(), comparison.b.layers);
                format!("{value}{}", difference(row.ratio.as_ref(), *p))
            }));
        }
        cells
    }

    fn curve_table(&self) -> String {
        let heading: Vec<String> =
            std::iter::once("curve".to_owned()).chain(self.letters().into_iter().skip(1)).collect();
        let row = |curve: Curve| {
            let cells = self.comparisons.iter().map(|comparison| {
                comparison
                    .curves
                    .iter()
                    .find(|found| found.curve == curve)
                    .map(|found| found.separate_of_all().unwrap_or_else(|| "n/a".to_owned()))
            });
            let cells: Vec<Option<String>> = cells.collect();
            cells.iter().any(Option::is_some).then(|| {
                let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned()));
                std::iter::once(curve.name().to_owned()).chain(cells).collect()
            })
        };
        let rows: Vec<Vec<String>> =
            Curve::ALL.into_iter().filter(|curve| !curve.is_largest()).filter_map(row).collect();
        if rows.is_empty() { String::new() } else { aligned_table(&heading, &rows) }
    }
}

/// A difference to the baseline, after the value; empty without one.
fn difference(ratio: Option<&Difference>, p_holm: Option<f64>) -> String {
    let Some(ratio) = ratio else { return String::new() };
    let sign = if ratio.difference > 0.0 { "+" } else { "" };
    let star = if p_holm.is_some_and(|p| p < LEVEL) && ratio.excludes_zero { " *" } else { "" };
    let interval = format::interval(ratio.interval, format::share);
    format!(", {sign}{} {interval}{star}{}", format::share(ratio.difference), format::none(ratio.none_share))
}
