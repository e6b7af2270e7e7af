//! Students as a user meets them: on any number of threads, interrupted, with changed settings, with a loss that explodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const RECIPE: &str = "name = 'tiny'\nseeds = [1, 2]\n[size]\nwidth = 8\ninner = 16\noutputs = 4\n[teacher]\nlayers = 8\n\
                      [students]\nlayers = [1, 2, 4]\n[training]\nsteps = 40\nbatch = 32\nlearning-rate = 1e-2\nevaluation = 1500\n";

fn run(place: &Path, recipe: &str, arguments: &[&str]) -> Output {
    fs::write(place.join("recipe.toml"), recipe).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fathom-lab"));
    command.current_dir(place).args(["residual", "recipe.toml"]).args(arguments).output().unwrap()
}

#[track_caller]
fn succeed(place: &Path, recipe: &str, arguments: &[&str]) -> String {
    let done = run(place, recipe, arguments);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
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

fn students(out: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(out.join("students")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn students_are_kept_and_the_same_on_any_number_of_threads() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let printed = succeed(place.path(), RECIPE, &["-o", "all"]);
    assert!(printed.contains("Under tied teachers the loss falls as 1 / layers^"), "{printed}");
    let csv = fs::read(at("all/residual.csv")).unwrap();
    let text = String::from_utf8(csv.clone()).unwrap();
    assert_eq!(text.lines().count(), 1 + 2 * 2 * 3);
    for line in text.lines().skip(1) {
        let numbers: Vec<f64> = line.split(',').skip(3).map(|cell| cell.parse().unwrap()).collect();
        assert!(numbers[0] < 0.9 * numbers[1], "no student learns: {line}");
    }
    let page = fs::read_to_string(at("all/report.html")).unwrap();
    assert!(page.contains("independent teachers") && at("all/plots/residual_loss.png").is_file());

    // A part of the grid first, on one thread; then one student is lost, as by a kill, and the rest is added.
    succeed(
        place.path(),
        RECIPE,
        &["-o", "parts", "--threads", "1", "--teacher", "tied", "--depths", "1,2,4"],
    );
    let one = students(&at("parts")).remove(0);
    let kept = fs::metadata(&students(&at("parts"))[1]).unwrap().modified().unwrap();
    fs::remove_file(one).unwrap();
    succeed(place.path(), RECIPE, &["-o", "parts", "--threads", "1"]);
    assert!(fs::read(at("parts/residual.csv")).unwrap() == csv);
    let tied = students(&at("parts")).into_iter().filter(|path| path.to_string_lossy().contains("tied"));
    assert_eq!(fs::metadata(tied.skip(1).step_by(1).next().unwrap()).unwrap().modified().unwrap(), kept);

    fail(place.path(), RECIPE, &["-o", "parts", "--steps", "41"], &["other settings", "--overwrite"]);
    succeed(place.path(), RECIPE, &["-o", "parts", "--steps", "41", "--seeds", "1", "--overwrite"]);
    assert!(fs::read(at("parts/residual.csv")).unwrap() != csv);
    assert_eq!(students(&at("parts")).len(), 6);
}

#[test]
fn a_loss_that_is_not_a_number_names_the_student_and_wrong_options_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let wild = RECIPE.replace("1e-2", "1e38");
    fail(
        place.path(),
        &wild,
        &["-o", "out"],
        &["the student of 1 layers (independent, seed 1)", "learning-rate"],
    );
    fail(place.path(), RECIPE, &["--seeds", "1,1"], &["with the options given", "seeds has 1 twice"]);
    fail(place.path(), &RECIPE.replace("steps = 40", "steps = 40\nrate = 1"), &[], &["training.rate"]);
    let done = run(place.path(), RECIPE, &["--teacher", "tide"]);
    assert!(String::from_utf8_lossy(&done.stderr).contains("give independent or tied"));
    let few = succeed(place.path(), RECIPE, &["-o", "few", "--depths", "1,2", "--seeds", "1"]);
    assert!(few.contains("needs students of at least three depths"), "{few}");
}
