//! The vocabulary in the metadata of a GGUF file, validated.

use crate::error::{Error, Result};
use crate::gguf::{Header, Numbers, Value};
use std::path::Path;
use tokenizers::models::bpe::Vocab;

/// The purpose of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// Tokens and their kinds; the key of a token's entry is its id.
pub(super) struct Vocabulary<'a> {
    path: &'a Path,
    header: &'a Header,
    tokens: Vec<&'a str>,
    kinds: Vec<TokenKind>,
    ids: Vocab,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn read(path: &'a Path, header: &'a Header) -> Result<Self> {
        let mut this = Self { path, header, tokens: Vec::new(), kinds: Vec::new(), ids: Vocab::new() };
        this.tokens = this.strings("tokens")?;
        if this.tokens.is_empty() || u32::try_from(this.tokens.len()).is_err() {
            return Err(this.bad("tokens", format!("it has {} entries", this.tokens.len())));
        }
        this.kinds = this.read_kinds()?;
        this.ids.reserve(this.tokens.len());
        for (id, token) in (0u32..).zip(&this.tokens) {
            if let Some(first) = this.ids.insert((*token).to_owned(), id) {
                return Err(
                    this.bad("tokens", format!("{} is both token {first} and token {id}", brief(token)))
                );
            }
        }
        Ok(this)
    }

    fn read_kinds(&self) -> Result<Vec<TokenKind>> {
        let Some(values) = self.numbers("token_type")? else {
            return Ok(vec![TokenKind::Normal; self.tokens.len()]);
        };
        self.same_length("token_type", values)?;
        let kind = |(id, value): (usize, Value)| match value.as_usize() {
            // 0 is "undefined", which llama.cpp treats like a normal token.
            Some(0 | 1) => Ok(TokenKind::Normal),
            Some(2) => Ok(TokenKind::Unknown),
            Some(3) => Ok(TokenKind::Control),
            Some(4) => Ok(TokenKind::UserDefined),
            Some(5) => Ok(TokenKind::Unused),
            Some(6) => Ok(TokenKind::Byte),
            _ => Err(self.bad("token_type", format!("token {id} has the impossible type {}", brief(value)))),
        };
        values.iter().enumerate().map(kind).collect()
    }

    /// An error that names a key of the tokenizer.
    pub(super) fn bad(&self, key: &str, what: impl std::fmt::Display) -> Error {
        let what = format!("tokenizer.ggml.{key}: {what}; fetch or convert the model again");
        Error::tokenizer(self.path, what)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.header.get(&format!("tokenizer.ggml.{key}"))
    }

    fn numbers(&self, key: &str) -> Result<Option<&'a Numbers>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Numbers(values)) => Ok(Some(values)),
            Some(_) => Err(self.bad(key, "it is not an array of numbers")),
        }
    }

    fn same_length(&self, key: &str, values: &Numbers) -> Result<()> {
        if values.len() == self.tokens.len() {
            return Ok(());
        }
        let (found, wanted) = (values.len(), self.tokens.len());
        Err(self.bad(key, format!("it has {found} entries for {wanted} tokens")))
    }

    /// A required array of strings.
    pub(super) fn strings(&self, key: &str) -> Result<Vec<&'a str>> {
        match self.get(key) {
            None => Err(self.bad(key, "it is missing")),
            Some(Value::Strings(values)) => Ok(values.iter().map(String::as_str).collect()),
            Some(_) => Err(self.bad(key, "it is not an array of strings")),
        }
    }

    /// The score of each token.
    pub(super) fn scores(&self) -> Result<Vec<f64>> {
        let values = self.numbers("scores")?.ok_or_else(|| self.bad("scores", "it is missing"))?;
        self.same_length("scores", values)?;
        let score = |(id, value): (usize, Value)| match value.as_f64() {
            Some(score) if score.is_finite() => Ok(score),
            _ => Err(self.bad("scores", format!("token {id} has the score {}", brief(value)))),
        };
        values.iter().enumerate().map(score).collect()
    }

    /// A boolean, if it is present.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.bad(key, format!("{} is not a boolean", brief(other)))),
        }
    }

    /// The id of a token, if it is present.
    pub(super) fn id(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_usize().and_then(|id| u32::try_from(id).ok()) {
            Some(id) if self.token(id).is_some() => Ok(Some(id)),
            _ => Err(self.bad(
                key,
                format!("{} is not the id of one of the {} tokens", brief(value), self.tokens.len()),
            )),
        }
    }

    /// A string, if it is present.
    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.bad(key, format!("{} is not a string", brief(other)))),
        }
    }

    /// The kind of tokenizer.
    pub(super) fn model(&self) -> Result<&'a str> {
        self.string("model")?.ok_or_else(|| self.bad("model", "it is missing"))
    }

    /// The architecture of the model, or an empty string.
    pub(super) fn architecture(&self) -> &'a str {
        self.header.get("general.architecture").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether control tokens strip the spaces after them, as in Phi-3. No key says so; llama.cpp looks at
    /// the model's name, which implies the architecture. Phi-4 has the same architecture with another
    /// vocabulary, and does not strip.
    pub(super) fn strips_after_marks(&self) -> bool {
        self.architecture() == "phi3" && matches!(self.model(), Ok("llama"))
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The text of a token.
    pub(super) fn token(&self, id: u32) -> Option<&'a str> {
        self.tokens.get(usize::try_from(id).ok()?).copied()
    }

    /// The id of a text.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// The kind of the token with this text.
    pub(super) fn kind_of(&self, text: &str) -> Option<TokenKind> {
        self.kinds.get(usize::try_from(self.find(text)?).ok()?).copied()
    }

    /// Id, text and kind of every token.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u32, &'a str, TokenKind)> {
        (0u32..).zip(self.tokens.iter().zip(&self.kinds)).map(|(id, (token, kind))| (id, *token, *kind))
    }

    /// The ids by text.
    pub(super) fn vocab(&self) -> Vocab {
        self.ids.clone()
    }
}

/// A value from the file for a message, shortened to stay readable.
pub(super) fn brief(value: impl std::fmt::Debug) -> String {
    const MOST: usize = 60;
    let text = format!("{value:?}");
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
