//! The font of figures: how wide a text is, how it is broken, and the outlines that PNG files are drawn with.
//!
//! The fonts are subsets of DejaVu Sans that are compiled in, so that a PNG file does not depend on what is installed.
//! DejaVu is wider than most system fonts, so a text that fits by its measures also fits in a browser.

use std::sync::LazyLock;

use ttf_parser::{Face, GlyphId, OutlineBuilder};

/// Text size of labels, in user units.
pub(crate) const TEXT: f64 = 13.0;
/// Text size of titles, in user units.
pub(crate) const TITLE: f64 = 15.0;

static REGULAR: LazyLock<Face<'static>> = LazyLock::new(|| face(include_bytes!("fonts/DejaVuSans.ttf")));
static BOLD: LazyLock<Face<'static>> = LazyLock::new(|| face(include_bytes!("fonts/DejaVuSans-Bold.ttf")));

/// The weight of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    Regular,
    Bold,
}

fn face(file: &'static [u8]) -> Face<'static> {
    Face::parse(file, 0).expect("the font compiled in is valid")
}

/// The face that has the character, and its glyph. Characters that neither face has become the box of the regular one.
fn glyph(c: char, weight: Weight) -> (&'static Face<'static>, GlyphId) {
    let bold = (weight == Weight::Bold).then(|| Some((&*BOLD, BOLD.glyph_index(c)?))).flatten();
    bold.unwrap_or_else(|| (&REGULAR, REGULAR.glyph_index(c).unwrap_or_default()))
}

/// The advance of a glyph in ems.
fn advance((face, glyph): (&Face<'_>, GlyphId)) -> f64 {
    f64::from(face.glyph_hor_advance(glyph).unwrap_or(0)) / f64::from(face.units_per_em())
}

/// The width of a text in user units.
pub(crate) fn width_of(text: &str, size: f64, weight: Weight) -> f64 {
    // Characters without a glyph come from another font in a browser; those of wide scripts take a whole em.
    let em = |c: char| match glyph(c, weight) {
        (_, GlyphId(0)) => 1.0,
        found => advance(found),
    };
    size * text.chars().map(em).sum::<f64>()
}

/// Sends the outlines of the glyphs to `pen`. `pen.place` is called before each with the position of its origin along
/// the baseline and the factor from font units to user units.
pub(crate) fn outline(text: &str, size: f64, weight: Weight, pen: &mut impl Pen) {
    let mut x = 0.0;
    for c in text.chars() {
        let (face, id) = glyph(c, weight);
        pen.place(x, size / f64::from(face.units_per_em()));
        face.outline_glyph(id, pen);
        x += size * advance((face, id));
    }
}

/// Receives outlines in font units, y pointing up.
pub(crate) trait Pen: OutlineBuilder {
    /// The origin of the next glyph in user units along the baseline, and user units per font unit.
    fn place(&mut self, x: f64, scale: f64);
}

/// The text, cut and ended with an ellipsis where it is wider than `width`.
pub(crate) fn fitted(text: &str, width: f64, size: f64, weight: Weight) -> String {
    if width_of(text, size, weight) <= width {
        return text.to_owned();
    }
    let room = width - width_of("…", size, weight);
    let mut used = 0.0;
    let mut fits = |c: &char| {
        used += width_of(c.encode_utf8(&mut [0; 4]), size, weight);
        used <= room
    };
    let cut: String = text.chars().take_while(|c| fits(c)).collect();
    cut.trim_end().to_owned() + "…"
}

/// The text in lines no wider than `width`, broken between words; longer words are cut.
pub(crate) fn wrapped(text: &str, width: f64) -> Vec<String> {
    let size_of = |text: &str| width_of(text, TEXT, Weight::Regular);
    let space = size_of(" ");
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if size_of(line) + space + size_of(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(fitted(word, width, TEXT, Weight::Regular)),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_those_of_the_font() {
        // DejaVu Sans has 2048 units per em; digits are 1303 wide, a space 651.
        assert!((width_of("12 3", 2048.0, Weight::Regular) - (3.0 * 1303.0 + 651.0)).abs() < 1e-9);
        assert!(width_of("depth", TEXT, Weight::Bold) > width_of("depth", TEXT, Weight::Regular));
        // The bold font lacks Greek, which is then regular.
        assert_eq!(width_of("π", TEXT, Weight::Bold), width_of("π", TEXT, Weight::Regular));
        assert_eq!(width_of("深", TEXT, Weight::Regular), TEXT);
    }

    #[test]
    fn a_text_that_is_too_wide_is_cut() {
        let cut = fitted("How much of the depth does useful work", 120.0, TEXT, Weight::Regular);
        assert!(cut.ends_with('…') && width_of(&cut, TEXT, Weight::Regular) <= 120.0, "{cut}");
        assert_eq!(fitted("depth", 120.0, TEXT, Weight::Regular), "depth");
        let lines = wrapped("the mean cosine never changes from negative to positive", 150.0);
        assert!(lines.len() > 1 && lines.iter().all(|line| width_of(line, TEXT, Weight::Regular) <= 150.0));
    }

    #[test]
    fn labels_of_figures_have_glyphs() {
        for c in "␣…≤≥π≠±×·–—“”‘’|/%^~_ÄéłΩжя∑√∞→".chars() {
            assert_ne!(glyph(c, Weight::Regular).1, GlyphId(0), "{c}");
        }
    }
}
