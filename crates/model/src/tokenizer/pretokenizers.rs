//! Pre-tokenizers of byte-level BPE: how a text is split before merging.
//!
//! GGUF files hold only a name; the patterns are those of the `tokenizer.json` files behind the names.

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::split::{Split as Step, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

/// A pre-tokenizer, and other settings that its name implies.
pub(super) struct Split {
    /// The names of it in `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// Patterns, each of which splits the pieces left by the one before.
    patterns: &'static [&'static str],
    /// Whether the text is first normalised to NFC. llama.cpp omits it, but the models were trained with it.
    pub(super) nfc: bool,
    /// Whether a piece that is a token is kept whole, regardless of merges.
    pub(super) whole_words: bool,
    /// Whether BOS is added by default.
    pub(super) adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const SEED: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const HAN_AND_HANGUL: &str = r"[\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+";
/// The letters of scripts with two cases, as DeepSeek's first tokenizer lists them.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}\x{295}-",
    r"\x{2af}\x{370}-\x{373}\x{376}\x{377}\x{37b}-\x{37d}\x{37f}\x{386}\x{388}-\x{38a}\x{38c}\x{38e}-",
    r"\x{3a1}\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-",
    r"\x{13f5}\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77}",
    r"\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-",
    r"\x{1f57}\x{1f59}\x{1f5b}\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}",
    r"\x{1fc2}-\x{1fc4}\x{1fc6}-\x{1fcc}\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-",
    r"\x{1ff4}\x{1ff6}-\x{1ffc}\x{2102}\x{2107}\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124}",
    r"\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139}\x{213c}-\x{213f}\x{2145}-\x{2149}",
    r"\x{214e}\x{2183}\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}",
    r"\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f}\x{a771}-\x{a787}\x{a78b}-\x{a78e}\x{ab70}-",
    r"\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}\x{10400}-\x{1044f}",
    r"\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}\x{118a0}-\x{118df}",
    r"\x{1e900}-\x{1e943}]+",
);

/// Runs of what is neither white space nor one of some marks of several scripts.
const BLOOM: &str = r" ?[^(\s|.,!?\x{2026}\x{3002}\x{ff0c}\x{3001}\x{0964}\x{06d4}\x{060c})]+";

const PLAIN: Split = Split { names: &[], patterns: &[], nfc: false, whole_words: false, adds_bos: false };

const SPLITS: &[Split] = &[
    Split {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jais",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "trillion",
            "granite-docling",
        ],
        patterns: &[GPT2],
        ..PLAIN
    },
    // GPT-NeoX's tokenizer and its descendants.
    Split { names: &["olmo", "mpt"], patterns: &[GPT2], nfc: true, ..PLAIN },
    Split {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        patterns: &[r"\p{N}", GPT2],
        ..PLAIN
    },
    Split {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        patterns: &[LLAMA3],
        whole_words: true,
        adds_bos: true,
        ..PLAIN
    },
    Split { names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], patterns: &[LLAMA3], ..PLAIN },
    Split {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"],
        patterns: &[QWEN2],
        nfc: true,
        ..PLAIN
    },
    // The last pattern is llama.cpp's; the original may split off single digits.
    Split {
        names: &["deepseek-llm"],
        patterns: &[
            r"[\r\n]",
            DEEPSEEK_LETTERS,
            r"\s?[!-/:-\~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3000}-\x{3002}]+",
            r"\s+$",
            HAN_AND_HANGUL,
            r"\p{N}+",
        ],
        ..PLAIN
    },
    Split {
        names: &["deepseek-coder"],
        patterns: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN_AND_HANGUL, r"\p{N}"],
        ..PLAIN
    },
    Split {
        names: &["deepseek-v3", "hunyuan-dense"],
        patterns: &[r"\p{N}{1,3}", r"[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+", DEEPSEEK3],
        ..PLAIN
    },
    Split { names: &["bloom", "poro-chat", "gpt3-finnish"], patterns: &[BLOOM], ..PLAIN },
    Split { names: &["gpt-4o", "llama4"], patterns: &[GPT4O], ..PLAIN },
    Split { names: &["tekken"], patterns: &[TEKKEN], whole_words: true, adds_bos: true, ..PLAIN },
    Split { names: &["seed-coder"], patterns: &[SEED], ..PLAIN },
];

/// The pre-tokenizer of a name.
pub(super) fn find(name: &str) -> Option<&'static Split> {
    SPLITS.iter().find(|split| split.names.contains(&name))
}

/// All names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SPLITS.iter().flat_map(|split| split.names.iter().copied())
}

/// The steps, in order.
pub(super) fn steps(split: &Split) -> tokenizers::Result<Vec<PreTokenizerWrapper>> {
    let step = |pattern: &&str| {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        Ok(Step::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into())
    };
    split.patterns.iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::tokenizer::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    fn cut(name: &str, text: &str) -> Vec<String> {
        let mut pieces = PreTokenizedString::from(text);
        for step in steps(find(name).unwrap()).unwrap() {
            step.pre_tokenize(&mut pieces).unwrap();
        }
        let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(piece, ..)| piece.to_owned()).filter(|piece| !piece.is_empty()).collect()
    }

    #[test]
    fn texts_are_cut_as_the_reference_cuts_them() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/pretokenizers.json");
        let fixture: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut checked = 0;
        for (kind, about) in fixture["kinds"].as_object().unwrap() {
            let same = about["same"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
            for name in same.chain([kind.as_str()]) {
                for case in fixture["cases"].as_array().unwrap() {
                    let doubtful = case.get("doubtful").and_then(|d| d.as_array());
                    if doubtful.is_some_and(|d| d.iter().any(|k| k == kind)) {
                        continue;
                    }
                    let text = case["text"].as_str().unwrap();
                    let wanted: Vec<&str> = case["splits"][kind]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|s| s.as_str().unwrap())
                        .collect();
                    assert_eq!(cut(name, text), wanted, "{name}: {text:?}");
                    checked += 1;
                }
            }
        }
        assert!(checked > 500, "{checked}");
    }

    /// Kinds the fixture leaves out, by what sets them apart.
    #[test]
    fn the_other_kinds_cut_digits_and_cases_in_their_own_way() {
        assert_eq!(cut("deepseek-coder", "ab 12,\n世界x"), ["ab", " ", "1", "2", ",", "\n", "世界", "x"]);
        assert_eq!(
            cut("deepseek-v3", "x1234.foo .a世界!"),
            ["x", "123", "4", ".foo", " .", "a", "世界", "!"]
        );
        assert_eq!(
            cut("gpt-4o", "camelCASE's 1234 a//\n"),
            ["camel", "CASE's", " ", "123", "4", " a", "//\n"]
        );
        assert_eq!(cut("tekken", "camelCASE's 12"), ["camel", "CASE", "'s", " ", "1", "2"]);
        assert_eq!(cut("seed-coder", "a!\n12"), ["a", "!", "\n", "1", "2"]);
        assert_eq!(cut("qwen2", "a!\n12"), ["a", "!\n", "1", "2"]);
    }

    #[test]
    fn every_name_is_there_once_and_every_pattern_compiles() {
        let mut all: Vec<&str> = names().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        for split in SPLITS {
            assert_eq!(steps(split).unwrap().len(), split.patterns.len());
        }
    }
}
