//! `fathom measure --lens`: linear and tuned lenses, what results say of them, and what is refused.

use crate::support::{Place, fail, fathom, fixture, json, succeed, texts};
use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// `fathom measure qwen2 --data FILE --probes lens,settling -o OUT` on 6 texts.
fn measure(place: &Place, out: &Path) -> Command {
    let data = place.at("texts.jsonl");
    if !data.exists() {
        fs::write(&data, texts(6, 1)).unwrap();
    }
    let mut command = fathom();
    command.arg("measure").arg(fixture("qwen2")).arg("--data").arg(data);
    command.args(["--probes", "lens,settling", "--resamples", "200"]).arg("-o").arg(out);
    command
}

/// The same with a linear lens fitted to 60 other texts.
fn linear(place: &Place, out: &Path) -> Command {
    let data = place.at("lens.jsonl");
    fs::write(&data, texts(60, 500)).unwrap();
    let mut command = measure(place, out);
    command.args(["--lens", "linear", "--lens-data"]).arg(data);
    command
}

fn curve(results: &Value, name: &str) -> Vec<f64> {
    let curve = results["probes"]["lens"][name].as_array().unwrap();
    curve.iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn a_linear_lens_is_closer_to_the_output_and_says_so() {
    let place = Place::new();
    let (plain, out) = (place.at("plain"), place.at("linear"));
    succeed(&mut measure(&place, &plain));
    let printed = succeed(&mut linear(&place, &out));
    assert!(printed.contains("lens: linear, fitted to lens, 60 texts"), "{printed}");
    let (plain, with) = (json(&plain.join("results.json")), json(&out.join("results.json")));
    assert!(plain.get("lens").is_none());
    assert_eq!(
        (with["lens"]["kind"].as_str(), with["lens"]["fit"]["texts"].as_u64()),
        (Some("linear"), Some(60))
    );
    let (a, b) = (curve(&plain, "kl_final_lens"), curve(&with, "kl_final_lens"));
    let last = a.len() - 1;
    assert!(a[0] > b[0] && a[last - 1] > b[last - 1], "{a:?} {b:?}");
    assert_eq!((a[last], b[last]), (0.0, 0.0));
    assert_eq!(curve(&plain, "nll")[last], curve(&with, "nll")[last]);
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("linear, fitted to lens"));
}

#[test]
fn threads_and_memory_change_no_bit_and_a_finished_run_fits_nothing_again() {
    let place = Place::new();
    let (one, other) = (place.at("one"), place.at("other"));
    succeed(linear(&place, &one).args(["--threads", "1"]));
    succeed(linear(&place, &other).args(["--threads", "3", "--memory", "8MiB"]));
    let probes = |out: &Path| json(&out.join("results.json"))["probes"].clone();
    assert_eq!(probes(&one), probes(&other));
    succeed(&mut linear(&place, &one));
    assert_eq!(probes(&one), probes(&other));
}

#[test]
fn different_lenses_are_neither_mixed_nor_compared() {
    let place = Place::new();
    let (plain, out) = (place.at("plain"), place.at("linear"));
    succeed(&mut measure(&place, &plain));
    fail(&mut linear(&place, &plain), &["other options of lens"]);
    succeed(&mut linear(&place, &out));
    fail(fathom().arg("compare").args([&plain, &out]), &["different lenses, logit", "and linear"]);
}

#[test]
fn a_tuned_lens_is_read_from_its_folder() {
    let place = Place::new();
    let out = place.out();
    succeed(measure(&place, &out).arg("--lens").arg(fixture("lenses/qwen2")));
    let results = json(&out.join("results.json"));
    assert_eq!(results["lens"]["kind"], "tuned");
    assert_eq!(results["lens"]["model"], "qwen2");
    let mut other = fathom();
    other.arg("measure").arg(fixture("llama2")).args(["--limit", "1", "--lens"]).arg(fixture("lenses/qwen2"));
    fail(other.arg("-o").arg(place.at("other")), &["give a lens of this model"]);
}

#[test]
fn lenses_without_a_meaning_are_refused() {
    let place = Place::new();
    let out = place.out();
    let data = place.at("texts.jsonl");
    let same = |command: &mut Command| fail(command, &["would be fitted to what it reads"]);
    same(measure(&place, &out).args(["--lens", "linear", "--lens-data"]).arg(&data));
    fail(measure(&place, &out).args(["--lens-data", "prose"]), &["--lens-data is for --lens linear"]);
    fail(measure(&place, &out).args(["--lens", "nowhere"]), &["--lens takes logit, linear, or a folder"]);
    let mut without = fathom();
    without.arg("measure").arg(fixture("qwen2")).args(["--lens", "linear", "--probes", "similarity"]);
    fail(without.arg("-o").arg(&out), &["for the probes lens and settling"]);
}

/// Entries of a dry run, by the name of the probe.
fn planned(command: &mut Command) -> Value {
    let plan: Value = serde_json::from_str(&succeed(command.args(["--dry-run", "--json"]))).unwrap();
    let rows = plan["plan"].as_array().unwrap().iter();
    rows.map(|row| (row["probe"].as_str().unwrap().to_owned(), row.clone())).collect()
}

#[test]
fn a_dry_run_counts_the_fit_of_a_linear_lens() {
    let place = Place::new();
    let out = place.out();
    let fit = planned(&mut linear(&place, &out))["lens fit"].clone();
    // Clean runs over the fitting texts cost what a measurement of them says.
    let mut clean = fathom();
    clean.arg("measure").arg(fixture("qwen2")).arg("--data").arg(place.at("lens.jsonl"));
    let clean = planned(clean.args(["--probes", "contributions"]).arg("-o").arg(&out));
    let forward = clean["forward"]["madds"].as_u64().unwrap();
    succeed(&mut linear(&place, &out));
    let tokens = json(&out.join("results.json"))["lens"]["fit"]["tokens"].as_u64().unwrap();
    let (layers, width) = (3, 48);
    let sums = layers * 2 * width * width * tokens;
    // Seven penalties, a factorisation, solution and error each, and a last solution.
    let solving = layers * (8 * width * width * width * 7 / 6 + 7 * width * width * width);
    assert_eq!(fit["madds"], forward + sums + solving);
    assert_eq!(fit["runs"], 60);
    assert!(fit["seconds"].as_f64() > Some(0.0), "{fit}");
    assert!(fit["bytes"].as_u64() > Some(layers * 4 * 8 * 2 * width * width), "{fit}");
    // So little memory that levels are fitted one by one.
    let place = Place::new();
    let slow = planned(linear(&place, &place.out()).args(["--memory", "600KiB"]))["lens fit"].clone();
    assert_eq!(slow["runs"], 60 * layers);
    assert_eq!(slow["madds"], 3 * forward + sums + solving);
    assert!(slow["bytes"].as_u64() < fit["bytes"].as_u64(), "{slow}");
    assert!(planned(&mut measure(&place, &place.out())).get("lens fit").is_none());
    fail(measure(&place, &place.out()).args(["--lens", "nowhere", "--dry-run"]), &["--lens takes logit"]);
}
