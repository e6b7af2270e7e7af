//! Agents as a user meets them: on any number of threads, killed, with changed settings, with a return that is never reached.

use fathom_laws::{Choice, Effort, Options, Response, Table, fit};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const RECIPE: &str = "name = 'tiny'\nseeds = [1, 2]\n[environment.chain]\nsteps = 1800\nthreshold = 0.9\n\
                      [grid]\nwidths = [4, 8, 16]\ndepths = [1]\nupdates = [2, 4, 8]\nbatches = [16]\n\
                      [agent]\nlearning-rate = 1e-3\nwarm-up = 300\nexploration = 600\n[evaluation]\nevery = 100\nepisodes = 5\n";

fn command(place: &Path, recipe: &str, arguments: &[&str]) -> Command {
    fs::write(place.join("recipe.toml"), recipe).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fathom-lab"));
    command.current_dir(place).args(["rl", "recipe.toml"]).args(arguments);
    command
}

fn run(place: &Path, recipe: &str, arguments: &[&str]) -> Output {
    command(place, recipe, arguments).output().unwrap()
}

/// What is printed, and what is said of errors.
#[track_caller]
fn succeed(place: &Path, recipe: &str, arguments: &[&str]) -> [String; 2] {
    let done = run(place, recipe, arguments);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{said}");
    [String::from_utf8(done.stdout).unwrap(), said]
}

#[track_caller]
fn fail(place: &Path, recipe: &str, arguments: &[&str], parts: &[&str]) {
    let done = run(place, recipe, arguments);
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part}: {said}");
    }
}

fn finished(out: &Path) -> Vec<PathBuf> {
    let Ok(folder) = fs::read_dir(out.join("runs")) else { return Vec::new() };
    let paths = folder.map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|kind| kind == "json")).collect();
    all.sort();
    all
}

/// Everything that must not depend on threads or interruptions.
fn numbers(out: &Path) -> Vec<Vec<u8>> {
    let curves = finished(out).into_iter().map(|path| path.with_extension("jsonl"));
    let tables = ["rl.csv", "rl-runs.csv", "rl.md", "rl.json"].map(|name| out.join(name));
    curves.chain(tables).map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn the_grid_is_learned_fitted_and_the_same_on_any_number_of_threads() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let [printed, _] = succeed(place.path(), RECIPE, &["-o", "all"]);
    assert!(printed.contains("In chain the law of data efficiency over "), "{printed}");
    assert_eq!(finished(&at("all")).len(), 18);

    // Trained agents reach the end; what a run logs is what it should.
    let text = fs::read_to_string(at("all/runs/chain-w16-d1-utd8-batch16-seed1.jsonl")).unwrap();
    let points: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(points.len(), 18);
    let last = points.last().unwrap();
    assert_eq!((last["step"].as_u64(), last["return"].as_f64()), (Some(1800), Some(1.0)));
    assert!(points[0]["return"].as_f64().unwrap() < 0.5, "an agent that has learned nothing reaches the end");
    for key in ["training-error", "validation-error", "mean-value"] {
        assert!(last[key].as_f64().unwrap() > 0.0, "{key}: {last}");
    }
    // The discounted value of the end, from states of which most are near it or far from it.
    assert!((0.3..1.0).contains(&last["mean-value"].as_f64().unwrap()), "{last}");

    // The table is one that `fathom fit rl` reads, and gives the law that was reported.
    let csv = fs::read(at("all/rl.csv")).unwrap();
    let table = Table::from_csv(&csv).unwrap();
    assert!((7..=9).contains(&table.rows()), "{}", table.rows());
    let effort = Effort { resamples: 0, heldout: 0, profile: 0, ..Effort::default() };
    let outcome =
        fit(&Choice::Rl(Response::Steps), &table, &Options { effort, ..Options::default() }).unwrap();
    let alpha = outcome.fits[0].1.parameters.get("alpha").unwrap().value;
    let study: serde_json::Value = serde_json::from_slice(&fs::read(at("all/rl.json")).unwrap()).unwrap();
    let reported = study["laws"][0]["parameters"]["alpha"]["value"].as_f64().unwrap();
    assert!((alpha / reported - 1.0).abs() < 1e-6, "{alpha} {reported}");
    let page = fs::read_to_string(at("all/report.html")).unwrap();
    assert!(page.contains("Learning curves") && at("all/plots/rl_efficiency.png").is_file());

    succeed(place.path(), RECIPE, &["-o", "one", "--threads", "1"]);
    assert!(numbers(&at("one")) == numbers(&at("all")));

    // A run that is lost is trained again, and the others are kept; so they are when a seed is added.
    let [lost, kept] = [0, 1].map(|i| finished(&at("one"))[i].clone());
    let changed = || fs::metadata(&kept).unwrap().modified().unwrap();
    let before = changed();
    fs::remove_file(lost).unwrap();
    succeed(place.path(), RECIPE, &["-o", "one"]);
    assert!(numbers(&at("one")) == numbers(&at("all")) && changed() == before);
    let more = RECIPE.replace("[1, 2]", "[1, 2, 3]").replace("[2, 4, 8]", "[2]");
    succeed(place.path(), &more, &["-o", "one"]);
    assert!(finished(&at("one")).len() == 21 && changed() == before);

    fail(
        place.path(),
        &RECIPE.replace("episodes = 5", "episodes = 6"),
        &["-o", "one"],
        &["other settings", "--overwrite"],
    );
    fs::write(at("all/runs/chain-w4-d1-utd2-batch16-seed1.jsonl"), "").unwrap();
    fail(
        place.path(),
        RECIPE,
        &["-o", "all"],
        &["chain-w4-d1-utd2-batch16-seed1.jsonl has 0 points, not 18"],
    );
}

#[test]
fn a_killed_study_goes_on_to_the_same_bits() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let recipe = RECIPE
        .replace("[4, 8, 16]", "[4, 8]")
        .replace("chain", "pendulum")
        .replace("0.9", "-1000.0")
        .replace("1800", "900");
    succeed(place.path(), &recipe, &["-o", "whole"]);
    let mut child = command(place.path(), &recipe, &["-o", "parts"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while finished(&at("parts")).is_empty() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // It may have been quicker than the signal, which makes no difference to what follows.
    let _ = child.kill();
    child.wait().unwrap();
    succeed(place.path(), &recipe, &["-o", "parts"]);
    assert!(numbers(&at("parts")) == numbers(&at("whole")));
}

#[test]
fn what_does_not_learn_is_left_out_and_named() {
    let place = tempfile::tempdir().unwrap();
    let few = RECIPE.replace("[4, 8, 16]", "[4]").replace("1800", "700");
    let [printed, said] = succeed(place.path(), &few, &["-o", "few"]);
    assert!(
        said.contains(
            "warning: chain, width 4, depth 1, 2 updates per step: the return never reaches 0.9 in 700 steps"
        ),
        "{said}"
    );
    assert!(said.contains("no law is fitted") && printed.contains("too few settings"), "{said}{printed}");

    let wild = few.replace("1e-3", "1e30").replace("[2, 4, 8]", "[2]");
    let [_, said] = succeed(place.path(), &wild, &["-o", "wild"]);
    assert!(
        said.contains("chain-w4-d1-utd2-batch16-seed1: values are not numbers any more at step"),
        "{said}"
    );
    let csv = fs::read_to_string(place.path().join("wild/rl-runs.csv")).unwrap();
    let at: usize = csv.lines().nth(1).unwrap().rsplit(',').next().unwrap().parse().unwrap();
    assert!(300 < at && at <= 700, "{csv}");
}

#[test]
fn wrong_recipes_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let refuse = |from: &str, to: &str, parts: &[&str]| {
        assert!(RECIPE.contains(from), "{from}");
        fail(place.path(), &RECIPE.replace(from, to), &["-o", "out"], parts);
    };
    refuse(
        "episodes = 5",
        "episodes = 5\nevry = 1\n[others]\nx = 1",
        &["unknown keys", "evaluation.evry", "others"],
    );
    refuse(
        "environment.chain",
        "environment.chains",
        &["unknown environments: chains", "cart-pole, chain, pendulum"],
    );
    refuse("steps = 1800", "steps = 300", &["environment.chain.steps is 300", "agent.warm-up"]);
    refuse("warm-up = 300", "warm-up = 300\nbuffer = 15", &["grid.batches has 16", "agent.buffer, 15"]);
    refuse("seeds = [1, 2]", "seeds = []", &["seeds is empty"]);
    assert!(!place.path().join("out").exists());
}
