//! `fathom bench`: that it measures all it says; never how fast.

use crate::support::{Place, fail, fathom, finish, fixture, succeed};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Shapes of the reference times rows, forms of weights and directions of a quick run.
const QUICK_KERNELS: usize = 2 * 2 * 4 * 2;

fn quick() -> assert_cmd::Command {
    let mut command = fathom();
    command.args(["bench", "--quick"]);
    command
}

/// Every one of these is a positive number; NaN would be null in JSON.
#[track_caller]
fn check_speed(of: &Value) {
    for field in ["repetitions", "seconds", "gflops", "peak_gflops", "share_of_peak"] {
        assert!(of[field].as_f64().is_some_and(|x| x > 0.0 && x.is_finite()), "{field} of {of}");
    }
    let share = of["gflops"].as_f64().unwrap() / of["peak_gflops"].as_f64().unwrap();
    assert!((of["share_of_peak"].as_f64().unwrap() / share - 1.0).abs() < 1e-9, "{of}");
}

#[track_caller]
fn check_report(report: &Value) {
    assert_eq!(report["schema_version"], 1);
    assert_eq!(report["fathom"], env!("CARGO_PKG_VERSION"));
    assert!(report["date"].as_str().is_some_and(|d| d.ends_with('Z')));
    assert!(report["threads"].as_u64().is_some_and(|n| n > 0));
    for dtype in ["f32", "bf16"] {
        assert!(report["peak_gflops"][dtype].as_f64().is_some_and(|x| x > 0.0), "{report}");
    }
    let kernels = report["kernels"].as_array().unwrap();
    // In full and quantised, forward and backward alike.
    for (dtype, bytes) in [("f32", 4.0), ("f32", 1.25), ("bf16", 2.0), ("bf16", 1.25)] {
        let of =
            |k: &&Value| k["layer"] == "reference" && k["dtype"] == dtype && k["bytes_a_weight"] == bytes;
        assert!(kernels.iter().filter(of).count() > 1, "{dtype}, {bytes} bytes");
    }
    for kernel in kernels {
        check_speed(kernel);
        assert!(kernel["weights_gb_per_second"].as_f64().is_some_and(|x| x > 0.0), "{kernel}");
        // A multiply-add is two operations.
        let of = |field: &str| kernel[field].as_f64().unwrap();
        let operations = 2e-9 * of("rows") * of("inputs") * of("outputs");
        assert!((of("gflops") * of("seconds") / operations - 1.0).abs() < 1e-6, "{kernel}");
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The one file of a folder.
#[track_caller]
fn only_file(folder: &Path) -> std::path::PathBuf {
    let mut files = fs::read_dir(folder).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    file
}

#[test]
fn kernels_are_timed_without_a_model_and_kept() {
    let place = Place::new();
    for run in 1..=2 {
        let done = finish(quick().arg("--json").arg("--out").arg(place.at("a/b")));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let report: Value = serde_json::from_str(&done.stdout).unwrap();
        check_report(&report);
        assert_eq!(report["kernels"].as_array().unwrap().len(), QUICK_KERNELS);
        assert!(report["model"].is_null());
        assert!(done.stderr.contains("no model was named"), "{}", done.stderr);

        let file = only_file(&place.at("a/b"));
        let name = report["machine"]["name"].as_str().unwrap();
        assert_eq!(file.file_name().unwrap().to_str().unwrap(), format!("{name}.jsonl"));
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{name}");
        let lines = lines(&file);
        assert_eq!(lines.len(), run);
        assert_eq!(lines[run - 1], report);
    }
}

#[test]
fn a_model_is_timed_with_all_its_probes() {
    let place = Place::new();
    let text =
        succeed(quick().current_dir(place.path()).arg(fixture("llama3")).args(["--json", "--dtype", "bf16"]));
    let report: Value = serde_json::from_str(&text).unwrap();
    check_report(&report);
    let layers: Vec<&str> =
        report["kernels"].as_array().unwrap().iter().filter_map(|k| k["layer"].as_str()).collect();
    for part in ["qkv", "attn_out", "up", "down", "head"] {
        assert!(layers.iter().any(|l| l.contains(part)), "{part} is not in {layers:?}");
    }
    let model = &report["model"];
    assert_eq!((&model["id"], &model["dtype"]), (&"llama3".into(), &"bf16".into()));
    check_speed(&model["prefill"]);
    assert!(model["prefill"]["tokens_per_second"].as_f64().is_some_and(|x| x > 0.0), "{model}");
    let probes = model["probes"].as_array().unwrap();
    let names: Vec<&str> = probes.iter().filter_map(|p| p["probe"].as_str()).collect();
    assert_eq!(
        names,
        [
            "contributions",
            "lens",
            "similarity",
            "settling",
            "angles",
            "skip",
            "order",
            "erasure",
            "gradients"
        ]
    );
    for probe in probes {
        check_speed(probe);
        let edits = ["skip", "order", "erasure", "gradients"].contains(&probe["probe"].as_str().unwrap());
        assert_eq!(probe["edits"].as_u64().unwrap() > 0, edits, "{probe}");
    }
    // Nothing is left where nobody asked for it.
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

#[test]
fn every_kind_of_layer_and_position_is_timed() {
    for model in ["gpt2", "gemma3"] {
        let text = succeed(quick().arg(fixture(model)).arg("--json"));
        let report: Value = serde_json::from_str(&text).unwrap();
        check_report(&report);
        assert_eq!(report["model"]["probes"].as_array().unwrap().len(), 9);
    }
}

#[test]
fn tables_are_printed_without_json() {
    let table = succeed(quick().arg(fixture("qwen2")));
    for part in
        ["peak by multiply-adds", "of peak", "forward", "backward", "reference", "prefill of", "gradients"]
    {
        assert!(table.contains(part), "{part} is not in {table}");
    }
    assert!(table.lines().all(|l| l.len() <= 120), "{table}");
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_timed() {
    let place = Place::new();
    fs::write(place.at("file"), "").unwrap();
    fail(quick().arg("--out").arg(place.at("file")), &["cannot keep the history", "--out"]);
    fail(quick().arg("no-such-model"), &["no-such-model"]);
    // The type of a model that is not there is a slip.
    let done = finish(quick().args(["--dtype", "bf16"]));
    assert_eq!(done.code, Some(2), "{}", done.stderr);
    assert!(done.stdout.is_empty() && done.stderr.contains("MODEL"), "{}", done.stderr);
}
