//! The comparison of two runs as a Markdown report.

use super::markdown::aligned_table;
use crate::compare::{Comparison, CurveDifference, Difference, Pairing, RuleDifference, Side};
use crate::format;
use fathom_depth::{Depth, IntervalOf};
use fathom_results::text::clean;

impl Comparison {
    /// The comparison as Markdown with aligned tables, for terminals and documents. An asterisk marks
    /// intervals that exclude 0.
    pub fn table(&self) -> String {
        let mut out = String::new();
        for (letter, side) in [('A', &self.a), ('B', &self.b)] {
            let Side { name, layers, prompts } = side;
            out += &format!("{letter}: {}, {layers} layers, {prompts} prompts  \n", clean(name));
        }
        let how = match self.pairing {
            Pairing::Paired => "the same resamples of the same prompts in both",
            Pairing::Unpaired => "the prompts of each resampled on their own",
        };
        let resamples = self.resamples;
        out += &format!(
            "Differences are B - A; 95 % bootstrap intervals, {resamples} resamples, {how}; * excludes 0.\n"
        );
        if !self.rules.is_empty() {
            out += &format!("\n{}", self.rule_table());
        }
        if !self.curves.is_empty() {
            out += &format!("\n{}\n{}", self.curve_table(), LAYER_BY_LAYER);
        }
        let mut cautions = vec![
            format::caution([self.a.prompts, self.b.prompts]),
            format::largest(self.rules.iter().map(|row| row.rule)),
        ];
        for (letter, depth) in self.rules.iter().flat_map(|row| [("A", &row.a), ("B", &row.b)]) {
            cautions.extend(
                depth.caution.as_ref().map(|caution| format!("{} of {letter}: {caution}.", depth.rule)),
            );
        }
        cautions.iter().filter(|c| !c.is_empty()).for_each(|caution| out += &format!("\n{caution}\n"));
        out
    }

    fn rule_table(&self) -> String {
        let heading = ["rule", "A", "B", "B - A", "interval", "ratio A", "ratio B", "B - A", "interval"];
        let row = |row: &RuleDifference| {
            let shown = |value: Option<f64>, show: fn(f64) -> String| value.map_or("none".to_owned(), show);
            let share = |depth: &Depth, layers: usize| {
                depth.estimate().map(|value| depth.rule.layers_used(value) / layers as f64)
            };
            let of_mean = if row.difference_of == IntervalOf::Mean { " (mean)" } else { "" };
            let [value, value_interval] = difference_cells(row.value.as_ref(), format::layer);
            let [ratio, ratio_interval] = difference_cells(row.ratio.as_ref(), format::share);
            vec![
                format!("{}{of_mean}", row.rule.name()),
                shown(row.a.estimate(), format::layer),
                shown(row.b.estimate(), format::layer),
                value,
                value_interval,
                shown(share(&row.a, self.a.layers), format::share),
                shown(share(&row.b, self.b.layers), format::share),
                ratio,
                ratio_interval,
            ]
        };
        let rows: Vec<Vec<String>> = self.rules.iter().map(row).collect();
        aligned_table(&heading.map(str::to_owned), &rows)
    }

    fn curve_table(&self) -> String {
        let place = if self.a.layers == self.b.layers { "at layer" } else { "at relative depth" };
        let heading = ["curve", "differ", place, "A", "B", "B - A", "interval"];
        let row = |curve: &CurveDifference| {
            let differ = curve.separate_of_all();
            let nowhere = if differ.is_some() { "nowhere" } else { "-" };
            let mut cells = vec![curve.curve.name().to_owned(), differ.unwrap_or_else(|| "n/a".to_owned())];
            match curve.largest {
                None => cells.extend([nowhere, "-", "-", "-", "-"].map(str::to_owned)),
                Some(i) => {
                    let at = curve.at[i];
                    cells.push(if curve.relative { format::share(at) } else { format::layer(at) });
                    cells.extend([format::number(curve.a[i]), format::number(curve.b[i])]);
                    cells.extend(difference_cells(Some(&curve.differences[i]), format::number));
                }
            }
            cells
        };
        // Curves of largest effects have no intervals and therefore no row.
        let rows: Vec<Vec<String>> =
            self.curves.iter().filter(|curve| !curve.curve.is_largest()).map(row).collect();
        aligned_table(&heading.map(str::to_owned), &rows)
    }
}

/// Caveat printed below intervals of many layers.
const LAYER_BY_LAYER: &str = "Each curve is shown where it differs most among the layers whose interval excludes 0. \
The intervals hold layer by layer: of layers that do not differ, about one in twenty is still among them.\n";

fn difference_cells(difference: Option<&Difference>, show: fn(f64) -> String) -> [String; 2] {
    let Some(difference) = difference else { return ["-".to_owned(), "-".to_owned()] };
    let star = if difference.excludes_zero { " *" } else { "" };
    let none = format::none(difference.none_share);
    [show(difference.difference), format!("{}{star}{none}", format::interval(difference.interval, show))]
}
