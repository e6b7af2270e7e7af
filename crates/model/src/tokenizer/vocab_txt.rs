//! `vocab.txt`: WordPiece, or one symbol a line as protein models have it.
//!
//! The file becomes what a `tokenizer.json` of the same tokenizer says.

use serde_json::{Map, Value, json};

/// Special tokens by what they are for, under the names that files without a `tokenizer_config.json` use.
const USUAL: [(&str, [&str; 2]); 6] = [
    ("unk_token", ["[UNK]", "<unk>"]),
    ("cls_token", ["[CLS]", "<cls>"]),
    ("sep_token", ["[SEP]", "<sep>"]),
    ("eos_token", ["[EOS]", "<eos>"]),
    ("pad_token", ["[PAD]", "<pad>"]),
    ("mask_token", ["[MASK]", "<mask>"]),
];

/// The most tokens that are read of a file.
const MOST: usize = 1 << 22;

/// A `tokenizer.json` with the tokens of `text`, and the named tokens of `config` or of the usual names. An `encoder`
/// has its tokens around a text; a causal model has none.
///
/// # Errors
/// Describes what is wrong with the file.
pub(super) fn to_json(text: &str, config: &Value, encoder: bool) -> Result<Value, String> {
    let tokens: Vec<&str> = text.lines().map(str::trim_end).collect();
    if tokens.is_empty() || tokens.len() > MOST {
        return Err(format!("it has {} tokens; give a file with one token a line", tokens.len()));
    }
    let vocabulary: Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id.into())).collect();
    if vocabulary.len() != tokens.len() {
        let mut seen = std::collections::BTreeSet::new();
        let twice = tokens.iter().position(|token| !seen.insert(*token)).unwrap_or_default();
        return Err(format!("line {} repeats the token '{}'", twice + 1, tokens[twice]));
    }
    let id_of = |token: &str| vocabulary.get(token).and_then(Value::as_u64);
    let named = |key: &str| {
        let usual = USUAL.iter().find(|(name, _)| *name == key).into_iter().flat_map(|(_, names)| names);
        let own = super::json::named(config, key).filter(|token| id_of(token).is_some());
        own.or_else(|| usual.copied().find(|token| id_of(token).is_some()).map(str::to_owned))
    };
    let Some(unknown) = named("unk_token") else {
        return Err("it has no token for what is unknown, such as [UNK] or <unk>".into());
    };
    let symbols = has_symbols(&tokens);
    // Tokens of several characters are matched as they stand: special ones and, where each symbol is a token, all.
    let is_named = |token: &str| USUAL.iter().any(|(key, _)| named(key).as_deref() == Some(token));
    let added = tokens.iter().enumerate().filter(|(_, token)| is_named(token) || (symbols && is_long(token)));
    let added: Vec<Value> = added
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let around = named("cls_token").zip(named("sep_token").or_else(|| named("eos_token")));
    let processor = match around.filter(|_| encoder) {
        Some((before, after)) => template([&before, &after].map(|token| (token.as_str(), id_of(token)))),
        None => Value::Null,
    };
    let (normalizer, pre_tokenizer, model) = match symbols {
        true => (
            Value::Null,
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": false},
            ]}),
            json!({"type": "WordLevel", "vocab": vocabulary, "unk_token": unknown}),
        ),
        false => (
            bert_normalizer(config),
            json!({"type": "BertPreTokenizer"}),
            json!({"type": "WordPiece", "vocab": vocabulary, "unk_token": unknown,
                   "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}),
        ),
    };
    let decoder =
        if symbols { Value::Null } else { json!({"type": "WordPiece", "prefix": "##", "cleanup": true}) };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": processor, "decoder": decoder, "model": model,
    }))
}

/// Whether each line is one symbol, apart from special tokens.
fn has_symbols(tokens: &[&str]) -> bool {
    tokens
        .iter()
        .all(|token| !is_long(token) || (token.starts_with(['[', '<']) && token.ends_with([']', '>'])))
}

fn is_long(token: &str) -> bool {
    token.chars().nth(1).is_some()
}

fn template([before, after]: [(&str, Option<u64>); 2]) -> Value {
    let piece = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let sequence = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
    let mut special = Map::new();
    for (token, id) in [before, after] {
        special.insert(token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
    }
    json!({
        "type": "TemplateProcessing",
        "single": [piece(before.0), sequence("A", 0), piece(after.0)],
        "pair": [piece(before.0), sequence("A", 0), piece(after.0), sequence("B", 1), piece(after.0)],
        "special_tokens": special,
    })
}

/// The normaliser of BERT. It lower-cases unless the configuration says otherwise, as in transformers.
fn bert_normalizer(config: &Value) -> Value {
    let flag = |key: &str, default: bool| config.get(key).and_then(Value::as_bool).unwrap_or(default);
    json!({
        "type": "BertNormalizer", "clean_text": true,
        "handle_chinese_chars": flag("tokenize_chinese_chars", true),
        "strip_accents": config.get("strip_accents").cloned().unwrap_or(Value::Null),
        "lowercase": flag("do_lower_case", true),
    })
}
