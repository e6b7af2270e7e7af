//! `fathom models`, `fathom data` and the help.

use crate::support::{Place, fail, fathom, finish, fixture, succeed};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const COMMANDS: [&str; 5] = ["measure", "verify", "models", "data", "report"];

#[test]
fn help_names_every_command() {
    let help = succeed(fathom().arg("--help"));
    let lines: Vec<&str> = help.lines().map(str::trim_start).collect();
    for command in COMMANDS {
        assert!(lines.iter().any(|l| l.starts_with(&format!("{command} "))), "{command} is not in {help}");
        let own = succeed(fathom().args([command, "--help"]));
        assert!(own.contains(&format!("Usage: fathom {command}")), "{own}");
    }
    let version = succeed(fathom().arg("--version").env("FATHOM_ISA", "portable"));
    assert!(version.starts_with(&succeed(fathom().arg("-V"))), "{version}");
    for part in ["fathom ", "platform:", "portable on this processor", "devices:  cpu"] {
        assert!(version.contains(part), "{version}");
    }
}

/// Wrong usage ends with code 2 and says what is wrong.
#[track_caller]
fn check_usage(arguments: &[&str], parts: &[&str]) {
    let done = finish(fathom().args(arguments));
    assert_eq!(done.code, Some(2), "{}", done.stderr);
    assert!(done.stdout.is_empty());
    for part in parts {
        assert!(done.stderr.contains(part), "{part} is not in {}", done.stderr);
    }
}

#[test]
fn wrong_usage_has_its_own_code() {
    check_usage(&["measure", "m", "--probes", "lense"], &["error:", "'lense'", "did you mean 'lens'"]);
    check_usage(&["measure", "m", "--dtype", "f8"], &["error:", "f32", "bf16"]);
    for threads in ["0", "-1", "1000000", "two"] {
        check_usage(&["measure", "m", &format!("--threads={threads}")], &["error:", "--threads"]);
    }
    check_usage(&["measure", "m", "--rng", "dice"], &["error:", "`dice`", "python"]);
    check_usage(&["measure", "m", "--limit", "-1"], &["error:"]);
    check_usage(&["measure", "m", "--colour"], &["error:", "--colour"]);
    check_usage(&["verify", "m"], &["error:", "--golden"]);
    check_usage(&["report"], &["error:", "OUT"]);
    check_usage(&["measre"], &["error:", "measure"]);
    check_usage(&[], &["Usage:", "measure"]);
}

#[test]
fn models_are_listed() {
    let list = succeed(fathom().arg("models"));
    for part in ["smollm2-135m", "(the default)", "llama", "gemma", "GGUF", "HF_HUB_OFFLINE"] {
        assert!(list.contains(part), "{part} is not in {list}");
    }
}

#[track_caller]
fn check_described(name: &str, lines: &[(&str, &str)]) {
    let text = succeed(fathom().arg("models").arg(fixture(name)));
    for (key, value) in lines {
        let line = text.lines().find(|l| l.trim_start().starts_with(key)).unwrap_or_default();
        assert!(line.contains(value), "{key} {value} is not in {text}");
    }
}

#[test]
fn a_model_is_described_without_its_weights() {
    let head = [("layers", "3"), ("width", "32 stream, 72 MLP"), ("vocabulary", "384"), ("context", "512")];
    check_described("llama2", &head);
    check_described("gguf/llama2.gguf", &head);
    check_described("llama2", &[("BOS", "<s>, added to every prompt"), ("EOS", "</s>, not added")]);
    check_described("mistral", &[("windows", "see part of the text only")]);
}

#[test]
fn prompt_sets_are_listed() {
    let list = succeed(fathom().arg("data"));
    for part in ["builtin", "plain", "qa", "addition", "parameters: digits, count, seed", ".jsonl"] {
        assert!(list.contains(part), "{part} is not in {list}");
    }
}

/// What `--json` prints is read back to the same prompts.
#[track_caller]
fn check_round_trip(set: &str) {
    let place = Place::new();
    let rows = succeed(fathom().args(["data", set, "--json"]));
    let path = place.at("again.jsonl");
    fs::write(&path, &rows).unwrap();
    let again = succeed(fathom().arg("data").arg(&path).arg("--json"));
    assert_eq!(again, rows);
    // The first line names the source, which differs; all prompts follow it.
    let shown = |text: String| text.split_once('\n').unwrap().1.to_owned();
    let first = shown(succeed(fathom().args(["data", set])));
    assert_eq!(shown(succeed(fathom().arg("data").arg(&path))), first);
    assert!(first.len() > 100);
}

#[test]
fn prompts_survive_a_round_trip() {
    for set in
        ["builtin", "plain", "word-problems", "competition", "qa", "prose", "addition:digits=3,count=7"]
    {
        check_round_trip(set);
    }
}

#[test]
fn an_unknown_set_is_named() {
    fail(fathom().args(["data", "bultin"]), &["`bultin`", "did you mean `builtin`?", ".jsonl"]);
    fail(fathom().args(["data", "addition:digits=99"]), &["`digits`", "1 to 18", "99"]);
    fail(fathom().args(["data", "qa", "--limit", "0"]), &["limit of 0"]);
}

/// `fathom data | head -1`: a reader that has seen enough is no error.
#[test]
fn a_closed_pipe_ends_quietly() {
    for arguments in [&["data", "addition:count=20000"][..], &["data", "addition:count=20000", "--json"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fathom"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("addition"), "{line}");
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}
