//! `fathom verify` against values that `fathom measure` gave.

use crate::support::{Place, check_failure, fail, fathom, finish, fixture, measure, succeed};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A golden file from a run: the same numbers under the names of golden files.
fn golden(place: &Place, model: &Path) -> Value {
    let prompts = ["The capital of France is Paris.", "Once upon a time"];
    let rows: String = prompts.iter().map(|p| format!("{}\n", json!({"text": p}))).collect();
    fs::write(place.data(), rows).unwrap();
    let results = succeed(measure(model, place.data(), &place.out()).arg("--json"));
    let results: Value = serde_json::from_str(&results).unwrap();
    let samples = fs::read_to_string(place.at("out/samples.jsonl")).unwrap();
    let tokens: Vec<Value> =
        samples.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["tokens"].clone()).collect();
    let contributions = &results["probes"]["contributions"];
    let mean = |quantity: &str, part: &str| contributions[quantity][part]["mean"].clone();
    let lens = |curve: &str| {
        let mut levels = results["probes"]["lens"][curve].as_array().unwrap().clone();
        levels.pop();
        levels
    };
    json!({
        "prompts": prompts,
        "tokens": tokens,
        "contributions": {
            "rc_att": mean("relative_norm", "attn"),
            "rc_layer": mean("relative_norm", "layer"),
            "cos_mlp": mean("cosine", "mlp"),
        },
        "lens": {"kl": lens("kl_lens_final"), "overlap": lens("overlap")},
    })
}

fn verify(place: &Place, model: &Path, golden: &Value) -> assert_cmd::Command {
    let path = place.at("golden.json");
    fs::write(&path, golden.to_string()).unwrap();
    let mut command = fathom();
    command.arg("verify").arg(model).arg("--golden").arg(path);
    command
}

#[test]
fn a_models_own_numbers_pass() {
    let (place, model) = (Place::new(), fixture("llama3"));
    let golden = golden(&place, &model);
    let table = succeed(&mut verify(&place, &model, &golden));
    assert_eq!(table.lines().filter(|l| l.ends_with("ok")).count(), 7, "{table}");
    assert!(!table.contains("DIFFERS"));
    // Weights of fewer digits do not give the same numbers.
    let coarse = finish(verify(&place, &model, &golden).args(["--dtype", "bf16"]));
    check_failure(&coarse, &["differ"]);
}

#[track_caller]
fn check_differs(change: impl FnOnce(&mut Value), quantity: &str) {
    let (place, model) = (Place::new(), fixture("llama3"));
    let mut golden = golden(&place, &model);
    change(&mut golden);
    let done = finish(&mut verify(&place, &model, &golden));
    check_failure(&done, &["1 of 7 quantities differ", "golden.json"]);
    let line = done.stdout.lines().find(|l| l.ends_with("DIFFERS")).unwrap();
    assert!(line.starts_with(quantity), "{line}");
}

#[test]
fn one_wrong_number_is_shown() {
    let scale = |value: &mut Value, by: f64| *value = (value.as_f64().unwrap() * by).into();
    check_differs(|g| scale(&mut g["contributions"]["rc_layer"][1], 1.002), "contributions rc_layer");
    check_differs(|g| scale(&mut g["lens"]["kl"][0], 0.99), "lens kl");
    check_differs(|g| g["tokens"][1][2] = 0.into(), "tokens of prompt 1");
    check_differs(|g| drop(g["lens"]["overlap"].as_array_mut().unwrap().pop()), "lens overlap");
}

#[test]
fn a_golden_file_that_is_none_is_one_sentence() {
    let (place, model) = (Place::new(), fixture("llama3"));
    let path = place.at("golden.json");
    let mut command = verify(&place, &model, &json!({"prompts": ["a"]}));
    fail(&mut command, &["golden.json", "nothing that can be compared"]);
    for text in
        ["rule depth\n", "", "[]", "{\"prompts\": 3}", "{\"prompts\": [\"a\"], \"lens\": {\"kl\": [null]}}"]
    {
        fs::write(&path, text).unwrap();
        fail(&mut command, &["golden.json", "line ", "\"prompts\""]);
    }
    fs::write(&path, b"\xff\xfe").unwrap();
    fail(&mut command, &["golden.json", "UTF-8"]);
    fs::remove_file(&path).unwrap();
    fail(&mut command, &["golden.json", "No such file"]);
}

/// Prompts in a golden file are as untrusted as any others.
#[test]
fn a_golden_prompt_that_does_not_fit_is_one_sentence() {
    let (place, model) = (Place::new(), fixture("gpt2"));
    for (prompt, part) in [("word ".repeat(600), "context"), (String::new(), "no tokens")] {
        let golden = json!({"prompts": ["a", prompt], "lens": {"kl": [0.5]}});
        fail(&mut verify(&place, &model, &golden), &["prompt '1'", part]);
    }
}

#[test]
fn bf16_is_compared_with_f32() {
    let mut command = fathom();
    command.arg("verify").arg(fixture("llama3")).args(["--dtype", "bf16", "--limit", "3"]);
    let done = finish(&mut command);
    // Depths of a model of noise may move; what is printed says so.
    let table = done.stdout;
    for curve in ["norm_layer", "cosine_mlp", "kl_lens_final", "block_influence"] {
        let line = table.lines().find(|l| l.starts_with(curve)).unwrap_or_else(|| panic!("{curve}: {table}"));
        let share: f64 = line.split_whitespace().last().unwrap().parse().unwrap();
        assert!(share > 0.0 && share < 0.1, "{line}");
    }
    let verdicts = |word: &str| table.lines().filter(|l| l.ends_with(word)).count();
    assert_eq!(verdicts("ok") + verdicts("DIFFERS"), 5, "{table}");
    assert_eq!(done.code, Some(i32::from(verdicts("DIFFERS") > 0)), "{}", done.stderr);
}
