//! The program of the trainings is found beside this one or on PATH, and gets the arguments as they are.

use crate::support::{Place, fail, fathom, finish};
use std::fs;

#[test]
fn without_the_program_the_way_to_it_is_told() {
    fail(
        fathom().args(["lab", "lm", "recipe.toml"]).env("PATH", ""),
        &["fathom-lab", "cargo install --path lab"],
    );
}

#[cfg(unix)]
#[test]
fn arguments_and_exit_code_are_passed_on() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let program = place.at("fathom-lab");
    fs::write(&program, "#!/bin/sh\necho \"$@\"\nexit 7\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/bin:/usr/bin", place.path().display());
    let done = finish(fathom().args(["lab", "lm", "--help", "-o", "x", "--threads=2"]).env("PATH", path));
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (Some(7), "lm --help -o x --threads=2\n"),
        "{}",
        done.stderr
    );
}
