//! Probes by edited runs: skip on prompts, erasure and gradients on question-answer pairs.

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
    probes("all", model, place, out)
}

/// Some probes on long and short prompts.
fn probes(list: &str, model: &Path, place: &Place, out: &Path) -> Command {
    let long = "the baker sold rolls in the morning and gave the rest away at night ".repeat(2);
    let data = write(place, "p.jsonl", &format!("{{\"text\": \"{long}\"}}\n{{\"text\": \"short\"}}\n"));
    let mut command = measure(model, data, out);
    command.args(["--probes", list, "--qa"]).arg(write(place, "qa.jsonl", PAIRS));
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
    let gradients = results["probes"]["gradients"].as_array().unwrap();
    assert_eq!(gradients.len(), 2);
    assert_eq!(shape(&gradients[0]["attribution"]), (layers, tokens));
    assert_eq!(gradients[0]["tokens"], pairs[0]["tokens"]);
    for (name, value) in [("site", "resid"), ("baseline", "sequence"), ("quadrature", "adaptive")] {
        assert_eq!(gradients[1][name], value);
    }
    for error in ["completeness_error", "interval_error"] {
        assert_eq!(gradients[1][error].as_array().unwrap().len(), layers);
    }
    for probe in ["skip", "erasure", "gradients"] {
        let cost = &results["cost"][probe];
        assert!(cost["edits"].as_u64() > Some(0) && cost["runs"].as_u64() > Some(0), "{probe}");
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
        &["at least 13 tokens", "none has that many", "longer prompts"],
    );
}

#[test]
fn parts_modes_sites_and_rules_are_options() {
    let place = Place::new();
    let mut command = all(&fixture("llama2"), &place, &place.out());
    command.args(["--skip-parts", "mlp,attn", "--skip-modes", "future", "--positions", "2"]);
    command.args(["--sites", "mlp,resid,attn", "--baseline", "feature", "--quadrature", "riemann:3"]);
    succeed(&mut command);
    let results = json(&place.at("out/results.json"));
    let skip = results["probes"]["skip"].as_object().unwrap();
    assert!(skip.keys().eq(["future"]), "{skip:?}");
    assert!(skip["future"].as_object().unwrap().keys().eq(["attn", "mlp"]));
    let gradients = results["probes"]["gradients"].as_array().unwrap();
    let sites: Vec<&str> = gradients.iter().filter_map(|g| g["site"].as_str()).collect();
    assert_eq!(sites, ["resid", "attn", "mlp", "resid", "attn", "mlp"]);
    assert!(gradients.iter().all(|g| g["quadrature"] == "riemann:3" && g["baseline"] == "feature"));
    let first = fs::read_to_string(place.at("out/samples.jsonl")).unwrap();
    let sample: Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    assert_eq!(sample["skip"]["positions"].as_array().unwrap().len(), 2);
    // Other options would mix two measurements in one folder.
    let mut other = all(&fixture("llama2"), &place, &place.out());
    fail(other.arg("--resume"), &["other options of skip", "-o"]);
}

#[test]
fn the_naive_way_gives_the_same_numbers() {
    let place = Place::new();
    let (fast, slow) = (place.at("fast"), place.at("slow"));
    succeed(&mut all(&fixture("gemma2"), &place, &fast));
    succeed(all(&fixture("gemma2"), &place, &slow).arg("--naive"));
    let (fast, slow) = (json(&fast.join("results.json")), json(&slow.join("results.json")));
    close(&fast["probes"], &slow["probes"], "probes");
    for probe in ["skip", "erasure"] {
        let macs = |results: &Value| results["cost"][probe]["madds"].as_u64().unwrap();
        assert!(macs(&fast) < macs(&slow), "{probe}");
    }
}

/// Fails where two numbers differ by more than rounding.
#[track_caller]
fn close(a: &Value, b: &Value, place: &str) {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{place}");
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| close(a, b, &format!("{place}/{i}")));
        }
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()), "{place}");
            a.iter().for_each(|(k, a)| close(a, &b[k], &format!("{place}/{k}")));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= 1e-4 + 1e-3 * b.abs(), "{place}: {a} against {b}");
        }
        _ => assert_eq!(a, b, "{place}"),
    }
}

#[test]
fn other_prompts_may_be_the_baseline() {
    let place = Place::new();
    let base = write(&place, "base.jsonl", "{\"text\": \"all the king's horses and all the king's men\"}\n");
    let (own, other) = (place.at("own"), place.at("other"));
    succeed(&mut all(&fixture("qwen3"), &place, &own));
    succeed(all(&fixture("qwen3"), &place, &other).arg("--baseline-data").arg(&base));
    let effect = |out: &Path| json(&out.join("results.json"))["probes"]["erasure"][0]["effect"].clone();
    assert_ne!(effect(&own), effect(&other));
    let recorded = json(&other.join("run.json"));
    assert_eq!(recorded["probes"]["erasure"]["baseline"]["sha256"].as_str().unwrap().len(), 64);
    fail(all(&fixture("qwen3"), &place, &other).arg("--resume"), &["other options of erasure"]);
}

#[test]
fn a_dry_run_counts_what_the_run_then_does() {
    let place = Place::new();
    let model = fixture("phi3");
    let mut command = all(&model, &place, &place.out());
    command.args(["--quadrature", "riemann:4"]);
    let plan = finish(command.args(["--dry-run", "--json"])).stdout;
    assert!(!place.out().exists(), "a dry run writes nothing");
    let plan: Value = serde_json::from_str(&plan).unwrap();
    succeed(all(&model, &place, &place.out()).args(["--quadrature", "riemann:4"]));
    let cost = &json(&place.at("out/results.json"))["cost"];
    let rows = plan["plan"].as_array().unwrap();
    assert!(rows.iter().map(|r| r["probe"].as_str().unwrap()).eq(cost.as_object().unwrap().keys()));
    for row in rows {
        let done = &cost[row["probe"].as_str().unwrap()];
        for count in ["edits", "runs", "madds", "madds_naive"] {
            assert_eq!(row[count], done[count], "{count} of {row}");
        }
        assert!(row["bytes"].as_u64() > Some(0) && row["seconds"].as_f64() > Some(0.0), "{row}");
    }
    let table = finish(all(&model, &place, &place.out()).arg("--dry-run")).stdout;
    assert!(table.contains("naive GMAC") && table.contains("in all"), "{table}");
}

#[test]
fn a_resumed_run_measures_only_the_probes_that_are_missing() {
    let place = Place::new();
    let (model, out, whole) = (fixture("llama3"), place.out(), place.at("whole"));
    succeed(&mut probes("skip,erasure", &model, &place, &out));
    succeed(all(&model, &place, &out).arg("--resume"));
    let cost = json(&out.join("results.json"))["cost"].clone();
    succeed(&mut all(&model, &place, &whole));
    let want = json(&whole.join("results.json"));
    assert_eq!(json(&out.join("results.json"))["probes"], want["probes"]);
    for probe in ["skip", "erasure", "gradients", "lens"] {
        assert_eq!(cost[probe]["madds"], want["cost"][probe]["madds"], "{probe} was measured once");
    }
    assert_eq!(json(&out.join("run.json"))["probes"]["measured"].as_array().unwrap().len(), 9);
}

#[test]
fn too_little_memory_is_told_before_anything_is_measured() {
    let place = Place::new();
    let small = |size: &str| {
        let mut command = all(&fixture("qwen3"), &place, &place.out());
        command.args(["--memory", size]);
        command
    };
    fail(&mut small("10KB"), &["needs", "may be used", "--memory 1MiB"]);
    assert!(!place.at("out/samples.jsonl").exists());
    succeed(&mut small("1MiB"));
}

#[test]
fn probes_of_pairs_alone_need_no_prompt() {
    let place = Place::new();
    let done = finish(&mut probes("gradients", &fixture("olmo2"), &place, &place.out()));
    assert!(done.stdout.contains("0 prompts, 0 tokens, 2 question-answer pairs"), "{}", done.stdout);
    assert!(!done.stdout.contains("NaN") && !done.stdout.contains("settling"), "{}", done.stdout);
    succeed(probes("gradients", &fixture("olmo2"), &place, &place.out()).arg("--resume"));
}

/// Tokenizers differ in what they put between words, before and behind a text.
#[test]
fn the_answer_is_the_tokens_behind_the_question() {
    for name in ["llama2", "llama3", "phi3", "mistral", "qwen3", "gemma3", "gpt2"] {
        let place = Place::new();
        let mut command = measure(&fixture(name), place.data(), &place.out());
        succeed(command.args(["--probes", "gradients", "--quadrature", "riemann:1"]));
        let samples = fs::read_to_string(place.at("out/samples.jsonl")).unwrap();
        for line in samples.lines() {
            let sample: Value = serde_json::from_str(line).unwrap();
            let pieces: Vec<&str> =
                sample["pieces"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let count = sample["asked"]["answer_tokens"].as_u64().unwrap() as usize;
            let tail = pieces[pieces.len() - count..].concat();
            let answer = sample["asked"]["answer"].as_str().unwrap();
            assert_eq!(tail.trim(), answer.trim(), "{name}: {pieces:?}");
        }
    }
}

#[test]
fn impossible_positions_are_refused() {
    let place = Place::new();
    let row = "{\"text\": \"the baker sold rolls in the morning\", \"positions\": [3, 5000]}\n";
    let data = write(&place, "p.jsonl", row);
    fail(
        measure(&fixture("qwen3"), data, &place.out()).args(["--probes", "skip"]),
        &["p-1", "position 5000"],
    );
}

#[test]
fn current_needs_no_position() {
    let place = Place::new();
    let data = write(&place, "short.jsonl", "{\"text\": \"hi there\"}\n");
    let mut command = measure(&fixture("qwen3"), data, &place.out());
    succeed(command.args(["--probes", "skip", "--skip-modes", "current"]));
}

#[test]
fn other_pairs_do_not_mix_with_earlier_ones() {
    let place = Place::new();
    succeed(&mut probes("erasure", &fixture("qwen3"), &place, &place.out()));
    let pairs = write(&place, "qa.jsonl", &PAIRS.replace("blue", "grey"));
    let mut command = measure(&fixture("qwen3"), place.at("p.jsonl"), &place.out());
    command.args(["--probes", "erasure", "--resume", "--qa"]).arg(pairs);
    fail(&mut command, &["other options of erasure"]);
}
