//! `fathom grow`: what every method writes and measures, and what it refuses.

use crate::support::{Place, fail, fathom, fixture, json, succeed, texts};
use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// `fathom grow MODEL --method M --layers N --heldout FILE -o OUT` on 30 texts.
fn grow(place: &Place, model: &Path, method: &str, layers: usize, out: &Path) -> Command {
    let data = place.at("texts.jsonl");
    if !data.exists() {
        fs::write(&data, texts(30, 1)).unwrap();
    }
    let mut command = fathom();
    command.arg("grow").arg(model).args(["--method", method, "--layers", &layers.to_string()]);
    command.arg("--heldout").arg(data).arg("-o").arg(out).args(["--resamples", "200"]);
    command
}

fn results(out: &Path) -> Value {
    let mut results = json(&out.join("grow.json"));
    let fields = results.as_object_mut().unwrap();
    fields.remove("resources");
    // The model card has the command line.
    fields.remove("bytes");
    results
}

fn number(results: &Value, place: &str) -> f64 {
    results.pointer(place).and_then(Value::as_f64).unwrap_or_else(|| panic!("{place} of {results}"))
}

#[test]
fn silent_layers_leave_every_logit_and_loss_as_it_was() {
    let place = Place::new();
    let out = place.out();
    let mut command = grow(&place, &fixture("gguf/qwen2.gguf"), "llama-pro", 6, &out);
    let printed = succeed(command.args(["--depth-prompts", "2"]));
    assert!(printed.contains("leave every compared logit as it was, bit for bit"), "{printed}");
    let results = results(&out);
    assert_eq!(results["largest_logit_difference"], 0.0);
    assert_eq!(results["before"]["nll"], results["after"]["nll"]);
    assert_eq!(results["nll_increase"]["value"], 0.0);
    assert_eq!(results["path"], "grown/grown.gguf");
    assert_eq!(results["layers"][1], serde_json::json!({"kind": "silent", "layer": 0}));
    for file in ["report.html", "run.json", "grown/README.md", "before/results.json", "after/report.html"] {
        assert!(out.join(file).is_file(), "{file}");
    }
    // The written model is one like any other, and the curves of its silent layers are flat.
    let after = json(&out.join("after/results.json"));
    assert_eq!(after["model"]["layers"], 6);
    assert_eq!(number(&after, "/probes/contributions/relative_norm/layer/mean/1"), 0.0);
    let report = succeed(fathom().arg("report").arg(&out));
    assert!(report.contains("bit for bit"), "{report}");
    succeed(fathom().arg("models").arg(out.join("grown")));
}

#[test]
fn losses_are_those_that_the_lens_measures() {
    let place = Place::new();
    let out = place.out();
    let model = fixture("qwen2");
    succeed(grow(&place, &model, "solar", 4, &out).args(["--depth-prompts", "30"]));
    let results = results(&out);
    for side in ["before", "after"] {
        let lens = json(&out.join(side).join("results.json"));
        let loss = number(&lens, "/uncertainty/nll/value");
        let found = number(&results, &format!("/{side}/nll/value"));
        assert!((loss - found).abs() < 1e-5, "{side}: {loss} {found}");
        assert!((number(&results, &format!("/{side}/perplexity")) - found.exp()).abs() < 1e-9);
    }
    let rise = number(&results, "/after/nll/value") - number(&results, "/before/nll/value");
    assert!((number(&results, "/nll_increase/value") - rise).abs() < 1e-9);
    assert!(number(&results, "/before/mean_perplexity/value") > 1.0);
    let rules = results["before"]["depth"].as_array().unwrap();
    assert!(rules.iter().any(|depth| depth["rule"] == "settling"), "{rules:?}");
}

#[test]
fn lesa_trains_the_same_network_on_any_number_of_threads_and_keeps_the_model() {
    let place = Place::new();
    let (one, other) = (place.at("one"), place.at("other"));
    let model = fixture("qwen2");
    let lesa = |out: &Path, threads: &str| {
        let mut command = grow(&place, &model, "lesa", 4, out);
        command.args(["--epochs", "2", "--depth-prompts", "0", "--threads", threads]);
        command
    };
    let printed = succeed(&mut lesa(&one, "1"));
    assert!(printed.contains("mlp.down_proj.weight"), "{printed}");
    succeed(&mut lesa(&other, "3"));
    let (first, second) = (results(&one), results(&other));
    assert_eq!(first, second);
    let networks = first["networks"].as_array().unwrap();
    assert_eq!(networks.len(), 7);
    assert!(networks.iter().all(|n| n["loss"].as_array().unwrap().len() == 2));
    assert!(one.join("plots/grow_training.svg").is_file());
    // The same command keeps the model; another training is refused, and --overwrite makes a new one.
    let again = crate::support::finish(&mut lesa(&one, "1"));
    assert!(again.stderr.contains("is there already and kept"), "{}", again.stderr);
    assert_eq!(results(&one), first);
    let mut longer = grow(&place, &model, "lesa", 4, &one);
    longer.args(["--epochs", "3", "--depth-prompts", "0"]);
    fail(&mut longer, &["another training"]);
    succeed(longer.arg("--overwrite"));
    assert_eq!(results(&one)["networks"][0]["loss"].as_array().unwrap().len(), 3);
}

#[test]
fn what_cannot_be_reached_is_refused_before_anything_is_written() {
    let place = Place::new();
    let model = fixture("qwen2");
    let refused = |method: &str, layers: usize, args: &[&str], words: &str| {
        let out = place.at("refused");
        fail(grow(&place, &model, method, layers, &out).args(args), &[words]);
        assert!(!out.join("grown").exists());
    };
    refused("solar", 3, &[], "has 3 layers already");
    refused("solar", 5, &[], "it reaches 4, 6");
    refused("llama-pro", 5, &[], "it reaches 4, 6");
    refused("interpolate", 6, &[], "it reaches 4, 5");
    refused("lidas", 4, &[], "choose another method");
    refused("interpolate", 4, &["--insert", "2"], "layer 2 has no neighbour behind it");
    refused("solar", 4, &["--epochs", "3"], "trains no network");
    refused("solar", 4, &["--norms", "first"], "copies norms with their layers");
    refused("lesa", 4, &["--norm-weight", "1"], "norm-weight is 1");
    let unknown = crate::support::finish(&mut grow(&place, &model, "stretch", 4, &place.out()));
    assert!(unknown.stderr.contains("invalid value 'stretch'"), "{}", unknown.stderr);
    // Something that is in the way is not overwritten.
    let out = place.out();
    fs::create_dir_all(out.join("grown")).unwrap();
    fail(&mut grow(&place, &model, "solar", 4, &out), &["exists and would be overwritten"]);
    fail(&mut grow(&place, &fixture("mixtral"), "interpolate", 4, &place.at("m")), &["has experts"]);
}

#[test]
fn a_dry_run_counts_what_is_then_done() {
    let place = Place::new();
    let out = place.out();
    let model = fixture("qwen2");
    let plan = |out: &Path| {
        let mut command = grow(&place, &model, "lesa", 4, out);
        command.args(["--epochs", "2", "--depth-prompts", "0", "--json"]);
        command
    };
    let printed = succeed(plan(&out).arg("--dry-run"));
    assert!(!out.exists(), "nothing is written");
    let planned: Value = serde_json::from_str(&printed).unwrap();
    succeed(&mut plan(&out));
    assert_eq!(planned["stages"][0]["macs"], results(&out)["cost"]["train"]["madds"]);
}
