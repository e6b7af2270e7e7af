//! Text of tokens, made visible and harmless.

/// The longest text of a token on an axis, in characters.
const LONGEST: usize = 12;
/// The longest question or answer in a note.
const LONGEST_TEXT: usize = 300;

/// A token's text with spaces as open boxes and control characters escaped, cut where it is too long for an axis.
pub(super) fn visible(token: &str) -> String {
    let shown = |c: char| match c {
        ' ' => "␣".to_owned(),
        '\n' => "\\n".to_owned(),
        '\t' => "\\t".to_owned(),
        '\r' => "\\r".to_owned(),
        c if hidden(c) => format!("\\u{{{:x}}}", c as u32),
        c => c.to_string(),
    };
    cut(token.chars().map(shown), LONGEST)
}

/// A question or an answer on one line, cut where it would fill the page.
pub(super) fn line(text: &str) -> String {
    cut(text.chars().map(|c| if hidden(c) { " ".to_owned() } else { c.to_string() }), LONGEST_TEXT)
}

/// Whether a character would not be seen, would turn the text around it, or must not stand in XML.
fn hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
        || c as u32 & 0xfffe == 0xfffe
}

/// The pieces put together while they are no longer than `longest`; an ellipsis stands for the rest.
fn cut(pieces: impl Iterator<Item = String>, longest: usize) -> String {
    let (mut text, mut length) = (String::new(), 0);
    for piece in pieces {
        length += piece.chars().count();
        if length > longest {
            text.push('…');
            break;
        }
        text.push_str(&piece);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_spelled_out() {
        assert_eq!(visible(" the"), "␣the");
        assert_eq!(visible("\n\t\0"), "\\n\\t\\u{0}");
        assert_eq!(visible("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(visible("\u{fffe}"), "\\u{fffe}");
        assert_eq!(visible("日本語"), "日本語");
        assert_eq!(visible(&"x".repeat(5000)), format!("{}…", "x".repeat(12)));
        assert_eq!(line("two\nlines"), "two lines");
    }
}
