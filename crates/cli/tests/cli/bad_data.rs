//! Prompts that cannot be measured: one sentence each, before any work is done.

use crate::support::{Place, check_failure, fail, finish, fixture, measure};
use std::fs;

/// What is said about a file of prompts with this content.
#[track_caller]
fn check(name: &str, content: impl AsRef<[u8]>, parts: &[&str]) {
    let place = Place::new();
    let path = place.at(name);
    fs::write(&path, content).unwrap();
    let line = fail(&mut measure(&fixture("gpt2"), &path, &place.out()), parts);
    assert!(line.contains(name), "{line}");
    assert!(!place.at("out/results.json").exists());
}

const GOOD: &str = "{\"text\": \"A good line.\"}\n";

#[test]
fn a_bad_line_is_named() {
    let check = |line: &[u8], parts: &[&str]| {
        check("p.jsonl", [GOOD.as_bytes(), line].concat(), &[&["line 2"], parts].concat());
    };
    check(b"{\"text\": \"caf\xe9\"}\n", &["UTF-8"]);
    check(b"{\"text\": \"open\n", &["column", "JSON"]);
    check(b"{\"prompt\": \"x\"}\n", &["\"prompt\"", "\"text\"", "\"question\""]);
    check(b"{\"question\": \"x\"}\n", &["\"question\"", "\"answer\""]);
    check(b"{\"text\": 7}\n", &["\"text\"", "string"]);
    check(b"[1]\n", &["object"]);
    check(b"{\"text\": \"\\ud800\"}\n", &["\"text\""]);
    check(b"\0\0\0\0", &["JSON"]);
}

#[test]
fn a_file_without_prompts_is_named() {
    check("p.jsonl", "", &["holds no prompts"]);
    check("p.jsonl", "\n\n", &["holds no prompts"]);
    check("p.txt", " \n\n", &["holds no prompts"]);
    check("p.csv", "text\nA\n", &["known file extension", ".jsonl"]);
    check("p.txt", b"caf\xe9", &["line 1", "UTF-8"]);
}

#[test]
fn a_prompt_longer_than_the_context_is_named() {
    let long = format!("{GOOD}{}\n", serde_json::json!({"id": "epic", "text": "word ".repeat(2000)}));
    check("p.jsonl", long, &["'epic'", "tokens", "context of 320", "shorten it", "--max-tokens 320"]);
}

/// A tokenizer may make nothing of a text that is not empty.
#[test]
fn a_prompt_of_white_space_is_measured_or_named() {
    let place = Place::new();
    fs::write(place.data(), "{\"text\": \" \"}\n").unwrap();
    let done = finish(&mut measure(&fixture("gpt2"), place.data(), &place.out()));
    if done.code != Some(0) {
        check_failure(&done, &["d.jsonl"]);
    }
}

#[test]
fn what_does_not_exist_is_named() {
    let place = Place::new();
    let with = |data: &str, parts: &[&str]| {
        fail(&mut measure(&fixture("gpt2"), data, &place.out()), parts);
    };
    with("no/such.jsonl", &["no/such.jsonl", "No such file"]);
    with("gsm9k", &["`gsm9k`", "builtin", ".jsonl"]);
    with("addition:digit=4", &["`digit`", "digits"]);
    assert!(!place.out().exists());
}

#[test]
fn a_folder_is_no_prompt_file() {
    let place = Place::new();
    fs::create_dir(place.at("p.jsonl")).unwrap();
    fail(&mut measure(&fixture("gpt2"), place.at("p.jsonl"), &place.out()), &["p.jsonl", "directory"]);
}
