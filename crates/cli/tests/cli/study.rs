//! Finished runs and studies: depth, compare, study.

use crate::support::{Place, fail, fathom, finish, fixture, json, measure, succeed};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const PROMPTS: &str = "{\"text\": \"the baker sold rolls in the morning and gave the rest away\"}\n\
                       {\"text\": \"all the king's horses and all the king's men could not\"}\n\
                       {\"text\": \"one two three four five six seven eight nine ten\"}\n";

fn write(place: &Place, name: &str, text: &str) -> PathBuf {
    let path = place.at(name);
    fs::write(&path, text).unwrap();
    path
}

/// A finished run of a fixture.
fn run(place: &Place, name: &str, prompts: &str) -> PathBuf {
    let out = place.at(&format!("run-{name}"));
    succeed(measure(&fixture(name), write(place, "prompts.jsonl", prompts), &out).arg("--overwrite"));
    out
}

#[test]
fn depth_is_had_from_the_samples_alone() {
    let place = Place::new();
    let out = run(&place, "llama2", PROMPTS);
    let text = succeed(fathom().arg("depth").arg(&out));
    for part in ["rule", "settling", "other thresholds", "number of prompts", "3: "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json_of = |more: &[&str]| -> Value {
        serde_json::from_str(&succeed(fathom().arg("depth").arg(&out).arg("--json").args(more))).unwrap()
    };
    let measured = json(&out.join("results.json"));
    let again = json_of(&[]);
    assert_eq!(again[0]["depth"], measured["depth"]);
    assert_eq!(again[0]["uncertainty"], measured["uncertainty"]);
    let overlap = |all: &Value, of: &str| {
        all[0]["depth"].as_array().unwrap().iter().find(|d| d["rule"] == "overlap").unwrap()[of].clone()
    };
    let other = json_of(&["--threshold", "overlap=0.05", "--resamples", "50"]);
    assert_eq!(overlap(&other, "threshold"), 0.05);
    let swept = again[0]["uncertainty"]["rules"].as_array().unwrap();
    let swept = swept.iter().find(|r| r["rule"] == "overlap").unwrap()["sweep"].as_array().unwrap();
    assert_eq!(swept.iter().find(|p| p["threshold"] == 0.05).unwrap()["value"], overlap(&other, "value"));
}

#[test]
fn groups_have_tables_of_their_own() {
    let place = Place::new();
    let grouped = PROMPTS
        .replacen("\"}", "\", \"group\": \"hard\"}", 2)
        .replace("ten\"}", "ten\", \"group\": \"easy\"}");
    let out = run(&place, "gemma2", &grouped);
    let text = succeed(fathom().arg("depth").arg(&out).arg("--by-group"));
    assert!(text.contains("[hard]: 2 prompts") && text.contains("[easy]: 1 prompt,"), "{text}");
    let json: Value =
        serde_json::from_str(&succeed(fathom().arg("depth").arg(&out).args(["--by-group", "--json"])))
            .unwrap();
    assert_eq!((&json[0]["group"], &json[1]["group"]), (&"hard".into(), &"easy".into()));
    // The group alone gives what a run of its prompts alone gives.
    let alone = run(&place, "gemma2", &grouped.lines().take(2).map(|l| format!("{l}\n")).collect::<String>());
    let alone: Value =
        serde_json::from_str(&succeed(fathom().arg("depth").arg(&alone).arg("--json"))).unwrap();
    assert_eq!(json[0]["depth"], alone[0]["depth"]);
}

#[test]
fn thresholds_are_checked() {
    let wrong = |value: &str, says: &str| {
        let done = finish(fathom().args(["depth", "x", "--threshold", value]));
        assert_eq!(done.code, Some(2), "{}", done.stderr);
        assert!(done.stderr.contains(says), "{says}: {}", done.stderr);
    };
    wrong("kl", "kl=0.4");
    wrong("kll=0.4", "kl");
    wrong("kl=x", "'x' is not a number");
    wrong("kl=1.5", "(0, 1]");
    wrong("cosine=1", "no threshold");
}

#[test]
fn a_run_compared_with_itself_does_not_differ() {
    let place = Place::new();
    let out = run(&place, "qwen3", PROMPTS);
    let text = succeed(fathom().arg("compare").args([&out, &out]).arg("--json"));
    let compared: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(compared["pairing"], "paired");
    let curves = compared["curves"].as_array().unwrap();
    assert!(curves.len() >= 9 && curves.iter().all(|c| c["separate"] == 0 && c["largest"].is_null()));
    let table = succeed(fathom().arg("compare").args([&out, &out]));
    assert!(table.contains("B - A") && table.contains("settling"), "{table}");
}

/// Layers of Mamba 2 have no MLP, so that no interval of its curves could exclude 0.
#[test]
fn sublayers_that_no_layer_has_are_not_counted() {
    let place = Place::new();
    let out = run(&place, "mamba2", PROMPTS);
    let table = succeed(fathom().arg("compare").args([&out, &out]));
    let differ = |curve: &str| {
        let line = table.lines().find(|line| line.split_whitespace().nth(1) == Some(curve));
        line.unwrap_or_else(|| panic!("{table}")).split_whitespace().skip(3).collect::<Vec<_>>().join(" ")
    };
    assert!(differ("cosine_mlp").starts_with("n/a | - "), "{table}");
    assert!(differ("cosine_layer").starts_with("0 of "), "{table}");
    let of_baseline = succeed(fathom().arg("compare").args([&out, &out, &out]));
    let line = of_baseline.lines().find(|line| line.starts_with("| cosine_mlp")).unwrap();
    assert_eq!(line.matches("n/a").count(), 2, "{of_baseline}");
    let csv = succeed(fathom().arg("table").arg(&out));
    assert!(csv.contains(",cosine_mlp,0,,,\n") && !csv.contains("NaN"), "{csv}");
}

#[test]
fn several_runs_are_compared_with_the_first() {
    let place = Place::new();
    let runs = ["llama2", "llama3", "gpt2"].map(|model| run(&place, model, PROMPTS));
    let table = succeed(fathom().arg("compare").args(&runs));
    for part in ["A: llama2", "B: llama3", "C: gpt2", "Holm's correction for 2 runs", "cosine_layer"] {
        assert!(table.contains(part), "{table}");
    }
    let all: Value =
        serde_json::from_str(&succeed(fathom().arg("compare").args(&runs).arg("--json"))).unwrap();
    let one = succeed(fathom().arg("compare").args([&runs[0], &runs[2]]).arg("--json"));
    assert_eq!(all["comparisons"][1], serde_json::from_str::<Value>(&one).unwrap());
    fail(fathom().arg("compare").args(&runs).arg(place.at("nowhere")), &["nowhere"]);
}

#[test]
fn runs_on_different_prompts_are_compared_only_when_told() {
    let place = Place::new();
    let a = run(&place, "llama2", PROMPTS);
    let b = run(&place, "llama3", &PROMPTS.replace("king", "queen"));
    fail(fathom().arg("compare").args([&a, &b]), &["of which 2 have the same text", "--unpaired"]);
    succeed(fathom().arg("compare").args([&a, &b]).arg("--unpaired"));
    let one = run(&place, "gpt2", PROMPTS.lines().next().unwrap());
    fail(fathom().arg("compare").args([&one, &one]), &["prompt"]);
    fail(fathom().arg("compare").args([&a, &place.at("nowhere")]), &["nowhere"]);
    let newer = json(&a.join("results.json"));
    let mut newer = newer.as_object().unwrap().clone();
    newer["schema_version"] = 99.into();
    fs::write(a.join("results.json"), Value::Object(newer).to_string()).unwrap();
    fail(fathom().arg("compare").args([&b, &a]), &["99"]);
}

/// Two tokenizers cut these texts differently and two files name them differently: their text pairs them.
#[test]
fn runs_are_paired_by_the_text_of_their_prompts() {
    let place = Place::new();
    let texts = ["法国的首都是巴黎这座城市", "ما عاصمة فرنسا ومتى بنيت", "3 + 4 = 7 and 3 * 4 = 12"];
    let file = |name: &str, texts: &[&str]| {
        let rows = texts.iter().enumerate();
        let rows: String =
            rows.map(|(i, text)| format!("{{\"id\": \"{name}{i}\", \"text\": \"{text}\"}}\n")).collect();
        write(&place, name, &rows)
    };
    let run = |model: &str, name: &str, texts: &[&str]| {
        let out = place.at(&format!("run-{name}"));
        succeed(&mut measure(&fixture(model), file(name, texts), &out));
        out
    };
    let a = run("llama2", "a.jsonl", &texts);
    let b = run("gpt2", "b.jsonl", &[texts[2], texts[0], texts[1]]);
    let text = succeed(fathom().arg("compare").args([&a, &b]).arg("--json"));
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["pairing"], "paired");
    let line = fs::read_to_string(a.join("samples.jsonl")).unwrap();
    let sample: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    // The first 16 digits of what `printf 法国的首都是巴黎这座城市 | sha256sum` says.
    assert_eq!(sample["text_sha256"], "418ef8ce8407500e");
    let other = run("gpt2", "c.jsonl", &["德国的首都是柏林这座城市", texts[1], "3 * 4 = 7 and 3 + 4 = 12"]);
    fail(fathom().arg("compare").args([&a, &other]), &["of which 1 have the same text"]);
}

fn toml(place: &Place, models: &[&Path]) -> String {
    let mut text =
        format!("name = \"two\"\nout = {:?}\nprobes = \"contributions,lens\"\n", place.at("study"));
    for (i, model) in models.iter().enumerate() {
        text += &format!("[[model]]\nid = {model:?}\nname = \"m{i}\"\nfamily = \"F\"\nsize = {}.0\n", i + 1);
    }
    let data = write(place, "prompts.jsonl", PROMPTS);
    text + &format!(
        "[[data]]\nid = {data:?}\nname = \"easy\"\ndifficulty = 1\n[[data]]\nid = \"qa\"\nlimit = 4\ndifficulty = 2\n"
    )
}

#[test]
fn a_study_measures_its_cells_once_and_answers() {
    let place = Place::new();
    let (a, b) = (fixture("llama2"), fixture("llama3"));
    let file = write(&place, "study.toml", &toml(&place, &[&a, &b]));
    let plan = succeed(fathom().arg("study").arg(&file).arg("--dry-run"));
    assert_eq!(plan.matches("fathom measure ").count(), 4, "{plan}");
    let first = finish(fathom().arg("study").arg(&file));
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    assert!(first.stderr.contains("cell 4 of 4: m1 on qa"), "{}", first.stderr);
    assert!(first.stdout.contains("Do larger models use more of their depth?"), "{}", first.stdout);
    for name in
        ["study.md", "study.csv", "answers.csv", "models.csv", "study.tex", "study.json", "study.html"]
    {
        assert!(fs::metadata(place.at("study").join(name)).unwrap().len() > 100, "{name}");
    }
    let again = finish(fathom().arg("study").arg(&file));
    assert_eq!(again.stderr.matches(": there already").count(), 4, "{}", again.stderr);
    assert_eq!(again.stdout, first.stdout);
    // A cell that is incomplete is gone on with, and gives the same tables.
    let cell = place.at("study/m0/easy");
    let samples = fs::read_to_string(cell.join("samples.jsonl")).unwrap();
    fs::write(cell.join("samples.jsonl"), samples.lines().next().unwrap().to_owned() + "\n").unwrap();
    let run = fs::read_to_string(cell.join("run.json")).unwrap();
    fs::write(cell.join("run.json"), run.replace("\"complete\"", "\"running\"")).unwrap();
    let resumed = finish(fathom().arg("study").arg(&file));
    assert_eq!(resumed.stderr.matches(": there already").count(), 3, "{}", resumed.stderr);
    assert_eq!(resumed.stdout, first.stdout);
}

/// The table of a study is one that `fathom fit` reads.
#[test]
fn a_study_writes_what_scaling_laws_are_fitted_to() {
    let place = Place::new();
    let models: Vec<_> = ["llama2", "llama3", "qwen2", "qwen3", "gemma2", "gemma3"].map(fixture).to_vec();
    let mut text = toml(&place, &models.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    text = text
        .replacen("size = 1.0", "size = 1.0\ntokens = 2e12", 1)
        .replace("contributions,lens", "angles,lens");
    let file = write(&place, "study.toml", &text);
    succeed(fathom().arg("study").arg(&file));
    let path = place.at("study/models.csv");
    let csv = fs::read_to_string(&path).unwrap();
    let line = csv.lines().find(|line| line.starts_with("m0,easy,")).unwrap();
    let cells: Vec<&str> = line.split(',').collect();
    let results: Value =
        serde_json::from_slice(&fs::read(place.at("study/m0/easy/results.json")).unwrap()).unwrap();
    let info = &results["model"];
    assert_eq!(cells[2..4], ["F", ""]);
    for (cell, name) in cells[4..7].iter().zip(["hidden", "layers", "parameters"]) {
        assert_eq!(*cell, info[name].to_string(), "{name}");
    }
    let number = |cell: &str| cell.parse::<f64>().unwrap();
    assert_eq!(number(cells[7]), 2e12);
    let nll = results["probes"]["angles"]["last_layer_nll"].as_array().unwrap().last().unwrap().as_f64();
    assert!((number(cells[8]) - nll.unwrap()).abs() < 1e-6, "{line}");
    let fitted = succeed(
        fathom()
            .args(["fit", "regress"])
            .arg(&path)
            .args(["--where", "data=easy", "--formula", "loss ~ ln(params)", "--json", "-o"])
            .arg(place.at("fit")),
    );
    assert_eq!(serde_json::from_str::<Value>(&fitted).unwrap()["data"]["rows"], 6);
    let mut wrong = fathom();
    wrong.args(["fit", "regress"]).arg(&path).args(["--where", "data=harder", "--formula", "loss ~ params"]);
    fail(&mut wrong, &["no row has 'harder' in the column 'data'; there are 'easy' and 'qa'"]);
}

#[test]
fn the_folder_of_a_study_says_everything_about_itself() {
    let place = Place::new();
    let file = write(&place, "study.toml", &toml(&place, &[&fixture("llama2"), &fixture("llama3")]));
    let mut measured = fathom();
    measured.arg("study").arg(&file).args(["--resamples", "60", "--threshold", "overlap=0.05"]);
    succeed(&mut measured);
    let said = |folder: &Path| fs::read_to_string(folder.join("study.md")).unwrap();
    let page = |folder: &Path| fs::read_to_string(folder.join("study.html")).unwrap();
    let first = (said(&place.at("study")), page(&place.at("study")));
    assert!(first.0.contains("60 resamples"), "{}", first.0);
    assert!(first.1.contains("m0&#x2f;easy&#x2f;report.html") && first.1.contains("<svg"));
    // Neither the description nor the place is needed, nor models or data.
    fs::remove_file(&file).unwrap();
    fs::remove_file(place.at("prompts.jsonl")).unwrap();
    let moved = place.at("moved");
    fs::rename(place.at("study"), &moved).unwrap();
    fs::remove_file(moved.join("study.md")).unwrap();
    fs::write(moved.join("plots/study_of_earlier_models.svg"), "").unwrap();
    let shown = succeed(fathom().arg("report").arg(&moved));
    assert!(shown.contains("moved/study.html"), "{shown}");
    assert_eq!((said(&moved), page(&moved)), first);
    assert!(!moved.join("plots/study_of_earlier_models.svg").exists());
}

#[test]
fn a_study_is_printed_as_json_when_asked() {
    let place = Place::new();
    let file = write(&place, "study.toml", &toml(&place, &[&fixture("llama2")]));
    let printed = succeed(fathom().arg("study").arg(&file).arg("--json"));
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed, json(&place.at("study/study.json")));
    assert_eq!(printed["rows"].as_array().unwrap().len(), 2);
}

#[test]
fn a_cell_that_fails_leaves_the_rest() {
    let place = Place::new();
    let broken = place.at("broken");
    fs::create_dir(&broken).unwrap();
    fs::write(broken.join("config.json"), "{}").unwrap();
    let file = write(&place, "study.toml", &toml(&place, &[&fixture("llama2"), &broken]));
    let done = finish(fathom().arg("study").arg(&file));
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(done.stderr.contains("2 of 4 cells failed (m1 on easy"), "{}", done.stderr);
    assert!(done.stdout.contains("m0") && done.stdout.contains("not measured"), "{}", done.stdout);
    let page = fs::read_to_string(place.at("study/study.html")).unwrap();
    assert!(page.contains("not measured: "), "the page does not say why");
}

#[test]
fn all_that_is_wrong_with_a_study_is_told_before_any_work() {
    let place = Place::new();
    let good = toml(&place, &[&fixture("llama2"), Path::new("nowhere/model.gguf")]);
    let file = write(&place, "study.toml", &good.replace("\"qa\"", "\"qaa\""));
    let done = finish(fathom().arg("study").arg(&file));
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    for part in ["nowhere/model.gguf", "`qaa`", "did you mean `qa`"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    let file = write(&place, "study.toml", &good.replace("lens", "lense").replace("family", "famly"));
    let done = finish(fathom().arg("study").arg(&file));
    for part in ["line ", "lense", "famly"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    let wrong = "[options]\npositions = \"many\"\nskip-modes = \"past\"\n";
    let own = "id = \"nowhere/model.gguf\"\noptions = { mask-seed = \"x\" }";
    let good = good.replacen("[[model]]", &format!("{wrong}[[model]]"), 1);
    let file = write(&place, "study.toml", &good.replace("id = \"nowhere/model.gguf\"", own));
    let done = finish(fathom().arg("study").arg(&file));
    for part in
        ["study 'two': positions: 'many'", "study 'two': skip-modes", "past", "model 'm1': mask-seed: 'x'"]
    {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    assert_eq!(done.stderr.matches("positions").count(), 1, "{}", done.stderr);
    assert!(!place.at("study").exists());
}

#[test]
fn published_sets_are_read_from_files_in_their_own_fields() {
    let place = Place::new();
    let row = "{\"question\": \"Two and two?\", \"answer\": \"It is four.\\n#### 4\"}\n";
    let long = "{\"question\": \"A question that is quite long, is it not, and goes on and on?\", \"answer\": \"Yes.\\n#### 9\"}\n";
    let rows = [row, long, row, row].concat();
    let spec = format!("gsm8k:file={}", write(&place, "own.jsonl", &rows).display());
    let shown = succeed(fathom().args(["data", &spec, "--limit", "1"]));
    assert!(shown.contains("Problem: Two and two?") && shown.contains("The final answer is 4"), "{shown}");
    let mut command = fathom();
    command.arg("measure").arg(fixture("llama2")).args(["--data", &spec, "-o"]).arg(place.out());
    let done = finish(command.args(["--max-tokens", "200", "--limit", "2"]));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("left out"), "{}", done.stderr);
    assert_eq!(json(&place.at("out/results.json"))["data"]["prompts"], 2);
    fail(fathom().args(["measure", "--data", "mquake"]).arg(fixture("llama2")), &["mquake", "file"]);
    fail(fathom().args(["data", "gsm8k", "--split", "tset"]), &["tset", "test"]);
}

/// A cell whose command changed must not show what an earlier command measured.
#[test]
fn results_of_another_command_never_stand_in_a_table() {
    let place = Place::new();
    let first = toml(&place, &[&fixture("llama2")]);
    let file = write(&place, "study.toml", &first);
    assert_eq!(finish(fathom().arg("study").arg(&file)).code, Some(0));
    let broken = place.at("broken");
    fs::create_dir(&broken).unwrap();
    fs::write(broken.join("config.json"), "{}").unwrap();
    write(&place, "study.toml", &toml(&place, &[&broken]));
    for more in [&[][..], &["--tables-only"]] {
        let done = finish(fathom().arg("study").arg(&file).args(more));
        assert!(done.stdout.contains("not measured"), "{}", done.stdout);
        assert!(!done.stderr.contains(": there already"), "{}", done.stderr);
    }
    // A cell that was killed has no results yet; the tables do without it.
    write(&place, "study.toml", &first);
    assert_eq!(finish(fathom().arg("study").arg(&file)).code, Some(0));
    fs::remove_file(place.at("study/m0/easy/results.json")).unwrap();
    let done = finish(fathom().arg("study").arg(&file).arg("--tables-only"));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("m0 on easy is left out"), "{}", done.stderr);
}

/// Results of prompts that are no longer those of the file are out of date.
#[test]
fn a_cell_whose_data_changed_is_measured_anew_when_asked() {
    let place = Place::new();
    let file = write(&place, "study.toml", &toml(&place, &[&fixture("llama2")]));
    assert_eq!(finish(fathom().arg("study").arg(&file)).code, Some(0));
    write(&place, "prompts.jsonl", &PROMPTS.replace("king", "queen"));
    let before = fs::read(place.at("study/m0/easy/samples.jsonl")).unwrap();
    let refused = finish(fathom().arg("study").arg(&file));
    assert!(
        refused.stderr.contains("other prompts") && refused.stderr.contains("--overwrite"),
        "{}",
        refused.stderr
    );
    assert!(fs::read(place.at("study/m0/easy/samples.jsonl")).unwrap() == before);
    let again = finish(fathom().arg("study").arg(&file).arg("--overwrite"));
    assert_eq!(again.stderr.matches(": there already").count(), 1, "{}", again.stderr);
    let samples = fs::read_to_string(place.at("study/m0/easy/samples.jsonl")).unwrap();
    let second: Value = serde_json::from_str(samples.lines().nth(1).unwrap()).unwrap();
    let pieces: Vec<&str> = second["pieces"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(pieces.concat().contains("queen") && samples.lines().count() == 3);
    // Tables alone need no data.
    fs::remove_file(place.at("prompts.jsonl")).unwrap();
    write(&place, "prompts.jsonl", PROMPTS);
    let tables = finish(fathom().arg("study").arg(&file).arg("--tables-only"));
    assert_eq!(tables.stdout, again.stdout);
}
