//! Masked models: what is measured on them, and what is refused by name.

use crate::support::{Place, fail, fathom, finish, fixture, json, measure, succeed};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

const SEQUENCES: &str = ">one of two\nMKTAYIAKQRQISFVKSHFSRQ\n>two\nACDEFGHIKLMNPQ\nRSTVWYU\n>none\n";

fn fasta(place: &Place) -> PathBuf {
    let path = place.at("some.fasta");
    fs::write(&path, SEQUENCES).unwrap();
    path
}

fn samples(place: &Place) -> Vec<Value> {
    let text = fs::read_to_string(place.at("out/samples.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const ALL: &str = "contributions,lens,similarity,settling,skip,erasure,gradients";

#[test]
fn all_probes_of_a_protein_model() {
    let place = Place::new();
    let mut command = measure(&fixture("bert-symbols"), fasta(&place), &place.out());
    command.args(["--probes", ALL, "--mask-seed", "3"]);
    let done = finish(&mut command);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("some.fasta: 1 token is not in the vocabulary"), "{}", done.stderr);
    assert!(done.stdout.contains("predicted: masked residues: a share of 0.15"), "{}", done.stdout);
    let results = json(&place.at("out/results.json"));
    let objective = &results["objective"];
    assert_eq!(objective["objective"], "masked");
    assert_eq!((&objective["block"], &objective["unit"]), (&"post-norm".into(), &"residue".into()));
    assert_eq!((objective["mask_seed"].as_u64(), objective["unknown"].as_u64()), (Some(3), Some(1)));
    let rules: Vec<&str> =
        results["depth"].as_array().unwrap().iter().filter_map(|d| d["rule"].as_str()).collect();
    assert!(
        rules.contains(&"top1") && rules.contains(&"skip_layer") && !rules.contains(&"overlap"),
        "{rules:?}"
    );
    let (vocab, lens) = (results["model"]["vocab"].as_f64().unwrap(), &results["probes"]["lens"]);
    let curve =
        |name: &str| lens[name].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    let shares: Vec<f64> = curve("kl_lens_final").iter().map(|kl| kl / vocab.ln()).collect();
    assert_eq!(curve("kl_over_ln_vocab"), shares);
    let modes = results["probes"]["skip"].as_object().unwrap();
    assert_eq!(modes.keys().collect::<Vec<_>>(), ["current", "others"]);
    let all = samples(&place);
    // 22 residues, of which 15 % are three; special tokens stand at both ends.
    assert_eq!(all[0]["id"], "one");
    let masked = &all[0]["masked"];
    assert_eq!((masked["own"].as_u64(), masked["positions"].as_array().unwrap().len()), (Some(22), 3));
    assert_eq!(all[0]["tokens"].as_array().unwrap().iter().filter(|token| **token == 4).count(), 3);
    let report = fs::read_to_string(place.at("out/report.html")).unwrap();
    assert!(
        report.contains("residue") && report.contains("guess at a mask") && !report.contains("early answer")
    );
}

/// Models of both kinds in one study: masks are options of one, and tables leave out what `measure` leaves out.
#[test]
fn a_study_of_masked_and_causal_models() {
    let place = Place::new();
    let (data, out) = (fasta(&place), place.at("study"));
    let models = ["bert-symbols", "progen"].map(fixture);
    let text = format!(
        r#"
            name = "proteins"
            out = {out:?}
            probes = ["lens", "settling"]
            model = [
                {{ id = {:?}, name = "masked", options = {{ mask-ratio = 0.4 }} }},
                {{ id = {:?}, name = "causal" }},
            ]
            data = [{{ id = {data:?}, name = "some" }}]
        "#,
        models[0], models[1]
    );
    fs::write(place.at("study.toml"), text).unwrap();
    succeed(fathom().arg("study").arg(place.at("study.toml")));
    let objective = |model: &str| json(&out.join(model).join("some/results.json"))["objective"].clone();
    assert_eq!(objective("masked")["mask_ratios"], serde_json::json!([0.4]));
    assert!(objective("causal").is_null());
    let csv = fs::read_to_string(out.join("study.csv")).unwrap();
    let has = |model: &str, rule: &str| {
        csv.lines().any(|line| line.starts_with(&format!("{model},")) && line.contains(&format!(",{rule},")))
    };
    assert!(has("masked", "top1") && has("causal", "overlap"), "{csv}");
    assert!(!has("masked", "overlap") && !has("causal", "top1"), "{csv}");
}

#[test]
fn options_of_a_study_are_checked_as_those_of_measure() {
    let place = Place::new();
    let data = fasta(&place);
    for (options, part) in [
        ("mask-ratio = 2", "between 0 and 1"),
        ("mask = 'each', mask-ratio = 0.3", "--mask each"),
        ("crop = 'random'", "--max-residues"),
        ("lens-data = 'prose'", "--lens linear"),
    ] {
        let text = format!(
            "name = 'x'\nout = {:?}\nprobes = 'lens'\n[[model]]\nid = {:?}\noptions = {{ {options} }}\n[[data]]\nid = {data:?}\n",
            place.at("study"),
            fixture("esm")
        );
        fs::write(place.at("study.toml"), text).unwrap();
        let done = finish(fathom().arg("study").arg(place.at("study.toml")));
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        assert!(done.stderr.contains("cannot be measured") && done.stderr.contains(part), "{}", done.stderr);
    }
}

/// The ratios of one text are not independent, so texts are resampled.
#[test]
fn one_text_at_several_ratios_has_no_interval() {
    let depths = |sequences: &str| {
        let place = Place::new();
        fs::write(place.at("some.fasta"), sequences).unwrap();
        let mut command = measure(&fixture("esm"), place.at("some.fasta"), &place.out());
        succeed(command.args(["--objective", "diffusion", "--probes", "settling"]));
        let results = json(&place.at("out/results.json"));
        results["depth"].as_array().unwrap().iter().map(|row| row["interval"].clone()).collect::<Vec<_>>()
    };
    assert!(depths(">a\nMKTAYIAKQRQISFVKSHFSRQ\n").iter().all(Value::is_null));
    let two = depths(">a\nMKTAYIAKQRQISFVKSHFSRQ\n>b\nACDEFGHIKLMNPQRSTVWY\n");
    assert!(!two.is_empty() && two.iter().all(Value::is_array), "{two:?}");
}

/// Masks are those of the text, whatever is measured beside it.
#[test]
fn masks_depend_on_the_text_and_the_seed_alone() {
    let masks = |args: &[&str]| {
        let place = Place::new();
        succeed(measure(&fixture("esm"), fasta(&place), &place.out()).args(args));
        samples(&place)[0]["masked"]["positions"].clone()
    };
    let first = masks(&["--mask-ratio", "0.4"]);
    assert_eq!(first, masks(&["--mask-ratio", "0.4", "--limit", "1"]));
    assert_ne!(first, masks(&["--mask-ratio", "0.4", "--mask-seed", "9"]));
}

#[test]
fn diffusion_measures_each_ratio() {
    let place = Place::new();
    succeed(measure(&fixture("esm"), fasta(&place), &place.out()).args(["--objective", "diffusion"]));
    let ids: Vec<String> = samples(&place).iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 10);
    assert!(ids.contains(&"two/0.9".to_owned()), "{ids:?}");
    let table = succeed(fathom().arg("depth").arg(place.out()).arg("--by-group"));
    assert!(table.contains("0.3 masked"), "{table}");
}

#[test]
fn each_position_gives_the_pseudo_log_likelihood() {
    let place = Place::new();
    let mut command = measure(&fixture("esm"), fasta(&place), &place.out());
    succeed(command.args(["--mask", "each", "--max-residues", "9"]));
    let sample = &samples(&place)[0];
    let mean = sample["lens"]["nll"].as_array().unwrap().last().unwrap().as_f64().unwrap();
    let sum = sample["masked"]["pseudo_log_likelihood"].as_f64().unwrap();
    assert!((sum + 9.0 * mean).abs() < 1e-9 && sample["work"]["forward"]["runs"] == 9);
}

#[test]
fn another_mask_does_not_continue_a_run() {
    let place = Place::new();
    let run = |args: &[&str]| {
        let mut command = measure(&fixture("esm"), fasta(&place), &place.out());
        command.args(args);
        command
    };
    succeed(&mut run(&[]));
    fail(&mut run(&["--mask-seed", "1"]), &["other masks"]);
    fail(&mut run(&["--max-residues", "5"]), &["part of sequences"]);
    succeed(&mut run(&["--probes", "clean,skip"]));
}

#[test]
fn a_model_without_a_head_has_contributions_and_similarity() {
    for model in ["bert-headless", "gemma3-encoder"] {
        let (place, model) = (Place::new(), fixture(model));
        let data = place.data();
        fail(
            &mut measure(&model, &data, &place.out()),
            &["'lens'", "no language-model head", "contributions,similarity"],
        );
        let plain = ["--probes", "contributions,similarity"];
        fail(
            measure(&model, &data, &place.out()).args(plain).args(["--mask", "each"]),
            &["nothing is masked"],
        );
        succeed(measure(&model, &data, &place.out()).args(plain));
        let mut verify = fathom();
        verify.arg("verify").arg(&model).args(["--dtype", "bf16", "--data"]).arg(&data);
        fail(&mut verify, &["no language-model head"]);
        let results = json(&place.at("out/results.json"));
        assert!(results["probes"]["contributions"].is_object() && results["probes"]["lens"].is_null());
    }
}

#[test]
fn what_cannot_be_masked_is_refused_by_name() {
    let place = Place::new();
    let (data, out) = (fasta(&place), place.out());
    let check = |model: &str, args: &[&str], parts: &[&str]| {
        let mut command = measure(&fixture(model), &data, &out);
        fail(command.args(args), parts);
    };
    check("esm", &["--mask-ratio", "0"], &["--mask-ratio", "0", "between 0 and 1"]);
    check("esm", &["--mask-ratio", "1"], &["--mask-ratio", "between 0 and 1"]);
    check("esm", &["--mask-ratio", "0.1,0.2"], &["several ratios", "diffusion"]);
    check("esm", &["--mask", "each", "--mask-ratio", "0.2"], &["--mask each"]);
    check("esm", &["--mask", "each", "--probes", "skip"], &["'skip'", "--mask-ratio"]);
    check("esm", &["--objective", "causal"], &["esm", "--objective masked"]);
    check("esm", &["--probes", "angles"], &["'angles'", "causal"]);
    check("esm", &["--probes", "order"], &["'order'", "causal"]);
    check("esm", &["--probes", "skip", "--skip-modes", "future"], &["'future'", "current and others"]);
    check("esm", &["--crop", "random"], &["--max-residues"]);
    check("gpt2", &["--objective", "masked"], &["gpt2", "causal"]);
    check("gpt2", &["--mask-ratio", "0.2"], &["gpt2", "causal"]);
    check("gpt2", &["--probes", "skip", "--skip-modes", "others"], &["'others'", "masked"]);
    let long = place.at("long.fasta");
    fs::write(&long, format!(">long\n{}\n", "MKTAYIAKQR".repeat(30))).unwrap();
    fail(&mut measure(&fixture("bert-symbols"), &long, &out), &["'long'", "302 tokens", "128"]);
    for kind in ["prune", "exit"] {
        let mut command = fathom();
        command.arg(kind).arg(fixture("esm")).arg("-o").arg(place.at(kind));
        fail(&mut command, &[&format!("fathom {kind}"), "causal", "esm"]);
        assert!(!place.at(kind).exists(), "{kind}");
    }
}

#[test]
fn fasta_files_that_are_none_are_refused() {
    let place = Place::new();
    let path = place.at("bad.fasta");
    for (content, parts) in [
        ("MKT\n", ["line 1", "header"]),
        (">a\n>b\n", ["bad.fasta", "empty"]),
        (">a\nMK7\n", ["line 2", "not a residue"]),
    ] {
        fs::write(&path, content).unwrap();
        fail(&mut measure(&fixture("esm"), &path, &place.out()), &parts);
    }
}

/// Values of transformers: losses at masks, contributions of all tokens but special ones, the lens through the whole head.
#[test]
fn reference_values_of_transformers_are_met() {
    for model in ["esm", "bert-symbols"] {
        let folder = fixture(model);
        let golden = folder.join("verify.json");
        let table = succeed(fathom().arg("verify").arg(&folder).arg("--golden").arg(&golden));
        assert_eq!(table.lines().filter(|l| l.ends_with("ok")).count(), 11, "{table}");
        let place = Place::new();
        let changed = place.at("golden.json");
        let verify = |change: &dyn Fn(&mut Value)| {
            let mut values = json(&golden);
            change(&mut values);
            fs::write(&changed, values.to_string()).unwrap();
            let mut command = fathom();
            command.arg("verify").arg(&folder).arg("--golden").arg(&changed);
            command
        };
        fail(&mut verify(&|v| v["masked"][0][0] = 7.into()), &["differ"]);
        fail(&mut verify(&|v| v["masked"][0] = serde_json::json!([7])), &["2 masks", "1 tokens"]);
        fail(&mut verify(&|v| v["masked"] = Value::Null), &["\"masked\"", "prompt 0"]);
    }
}
