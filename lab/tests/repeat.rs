//! A study of repeated data as a user meets it: finished runs are kept, changed ones refused, unmeasured ones said.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const RECIPE: &str = "name = 'tiny'\nseeds = [1, 2]\nepochs = [1, 4]\n[size.small]\nwidth = 16\nlayers = 2\nheads = 2\ncontext = 32\n\
                      [regulariser.none]\n[regulariser.late]\ndropout = 0.2\ndropout-from-step = 8\n\
                      [training]\ntokens = 4096\nbatch = 8\nevaluations = 2\n";

/// Runs it without any program on PATH.
fn run(place: &Path, recipe: &str, arguments: &[&str]) -> Output {
    fs::write(place.join("recipe.toml"), recipe).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fathom-lab"));
    command.current_dir(place).env("PATH", place).args(["repeat", "recipe.toml", "-o", "out"]);
    command.args(arguments).output().unwrap()
}

#[track_caller]
fn succeed(place: &Path, recipe: &str, arguments: &[&str]) -> [String; 2] {
    let done = run(place, recipe, arguments);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{said}");
    [String::from_utf8(done.stdout).unwrap(), said]
}

fn runs(place: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(place.join("out/runs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn finished_runs_are_kept_and_changed_ones_refused() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let quick = RECIPE.replace("seeds = [1, 2]", "seeds = [1]");
    let [printed, said] = succeed(place, &quick, &["--threads", "1"]);
    assert!(said.contains("run 4 of 4: small-late-epochs4-seed1"), "{said}");
    assert!(said.contains("note: Effective depths are not measured"), "{said}");
    assert!(printed.contains("| small | late | 4 |"), "{printed}");
    let changed = |path: &PathBuf| fs::metadata(path.join("run.json")).unwrap().modified().unwrap();
    let before: Vec<_> = runs(place).iter().map(changed).collect();
    assert_eq!(before.len(), 4);

    // Another seed is added; the same bits on other threads; what was there is left alone.
    let first = fs::read_to_string(place.join("out/repeat.csv")).unwrap();
    let [_, said] = succeed(place, RECIPE, &[]);
    assert!(said.contains("run 8 of 8") && !said.contains("-seed1"), "{said}");
    let second = fs::read_to_string(place.join("out/repeat.csv")).unwrap();
    assert!(second.starts_with(&first) && second.lines().count() == 9, "{second}");
    let of_first_seed = runs(place).into_iter().filter(|path| path.to_string_lossy().ends_with("seed1"));
    assert_eq!(of_first_seed.map(|path| changed(&path)).collect::<Vec<_>>(), before);

    let row = |name: &str| second.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    // A quarter of the budget, and the token that follows the last window.
    assert!(row("small,none,4,1,").starts_with("small,none,4,1,1025,"));
    let loss = |name: &str| row(name).split(',').nth(6).unwrap().parse::<f64>().unwrap();
    assert!(loss("small,late,1,1,") > loss("small,none,1,1,"), "dropout raises the training loss");

    let done = run(place, &RECIPE.replace("batch = 8", "batch = 4"), &[]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && said.contains("another recipe"), "{said}");
    let [_, said] = succeed(place, &quick.replace("batch = 8", "batch = 4"), &["--overwrite"]);
    assert!(said.contains("run 1 of 4") && runs(place).len() == 4, "{said}");
}

#[test]
#[cfg(unix)]
fn held_out_texts_are_measured_by_the_program_on_path() {
    use std::os::unix::fs::PermissionsExt;
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    // A program that says what it was asked, and fails.
    let program = place.join("fathom");
    fs::write(&program, "#!/bin/sh\necho \"asked: $*\" >&2\nexit 1\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let done = run(place, RECIPE, &[]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success(), "{said}");
    for part in ["asked: measure", "checkpoint-000016", "held-out.jsonl", "--limit 32 --probes clean"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let texts = fs::read_to_string(place.join("out/runs/small-none-epochs1-seed1/held-out.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        texts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 64);
    assert!(lines.iter().all(|line| line["text"].as_str().unwrap().len() < 32));
}
