//! Prompts that are skipped, left out or warned of, and how much of a file is read.

use crate::support::{Done, Place, check_failure, fathom, finish, fixture, json, measure};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Lines of a file, each a JSON value.
fn write(path: &Path, rows: &[Value]) {
    let lines: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(path, lines.concat()).unwrap();
}

/// Measures these rows with a fixture, and gives what `run.json` says of the data.
fn measured(place: &Place, model: &str, rows: &[Value], options: &[&str]) -> (Done, Value) {
    write(&place.data(), rows);
    let done = finish(measure(&fixture(model), place.data(), &place.out()).arg("--overwrite").args(options));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    (done, json(&place.at("out/run.json"))["data"].clone())
}

fn long() -> Value {
    json!({"id": "long", "text": "word ".repeat(2000)})
}

fn short(id: &str) -> Value {
    json!({"id": id, "text": "The keeper of the lighthouse had not spoken."})
}

/// 320 tokens are the context of the fixture.
#[test]
fn max_tokens_leaves_out_what_is_beyond_the_context() {
    let place = Place::new();
    let rows = [long(), short("a"), short("b")];
    let (done, data) = measured(&place, "gpt2", &rows, &["--max-tokens", "512"]);
    let wanted = "1 of 3 prompts have more than 320 tokens (the model's context) and are left out";
    assert!(done.stderr.contains(wanted), "{}", done.stderr);
    assert_eq!((&data["prompts"], &data["too_long"]), (&json!(2), &json!(1)));

    write(&place.data(), &[long()]);
    let done = finish(measure(&fixture("gpt2"), place.data(), &place.out()).args(["--max-tokens", "512"]));
    check_failure(&done, &["every prompt", "320 tokens (the model's context)", "--max-tokens"]);
}

#[test]
fn a_limit_counts_what_is_not_left_out_and_reads_no_further() {
    let place = Place::new();
    let broken = json!({"text": 7});
    let rows = [long(), short("a"), short("b"), broken.clone()];
    let (_, data) = measured(&place, "gpt2", &rows, &["--max-tokens", "300", "--limit", "2"]);
    assert_eq!((&data["prompts"], &data["too_long"]), (&json!(2), &json!(1)));
    let (_, data) = measured(&place, "gpt2", &[short("a"), broken], &["--limit", "1"]);
    assert_eq!(data["prompts"], 1);
}

#[test]
fn a_limit_reads_no_further_in_pairs() {
    let place = Place::new();
    let pairs = place.at("qa.jsonl");
    write(&pairs, &[json!({"question": "Two and two is", "answer": " four"}), json!([])]);
    let mut command = measure(&fixture("qwen3"), place.data(), &place.out());
    let done = finish(command.args(["--limit", "1", "--probes", "erasure", "--qa"]).arg(pairs));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
}

/// The positions of the skip probe do not depend on what is left out or on a limit.
#[test]
fn positions_are_those_of_the_whole_set() {
    let place = Place::new();
    let text = |words: usize| json!({"text": "One two three four five. ".repeat(words)});
    let rows = [text(6), text(12), text(7), text(8)];
    let positions = |options: &[&str]| {
        fs::remove_dir_all(place.out()).ok();
        measured(&place, "gpt2", &rows, &[&["--probes", "skip"], options].concat());
        let samples = fs::read_to_string(place.at("out/samples.jsonl")).unwrap();
        let lines = samples.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| (line["id"].clone(), line["skip"].clone())).collect::<Vec<_>>()
    };
    let all = positions(&[]);
    let longest = all[1].0.clone();
    let tokens = |id: &Value| {
        let samples = fs::read_to_string(place.at("out/samples.jsonl")).unwrap();
        let mut lines = samples.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.find(|line| line["id"] == *id).unwrap()["tokens"].as_array().unwrap().len()
    };
    let most = (tokens(&longest) - 1).to_string();
    let some = positions(&["--max-tokens", &most, "--limit", "2"]);
    assert_eq!(some, [all[0].clone(), all[2].clone()]);
}

#[test]
fn data_jsonl_null_text() {
    let place = Place::new();
    let rows = [json!({"text": null}), short("a"), json!({"text": " "})];
    let (done, data) = measured(&place, "gpt2", &rows, &[]);
    assert!(done.stderr.contains("warning: 2 rows of "), "{}", done.stderr);
    assert_eq!((&data["prompts"], &data["empty"]), (&json!(1), &json!(2)));
    let done = finish(fathom().arg("data").arg(place.data()));
    assert!(done.stderr.contains("warning: 2 rows of "), "{}", done.stderr);
}

#[test]
fn data_jsonl_nan() {
    let place = Place::new();
    fs::write(place.data(), "{\"text\": \"The keeper.\", \"score\": NaN}\n").unwrap();
    let done = finish(fathom().arg("data").arg(place.data()));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
}

#[test]
fn data_jsonl_double_bos() {
    let place = Place::new();
    let marked = |id: &str| json!({"id": id, "text": "<s> The keeper of the light"});
    let rows = [short("a"), marked("b"), marked("c")];
    let (done, data) = measured(&place, "llama2", &rows, &[]);
    let warnings: Vec<&str> = done.stderr.lines().filter(|line| line.contains("begin with <s>")).collect();
    assert_eq!(warnings.len(), 1, "{}", done.stderr);
    assert!(warnings[0].contains("(2 in all, first 'b')"), "{}", warnings[0]);
    assert_eq!(data["double_bos"], 2);
    // A tokenizer that adds no mark does not double it.
    let (done, data) = measured(&place, "gpt2", &rows, &[]);
    assert!(!done.stderr.contains("begin with"), "{}", done.stderr);
    assert_eq!(data["double_bos"], 0);
}
