//! Legends.

use super::canvas::{Anchor, Canvas, Frame, Stroke};
use super::color::Color;
use super::font::{TEXT, Weight, fitted, width_of};

/// The height of a row.
const ROW: f64 = 17.0;

/// An entry of a legend.
#[derive(Debug, Clone)]
pub(crate) struct LegendEntry {
    pub(crate) label: String,
    pub(crate) color: Color,
    pub(crate) mark: LegendMark,
}

/// The sample beside the label of a legend's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LegendMark {
    Line(Stroke),
    Square,
    Tick,
    Dot,
    Ring,
}

/// Draws the entries from left to right, in as many rows as they need, and returns the y below them.
pub(crate) fn draw_legend(canvas: &mut Canvas, legend: &[LegendEntry], left: f64, top: f64) -> f64 {
    let (mut x, mut y) = (left, top + 10.0);
    for entry in legend {
        let label = fitted(&entry.label, canvas.width - left - 40.0, TEXT, Weight::Regular);
        let width = 28.0 + width_of(&label, TEXT, Weight::Regular) + 18.0;
        if x > left && x + width > canvas.width + 12.0 {
            (x, y) = (left, y + ROW);
        }
        let (middle, color) = (y - 4.0, entry.color);
        match entry.mark {
            LegendMark::Line(stroke) => canvas.line((x, middle), (x + 22.0, middle), color, 2.2, stroke),
            LegendMark::Square => {
                canvas.rect(Frame { x: x + 8.0, y: y - 10.0, width: 12.0, height: 12.0 }, color, 1.0);
            }
            LegendMark::Tick => {
                canvas.line((x + 6.0, middle), (x + 20.0, middle), color, 2.0, Stroke::Solid);
            }
            LegendMark::Dot => canvas.dot((x + 11.0, middle), 4.5, color, true),
            LegendMark::Ring => canvas.dot((x + 11.0, middle), 4.5, color, false),
        }
        canvas.text(x + 28.0, y, Anchor::Start, Color::Text, &label);
        x += width;
    }
    if legend.is_empty() { top } else { y + 6.0 }
}
