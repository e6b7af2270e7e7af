//! Probes by edited runs: skip on prompts, erasure on question-answer pairs.

use crate::support::{Place, fail, finish, fixture, json, measure, succeed};
use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const PAIRS: &str = "{\"question\": \"one and two is\", \"answer\": \" three\"}\n\
                     {\"question\": \"the sky is\", \"answer\": \" blue\"}\n";

fn write(place: &Place, name: &str, text: &str) -> PathBuf {
    let path = place.at(name);
    fs::write(&path, text).unwrap();
    path
}

/// All probes on long and short prompts.
fn all(model: &Path, place: &Place, out: &Path) -> Command {
    let long = "the baker sold rolls in the morning and gave the rest away at night ".repeat(2);
    let data = write(place, "p.jsonl", &format!("{{\"text\": \"{long}\"}}\n{{\"text\": \"short\"}}\n"));
    let mut command = measure(model, data, out);
    command.args(["--probes", "all", "--qa"]).arg(write(place, "qa.jsonl", PAIRS));
    command
}

fn shape(matrix: &Value) -> (usize, usize) {
    let rows = matrix.as_array().unwrap();
    (rows.len(), rows[0].as_array().unwrap().len())
}

#[test]
fn all_probes_leave_their_results() {
    let place = Place::new();
    let done = finish(&mut all(&fixture("qwen3"), &place, &place.out()));
    assert!(done.stderr.contains("warning: 1 of 2 prompts are too short"), "{}", done.stderr);
    let results = json(&place.at("out/results.json"));
    let layers = results["model"]["layers"].as_u64().unwrap() as usize;
    let skip = &results["probes"]["skip"];
    for mode in ["future", "current", "local"] {
        let effects = &skip[mode]["layer"];
        for over in ["max", "mean"] {
            assert_eq!(shape(&effects["layer_effect"][over]), (layers, layers), "{mode}");
        }
        assert_eq!(effects.get("output_effect").is_some(), mode != "local");
    }
    let pairs = results["probes"]["erasure"].as_array().unwrap();
    assert_eq!(pairs.len(), 2);
    let tokens = pairs[0]["tokens"].as_array().unwrap().len();
    assert_eq!(shape(&pairs[0]["effect"]), (layers + 1, tokens));
    assert_eq!(pairs[1]["answer"], " blue");
    let rules: Vec<&str> =
        results["depth"].as_array().unwrap().iter().filter_map(|d| d["rule"].as_str()).collect();
    assert!(rules.contains(&"skip_layer") && rules.contains(&"influence_90"), "{rules:?}");
    for probe in ["skip", "erasure"] {
        let cost = &results["cost"][probe];
        assert!(cost["madds"].as_u64() < cost["madds_naive"].as_u64(), "{probe}");
    }
}

#[test]
fn a_resumed_run_adds_pairs_and_changes_nothing_else() {
    let place = Place::new();
    let (model, whole, out) = (fixture("gemma3"), place.at("whole"), place.at("out"));
    succeed(&mut all(&model, &place, &whole));
    succeed(&mut all(&model, &place, &out));
    let samples = fs::read_to_string(out.join("samples.jsonl")).unwrap();
    let kept: Vec<&str> = samples.lines().take(3).collect();
    fs::write(out.join("samples.jsonl"), kept.join("\n") + "\n").unwrap();
    succeed(all(&model, &place, &out).arg("--resume"));
    assert_eq!(json(&out.join("results.json"))["probes"], json(&whole.join("results.json"))["probes"]);
    assert_eq!(fs::read_to_string(out.join("samples.jsonl")).unwrap(), samples);
}

#[test]
fn bad_pairs_are_told_in_one_sentence() {
    let place = Place::new();
    let with = |name: &str, text: &str| {
        let mut command = measure(&fixture("qwen3"), place.data(), &place.out());
        command.args(["--probes", "erasure", "--qa"]).arg(write(&place, name, text));
        command
    };
    fail(&mut with("a.jsonl", "{\"text\": \"no answer\"}\n"), &["a-1", "has no answer"]);
    let long = "word ".repeat(600);
    let row = format!("{{\"question\": \"{long}\", \"answer\": \"x\"}}\n");
    fail(&mut with("b.jsonl", &row), &["b-1", "more than the model's context"]);
    fail(&mut with("c.jsonl", "{\"question\": \"x\", \"answer\": \"\"}\n"), &["c.jsonl", "answer"]);
}

#[test]
fn prompts_too_short_for_any_position_are_refused() {
    let place = Place::new();
    let data = write(&place, "short.jsonl", "{\"text\": \"hi\"}\n");
    fail(
        measure(&fixture("qwen3"), data, &place.out()).args(["--probes", "skip"]),
        &["no prompt", "longer prompts"],
    );
}
