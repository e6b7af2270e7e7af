//! `fathom exit`: heads, thresholds, and what it refuses.

use crate::support::{Place, fail, fathom, finish, fixture, json, succeed, texts};
use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// `fathom exit MODEL --data FILE -o OUT` on 120 texts.
fn exit(place: &Place, model: &Path, out: &Path) -> Command {
    let data = place.at("texts.jsonl");
    if !data.exists() {
        fs::write(&data, texts(120, 1)).unwrap();
    }
    let mut command = fathom();
    command.arg("exit").arg(model).arg("--data").arg(data).arg("-o").arg(out);
    command.args(["--resamples", "200"]);
    command
}

/// The results but for times and memory.
fn results(out: &Path) -> Value {
    let mut results = json(&out.join("exit.json"));
    results.as_object_mut().unwrap().remove("resources");
    results
}

fn number(value: &Value, place: &str) -> f64 {
    value.pointer(place).and_then(Value::as_f64).unwrap_or_else(|| panic!("{place} of {value}"))
}

#[test]
fn heads_are_measured_and_thresholds_keep_their_risk() {
    let place = Place::new();
    let out = place.out();
    let printed = succeed(exit(&place, &fixture("llama3"), &out).args(["--epsilon", "0.3"]));
    assert!(printed.contains("same most likely continuation") && printed.contains("epsilon"), "{printed}");
    let results = results(&out);
    assert_eq!(results["schema_version"], 1);
    let depth = results["model"]["layers"].as_u64().unwrap() as usize;
    let levels = results["levels"].as_array().unwrap();
    assert_eq!(levels.len(), 2 * depth);
    let nll =
        |head: &str| -> f64 { levels.iter().filter(|l| l["head"] == head).map(|l| number(l, "/nll")).sum() };
    // Maps are fitted for that.
    assert!(nll("linear") < nll("lens"), "{} {}", nll("linear"), nll("lens"));
    for rule in results["rules"].as_array().unwrap().iter().filter(|r| !r["threshold"].is_null()) {
        assert!(number(rule, "/p_value") <= 0.1 && number(rule, "/risk_calibration") < 0.3, "{rule}");
        let shares: f64 = rule["shares"].as_array().unwrap().iter().filter_map(Value::as_f64).sum();
        assert!((shares - 1.0).abs() < 1e-9);
    }
    let sum: u64 =
        ["fit", "calibration", "heldout"].iter().map(|set| results[set]["texts"].as_u64().unwrap()).sum();
    assert_eq!(sum, 120);
    assert_eq!(results["speculation"].as_array().unwrap().len(), 2 * (depth - 1));
    for file in
        ["report.html", "run.json", "samples.jsonl", "plots/exit_levels.svg", "plots/exit_speculation.png"]
    {
        assert!(out.join(file).is_file(), "{file}");
    }
    let report = succeed(fathom().arg("report").arg(&out));
    assert!(report.contains("same most likely continuation"), "{report}");
}

/// The lens of `fathom measure` knows the same levels.
#[test]
fn the_lens_head_is_the_lens() {
    let place = Place::new();
    let (out, measured) = (place.out(), place.at("measured"));
    succeed(exit(&place, &fixture("qwen2"), &out).args(["--heads", "lens"]));
    let sample = fs::read_to_string(out.join("samples.jsonl")).unwrap();
    let sample =
        sample.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).find(|l| l["kind"] == "text");
    let sample = sample.unwrap();
    let all = fs::read_to_string(place.at("texts.jsonl")).unwrap();
    let own = sample["id"].as_str().unwrap().rsplit(['-', ':']).next().unwrap().parse::<usize>().unwrap();
    let line = all.lines().nth(own.saturating_sub(1)).unwrap().to_owned();
    fs::write(place.at("one.jsonl"), format!("{line}\n")).unwrap();
    let mut measure = crate::support::measure(&fixture("qwen2"), place.at("one.jsonl"), &measured);
    succeed(measure.args(["--probes", "lens"]));
    let lens = fs::read_to_string(measured.join("samples.jsonl")).unwrap();
    let lens: Value = serde_json::from_str(lens.lines().next().unwrap()).unwrap();
    for level in 0..3 {
        let losses = sample["heads"]["lens"]["nll"][level].as_array().unwrap();
        let mean = losses.iter().filter_map(Value::as_f64).sum::<f64>() / losses.len() as f64;
        let expected = number(&lens, &format!("/lens/nll/{level}"));
        assert!((mean - expected).abs() < 1e-3 * expected, "{level}: {mean} {expected}");
    }
}

#[test]
fn threads_memory_and_interruptions_change_nothing() {
    let place = Place::new();
    let (one, other) = (place.at("one"), place.at("other"));
    let model = fixture("qwen2");
    succeed(exit(&place, &model, &one).args(["--threads", "1"]));
    succeed(exit(&place, &model, &other).args(["--threads", "3", "--memory", "3MiB"]));
    let samples = fs::read_to_string(other.join("samples.jsonl")).unwrap();
    let some: Vec<&str> = samples.lines().take(40).collect();
    fs::write(other.join("samples.jsonl"), some.join("\n") + "\n{\"ki").unwrap();
    fs::remove_file(other.join("exit.json")).unwrap();
    let done = finish(exit(&place, &model, &other).args(["--memory", "3MiB"]));
    assert!(done.stderr.contains("39 of 120 texts are there already"), "{}", done.stderr);
    let (mut a, mut b) = (results(&one), results(&other));
    for results in [&mut a, &mut b] {
        // With little memory the maps are fitted in several passes.
        results.as_object_mut().unwrap().remove("cost");
    }
    assert_eq!(a, b);
}

#[test]
fn another_limit_needs_no_new_measurement_and_what_no_threshold_keeps_is_said() {
    let place = Place::new();
    let out = place.out();
    let model = fixture("qwen2");
    succeed(&mut exit(&place, &model, &out));
    let done = finish(exit(&place, &model, &out).args(["--epsilon", "0.001"]));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("120 of 120 texts are there already"), "{}", done.stderr);
    assert!(done.stdout.contains("does not pay"), "{}", done.stdout);
    let results = results(&out);
    assert_eq!((&results["choice"]["pays"], &results["choice"]["rule"]), (&Value::Bool(false), &Value::Null));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let place = Place::new();
    let (out, model) = (place.out(), fixture("qwen2"));
    for (option, value) in [("--epsilon", "0"), ("--epsilon", "1.5"), ("--delta", "nan"), ("--delta", "-0.1")]
    {
        let mut command = fathom();
        command.arg("exit").arg(&model).args([option, value]);
        fail(&mut command, &[&option[2..], "a share between 0 and 1"]);
    }
    succeed(exit(&place, &model, &out).args(["--limit", "40"]));
    fail(
        exit(&place, &model, &out).args(["--limit", "40", "--heads", "lens"]),
        &["other heads", "--overwrite"],
    );
    let data = place.at("texts.jsonl");
    fail(exit(&place, &model, &out).arg("--heldout").arg(&data), &["the same set"]);
    let measured = crate::support::measure(&model, place.data(), &out);
    let mut measured = measured;
    fail(&mut measured, &["holds early exits, not a measurement"]);
}

#[test]
fn a_dry_run_counts_the_work() {
    let place = Place::new();
    let out = place.out();
    let model = fixture("qwen2");
    let estimate = succeed(exit(&place, &model, &out).args(["--dry-run", "--json"]));
    let estimate: Value = serde_json::from_str(&estimate).unwrap();
    assert!(!out.exists());
    succeed(&mut exit(&place, &model, &out));
    let results = results(&out);
    for (i, stage) in ["fit", "measure"].iter().enumerate() {
        assert_eq!(estimate["stages"][i]["macs"], results["cost"][stage]["madds"], "{stage}");
    }
}
