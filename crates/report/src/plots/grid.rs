//! Panels in rows under one legend.

use super::canvas::{COLUMN, Canvas};
use super::legend::{LegendEntry, draw_legend};
use super::panel::{LEFT, Panel, RIGHT};

/// Panels in rows.
#[derive(Debug, Clone)]
pub(crate) struct Grid {
    pub(crate) legend: Vec<LegendEntry>,
    pub(crate) columns: usize,
    pub(crate) panels: Vec<Panel>,
    /// The height between the axes of a panel.
    pub(crate) height: f64,
    /// The width of the figure.
    pub(crate) width: f64,
}

impl Grid {
    /// One panel over the width of a column.
    pub(crate) fn one(panel: Panel, legend: Vec<LegendEntry>) -> Self {
        Self { legend, columns: 1, panels: vec![panel], height: 210.0, width: COLUMN }
    }

    /// About the width between the axes of a panel, for choosing ticks.
    pub(crate) fn inner_width(width: f64, columns: usize) -> f64 {
        width / columns as f64 - LEFT - RIGHT
    }

    /// Draws the legend and the panels from `top` downward.
    pub(crate) fn draw(&self, canvas: &mut Canvas, top: f64) {
        let left = self.panels.iter().map(|panel| panel.left(self.height)).fold(LEFT, f64::max);
        let mut y = draw_legend(canvas, &self.legend, left, top);
        let columns = self.columns.max(1);
        let outer = self.width / columns as f64;
        let inner = outer - left - RIGHT;
        for row in self.panels.chunks(columns) {
            let rows = row.iter().map(|panel| panel.label_rows(inner)).max().unwrap_or(0);
            for (column, panel) in row.iter().enumerate() {
                panel.draw(canvas, (outer * column as f64, y), left, (inner, self.height), rows);
            }
            y += row.iter().map(|panel| panel.outer_height(rows, self.height)).fold(0.0, f64::max);
        }
    }
}
