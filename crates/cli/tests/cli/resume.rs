//! The same command goes on where a run stopped, and only where it may; nothing is deleted unasked.

use crate::support::{PROMPT_COUNT, Place, edit_json, fail, finish, fixture, json, measure, succeed};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// What a kill leaves: whole lines and a piece of another, run.json still running, no results.
fn kill(out: &Path, whole: usize) {
    let path = out.join("samples.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let mut cut: String = text.lines().take(whole).map(|l| format!("{l}\n")).collect();
    cut.push_str(&text.lines().nth(whole).unwrap()[..200]);
    fs::write(&path, cut).unwrap();
    edit_json(&out.join("run.json"), |run| run["status"] = "running".into());
    fs::remove_file(out.join("results.json")).unwrap();
    fs::remove_file(out.join("report.html")).unwrap();
}

/// What must not depend on when a run was stopped.
fn measured(out: &Path) -> [Value; 3] {
    let results = json(&out.join("results.json"));
    [results["probes"].clone(), results["depth"].clone(), results["data"].clone()]
}

#[test]
fn a_killed_run_goes_on_to_the_same_numbers() {
    let place = Place::new();
    let (model, whole) = (fixture("gemma2"), place.at("whole"));
    succeed(&mut measure(&model, place.data(), &whole));
    let samples = fs::read(whole.join("samples.jsonl")).unwrap();
    for lines in 0..PROMPT_COUNT {
        let out = place.at(&format!("out{lines}"));
        succeed(&mut measure(&model, place.data(), &out));
        kill(&out, lines);
        succeed(measure(&model, place.data(), &out).arg("--resume"));
        assert_eq!(measured(&out), measured(&whole), "{lines} lines");
        assert!(fs::read(out.join("samples.jsonl")).unwrap() == samples, "{lines} lines");
        assert_eq!(json(&out.join("run.json"))["status"], "complete");
    }
}

#[test]
fn the_same_command_goes_on() {
    let place = Place::new();
    let command = || measure(&fixture("gemma2"), place.data(), &place.out());
    succeed(&mut command());
    kill(&place.out(), 2);
    let kept: Vec<String> = fs::read_to_string(place.at("out/samples.jsonl"))
        .unwrap()
        .lines()
        .take(2)
        .map(str::to_owned)
        .collect();
    let done = finish(&mut command());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(
        done.stderr.contains(&format!("2 of {PROMPT_COUNT} prompts are there already")),
        "{}",
        done.stderr
    );
    let samples = fs::read_to_string(place.at("out/samples.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), PROMPT_COUNT);
    assert_eq!(samples.lines().take(2).collect::<Vec<_>>(), kept);
}

#[test]
fn overwrite_starts_anew() {
    let place = Place::new();
    succeed(&mut measure(&fixture("gemma2"), place.data(), &place.out()));
    // Another command may not touch what is there, unless the user asks for it.
    let other = || {
        let mut command = measure(&fixture("gemma2"), place.data(), &place.out());
        command.args(["--dtype", "bf16"]);
        command
    };
    let before = fs::read(place.at("out/samples.jsonl")).unwrap();
    fail(&mut other(), &["another dtype", "nothing was changed", "--overwrite", "-o"]);
    assert!(fs::read(place.at("out/samples.jsonl")).unwrap() == before);
    succeed(other().arg("--overwrite"));
    assert!(fs::read(place.at("out/samples.jsonl")).unwrap() != before);
    assert_eq!(json(&place.at("out/run.json"))["dtype"], "bf16");
}

/// Samples of another version, instruction set or format may differ in bits or in meaning.
#[test]
fn samples_of_another_program_are_not_mixed_with_ours() {
    for (key, says) in [
        ("fathom", "another version of fathom (0.0.1, now "),
        ("device", "another device (0.0.1, now cpu"),
        ("instructions", "other instructions of the processor (0.0.1, now "),
        ("samples_version", "another format of samples (0.0.1, now "),
        ("naive", "another way to run edits"),
    ] {
        let place = Place::new();
        succeed(&mut measure(&fixture("gpt2"), place.data(), &place.out()));
        edit_json(&place.at("out/run.json"), |run| run[key] = "0.0.1".into());
        fail(&mut measure(&fixture("gpt2"), place.data(), &place.out()), &[says, "--overwrite"]);
    }
}

/// The configuration decides what the weights compute.
#[test]
fn a_changed_configuration_is_another_model() {
    let place = Place::new();
    let model = place.model("gpt2");
    succeed(&mut measure(&model, place.data(), &place.out()));
    edit_json(&model.join("config.json"), |config| config["layer_norm_epsilon"] = 0.1.into());
    fail(&mut measure(&model, place.data(), &place.out()), &["other model files", "--overwrite"]);
}

/// Options of probes that are not asked for again do not matter, and are kept.
#[test]
fn fewer_probes_than_there_are_change_nothing() {
    let place = Place::new();
    let measured = |probes: &str| {
        succeed(measure(&fixture("gpt2"), place.data(), &place.out()).args(["--probes", probes]));
        let (run, results) = (json(&place.at("out/run.json")), json(&place.at("out/results.json")));
        let probes = &run["probes"];
        [probes["measured"].clone(), probes["erasure"].clone(), results["probes"].clone()]
    };
    let all = measured("clean,erasure");
    assert_eq!(measured("clean"), all);
}

/// What no run.json says to be ours may be somebody's prompts.
#[test]
fn samples_that_are_not_ours_are_left_alone() {
    let place = Place::new();
    fs::create_dir(place.out()).unwrap();
    let theirs = place.at("out/samples.jsonl");
    fs::copy(place.data(), &theirs).unwrap();
    for option in ["--resume", "--overwrite"] {
        let mut command = measure(&fixture("gpt2"), &theirs, &place.out());
        fail(command.arg(option), &["no run.json", "nothing was changed", "-o"]);
    }
    assert!(fs::read(&theirs).unwrap() == fs::read(place.data()).unwrap());
}

/// Two processes in one folder would destroy each other's samples.
#[test]
fn a_folder_in_use_is_left_alone() {
    let place = Place::new();
    succeed(&mut measure(&fixture("gpt2"), place.data(), &place.out()));
    let lock = fs::OpenOptions::new().write(true).open(place.at("out/.lock")).unwrap();
    lock.try_lock().unwrap();
    fs::write(place.at("out/.lock"), "process 17 on somewhere\n").unwrap();
    let read = || fs::read(place.at("out/run.json")).unwrap();
    let before = read();
    for option in ["--resume", "--overwrite"] {
        let mut command = measure(&fixture("gpt2"), place.data(), &place.out());
        fail(command.arg(option), &["in use by process 17 on somewhere", "-o"]);
    }
    assert!(read() == before);
    drop(lock);
    succeed(&mut measure(&fixture("gpt2"), place.data(), &place.out()));
}

#[test]
fn resume_into_nothing_is_a_run() {
    let place = Place::new();
    succeed(measure(&fixture("gpt2"), place.data(), &place.out()).arg("--resume"));
    assert_eq!(json(&place.at("out/results.json"))["data"]["prompts"], PROMPT_COUNT);
}

#[test]
fn resume_of_a_finished_run_keeps_what_it_cost() {
    let place = Place::new();
    succeed(&mut measure(&fixture("gpt2"), place.data(), &place.out()));
    let cost = json(&place.at("out/results.json"))["cost"].clone();
    let before = measured(&place.out());
    assert!(cost["forward"]["madds"].as_u64().unwrap() > 0);
    succeed(measure(&fixture("gpt2"), place.data(), &place.out()).arg("--resume"));
    assert_eq!(json(&place.at("out/results.json"))["cost"], cost);
    assert_eq!(measured(&place.out()), before);
}

#[test]
fn resume_adds_a_probe() {
    let place = Place::new();
    let model = fixture("qwen2");
    succeed(measure(&model, place.data(), &place.at("both")).args(["--probes", "contributions,lens"]));
    for probe in ["contributions", "lens"] {
        succeed(measure(&model, place.data(), &place.out()).args(["--probes", probe, "--resume"]));
    }
    assert_eq!(measured(&place.out()), measured(&place.at("both")));
    let probes = json(&place.at("out/run.json"))["probes"]["measured"].clone();
    assert_eq!(probes, serde_json::json!(["contributions", "lens"]));
}

/// A probe that some prompts have and others lack is not complete.
#[test]
fn a_run_killed_while_it_added_a_probe_goes_on() {
    let place = Place::new();
    let model = fixture("qwen2");
    succeed(measure(&model, place.data(), &place.out()).args(["--probes", "lens"]));
    succeed(measure(&model, place.data(), &place.out()).args(["--probes", "similarity", "--resume"]));
    let whole = measured(&place.out());
    kill(&place.out(), PROMPT_COUNT + 2);
    succeed(measure(&model, place.data(), &place.out()).args(["--probes", "similarity", "--resume"]));
    assert_eq!(measured(&place.out()), whole);
    let samples = fs::read_to_string(place.at("out/samples.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), 2 * PROMPT_COUNT);
}

/// A run with other settings is refused, and the folder stays as it was.
#[track_caller]
fn check_refused(place: &Place, other: &mut assert_cmd::Command, what: &str) {
    let read =
        || ["run.json", "samples.jsonl", "results.json"].map(|f| fs::read(place.out().join(f)).unwrap());
    let before = read();
    fail(other.arg("--resume"), &[what, "--overwrite", "-o", place.out().to_str().unwrap()]);
    assert!(read() == before);
}

#[test]
fn resume_with_other_settings_is_refused() {
    let place = Place::new();
    let (model, out) = (fixture("llama2"), place.out());
    succeed(&mut measure(&model, place.data(), &out));
    let other = place.at("other.jsonl");
    fs::write(&other, "{\"text\": \"Another prompt.\"}\n").unwrap();
    check_refused(&place, &mut measure(&model, &other, &out), "other prompts");
    check_refused(&place, measure(&model, place.data(), &out).args(["--dtype", "bf16"]), "another dtype");
    check_refused(&place, &mut measure(&fixture("mistral"), place.data(), &out), "other model files");
    // Fewer prompts than there are samples of would make the folder disagree with itself.
    for (option, value) in [("--limit", "1"), ("--max-tokens", "20")] {
        check_refused(&place, measure(&model, place.data(), &out).args([option, value]), "other prompts");
    }
}

#[test]
fn resume_into_damaged_files_names_them() {
    let place = Place::new();
    let out = place.out();
    succeed(&mut measure(&fixture("llama2"), place.data(), &out));
    let run = fs::read(out.join("run.json")).unwrap();
    fs::write(out.join("run.json"), "{").unwrap();
    fail(measure(&fixture("llama2"), place.data(), &out).arg("--resume"), &["run.json", "line 1"]);
    fs::remove_file(out.join("run.json")).unwrap();
    fail(measure(&fixture("llama2"), place.data(), &out).arg("--resume"), &["no run.json", "-o"]);
    fs::write(out.join("run.json"), run).unwrap();
    let samples = fs::read_to_string(out.join("samples.jsonl")).unwrap();
    fs::write(out.join("samples.jsonl"), samples.replacen("{\"id\":\"mine\"", "{\"id\":7", 1)).unwrap();
    fail(
        measure(&fixture("llama2"), place.data(), &out).arg("--resume"),
        &["samples.jsonl line 3", "delete that line"],
    );
}
