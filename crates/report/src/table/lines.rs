//! Lines of terminal text, no wider than asked for and safe to print.

use fathom_results::text::is_harmful;
use unicode_width::UnicodeWidthStr;

/// How text is printed on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Whether characters outside ASCII may be used.
    pub unicode: bool,
    /// The widest line allowed, in columns.
    pub width: usize,
    /// Whether to use colour and emphasis.
    pub colour: bool,
}

/// The emphasis of a piece of a line.
#[derive(Clone, Copy)]
pub(crate) enum Emphasis {
    Plain,
    Bold,
    Faint,
    Accent,
}

impl Emphasis {
    /// The escape sequence that turns it on.
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "\x1b[1m",
            Self::Faint => "\x1b[2m",
            Self::Accent => "\x1b[36m",
        }
    }
}

/// The text so far.
pub(crate) struct Lines {
    pub(crate) style: Style,
    pub(crate) text: String,
}

impl Lines {
    pub(crate) fn new(style: Style) -> Self {
        Self { style, text: String::new() }
    }

    /// Adds a line, cut to the width. Escape sequences are added after cutting, so they never count.
    pub(crate) fn line(&mut self, emphasis: Emphasis, line: &str) {
        self.pieces(&[(emphasis, line.trim_end())]);
    }

    /// Adds a line of pieces with their own emphasis, cut to the width together.
    pub(crate) fn pieces(&mut self, pieces: &[(Emphasis, &str)]) {
        for (emphasis, piece) in cut(pieces, self.style) {
            let code = emphasis.code();
            if self.style.colour && !code.is_empty() && !piece.trim().is_empty() {
                self.text.extend([code, &piece, "\x1b[0m"]);
            } else {
                self.text.push_str(&piece);
            }
        }
        // Cutting may leave spaces at the end of the line.
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }

    /// Adds a paragraph, broken between words and indented.
    pub(crate) fn paragraph(&mut self, emphasis: Emphasis, indent: usize, text: &str) {
        for line in wrap(text, self.style.width.saturating_sub(indent)) {
            self.line(emphasis, &format!("{:indent$}{line}", ""));
        }
    }
}

/// The pieces as far as they fit the width. A mark stands at the end of what is cut, so that half a number is not read
/// as a whole one.
fn cut(pieces: &[(Emphasis, &str)], style: Style) -> Vec<(Emphasis, String)> {
    let end = pieces.iter().rposition(|(_, piece)| !piece.trim_end().is_empty()).map_or(0, |last| last + 1);
    let within = |width: usize| {
        let (mut room, mut is_cut) = (width, false);
        let fitted = pieces[..end].iter().enumerate().map(|(i, (emphasis, piece))| {
            let piece = if i + 1 == end { piece.trim_end() } else { piece };
            let fitted = fit(piece, Style { width: room, ..style });
            room -= fitted.width().min(room);
            is_cut |= fitted.chars().count() < piece.chars().count();
            (*emphasis, fitted)
        });
        let fitted: Vec<(Emphasis, String)> = fitted.collect();
        (fitted, is_cut)
    };
    let (whole, is_cut) = within(style.width);
    if !is_cut || style.width == 0 {
        return whole;
    }
    let (mut fitted, _) = within(style.width - 1);
    fitted.push((Emphasis::Plain, if style.unicode { "…" } else { ">" }.to_owned()));
    fitted
}

/// Replaces characters that must not reach the terminal and cuts to the width.
fn fit(line: &str, style: Style) -> String {
    // Characters without a width cannot make a line endless.
    let most = 4 * style.width + 16;
    let mut out = String::new();
    for c in line.chars().take(most) {
        let c = if is_harmful(c) || (!style.unicode && !c.is_ascii()) { '?' } else { c };
        out.push(c);
        // The width is that of the whole text: a joined emoji is narrower than its parts.
        if out.width() > style.width {
            out.pop();
            break;
        }
    }
    out
}

/// Breaks text between words into lines of at most `width` columns; a longer word has a line of its own.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.is_empty() {
        return Vec::new();
    }
    let options = textwrap::Options::new(width)
        .break_words(false)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::wrap(&words, options).into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_wrapped_and_not_cut() {
        let lines = wrap("the curve never falls  below half", 10);
        assert_eq!(lines, ["the curve", "never", "falls", "below half"]);
        assert_eq!(
            wrap("antidisestablishmentarianism is long", 8),
            ["antidisestablishmentarianism", "is long"]
        );
        assert_eq!(wrap("  ", 8), [""; 0]);
        assert_eq!(wrap("深い 層の 深さ", 9), ["深い 層の", "深さ"]);
    }

    #[test]
    fn a_mark_ends_what_is_cut() {
        let lines = |width, pieces: &[&str]| {
            let mut lines = Lines::new(Style { unicode: false, width, colour: false });
            lines.pieces(&pieces.iter().map(|piece| (Emphasis::Plain, *piece)).collect::<Vec<_>>());
            lines.text
        };
        assert_eq!(lines(8, &["layers ", "14..18"]), "layers >\n");
        assert_eq!(lines(9, &["layers ", "14..18"]), "layers 1>\n");
        assert_eq!(lines(13, &["layers ", "14..18", "  "]), "layers 14..18\n");
        assert_eq!(lines(6, &["layers ", ""]), "layers\n");
    }

    #[test]
    fn marks_and_joined_emoji_take_the_columns_that_a_terminal_gives_them() {
        let fit = |text: &str, width| fit(text, Style { unicode: true, width, colour: false });
        assert_eq!(fit("e\u{301}e\u{301}e", 2), "e\u{301}e\u{301}");
        assert_eq!(fit("👩\u{200d}👩\u{200d}👧x", 2), "👩\u{200d}👩\u{200d}👧");
        assert_eq!(fit("深い", 3), "深");
        assert!(fit(&"\u{301}".repeat(100_000), 10).len() < 1_000);
    }
}
