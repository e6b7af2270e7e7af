//! A comparison of mixtures as a user meets it: on any number of threads, interrupted, with changed settings.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const RECIPE: &str = "name = 'tiny'\nseeds = [1]\nfixed = [0.5]\n[problems]\ndigits = [1, 1]\n[model]\nwidth = 16\nlayers = 1\nheads = 2\n\
                      [training]\nsteps = 120\nbatch = 32\nlearning-rate = 1e-2\n[control]\nevery = 30\ndevelopment = 64\ntest = 64\n";

fn run(place: &Path, recipe: &str, arguments: &[&str]) -> Output {
    fs::write(place.join("recipe.toml"), recipe).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fathom-lab"));
    command.current_dir(place).args(["mix", "recipe.toml"]).args(arguments).output().unwrap()
}

#[track_caller]
fn succeed(place: &Path, recipe: &str, arguments: &[&str]) -> String {
    let done = run(place, recipe, arguments);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// The cells of the last measurement of a mixture: step, loss, length, accuracy, weight of short solutions.
fn last(csv: &str, mixture: &str) -> Vec<f64> {
    let line = csv.lines().rfind(|line| line.starts_with(&format!("{mixture},"))).unwrap();
    line.split(',').skip(2).map(|cell| cell.parse().unwrap()).collect()
}

#[test]
fn lengths_follow_the_mixture_and_runs_are_kept() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let printed = succeed(place.path(), RECIPE, &["-o", "all"]);
    assert!(printed.contains("| controlled |") && printed.contains("| short alone |"), "{printed}");
    let csv = fs::read_to_string(at("all/mix.csv")).unwrap();
    let length = |mixture: &str| last(&csv, mixture)[2];
    // A colon, one or two digits, the end; a column more in long solutions.
    assert!((2.5..5.0).contains(&length("short alone")), "{csv}");
    assert!(
        length("long alone") > length("0.5 short") && length("0.5 short") > length("short alone"),
        "{csv}"
    );
    assert_eq!([last(&csv, "long alone")[4], last(&csv, "short alone")[4]], [0.0, 1.0]);
    let controlled: Vec<f64> = csv
        .lines()
        .filter(|line| line.starts_with("controlled,"))
        .map(|line| line.rsplit(',').next().unwrap().parse().unwrap())
        .collect();
    assert!(controlled.len() == 4 && controlled.iter().all(|weight| (5e-5..1.0).contains(weight)), "{csv}");
    assert!(controlled.iter().any(|weight| (weight - 0.5).abs() > 0.05), "{csv}");
    assert!(fs::read_to_string(at("all/report.html")).unwrap().contains("Weight of short solutions"));

    // One thread, and a run that is lost as by a kill.
    succeed(place.path(), RECIPE, &["-o", "one", "--threads", "1"]);
    assert_eq!(fs::read_to_string(at("one/mix.csv")).unwrap(), csv);
    let kept = || fs::metadata(at("one/runs/seed1-short0.5.json")).unwrap().modified().unwrap();
    let before = kept();
    fs::remove_file(at("one/runs/seed1-controlled.json")).unwrap();
    succeed(place.path(), RECIPE, &["-o", "one"]);
    assert_eq!((fs::read_to_string(at("one/mix.csv")).unwrap(), kept()), (csv, before));

    // Another mixture is added; other settings are refused.
    let more = succeed(place.path(), &RECIPE.replace("[0.5]", "[0.2, 0.5]"), &["-o", "one"]);
    assert!(more.contains("| 0.2 short |") && kept() == before, "{more}");
    let done = run(place.path(), &RECIPE.replace("batch = 32", "batch = 16"), &["-o", "one"]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && said.contains("other settings"), "{said}");
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_run() {
    let place = tempfile::tempdir().unwrap();
    let done = run(place.path(), &RECIPE.replace("1e-2", "1e38"), &["-o", "out"]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && said.contains("the loss is NaN at step"), "{said}");
}
