//! Files on disk, by their paths.

use std::fs;
use std::path::PathBuf;

use fathom_data::{DataError, Options, load};
use tempfile::TempDir;

fn file(name: &str, content: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    (folder, path)
}

#[test]
fn extensions_determine_the_format() {
    for (name, content, first) in [
        ("my set.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n", "one"),
        ("my set.NDJSON", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n", "one"),
        ("my set.txt", "one\nmore\n\ntwo\n", "one\nmore"),
        ("my set.md", "# one\n\ntwo\n", "# one"),
    ] {
        let (_folder, path) = file(name, content);
        let spec = path.to_str().unwrap();
        let set = load(spec, &Options::default()).unwrap();
        assert_eq!(set.id, "my_set");
        assert_eq!(set.source, spec);
        assert_eq!(set.prompts.len(), 2);
        assert_eq!(set.prompts[0].id, "my set-1");
        assert_eq!(set.prompts[0].text, first);
        let one = load(spec, &Options { limit: Some(1), ..Options::default() }).unwrap();
        assert_eq!(one.prompts, set.prompts[..1]);
    }
}

#[test]
fn an_unknown_extension_is_an_error_with_a_remedy() {
    for name in ["set.csv", "set.json", "set"] {
        let (_folder, path) = file(name, "x");
        let error = load(path.to_str().unwrap(), &Options::default()).unwrap_err();
        assert!(matches!(&error, DataError::UnknownKind { path: p } if *p == path), "{error}");
        assert!(error.to_string().contains(".jsonl"));
    }
}

#[test]
fn a_missing_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.jsonl");
    let error = load(path.to_str().unwrap(), &Options::default()).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot read {}: ", path.display())));
}

#[test]
fn a_folder_named_like_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("folder.jsonl");
    fs::create_dir(&path).unwrap();
    assert!(matches!(load(path.to_str().unwrap(), &Options::default()), Err(DataError::Io { .. })));
}
