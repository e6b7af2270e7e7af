//! What figures are drawn on: the drawing library's primitives, with the colours and sizes that all
//! figures share, and what a reader sees on hovering.
//!
//! The library draws axes and curves and turns primitives into SVG and PNG. Legends, marks, colour bars and
//! hovering are placed here, because they have to stand beside each other, around small multiples, in one
//! column of a paper and on both backgrounds of the page.

use kuva::RasterBackend;
use kuva::backend::svg::SvgBackend;
use kuva::render::color::Color;
use kuva::render::render::{PathData, Primitive, Scene, TextAnchor};

/// The width of a figure. Printed as wide as a column of a paper, 8.5 cm, its text has 6 points.
pub(crate) const COLUMN: f64 = 520.0;
/// The width of a figure across both columns of a paper.
pub(crate) const PAGE: f64 = 1060.0;
/// The size of all text but titles.
pub(crate) const TEXT: u32 = 13;
/// The size of titles.
pub(crate) const TITLE: u32 = 15;
/// Pixels of a PNG for each unit: about 500 dots per inch in print.
const PNG_SCALE: f32 = 3.0;

/// For which background a figure is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file of its own: white, with title.
    File,
    /// Inside the page: no background, the page's colours, the title left to the page.
    Page,
}

/// The colours of all figures: those of Okabe and Ito, which stay apart for colour-blind readers. On the page
/// they are variables, because a dark background needs lighter ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    Text,
    Soft,
    Line,
    Paper,
    Blue,
    Orange,
    Green,
    Vermilion,
    Purple,
    Sky,
}

impl Ink {
    /// Colours for series, in the order in which they are used.
    pub(crate) const SERIES: [Self; 8] = [
        Self::Blue,
        Self::Orange,
        Self::Green,
        Self::Purple,
        Self::Vermilion,
        Self::Sky,
        Self::Text,
        Self::Soft,
    ];

    /// The colour as CSS.
    pub(crate) fn css(self, place: Place) -> &'static str {
        let [file, page] = match self {
            Self::Text => ["#1b1f24", "var(--ink)"],
            Self::Soft => ["#57606a", "var(--soft)"],
            Self::Line => ["#d8dee4", "var(--line)"],
            Self::Paper => ["#ffffff", "var(--paper)"],
            Self::Blue => ["#0072b2", "var(--blue)"],
            Self::Orange => ["#e69f00", "var(--orange)"],
            Self::Green => ["#009e73", "var(--green)"],
            Self::Vermilion => ["#d55e00", "var(--vermilion)"],
            Self::Purple => ["#cc79a7", "var(--purple)"],
            Self::Sky => ["#56b4e9", "var(--sky)"],
        };
        if place == Place::File { file } else { page }
    }

    pub(crate) fn colour(self, place: Place) -> Color {
        Color::from(self.css(place))
    }
}

/// How a line is stroked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stroke {
    Solid,
    Dashed,
}

/// Where a text stands from the point given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// A rectangle in a drawing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Frame {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

/// A drawing under way.
pub(crate) struct Canvas {
    /// The figure's, unlike that of every other figure on a page.
    name: String,
    pub(crate) place: Place,
    width: f64,
    elements: Vec<Primitive>,
    /// Drawn last, above everything, and on the page only.
    hovers: Vec<(Frame, String)>,
    /// How far down there is anything.
    bottom: f64,
}

impl Canvas {
    pub(crate) fn new(name: &str, width: f64, place: Place) -> Self {
        Self { name: name.to_owned(), place, width, elements: Vec::new(), hovers: Vec::new(), bottom: 0.0 }
    }

    pub(crate) fn width(&self) -> f64 {
        self.width
    }

    /// Title and subtitle, where the page does not have them; returns where the rest begins.
    pub(crate) fn head(&mut self, title: &str, subtitle: &str) -> f64 {
        if self.place == Place::Page {
            return 4.0;
        }
        self.write(
            (8.0, 22.0),
            Anchor::Start,
            Ink::Text,
            true,
            TITLE,
            &fitted(title, self.width - 16.0, TITLE),
        );
        self.text(8.0, 40.0, Anchor::Start, Ink::Soft, &fitted(subtitle, self.width - 16.0, TEXT));
        54.0
    }

    pub(crate) fn text(&mut self, x: f64, y: f64, anchor: Anchor, ink: Ink, text: &str) {
        self.write((x, y), anchor, ink, false, TEXT, text);
    }

    pub(crate) fn bold(&mut self, x: f64, y: f64, anchor: Anchor, ink: Ink, text: &str) {
        self.write((x, y), anchor, ink, true, TEXT, text);
    }

    fn write(&mut self, (x, y): (f64, f64), anchor: Anchor, ink: Ink, bold: bool, size: u32, text: &str) {
        let anchor = match anchor {
            Anchor::Start => TextAnchor::Start,
            Anchor::Middle => TextAnchor::Middle,
            Anchor::End => TextAnchor::End,
        };
        let color = Some(ink.colour(self.place));
        let content = plain(text);
        self.elements.push(Primitive::Text { x, y, content, size, anchor, rotate: None, bold, color });
        self.reach(y + 4.0);
    }

    /// A text read from bottom to top that ends at the point.
    pub(crate) fn upward(&mut self, x: f64, y: f64, text: &str) {
        let color = Some(Ink::Text.colour(self.place));
        let (content, anchor, rotate) = (plain(text), TextAnchor::End, Some(-90.0));
        self.elements.push(Primitive::Text { x, y, content, size: TEXT, anchor, rotate, bold: false, color });
    }

    pub(crate) fn rect(&mut self, frame: Frame, ink: Ink, opacity: f64) {
        let Frame { x, y, width, height } = frame;
        let (fill, opacity) = (ink.colour(self.place), (opacity < 1.0).then_some(opacity));
        self.elements.push(Primitive::Rect {
            x,
            y,
            width,
            height,
            fill,
            stroke: None,
            stroke_width: None,
            opacity,
        });
        self.reach(y + height);
    }

    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), ink: Ink, width: f64, stroke: Stroke) {
        let dash = (stroke == Stroke::Dashed).then(|| "5 3".to_owned());
        self.elements.push(Primitive::Line {
            x1: from.0,
            y1: from.1,
            x2: to.0,
            y2: to.1,
            stroke: ink.colour(self.place),
            stroke_width: width,
            stroke_dasharray: dash,
        });
        self.reach(from.1.max(to.1));
    }

    /// Straight lines through the points.
    pub(crate) fn lines(&mut self, points: Vec<(f64, f64)>, ink: Ink, width: f64, stroke: Stroke) {
        let stroke_dasharray = (stroke == Stroke::Dashed).then(|| "5 3".to_owned());
        let stroke = ink.colour(self.place);
        self.elements.push(Primitive::PolyLine { points, stroke, stroke_width: width, stroke_dasharray });
    }

    /// A filled disc, or a ring on the background.
    pub(crate) fn dot(&mut self, at: (f64, f64), radius: f64, ink: Ink, filled: bool) {
        let colour = ink.colour(self.place);
        let fill = if filled { colour.clone() } else { Ink::Paper.colour(self.place) };
        let (stroke, stroke_width) = if filled { (None, None) } else { (Some(colour), Some(2.0)) };
        self.elements.push(Primitive::Circle {
            cx: at.0,
            cy: at.1,
            r: radius,
            fill,
            fill_opacity: None,
            stroke,
            stroke_width,
        });
        self.reach(at.1 + radius);
    }

    /// The filled surface within the points.
    pub(crate) fn surface(&mut self, points: &[(f64, f64)], ink: Ink, opacity: f64) {
        let mut d = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            d += &format!("{}{x:.2} {y:.2}", if index == 0 { "M" } else { " L" });
        }
        self.elements.push(Primitive::Path(Box::new(PathData {
            d: d + " Z",
            fill: Some(ink.colour(self.place)),
            stroke: Color::None,
            stroke_width: 0.0,
            opacity: (opacity < 1.0).then_some(opacity),
            stroke_dasharray: None,
        })));
    }

    /// Rectangles with a colour each.
    pub(crate) fn cells(&mut self, cells: Vec<(Frame, (u8, u8, u8))>) {
        let (mut x, mut y, mut w, mut h, mut fills) = (vec![], vec![], vec![], vec![], vec![]);
        for (frame, (red, green, blue)) in cells {
            x.push(frame.x);
            y.push(frame.y);
            w.push(frame.width);
            h.push(frame.height);
            fills.push(Color::Rgb(red, green, blue));
        }
        self.elements.push(Primitive::RectBatch { x, y, w, h, fills });
    }

    /// A place for markup of its own, see [`Canvas::svg`].
    pub(crate) fn place_for_markup(&mut self) {
        let extra_attrs = Some("data-cells".to_owned());
        self.elements.push(Primitive::GroupStart { transform: None, title: None, extra_attrs });
        self.elements.push(Primitive::GroupEnd);
    }

    /// What the drawing library drew, moved.
    pub(crate) fn scene(&mut self, scene: Scene, x: f64, y: f64) {
        let transform = Some(format!("translate({x},{y})"));
        self.elements.push(Primitive::GroupStart { transform, title: None, extra_attrs: None });
        self.elements.extend(scene.elements);
        self.elements.push(Primitive::GroupEnd);
        self.reach(y + scene.height);
    }

    /// Says `text` to a reader who points at the frame.
    pub(crate) fn hover(&mut self, frame: Frame, text: String) {
        self.hovers.push((frame, text));
    }

    /// The drawing reaches down to here.
    pub(crate) fn reach(&mut self, y: f64) {
        self.bottom = self.bottom.max(y);
    }

    fn finish(mut self) -> Scene {
        if self.place == Place::Page {
            for (frame, text) in std::mem::take(&mut self.hovers) {
                let extra_attrs = Some("class=\"tip\"".to_owned());
                self.elements.push(Primitive::GroupStart { transform: None, title: Some(text), extra_attrs });
                self.rect(frame, Ink::Text, 0.0);
                self.elements.push(Primitive::GroupEnd);
            }
        }
        // The library counts clipped regions through the whole process; a figure must not depend on those
        // drawn before it.
        let clips = self.elements.iter_mut().filter_map(|element| match element {
            Primitive::ClipStart { id, .. } => Some(id),
            _ => None,
        });
        let name: String = self.name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        for (count, id) in clips.enumerate() {
            *id = format!("{name}_clip_{count}");
        }
        let mut scene = Scene::new(self.width, (self.bottom + 6.0).ceil());
        scene.elements = self.elements;
        scene.text_color = Some(Ink::Text.css(self.place).to_owned());
        let (background, font) = match self.place {
            Place::File => (Some("#ffffff".to_owned()), "DejaVu Sans, Arial, sans-serif"),
            Place::Page => (None, "system-ui, sans-serif"),
        };
        scene.background_color = background;
        scene.font_family = Some(font.to_owned());
        scene
    }

    /// The drawing as SVG: a file, or an element for the page, which needs neither namespace nor size.
    /// `markup` takes the place made for it.
    pub(crate) fn svg(self, markup: &str) -> String {
        /// Text from outside cannot spell this, as `<` is escaped there.
        const MADE: &str = "<g data-cells></g>";
        let place = self.place;
        let scene = self.finish();
        let svg = SvgBackend::new().render_scene(&scene).replacen(MADE, markup, 1);
        if place == Place::File {
            return svg;
        }
        // Those who listen to the page have the table below.
        let open = format!(r#"<svg aria-hidden="true" viewBox="0 0 {} {}""#, scene.width, scene.height);
        svg.replacen(r#"<svg xmlns="http://www.w3.org/2000/svg""#, &open, 1)
    }

    /// The drawing as PNG.
    ///
    /// # Errors
    ///
    /// The drawing library's message.
    pub(crate) fn png(self) -> Result<Vec<u8>, String> {
        RasterBackend::new().with_scale(PNG_SCALE).render_scene(&self.finish())
    }
}

/// Without characters that cannot be seen, and with the dollar signs escaped that the library would read as mathematics.
pub(crate) fn plain(text: &str) -> String {
    text.chars().filter(|c| !super::text::hidden(*c)).collect::<String>().replace('$', "\\$")
}

/// About how wide a text is, rather too wide than too narrow.
pub(crate) fn width_of(text: &str, size: u32) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '|' | '\'' | '(' | ')' | '[' | ']' | 't' | 'f'
        | 'r' | ' ' => 0.4,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 0.95,
        c if c.is_ascii_lowercase() || c.is_ascii_digit() => 0.62,
        c if c.is_ascii() => 0.72,
        _ => 0.95,
    };
    text.chars().map(em).sum::<f64>() * f64::from(size)
}

/// The text, cut where it is wider than `width`.
pub(crate) fn fitted(text: &str, width: f64, size: u32) -> String {
    if width_of(text, size) <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    for c in text.chars() {
        cut.push(c);
        if width_of(&cut, size) > width - f64::from(size) {
            break;
        }
    }
    cut.trim_end().to_owned() + "…"
}

/// The text in lines no wider than `width`, broken between words.
pub(crate) fn wrapped(text: &str, width: f64, size: u32) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width_of(line, size) + width_of(word, size) + 5.0 <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(fitted(word, width, size)),
        }
    }
    lines
}
