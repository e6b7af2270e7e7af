//! `fathom prune`: from texts to an exported model, and what it refuses.

use crate::support::{Done, Place, WORDS, fail, fathom, finish, fixture, json, succeed, texts};
use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// `fathom prune MODEL --data FILE -o OUT` on 60 texts.
fn prune(place: &Place, model: &Path, out: &Path) -> Command {
    let data = place.at("texts.jsonl");
    if !data.exists() {
        fs::write(&data, texts(60, 1)).unwrap();
    }
    let mut command = fathom();
    command.arg("prune").arg(model).arg("--data").arg(data).arg("-o").arg(out);
    command.args(["--resamples", "200"]);
    command
}

fn results(out: &Path) -> Value {
    json(&out.join("prune.json"))
}

/// The results but for times and memory.
fn measured(out: &Path) -> Value {
    let mut results = results(out);
    results.as_object_mut().unwrap().remove("resources");
    results
}

fn kinds(results: &Value) -> Vec<String> {
    let candidates = results["candidates"].as_array().unwrap();
    let kind = |c: &Value| format!("{} {}", c["method"].as_str().unwrap(), c["removed"]);
    candidates.iter().map(kind).collect()
}

#[test]
fn every_method_chooses_and_every_candidate_is_measured() {
    let place = Place::new();
    let out = place.out();
    let printed = succeed(&mut prune(&place, &fixture("gemma3"), &out));
    assert!(printed.contains("rise in loss") && printed.contains("greedy"), "{printed}");
    let results = results(&out);
    assert_eq!(results["schema_version"], 1);
    // 7 layers: 1 to 3 by five methods.
    let candidates = results["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 15);
    assert_eq!(results["searches"].as_array().unwrap().len(), 6);
    for c in candidates {
        let number =
            |name: &str| c.pointer(name).and_then(Value::as_f64).unwrap_or_else(|| panic!("{name} of {c}"));
        let [value, low, high] =
            ["/nll_increase/value", "/nll_increase/interval/0", "/nll_increase/interval/1"].map(number);
        assert!(low <= value && value <= high, "{c}");
        let rise = number("/nll/value") - results["full"]["nll"]["value"].as_f64().unwrap();
        assert!((rise - value).abs() < 1e-9, "{c}");
        assert!(number("/kl") >= 0.0 && number("/top1_agreement") <= 1.0);
        assert!(number("/parameters") < results["full"]["parameters"].as_f64().unwrap());
    }
    let texts = |set: &str| results[set]["texts"].as_u64().unwrap();
    assert_eq!(texts("calibration") + texts("heldout"), 60);
    for file in [
        "report.html",
        "run.json",
        "plots/prune_loss.svg",
        "plots/prune_layers.png",
        "plots/prune_scores.svg",
    ] {
        assert!(out.join(file).is_file(), "{file}");
    }
    assert_eq!(json(&out.join("run.json"))["status"], "complete");
    // The figures and the page can be drawn again.
    fs::remove_file(out.join("report.html")).unwrap();
    let again = succeed(fathom().arg("report").arg(&out));
    assert!(again.contains("rise in loss") && out.join("report.html").is_file());
}

#[test]
fn threads_memory_and_interruptions_change_no_number() {
    let place = Place::new();
    let (model, whole) = (fixture("qwen2-window"), place.at("whole"));
    succeed(&mut prune(&place, &model, &whole));
    let samples = fs::read_to_string(whole.join("samples.jsonl")).unwrap();
    let one = place.at("one");
    succeed(prune(&place, &model, &one).args(["--threads", "1", "--memory", "3MiB"]));
    assert_eq!(kinds(&results(&one)), kinds(&results(&whole)));
    assert_eq!(results(&one)["candidates"], results(&whole)["candidates"]);
    // A kill leaves whole lines and a piece of another.
    let lines: Vec<&str> = samples.lines().collect();
    for kept in [0, 1, 3, lines.len() / 2, lines.len() - 1] {
        let out = place.at(&format!("out{kept}"));
        succeed(&mut prune(&place, &model, &out));
        let mut cut: String = lines[..kept].iter().map(|line| format!("{line}\n")).collect();
        cut.push_str(&lines[kept][..40]);
        fs::write(out.join("samples.jsonl"), cut).unwrap();
        fs::remove_file(out.join("prune.json")).unwrap();
        succeed(prune(&place, &model, &out).arg("--resume"));
        let (again, first) = (measured(&out), measured(&whole));
        assert_eq!(again["candidates"], first["candidates"], "{kept} lines");
        assert_eq!(again["searches"], first["searches"], "{kept} lines");
        assert_eq!(again["choice"], first["choice"], "{kept} lines");
    }
    // Another seed of the bootstrap is another job.
    fail(prune(&place, &model, &whole).args(["--seed", "7"]), &["another seed", "--overwrite"]);
    fail(prune(&place, &model, &whole).args(["--limit", "40"]), &["other calibration texts"]);
}

#[test]
fn methods_and_numbers_can_be_chosen() {
    let place = Place::new();
    let out = place.out();
    let mut command = prune(&place, &fixture("gemma3"), &out);
    succeed(command.args([
        "--remove",
        "2,4",
        "--method",
        "influence,layers=1..3,5,layers=0",
        "--unit",
        "layer",
    ]));
    let results = results(&out);
    let kinds = kinds(&results);
    assert_eq!(kinds.len(), 4, "{kinds:?}");
    assert!(
        kinds.contains(&"layers [[1,3],[5,6]]".to_owned()) && kinds.contains(&"layers [[0,1]]".to_owned())
    );
    // With given numbers, the best candidate of the largest one is recommended.
    let index = results["choice"]["index"].as_u64().unwrap() as usize;
    assert_eq!(results["candidates"][index]["method"], "influence");
    for unit in ["attn", "mlp"] {
        let out = place.at(unit);
        succeed(prune(&place, &fixture("gpt2"), &out).args(["--unit", unit, "--no-racing"]));
        let results = self::results(&out);
        assert_eq!(results["unit"], unit);
        // Angular distance is one of whole layers.
        assert!(self::kinds(&results).iter().all(|kind| !kind.starts_with("angular")));
        let step = &results["searches"][0];
        assert_eq!(step["candidates"], step["finalists"]);
    }
}

#[test]
fn linear_maps_lower_what_they_are_fitted_to() {
    let place = Place::new();
    let out = place.out();
    succeed(prune(&place, &fixture("llama3"), &out).args(["--replace", "linear", "--method", "layers=1..2"]));
    let results = results(&out);
    let [without, with] = &results["candidates"].as_array().unwrap()[..] else { panic!("{results}") };
    assert!(without.get("replaced").is_none());
    let map = &with["replaced"];
    assert_eq!(map["layer"], 0);
    assert!(map["error"].as_f64().unwrap() < map["error_without"].as_f64().unwrap(), "{map}");
    assert_eq!(with["parameters"], without["parameters"]);
    assert_ne!(with["nll"], without["nll"]);
}

#[test]
fn questions_are_answered_by_every_candidate() {
    let place = Place::new();
    let (out, questions) = (place.out(), place.at("questions.jsonl"));
    let row = |i: usize| {
        let word = |k: usize| WORDS[(i * 5 + k * 3) % WORDS.len()];
        format!(
            "{{\"context\": \"the {} of the {} is\", \"choices\": [\"{}\", \"a {} {}\"], \"label\": {}}}\n",
            word(0),
            word(1),
            word(2),
            word(3),
            word(4),
            i % 2
        )
    };
    fs::write(&questions, (0..12).map(row).collect::<String>()).unwrap();
    let command = || {
        let mut command = prune(&place, &fixture("llama3"), &out);
        command.args(["--method", "influence,greedy"]);
        command
    };
    succeed(&mut command());
    let before = measured(&out);
    assert!(before["full"].get("accuracy").is_none());
    // Questions may be added to a finished run.
    succeed(command().arg("--choices").arg(&questions));
    let after = measured(&out);
    assert_eq!(after["choices"]["texts"], 12);
    assert_eq!(after["full"]["nll"], before["full"]["nll"]);
    let candidates = after["candidates"].as_array().unwrap();
    for model in candidates.iter().chain([&after["full"]]) {
        for kind in ["acc", "acc_norm"] {
            let right = model["accuracy"][kind]["value"].as_f64().unwrap() * 12.0;
            assert!((right - right.round()).abs() < 1e-9 && (0.0..=12.0).contains(&right));
        }
    }
    assert!(candidates.iter().all(|c| c["accuracy_change"]["interval"].is_array()));
    // And left out again: their answers are kept, and other questions are not mixed with them.
    succeed(&mut command());
    assert_eq!(measured(&out), before);
    let other = place.at("other.jsonl");
    fs::write(&other, (1..12).map(row).collect::<String>()).unwrap();
    fail(command().arg("--choices").arg(&other), &["other questions (--choices)"]);
    succeed(command().arg("--choices").arg(&questions));
    assert_eq!(measured(&out), after);
}

/// Prunes and exports.
fn exported(place: &Place, model: &str, format: &str) -> PathBuf {
    let out = place.at(&format!("{format}-out"));
    succeed(prune(place, &fixture(model), &out).args(["--method", "layers=1..2", "--export", format]));
    out
}

#[test]
fn an_export_gives_the_logits_of_the_run_in_memory() {
    let place = Place::new();
    let gguf = "gguf/llama3.gguf";
    for (model, format) in [("qwen2-window", "hf"), (gguf, "gguf"), ("gemma3", "hf")] {
        let out = exported(&place, model, format);
        let export = &results(&out)["export"];
        assert_eq!(
            (&export["format"], &export["largest_difference"]),
            (&Value::from(format), &Value::from(0.0))
        );
        let card = fs::read_to_string(out.join("pruned/README.md")).unwrap();
        assert!(card.contains("Layers 1..2") && card.contains("fathom prune"), "{card}");
        let verified = succeed(fathom().args(["prune", "--verify"]).arg(out.join("pruned")));
        assert!(verified.contains("equal bit for bit"), "{verified}");
        // The model that is left can be measured.
        let path = out.join(export["path"].as_str().unwrap());
        let mut measure = fathom();
        measure
            .arg("measure")
            .arg(path)
            .args(["--data", "plain", "--limit", "2", "-o"])
            .arg(out.join("again"));
        succeed(&mut measure);
        // The same command keeps it, and another export does not overwrite it.
        let before = measured(&out);
        let again = |layers: &str, more: &[&str]| {
            let mut command = prune(&place, &fixture(model), &out);
            command.args(["--method", layers, "--export", format]).args(more);
            command
        };
        let kept = finish(&mut again("layers=1..2", &[]));
        assert!(kept.code == Some(0) && kept.stderr.contains("already and kept"), "{}", kept.stderr);
        assert_eq!(measured(&out), before);
        fail(&mut again("layers=2", &[]), &["overwrites nothing"]);
        // What was there before is deleted on request only.
        succeed(&mut again("layers=2", &["--overwrite"]));
        assert_eq!(results(&out)["candidates"][0]["removed"][0][0], 2);
        assert!(results(&out)["export"]["path"].as_str().is_some_and(|path| out.join(path).exists()));
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn a_foreign_folder_is_not_overwritten() {
    let place = Place::new();
    let out = place.out();
    fs::create_dir_all(out.join("pruned")).unwrap();
    fs::write(out.join("pruned/mine"), "mine").unwrap();
    for more in [&[][..], &["--overwrite"]] {
        let mut command = prune(&place, &fixture("llama3"), &out);
        let command = command.args(["--method", "layers=1..2", "--export", "hf"]).args(more);
        fail(command, &["would be overwritten"]);
    }
    assert_eq!(fs::read(out.join("pruned/mine")).unwrap(), b"mine");
}

#[test]
fn folders_of_prunings_and_of_measurements_are_told_apart() {
    let place = Place::new();
    let (pruning, measurement) = (place.at("pruning"), place.at("measurement"));
    let layers = ["--method", "layers=1..2"];
    succeed(prune(&place, &fixture("llama3"), &pruning).args(layers));
    let measure = |out: &Path| {
        let mut command = fathom();
        command
            .arg("measure")
            .arg(fixture("llama3"))
            .args(["--data", "plain", "--limit", "2", "-o"])
            .arg(out);
        command
    };
    succeed(&mut measure(&measurement));
    fail(
        prune(&place, &fixture("llama3"), &measurement).args(layers),
        &["holds a measurement, not a pruning"],
    );
    fail(&mut measure(&pruning), &["holds a pruning, not a measurement"]);
    fail(
        fathom().arg("compare").args([&measurement, &pruning]),
        &["holds a pruning, which `fathom report` shows"],
    );
}

#[test]
fn a_changed_export_is_found_out() {
    let place = Place::new();
    let out = exported(&place, "llama3", "hf");
    let weights = out.join("pruned/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].fill(0x3c);
    fs::write(&weights, bytes).unwrap();
    fail(
        fathom().args(["prune", "--verify"]).arg(out.join("pruned")),
        &["logits", "differ", "do not use it"],
    );
    fail(fathom().args(["prune", "--verify"]).arg(fixture("llama3")), &["no prune.json beside"]);
}

fn refused(arguments: &[&str], parts: &[&str]) {
    let place = Place::new();
    fail(prune(&place, &fixture("llama3"), &place.out()).args(arguments), parts);
}

#[test]
fn what_makes_no_sense_is_refused() {
    refused(&["--remove", "3"], &["3 of 3 layers cannot go", "1 to 2"]);
    refused(&["--remove", "0"], &["from 1 up"]);
    refused(&["--method", "layers=0..2,1"], &["layer 1 is listed twice"]);
    refused(&["--method", "layers=1..9"], &["layers 0 to 2, not 3"]);
    refused(&["--method", "layers=2..1"], &["is not a list of layers"]);
    refused(&["--max-loss", "-1"], &["max-loss", "from 0 up"]);
    refused(&["--unit", "attn", "--export", "hf"], &["cannot be exported"]);
    refused(&["--unit", "mlp", "--replace", "linear"], &["whole layers only"]);
    refused(&["--method", "layers=0", "--replace", "linear"], &["does not begin at layer 0"]);
    refused(&["--export", "gguf"], &["convert_hf_to_gguf"]);
    let usage: Done = finish(fathom().args(["prune", "m", "--method", "greedy,magic"]));
    assert_eq!(usage.code, Some(2));
    assert!(
        usage.stderr.contains("'magic' is not one of influence, angular, output, block, greedy"),
        "{}",
        usage.stderr
    );
    let place = Place::new();
    let mut gemma = prune(&place, &fixture("gemma3"), &place.out());
    fail(gemma.args(["--replace", "linear"]), &["normalises the MLP's output"]);
}

#[test]
fn held_out_texts_must_not_be_calibration_texts() {
    let place = Place::new();
    let (data, other) = (place.at("texts.jsonl"), place.at("other.jsonl"));
    let command = |heldout: &Path| {
        let mut command = prune(&place, &fixture("llama3"), &place.out());
        command.args(["--method", "influence", "--heldout"]).arg(heldout);
        command
    };
    fail(&mut command(&data), &["the same set", "a quarter"]);
    fs::write(
        &other,
        texts(60, 1).lines().take(2).map(|l| format!("{l}\n")).collect::<String>() + &texts(40, 1000),
    )
    .unwrap();
    fail(&mut command(&other), &["2 held-out texts are also calibration texts"]);
    fs::write(&other, texts(40, 1000)).unwrap();
    succeed(&mut command(&other));
    let results = results(&place.out());
    assert_eq!((&results["calibration"]["texts"], &results["heldout"]["texts"]), (&60.into(), &40.into()));
}

#[test]
fn one_held_out_text_has_no_interval() {
    let place = Place::new();
    let other = place.at("other.jsonl");
    fs::write(&other, texts(1, 1000)).unwrap();
    let mut command = prune(&place, &fixture("llama3"), &place.out());
    let done = finish(command.args(["--method", "influence", "--heldout"]).arg(&other));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("too few for a narrow interval"), "{}", done.stderr);
    let results = results(&place.out());
    assert!(results["candidates"][0]["nll_increase"]["interval"].is_null());
    assert!(results["choice"]["reason"].as_str().unwrap().contains("at least two held-out texts"));
}

#[test]
fn a_dry_run_counts_and_writes_nothing() {
    let place = Place::new();
    let printed = succeed(prune(&place, &fixture("llama3"), &place.out()).arg("--dry-run"));
    for stage in ["calibration", "greedy", "block", "proof", "GMAC"] {
        assert!(printed.contains(stage), "{printed}");
    }
    assert!(!place.out().exists());
}
