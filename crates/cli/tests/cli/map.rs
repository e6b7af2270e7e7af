//! `fathom map`: a model onto itself, pruned and unrelated models, and what it refuses.

use crate::support::{Place, fail, fathom, fixture, json, succeed, texts};
use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// `fathom map SOURCE TARGET --data FILE -o OUT` on 60 texts.
fn map(place: &Place, source: &Path, target: &Path, out: &Path) -> Command {
    let data = place.at("texts.jsonl");
    if !data.exists() {
        fs::write(&data, texts(60, 1)).unwrap();
    }
    let mut command = fathom();
    command.arg("map").arg(source).arg(target).arg("--data").arg(data).arg("-o").arg(out);
    command.args(["--resamples", "200"]);
    command
}

fn results(out: &Path) -> Value {
    let mut results = json(&out.join("map.json"));
    results.as_object_mut().unwrap().remove("resources");
    results
}

fn number(results: &Value, place: &str) -> f64 {
    results.pointer(place).and_then(Value::as_f64).unwrap_or_else(|| panic!("{place} of {results}"))
}

#[test]
fn a_model_onto_itself_has_no_error_on_the_diagonal_and_slope_one() {
    let place = Place::new();
    let out = place.out();
    let model = fixture("qwen2");
    let printed = succeed(&mut map(&place, &model, &model, &out));
    assert!(printed.contains("slope of 1.00") && printed.contains("same relative depth"), "{printed}");
    let results = results(&out);
    assert_eq!(results["schema_version"], 1);
    let levels = results["relative"].as_array().unwrap().len();
    assert_eq!(results["source"]["layers"].as_u64().unwrap() as usize + 1, levels);
    for level in 0..levels {
        assert!(number(&results, &format!("/relative/{level}/{level}")) < 1e-4, "{level}");
        assert!(number(&results, &format!("/r2/{level}/{level}")) > 1.0 - 1e-6, "{level}");
        assert_eq!(results["best"][level], level);
    }
    for of in [&results, &results["sources"]] {
        assert_eq!(of["slope"]["interval"], serde_json::json!([1.0, 1.0]));
    }
    assert_eq!(results["sources"]["best"], results["best"]);
    for file in ["report.html", "run.json", "samples.jsonl", "plots/map_best.svg", "plots/map_r2.png"] {
        assert!(out.join(file).is_file(), "{file}");
    }
    let report = succeed(fathom().arg("report").arg(&out));
    assert!(report.contains("slope of 1.00"), "{report}");
}

#[test]
fn differences_are_mapped_layer_by_layer() {
    let place = Place::new();
    let out = place.out();
    let model = fixture("qwen2");
    succeed(map(&place, &model, &model, &out).arg("--differences"));
    let results = results(&out);
    let layers = results["source"]["layers"].as_u64().unwrap() as usize;
    assert_eq!(results["relative"].as_array().unwrap().len(), layers);
    // What a layer adds maps onto itself without an error.
    assert!((0..layers).all(|l| number(&results, &format!("/r2/{l}/{l}")) > 0.999), "{results}");
    fail(&mut map(&place, &model, &model, &out), &["another quantity (--differences)"]);
}

#[test]
fn threads_memory_and_interruptions_change_nothing() {
    let place = Place::new();
    let (one, other) = (place.at("one"), place.at("other"));
    let model = fixture("qwen2");
    succeed(map(&place, &model, &model, &one).args(["--threads", "1"]));
    // So little memory that levels are fitted one by one.
    succeed(map(&place, &model, &model, &other).args(["--threads", "3", "--memory", "3MiB"]));
    let (all, expected) = (results(&other), results(&one));
    for name in ["relative", "r2", "mse", "penalty", "best", "best_interval", "slope", "sources"] {
        assert_eq!(all[name], expected[name], "{name}");
    }
    // Half of the lines, as if it had been killed.
    let samples = fs::read_to_string(other.join("samples.jsonl")).unwrap();
    let half: Vec<&str> = samples.lines().take(2).collect();
    fs::write(other.join("samples.jsonl"), half.join("\n") + "\n{\"sour").unwrap();
    fs::remove_file(other.join("map.json")).unwrap();
    let done = crate::support::finish(map(&place, &model, &model, &other).args(["--memory", "3MiB"]));
    assert!(done.stderr.contains("2 of "), "{}", done.stderr);
    // Which levels share a run of the models may differ, and with it the work.
    let (mut resumed, mut all) = (results(&other), all);
    for results in [&mut resumed, &mut all] {
        results.as_object_mut().unwrap().remove("cost");
    }
    assert_eq!(resumed, all);
}

#[test]
fn what_it_cannot_map_is_refused() {
    let place = Place::new();
    let (out, qwen, gemma) = (place.out(), fixture("qwen2"), fixture("gemma3"));
    fail(&mut map(&place, &qwen, &gemma, &out), &["different tokenizers", "one family"]);
    let data = place.at("texts.jsonl");
    fail(map(&place, &qwen, &qwen, &out).arg("--heldout").arg(&data), &["the same set"]);
    fs::write(place.at("one.jsonl"), "{\"text\": \"river stone\"}\n").unwrap();
    let mut one = fathom();
    one.arg("map").arg(&qwen).arg(&qwen).arg("--data").arg(place.at("one.jsonl")).arg("-o").arg(&out);
    fail(&mut one, &["there is no", "text", "--heldout"]);
    // Another kind of results.
    let prune = place.at("pruned");
    succeed(
        fathom()
            .arg("prune")
            .arg(&qwen)
            .args(["--method", "influence", "--remove", "1", "-o"])
            .arg(&prune)
            .arg("--data")
            .arg(&data),
    );
    fail(&mut map(&place, &qwen, &qwen, &prune), &["holds a pruning, not maps between models"]);
}

#[test]
fn a_dry_run_counts_the_work() {
    let place = Place::new();
    let out = place.out();
    let model = fixture("qwen2");
    let printed = succeed(map(&place, &model, &model, &out).arg("--dry-run"));
    assert!(printed.contains("source levels at a time") && !out.exists(), "{printed}");
    let estimate = succeed(map(&place, &model, &model, &out).args(["--dry-run", "--json"]));
    let estimate: Value = serde_json::from_str(&estimate).unwrap();
    succeed(&mut map(&place, &model, &model, &out));
    let results = results(&out);
    for (i, stage) in ["fit", "measure"].iter().enumerate() {
        assert_eq!(estimate["stages"][i]["macs"], results["cost"][stage]["madds"], "{stage}");
    }
}
