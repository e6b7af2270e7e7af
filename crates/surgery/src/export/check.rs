//! Whether what was written is the model that was meant.

use super::ExportError;
use fathom_model::Config;
use fathom_model::source::Checkpoint;
use fathom_model::tokenizer::Tokenizer;
use std::path::Path;

/// Texts on which the two tokenizers are compared.
const TEXTS: [&str; 6] = [
    "The quick brown fox, it's 12345 years old.",
    "  two spaces\n\n\tand a tab ",
    "Zoë naïvely paid 30 € for 日本語 und Straßen 🙂",
    "fn main() { let x = [1, 2.5e-3]; }",
    "",
    "a",
];

/// Opens a written model and compares its description and its tokenizer with what they should be.
pub(super) fn written(model: &Path, wanted: &Config, tokenizer: &Tokenizer) -> Result<(), ExportError> {
    let found = Checkpoint::open(model).map_err(|e| ExportError::Differs(e.to_string()))?;
    if let Some(what) = wanted.difference(found.config()) {
        return Err(ExportError::Differs(format!("the setting {what}")));
    }
    for text in TEXTS {
        let encode = |t: &Tokenizer| t.encode(text).ok();
        let (one, other) = (encode(tokenizer), encode(found.tokenizer()));
        if one != other {
            return Err(ExportError::Differs(format!(
                "its tokenizer gives {text:?} the ids {other:?} where the source's gives {one:?}"
            )));
        }
    }
    Ok(())
}
