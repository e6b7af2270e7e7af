//! Tokenizers against the ids of Hugging Face's own, and against hostile files.

use fathom_model::gguf::{Header, Numbers, Value};
use fathom_model::tokenizer::Tokenizer;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

type Json = serde_json::Value;

/// Prompts are encoded by many threads with one tokenizer.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Tokenizer>();
};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Json) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

fn header(name: &str) -> (PathBuf, Header) {
    let path = fixtures().join("gguf").join(name).with_extension("gguf");
    let header = Header::parse(&path, &std::fs::read(&path).unwrap()).unwrap();
    (path, header)
}

fn folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.join("tokenizer.json").is_file()).collect();
    folders.sort();
    assert!(folders.len() > 15, "{folders:?}");
    folders
}

#[test]
fn tokenizer_json_gives_the_ids_of_transformers() {
    for folder in folders() {
        let tokenizer = Tokenizer::from_json_file(&folder.join("tokenizer.json")).unwrap();
        let golden = json(&folder.join("golden.json"));
        if golden["bos"].is_null() {
            same_ids(&tokenizer, &golden);
            continue;
        }
        let about = tokenizer.describe();
        assert_eq!(Some(about.adds_bos), golden["bos"]["adds_bos"].as_bool(), "{folder:?}");
        if about.adds_bos {
            assert_eq!(about.bos.as_deref(), golden["bos"]["token"].as_str(), "{folder:?}");
        }
        assert_eq!(about.kind, "tokenizer.json (BPE)");
        for case in golden["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{folder:?} {text:?}");
            let bare = tokenizer.encode_bare(text).unwrap();
            assert_eq!(bare, ids(&case["ids_plain"]), "{folder:?} {text:?}");
            assert_eq!(tokenizer.decode(&bare), case["decoded"].as_str().unwrap(), "{folder:?} {text:?}");
        }
    }
}

fn same_ids(tokenizer: &Tokenizer, golden: &Json) {
    let texts = golden["texts"].as_array().unwrap();
    for case in texts {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{} {text:?}", golden["name"]);
    }
}

#[test]
fn vocab_txt_gives_the_ids_of_transformers() {
    for (name, kind, [mask, unknown]) in [
        ("esm", "vocab.txt (symbols)", [32, 3]),
        ("bert-symbols", "vocab.txt (symbols)", [4, 1]),
        ("bert", "vocab.txt (WordPiece)", [4, 1]),
    ] {
        let folder = fixtures().join(name);
        let tokenizer = Tokenizer::from_vocab_file(&folder.join("vocab.txt"), true).unwrap();
        assert_eq!(tokenizer.describe().kind, kind);
        assert_eq!([tokenizer.mask(), tokenizer.unknown()], [Some(mask), Some(unknown)]);
        assert!(tokenizer.is_special(mask) && !tokenizer.is_special(7));
        let golden = json(&folder.join("golden.json"));
        assert!(golden["texts"].as_array().unwrap().len() > 3);
        same_ids(&tokenizer, &golden);
    }
    // A residue is a token of its own, with or without spaces, and so is one that is unknown.
    let path = fixtures().join("bert-symbols/vocab.txt");
    let [encoder, causal] = [true, false].map(|encoder| Tokenizer::from_vocab_file(&path, encoder).unwrap());
    assert_eq!(encoder.encode("MKXX").unwrap(), [2, 15, 13, 1, 1, 3]);
    assert_eq!(encoder.encode("M K X X").unwrap(), [2, 15, 13, 1, 1, 3]);
    assert_eq!(causal.encode("MK").unwrap(), [15, 13]);
}

#[test]
fn damaged_vocabularies_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocab.txt");
    for (content, says) in [
        ("", "0 tokens"),
        ("A\nB\n", "no token for what is unknown"),
        ("[UNK]\nA\nA\n", "line 3 repeats the token 'A'"),
    ] {
        std::fs::write(&path, content).unwrap();
        let error = Tokenizer::from_vocab_file(&path, true).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(Tokenizer::from_vocab_file(&path, true).unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn gguf_metadata_gives_the_ids_of_the_models_own_tokenizer() {
    let all = json(&fixtures().join("gguf/tokenizers.json"));
    for (name, about) in all["files"].as_object().unwrap() {
        let (path, header) = header(name);
        let tokenizer = Tokenizer::from_gguf(&path, &header).unwrap();
        let described = tokenizer.describe();
        assert_eq!(Some(described.adds_bos), about["adds_bos"].as_bool(), "{name}");
        let kind = format!("gguf {}", about["tokenizer_model"].as_str().unwrap());
        assert!(described.kind.starts_with(&kind), "{}", described.kind);
        for case in about["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            // Mistral's handling of a first space cannot be distinguished from Llama 2's by
            // the file; the other differences are normalisation, which the name
            // of the pre-tokenizer implies.
            let wanted = case.get("ids_by_file").filter(|_| name == "mistral").unwrap_or(&case["ids"]);
            assert_eq!(tokenizer.encode(text).unwrap(), ids(wanted), "{name} {text:?}");
        }
    }
}

/// Files of Gemma 4 list the merges that other vocabularies of this kind imply.
#[test]
fn listed_merges_give_the_ids_of_implied_ones() {
    let all = json(&fixtures().join("gguf/tokenizers.json"));
    let (path, header) = header("gemma4");
    let tokenizer = Tokenizer::from_gguf(&path, &header).unwrap();
    assert_eq!((tokenizer.describe().kind.as_str(), tokenizer.describe().adds_bos), ("gguf gemma4", true));
    let texts = all["files"]["gemma3"]["texts"].as_array().unwrap();
    assert!(texts.len() > 50);
    for case in texts {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
    }
}

#[test]
fn both_sources_of_a_model_read_ids_alike() {
    for (name, folder) in [
        ("llama2", "llama2"),
        ("llama3", "llama3"),
        ("qwen3", "qwen3"),
        ("gemma3", "gemma3"),
        ("gemma4", "gemma4"),
        ("phi3", "phi3"),
        ("gptneox", "gpt_neox"),
        ("gpt2", "gpt2"),
        ("olmo2", "olmo2"),
    ] {
        let (path, header) = header(name);
        let from_gguf = Tokenizer::from_gguf(&path, &header).unwrap();
        let from_json = Tokenizer::from_json_file(&fixtures().join(folder).join("tokenizer.json")).unwrap();
        let vocab = u32::try_from(from_json.describe().vocab).unwrap();
        for id in 0..vocab {
            assert_eq!(from_gguf.piece(id), from_json.piece(id), "{name} {id}");
        }
        for case in json(&fixtures().join(folder).join("golden.json"))["texts"].as_array().unwrap() {
            let ids = ids(&case["ids_plain"]);
            assert_eq!(from_gguf.decode(&ids), case["decoded"].as_str().unwrap(), "{name}");
        }
    }
}

#[test]
fn pieces_of_a_text_are_its_text() {
    for folder in folders() {
        let tokenizer = Tokenizer::from_json_file(&folder.join("tokenizer.json")).unwrap();
        if tokenizer.describe().kind.contains("WordPiece") {
            // It keeps no spaces.
            continue;
        }
        let ids = tokenizer.encode_bare("The layers can't see\n\t42 streams.").unwrap();
        let text: String = ids.iter().map(|id| tokenizer.piece(*id)).collect();
        assert_eq!(text.trim_start(), "The layers can't see\n\t42 streams.", "{folder:?}");
        assert_eq!(tokenizer.piece(u32::MAX), format!("[{}]", u32::MAX));
    }
}

#[test]
fn pieces_of_half_a_character_are_shown_as_such() {
    for (name, half) in [("gpt2", "Ã"), ("llama2", "<0xC3>")] {
        let (path, header) = header(name);
        let Some(Value::Strings(tokens)) = header.get("tokenizer.ggml.tokens") else { panic!() };
        let id = tokens.iter().position(|token| token == half).unwrap();
        let tokenizer = Tokenizer::from_gguf(&path, &header).unwrap();
        assert_eq!(tokenizer.piece(u32::try_from(id).unwrap()), "\u{fffd}", "{name}");
    }
}

#[test]
fn padding_and_truncation_of_the_file_are_switched_off() {
    let source = fixtures().join("llama3/tokenizer.json");
    let mut edited = json(&source);
    edited["truncation"] = serde_json::json!(
        {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    );
    edited["padding"] = serde_json::json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "!"
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, edited.to_string()).unwrap();
    let text = "a sentence of several words";
    let wanted = Tokenizer::from_json_file(&source).unwrap().encode(text).unwrap();
    assert!(wanted.len() > 4 && wanted.len() < 64);
    assert_eq!(Tokenizer::from_json_file(&path).unwrap().encode(text).unwrap(), wanted);
}

/// A tokenizer.json that is fine for the letter a, on which it is tried when it is opened.
fn crafted(more: Json) -> (tempfile::TempDir, Tokenizer) {
    let mut file = serde_json::json!({"version": "1.0", "added_tokens": [], "model": {
        "type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?",
    }});
    file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let tokenizer = Tokenizer::from_json_file(&path).unwrap();
    (folder, tokenizer)
}

#[test]
fn a_panic_while_encoding_is_an_error() {
    // A table of replacements with 128 entries, which the library indexes by any byte.
    let map = format!("AAIA{}", "A".repeat(684));
    let (_folder, tokenizer) =
        crafted(serde_json::json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": map}}));
    assert_eq!(tokenizer.encode("a").unwrap(), [0]);
    let error = tokenizer.encode("\u{e9}").unwrap_err().to_string();
    assert!(error.contains("tokenizer.json") && error.contains("inconsistent"), "{error}");
    assert_eq!(tokenizer.encode_bare("a").unwrap(), [0], "it is as good as before");
}

#[test]
fn a_panic_while_decoding_gives_the_pieces() {
    // More characters are cut off at the end than there are.
    let strip = serde_json::json!({"decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 5}});
    let (_folder, tokenizer) = crafted(strip);
    assert_eq!(tokenizer.decode(&[0, 1]), "a?");
}

#[test]
fn damaged_tokenizer_json_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let whole = json(&fixtures().join("gpt2/tokenizer.json"));
    let mut long_merge = whole.clone();
    let longest = whole["model"]["vocab"].as_object().unwrap().keys().max_by_key(|k| k.len()).unwrap();
    long_merge["model"]["merges"] = serde_json::json!([[longest, longest]]);
    let mut unknown_merge = whole.clone();
    unknown_merge["model"]["merges"] = serde_json::json!([["no such", "token"]]);
    for text in [String::new(), "{}".into(), "[1]".into(), long_merge.to_string(), unknown_merge.to_string()]
    {
        std::fs::write(&path, &text).unwrap();
        let error = Tokenizer::from_json_file(&path).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json") && error.contains("save it again"), "{error}");
    }
    assert!(Tokenizer::from_json_file(&folder.path().join("absent.json")).is_err());
}

fn strings(values: &[&str]) -> Value {
    Value::Strings(values.iter().map(|v| (*v).to_owned()).collect())
}

fn numbers(values: &[i64]) -> Value {
    Value::Numbers(Numbers::new(11, values.iter().flat_map(|v| v.to_le_bytes()).collect()).unwrap())
}

fn build(entries: &[(&str, Value)]) -> fathom_model::Result<Tokenizer> {
    let metadata = entries.iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value.clone()));
    let header = Header { metadata: metadata.collect(), tensors: Vec::new(), entries: Vec::new() };
    Tokenizer::from_gguf(Path::new("test.gguf"), &header)
}

fn gpt2() -> Vec<(&'static str, Value)> {
    vec![
        ("model", Value::String("gpt2".into())),
        ("pre", Value::String("gpt-2".into())),
        ("tokens", strings(&["a", "b", "ab", "Ġ", "<end>", "Ġab"])),
        ("token_type", numbers(&[1, 1, 1, 1, 3, 1])),
        ("merges", strings(&["a b", "Ġ ab"])),
        ("bos_token_id", Value::Unsigned(4)),
    ]
}

fn llama() -> Vec<(&'static str, Value)> {
    vec![
        ("model", Value::String("llama".into())),
        ("tokens", strings(&["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a", "<0xC3>", "<0xA9>"])),
        ("token_type", numbers(&[2, 3, 3, 1, 1, 1, 1, 1, 6, 6])),
        ("scores", numbers(&[0, 0, 0, -9, -9, -9, -1, -2, 0, 0])),
    ]
}

fn with(
    mut entries: Vec<(&'static str, Value)>,
    key: &'static str,
    value: Value,
) -> Vec<(&'static str, Value)> {
    entries.retain(|(k, _)| *k != key);
    entries.push((key, value));
    entries
}

#[test]
fn byte_level_metadata_is_obeyed() {
    let plain = build(&gpt2()).unwrap();
    assert_eq!(plain.encode("ab ab<end>").unwrap(), [2, 5, 4]);
    assert_eq!((plain.describe().adds_bos, plain.describe().specials), (false, 1));
    assert_eq!(plain.describe().bos.as_deref(), Some("<end>"));
    assert_eq!(plain.describe().kind, "gguf gpt2/gpt-2");
    assert_eq!(plain.piece(5), " ab");

    let llama3 = build(&with(gpt2(), "pre", Value::String("llama-bpe".into()))).unwrap();
    assert_eq!(llama3.encode("ab").unwrap(), [4, 2], "Llama 3 adds BOS by default");
    let named = with(gpt2(), "pre", Value::String("llama-bpe".into()));
    assert_eq!(build(&with(named, "add_bos_token", Value::Bool(false))).unwrap().encode("ab").unwrap(), [2]);

    let both = with(with(gpt2(), "add_eos_token", Value::Bool(true)), "eos_token_id", Value::Unsigned(4));
    assert_eq!(build(&both).unwrap().encode("a").unwrap(), [0, 4]);
    assert_eq!(build(&both).unwrap().encode_bare("a").unwrap(), [0]);

    // A whole word that is a token but that no merge leads to.
    let no_merges = |pre: &str| with(with(gpt2(), "merges", strings(&[])), "pre", Value::String(pre.into()));
    assert_eq!(build(&no_merges("gpt-2")).unwrap().encode_bare("ab").unwrap(), [0, 1]);
    assert_eq!(build(&no_merges("llama-bpe")).unwrap().encode_bare("ab").unwrap(), [2]);
}

#[test]
fn old_files_without_a_pretokenizer_go_by_the_architecture() {
    let of = |architecture: &str, pre: Option<&str>| {
        let mut entries = gpt2();
        entries.retain(|(key, _)| *key != "pre");
        let mut metadata: std::collections::HashMap<String, Value> =
            entries.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect();
        metadata.insert("general.architecture".into(), Value::String(architecture.into()));
        metadata.extend(pre.map(|pre| ("tokenizer.ggml.pre".into(), Value::String(pre.into()))));
        let header = Header { metadata, tensors: Vec::new(), entries: Vec::new() };
        Tokenizer::from_gguf(Path::new("test.gguf"), &header).map(|t| t.describe().kind.clone())
    };
    assert_eq!(of("qwen2", None).unwrap(), "gguf gpt2/qwen2");
    assert_eq!(of("qwen3", Some("default")).unwrap(), "gguf gpt2/qwen2");
    assert_eq!(of("qwen2", Some("gpt-2")).unwrap(), "gguf gpt2/gpt-2");
    assert_eq!(of("gptneox", None).unwrap(), "gguf gpt2/olmo");
    for pre in [None, Some("default")] {
        assert!(of("llama", pre).unwrap_err().to_string().contains("tokenizer.ggml.pre"));
    }
}

#[test]
fn sentencepiece_metadata_is_obeyed() {
    let plain = build(&llama()).unwrap();
    // "ab" scores better than "▁a", although that comes first in the text.
    assert_eq!(plain.encode("ab").unwrap(), [1, 3, 6]);
    assert_eq!(plain.encode_bare("aa").unwrap(), [7, 4]);
    assert_eq!(plain.encode_bare("é").unwrap(), [3, 8, 9], "bytes for what no piece covers");
    assert_eq!(plain.encode_bare("z").unwrap(), [3, 0], "the unknown token for what no byte covers");
    assert_eq!(plain.decode(&[3, 6, 7, 8, 9]), "ab aé");
    assert_eq!((plain.piece(7), plain.piece(8)), (" a".into(), "\u{fffd}".into()));
    assert_eq!(plain.describe().eos.as_deref(), Some("</s>"));

    let bare =
        with(with(llama(), "add_space_prefix", Value::Bool(false)), "add_bos_token", Value::Bool(false));
    assert_eq!(build(&bare).unwrap().encode("ab a").unwrap(), [6, 7]);

    let user_defined = with(llama(), "token_type", numbers(&[2, 3, 3, 1, 1, 1, 4, 1, 6, 6]));
    let tokenizer = build(&user_defined).unwrap();
    assert_eq!(tokenizer.encode_bare("aab").unwrap(), [7, 6], "user-defined pieces are taken first");
    assert_eq!(tokenizer.describe().specials, 3);
}

#[test]
fn contradictions_are_errors_that_name_the_key() {
    let wrong = |base: fn() -> Vec<(&'static str, Value)>, key: &'static str, value: Value, say: &str| {
        let error = build(&with(base(), key, value)).unwrap_err().to_string();
        assert!(error.starts_with("test.gguf: tokenizer.ggml.") && error.contains(say), "{error}");
        assert!(error.contains(key), "{error}");
    };
    wrong(gpt2, "model", Value::String("bert".into()), "gpt2, llama and gemma4 are");
    wrong(gpt2, "pre", Value::String("martian".into()), "\"martian\" is not known; known are gpt-2");
    wrong(gpt2, "pre", Value::Bool(true), "not a string");
    wrong(gpt2, "tokens", strings(&[]), "0 entries");
    wrong(gpt2, "tokens", numbers(&[1]), "not an array of strings");
    wrong(gpt2, "token_type", strings(&["a"]), "not an array of numbers");
    wrong(gpt2, "tokens", strings(&["a", "b", "ab", "a", "c", "d"]), "both token 0 and token 3");
    wrong(gpt2, "token_type", numbers(&[1]), "1 entries for 6 tokens");
    wrong(gpt2, "token_type", numbers(&[1, 1, 1, 1, 9, 1]), "token 4");
    wrong(gpt2, "merges", strings(&["ab"]), "not two tokens");
    wrong(gpt2, "merges", strings(&["a x"]), "does not exist");
    wrong(gpt2, "merges", strings(&["b a"]), "does not exist");
    wrong(gpt2, "merges", strings(&["Ġab Ġab"]), "does not exist");
    wrong(gpt2, "merges", strings(&["a "]), "does not exist");
    wrong(gpt2, "merges", strings(&["a b", "a b"]), "twice");
    wrong(gpt2, "bos_token_id", Value::Unsigned(6), "not the id of one of the 6 tokens");
    wrong(gpt2, "eos_token_id", Value::Signed(-1), "not the id");
    wrong(gpt2, "add_bos_token", Value::Unsigned(1), "not a boolean");
    wrong(llama, "scores", numbers(&[1, 2]), "2 entries for 10 tokens");
    let nan = Numbers::new(6, f32::NAN.to_le_bytes().repeat(10)).unwrap();
    wrong(llama, "scores", Value::Numbers(nan), "token 0");
    wrong(llama, "unknown_token_id", Value::Unsigned(10), "not the id");
    for (base, key) in
        [(gpt2 as fn() -> _, "merges"), (gpt2, "pre"), (gpt2, "model"), (llama, "scores"), (llama, "tokens")]
    {
        let mut entries: Vec<(&str, Value)> = base();
        entries.retain(|(k, _)| *k != key);
        let error = build(&entries).unwrap_err().to_string();
        assert!(error.contains(&format!("tokenizer.ggml.{key}: it is missing")), "{error}");
    }
    let mut no_bos = with(gpt2(), "add_bos_token", Value::Bool(true));
    no_bos.retain(|(k, _)| *k != "bos_token_id");
    assert!(build(&no_bos).unwrap_err().to_string().contains("tokenizer.ggml.bos_token_id"));
}

#[test]
fn vocabularies_made_to_explode_are_refused() {
    // Every split of every piece is a merge: quadratic in the length of the longest.
    let runs: Vec<String> = (1..=256).map(|n| "a".repeat(n)).collect();
    let families: Vec<String> =
        ('a'..='z').flat_map(|c| runs.iter().map(move |run| run.replace('a', &c.to_string()))).collect();
    let explode = |tokens: &[String]| {
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let count = tokens.len();
        build(&[
            ("model", Value::String("llama".into())),
            ("tokens", strings(&tokens)),
            ("scores", numbers(&vec![0; count])),
        ])
    };
    assert!(explode(&families).unwrap_err().to_string().contains("implausibly many"));
    let long = ["a".to_owned(), "b".repeat(1 << 20)];
    assert!(explode(&long).unwrap_err().to_string().contains("token 1 is a piece of 1048576 bytes"));
}

fn any_value() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "gpt2",
        "llama",
        "gpt-2",
        "qwen2",
        "llama-bpe",
        "deepseek-llm",
        "a",
        "b",
        "ab",
        "a b",
        "▁",
        "▁a",
        " ",
        "",
        "<0x41>",
        "<s>",
        "Ġ",
        "é",
        "\0",
        "a  b",
    ]);
    prop_oneof![
        4 => word.clone().prop_map(|w| Value::String(w.into())),
        4 => prop::collection::vec(word, 0..8).prop_map(|words| strings(&words)),
        2 => prop::collection::vec(-1i64..8, 0..12).prop_map(|n| numbers(&n)),
        2 => (0u64..8).prop_map(Value::Unsigned),
        1 => any::<i64>().prop_map(Value::Signed),
        1 => any::<f64>().prop_map(Value::Float),
        1 => any::<bool>().prop_map(Value::Bool),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn arbitrary_metadata_never_panics(
        sentencepiece in any::<bool>(),
        edits in prop::collection::vec(
            (
                prop::sample::select(vec![
                    "model", "pre", "tokens", "token_type", "merges", "scores", "bos_token_id", "eos_token_id",
                    "unknown_token_id", "add_bos_token", "add_eos_token", "add_space_prefix",
                ]),
                any_value(),
            ),
            0..3,
        ),
        text in any::<String>(),
        ids in prop::collection::vec(0u32..20, 0..20),
    ) {
        let mut entries = if sentencepiece { llama() } else { gpt2() };
        for (key, value) in edits {
            entries = with(entries, key, value);
        }
        if let Ok(tokenizer) = build(&entries) {
            for text in ["ab a b<s>é <end>", &text] {
                for id in tokenizer.encode(text).unwrap() {
                    prop_assert!((id as usize) < tokenizer.describe().vocab);
                }
            }
            tokenizer.decode(&ids);
            for id in ids {
                tokenizer.piece(id);
            }
        }
    }

    #[test]
    fn what_is_encoded_reads_back(text in "\\PC{0,40}") {
        // Where such a token is spelled out, SentencePiece begins a word behind it.
        prop_assume!(!["<s>", "</s>", "<unk>", "<bos>", "<eos>", "<pad>"].iter().any(|t| text.contains(t)));
        for name in ["gpt2", "llama3", "llama2", "gemma3"] {
            let (path, header) = header(name);
            let tokenizer = Tokenizer::from_gguf(&path, &header).unwrap();
            // Spaces and "▁" are one and the same to SentencePiece.
            let wanted = if name.starts_with("llama2") || name.starts_with("gemma") {
                text.replace('▁', " ")
            } else {
                text.clone()
            };
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode_bare(&text).unwrap()), wanted, "{}", name);
        }
    }
}
