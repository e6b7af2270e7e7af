//! Heat maps: coloured cells between a pair of axes, with a colour bar.

use super::axis::Axis;
use super::canvas::{Anchor, COLUMN, Canvas, Cells, Frame, Lookup, PAGE, Stroke};
use super::color::{Color, Rgb, blue_red, viridis};
use super::font::{TEXT, Weight, width_of};
use super::grid::Grid;
use super::panel::{LEFT, Panel};
use super::table::FigureTable;
use crate::text::decimal;

/// The width that a token's label takes, which is read from bottom to top.
const LABEL: f64 = 16.0;
/// Tokens that fit a column.
const COLUMN_TOKENS: usize = 26;
/// Colours of a colour bar.
const SHADES: usize = 128;

/// A grid of cells with its axes.
#[derive(Debug, Clone)]
pub(crate) struct Heat {
    /// `[y][x]`, all rows of the same length; a cell without a value is NaN.
    pub(crate) cells: Vec<Vec<f64>>,
    /// What the columns are.
    pub(crate) x: HeatAxis,
    /// What the rows are.
    pub(crate) y: HeatAxis,
    /// Maps values to colours.
    pub(crate) scale: ColorScale,
    /// What the values are.
    pub(crate) unit: &'static str,
}

/// One side of a heat map.
#[derive(Debug, Clone)]
pub(crate) enum HeatAxis {
    /// Whole numbers from the given one, with a label.
    Numbers(&'static str, usize),
    /// The same, from the top down.
    Down(&'static str, usize),
    /// The visible texts of tokens.
    Tokens(Vec<String>),
}

/// Maps values to colours. Values beyond an end get the colour of that end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ColorScale {
    /// From zero to the given value.
    Sequential(f64),
    /// To both sides of zero, up to the given size.
    Diverging(f64),
}

impl ColorScale {
    /// From zero to the largest value.
    pub(crate) fn sequential<'a>(values: impl Iterator<Item = &'a f64>) -> Self {
        let values = positive(values.copied());
        Self::Sequential(drawable(values.last().copied()))
    }

    /// From zero to the largest value or twice the third quartile, whichever is less: for values without a bound, where
    /// a few are many times the others.
    pub(crate) fn capped<'a>(values: impl Iterator<Item = &'a f64>) -> Self {
        let values = positive(values.copied());
        let usual = values.get(values.len() * 3 / 4).map(|value| 2.0 * value);
        Self::Sequential(drawable(usual.into_iter().chain(values.last().copied()).reduce(f64::min)))
    }

    /// To both sides of zero, up to the largest size or twice the 95th percentile, whichever is less.
    pub(crate) fn diverging<'a>(values: impl Iterator<Item = &'a f64>) -> Self {
        let values = positive(values.map(|value| value.abs()));
        let usual = values.get(values.len() * 95 / 100).map(|value| 2.0 * value);
        Self::Diverging(drawable(usual.into_iter().chain(values.last().copied()).reduce(f64::min)))
    }

    fn ends(self) -> (f64, f64) {
        match self {
            Self::Sequential(end) => (0.0, end),
            Self::Diverging(end) => (-end, end),
        }
    }

    /// The colour at a share of the way between the ends; red is above zero.
    fn color(self, share: f64) -> Rgb {
        match self {
            Self::Sequential(_) => viridis(share),
            Self::Diverging(_) => blue_red(share),
        }
    }

    fn at(self, value: f64) -> Option<Rgb> {
        let (low, high) = self.ends();
        (!value.is_nan()).then(|| self.color((value - low) / (high - low)))
    }
}

/// The finite values above zero in ascending order.
fn positive(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite() && *value > 0.0).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The end of a scale, neither tiny nor huge.
fn drawable(end: Option<f64>) -> f64 {
    end.unwrap_or(1.0).clamp(1e-9, 1e9)
}

impl HeatAxis {
    fn label(&self) -> &'static str {
        match self {
            Self::Numbers(label, _) | Self::Down(label, _) => label,
            Self::Tokens(_) => "token",
        }
    }

    /// The name of a row or column in a table.
    fn name(&self, index: usize) -> String {
        match self {
            Self::Numbers(_, first) | Self::Down(_, first) => (first + index).to_string(),
            Self::Tokens(tokens) => {
                format!("{index} {}", tokens.get(index).map_or("", String::as_str))
            }
        }
    }

    /// The axis over `cells` cells of `size` user units each. Tokens are named without ticks, see `name_tokens`.
    fn axis(&self, cells: usize, size: f64) -> Axis {
        let count = cells as f64;
        match self {
            Self::Numbers(label, first) => {
                let first = *first as f64;
                Axis::whole(*label, first - 0.5, first + count - 0.5, size * count)
            }
            Self::Down(label, first) => {
                let first = *first as f64;
                let axis = Axis::whole(*label, 0.5 - count - first, 0.5 - first, size * count);
                Axis { down: true, ..axis }
            }
            Self::Tokens(_) => Axis::new("", -0.5, count - 0.5).every(f64::INFINITY),
        }
    }
}

impl Heat {
    fn columns(&self) -> usize {
        self.cells.first().map_or(0, Vec::len)
    }

    /// A sentence on where the colours end, if some values lie beyond.
    pub(crate) fn beyond(&self) -> Option<String> {
        let end = self.scale.ends().1;
        let all = self.cells.iter().flatten().copied().filter(|value| value.is_finite());
        let largest = all.map(f64::abs).fold(0.0, f64::max);
        (largest > end)
            .then(|| format!("Colours end at {}; the largest value is {}.", decimal(end), decimal(largest)))
    }

    /// The numbers as a table. Tokens name its rows, where long ones have room.
    pub(crate) fn table(&self) -> FigureTable {
        let transposed = self.tokens().is_some();
        let (side, top) = if transposed { (&self.x, &self.y) } else { (&self.y, &self.x) };
        let (rows, columns) = (self.cells.len(), self.columns());
        let (length, width) = if transposed { (columns, rows) } else { (rows, columns) };
        let cell = |row: usize, column: usize| {
            if transposed { self.cells[column][row] } else { self.cells[row][column] }
        };
        let row = |row| (side.name(row), (0..width).map(|column| cell(row, column)).collect());
        FigureTable {
            index: format!("{}, by {}", side.label(), top.label()),
            headings: (0..width).map(|column| top.name(column)).collect(),
            rows: (0..length).map(row).collect(),
        }
    }

    fn tokens(&self) -> Option<&[String]> {
        if let HeatAxis::Tokens(tokens) = &self.x { Some(tokens) } else { None }
    }

    /// The width of the figure: long texts take both columns of a paper.
    pub(crate) fn width(&self) -> f64 {
        if self.tokens().is_some_and(|tokens| tokens.len() > COLUMN_TOKENS) { PAGE } else { COLUMN }
    }

    /// Draws the map from `top` downward.
    pub(crate) fn draw(&self, canvas: &mut Canvas, top: f64) {
        let y = self.draw_color_bar(canvas, top);
        let (columns, rows) = (self.columns().max(1), self.cells.len().max(1));
        let width = Grid::inner_width(self.width(), 1);
        let height = if self.tokens().is_some() { 300.0 } else { 0.8 * width };
        let x_axis = self.x.axis(columns, width / columns as f64);
        let y_axis = self.y.axis(rows, height / rows as f64);
        let frame = Panel::new("", x_axis, y_axis).draw(canvas, (0.0, y), LEFT, (width, height), 0);
        if let Some(tokens) = self.tokens() {
            name_tokens(canvas, frame, tokens);
        }
        let down = matches!(self.y, HeatAxis::Down(..));
        let lookup = Some(Lookup { transposed: self.tokens().is_some(), down });
        canvas.cells(Cells { frame, colors: self.colors(), lookup });
    }

    /// Draws the unit and a bar of the colours with its ends; returns the y below it.
    fn draw_color_bar(&self, canvas: &mut Canvas, top: f64) -> f64 {
        let (low, high) = self.scale.ends();
        let (less, more) = if self.beyond().is_some() { ("≤ ", "≥ ") } else { ("", "") };
        let less = if low < 0.0 { less } else { "" };
        let (low, high) = (format!("{less}{}", decimal(low)), format!("{more}{}", decimal(high)));
        let y = top + 12.0;
        let mut x = LEFT;
        for (text, gap) in [(self.unit, 12.0), (&low, 6.0)] {
            canvas.text(x, y, Anchor::Start, Color::Text, text);
            x += width_of(text, TEXT, Weight::Regular) + gap;
        }
        let shade = |index: usize| Some(self.scale.color(index as f64 / (SHADES - 1) as f64));
        let frame = Frame { x, y: y - 10.0, width: SHADES as f64, height: 11.0 };
        canvas.cells(Cells { frame, colors: vec![(0..SHADES).map(shade).collect()], lookup: None });
        canvas.text(frame.right() + 6.0, y, Anchor::Start, Color::Text, &high);
        top + 16.0
    }

    /// The colour of each cell, from the top left.
    fn colors(&self) -> Vec<Vec<Option<Rgb>>> {
        let row = |row: &Vec<f64>| row.iter().map(|value| self.scale.at(*value)).collect();
        match self.y {
            HeatAxis::Down(..) => self.cells.iter().map(row).collect(),
            _ => self.cells.iter().rev().map(row).collect(),
        }
    }
}

/// Writes the texts of the tokens below the map, as many as fit.
fn name_tokens(canvas: &mut Canvas, frame: Frame, tokens: &[String]) {
    let cell = frame.width / tokens.len().max(1) as f64;
    let step = (LABEL / cell).ceil().max(1.0) as usize;
    let bottom = frame.bottom();
    let mut longest = 0.0_f64;
    for (index, token) in tokens.iter().enumerate().step_by(step) {
        let x = frame.x + cell * (index as f64 + 0.5);
        canvas.line((x, bottom), (x, bottom + 4.0), Color::Soft, 1.0, Stroke::Solid);
        canvas.upward(x + 4.5, bottom + 8.0, Anchor::End, token);
        longest = longest.max(width_of(token, TEXT, Weight::Regular));
    }
    let label = match step {
        1 => "token".to_owned(),
        _ => format!("token (one in {step} is named)"),
    };
    let y = bottom + longest + 28.0;
    canvas.text(frame.x + frame.width / 2.0, y, Anchor::Middle, Color::Text, &label);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_coloured_from_the_top_left() {
        let cells = vec![vec![0.0, 1.0, f64::NAN], vec![2.0, -1.0, 0.5]];
        let axis = HeatAxis::Numbers("layer", 0);
        let mut heat = Heat { cells, x: axis.clone(), y: axis, scale: ColorScale::Sequential(1.0), unit: "" };
        // The ends of viridis as its authors published them.
        let (low, high) = (Some([68, 1, 84]), Some([253, 231, 37]));
        let drawn = heat.colors();
        assert_eq!((&drawn[0][..2], &drawn[1][..]), (&[high, low][..], &[low, high, None][..]));
        heat.y = HeatAxis::Down("layer", 0);
        assert_eq!(heat.colors()[0], [low, high, None]);
    }

    #[test]
    fn outliers_do_not_stretch_a_scale() {
        let mut values = vec![1.0; 200];
        values[7] = 60.0;
        values.extend([f64::NAN, f64::INFINITY, 0.0]);
        assert_eq!(ColorScale::capped(values.iter()), ColorScale::Sequential(2.0));
        assert_eq!(ColorScale::sequential(values.iter()), ColorScale::Sequential(60.0));
        assert_eq!(ColorScale::diverging(values.iter()), ColorScale::Diverging(2.0));
        assert_eq!(ColorScale::diverging([-3.0, 2.0].iter()), ColorScale::Diverging(3.0));
        assert_eq!(ColorScale::capped([0.5, 0.5, 0.75].iter()), ColorScale::Sequential(0.75));
        assert_eq!(ColorScale::capped([f64::NAN].iter()), ColorScale::Sequential(1.0));
    }

    #[test]
    fn colors_diverge_evenly_from_zero() {
        let scale = ColorScale::Diverging(2.0);
        let [r, g, b] = scale.at(0.0).unwrap();
        assert!(r.abs_diff(g) < 8 && g.abs_diff(b) < 8 && r > 230, "{r} {g} {b}");
        let (above, below) = (scale.at(2.0).unwrap(), scale.at(-9.0).unwrap());
        assert!(above[0] > above[2] && below[2] > below[0]);
    }
}
