//! Tokenizers: `tokenizer.json`, or the metadata of a GGUF file.
//!
//! Both become a pipeline of the `tokenizers` crate, so that a model gives the same ids from either file.

mod bpe;
mod hugging_face;
mod json;
mod metadata;
mod pretokenizers;
mod spm;
mod vocab_txt;

use crate::error::{Error, Result};
use crate::{files, gguf};
use metadata::{TokenKind, Vocabulary, brief};
use serde::Serialize;
use serde_json::Value;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use tokenizers::{AddedToken, Model, ModelWrapper};

/// Text to ids and back, for one model.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    style: Style,
    policy: Policy,
    mask: Option<u32>,
    unknown: Option<u32>,
    description: Description,
    warnings: Vec<String>,
}

/// The kind of a tokenizer whose tokens are symbols.
const SYMBOLS: &str = "vocab.txt (symbols)";

/// A description of a tokenizer, for reports and `run.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Its source and algorithm: "tokenizer.json (BPE)", "gguf gpt2/qwen2".
    pub kind: String,
    /// Number of tokens, added ones included.
    pub vocab: usize,
    /// Number of control tokens (BOS, chat turns, ...).
    pub specials: usize,
    /// Whether [`Tokenizer::encode`] adds a token before the text.
    pub adds_bos: bool,
    /// Whether [`Tokenizer::encode`] adds a token after the text.
    pub adds_eos: bool,
    /// The BOS token, if the files name one.
    pub bos: Option<String>,
    /// The EOS token, if the files name one.
    pub eos: Option<String>,
}

/// How the vocabulary encodes the bytes of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Style {
    /// One printable character per byte, as in GPT-2.
    ByteLevel,
    /// "▁" for a space, `<0xNN>` for bytes that no piece covers.
    SentencePiece,
    /// As plain text.
    Plain,
}

/// What adds tokens around a text.
enum Policy {
    /// The post-processor of `tokenizer.json`.
    PostProcessor,
    /// These ids, before and after it.
    Around(Option<u32>, Option<u32>),
}

impl Tokenizer {
    /// Reads a `tokenizer.json` and the `tokenizer_config.json` beside it. Special tokens and tokens around a
    /// text follow the files; padding and truncation are off, because every statistic is about the text as
    /// given.
    ///
    /// # Errors
    /// When a file cannot be read or is not a tokenizer.
    pub fn from_json_file(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        files::refuse_pointer(path, &bytes)?;
        Self::from_json(path, &bytes, &config_beside(path)?)
    }

    /// Reads a `vocab.txt` and the `tokenizer_config.json` beside it: WordPiece, or symbols of which each is a token.
    /// An encoder has special tokens around a text, a causal model has none.
    ///
    /// # Errors
    /// When a file cannot be read or is not a vocabulary.
    pub fn from_vocab_file(path: &Path, encoder: bool) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        files::refuse_pointer(path, &bytes)?;
        let bad = |what: String| Error::tokenizer(path, format!("not a vocabulary: {what}"));
        let text = String::from_utf8(bytes).map_err(|_| bad("it is not UTF-8".into()))?;
        let config = config_beside(path)?;
        let json = vocab_txt::to_json(&text, &config, encoder).map_err(bad)?;
        let mut this = Self::from_json(path, json.to_string().as_bytes(), &config)?;
        this.description.kind = this.description.kind.replace("tokenizer.json", "vocab.txt");
        if this.description.kind.contains("WordLevel") {
            this.description.kind = SYMBOLS.into();
        }
        Ok(this)
    }

    /// Builds the tokenizer from the content of `tokenizer.json` and `tokenizer_config.json`.
    fn from_json(path: &Path, bytes: &[u8], config: &Value) -> Result<Self> {
        let json::Loaded { inner, around: (before, after), warnings } =
            json::load(bytes, config).map_err(|e| {
                Error::tokenizer(
                    path,
                    format!("not a valid tokenizer file ({e}); save it again with transformers"),
                )
            })?;
        let token = |id: Option<u32>| id.and_then(|id| inner.id_to_token(id));
        let model = match inner.get_model() {
            ModelWrapper::BPE(_) => "BPE",
            ModelWrapper::Unigram(_) => "Unigram",
            ModelWrapper::WordPiece(_) => "WordPiece",
            ModelWrapper::WordLevel(_) => "WordLevel",
        };
        let description = Description {
            kind: format!("tokenizer.json ({model})"),
            vocab: inner.get_vocab_size(true),
            specials: specials(&inner),
            adds_bos: before.is_some(),
            adds_eos: after.is_some(),
            bos: token(before).or(json::named(config, "bos_token")),
            eos: token(after).or(json::named(config, "eos_token")),
        };
        let style = style_of(&inner);
        let named = |key: &str, usual: [&str; 2]| {
            let own = json::named(config, key).into_iter();
            own.chain(usual.map(str::to_owned)).find_map(|token| inner.token_to_id(&token))
        };
        let (mask, unknown) =
            (named("mask_token", ["[MASK]", "<mask>"]), named("unk_token", ["[UNK]", "<unk>"]));
        let policy = Policy::PostProcessor;
        Ok(Self { path: path.to_owned(), inner, style, policy, mask, unknown, description, warnings })
    }

    /// Builds the tokenizer described by the metadata of a GGUF file; `path` is for messages.
    ///
    /// # Errors
    /// When the metadata lacks a key, contradicts itself, or names an unsupported kind of tokenizer.
    pub fn from_gguf(path: &Path, header: &gguf::Header) -> Result<Self> {
        let vocabulary = Vocabulary::read(path, header)?;
        let built = match vocabulary.model()? {
            "gpt2" => bpe::build(&vocabulary)?,
            "llama" => spm::build(&vocabulary)?,
            "gemma4" => spm::build_listed(&vocabulary)?,
            other => {
                let what = format!(
                    "{} is not supported; gpt2, llama and gemma4 are, or give a tokenizer.json",
                    brief(other)
                );
                return Err(vocabulary.bad("model", what));
            }
        };
        let Built { mut inner, kind, style, bos, eos, adds_bos, adds_eos } = built;
        inner
            .add_tokens(added_tokens(&vocabulary))
            .map_err(|e| vocabulary.bad("tokens", format!("its special tokens cannot be used ({e})")))?;
        let around = |adds: bool, id: Option<u32>, key: &str| match (adds, id) {
            (false, _) => Ok(None),
            (true, Some(id)) => Ok(Some(id)),
            (true, None) => {
                Err(vocabulary.bad(key, "it is missing, although the file says to add this token"))
            }
        };
        let policy =
            Policy::Around(around(adds_bos, bos, "bos_token_id")?, around(adds_eos, eos, "eos_token_id")?);
        let text = |id: Option<u32>| id.and_then(|id| vocabulary.token(id)).map(str::to_owned);
        let description = Description {
            kind,
            vocab: vocabulary.len(),
            specials: specials(&inner),
            adds_bos,
            adds_eos,
            bos: text(bos),
            eos: text(eos),
        };
        let (mask, unknown, warnings) = (None, None, Vec::new());
        Ok(Self { path: path.to_owned(), inner, style, policy, mask, unknown, description, warnings })
    }

    /// A description of the tokenizer.
    pub fn describe(&self) -> &Description {
        &self.description
    }

    /// The ids of a text, with the tokens that the model expects around it.
    ///
    /// # Errors
    /// When the tokenizer has no token for a part of the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self.policy {
            Policy::PostProcessor => self.run(text, true),
            Policy::Around(before, after) => {
                let ids = self.run(text, false)?;
                Ok(before.into_iter().chain(ids).chain(after).collect())
            }
        }
    }

    /// The ids of the text alone; special tokens written in it are recognised.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        self.run(text, false)
    }

    fn run(&self, text: &str, around: bool) -> Result<Vec<u32>> {
        match guarded(|| self.inner.encode_fast(text, around)) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(e) => {
                let what = format!("it cannot encode this text ({e}); is it the tokenizer of this model?");
                Err(Error::tokenizer(&self.path, what))
            }
        }
    }

    /// The token that hides another one from a masked model.
    pub fn mask(&self) -> Option<u32> {
        self.mask
    }

    /// The token of what the vocabulary lacks.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// Whether each symbol of a text is a token, as the residues of proteins are.
    pub fn has_symbols(&self) -> bool {
        self.description.kind == SYMBOLS
    }

    /// Whether a token is special: it stands for no part of a text.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        added.get(&id).is_some_and(|token| token.special)
    }

    /// Warnings for the user about the files, one sentence each.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// One token as readable text, with U+FFFD for bytes that are only part of a character. An id without a
    /// token is shown as `[id]`.
    pub fn piece(&self, id: u32) -> String {
        if let Some(added) = self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id) {
            return added.content.clone();
        }
        let Some(token) = self.inner.get_model().id_to_token(id) else {
            return format!("[{id}]");
        };
        match self.style {
            Style::ByteLevel => match token.chars().map(bpe::byte_of).collect::<Option<Vec<u8>>>() {
                Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                None => token,
            },
            Style::SentencePiece => match spm::byte_of(&token) {
                Some(byte) => String::from_utf8_lossy(&[byte]).into_owned(),
                None => token.replace(spm::SPACE, " "),
            },
            Style::Plain => token,
        }
    }

    /// The text of ids, including special tokens. Ids without a token are skipped.
    pub fn decode(&self, ids: &[u32]) -> String {
        // Decoders fail only on tokens they cannot decode; the single pieces are the best approximation then.
        guarded(|| self.inner.decode(ids, false))
            .unwrap_or_else(|_| ids.iter().map(|id| self.piece(*id)).collect())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("path", &self.path).field("description", &self.description).finish()
    }
}

/// The `tokenizer_config.json` beside a file; `null` if there is none.
fn config_beside(path: &Path) -> Result<Value> {
    let beside = path.with_file_name("tokenizer_config.json");
    if beside.is_file() { files::json(&beside) } else { Ok(Value::Null) }
}

/// A tokenizer built from a GGUF vocabulary of either kind.
struct Built {
    inner: tokenizers::Tokenizer,
    kind: String,
    style: Style,
    bos: Option<u32>,
    eos: Option<u32>,
    adds_bos: bool,
    adds_eos: bool,
}

/// Tokens that are matched in the text before anything else.
fn added_tokens(vocabulary: &Vocabulary<'_>) -> Vec<AddedToken> {
    let strips = vocabulary.strips_after_marks();
    let added = vocabulary.entries().filter_map(|(_, text, kind)| {
        let special = match kind {
            TokenKind::Control | TokenKind::Unknown => true,
            TokenKind::UserDefined => false,
            TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => return None,
        };
        let strip = strips && !matches!(text, "<unk>" | "<s>" | "<|endoftext|>");
        Some(AddedToken::from(text, special).normalized(false).rstrip(strip))
    });
    added.collect()
}

fn specials(inner: &tokenizers::Tokenizer) -> usize {
    inner.get_added_vocabulary().get_added_tokens_decoder().values().filter(|t| t.special).count()
}

/// Calls the `tokenizers` crate and turns a panic into an error. In a few places the crate indexes by
/// values from the file, so that a crafted file can make it panic. The only state that a panic could leave
/// inconsistent is a cache, which checks itself.
fn guarded<T>(f: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    let before = GUARDED.replace(true);
    let result = std::panic::catch_unwind(AssertUnwindSafe(f));
    GUARDED.set(before);
    result.unwrap_or_else(|_| Err("its parts are inconsistent".into()))
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread will become an error about a file, so that a panic hook need not report
/// it.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// The style of a `tokenizer.json`, derived from its decoder.
fn style_of(inner: &tokenizers::Tokenizer) -> Style {
    let decoder = inner.get_decoder().and_then(|d| serde_json::to_string(d).ok()).unwrap_or_default();
    if decoder.contains("\"ByteLevel\"") {
        Style::ByteLevel
    } else if decoder.contains(spm::SPACE) {
        Style::SentencePiece
    } else {
        Style::Plain
    }
}
