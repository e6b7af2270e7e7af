//! `fathom measure` where everything is as it should be.

use crate::support::{PROMPT_COUNT, Place, fathom, fixture, json, measure, succeed};
use serde_json::Value;
use std::fs;
use std::path::Path;

#[track_caller]
fn len(value: &Value, pointer: &str) -> usize {
    let array = value.pointer(pointer).and_then(Value::as_array);
    array.unwrap_or_else(|| panic!("{pointer} is no array in {value}")).len()
}

/// Every array of results.json has one entry a layer, or one more where levels between layers count.
#[track_caller]
fn check_lengths(results: &Value) {
    assert_eq!(results["schema_version"], 1);
    let layers = results["model"]["layers"].as_u64().unwrap() as usize;
    assert!(layers > 0);
    for quantity in ["relative_norm", "cosine"] {
        for part in ["attn", "mlp", "layer"] {
            for statistic in ["mean", "median"] {
                let pointer = format!("/probes/contributions/{quantity}/{part}/{statistic}");
                assert_eq!(len(results, &pointer), layers, "{pointer}");
            }
        }
    }
    for curve in ["kl_lens_final", "kl_final_lens", "jsd_bits", "overlap", "top1_agreement", "entropy", "nll"]
    {
        assert_eq!(len(results, &format!("/probes/lens/{curve}")), layers + 1, "{curve}");
    }
    assert_eq!(len(results, "/probes/similarity/block_influence"), layers);
    assert!(len(results, "/depth") > 0);
}

/// The files of a finished results folder.
#[track_caller]
fn check_folder(out: &Path) {
    check_lengths(&json(&out.join("results.json")));
    let run = json(&out.join("run.json"));
    assert_eq!((&run["status"], &run["measured"]), (&"complete".into(), &PROMPT_COUNT.into()));
    assert_eq!(run["model"]["files"][0]["sha256"].as_str().unwrap().len(), 64);
    let samples = fs::read_to_string(out.join("samples.jsonl")).unwrap();
    let ids: Vec<String> = samples
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, ["d-1", "d-2", "mine", "d-4"]);
    check_pictures(&out.join("plots"));
    let report = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(report.trim_start().starts_with("<!") && report.trim_end().ends_with("</html>"));
    let names = fs::read_dir(out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let names = names.filter(|name| name != ".lock");
    let mut names: Vec<String> = names.collect();
    names.sort();
    assert_eq!(names, ["plots", "report.html", "results.json", "run.json", "samples.jsonl"]);
}

#[track_caller]
fn check_pictures(plots: &Path) {
    let (mut svg, mut png) = (0, 0);
    for entry in fs::read_dir(plots).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        match path.extension().unwrap().to_str().unwrap() {
            "svg" => {
                let text = String::from_utf8(bytes).unwrap();
                assert!(text.contains("<svg") && text.trim_end().ends_with("</svg>"), "{}", path.display());
                svg += 1;
            }
            _ => {
                assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"), "{}", path.display());
                assert!(bytes.ends_with(b"IEND\xaeB`\x82"), "{}", path.display());
                png += 1;
            }
        }
    }
    assert!(svg == png && svg > 3, "{svg} SVG and {png} PNG files");
}

#[track_caller]
fn check_model(name: &str) {
    let place = Place::new();
    let stdout = succeed(&mut measure(&fixture(name), place.data(), &place.out()));
    for part in ["rule", "kl_last", "norm attn", "results: ", "report.html"] {
        assert!(stdout.contains(part), "{part} is not in {stdout}");
    }
    check_folder(&place.out());
}

#[test]
fn a_folder_is_measured() {
    check_model("llama2");
}

#[test]
fn a_gguf_file_is_measured() {
    check_model("gguf/gemma2.gguf");
}

#[test]
fn shards_and_pickles_are_measured() {
    check_model("llama2-sharded-bf16");
    check_model("llama2-bin-sharded");
}

#[test]
fn every_fixture_is_measured() {
    for entry in fs::read_dir(fixture("")).unwrap() {
        let path = entry.unwrap().path();
        // A model without a head has no lens; tests of masked models measure the rest.
        if path.join("config.json").is_file()
            && !["bert-headless", "gemma3-encoder"].iter().any(|name| path.ends_with(name))
        {
            let place = Place::new();
            if path.ends_with("bert-symbols") {
                // A vocabulary of residues has no small letters.
                let rows = ["MKTAYIAKQRQ", "ISFVKSHFSRQ", "LEERLGLIEVQ", "APILSRVGDGT"];
                let rows = rows.map(|text| format!("{{\"text\": \"{text}\"}}\n"));
                fs::write(place.data(), rows.concat()).unwrap();
            }
            let stdout = succeed(measure(&path, place.data(), &place.out()).arg("--json"));
            check_lengths(&serde_json::from_str(&stdout).unwrap());
        }
    }
}

#[test]
fn json_on_stdout_is_results_json() {
    let place = Place::new();
    let stdout = succeed(measure(&fixture("qwen3"), place.data(), &place.out()).arg("--json"));
    assert_eq!(stdout, fs::read_to_string(place.at("out/results.json")).unwrap());
}

/// Neither chance nor the number of threads moves a bit.
#[test]
fn runs_give_the_same_bytes() {
    let place = Place::new();
    let mut first = None;
    for (i, threads) in ["1", "1", "2", "3"].into_iter().enumerate() {
        let out = place.at(&format!("out{i}"));
        succeed(measure(&fixture("gemma3"), place.data(), &out).args(["--threads", threads]));
        let bytes = fs::read(out.join("samples.jsonl")).unwrap();
        let probes = (json(&out.join("results.json"))["probes"].clone(), bytes);
        assert!(*first.get_or_insert_with(|| probes.clone()) == probes, "{threads} threads, run {i}");
    }
}

#[test]
fn only_the_probes_asked_for_are_measured() {
    let place = Place::new();
    let out = place.out();
    // The earlier run with all probes must leave nothing behind, where that is asked for.
    succeed(&mut measure(&fixture("llama2"), place.data(), &out));
    let gauge = || fs::read(out.join("plots/depth_gauge.svg")).unwrap();
    let earlier = gauge();
    succeed(measure(&fixture("llama2"), place.data(), &out).args(["--probes", "lens", "--overwrite"]));
    assert!(earlier != gauge(), "the gauge shows the rules of the earlier run");
    let probes = json(&out.join("results.json"))["probes"].clone();
    assert_eq!(probes.as_object().unwrap().keys().collect::<Vec<_>>(), ["lens"]);
    let samples = fs::read_to_string(out.join("samples.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), PROMPT_COUNT);
    for probe in ["contributions", "similarity", "settling"] {
        assert!(!samples.contains(&format!("\"{probe}\":")), "{probe}");
    }
    for entry in fs::read_dir(out.join("plots")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name.starts_with("lens") || name.starts_with("depth_gauge"),
            "{name} is from the earlier run"
        );
    }
    let rules: Vec<Value> = json(&out.join("results.json"))["depth"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["rule"].clone())
        .collect();
    assert_eq!(rules, ["kl", "kl_last", "overlap"]);
}

#[test]
fn bf16_is_near_f32() {
    let place = Place::new();
    let mut curves = Vec::new();
    for dtype in ["f32", "bf16"] {
        let out = place.at(dtype);
        succeed(measure(&fixture("llama3"), place.data(), &out).args(["--dtype", dtype]));
        let results = json(&out.join("results.json"));
        assert_eq!(results["model"]["dtype"], dtype);
        let curve = &results["probes"]["contributions"]["relative_norm"]["layer"]["mean"];
        curves.push(serde_json::from_value::<Vec<f64>>(curve.clone()).unwrap());
    }
    assert_ne!(curves[0], curves[1]);
    for (f32, bf16) in curves[0].iter().zip(&curves[1]) {
        assert!((f32 - bf16).abs() < 0.02 * f32.abs(), "{curves:?}");
    }
}

#[test]
fn results_go_below_the_working_folder_by_default() {
    let place = Place::new();
    succeed(
        fathom().current_dir(place.path()).arg("measure").arg(fixture("gpt2")).args(["--data", "d.jsonl"]),
    );
    check_folder(&place.at("fathom-out/gpt2/d"));
}

#[test]
fn a_limit_takes_the_first_prompts() {
    let place = Place::new();
    succeed(measure(&fixture("gpt2"), place.data(), &place.out()).args(["--limit", "2"]));
    assert_eq!(json(&place.at("out/results.json"))["data"]["prompts"], 2);
}

#[test]
fn a_report_is_drawn_again_from_the_folder_alone() {
    let place = Place::new();
    let (model, out) = (place.model("qwen2"), place.out());
    let told = succeed(&mut measure(&model, place.data(), &out));
    let report = fs::read(out.join("report.html")).unwrap();
    fs::remove_dir_all(model).unwrap();
    fs::remove_dir_all(out.join("plots")).unwrap();
    fs::remove_file(out.join("report.html")).unwrap();
    let table = succeed(fathom().arg("report").arg(&out));
    assert!(told.starts_with(table.trim_end()), "{told}\n{table}");
    assert!(fs::read(out.join("report.html")).unwrap() == report);
    check_folder(&out);
}
