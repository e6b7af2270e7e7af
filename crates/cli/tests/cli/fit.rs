//! `fathom fit`: tables in, a results folder out, and what it refuses.

use crate::support::{Place, fail, fathom, json, succeed};
use assert_cmd::Command;
use std::fs;
use std::path::{Path, PathBuf};

/// Runs of the depth law with a little made-up noise.
fn runs() -> String {
    let mut csv = "d_model,n_layers,num_tokens,loss\n".to_owned();
    for (i, width) in [512.0_f64, 1024.0, 2048.0, 4096.0].into_iter().enumerate() {
        for (j, layers) in [4.0_f64, 8.0, 16.0, 32.0, 64.0].into_iter().enumerate() {
            for (k, tokens) in [3e8_f64, 3e9, 3e10, 3e11].into_iter().enumerate() {
                let loss = 250.0 / width.powf(0.95)
                    + 900.0 / (100.0 * layers).powf(1.2)
                    + 9.0 / (tokens / 1e6).powf(0.3)
                    + 1.7;
                let noise = 1.0 + 0.003 * ((31 * i + 17 * j + 7 * k) % 11) as f64 / 11.0;
                csv += &format!("{width},{layers},{tokens},{}\n", loss * noise);
            }
        }
    }
    csv
}

fn table(place: &Place, name: &str, content: &str) -> PathBuf {
    let path = place.at(name);
    fs::write(&path, content).unwrap();
    path
}

/// `fathom fit LAW FILE -o OUT` with few resamples.
fn fit(law: &str, file: &Path, out: &Path) -> Command {
    let mut command = fathom();
    command.args(["fit", law]).arg(file).arg("-o").arg(out);
    command.args(["--resamples", "50", "--heldout", "4", "--profile", "9", "--starts", "4"]);
    command
}

/// Runs a command that must fail, and returns what it says.
fn refused(command: &mut Command) -> String {
    fail(command, &["error: "])
}

#[test]
fn a_law_is_fitted_reported_and_fitted_again() {
    let place = Place::new();
    let (file, out) = (table(&place, "runs.csv", &runs()), place.out());
    let with = |command: &mut Command| {
        command.args(["--at", "params=1e9,tokens=1e11,layers=24", "--optimal", "params=1e9,tokens=1e11"]);
        succeed(command)
    };
    let printed = with(&mut fit("depth", &file, &out));
    for text in ["a_l", "converged", "other choices", "predictions", "optimal for params 1e9"] {
        assert!(printed.contains(text), "{text}\n{printed}");
    }
    let results = json(&out.join("fit.json"));
    let a_l = results["parameters"]["a_l"]["value"].as_f64().unwrap();
    assert!((a_l - 1.2).abs() < 0.1, "{a_l}");
    assert_eq!(results["objective"]["converged"], true);
    assert_eq!(results["rows"], 80);
    assert!(
        results["scan"].as_array().unwrap().iter().any(|p| p["choice"] == "layers" && p["value"] == "l - 2")
    );
    for file in
        ["run.json", "report.html", "plots/fit_data.svg", "plots/fit_profiles.png", "plots/fit_scan.svg"]
    {
        assert!(out.join(file).is_file(), "{file}");
    }
    // The same fit replaces itself with the same bytes, whatever the number of threads.
    let before = fs::read(out.join("fit.json")).unwrap();
    with(fit("depth", &file, &out).args(["--threads", "3"]));
    assert_eq!(fs::read(out.join("fit.json")).unwrap(), before);
    let shown = succeed(fathom().arg("report").arg(&out));
    assert!(shown.contains("a_l") && shown.contains("other choices"), "{shown}");
    // Another one does not.
    let error = refused(fit("depth", &file, &out).args(["--drop-highest", "5"]));
    assert!(error.contains("another number of dropped rows") && error.contains("--overwrite"), "{error}");
    succeed(fit("depth", &file, &out).args(["--drop-highest", "5", "--overwrite"]));
    assert_eq!(json(&out.join("fit.json"))["dropped"], 5);
}

#[test]
fn other_laws_and_other_files() {
    let place = Place::new();
    let file = table(&place, "t.json", r#"{"depth": [8, 16, 24, 32, 40], "score": [1, 2.2, 2.9, 4.1, 5]}"#);
    let out = place.at("regress");
    let mut command = fit("regress", &file, &out);
    let printed =
        succeed(command.args(["--formula", "score ~ layers", "--columns", "layers=depth", "--json"]));
    let results: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(results["data"]["columns"]["layers"], "depth");
    assert!((results["parameters"]["layers"]["value"].as_f64().unwrap() - 0.12375).abs() < 1e-12);

    let csv: String = (1..30).map(|x| format!("{x},{}\n", 3.0 / f64::from(x).sqrt() + 1.0)).collect();
    let file = table(&place, "own.csv", &("x,y\n".to_owned() + &csv));
    let law = table(
        &place,
        "law.toml",
        "response = 'y'\nexpression = 'c / x ^ a + l'\n[parameters]\nc = { start = 1, log = true }\na = { start = 1 }\nl = { start = 0.5 }\n",
    );
    let out = place.at("custom");
    succeed(fit("custom", &file, &out).arg("--description").arg(&law));
    let found = json(&out.join("fit.json"));
    assert!((found["parameters"]["a"]["value"].as_f64().unwrap() - 0.5).abs() < 1e-6);
}

#[test]
fn learning_curves_become_times() {
    let place = Place::new();
    let folder = place.at("curves");
    for (updates, speed) in [(1, 1.0), (2, 1.5), (4, 2.0)] {
        for (size, power) in [(1_000_000, 1.0), (4_000_000, 1.6), (16_000_000, 2.2)] {
            let folder = folder.join(format!("utd_{updates}/{size}/run"));
            fs::create_dir_all(&folder).unwrap();
            // Steps and two seeds, a thousand rows in C order.
            let row = |i: usize| [i as f64 * 100.0, i as f64 * speed * power, i as f64 * speed * power + 2.0];
            let data: Vec<u8> = (0..1000).flat_map(row).flat_map(f64::to_le_bytes).collect();
            let header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000, 3), }";
            let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
            bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
            bytes.extend(header.bytes());
            bytes.extend(data);
            fs::write(folder.join("bs_256.npy"), bytes).unwrap();
        }
    }
    let out = place.out();
    let curves =
        ["--curves", "utd_{utd}/{critic_params}/{env_name}/bs_{batch_size}.npy", "--threshold", "301"];
    succeed(fit("rl", &folder, &out).args(curves));
    let results = json(&out.join("fit.json"));
    let points = results["points"].as_array().unwrap();
    // The mean of the seeds is i speed power + 1, so the slowest reaches 301 at i = 300.
    assert!(points.len() == 9 && points.iter().any(|p| p["observed"] == 30000.0), "{points:?}");
    let error =
        refused(fit("rl", &folder, &place.at("other")).args([curves[0], curves[1], "--threshold", "1e9"]));
    assert!(error.contains("no curve reaches"), "{error}");
    let error = refused(&mut fit("rl", &folder, &place.at("other")));
    assert!(error.contains("is a folder") && error.contains("--curves"), "{error}");
}

#[test]
fn what_cannot_be_fitted_is_said() {
    let place = Place::new();
    let out = place.out();
    let file = table(&place, "bad.csv", "d_model,n_layers,num_tokens,loss\n512,8,1e9,3\n512,8,1e9,-3\n");
    let error = refused(&mut fit("depth", &file, &out));
    assert!(error.contains("bad.csv: row 2, column 'loss': -3 has no logarithm"), "{error}");
    let error = refused(fit("depth", &file, &out).args(["--columns", "loss=perplexity"]));
    assert!(error.contains("no column 'perplexity' for loss; the table has 'd_model'"), "{error}");
    let error = refused(fit("repeat", &file, &out).arg("--less-two"));
    assert!(error.contains("--less-two is for the law depth"), "{error}");
    let error = refused(fit("depth", &file, &out).args(["--objective", "cubed"]));
    assert!(error.contains("squared-log, huber-log"), "{error}");
    let error = refused(&mut fit("depth", &place.at("missing.csv"), &out));
    assert!(error.contains("cannot read") && error.contains("missing.csv"), "{error}");
}

#[test]
fn a_fit_that_does_not_converge_fails_with_the_best_that_was_found() {
    let place = Place::new();
    // The rows want a = 2, but (1 - a)^1.5 has no value beyond a = 1.
    let csv: String = (3..20).map(|x| format!("{x},{}\n", (f64::from(x) - 2.0).powf(1.5))).collect();
    let file = table(&place, "edge.csv", &("x,y\n1,0\n".to_owned() + &csv));
    let law = table(
        &place,
        "law.toml",
        "response = 'y'\nexpression = 'b * (x - a) ^ 1.5'\nobjective = 'squared'\n[parameters]\na = { start = 0 }\n\
         b = { start = 1 }\n",
    );
    let out = place.out();
    let error = refused(fit("custom", &file, &out).arg("--description").arg(&law));
    assert!(error.contains("did not converge") && error.contains("--allow-unconverged"), "{error}");
    let results = json(&out.join("fit.json"));
    assert_eq!(results["objective"]["converged"], false);
    let a = results["parameters"]["a"]["value"].as_f64().unwrap();
    assert!(a > 0.5 && a <= 1.0, "{a}");
    let printed =
        succeed(fit("custom", &file, &out).arg("--description").arg(&law).arg("--allow-unconverged"));
    assert!(printed.contains("NOT converged"), "{printed}");
}
