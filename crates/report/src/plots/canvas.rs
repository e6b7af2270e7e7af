//! The drawing of a figure as a list of elements, which `svg` writes and `raster` paints.
//!
//! Coordinates are user units, x to the right and y downward: a PNG file has three pixels per unit.

use super::color::{Color, Rgb, Surface};
use super::font::{TEXT, TITLE, Weight, fitted};

/// The width of a figure in one column of a paper: printed 8.5 cm wide, its text has 6 points.
pub(crate) const COLUMN: f64 = 520.0;
/// The width of a figure across both columns of a paper.
pub(crate) const PAGE: f64 = 1060.0;

/// A point of a drawing.
pub(crate) type Point = (f64, f64);

/// How a line is stroked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stroke {
    Solid,
    Dashed,
}

/// Which part of a text is at its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// A rectangle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Frame {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Frame {
    pub(crate) fn right(&self) -> f64 {
        self.x + self.width
    }

    pub(crate) fn bottom(&self) -> f64 {
        self.y + self.height
    }
}

/// A text on a baseline.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Label {
    pub(crate) at: Point,
    pub(crate) anchor: Anchor,
    pub(crate) color: Color,
    pub(crate) size: f64,
    pub(crate) weight: Weight,
    /// Read from bottom to top.
    pub(crate) upward: bool,
    pub(crate) text: String,
}

/// A grid of coloured cells of equal size.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cells {
    pub(crate) frame: Frame,
    /// `[row][column]` from the top left, all rows of the same length; cells without a colour are transparent.
    pub(crate) colors: Vec<Vec<Option<Rgb>>>,
    /// How the page finds the values of the cells; a picture without values has none.
    pub(crate) lookup: Option<Lookup>,
}

/// Where the page's table has the value of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lookup {
    /// Columns of the picture are rows of the table.
    pub(crate) transposed: bool,
    /// Rows are counted from the top down.
    pub(crate) down: bool,
}

/// An element of a drawing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Element {
    /// A filled rectangle.
    Rect { frame: Frame, color: Color, opacity: f64 },
    /// Straight lines through points.
    Line { points: Vec<Point>, color: Color, width: f64, stroke: Stroke },
    /// The filled polygon with these corners.
    Area { points: Vec<Point>, color: Color, opacity: f64 },
    /// A disc, or a ring around the background.
    Dot { at: Point, radius: f64, color: Color, filled: bool },
    /// A text.
    Label(Label),
    /// A picture.
    Cells(Cells),
}

/// A drawing under way.
pub(crate) struct Canvas {
    pub(crate) surface: Surface,
    pub(crate) width: f64,
    pub(crate) elements: Vec<Element>,
    /// Texts shown to readers who point at a frame of the page.
    pub(crate) hovers: Vec<(Frame, String)>,
    /// The lowest y of the drawing.
    bottom: f64,
}

impl Canvas {
    pub(crate) fn new(width: f64, surface: Surface) -> Self {
        Self { surface, width, elements: Vec::new(), hovers: Vec::new(), bottom: 0.0 }
    }

    /// The height of the drawing so far, with a margin.
    pub(crate) fn height(&self) -> f64 {
        (self.bottom + 6.0).ceil()
    }

    /// Draws title and subtitle on files and returns the y at which the figure begins.
    pub(crate) fn head(&mut self, title: &str, subtitle: &str) -> f64 {
        if self.surface == Surface::Page {
            return 4.0;
        }
        let room = self.width - 16.0;
        self.label(Label {
            size: TITLE,
            weight: Weight::Bold,
            ..label((8.0, 22.0), Anchor::Start, Color::Text, &fitted(title, room, TITLE, Weight::Bold))
        });
        self.text(8.0, 40.0, Anchor::Start, Color::Soft, &fitted(subtitle, room, TEXT, Weight::Regular));
        54.0
    }

    pub(crate) fn text(&mut self, x: f64, y: f64, anchor: Anchor, color: Color, text: &str) {
        self.label(label((x, y), anchor, color, text));
    }

    pub(crate) fn bold(&mut self, x: f64, y: f64, anchor: Anchor, color: Color, text: &str) {
        self.label(Label { weight: Weight::Bold, ..label((x, y), anchor, color, text) });
    }

    /// A text read from bottom to top.
    pub(crate) fn upward(&mut self, x: f64, y: f64, anchor: Anchor, text: &str) {
        let upward = Label { upward: true, ..label((x, y), anchor, Color::Text, text) };
        self.elements.push(Element::Label(upward));
    }

    fn label(&mut self, label: Label) {
        self.reach(label.at.1 + 4.0);
        self.elements.push(Element::Label(label));
    }

    pub(crate) fn rect(&mut self, frame: Frame, color: Color, opacity: f64) {
        self.reach(frame.bottom());
        self.elements.push(Element::Rect { frame, color, opacity });
    }

    pub(crate) fn line(&mut self, from: Point, to: Point, color: Color, width: f64, stroke: Stroke) {
        self.reach(from.1.max(to.1));
        self.elements.push(Element::Line { points: vec![from, to], color, width, stroke });
    }

    /// Straight lines through the points.
    pub(crate) fn lines(&mut self, points: Vec<Point>, color: Color, width: f64, stroke: Stroke) {
        self.elements.push(Element::Line { points, color, width, stroke });
    }

    /// A disc, or a ring around the background.
    pub(crate) fn dot(&mut self, at: Point, radius: f64, color: Color, filled: bool) {
        self.reach(at.1 + radius);
        self.elements.push(Element::Dot { at, radius, color, filled });
    }

    /// The filled polygon with these corners.
    pub(crate) fn area(&mut self, points: Vec<Point>, color: Color, opacity: f64) {
        self.elements.push(Element::Area { points, color, opacity });
    }

    pub(crate) fn cells(&mut self, cells: Cells) {
        self.reach(cells.frame.bottom());
        self.elements.push(Element::Cells(cells));
    }

    /// Shows `text` to readers who point at the frame.
    pub(crate) fn hover(&mut self, frame: Frame, text: String) {
        self.hovers.push((frame, text));
    }

    /// Extends the drawing down to `y`.
    pub(crate) fn reach(&mut self, y: f64) {
        self.bottom = self.bottom.max(y);
    }
}

fn label(at: Point, anchor: Anchor, color: Color, text: &str) -> Label {
    let text = text.chars().filter(|c| !fathom_results::text::is_hidden(*c)).collect();
    Label { at, anchor, color, size: TEXT, weight: Weight::Regular, upward: false, text }
}
