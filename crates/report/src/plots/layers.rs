//! Curves and bars over layers, as panels, as tables, and as hover texts.

use super::axis::Axis;
use super::canvas::{COLUMN, Stroke};
use super::color::Color;
use super::grid::Grid;
use super::legend::{LegendEntry, LegendMark};
use super::panel::{Bar, Curve, Dots, Mark, Panel};
use super::table::FigureTable;
use crate::text::{number, value};
use fathom_results::{Results, Rule};

/// The largest size that is drawn: beyond it, values are damage and would need axes of hundreds of decades.
const LARGEST: f64 = 1e9;
/// The smallest value on a log axis.
const SMALLEST: f64 = 1e-9;

/// A curve over layers and how it is drawn.
#[derive(Debug, Clone)]
pub(crate) struct Series<'a> {
    pub(crate) label: String,
    pub(crate) values: &'a [f64],
    pub(crate) color: Color,
    pub(crate) stroke: Stroke,
}

impl<'a> Series<'a> {
    pub(crate) fn new(label: impl Into<String>, values: &'a [f64], color: Color) -> Self {
        Self { label: label.into(), values, color, stroke: Stroke::Solid }
    }

    pub(crate) fn entry(&self) -> LegendEntry {
        LegendEntry { label: self.label.clone(), color: self.color, mark: LegendMark::Line(self.stroke) }
    }
}

/// The y axis of a chart over layers.
#[derive(Debug, Clone)]
pub(crate) struct ValueScale {
    pub(crate) label: &'static str,
    pub(crate) log: bool,
    /// The ends, if they are fixed.
    pub(crate) range: Option<[f64; 2]>,
}

impl ValueScale {
    /// A linear axis that includes zero.
    pub(crate) fn linear(label: &'static str) -> Self {
        Self { label, log: false, range: None }
    }

    /// A logarithmic axis.
    pub(crate) fn log(label: &'static str) -> Self {
        Self { label, log: true, range: None }
    }

    /// A linear axis from 0 to 1.
    pub(crate) fn share(label: &'static str) -> Self {
        Self { label, log: false, range: Some([0.0, 1.0]) }
    }

    fn drawable(&self, value: f64) -> bool {
        // Means of shares miss 1 by a rounding error.
        let [low, high] = self.range.unwrap_or([-LARGEST, LARGEST]);
        (low - 1e-9..=high + 1e-9).contains(&value) && (!self.log || value >= SMALLEST)
    }

    /// The axis around all values that can be drawn.
    pub(crate) fn axis<'v>(&self, values: impl IntoIterator<Item = &'v f64>) -> Axis {
        let values = values.into_iter().copied().filter(|value| self.drawable(*value));
        match self.range {
            Some([low, high]) => Axis { step: Some((high - low) / 5.0), ..Axis::new(self.label, low, high) },
            None if self.log => Axis::log_around(self.label, values),
            None => Axis::around(self.label, values.chain([0.0])),
        }
    }
}

/// The unbroken runs of values that can be drawn, so that a gap stays visible.
pub(crate) fn curves(series: &Series<'_>, scale: &ValueScale) -> Vec<Curve> {
    let points: Vec<(f64, f64)> = series.values.iter().enumerate().map(|(l, &v)| (l as f64, v)).collect();
    points
        .split(|point| !scale.drawable(point.1))
        .filter(|run| !run.is_empty())
        .map(|run| Curve {
            points: run.to_vec(),
            color: series.color,
            stroke: series.stroke,
            dots: Dots::None,
        })
        .collect()
}

/// A bar around each layer.
pub(crate) fn bars(values: &[f64], scale: &ValueScale, color: Color, stroke: bool) -> Vec<Bar> {
    let bar = |(l, &value): (usize, &f64)| {
        let half = if stroke { 0.5 } else { 0.4 };
        Bar { from: l as f64 - half, to: l as f64 + half, value, color, stroke }
    };
    values.iter().enumerate().filter(|(_, value)| scale.drawable(**value)).map(bar).collect()
}

/// The values of all series, a row for each layer.
pub(crate) fn numbers(index: &str, series: &[Series<'_>]) -> FigureTable {
    let length = series.iter().map(|series| series.values.len()).max().unwrap_or(0);
    let at = |l: usize| series.iter().map(|s| s.values.get(l).copied().unwrap_or(f64::NAN)).collect();
    FigureTable {
        index: index.to_owned(),
        headings: series.iter().map(|series| series.label.clone()).collect(),
        rows: (0..length).map(|l| (l.to_string(), at(l))).collect(),
    }
}

/// The hover text of each layer: all values there.
pub(crate) fn hovers(index: &str, series: &[Series<'_>]) -> Vec<([f64; 2], String)> {
    let length = series.iter().map(|series| series.values.len()).max().unwrap_or(0);
    let line = |series: &Series<'_>, l: usize| {
        Some(format!("\n{}: {}", series.label, value(*series.values.get(l)?)))
    };
    let text = |l: usize| {
        format!("{index} {l}") + &series.iter().filter_map(|series| line(series, l)).collect::<String>()
    };
    (0..length).map(|l| ([l as f64 - 0.5, l as f64 + 0.5], text(l))).collect()
}

/// Lines over the residual stream before each layer and after the last.
pub(super) fn lines(layers: usize, scale: &ValueScale, series: &[Series<'_>], marks: Vec<Mark>) -> Grid {
    let x = Axis::whole("layer", 0.0, layers as f64, Grid::inner_width(COLUMN, 1));
    let y = scale.axis(series.iter().flat_map(|series| series.values));
    let panel = Panel {
        curves: series.iter().flat_map(|series| curves(series, scale)).collect(),
        marks: marks.into_iter().filter(|mark| (0.0..=layers as f64).contains(&mark.at)).collect(),
        hovers: hovers("layer", series),
        ..Panel::new("", x, y)
    };
    Grid::one(panel, series.iter().map(Series::entry).collect())
}

/// The x axis of bars around `layers` layers.
pub(super) fn bar_axis(label: &str, layers: usize) -> Axis {
    let (low, high) = (-0.5, layers as f64 - 0.5);
    Axis::whole(label, low, high, Grid::inner_width(COLUMN, 1))
}

/// The effective depths by these rules, those at the same layer together; of rules with a mean, that, which
/// the interval is of.
pub(super) fn depth_marks(results: &Results, rules: &[Rule]) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    let mut colors = [Color::Vermilion, Color::Purple].into_iter().cycle();
    for row in results.depth.iter().filter(|row| rules.contains(&row.rule)) {
        let Some(at) = row.shown().filter(|value| value.is_finite()) else { continue };
        let mean = if row.mean.is_some() { " (mean)" } else { "" };
        let interval = row.interval.filter(|ends| ends.iter().all(|end| end.is_finite()));
        match marks.iter_mut().find(|mark| mark.at == at && mark.interval == interval) {
            Some(mark) => mark.label = mark.label.replacen(": ", &format!(", {}: ", row.rule), 1),
            None => {
                let label = format!("{}{mean}: {}", row.rule, number(at));
                marks.push(Mark { at, interval, label, color: colors.next().unwrap_or(Color::Vermilion) });
            }
        }
    }
    marks
}
