//! What is done to sequences before they are tokens, in every command that reads texts.

use crate::support::{Place, fail, fathom, fixture, json, succeed, texts};
use assert_cmd::Command;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const MOST: usize = 20;
const PREFIX: &str = "A: ";
const SUFFIX: &str = " -";

/// The options that turn texts into those of [`cropped`].
const OPTIONS: [&str; 6] = ["--max-residues", "20", "--prefix", PREFIX, "--suffix", SUFFIX];

/// The texts as they should reach the model.
fn cropped(texts: &str) -> String {
    let line = |line: &str| {
        let text: Value = serde_json::from_str(line).unwrap();
        let kept: String = text["text"].as_str().unwrap().chars().take(MOST).collect();
        json!({"text": format!("{PREFIX}{kept}{SUFFIX}")}).to_string() + "\n"
    };
    texts.lines().map(line).collect()
}

/// `fathom COMMAND MODELS... SET FILE -o OUT`.
fn command(command: &str, set: &str, data: &Path, out: &Path) -> Command {
    let mut run = fathom();
    run.arg(command).arg(fixture("qwen2"));
    if command == "map" {
        run.arg(fixture("qwen2"));
    }
    if command == "grow" {
        run.args(["--method", "solar", "--layers", "4", "--depth-prompts", "8"]);
    }
    run.arg(set).arg(data).arg("-o").arg(out).args(["--resamples", "200"]);
    run
}

#[test]
fn every_command_crops_and_marks_sequences() {
    let place = Place::new();
    let data = place.at("texts.jsonl");
    fs::write(&data, texts(60, 1)).unwrap();
    for (name, set) in [("prune", "--data"), ("exit", "--data"), ("map", "--data"), ("grow", "--heldout")] {
        let out = place.at(name);
        fail(command(name, set, &data, &out).args(["--crop", "random"]), &["--crop", "--max-residues"]);
        succeed(command(name, set, &data, &out).args(OPTIONS));
        let sequences = &json(&out.join("run.json"))["sequences"];
        assert_eq!(
            sequences,
            &json!({"max_residues": MOST, "crop": "start", "prefix": PREFIX, "suffix": SUFFIX})
        );
        let tokens = json(&out.join(format!("{name}.json")))["heldout"]["tokens"].as_u64().unwrap();
        let whole = place.at(&format!("{name}-whole"));
        succeed(&mut command(name, set, &data, &whole));
        let all = json(&whole.join(format!("{name}.json")))["heldout"]["tokens"].as_u64().unwrap();
        assert!(tokens < all, "{name}: {tokens} {all}");
        fail(&mut command(name, set, &data, &out), &["part of sequences"]);
    }
}

/// Texts of another content are divided otherwise, so this needs a command that holds all of them out.
#[test]
fn a_cropped_text_is_read_as_one_that_was_written_so() {
    let place = Place::new();
    let (whole, short) = (place.at("whole.jsonl"), place.at("short.jsonl"));
    fs::write(&whole, texts(40, 2)).unwrap();
    fs::write(&short, cropped(&texts(40, 2))).unwrap();
    let nll = |data: &Path, out: &Path, options: &[&str]| {
        succeed(command("grow", "--heldout", data, out).args(options));
        let results = json(&out.join("grow.json"));
        let depths = json(&out.join("before/results.json"))["uncertainty"]["nll"]["value"].clone();
        [&results["before"]["nll"]["value"], &results["after"]["nll"]["value"], &depths]
            .map(|number| number.as_f64().unwrap())
    };
    let by_option = nll(&whole, &place.at("option"), &OPTIONS);
    let by_file = nll(&short, &place.at("file"), &[]);
    for (option, file) in by_option.into_iter().zip(by_file) {
        assert!((option - file).abs() < 1e-9, "{by_option:?} {by_file:?}");
    }
    let plain = nll(&whole, &place.at("plain"), &[]);
    assert!((plain[0] - by_file[0]).abs() > 1e-3, "{plain:?}");
}

/// A run that was made by hand in the folder of a cell is taken only if it is what the cell asks for.
#[test]
fn a_study_does_not_take_runs_on_other_parts_of_sequences() {
    let place = Place::new();
    let (data, file) = (place.at("texts.jsonl"), place.at("study.toml"));
    fs::write(&data, texts(4, 3)).unwrap();
    let study = format!(
        "name = 's'\nout = {:?}\nprobes = 'contributions'\n[[model]]\nid = {:?}\nname = 'm'\n[[data]]\nid = {data:?}\nname = 'd'\n",
        place.at("out"),
        fixture("qwen2"),
    );
    fs::write(&file, study).unwrap();
    let cell = place.at("out/m/d");
    let by_hand = |options: &[&str]| {
        let mut run = fathom();
        run.arg("measure").arg(fixture("qwen2")).arg("--data").arg(&data).arg("-o").arg(&cell);
        run.args(["--probes", "contributions", "--overwrite"]).args(options);
        succeed(&mut run)
    };
    let missing = || succeed(fathom().arg("study").arg(&file).arg("--plan"));
    by_hand(&[]);
    assert!(missing().contains("finished"), "{}", missing());
    by_hand(&["--max-residues", "9"]);
    assert!(!missing().contains("finished"), "{}", missing());
}
