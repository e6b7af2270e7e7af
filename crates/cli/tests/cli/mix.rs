//! Weights of training sets from a log of measurements.

use crate::support::{Place, fail, fathom, finish, succeed};
use serde_json::Value;
use std::fs;

/// The bounds of arXiv 2506.02678's 7B run.
const BOUNDS: [&str; 4] = ["--short", "1120.9,0.289", "--long", "7379.6,0.756"];

#[test]
fn a_log_gets_weights_and_a_state_the_next() {
    let place = Place::new();
    let log = place.at("log.jsonl");
    fs::write(
        &log,
        "{\"step\": 1, \"length\": 7379.6, \"accuracy\": 0.756}\n{\"length\": 3000, \"accuracy\": 0.7}\n",
    )
    .unwrap();
    let text = succeed(fathom().arg("mix").args(BOUNDS).arg(&log));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), lines[0]["step"].as_u64()), (2, Some(1)));
    assert!((lines[0]["weights"]["short"].as_f64().unwrap() - 0.981_965_59).abs() < 5e-9);
    let last = succeed(fathom().arg("mix").args(BOUNDS).arg("--last").arg(&log));
    assert_eq!(last, text.lines().last().unwrap().to_owned() + "\n");
    let state = r#"{"length": 1500, "accuracy": 0.6, "weights": {"short": 0.9, "long": 0.1}}"#;
    let next = succeed(fathom().arg("mix").args(BOUNDS).arg("-").write_stdin(state));
    let next: Value = serde_json::from_str(&next).unwrap();
    assert!((next["weights"]["short"].as_f64().unwrap() - 0.750_857_11).abs() < 5e-9);
}

#[test]
fn wrong_bounds_and_lines_are_named() {
    let place = Place::new();
    let log = place.at("log.jsonl");
    fs::write(&log, "{\"length\": 3}\n").unwrap();
    fail(fathom().arg("mix").args(BOUNDS).arg(&log), &["log.jsonl, line 1", "'accuracy'"]);
    fail(fathom().arg("mix").args(BOUNDS).arg(place.at("none.jsonl")), &["none.jsonl"]);
    fail(
        fathom().arg("mix").args(["--short", "5,0.2", "--long", "5,0.3"]).arg(&log),
        &["both lengths are 5"],
    );
    let done = finish(fathom().arg("mix").args(["--short", "5", "--long", "5,0.3"]).arg(&log));
    assert_eq!(done.code, Some(2));
    assert!(done.stderr.contains("give a length and an accuracy"), "{}", done.stderr);
}
