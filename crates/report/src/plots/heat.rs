//! Heat maps. The drawing library draws axes and the colour bar around two cells that span the scale; the
//! cells of the figure take their place, as one small picture in SVG, because a rectangle for each cell
//! of a long prompt would make the page megabytes of markup.

use std::sync::Arc;

use kuva::plot::{ColorMap, Heatmap};
use kuva::render::color::Color;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;
use kuva::render::render::{Primitive, Scene};

use super::{Numbers, decimal, label_text, tick_step};
use crate::{Error, Result};

/// The element whose place the picture takes; text from outside cannot spell it, as `<` is escaped there.
const PLACE: &str = "<g data-cells></g>";
/// Labels of tokens that fit next to each other below a figure.
const LABELS: usize = 54;

/// A grid of cells with its axes.
#[derive(Debug, Clone)]
pub(super) struct Heat {
    /// `[y][x]`, all rows of the same length; a cell without a value is NaN.
    pub(super) cells: Vec<Vec<f64>>,
    /// What the columns are.
    pub(super) x: Axis,
    /// What the rows are.
    pub(super) y: Axis,
    /// From values to colours.
    pub(super) scale: Scale,
}

/// One side of a heat map.
#[derive(Debug, Clone)]
pub(super) enum Axis {
    /// Whole numbers from the one given, with a label.
    Numbers(&'static str, usize),
    /// The same, from the top down.
    Down(&'static str, usize),
    /// The visible texts of tokens.
    Tokens(Vec<String>),
}

/// From values to colours; values beyond the ends have the colour of the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// From zero up to the value given.
    Rising(f64),
    /// To both sides of zero, as far as the value given.
    Diverging(f64),
}

impl Scale {
    /// From zero to the largest value.
    pub(super) fn rising<'a>(values: impl Iterator<Item = &'a f64>) -> Self {
        let values = positive(values.copied());
        Self::Rising(drawable(values.last().copied()))
    }

    /// From zero, and no further than twice the third quartile: for values without a bound, where a few are
    /// many times the others.
    pub(super) fn capped<'a>(values: impl Iterator<Item = &'a f64>) -> Self {
        let values = positive(values.copied());
        let usual = values.get(values.len() * 3 / 4).map(|value| 2.0 * value);
        Self::Rising(drawable(usual.into_iter().chain(values.last().copied()).reduce(f64::min)))
    }

    /// To both sides of zero, as far as the largest value, or twice the 95th percentile where that is less.
    pub(super) fn diverging<'a>(values: impl Iterator<Item = &'a f64>) -> Self {
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

/// About how long a label is when drawn.
fn length(label: &str) -> f64 {
    label.chars().map(|c| if c.is_ascii() { 7.5 } else { 12.0 }).sum()
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

    /// The label with what its ticks leave out.
    fn title(&self, cells: usize) -> String {
        match (self, self.step(cells)) {
            (Self::Tokens(_), step) if step > 1.0 => format!("token (one in {step} is named)"),
            _ => self.label().to_owned(),
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

    /// The coordinates of the ends of the axis over so many cells. Downward axes count below zero.
    fn range(&self, cells: usize) -> (f64, f64) {
        let cells = cells as f64;
        match self {
            Self::Numbers(_, first) => (*first as f64 - 0.5, *first as f64 + cells - 0.5),
            Self::Down(_, first) => (0.5 - cells - *first as f64, 0.5 - *first as f64),
            Self::Tokens(_) => (-0.5, cells - 0.5),
        }
    }

    fn step(&self, cells: usize) -> f64 {
        match self {
            Self::Tokens(_) => cells.div_ceil(LABELS) as f64,
            Self::Numbers(..) | Self::Down(..) => tick_step(cells),
        }
    }

    fn format(&self) -> TickFormat {
        match self {
            Self::Tokens(tokens) => {
                let labels: Vec<String> = tokens.iter().map(|token| label_text(token)).collect();
                let at = move |value: f64| labels.get(value.round() as usize).cloned().unwrap_or_default();
                TickFormat::Custom(Arc::new(at))
            }
            Self::Numbers(..) | Self::Down(..) => {
                TickFormat::Custom(Arc::new(|value: f64| format!("{:.0}", value.abs())))
            }
        }
    }
}

impl Heat {
    fn columns(&self) -> usize {
        self.cells.first().map_or(0, Vec::len)
    }

    /// Says where the colours end, if some values lie beyond.
    pub(super) fn beyond(&self) -> Option<String> {
        let end = self.scale.ends().1;
        let all = self.cells.iter().flatten().copied().filter(|value| value.is_finite());
        let largest = all.map(f64::abs).fold(0.0, f64::max);
        (largest > end)
            .then(|| format!("Colours end at {}; the largest value is {}.", decimal(end), decimal(largest)))
    }

    /// The numbers as a table; tokens stand at its side, where long ones have room.
    pub(super) fn numbers(&self) -> Numbers {
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

    /// Axes, colour bar and two cells that span the scale.
    pub(super) fn draw(&self) -> (Vec<Plot>, Layout) {
        let (low, high) = self.scale.ends();
        let scale = self.scale;
        let colour = move |share: f64| {
            let (r, g, b) = scale.colour(share);
            format!("#{r:02x}{g:02x}{b:02x}")
        };
        let (x, y) = (self.x.range(self.columns()), self.y.range(self.cells.len()));
        let heat = Heatmap::new()
            .with_data([[low], [high]])
            .with_color_map(ColorMap::Custom(Arc::new(colour)))
            .with_x_range(x.0, x.1)
            .with_y_range(y.0, y.1)
            .with_cell_size(1.0);
        let plots = vec![Plot::Heatmap(heat)];
        let layout = Layout::auto_from_plots(&plots)
            .with_x_label(self.x.title(self.columns()))
            .with_x_axis_min(x.0)
            .with_x_axis_max(x.1)
            .with_x_tick_step(self.x.step(self.columns()))
            .with_x_tick_format(self.x.format())
            .with_y_label(self.y.label())
            .with_y_axis_min(y.0)
            .with_y_axis_max(y.1)
            .with_y_tick_step(self.y.step(self.cells.len()))
            .with_y_tick_format(self.y.format())
            .with_colorbar_tick_format(TickFormat::Custom(Arc::new(decimal)));
        let Axis::Tokens(tokens) = &self.x else { return (plots, layout) };
        let mut layout = layout.with_x_tick_rotate(-90.0);
        // The drawing library would leave room for long labels, whatever their length.
        layout.force_margin_bottom =
            Some(50.0 + tokens.iter().map(|token| length(token)).fold(0.0, f64::max));
        (plots, layout)
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

    /// Puts rectangles on half units, whole pixels of a PNG file, in the place of the two cells.
    pub(super) fn fill_with_rectangles(&self, scene: &mut Scene) {
        let Some((at, frame)) = frame(scene) else { return };
        let (rows, columns) = (self.cells.len() as f64, self.columns() as f64);
        let half = |value: f64| (value * 2.0).round() / 2.0;
        let (mut x, mut y, mut w, mut h, mut fills) = (vec![], vec![], vec![], vec![], vec![]);
        for (row, colours) in self.colours().enumerate() {
            let edge = |row: usize| half(frame.y + frame.height * row as f64 / rows);
            for (column, colour) in colours.enumerate() {
                let Some((r, g, b)) = colour else { continue };
                let side = |column: usize| half(frame.x + frame.width * column as f64 / columns);
                x.push(side(column));
                y.push(edge(row));
                w.push(side(column + 1) - side(column));
                h.push(edge(row + 1) - edge(row));
                fills.push(Color::Rgb(r, g, b));
            }
        }
        scene.elements[at] = Primitive::RectBatch { x, y, w, h, fills };
    }

    /// Draws the scene by `render`, with a picture of a pixel a cell in the place of the two cells.
    ///
    /// # Errors
    ///
    /// [`Error::Draw`] when the picture cannot be made.
    pub(super) fn fill_with_picture(
        &self,
        scene: &mut Scene,
        render: impl Fn(&Scene) -> String,
    ) -> Result<String> {
        let Some((at, frame)) = frame(scene) else { return Ok(render(scene)) };
        let attributes = Some("data-cells".to_owned());
        let start = Primitive::GroupStart { transform: None, title: None, extra_attrs: attributes };
        scene.elements.splice(at..=at, [start, Primitive::GroupEnd]);
        let image = format!(
            r#"<image x="{:.2}" y="{:.2}" width="{:.2}" height="{:.2}" preserveAspectRatio="none" style="image-rendering:pixelated" href="data:image/png;base64,{}"/>"#,
            frame.x,
            frame.y,
            frame.width,
            frame.height,
            base64(&self.picture()?),
        );
        Ok(render(scene).replacen(PLACE, &image, 1))
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

/// Where the cells of a heat map lie in a drawing.
struct Frame {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// The element that holds the two cells, and the frame they fill. The drawing library lets cells overlap by
/// half a unit.
fn frame(scene: &Scene) -> Option<(usize, Frame)> {
    scene.elements.iter().enumerate().find_map(|(at, element)| match element {
        Primitive::RectBatch { x, y, w, h, .. } => {
            let (x, y, w) = (*x.first()?, y.iter().copied().fold(f64::INFINITY, f64::min), w.first()?);
            let height = h.iter().map(|height| height - 0.5).sum();
            Some((at, Frame { x, y, width: w - 0.5, height }))
        }
        _ => None,
    })
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= chunk.len() { DIGITS[index] as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_the_examples_of_rfc_4648() {
        let known = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (length, text) in known.iter().enumerate() {
            assert_eq!(base64(&b"foobar"[..length]), *text);
        }
    }

    #[test]
    fn pictures_hold_the_colour_of_each_cell_from_the_top() {
        let cells = vec![vec![0.0, 1.0, f64::NAN], vec![2.0, -1.0, 0.5]];
        let axis = Axis::Numbers("layer", 0);
        let mut heat = Heat { cells, x: axis.clone(), y: axis, scale: Scale::Rising(1.0) };
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
