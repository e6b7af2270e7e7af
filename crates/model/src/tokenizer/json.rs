//! `tokenizer.json` and the `tokenizer_config.json` beside it, read as transformers' AutoTokenizer does.

use super::guarded;
use serde::Deserialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use tokenizers::AddedToken;

/// The named tokens of `tokenizer_config.json`.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A tokenizer and the tokens it adds around a text.
pub(super) struct Loaded {
    pub(super) inner: tokenizers::Tokenizer,
    /// The tokens that the post-processor adds around a text. As in transformers, it takes precedence over
    /// `add_bos_token` and `add_eos_token` of `tokenizer_config.json`.
    pub(super) around: Surroundings,
    /// Warnings for the user.
    pub(super) warnings: Vec<String>,
}

/// Builds the tokenizer from the bytes of a `tokenizer.json` and the content of a `tokenizer_config.json`,
/// `null` if there is none. Padding and truncation are off.
///
/// # Errors
/// Describes what is wrong with the files.
pub(super) fn load(bytes: &[u8], config: &Value) -> Result<Loaded, String> {
    let (bytes, listed) = with_tokens_of(config, bytes)?;
    let built = guarded(|| {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)?;
        inner.with_padding(None).with_truncation(None)?;
        let named = named_tokens(&inner, config);
        inner.add_tokens(named)?;
        Ok(inner)
    });
    let inner = built.map_err(|e| e.to_string())?;
    let mut warnings = moved(&inner, &listed);
    warnings.extend(not_honoured(&inner, config));
    let around = guarded(|| surroundings(&inner)).map_err(|e| e.to_string())?;
    Ok(Loaded { inner, around, warnings })
}

/// The part of a `tokenizer.json` that lists added tokens.
#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    added_tokens: Vec<Value>,
    #[serde(default)]
    model: Option<ModelPart>,
}

/// The part of its model that makes tokenisation random, as in training.
#[derive(Deserialize)]
struct ModelPart {
    #[serde(default)]
    dropout: Option<f64>,
}

/// Added tokens by id, as `tokenizer.json` lists them.
type ById = BTreeMap<u64, Value>;

/// The bytes of a `tokenizer.json` with the added tokens of the configuration merged in, and all added
/// tokens by id.
fn with_tokens_of<'a>(config: &Value, bytes: &'a [u8]) -> Result<(Cow<'a, [u8]>, ById), String> {
    let Listed { added_tokens, model } = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let own: ById =
        added_tokens.into_iter().filter_map(|token| Some((token.get("id")?.as_u64()?, token))).collect();
    let mut all = own.clone();
    for (id, token) in config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        let bad = |what: &str| format!("'added_tokens_decoder' of tokenizer_config.json has the {what}");
        let id = id.parse().map_err(|_| bad(&format!("id '{id}', which is not a number")))?;
        let AddedToken { content, single_word, lstrip, rstrip, normalized, special } =
            added_token(token).ok_or_else(|| bad(&format!("token {id} without a text")))?;
        all.insert(
            id,
            json!({
                "id": id, "content": content, "single_word": single_word, "lstrip": lstrip,
                "rstrip": rstrip, "normalized": normalized, "special": special,
            }),
        );
    }
    let drops = model.and_then(|model| model.dropout).is_some_and(|share| share > 0.0);
    if all == own && !drops {
        return Ok((Cow::Borrowed(bytes), own));
    }
    let mut file: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    file["added_tokens"] = all.values().cloned().collect();
    if drops {
        // Tokenisation must be deterministic, so BPE dropout is off.
        file["model"]["dropout"] = Value::Null;
    }
    Ok((Cow::Owned(file.to_string().into_bytes()), all))
}

/// Warnings about tokens whose id differs from the files.
fn moved(inner: &tokenizers::Tokenizer, listed: &ById) -> Vec<String> {
    let moved = listed.iter().filter_map(|(id, token)| {
        let text = token.get("content")?.as_str()?;
        let got = inner.token_to_id(text)?;
        (u64::from(got) != *id).then(|| {
            format!("the tokenizer's files give the token '{text}' the id {id}, but lack tokens before it; it becomes {got}")
        })
    });
    moved.collect()
}

/// Warnings about settings of the configuration that would change tokens, but are not honoured.
fn not_honoured(inner: &tokenizers::Tokenizer, config: &Value) -> Vec<String> {
    let set = |name: &str| config.get(name) == Some(&Value::Bool(true));
    let cut = inner.get_pre_tokenizer().and_then(|p| serde_json::to_string(p).ok()).unwrap_or_default();
    let bare = cut.contains("\"ByteLevel\"") && cut.contains("\"add_prefix_space\":false");
    let names = [("split_special_tokens", true), ("add_prefix_space", bare)];
    let names = names.into_iter().filter(|(name, matters)| *matters && set(name));
    names
        .map(|(name, _)| {
            format!("tokenizer_config.json sets '{name}', which is not honoured: tokenizer.json is")
        })
        .collect()
}

/// The named tokens of the configuration that are not added tokens yet.
fn named_tokens(inner: &tokenizers::Tokenizer, config: &Value) -> Vec<AddedToken> {
    let named = NAMED.iter().filter_map(|name| config.get(name));
    let extra =
        ["additional_special_tokens", "extra_special_tokens"].iter().filter_map(|name| config.get(name));
    let extra = extra.flat_map(|extra| match extra {
        Value::Array(list) => list.iter().collect::<Vec<_>>(),
        Value::Object(named) => named.values().collect(),
        _ => Vec::new(),
    });
    let known = inner.get_added_tokens_decoder();
    let mut tokens: Vec<AddedToken> = Vec::new();
    for token in named.chain(extra).filter_map(added_token) {
        if !known.values().chain(&tokens).any(|old| old.content == token.content) {
            tokens.push(AddedToken { special: true, ..token });
        }
    }
    tokens
}

/// A token as written in `tokenizer_config.json`: a text, or an object with one.
fn added_token(value: &Value) -> Option<AddedToken> {
    if let Some(text) = value.as_str() {
        return Some(AddedToken::from(text, true));
    }
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(false);
    Some(AddedToken {
        content: value.get("content")?.as_str()?.to_owned(),
        single_word: flag("single_word").unwrap_or(false),
        lstrip: flag("lstrip").unwrap_or(false),
        rstrip: flag("rstrip").unwrap_or(false),
        normalized: flag("normalized").unwrap_or(!special),
        special,
    })
}

/// The text of a named token.
pub(super) fn named(config: &Value, name: &str) -> Option<String> {
    added_token(config.get(name)?).map(|token| token.content)
}

/// The first id before a text, and the last after it.
pub(super) type Surroundings = (Option<u32>, Option<u32>);

/// The tokens that the post-processor adds around a text, determined by encoding one.
fn surroundings(inner: &tokenizers::Tokenizer) -> tokenizers::Result<Surroundings> {
    let bare = inner.encode_fast("a", false)?.get_ids().to_vec();
    let full = inner.encode_fast("a", true)?.get_ids().to_vec();
    let mut starts = 0..=full.len().saturating_sub(bare.len());
    Ok(match starts.find(|at| full[*at..].starts_with(&bare)) {
        Some(at) => (full[..at].first().copied(), full[at + bare.len()..].last().copied()),
        None => (None, None),
    })
}
