//! Paints a drawing as a PNG file, and the cells of a heat map as a picture with a pixel per cell.

use tiny_skia::{
    FillRule, LineJoin, Paint, Path, PathBuilder, Pixmap, Rect, Stroke as PathStroke, StrokeDash, Transform,
};
use ttf_parser::OutlineBuilder;

use super::canvas::{Anchor, Canvas, Cells, Element, Label, Point, Stroke};
use super::color::{Color, Rgb};
use super::font::{self, Pen};

/// Pixels per user unit: about 500 dots per inch in print.
pub(crate) const SCALE: f64 = 3.0;

/// The drawing as a PNG file.
///
/// # Errors
///
/// A sentence when the figure is too large or cannot be encoded.
pub(crate) fn png(canvas: &Canvas) -> Result<Vec<u8>, String> {
    let [width, height] = [canvas.width, canvas.height()].map(|size| (SCALE * size) as u32);
    let pixmap = Pixmap::new(width, height)
        .ok_or_else(|| format!("{width} x {height} pixels are not a size of a picture"))?;
    let mut painter = Painter { pixmap };
    painter.pixmap.fill(color(Color::Paper.rgb(), 1.0));
    canvas.elements.iter().for_each(|element| painter.element(element));
    // The background is opaque, so colours need not be divided by their opacity.
    let pixels: Vec<u8> = painter.pixmap.data().chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
    encode(width, height, png::ColorType::Rgb, &pixels)
}

/// A picture with a pixel per cell, `[row][column]` from the top left; cells without a colour are transparent.
///
/// # Errors
///
/// The encoder's message.
pub(crate) fn picture(cells: &[Vec<Option<Rgb>>]) -> Result<Vec<u8>, String> {
    let width = cells.first().map_or(0, Vec::len) as u32;
    let pixel = |cell: &Option<Rgb>| cell.map_or([0; 4], |[r, g, b]| [r, g, b, 255]);
    let pixels: Vec<u8> = cells.iter().flatten().flat_map(pixel).collect();
    encode(width, cells.len() as u32, png::ColorType::Rgba, &pixels)
}

fn encode(width: u32, height: u32, color: png::ColorType, pixels: &[u8]) -> Result<Vec<u8>, String> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(color);
    encoder.set_compression(png::Compression::Balanced);
    let mut writer = encoder.write_header().map_err(|error| error.to_string())?;
    writer.write_image_data(pixels).map_err(|error| error.to_string())?;
    writer.finish().map_err(|error| error.to_string())?;
    Ok(file)
}

fn color([red, green, blue]: Rgb, opacity: f64) -> tiny_skia::Color {
    tiny_skia::Color::from_rgba8(red, green, blue, (255.0 * opacity.clamp(0.0, 1.0)).round() as u8)
}

fn paint(fill: Rgb, opacity: f64) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color(color(fill, opacity));
    paint
}

fn to_pixels() -> Transform {
    Transform::from_scale(SCALE as f32, SCALE as f32)
}

struct Painter {
    pixmap: Pixmap,
}

impl Painter {
    fn element(&mut self, element: &Element) {
        match element {
            Element::Rect { frame, color, opacity } => {
                let corners = [frame.x, frame.y, frame.right(), frame.bottom()].map(|at| at as f32);
                let rect = Rect::from_ltrb(corners[0], corners[1], corners[2], corners[3]);
                self.fill(rect.map(PathBuilder::from_rect), color.rgb(), *opacity);
            }
            Element::Line { points, color, width, stroke } => {
                self.stroke(path(points, false), *color, *width, *stroke)
            }
            Element::Area { points, color, opacity } => {
                self.fill(path(points, true), color.rgb(), *opacity);
            }
            Element::Dot { at, radius, color, filled } => {
                let circle = PathBuilder::from_circle(at.0 as f32, at.1 as f32, *radius as f32);
                let inside = if *filled { *color } else { Color::Paper };
                self.fill(circle.clone(), inside.rgb(), 1.0);
                if !filled {
                    self.stroke(circle, *color, 2.0, Stroke::Solid);
                }
            }
            Element::Label(label) => self.label(label),
            Element::Cells(cells) => self.cells(cells),
        }
    }

    /// Fills a path; one without area, such as a bar of height zero, shows nothing.
    fn fill(&mut self, path: Option<Path>, fill: Rgb, opacity: f64) {
        if let Some(path) = path {
            let paint = paint(fill, opacity);
            self.pixmap.fill_path(&path, &paint, FillRule::Winding, to_pixels(), None);
        }
    }

    fn stroke(&mut self, path: Option<Path>, color: Color, width: f64, stroke: Stroke) {
        let dash = (stroke == Stroke::Dashed).then(|| StrokeDash::new(vec![5.0, 3.0], 0.0)).flatten();
        let line =
            PathStroke { width: width as f32, line_join: LineJoin::Round, dash, ..PathStroke::default() };
        if let Some(path) = path {
            self.pixmap.stroke_path(&path, &paint(color.rgb(), 1.0), &line, to_pixels(), None);
        }
    }

    fn label(&mut self, label: &Label) {
        let width = font::width_of(&label.text, label.size, label.weight);
        let before = match label.anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => width / 2.0,
            Anchor::End => width,
        };
        let mut glyphs = Glyphs { builder: PathBuilder::new(), x: 0.0, scale: 1.0 };
        font::outline(&label.text, label.size, label.weight, &mut glyphs);
        let Some(path) = glyphs.builder.finish() else { return };
        let turn = Transform::from_rotate(if label.upward { -90.0 } else { 0.0 });
        let place = Transform::from_translate(-before as f32, 0.0)
            .post_concat(turn)
            .post_translate(label.at.0 as f32, label.at.1 as f32)
            .post_concat(to_pixels());
        self.pixmap.fill_path(&path, &paint(label.color.rgb(), 1.0), FillRule::Winding, place, None);
    }

    /// Cells end on whole pixels, or seams would show between them.
    fn cells(&mut self, cells: &Cells) {
        let frame = cells.frame;
        let rows = cells.colors.len();
        let edge = |from: f64, size: f64, index: usize, count: usize| {
            (SCALE * (from + size * index as f64 / count as f64)).round() as f32
        };
        for (row, colors) in cells.colors.iter().enumerate() {
            let [top, bottom] = [row, row + 1].map(|row| edge(frame.y, frame.height, row, rows));
            for (column, rgb) in colors.iter().enumerate() {
                let sides = [column, column + 1].map(|at| edge(frame.x, frame.width, at, colors.len()));
                if let (Some(rgb), Some(rect)) = (rgb, Rect::from_ltrb(sides[0], top, sides[1], bottom)) {
                    let paint = Paint { anti_alias: false, ..paint(*rgb, 1.0) };
                    self.pixmap.fill_rect(rect, &paint, Transform::identity(), None);
                }
            }
        }
    }
}

/// Straight lines through the points, closed where asked.
fn path(points: &[Point], close: bool) -> Option<Path> {
    let mut builder = PathBuilder::new();
    for (index, (x, y)) in points.iter().enumerate() {
        match index {
            0 => builder.move_to(*x as f32, *y as f32),
            _ => builder.line_to(*x as f32, *y as f32),
        }
    }
    if close {
        builder.close();
    }
    builder.finish()
}

/// Collects outlines of glyphs in user units, y pointing down.
struct Glyphs {
    builder: PathBuilder,
    x: f32,
    scale: f32,
}

impl Glyphs {
    fn at(&self, x: f32, y: f32) -> (f32, f32) {
        (self.x + self.scale * x, -self.scale * y)
    }
}

impl Pen for Glyphs {
    fn place(&mut self, x: f64, scale: f64) {
        (self.x, self.scale) = (x as f32, scale as f32);
    }
}

impl OutlineBuilder for Glyphs {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.builder.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.at(x, y);
        self.builder.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.at(x1, y1), self.at(x, y));
        self.builder.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2), (x, y)) = (self.at(x1, y1), self.at(x2, y2), self.at(x, y));
        self.builder.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.builder.close();
    }
}

#[cfg(test)]
mod tests {
    use super::super::canvas::Frame;
    use super::super::color::Surface;
    use super::*;

    /// Width and pixels, as red, green and blue, of a PNG file.
    fn decoded(file: Vec<u8>) -> (usize, Vec<Rgb>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut buffer = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut buffer).unwrap();
        let width = reader.info().width as usize;
        (width, buffer.chunks(3).map(|p| [p[0], p[1], p[2]]).collect())
    }

    #[test]
    fn every_element_leaves_its_colour_where_it_belongs() {
        let mut canvas = Canvas::new(100.0, Surface::File);
        let frame = |x: f64| Frame { x, y: 10.0, width: 10.0, height: 10.0 };
        canvas.rect(frame(0.0), Color::Blue, 1.0);
        canvas.rect(frame(10.0), Color::Text, 0.5);
        canvas.line((20.0, 15.0), (30.0, 15.0), Color::Green, 4.0, Stroke::Dashed);
        canvas.area(vec![(30.0, 10.0), (40.0, 10.0), (40.0, 20.0), (30.0, 20.0)], Color::Sky, 1.0);
        canvas.dot((45.0, 15.0), 5.0, Color::Purple, true);
        canvas.dot((55.0, 15.0), 4.0, Color::Orange, false);
        let colors = vec![vec![Some([1, 2, 3]), None], vec![Some([4, 5, 6]), Some([7, 8, 9])]];
        canvas.cells(Cells { frame: frame(60.0), colors, lookup: None });
        canvas.text(75.0, 20.0, Anchor::Start, Color::Vermilion, "█");
        canvas.upward(95.0, 20.0, Anchor::Start, "█");
        let (width, pixels) = decoded(png(&canvas).unwrap());
        let at = |x: f64, y: f64| pixels[(3.0 * y) as usize * width + (3.0 * x) as usize];
        let white = [255; 3];
        assert_eq!((at(5.0, 15.0), at(5.0, 22.0)), (Color::Blue.rgb(), white));
        assert!(at(15.0, 15.0)[0].abs_diff(141) < 2, "{:?}", at(15.0, 15.0));
        assert_eq!((at(22.0, 15.0), at(26.5, 15.0)), (Color::Green.rgb(), white));
        assert_eq!((at(35.0, 15.0), at(45.0, 15.0)), (Color::Sky.rgb(), Color::Purple.rgb()));
        assert_eq!((at(55.0, 15.0), at(59.0, 15.0)), (white, Color::Orange.rgb()));
        let cells = [at(61.0, 11.0), at(69.0, 11.0), at(61.0, 19.0), at(69.0, 19.0)];
        assert_eq!(cells, [[1, 2, 3], white, [4, 5, 6], [7, 8, 9]]);
        assert_eq!((at(79.0, 15.0), at(90.0, 16.0)), (Color::Vermilion.rgb(), Color::Text.rgb()));
    }

    #[test]
    fn pictures_hold_the_colour_of_each_cell() {
        let file = picture(&[vec![Some([1, 2, 3]), None]]).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut buffer = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut buffer).unwrap();
        assert_eq!(buffer, [1, 2, 3, 255, 0, 0, 0, 0]);
    }
}
