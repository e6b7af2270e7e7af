//! Heat maps. The axes are those of every panel; the cells between them are one small picture in SVG, because a
//! rectangle for each cell of a long prompt would make the page megabytes of markup.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kuva::plot::ColorMap;

use super::Numbers;
use super::canvas::{Anchor, COLUMN, Canvas, Frame, Ink, PAGE, Stroke, TEXT, width_of};
use super::panel::{Axis as Ticks, Panel};
use super::text::decimal;
use crate::{Error, Result};

/// The width of a token's label, which stands upright.
const LABEL: f64 = 16.0;
/// Tokens that have room in a column.
const COLUMN_TOKENS: usize = 26;
/// Colours along a colour bar.
const SHADES: usize = 64;

/// A grid of cells with its axes.
#[derive(Debug, Clone)]
pub(crate) struct Heat {
    /// `[y][x]`, all rows of the same length; a cell without a value is NaN.
    pub(crate) cells: Vec<Vec<f64>>,
    /// What the columns are.
    pub(crate) x: Axis,
    /// What the rows are.
    pub(crate) y: Axis,
    /// From values to colours.
    pub(crate) scale: Scale,
    /// What the values are.
    pub(crate) unit: &'static str,
}

/// One side of a heat map.
#[derive(Debug, Clone)]
pub(crate) enum Axis {
    /// Whole numbers from the one given, with a label.
    Numbers(&'static str, usize),
    /// The same, from the top down.
    Down(&'static str, usize),
    /// The visible texts of tokens.
    Tokens(Vec<String>),
}

/// From values to colours; values beyond the ends have the colour of the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    /// From zero up to the value given.
    Rising(f64),
    /// To both sides of zero, as far as the value given.
    Diverging(f64),
}

impl Scale {
    /// From zero to the largest value.
    pub(crate) fn rising<'a>(values: impl Iterator<Item = &'a f64>) -> Self {
        let values = positive(values.copied());
        Self::Rising(drawable(values.last().copied()))
    }

    /// From zero, and no further than twice the third quartile: for values without a bound, where a few are
    /// many times the others.
    pub(crate) fn capped<'a>(values: impl Iterator<Item = &'a f64>) -> Self {
        let values = positive(values.copied());
        let usual = values.get(values.len() * 3 / 4).map(|value| 2.0 * value);
        Self::Rising(drawable(usual.into_iter().chain(values.last().copied()).reduce(f64::min)))
    }

    /// To both sides of zero, as far as the largest value, or twice the 95th percentile where that is less.
    pub(crate) fn diverging<'a>(values: impl Iterator<Item = &'a f64>) -> Self {
        let values = positive(values.map(|value| value.abs()));
        let usual = values.get(values.len() * 95 / 100).map(|value| 2.0 * value);
        Self::Diverging(drawable(usual.into_iter().chain(values.last().copied()).reduce(f64::min)))
    }

    fn ends(self) -> (f64, f64) {
        match self {
            Self::Rising(end) => (0.0, end),
            Self::Diverging(end) => (-end, end),
        }
    }

    /// The colour at a share of the way between the ends.
    fn colour(self, share: f64) -> (u8, u8, u8) {
        let found = match self {
            Self::Rising(_) => ColorMap::Viridis.map_rgb(share),
            // Red is above zero.
            Self::Diverging(_) => ColorMap::RedBlue.map_rgb(1.0 - share),
        };
        found.unwrap_or((128, 128, 128))
    }

    fn at(self, value: f64) -> Option<(u8, u8, u8)> {
        let (low, high) = self.ends();
        (!value.is_nan()).then(|| self.colour(((value - low) / (high - low)).clamp(0.0, 1.0)))
    }
}

/// The finite values above zero in ascending order.
fn positive(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite() && *value > 0.0).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The end of a scale: the drawing library's ticks need numbers that are neither tiny nor huge.
fn drawable(end: Option<f64>) -> f64 {
    end.unwrap_or(1.0).clamp(1e-9, 1e9)
}

impl Axis {
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

    /// The axis over so many cells of this size. Downward axes count below zero; tokens are named apart.
    fn ticks(&self, cells: usize, size: f64) -> Ticks {
        let count = cells as f64;
        match self {
            Self::Numbers(label, first) => {
                let first = *first as f64;
                Ticks::whole(*label, first - 0.5, first + count - 0.5, size * count)
            }
            Self::Down(label, first) => {
                let first = *first as f64;
                let ticks = Ticks::whole(*label, 0.5 - count - first, 0.5 - first, size * count);
                Ticks { down: true, ..ticks }
            }
            Self::Tokens(_) => {
                Ticks { step: Some(1e6), names: vec![String::new()], ..Ticks::new("", -0.5, count - 0.5) }
            }
        }
    }
}

impl Heat {
    fn columns(&self) -> usize {
        self.cells.first().map_or(0, Vec::len)
    }

    /// Says where the colours end, if some values lie beyond.
    pub(crate) fn beyond(&self) -> Option<String> {
        let end = self.scale.ends().1;
        let all = self.cells.iter().flatten().copied().filter(|value| value.is_finite());
        let largest = all.map(f64::abs).fold(0.0, f64::max);
        (largest > end)
            .then(|| format!("Colours end at {}; the largest value is {}.", decimal(end), decimal(largest)))
    }

    /// The numbers as a table; tokens stand at its side, where long ones have room.
    pub(crate) fn numbers(&self) -> Numbers {
        let turned = matches!(self.x, Axis::Tokens(_));
        let (side, top) = if turned { (&self.x, &self.y) } else { (&self.y, &self.x) };
        let (rows, columns) = (self.cells.len(), self.columns());
        let (length, width) = if turned { (columns, rows) } else { (rows, columns) };
        let cell = |row: usize, column: usize| {
            if turned { self.cells[column][row] } else { self.cells[row][column] }
        };
        let row = |row| (side.name(row), (0..width).map(|column| cell(row, column)).collect());
        Numbers {
            index: format!("{}, by {}", side.label(), top.label()),
            headings: (0..width).map(|column| top.name(column)).collect(),
            rows: (0..length).map(row).collect(),
        }
    }

    fn tokens(&self) -> Option<&[String]> {
        if let Axis::Tokens(tokens) = &self.x { Some(tokens) } else { None }
    }

    /// How wide the figure is: long texts take both columns of a paper.
    pub(crate) fn width(&self) -> f64 {
        if self.tokens().is_some_and(|tokens| tokens.len() > COLUMN_TOKENS) { PAGE } else { COLUMN }
    }

    /// Draws the map from `top` downward, all but its cells; they go into the frame that is returned.
    pub(crate) fn draw(&self, canvas: &mut Canvas, top: f64) -> Frame {
        let width = self.width();
        let y = self.colour_bar(canvas, top);
        let (columns, rows) = (self.columns().max(1), self.cells.len().max(1));
        let square = self.tokens().is_none();
        let inner_width = super::panel::Grid::inner_width(width, 1);
        let inner_height = if square { 0.8 * inner_width } else { 300.0 };
        let x_axis = self.x.ticks(columns, inner_width / columns as f64);
        let y_axis = self.y.ticks(rows, inner_height / rows as f64);
        let panel = Panel::new("", x_axis, y_axis);
        let inner = panel.draw_alone(canvas, y, width, inner_height);
        if let Some(tokens) = self.tokens() {
            self.name_tokens(canvas, inner, tokens);
        }
        inner
    }

    /// What the colours mean: the unit, and a bar with its ends.
    fn colour_bar(&self, canvas: &mut Canvas, top: f64) -> f64 {
        let (low, high) = self.scale.ends();
        let (less, more) = if self.beyond().is_some() { ("≤ ", "≥ ") } else { ("", "") };
        let less = if low < 0.0 { less } else { "" };
        let (low, high) = (format!("{less}{}", decimal(low)), format!("{more}{}", decimal(high)));
        let (left, y, length) = (62.0, top + 12.0, 128.0);
        canvas.text(left, y, Anchor::Start, Ink::Text, self.unit);
        let from = left + width_of(self.unit, TEXT) + 6.0;
        canvas.text(from, y, Anchor::Start, Ink::Text, &low);
        let from = from + width_of(&low, TEXT) + 4.0;
        let shade = |index: usize| {
            let (x, width) = (from + length * index as f64 / SHADES as f64, length / SHADES as f64);
            let share = index as f64 / (SHADES - 1) as f64;
            // Each goes on below the next, or seams would show between them.
            let seam = if index + 1 < SHADES { 1.0 } else { 0.0 };
            (Frame { x, y: y - 10.0, width: width + seam, height: 11.0 }, self.scale.colour(share))
        };
        canvas.cells((0..SHADES).map(shade).collect());
        canvas.text(from + length + 6.0, y, Anchor::Start, Ink::Text, &high);
        top + 16.0
    }

    /// The texts of the tokens below the map, as many as have room.
    fn name_tokens(&self, canvas: &mut Canvas, inner: Frame, tokens: &[String]) {
        let cell = inner.width / tokens.len().max(1) as f64;
        let step = (LABEL / cell).ceil().max(1.0) as usize;
        let bottom = inner.y + inner.height;
        let mut longest = 0.0_f64;
        for (index, token) in tokens.iter().enumerate().step_by(step) {
            let x = inner.x + cell * (index as f64 + 0.5);
            canvas.line((x, bottom), (x, bottom + 4.0), Ink::Soft, 1.0, Stroke::Solid);
            canvas.upward(x + 4.5, bottom + 8.0, token);
            longest = longest.max(width_of(token, TEXT));
        }
        let label = match step {
            1 => "token".to_owned(),
            _ => format!("token (one in {step} is named)"),
        };
        let y = bottom + longest + 28.0;
        canvas.text(inner.x + inner.width / 2.0, y, Anchor::Middle, Ink::Text, &label);
    }

    /// The colour of each cell from the top left, as it is drawn.
    fn colours(&self) -> impl Iterator<Item = impl Iterator<Item = Option<(u8, u8, u8)>>> {
        let rows = self.cells.len();
        let down = matches!(self.y, Axis::Down(..));
        (0..rows).map(move |row| {
            let row = if down { row } else { rows - 1 - row };
            self.cells[row].iter().map(|value| self.scale.at(*value))
        })
    }

    /// A rectangle for each cell, on whole pixels of a PNG file.
    pub(crate) fn rectangles(&self, canvas: &mut Canvas, frame: Frame) {
        let (rows, columns) = (self.cells.len() as f64, self.columns() as f64);
        let whole = |value: f64| (value * 3.0).round() / 3.0;
        let mut cells = Vec::new();
        for (row, colours) in self.colours().enumerate() {
            let edge = |row: usize| whole(frame.y + frame.height * row as f64 / rows);
            for (column, colour) in colours.enumerate() {
                let Some(colour) = colour else { continue };
                let side = |column: usize| whole(frame.x + frame.width * column as f64 / columns);
                let (x, y) = (side(column), edge(row));
                let (width, height) = (side(column + 1) - x, edge(row + 1) - y);
                cells.push((Frame { x, y, width, height }, colour));
            }
        }
        canvas.cells(cells);
    }

    /// The cells as a picture of a pixel a cell, as an SVG element over the frame.
    ///
    /// # Errors
    ///
    /// [`Error::Draw`] when the picture cannot be made.
    pub(crate) fn image(&self, frame: Frame) -> Result<String> {
        // The page's script finds the value under the pointer in the table: which way round, and from where.
        let turned = if self.tokens().is_some() { " data-turned=\"\"" } else { "" };
        let down = if matches!(self.y, Axis::Down(..)) { " data-down=\"\"" } else { "" };
        Ok(format!(
            r#"<image class="cells" x="{:.2}" y="{:.2}" width="{:.2}" height="{:.2}" preserveAspectRatio="none" style="image-rendering:pixelated"{turned}{down} href="data:image/png;base64,{}"/>"#,
            frame.x,
            frame.y,
            frame.width,
            frame.height,
            BASE64_STANDARD.encode(self.picture()?),
        ))
    }

    fn picture(&self) -> Result<Vec<u8>> {
        let fail = |error: png::EncodingError| Error::Draw {
            what: "a heat map".to_owned(),
            reason: error.to_string(),
        };
        let (width, height) = (self.columns() as u32, self.cells.len() as u32);
        let mut pixels = Vec::with_capacity(4 * self.columns() * self.cells.len());
        for colour in self.colours().flatten() {
            pixels.extend(colour.map_or([0; 4], |(r, g, b)| [r, g, b, 255]));
        }
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_compression(png::Compression::High);
        let mut writer = encoder.write_header().map_err(fail)?;
        writer.write_image_data(&pixels).map_err(fail)?;
        writer.finish().map_err(fail)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_hold_the_colour_of_each_cell_from_the_top() {
        let cells = vec![vec![0.0, 1.0, f64::NAN], vec![2.0, -1.0, 0.5]];
        let axis = Axis::Numbers("layer", 0);
        let mut heat = Heat { cells, x: axis.clone(), y: axis, scale: Scale::Rising(1.0), unit: "" };
        let pixels = |heat: &Heat| {
            let picture = heat.picture().unwrap();
            let mut reader = png::Decoder::new(std::io::Cursor::new(picture)).read_info().unwrap();
            let mut buffer = vec![0; reader.output_buffer_size().unwrap()];
            reader.next_frame(&mut buffer).unwrap();
            buffer.chunks(4).map(|p| [p[0], p[1], p[2], p[3]]).collect::<Vec<_>>()
        };
        // The ends of viridis as its authors published them.
        let (low, high) = ([68, 1, 84, 255], [253, 231, 37, 255]);
        let drawn = pixels(&heat);
        assert_eq!([drawn[0], drawn[1], drawn[3], drawn[4], drawn[5]], [high, low, low, high, [0; 4]]);
        heat.y = Axis::Down("layer", 0);
        assert_eq!(pixels(&heat)[..3], [low, high, [0; 4]]);
    }

    #[test]
    fn outliers_do_not_stretch_a_scale() {
        let mut values = vec![1.0; 200];
        values[7] = 60.0;
        values.extend([f64::NAN, f64::INFINITY, 0.0]);
        assert_eq!(Scale::capped(values.iter()), Scale::Rising(2.0));
        assert_eq!(Scale::rising(values.iter()), Scale::Rising(60.0));
        assert_eq!(Scale::diverging(values.iter()), Scale::Diverging(2.0));
        assert_eq!(Scale::diverging([-3.0, 2.0].iter()), Scale::Diverging(3.0));
        assert_eq!(Scale::capped([0.5, 0.5, 0.75].iter()), Scale::Rising(0.75));
        assert_eq!(Scale::capped([f64::NAN].iter()), Scale::Rising(1.0));
    }

    #[test]
    fn colours_diverge_evenly_from_zero() {
        let scale = Scale::Diverging(2.0);
        let (r, g, b) = scale.at(0.0).unwrap();
        assert!(r.abs_diff(g) < 8 && g.abs_diff(b) < 8 && r > 230, "{r} {g} {b}");
        let (above, below) = (scale.at(2.0).unwrap(), scale.at(-9.0).unwrap());
        assert!(above.0 > above.2 && below.2 > below.0);
    }
}
