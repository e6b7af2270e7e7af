//! Byte-level BPE (`tokenizer.ggml.model` is "gpt2").

use super::metadata::{Vocabulary, brief};
use super::pretokenizers::{self, Split};
use super::{Built, Style};
use crate::error::Result;
use tokenizers::models::bpe::{BPE, Merges};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;

pub(super) fn build(vocabulary: &Vocabulary<'_>) -> Result<Built> {
    let (name, split) = split(vocabulary)?;
    let model = BPE::builder()
        .vocab_and_merges(vocabulary.vocab(), merges(vocabulary)?)
        .ignore_merges(split.whole_words)
        .build()
        .map_err(|e| vocabulary.bad("merges", e))?;
    let mut inner = tokenizers::Tokenizer::new(model);
    // Separate from the patterns: files of NeoX may use GPT-2's name.
    if split.nfc || vocabulary.architecture() == "gptneox" {
        inner.with_normalizer(Some(NFC)).map_err(|e| vocabulary.bad("pre", e))?;
    }
    let mut steps = pretokenizers::steps(split).map_err(|e| vocabulary.bad("pre", e))?;
    steps.push(ByteLevel::new(false, true, false).into());
    inner.with_pre_tokenizer(Some(Sequence::new(steps)));
    inner.with_decoder(Some(ByteLevel::new(false, true, false)));
    Ok(Built {
        inner,
        kind: format!("gguf gpt2/{name}"),
        style: Style::ByteLevel,
        bos: vocabulary.id("bos_token_id")?,
        eos: vocabulary.id("eos_token_id")?,
        adds_bos: vocabulary.flag("add_bos_token")?.unwrap_or(split.adds_bos),
        adds_eos: vocabulary.flag("add_eos_token")?.unwrap_or(false),
    })
}

/// The pre-tokenizer and its name.
fn split<'a>(vocabulary: &Vocabulary<'a>) -> Result<(&'a str, &'static Split)> {
    // Old files lack the name, and some converters write "default" instead of
    // one. These architectures leave no doubt what is meant.
    let implied = match vocabulary.architecture() {
        "gpt2" => Some("gpt-2"),
        "gptneox" => Some("olmo"),
        "qwen2" | "qwen3" => Some("qwen2"),
        "olmo2" => Some("dbrx"),
        _ => None,
    };
    let name = match (vocabulary.string("pre")?, implied) {
        (None | Some("default"), Some(name)) => name,
        // A guess could silently give wrong ids.
        (None | Some("default"), None) => {
            let says = vocabulary.string("pre")?.map_or("is missing", |_| "is 'default'");
            return Err(vocabulary.bad(
                "pre",
                format!(
                    "it {says}, so that the pre-tokenizer is unknown, and the architecture does not imply one"
                ),
            ));
        }
        (Some(name), _) => name,
    };
    match pretokenizers::find(name) {
        Some(split) => Ok((name, split)),
        // Another pre-tokenizer gives ids that the model was not trained on, so
        // there is no fallback.
        None => {
            let known = pretokenizers::names().collect::<Vec<_>>().join(", ");
            Err(vocabulary.bad(
                "pre",
                format!("{} is not known; known are {known}; or give a tokenizer.json", brief(name)),
            ))
        }
    }
}

/// The merges that the file lists.
pub(super) fn merges(vocabulary: &Vocabulary<'_>) -> Result<Merges> {
    let lines = vocabulary.strings("merges")?;
    let mut seen = std::collections::HashSet::with_capacity(lines.len());
    let mut merges = Merges::with_capacity(lines.len());
    let mut joined = String::new();
    for (at, line) in lines.into_iter().enumerate() {
        let bad = |what: &str| vocabulary.bad("merges", format!("entry {at}, {}, {what}", brief(line)));
        let Some((left, right)) = line.split_once(' ') else {
            return Err(bad("is not two tokens separated by a space"));
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        // The merged token must exist too: the model would index out of bounds otherwise.
        if [left, right, &joined].iter().any(|part| part.is_empty() || vocabulary.find(part).is_none()) {
            return Err(bad("refers to a token that does not exist"));
        }
        if !seen.insert(line) {
            return Err(bad("is there twice"));
        }
        merges.push((left.to_owned(), right.to_owned()));
    }
    Ok(merges)
}

/// The byte that a character encodes. Printable bytes of Latin-1 encode themselves; the other 68 are
/// U+0100 and following, in order.
pub(super) fn byte_of(letter: char) -> Option<u8> {
    let code = u32::from(letter);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_letter() {
        let mut bytes: Vec<u8> = ('\0'..'\u{400}').filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        for (letter, byte) in [('Ġ', b' '), ('Ċ', b'\n'), ('ĉ', b'\t'), ('Ń', 0xad), ('ł', 0xa0), ('ġ', 0x7f)]
        {
            assert_eq!(byte_of(letter), Some(byte), "{letter}");
        }
    }
}
