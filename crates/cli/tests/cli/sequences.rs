//! What is done to sequences before they are tokens, in every command that reads texts.

use crate::support::{Place, fail, fathom, finish, fixture, json, measure, succeed, texts};
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

/// Families of sequences begin alike: what is calibrated on one must not be proved on its twin.
#[test]
fn texts_that_are_equal_once_cropped_stay_on_one_side() {
    let place = Place::new();
    let starts = ["the baker sold all of the rolls", "one two three four five six sev"];
    let lines = |range: std::ops::Range<usize>| -> String {
        range.map(|i| json!({"text": format!("{} {i}", starts[i % 2])}).to_string() + "\n").collect()
    };
    let (a, b) = (place.at("a.jsonl"), place.at("b.jsonl"));
    fs::write(&a, lines(0..20)).unwrap();
    fs::write(&b, lines(20..40)).unwrap();
    let heldout = |options: &[&str]| {
        let mut run = command("exit", "--data", &a, &place.out());
        run.arg("--heldout").arg(&b).args(options);
        run
    };
    fail(&mut heldout(&["--max-residues", "20"]), &["20 held-out texts are also calibration texts"]);
    succeed(&mut heldout(&[]));
    // Twenty texts of two beginnings are two texts, which here fall on the same side.
    fail(command("prune", "--data", &a, &place.at("p")).args(["--max-residues", "3"]), &["there is no"]);
}

#[test]
fn questions_are_left_as_they_are_and_that_is_said() {
    let place = Place::new();
    let data = place.data();
    let run = |options: &[&str]| {
        let mut run = measure(&fixture("qwen2"), &data, &place.out());
        run.args(["--probes", "erasure", "--limit", "2", "--overwrite"]).args(options);
        finish(&mut run).stderr
    };
    assert!(run(&["--prefix", "A: "]).contains("question-answer pairs stay as they are"));
    assert!(!run(&[]).contains("stay as they are"));
}

#[test]
fn wrong_values_of_a_study_are_found_before_anything_is_measured() {
    let place = Place::new();
    let (data, file) = (place.data(), place.at("study.toml"));
    let study = |options: &str, job: &str| {
        let text = format!(
            "name = 's'\nout = {:?}\nprobes = 'contributions'\noptions = {{ {options} }}\n[[model]]\nid = {:?}\nname = 'm'\n\
             [[data]]\nid = {data:?}\nname = 'd'\n[[job]]\nkind = 'prune'\noptions = {{ {job} }}\n",
            place.at("out"),
            fixture("qwen2"),
        );
        fs::write(&file, text).unwrap();
        finish(fathom().arg("study").arg(&file).arg("--plan"))
    };
    assert_eq!(study("", "max-residues = 9").code, Some(0));
    for (options, job, parts) in [
        ("max-residues = 2.5", "", &["study 's': max-residues: '2.5' is not a whole number"][..]),
        ("", "crop = 'random'", &["job 'prune': --crop", "--max-residues"]),
        (
            "",
            "crop = 'mid', max-residues = 'a'",
            &["job 'prune': crop: 'mid'", "job 'prune': max-residues: 'a'"],
        ),
    ] {
        let done = study(options, job);
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        assert!(parts.iter().all(|part| done.stderr.contains(part)), "{}", done.stderr);
    }
    assert!(!place.at("out").exists());
}
