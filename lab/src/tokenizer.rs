//! Byte-level byte-pair encoding, which without merges is bytes.

use anyhow::{Result, anyhow};
use std::path::Path;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerImpl};

type Inner =
    TokenizerImpl<BPE, tokenizers::NormalizerWrapper, ByteLevel, tokenizers::PostProcessorWrapper, ByteLevel>;

/// The token between texts.
const BETWEEN: &str = "<|endoftext|>";

/// Cuts texts into tokens.
pub struct Tokenizer(Inner);

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tokenizer").field(&self.vocabulary()).finish()
    }
}

impl Tokenizer {
    /// The id of the token between texts.
    pub const BETWEEN: u32 = 0;

    /// A tokenizer of at most `vocabulary` tokens, with the merges that shorten these texts most.
    ///
    /// # Errors
    /// When training fails.
    pub fn train(texts: &[String], vocabulary: usize) -> Result<Self> {
        let level = ByteLevel::new(false, true, true);
        let mut inner: Inner = TokenizerImpl::new(BPE::default());
        inner.with_pre_tokenizer(Some(level)).with_decoder(Some(level));
        let mut trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocabulary)
            .min_frequency(2)
            .special_tokens(vec![AddedToken::from(BETWEEN, true)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        inner.train(&mut trainer, texts.iter()).map_err(failed)?;
        Ok(Self(inner))
    }

    /// The number of tokens.
    pub fn vocabulary(&self) -> usize {
        self.0.get_vocab_size(true)
    }

    /// The tokens of texts one after the other, each behind the token between texts.
    ///
    /// # Errors
    /// When a text cannot be cut.
    pub fn stream(&self, texts: &[String]) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        for text in texts {
            tokens.push(Self::BETWEEN);
            tokens.extend(self.0.encode(text.as_str(), false).map_err(failed)?.get_ids());
        }
        Ok(tokens)
    }

    /// Writes `tokenizer.json`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.0.save(path, true).map_err(failed)
    }
}

fn failed(error: tokenizers::Error) -> anyhow::Error {
    anyhow!("the tokenizer failed: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_tokens_without_merges() {
        let texts = ["so so ä".to_owned()];
        let bytes = Tokenizer::train(&texts, 257).unwrap();
        assert_eq!(bytes.vocabulary(), 257);
        let tokens = bytes.stream(&texts).unwrap();
        assert_eq!((tokens.len(), tokens[0]), (1 + "so so ä".len(), Tokenizer::BETWEEN));
        let merged = Tokenizer::train(&texts, 300).unwrap();
        assert!(merged.stream(&texts).unwrap().len() < tokens.len());
    }
}
