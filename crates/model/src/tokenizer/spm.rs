//! SentencePiece's BPE (`tokenizer.ggml.model` is "llama", or "gemma4", whose files list the merges).
//!
//! SentencePiece repeatedly merges the neighbours whose union is the piece with the highest score. A
//! vocabulary with scores is therefore a list of merges: every split of a piece into two pieces, best score
//! first.

use super::metadata::{TokenKind, Vocabulary};
use super::{Built, Style, bpe};
use crate::error::Result;
use std::cmp::Reverse;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges};
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::{Prepend, Sequence as Normalizers};

/// The character that encodes a space in pieces.
pub(super) const SPACE: char = '▁';

/// Maximum length of a piece in bytes. Real ones are shorter than 100; without a limit a hostile file takes
/// time quadratic in its length.
const MAX_PIECE: usize = 256;

/// Maximum average number of merges per piece. Real vocabularies have about two.
const MAX_MERGES: usize = 16;

pub(super) fn build(vocabulary: &Vocabulary<'_>) -> Result<Built> {
    with_merges(vocabulary, merges(vocabulary)?, true, "gguf llama")
}

/// The same vocabulary with the merges that the file lists.
pub(super) fn build_listed(vocabulary: &Vocabulary<'_>) -> Result<Built> {
    with_merges(vocabulary, bpe::merges(vocabulary)?, false, "gguf gemma4")
}

fn with_merges(vocabulary: &Vocabulary<'_>, merges: Merges, adds_space: bool, kind: &str) -> Result<Built> {
    let unknown = unknown(vocabulary)?;
    let model = BPE::builder()
        .vocab_and_merges(vocabulary.vocab(), merges)
        .unk_token(unknown.to_owned())
        .fuse_unk(true)
        .byte_fallback(true)
        .build()
        .map_err(|e| vocabulary.bad("tokens", e))?;
    let mut inner = tokenizers::Tokenizer::new(model);
    let prefix = vocabulary.flag("add_space_prefix")?.unwrap_or(adds_space);
    spaces(&mut inner, prefix).map_err(|e| vocabulary.bad("add_space_prefix", e))?;
    // SentencePiece's ids where the file has none, as in llama.cpp.
    let or_usual = |key, usual| -> Result<Option<u32>> {
        Ok(vocabulary.id(key)?.or_else(|| vocabulary.token(usual).map(|_| usual)))
    };
    Ok(Built {
        inner,
        kind: kind.into(),
        style: Style::SentencePiece,
        bos: or_usual("bos_token_id", 1)?,
        eos: or_usual("eos_token_id", 2)?,
        adds_bos: vocabulary.flag("add_bos_token")?.unwrap_or(true),
        adds_eos: vocabulary.flag("add_eos_token")?.unwrap_or(false),
    })
}

/// Spaces to "▁" and back.
fn spaces(inner: &mut tokenizers::Tokenizer, prefix: bool) -> tokenizers::Result<()> {
    let mark = SPACE.to_string();
    let mut normalizers = vec![Replace::new(" ", mark.as_str())?.into()];
    let mut decoders =
        vec![Replace::new(mark.as_str(), " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefix {
        normalizers.insert(0, Prepend::new(mark).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    inner.with_normalizer(Some(Normalizers::new(normalizers)))?;
    inner.with_decoder(Some(Decoders::new(decoders)));
    Ok(())
}

/// The token for text that no piece and no byte covers.
fn unknown<'a>(vocabulary: &Vocabulary<'a>) -> Result<&'a str> {
    let marked = || vocabulary.entries().find(|(_, _, kind)| *kind == TokenKind::Unknown).map(|(id, ..)| id);
    let id = vocabulary.id("unknown_token_id")?.or_else(marked).unwrap_or(0);
    vocabulary.token(id).ok_or_else(|| vocabulary.bad("unknown_token_id", "there is no such token"))
}

/// A piece and one way to split it.
struct Merge<'a> {
    score: f64,
    left: &'a str,
    right: &'a str,
}

fn merges(vocabulary: &Vocabulary<'_>) -> Result<Merges> {
    let scores = vocabulary.scores()?;
    let most = vocabulary.len().saturating_mul(MAX_MERGES).saturating_add(4096);
    let mut found = Vec::with_capacity(vocabulary.len());
    for ((id, piece, kind), score) in vocabulary.entries().zip(scores) {
        if !joins(kind) {
            continue;
        }
        if piece.len() > MAX_PIECE {
            return Err(vocabulary.bad("tokens", format!("token {id} is a piece of {} bytes", piece.len())));
        }
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if [left, right].into_iter().all(|part| vocabulary.kind_of(part).is_some_and(joins)) {
                found.push(Merge { score, left, right });
            }
        }
        if found.len() > most {
            return Err(
                vocabulary.bad("tokens", "the pieces split into one another in implausibly many ways")
            );
        }
    }
    // Ties in the order in which Hugging Face's converter breaks them: the
    // longer left part, then the longer right part, then the smaller id.
    found
        .sort_by_cached_key(|m| Reverse((Ordered(m.score), m.left.chars().count(), m.right.chars().count())));
    Ok(found.into_iter().map(|m| (m.left.to_owned(), m.right.to_owned())).collect())
}

/// Whether a token takes part in merges: control tokens and bytes do not.
fn joins(kind: TokenKind) -> bool {
    matches!(kind, TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused)
}

/// A finite score, with -0 mapped to 0.
#[derive(PartialEq)]
struct Ordered(f64);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0 + 0.0).total_cmp(&(other.0 + 0.0))
    }
}

/// The byte of a token such as `<0x0A>`.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || digits.starts_with('+') {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}
