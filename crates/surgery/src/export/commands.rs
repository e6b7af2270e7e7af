//! The same removal in the words of other tools.

/// A configuration of mergekit (`mergekit-yaml FILE OUT`) that keeps half-open ranges of layers.
pub fn mergekit(source_id: &str, kept_ranges: &[[usize; 2]]) -> String {
    let mut yaml = "slices:\n".to_owned();
    for [start, end] in kept_ranges {
        // A string of JSON is one of YAML.
        let model = serde_json::Value::from(source_id);
        let slice = format!("  - sources:\n      - model: {model}\n        layer_range: [{start}, {end}]\n");
        yaml.push_str(&slice);
    }
    // Without a type, mergekit keeps that of the source.
    yaml.push_str("merge_method: passthrough\n");
    yaml
}

/// A line for a shell that removes layers of a GGUF file with llama.cpp's `llama-quantize`, which copies all other tensors.
///
/// It renumbers the tensors and their count, and nothing else: not the arrays of the metadata with an entry per layer,
/// nor which layers of Gemma 2 and 3 are local.
pub fn llama_quantize(source_file: &str, out: &str, removed: &[usize]) -> String {
    let layers: Vec<String> = removed.iter().map(usize::to_string).collect();
    format!("llama-quantize --prune-layers {} {} {} COPY", layers.join(","), quoted(source_file), quoted(out))
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mergekit_keeps_ranges() {
        let wanted = "slices:\n  - sources:\n      - model: \"org/a \\\"b\\\"\"\n        layer_range: [0, 3]\n  \
                      - sources:\n      - model: \"org/a \\\"b\\\"\"\n        layer_range: [5, 8]\n\
                      merge_method: passthrough\n";
        assert_eq!(mergekit("org/a \"b\"", &[[0, 3], [5, 8]]), wanted);
    }

    #[test]
    fn names_are_quoted_for_a_shell() {
        let line = llama_quantize("a b.gguf", "it's.gguf", &[3, 7]);
        assert_eq!(line, r"llama-quantize --prune-layers 3,7 'a b.gguf' 'it'\''s.gguf' COPY");
        assert_eq!(
            llama_quantize("a.gguf", "b.gguf", &[0]),
            "llama-quantize --prune-layers 0 a.gguf b.gguf COPY"
        );
    }
}
