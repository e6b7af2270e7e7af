//! Text from users and files: safe to print, and matched to the names a program knows.

/// Whether a character is invisible, changes the direction of the text around it, or is not allowed in XML.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
        || c as u32 & 0xfffe == 0xfffe
}

/// Whether a character must not reach a terminal. U+200C and U+200D are hidden but harmless: they only shape their
/// neighbours, as in emoji and Persian.
pub fn is_harmful(c: char) -> bool {
    is_hidden(c) && !matches!(c, '\u{200c}' | '\u{200d}')
}

/// Replaces each [harmful](is_harmful) character by a question mark.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if is_harmful(c) { '?' } else { c }).collect()
}

/// The known name most similar to a misspelt word, ignoring case; the first of equals. `None` if none is similar
/// enough to be worth suggesting.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    /// Jaro-Winkler similarity above which one word is a likely misspelling of another.
    const SIMILAR: f64 = 0.8;
    // The time to compare grows with the square of the length.
    let word: String = word.to_lowercase().chars().take(64).collect();
    let mut best: Option<(f64, &str)> = None;
    for name in known {
        let similarity = strsim::jaro_winkler(&word, &name.to_lowercase());
        if similarity >= SIMILAR && best.is_none_or(|(highest, _)| similarity > highest) {
            best = Some((similarity, name));
        }
    }
    best.map(|(_, name)| name)
}

/// `; did you mean 'NAME'?` for the end of an error message, or nothing if no known name is similar.
pub fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    nearest(word, known).map_or_else(String::new, |name| format!("; did you mean '{name}'?"))
}

/// A number of parameters for a reader: `135 M`, `23 k`, `812`.
pub fn amount(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.0} k", count as f64 / 1e3),
        _ => format!("{:.0} M", count as f64 / 1e6),
    }
}

/// A number with its noun: `1 text`, `2 texts`.
pub fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units_and_nouns() {
        assert_eq!([812, 22_600, 134_515_008].map(amount), ["812", "23 k", "135 M"]);
        assert_eq!([1, 2].map(|n| counted(n, "text")), ["1 text", "2 texts"]);
    }

    #[test]
    fn suggests_the_first_of_equally_similar_names() {
        assert_eq!(nearest("Sise", ["name", "size", "SIZE"]), Some("size"));
        assert_eq!(nearest("xyzzy", ["name", "size"]), None);
        assert_eq!(nearest("", []), None);
        assert_eq!(did_you_mean("setling", ["kl", "settling"]), "; did you mean 'settling'?");
    }

    #[test]
    fn control_characters_are_replaced_and_joiners_kept() {
        assert_eq!(clean("a\u{1b}[2J\u{202e}b"), "a?[2J?b");
        assert_eq!(clean("\u{1f469}\u{200d}\u{1f52c}"), "\u{1f469}\u{200d}\u{1f52c}");
    }
}
