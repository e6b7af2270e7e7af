//! What `report` makes of a folder, and tables of samples.

use crate::support::{Place, fail, fathom, finish, fixture, measure, succeed};
use std::fs;

/// The folder's own table of samples: written when asked, renewed by a later run, deleted with the others.
#[test]
fn samples_are_written_as_parquet() {
    let place = Place::new();
    let (model, prompts, out) = (fixture("llama2"), place.data(), place.at("out"));
    let run = |probes: &str| {
        let mut command = measure(&model, &prompts, &out);
        command.args(["--probes", probes]);
        command
    };
    let file = out.join("samples.parquet");
    let columns = || String::from_utf8_lossy(&fs::read(&file).unwrap()).contains("settling.layers");
    succeed(&mut run("lens"));
    assert!(!file.exists());
    succeed(run("lens").arg("--parquet"));
    assert!(!columns());
    succeed(&mut run("lens,settling"));
    assert!(columns());
    succeed(run("lens").arg("--overwrite"));
    assert!(!file.exists());
    let text = finish(fathom().arg("report").arg(&out).arg("--parquet")).stderr;
    assert!(text.contains("samples.parquet") && file.exists(), "{text}");
}

/// A program of this name stands for the desktop's.
#[cfg(target_os = "linux")]
#[test]
fn a_report_is_opened_in_the_browser() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let (prompts, out) = (place.data(), place.at("out"));
    succeed(&mut measure(&fixture("llama2"), &prompts, &out));
    let (opener, opened) = (place.at("xdg-open"), place.at("opened"));
    fs::write(&opener, format!("#!/bin/sh\nprintf %s \"$1\" > {}\n", opened.display())).unwrap();
    fs::set_permissions(&opener, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = fathom();
    command.arg("report").arg(&out).arg("--open").env("PATH", opener.parent().unwrap());
    succeed(&mut command);
    for _ in 0..100 {
        if opened.metadata().is_ok_and(|file| file.len() > 0) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(fs::read_to_string(&opened).unwrap(), out.join("report.html").display().to_string());
    fail(command.env("PATH", place.at("nothing")), &["cannot open", "report.html", "by hand"]);
}
