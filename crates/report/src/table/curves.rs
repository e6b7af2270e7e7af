//! The curves in the terminal: a sparkline each, and a table by layer.

use fathom_results::{Depth, Results, SkipMode, SkipPart};
use std::borrow::Cow;

use super::lines::{Emphasis, Lines};
use crate::gauge::MarkKind;

use crate::text::column;

/// One measured curve: its name as a line, its heading as a column, its values by layer.
pub(super) struct NamedCurve<'a> {
    name: &'static str,
    heading: &'static str,
    values: Cow<'a, [f64]>,
    /// Whether it is worth a column in the table by layer.
    column: bool,
}

pub(super) fn curves<'a>(results: &'a Results) -> Vec<NamedCurve<'a>> {
    let mut all = Vec::new();
    let mut add = |name, heading, values: &'a [f64], column| {
        all.push(NamedCurve { name, heading, values: Cow::Borrowed(values), column });
    };
    // A model may have no MLP.
    let is_there = |values: &[f64]| values.iter().any(|value| !value.is_nan());
    if let Some(contributions) = &results.probes.contributions {
        let (norm, cosine) = (&contributions.relative_norm, &contributions.cosine);
        if is_there(&norm.attn.mean) {
            add("norm attn", "|a|/|h|", norm.attn.mean.as_slice(), true);
        }
        if is_there(&norm.mlp.mean) {
            add("norm mlp", "|m|/|h|", &norm.mlp.mean, true);
        }
        add("norm layer", "|D|/|h|", &norm.layer.mean, true);
        if is_there(&cosine.attn.mean) {
            add("cos attn", "cos attn", &cosine.attn.mean, false);
        }
        if is_there(&cosine.mlp.mean) {
            add("cos mlp", "cos mlp", &cosine.mlp.mean, false);
        }
        add("cos layer", "cos", &cosine.layer.mean, true);
    }
    if let Some(lens) = &results.probes.lens {
        add("KL lens|final", "KL", &lens.kl_lens_final, true);
        add("overlap", "overlap", &lens.overlap, true);
        if !lens.nll.is_empty() {
            add("loss", "loss", &lens.nll, true);
        }
    }
    if let Some(similarity) = &results.probes.similarity {
        add("block influence", "BI", &similarity.block_influence, true);
    }
    if let Some(angles) = &results.probes.angles {
        add("angle", "angle", &angles.step, false);
    }
    let skip = results
        .probes
        .skip
        .as_ref()
        .and_then(|skip| skip.get(&SkipMode::far(results.objective.is_some()))?.get(&SkipPart::Layer));
    if let Some(output) = skip.and_then(|effects| effects.output_effect.as_ref()) {
        add("skip output", "skip", &output.max, true);
    }
    if let Some(experts) = &results.probes.experts {
        let mut used = vec![f64::NAN; results.model.layers];
        experts.layers.iter().zip(experts.used()).for_each(|(l, value)| used[*l] = value);
        all.push(NamedCurve {
            name: "experts used",
            heading: "experts",
            values: Cow::Owned(used),
            column: true,
        });
    }
    all
}

pub(super) fn sparklines(curves: &[NamedCurve<'_>], lines: &mut Lines) {
    if curves.is_empty() {
        return;
    }
    lines.line(Emphasis::Plain, "");
    lines.line(Emphasis::Faint, "curves over layers, first to last");
    for curve in curves {
        let finite = || curve.values.iter().enumerate().filter(|(_, value)| value.is_finite());
        let low = finite().min_by(|a, b| a.1.total_cmp(b.1));
        let high = finite().max_by(|a, b| a.1.total_cmp(b.1));
        let (Some((at_low, &low)), Some((at_high, &high))) = (low, high) else {
            lines.line(Emphasis::Plain, &format!("{:15}  no finite value", curve.name));
            continue;
        };
        let range = format!("min {:>7} @ {at_low:<3}  max {:>7} @ {at_high:<3}", column(low), column(high));
        // The name and the range take 17 and 36 columns; a narrow terminal keeps the range and loses bars.
        let bars = lines.style.width.saturating_sub(17 + 37);
        let spark = if lines.style.unicode && bars >= 8 {
            sparkline(&curve.values, low, high, bars)
        } else {
            String::new()
        };
        let gap = if spark.is_empty() { "" } else { "  " };
        lines.line(Emphasis::Plain, &format!("{:15}  {spark}{gap}{range}", curve.name));
    }
}

/// At most `width` bars; more values than that are averaged in neighbouring groups of equal size.
fn sparkline(values: &[f64], low: f64, high: f64, width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    values
        .chunks(values.len().div_ceil(width).max(1))
        .map(|group| {
            let finite: Vec<f64> = group.iter().copied().filter(|value| value.is_finite()).collect();
            if finite.is_empty() {
                return ' ';
            }
            let mean = finite.iter().sum::<f64>() / finite.len() as f64;
            let height = if high > low { (mean - low) / (high - low) } else { 0.5 };
            BARS[((height * 8.0) as usize).min(7)]
        })
        .collect()
}

/// The width of a column of the table by layer.
const COLUMN: usize = 9;

pub(super) fn by_layer(results: &Results, curves: &[NamedCurve<'_>], lines: &mut Lines) {
    // Columns that do not fit are left out: half a number would be a wrong number.
    let room = lines.style.width.saturating_sub(5) / COLUMN;
    let shown: Vec<&NamedCurve<'_>> = curves.iter().filter(|curve| curve.column).take(room).collect();
    let rows = shown.iter().map(|curve| curve.values.len()).max().unwrap_or(0);
    if rows == 0 {
        return;
    }
    lines.line(Emphasis::Plain, "");
    let headings: String = shown.iter().map(|curve| format!("{:>COLUMN$}", curve.heading)).collect();
    lines.line(Emphasis::Faint, &format!("layer{headings}"));
    for layer in 0..rows {
        let cells: String = shown
            .iter()
            .map(|curve| curve.values.get(layer).map_or(String::new(), |&value| column(value)))
            .map(|cell| format!("{cell:>COLUMN$}"))
            .collect();
        let rules = rules_at(&results.depth, layer);
        lines.line(Emphasis::Plain, &format!("{layer:>5}{cells}{rules}"));
    }
}

/// The names of the rules that put the effective depth at this layer. Rules that count layers put it nowhere.
fn rules_at(rows: &[Depth], layer: usize) -> String {
    let here = |row: &&Depth| {
        row.value.is_some_and(|value| value.floor() == layer as f64)
            && MarkKind::of(row.rule) != MarkKind::Count
    };
    let names: Vec<&str> = rows.iter().filter(here).map(|row| row.rule.name()).collect();
    if names.is_empty() { String::new() } else { format!("  <- {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_follows_its_values() {
        assert_eq!(sparkline(&[0.0, 1.0, f64::NAN, 0.5], 0.0, 1.0, 10), "▁█ ▅");
        assert_eq!(sparkline(&[0.0, 0.0, 1.0, 1.0], 0.0, 1.0, 2), "▁█");
        assert_eq!(sparkline(&[3.0, 3.0], 3.0, 3.0, 9), "▅▅");
    }
}
