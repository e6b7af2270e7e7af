//! The files of a model: which ones to fetch from a listing, and which ones a folder lacks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::HubError;
use crate::names::{check_file_name, path_fault};

pub(crate) const CONFIG: &str = "config.json";

/// Files beside the weights that are fetched if they exist.
const COMPANIONS: &[&str] = &[
    CONFIG,
    "adapter_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
];

/// Files that contain a tokenizer; one suffices.
const TOKENIZERS: &[&str] = &["tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"];

/// Weights in a single file, and the index of sharded ones, the preferred format first.
const FORMATS: &[(&str, &str)] = &[
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
];

/// Of several GGUF files the most precise is chosen, because depth is a property of the trained weights.
const GGUF_PREFERENCE: &[&str] = &[
    "bf16", "f16", "fp16", "f32", "fp32", "q8_0", "q6_k", "q5_k_m", "q5_1", "q5_0", "q4_k_m", "q4_1", "q4_0",
];

/// Maximum bytes of an index; the largest models have about 10 MB.
const LARGEST_INDEX: u64 = 64 << 20;
const MOST_SHARDS: usize = 10_000;

/// The weight files of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Weights<'a> {
    File(&'a str),
    /// The parts of one GGUF file, in order.
    Parts(Vec<&'a str>),
    Index(&'a str),
}

impl Weights<'_> {
    /// Whether the file contains its own configuration and tokenizer.
    pub(crate) fn is_gguf(&self) -> bool {
        matches!(self, Weights::Parts(_)) || matches!(self, Weights::File(name) if is_gguf(name))
    }
}

/// Whether a name ends in `.gguf` and may hold the weights of a text model.
fn is_gguf(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // Neither the projector of a multimodal model nor an importance matrix is a model.
    name.ends_with(".gguf") && !name.contains("mmproj") && !name.contains("imatrix")
}

/// The parts of the split file that a name such as `model-00001-of-00002.gguf` belongs to, in order, or the name itself
/// if the file is not split. `None` if parts are missing.
fn parts<'a>(name: &'a str, names: &[&'a str]) -> Option<Vec<&'a str>> {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let split = name.strip_suffix(".gguf").and_then(|stem| {
        let (before, count) = stem.rsplit_once("-of-")?;
        let (before, number) = before.rsplit_once('-')?;
        (is_number(number) && is_number(count)).then_some((before, count))
    });
    let Some((before, count)) = split else { return Some(vec![name]) };
    let count: usize = count.parse().ok().filter(|count| *count <= MOST_SHARDS)?;
    let listed = |wanted: String| names.iter().copied().find(|name| **name == wanted);
    (1..=count).map(|i| listed(format!("{before}-{i:05}-of-{count:05}.gguf"))).collect()
}

/// The small files of a listing that belong to a model.
pub(crate) fn companions<'a>(names: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    COMPANIONS.iter().copied().filter(|name| names.contains(name))
}

/// The weights to fetch: safetensors, else bin, else one GGUF file.
pub(crate) fn weights<'a>(names: &[&'a str]) -> Option<Weights<'a>> {
    let listed = |wanted: &str| names.iter().copied().find(|name| *name == wanted);
    for (whole, index) in FORMATS {
        if let Some(name) = listed(whole) {
            return Some(Weights::File(name));
        }
        if let Some(name) = listed(index) {
            return Some(Weights::Index(name));
        }
    }
    let parts = best_gguf(names)?;
    Some(if let [file] = parts[..] { Weights::File(file) } else { Weights::Parts(parts) })
}

/// The file of the best GGUF model of a listing, or its parts.
fn best_gguf<'a>(names: &[&'a str]) -> Option<Vec<&'a str>> {
    let rank = |name: &str| {
        let name = name.to_ascii_lowercase();
        GGUF_PREFERENCE.iter().position(|kind| name.contains(kind)).unwrap_or(GGUF_PREFERENCE.len())
    };
    let usable = names
        .iter()
        .copied()
        .filter(|name| !name.contains('/') && is_gguf(name) && path_fault(name).is_none());
    let models = usable.filter_map(|name| Some((name, parts(name, names)?)));
    models.min_by_key(|(name, _)| (rank(name), name.len(), *name)).map(|(_, parts)| parts)
}

/// The names of the shards in an index file, checked and sorted.
pub(crate) fn shards(index: &Path) -> Result<Vec<String>, HubError> {
    let bad = |reason: String| HubError::BadIndex { path: index.to_owned(), reason };
    let mut bytes = Vec::new();
    let file = File::open(index).map_err(HubError::io("read", index))?;
    file.take(LARGEST_INDEX + 1).read_to_end(&mut bytes).map_err(HubError::io("read", index))?;
    if bytes.len() as u64 > LARGEST_INDEX {
        return Err(bad(format!("it is larger than {} MiB", LARGEST_INDEX >> 20)));
    }
    let parsed: Index = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    let names = parsed.weight_map.0;
    if names.is_empty() {
        return Err(bad("its weight_map is empty".to_owned()));
    }
    if names.len() > MOST_SHARDS {
        return Err(bad(format!("it names more than {MOST_SHARDS} files")));
    }
    for name in &names {
        check_file_name(name, &format!("the index {}", index.display()))?;
    }
    Ok(names.into_iter().collect())
}

#[derive(Deserialize)]
struct Index {
    weight_map: FileNames,
}

/// The distinct values of a `weight_map`, without the names of the tensors.
struct FileNames(BTreeSet<String>);

impl<'de> Deserialize<'de> for FileNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values;
        impl<'de> Visitor<'de> for Values {
            type Value = FileNames;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object from tensor names to file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FileNames, A::Error> {
                let mut names = BTreeSet::new();
                while let Some((_, file)) = map.next_entry::<IgnoredAny, String>()? {
                    names.insert(file);
                }
                Ok(FileNames(names))
            }
        }
        deserializer.deserialize_map(Values)
    }
}

/// The contents of a snapshot folder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// A complete model, with or without a tokenizer.
    Model { weights: Vec<PathBuf>, has_tokenizer: bool },
    /// An incomplete model, with a description of what is missing.
    Missing(String),
}

/// Reads a snapshot folder.
pub(crate) fn held(folder: &Path) -> Result<Held, HubError> {
    let has = |name: &str| folder.join(name).is_file();
    let mut missing = None;
    for (whole, index) in FORMATS {
        match held_format(folder, whole, index)? {
            Some(Ok(weights)) if has(CONFIG) => {
                return Ok(Held::Model { weights, has_tokenizer: TOKENIZERS.iter().any(|name| has(name)) });
            }
            Some(Ok(_)) => missing = missing.or(Some(CONFIG.to_owned())),
            Some(Err(lacking)) => missing = missing.or(Some(lacking)),
            None => {}
        }
    }
    let names = root_names(folder);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if let Some(gguf) = best_gguf(&names) {
        let weights = gguf.into_iter().map(|part| folder.join(part)).collect();
        return Ok(Held::Model { weights, has_tokenizer: true });
    }
    Ok(Held::Missing(missing.unwrap_or_else(|| {
        let weights = "the weights (model.safetensors, pytorch_model.bin or a .gguf file)";
        if has(CONFIG) { weights.to_owned() } else { format!("config.json and {weights}") }
    })))
}

/// The weights in one format: absent, complete, or a description of what is missing.
fn held_format(
    folder: &Path,
    whole: &str,
    index: &str,
) -> Result<Option<Result<Vec<PathBuf>, String>>, HubError> {
    if folder.join(whole).is_file() {
        return Ok(Some(Ok(vec![folder.join(whole)])));
    }
    if !folder.join(index).is_file() {
        return Ok(None);
    }
    let shards = shards(&folder.join(index))?;
    let lacking: Vec<&String> = shards.iter().filter(|name| !folder.join(name).is_file()).collect();
    Ok(Some(match lacking.as_slice() {
        [] => Ok(shards.iter().map(|name| folder.join(name)).collect()),
        [one] => Err(format!("the shard {one}")),
        [first, ..] => Err(format!("{} of {} shards ({first}, ...)", lacking.len(), shards.len())),
    }))
}

fn root_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_weights(names: &[&str], expected: Option<Weights<'_>>) {
        assert_eq!(weights(names), expected);
    }

    #[test]
    fn safetensors_come_before_bin_before_gguf() {
        let all = ["pytorch_model.bin", "model.safetensors", "m-q8_0.gguf", "model.safetensors.index.json"];
        check_weights(&all, Some(Weights::File("model.safetensors")));
        check_weights(&[all[0], all[2], all[3]], Some(Weights::Index("model.safetensors.index.json")));
        check_weights(&[all[0], all[2]], Some(Weights::File("pytorch_model.bin")));
        check_weights(
            &["pytorch_model.bin.index.json"],
            Some(Weights::Index("pytorch_model.bin.index.json")),
        );
        check_weights(&[all[2]], Some(Weights::File("m-q8_0.gguf")));
    }

    #[test]
    fn variants_are_not_weights() {
        check_weights(
            &[
                "onnx/model.safetensors",
                "model.fp32.safetensors",
                "flax_model.msgpack",
                "original/consolidated.00.pth",
            ],
            None,
        );
        check_weights(&["sub/m.gguf", "mmproj-m-f16.gguf", "m-00001-of-00002.gguf", "..\\m.gguf"], None);
    }

    #[test]
    fn the_most_exact_gguf_is_taken() {
        check_weights(&["m.Q4_K_M.gguf", "m.Q8_0.gguf", "m.IQ2_S.gguf"], Some(Weights::File("m.Q8_0.gguf")));
        check_weights(&["m.Q8_0.gguf", "m.F16.gguf"], Some(Weights::File("m.F16.gguf")));
        check_weights(&["state-of-2.gguf"], Some(Weights::File("state-of-2.gguf")));
    }

    #[test]
    fn the_parts_of_a_split_gguf_are_taken_together() {
        let parts = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"];
        check_weights(&parts, Some(Weights::Parts(parts.to_vec())));
        check_weights(&[parts[1], "m-Q4_0.gguf", parts[0]], Some(Weights::Parts(parts.to_vec())));
        // A part is useless without the others.
        check_weights(&[parts[1], "m-Q4_0.gguf"], Some(Weights::File("m-Q4_0.gguf")));
        check_weights(&["m-00001-of-99999.gguf"], None);
    }

    #[test]
    fn companions_are_at_the_root_only() {
        let names =
            ["README.md", "config.json", "onnx/config.json", "tokenizer.json", "merges.txt", "optimizer.pt"];
        let chosen: Vec<&str> = companions(&names).collect();
        assert_eq!(chosen, ["config.json", "tokenizer.json", "merges.txt"]);
    }

    fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        folder
    }

    const INDEX: &str = r#"{"metadata": {"total_size": 3}, "weight_map": {"a": "s1", "b": "s2", "c": "s1"}}"#;

    #[test]
    fn shards_are_the_distinct_files_of_the_index() {
        let folder = folder_with(&[("i", INDEX)]);
        assert_eq!(shards(&folder.path().join("i")).unwrap(), ["s1", "s2"]);
    }

    #[test]
    fn hostile_and_broken_indices_are_refused() {
        let name = r#"{"weight_map": {"a": "../../../home/me/.bashrc"}}"#;
        for (text, says) in [(name, "refused"), ("{", "cannot be used"), (r#"{"weight_map": {}}"#, "empty")] {
            let folder = folder_with(&[("i", text)]);
            let message = shards(&folder.path().join("i")).expect_err(text).to_string();
            assert!(message.contains(says), "{message}");
        }
    }

    #[track_caller]
    fn check_missing(files: &[(&str, &str)], expected: &str) {
        let folder = folder_with(files);
        assert_eq!(held(folder.path()).unwrap(), Held::Missing(expected.to_owned()));
    }

    #[test]
    fn a_folder_says_what_it_lacks() {
        let weights = "the weights (model.safetensors, pytorch_model.bin or a .gguf file)";
        let index = ("model.safetensors.index.json", INDEX);
        check_missing(&[], &format!("config.json and {weights}"));
        check_missing(&[("config.json", "{}")], weights);
        check_missing(&[("model.safetensors", "")], "config.json");
        check_missing(&[("config.json", "{}"), index, ("s2", "")], "the shard s1");
        check_missing(&[("config.json", "{}"), index], "2 of 2 shards (s1, ...)");
    }

    #[test]
    fn a_whole_model_is_recognised() {
        let folder = folder_with(&[("config.json", "{}"), ("pytorch_model.bin", "")]);
        let weights = vec![folder.path().join("pytorch_model.bin")];
        assert_eq!(held(folder.path()).unwrap(), Held::Model { weights, has_tokenizer: false });
        let folder = folder_with(&[("m.gguf", "")]);
        let weights = vec![folder.path().join("m.gguf")];
        assert_eq!(held(folder.path()).unwrap(), Held::Model { weights, has_tokenizer: true });
        // An incomplete index does not prevent the use of weights in another format.
        let files =
            [("config.json", "{}"), ("model.safetensors.index.json", INDEX), ("pytorch_model.bin", "")];
        let folder = folder_with(&files);
        assert!(matches!(held(folder.path()).unwrap(), Held::Model { .. }));
    }
}
