//! The text of HellaSwag as lm-evaluation-harness cleans it, in the terms of Python's string methods.

/// `preprocess` of the task `hellaswag`: brackets, which the WikiHow part has, and double spaces go.
pub(super) fn hellaswag(text: &str) -> String {
    let text = strip(text).replace(" [title]", ". ");
    without_brackets(&text).replace("  ", " ")
}

/// Removes what the regular expression `\[.*?\]` matches: brackets on one line, with what is between them.
fn without_brackets(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('[') {
        let inside = &rest[start + 1..];
        let line = inside.split('\n').next().unwrap_or_default();
        let (end, keep) = match line.find(']') {
            Some(end) => (start + 1 + end + 1, start),
            None => (start + 1, start + 1),
        };
        kept.push_str(&rest[..keep]);
        rest = &rest[end..];
    }
    kept + rest
}

/// `str.capitalize`: the first character as a title has it, the others in lower case.
pub(super) fn capitalized(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    let lower = text.to_lowercase();
    let rest: String = lower.chars().skip(first.to_lowercase().count()).collect();
    let mut upper = first.to_uppercase();
    let mut title: String = upper.next().into_iter().collect();
    // Characters that become several, such as the German sharp s.
    title.extend(upper.flat_map(char::to_lowercase));
    title + &rest
}

/// `str.strip`.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected values come from Python.
    #[test]
    fn texts_are_cleaned_as_python_does() {
        let cases = [
            ("  a  b   c ", "a b  c"),
            ("Make tea [title] Boil [substeps] water.", "Make tea. Boil water."),
            ("[header] How [title] x", " How. x"),
            ("a [b\nc] d", "a [b\nc] d"),
            ("a [b [c] d] e", "a d] e"),
            ("[[a] b", " b"),
            ("\u{1f}x\u{a0}", "x"),
            ("a [ b", "a [ b"),
        ];
        for (text, cleaned) in cases {
            assert_eq!(hellaswag(text), cleaned, "{text:?}");
        }
        for (text, title) in [("the Lady", "The lady"), ("", ""), ("ßA", "Ssa"), ("éÀ", "Éà"), ("1A", "1a")]
        {
            assert_eq!(capitalized(text), title);
        }
    }
}
