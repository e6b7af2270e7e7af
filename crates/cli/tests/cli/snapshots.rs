//! What commands print, as snapshots: `cargo insta test --release -p fathom-cli --review` shows changes.

use crate::support::{Place, fathom, finish, fixture, succeed};
use assert_cmd::Command;
use std::fs;
use std::path::PathBuf;

fn write(place: &Place, name: &str, text: &str) -> PathBuf {
    let path = place.at(name);
    fs::write(&path, text).unwrap();
    path
}

/// Compares what a command prints with a snapshot; times and the paths of this machine are replaced.
#[track_caller]
fn check(name: &str, place: &Place, command: &mut Command) {
    let done = finish(command.env("COLUMNS", "100"));
    let text = format!("exit code {:?}\n--- stdout\n{}--- stderr\n{}", done.code, done.stdout, done.stderr);
    let fixtures = fixture("");
    let fixtures = fixtures.display().to_string();
    insta::with_settings!({
        filters => vec![
            (regex_escape(&place.out().parent().unwrap().display().to_string()).as_str(), "DIR"),
            (regex_escape(fixtures.trim_end_matches('/')).as_str(), "FIXTURES"),
            (r"\d+(\.\d+)? (s|min|h)\b", "TIME"),
            (r" +TIME", " TIME"),
        ],
        omit_expression => true,
        prepend_module_to_snapshot => false,
    }, {
        insta::assert_snapshot!(name, text);
    });
}

fn regex_escape(text: &str) -> String {
    text.chars().flat_map(|c| (!c.is_alphanumeric()).then_some('\\').into_iter().chain([c])).collect()
}

#[test]
fn lists() {
    let place = Place::new();
    check("models", &place, fathom().arg("models"));
    check("data", &place, fathom().arg("data"));
    check("model", &place, fathom().arg("models").arg(fixture("gemma3")));
    check("data_set", &place, fathom().args(["data", "addition:digits=3,count=2"]));
    check("data_set_json", &place, fathom().args(["data", "qa", "--limit", "2", "--json"]));
}

/// Scripts for clusters.
#[test]
fn scripts() {
    let place = Place::new();
    let model = fixture("llama3");
    let text = format!(
        "name = 'depth of Llama'\nout = 'results'\nprobes = 'clean'\n[[model]]\nid = {model:?}\n\
         [[data]]\nid = 'builtin'\n[[data]]\nid = 'qa'\nname = \"a question\"\n"
    );
    write(&place, "my study.toml", &text);
    for scheduler in ["slurm", "k8s", "snakemake"] {
        let mut command = fathom();
        command.current_dir(place.path()).args(["study", "my study.toml", "--submit", scheduler]);
        check(&format!("submit_{scheduler}"), &place, &mut command);
    }
    let mut command = fathom();
    check("study_plan", &place, command.current_dir(place.path()).args(["study", "my study.toml", "--plan"]));
}

#[test]
fn plans() {
    let place = Place::new();
    check(
        "dry_run",
        &place,
        fathom().arg("measure").arg(fixture("llama3")).args([
            "--data",
            "addition:count=3",
            "--probes",
            "all",
            "--limit",
            "3",
            "--memory",
            "1GiB",
            "--dry-run",
        ]),
    );
    let text = format!(
        "name = 'two'\nprobes = 'clean'\nlimit = 2\n[[model]]\nid = '{}'\n[[data]]\nid = 'addition:count=2'\n[[data]]\n\
         id = 'builtin'\nname = 'a name'\n",
        fixture("llama3").display()
    );
    let study = write(&place, "study.toml", &text);
    check("study_dry_run", &place, fathom().arg("study").arg(study).arg("--dry-run"));
}

#[test]
fn failures() {
    let place = Place::new();
    let measure = |model: &str| {
        let mut command = fathom();
        command.args(["measure", model]);
        command
    };
    let llama = fixture("llama3").display().to_string();
    check("unknown_probe", &place, measure(&llama).args(["--probes", "lenses"]));
    check("unknown_data", &place, measure(&llama).args(["--data", "gsm9k"]));
    check("no_such_folder", &place, &mut measure("./no/such/model"));
    check("unknown_threshold", &place, fathom().args(["depth", "out", "--threshold", "settling=0.3"]));
    check("not_a_results_folder", &place, fathom().args(["report", "/"]));
    let study =
        write(&place, "study.toml", "name = 'x'\nprobe = 'lens'\n[[model]]\nid = 'm'\nsise = 3\n[[data]]\n");
    check("study_with_errors", &place, fathom().arg("study").arg(study));

    // A folder of another measurement is not continued.
    let out = place.out();
    let run = |limit: &str, seed: &str| {
        let mut command = measure(&llama);
        command.args([
            "--data",
            "addition:count=2",
            "--probes",
            "similarity",
            "--limit",
            limit,
            "--seed",
            seed,
            "-o",
        ]);
        command.arg(&out);
        command
    };
    succeed(&mut run("2", "1"));
    check("other_seed", &place, &mut run("2", "2"));
}
