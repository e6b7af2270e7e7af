//! Writes a drawing as SVG. All markup of figures is made here: texts are escaped, coordinates have two decimals, and
//! nothing depends on what was drawn before, so that equal figures are equal bytes.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::canvas::{Anchor, Canvas, Cells, Element, Label, Point, Stroke};
use super::color::{Color, Surface};
use super::font::{TEXT, Weight};
use super::raster;

/// The drawing as SVG: a file, or an element for the page, which needs neither namespace nor size.
///
/// # Errors
///
/// The encoder's message when the picture of a heat map cannot be made.
pub(crate) fn write(canvas: &Canvas, title: &str) -> Result<String, String> {
    let mut svg = Writer { surface: canvas.surface, out: String::new() };
    svg.open(canvas.width, canvas.height(), title);
    for element in &canvas.elements {
        svg.element(element)?;
    }
    if canvas.surface == Surface::Page {
        for (frame, text) in &canvas.hovers {
            svg.out += r#"<g class="tip"><title>"#;
            svg.text(text);
            svg.out += "</title>";
            svg.element(&Element::Rect { frame: *frame, color: Color::Text, opacity: 0.0 })?;
            svg.out += "</g>";
        }
    }
    svg.out += "</svg>\n";
    Ok(svg.out)
}

struct Writer {
    surface: Surface,
    out: String,
}

impl Writer {
    fn open(&mut self, width: f64, height: f64, title: &str) {
        let view = format!("0 0 {} {}", number(width), number(height));
        match self.surface {
            // Screen readers have the table below the figure.
            Surface::Page => {
                self.out += "<svg";
                self.attribute("aria-hidden", "true");
                self.attribute("viewBox", &view);
                self.attribute("font-family", "system-ui, sans-serif");
            }
            Surface::File => {
                self.out += "<svg";
                self.attribute("xmlns", "http://www.w3.org/2000/svg");
                self.coordinates(&[("width", width), ("height", height)]);
                self.attribute("viewBox", &view);
                self.attribute("font-family", "DejaVu Sans, Verdana, Arial, sans-serif");
            }
        }
        self.coordinates(&[("font-size", TEXT)]);
        self.attribute("stroke-linejoin", "round");
        self.out += ">";
        if self.surface == Surface::File {
            self.out += "<title>";
            self.text(title);
            self.out += r#"</title><rect width="100%" height="100%""#;
            self.fill(Color::Paper, 1.0);
            self.out += "/>";
        }
    }

    fn element(&mut self, element: &Element) -> Result<(), String> {
        match element {
            Element::Rect { frame, color, opacity } => {
                self.out += "<rect";
                let size = [("x", frame.x), ("y", frame.y), ("width", frame.width), ("height", frame.height)];
                self.coordinates(&size);
                self.fill(*color, *opacity);
                self.out += "/>";
            }
            Element::Line { points, color, width, stroke } => self.line(points, *color, *width, *stroke),
            Element::Area { points, color, opacity } => {
                self.out += "<polygon";
                self.points(points);
                self.fill(*color, *opacity);
                self.out += "/>";
            }
            Element::Dot { at, radius, color, filled } => {
                self.out += "<circle";
                self.coordinates(&[("cx", at.0), ("cy", at.1), ("r", *radius)]);
                self.fill(if *filled { *color } else { Color::Paper }, 1.0);
                if !filled {
                    self.stroke(*color, 2.0);
                }
                self.out += "/>";
            }
            Element::Label(label) => self.label(label),
            Element::Cells(cells) => self.cells(cells)?,
        }
        Ok(())
    }

    fn line(&mut self, points: &[Point], color: Color, width: f64, stroke: Stroke) {
        if let [from, to] = points {
            self.out += "<line";
            self.coordinates(&[("x1", from.0), ("y1", from.1), ("x2", to.0), ("y2", to.1)]);
        } else {
            self.out += "<polyline";
            self.points(points);
            self.attribute("fill", "none");
        }
        self.stroke(color, width);
        if stroke == Stroke::Dashed {
            self.attribute("stroke-dasharray", "5 3");
        }
        self.out += "/>";
    }

    fn label(&mut self, label: &Label) {
        self.out += "<text";
        self.coordinates(&[("x", label.at.0), ("y", label.at.1)]);
        if label.upward {
            let turn = format!("rotate(-90 {} {})", number(label.at.0), number(label.at.1));
            self.attribute("transform", &turn);
        }
        match label.anchor {
            Anchor::Start => {}
            Anchor::Middle => self.attribute("text-anchor", "middle"),
            Anchor::End => self.attribute("text-anchor", "end"),
        }
        if label.size != TEXT {
            self.coordinates(&[("font-size", label.size)]);
        }
        if label.weight == Weight::Bold {
            self.attribute("font-weight", "bold");
        }
        self.fill(label.color, 1.0);
        self.out += ">";
        self.text(&label.text);
        self.out += "</text>";
    }

    /// A picture with a pixel per cell: a rectangle for each cell of a long prompt would be megabytes of markup.
    fn cells(&mut self, cells: &Cells) -> Result<(), String> {
        let frame = cells.frame;
        self.out += "<image";
        if let Some(lookup) = cells.lookup {
            self.attribute("class", "cells");
            if lookup.transposed {
                self.attribute("data-transposed", "");
            }
            if lookup.down {
                self.attribute("data-down", "");
            }
        }
        self.coordinates(&[("x", frame.x), ("y", frame.y), ("width", frame.width), ("height", frame.height)]);
        self.attribute("preserveAspectRatio", "none");
        self.attribute("style", "image-rendering:pixelated");
        let picture = BASE64_STANDARD.encode(raster::picture(&cells.colors)?);
        self.attribute("href", &format!("data:image/png;base64,{picture}"));
        self.out += "/>";
        Ok(())
    }

    fn fill(&mut self, color: Color, opacity: f64) {
        self.attribute("fill", &color.css(self.surface));
        if opacity < 1.0 {
            self.coordinates(&[("fill-opacity", opacity)]);
        }
    }

    fn stroke(&mut self, color: Color, width: f64) {
        self.attribute("stroke", &color.css(self.surface));
        self.coordinates(&[("stroke-width", width)]);
    }

    fn points(&mut self, points: &[Point]) {
        let points: Vec<String> =
            points.iter().map(|(x, y)| format!("{},{}", number(*x), number(*y))).collect();
        self.attribute("points", &points.join(" "));
    }

    fn coordinates(&mut self, pairs: &[(&str, f64)]) {
        pairs.iter().for_each(|(name, value)| self.attribute(name, &number(*value)));
    }

    fn attribute(&mut self, name: &str, value: &str) {
        let _ = write!(self.out, r#" {name}=""#);
        self.text(value);
        self.out.push('"');
    }

    fn text(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                // XML forbids most control characters; line breaks separate the values of a hover text.
                c if c != '\n' && fathom_results::text::is_hidden(c) => {}
                '&' => self.out += "&amp;",
                '<' => self.out += "&lt;",
                '>' => self.out += "&gt;",
                '"' => self.out += "&quot;",
                '\'' => self.out += "&#39;",
                c => self.out.push(c),
            }
        }
    }
}

/// At most two decimals.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::canvas::{Frame, Lookup};
    use super::*;

    #[test]
    fn numbers_are_short() {
        let check = |value, text: &str| assert_eq!(number(value), text);
        check(62.0, "62");
        check(100.0, "100");
        check(0.005, "0.01");
        check(-0.001, "0");
        check(-12.345, "-12.35");
    }

    #[test]
    fn every_element_is_written_and_texts_are_escaped() {
        let mut canvas = Canvas::new(100.0, Surface::Page);
        let frame = Frame { x: 1.0, y: 2.5, width: 3.0, height: 4.0 };
        canvas.rect(frame, Color::Blue, 0.5);
        canvas.line((0.0, 0.0), (1.0, 1.0), Color::Line, 1.0, Stroke::Dashed);
        canvas.lines(vec![(0.0, 0.0), (1.0, 1.0), (2.0, 0.0)], Color::Green, 2.0, Stroke::Solid);
        canvas.area(vec![(0.0, 0.0), (1.0, 1.0), (2.0, 0.0)], Color::Sky, 0.2);
        canvas.dot((5.0, 5.0), 2.0, Color::Purple, false);
        canvas.upward(4.0, 6.0, Anchor::End, "a<b & \"c\"\u{202e}");
        let lookup = Some(Lookup { transposed: true, down: false });
        canvas.cells(Cells { frame, colors: vec![vec![Some([1, 2, 3]), None]], lookup });
        canvas.hover(frame, "x > 1\u{1b}\n2".to_owned());
        let svg = write(&canvas, "").unwrap();
        for part in [
            r#"<svg aria-hidden="true" viewBox="0 0 100 13" font-family="system-ui, sans-serif""#,
            r#"<rect x="1" y="2.5" width="3" height="4" fill="var(--blue)" fill-opacity="0.5"/>"#,
            r#"<line x1="0" y1="0" x2="1" y2="1" stroke="var(--line)" stroke-width="1" stroke-dasharray="5 3"/>"#,
            r#"<polyline points="0,0 1,1 2,0" fill="none" stroke="var(--green)" stroke-width="2"/>"#,
            r#"<polygon points="0,0 1,1 2,0" fill="var(--sky)" fill-opacity="0.2"/>"#,
            r#"<circle cx="5" cy="5" r="2" fill="var(--paper)" stroke="var(--purple)" stroke-width="2"/>"#,
            r#"<text x="4" y="6" transform="rotate(-90 4 6)" text-anchor="end" fill="var(--ink)">a&lt;b &amp; &quot;c&quot;</text>"#,
            r#"<image class="cells" data-transposed="" x="1""#,
            "<g class=\"tip\"><title>x &gt; 1\n2</title><rect",
        ] {
            assert!(svg.contains(part), "{part} in\n{svg}");
        }
    }
}
