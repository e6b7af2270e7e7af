//! What clusters need: shards that are merged, and studies whose cells are measured anywhere.

use crate::support::{Place, edit_json, fail, fathom, finish, fixture, json, measure, succeed};
use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A measurement with all probes.
fn measure_all(out: &Path) -> Command {
    let mut command = fathom();
    command.arg("measure").arg(fixture("llama3")).args([
        "--data",
        "addition:digits=2,count=5",
        "--limit",
        "5",
    ]);
    command.args(["--probes", "all", "--quadrature", "riemann:2", "--resamples", "200", "-o"]).arg(out);
    command
}

fn merge(shards: &[PathBuf], out: &Path) -> Command {
    let mut command = fathom();
    command.arg("merge").args(shards).arg("-o").arg(out);
    command
}

/// What is in results.json apart from times and memory, as text.
fn results(folder: &Path) -> String {
    let mut results = json(&folder.join("results.json"));
    results.as_object_mut().unwrap().remove("resources");
    results.to_string()
}

fn shards(place: &Place, count: usize) -> Vec<PathBuf> {
    (1..=count)
        .map(|index| {
            let out = place.at(&format!("shard-{index}"));
            succeed(measure_all(&out).arg("--shard").arg(format!("{index}/{count}")));
            out
        })
        .collect()
}

#[test]
fn shards_together_are_the_whole() {
    let place = Place::new();
    let (whole, merged) = (place.at("whole"), place.at("merged"));
    succeed(&mut measure_all(&whole));
    let mut parts = shards(&place, 3);
    parts.rotate_left(1);
    let printed = succeed(&mut merge(&parts, &merged));
    assert!(printed.contains("layers"), "{printed}");
    assert_eq!(results(&merged), results(&whole));
    let read = |folder: &Path, name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert!(read(&merged, "samples.jsonl") == read(&whole, "samples.jsonl"));
    assert!(results(&parts[0]) != results(&whole));
    let (run, of_whole) = (json(&merged.join("run.json")), json(&whole.join("run.json")));
    for place in ["/data", "/measured", "/probes", "/request", "/model", "/status", "/depth"] {
        assert_eq!(run.pointer(place), of_whole.pointer(place), "{place}");
    }
    assert_eq!(run["merged"].as_array().unwrap().len(), 3);
    assert!(run.get("shard").is_none());

    // A finished shard is not measured again, and is not taken for another one.
    let again = finish(measure_all(&parts[0]).args(["--shard", "2/3"]));
    assert!(again.code == Some(0) && again.stderr.contains("are there already"), "{}", again.stderr);
    fail(measure_all(&parts[0]).args(["--shard", "1/3"]), &["another shard", "nothing was changed"]);
    fail(&mut measure_all(&parts[0]), &["another shard"]);
    fail(&mut merge(&parts, &merged), &["holds results already", "--overwrite"]);
    succeed(merge(&parts, &merged).arg("--overwrite"));
    assert_eq!(results(&merged), results(&whole));
}

#[test]
fn shards_that_are_not_a_whole_are_refused() {
    let place = Place::new();
    let parts = shards(&place, 3);
    let out = place.at("merged");
    fail(&mut merge(&parts[..2], &out), &["shard 3/3 is missing"]);
    fail(&mut merge(&[parts[0].clone(), parts[0].clone()], &out), &["are both shard 1/3"]);
    let whole = place.at("whole");
    succeed(&mut measure_all(&whole));
    fail(&mut merge(&[whole], &out), &["is not the folder of a shard"]);
    fail(&mut merge(&[place.at("nowhere")], &out), &["nowhere", "does not exist"]);
    let other = place.at("other");
    succeed(measure_all(&other).args(["--shard", "3/3", "--dtype", "bf16"]));
    let mixed = [parts[0].clone(), parts[1].clone(), other.clone()];
    fail(&mut merge(&mixed, &out), &["different measurements", "another dtype (f32, now bf16)"]);
    succeed(measure_all(&other).args(["--shard", "3/4", "--overwrite"]));
    fail(&mut merge(&mixed, &out), &["3 and 4 shards"]);
    edit_json(&parts[1].join("run.json"), |run| run["status"] = "running".into());
    fail(&mut merge(&parts, &out), &["shard 2/3", "is not finished"]);
    assert!(!out.exists());
    for wrong in ["0/3", "4/3", "1"] {
        let done = finish(measure_all(&out).args(["--shard", wrong]));
        assert!(done.code == Some(2) && done.stderr.contains("shard"), "{}", done.stderr);
    }
    fail(measure_all(&out).args(["--shard", "30/30"]), &["nothing is left for shard 30/30"]);
}

/// Two models on two sets.
fn description(place: &Place, out: &str, options: &str) -> PathBuf {
    let mut text =
        format!("name = 'two'\nout = {:?}\nprobes = 'contributions,lens'\n{options}\n", place.at(out));
    for (index, model) in ["llama2", "gpt2"].iter().enumerate() {
        text += &format!("[[model]]\nid = {:?}\nname = \"m{index}\"\n", fixture(model));
    }
    text += &format!("[[data]]\nid = {:?}\nname = \"own\"\n", place.data());
    text += "[[data]]\nid = 'addition:digits=2,count=3'\nname = 'sums'\n";
    let file = place.at(&format!("{out}.toml"));
    fs::write(&file, text).unwrap();
    file
}

fn study(file: &Path) -> Command {
    let mut command = fathom();
    command.arg("study").arg(file);
    command
}

fn states(file: &Path) -> Vec<String> {
    let plan: Value = serde_json::from_str(&succeed(study(file).args(["--plan", "--json"]))).unwrap();
    plan.as_array().unwrap().iter().map(|cell| cell["state"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn cells_measured_one_by_one_make_the_same_tables() {
    let place = Place::new();
    let (together, apart) = (description(&place, "together", ""), description(&place, "apart", ""));
    succeed(&mut study(&together));
    assert_eq!(succeed(study(&apart).arg("--missing")), "1-4\n");
    succeed(study(&apart).args(["--cell-index", "1"]));
    succeed(study(&apart).args(["--cell", "m1/own"]));
    assert!(!place.at("apart/study.json").exists());
    assert_eq!(succeed(study(&apart).arg("--missing")), "1,4\n");
    assert_eq!(states(&apart), ["missing", "finished", "finished", "missing"]);

    // A printed line, and one that shards, count as well.
    let plan: Value = serde_json::from_str(&succeed(study(&apart).args(["--plan", "--json"]))).unwrap();
    let arguments = |cell: usize| -> Vec<String> {
        let all = plan[cell - 1]["arguments"].as_array().unwrap();
        all.iter().map(|a| a.as_str().unwrap().to_owned()).collect()
    };
    succeed(fathom().arg("measure").args(arguments(1)));
    let parts = [1, 2].map(|index| {
        let (out, shard) = (place.at(&format!("part{index}")), format!("--shard={index}/2"));
        let arguments = arguments(4).into_iter().filter(|a| !a.starts_with("--out"));
        succeed(fathom().arg("measure").arg(shard).arg("-o").arg(&out).args(arguments));
        out
    });
    succeed(&mut merge(&parts, &place.at("apart/m1/sums")));
    assert_eq!(states(&apart), ["finished"; 4]);
    let done = finish(study(&apart).arg("--missing"));
    assert!(done.code == Some(0) && done.stdout.is_empty(), "{done:?}");
    succeed(study(&apart).arg("--tables-only"));
    for name in ["study.csv", "answers.csv", "models.csv", "study.md", "study.tex", "study.json"] {
        let read = |study: &str| fs::read_to_string(place.at(study).join(name)).unwrap();
        assert!(read("apart") == read("together"), "{name}");
    }
    // Measured here, all of it is there already.
    let again = finish(&mut study(&apart));
    assert_eq!(again.stderr.matches(": there already").count(), 4, "{}", again.stderr);
}

#[test]
fn cells_of_other_options_or_data_are_not_taken_for_done() {
    let place = Place::new();
    let file = description(&place, "study", "limit = 2");
    let measure = |file: &Path| {
        let lines = succeed(study(file).arg("--dry-run"));
        let plan: Value = serde_json::from_str(&succeed(study(file).args(["--plan", "--json"]))).unwrap();
        assert_eq!(lines.lines().count(), plan.as_array().unwrap().len());
        let words = plan[0]["arguments"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_owned());
        succeed(fathom().arg("measure").args(words));
    };
    measure(&file);
    assert_eq!(states(&file)[0], "finished");
    // An edited file is seen.
    let prompts = fs::read_to_string(place.data()).unwrap();
    fs::write(place.data(), prompts.replace("France", "Spain!")).unwrap();
    assert_eq!(states(&file)[0], "other");
    fs::write(place.data(), &prompts).unwrap();
    assert_eq!(states(&file)[0], "finished");
    // And so are other options.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("limit = 2", "limit = 3")).unwrap();
    let plan = finish(study(&file).arg("--plan"));
    assert!(plan.stdout.contains("other") && plan.stderr.contains("--overwrite"), "{plan:?}");
    assert_eq!(succeed(study(&file).arg("--missing")), "2-4\n");
    fail(study(&file).args(["--cell", "1"]), &["measured with other options or other prompts"]);
    succeed(study(&file).args(["--cell", "1", "--overwrite"]));
    assert_eq!(states(&file)[0], "finished");
    fail(study(&file).args(["--cell", "5"]), &["no cell '5'", "from 1 to 4", "m0/own"]);
    fail(study(&file).args(["--cell", "m0/none"]), &["no cell 'm0/none'"]);
    fail(study(&file).args(["--cell-index", "4"]), &["has 4 cells", "no cell 5"]);
}

#[test]
fn differences_between_cells_are_warned_of() {
    let place = Place::new();
    let file = description(&place, "study", "");
    succeed(&mut study(&file));
    edit_json(&place.at("study/m0/own/run.json"), |run| run["instructions"] = "neon".into());
    edit_json(&place.at("study/m1/own/run.json"), |run| run["model"]["files"][0]["sha256"] = "0".into());
    let done = finish(study(&file).arg("--tables-only"));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    for text in
        ["different instructions of the processor", "neon (1)", "m1 were measured with different files"]
    {
        assert!(done.stderr.contains(text), "{text}: {}", done.stderr);
    }
}

/// Two tasks on one cell: the second is refused, and the first goes on.
#[test]
fn a_cell_belongs_to_one_process_at_a_time() {
    let place = Place::new();
    let file = description(&place, "study", "");
    let folder = place.at("study/m0/own");
    fs::create_dir_all(&folder).unwrap();
    let lock = fs::File::create(folder.join(".lock")).unwrap();
    lock.lock().unwrap();
    fs::write(folder.join(".lock"), "process 7 on node1, job 12").unwrap();
    fail(study(&file).args(["--cell", "1"]), &["process 7 on node1, job 12"]);
    drop(lock);
    // What a task that was killed leaves behind locks nothing.
    succeed(study(&file).args(["--cell", "1"]));
}

/// Curves and depths as a tidy table, of runs and of studies.
#[test]
fn a_table_has_a_line_for_each_number() {
    let place = Place::new();
    let file = description(&place, "study", "");
    succeed(&mut study(&file));
    let cell = place.at("study/m0/own");
    let table = |folder: &Path, options: &[&str]| {
        succeed(fathom().arg("table").arg(folder).args(options).args(["--resamples", "200"]))
    };
    let of_run = table(&cell, &["--csv"]);
    assert_eq!(of_run.lines().next(), Some("model,data,quantity,layer,value,lo,hi"));
    let results = json(&cell.join("results.json"));
    let layers = results["model"]["layers"].as_u64().unwrap();
    for (layer, expected) in
        results["probes"]["contributions"]["cosine"]["layer"]["mean"].as_array().unwrap().iter().enumerate()
    {
        let start = format!("llama2,d,cosine_layer,{layer},");
        let line = of_run.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{of_run}"));
        let numbers: Vec<f64> = line[start.len()..].split(',').map(|n| n.parse().unwrap()).collect();
        assert!((numbers[0] - expected.as_f64().unwrap()).abs() < 1e-9, "{line}");
        assert!(numbers[1] <= numbers[0] && numbers[0] <= numbers[2], "{line}");
    }
    assert_eq!(of_run.matches(",cosine_layer,").count() as u64, layers);
    let depth = results["depth"].as_array().unwrap().iter().find(|d| d["rule"] == "kl").unwrap();
    let line = of_run.lines().find(|line| line.contains(",depth_kl,,")).unwrap();
    let used = depth["layers_used"].as_f64().map_or(String::new(), |used| used.to_string());
    assert_eq!(line.split(',').nth(4), Some(used.as_str()));

    let of_study: Value = serde_json::from_str(&table(&place.at("study"), &["--json"])).unwrap();
    let rows = of_study.as_array().unwrap();
    let names: std::collections::BTreeSet<_> =
        rows.iter().map(|row| (row["model"].as_str().unwrap(), row["data"].as_str().unwrap())).collect();
    assert_eq!(
        names.into_iter().collect::<Vec<_>>(),
        [("m0", "own"), ("m0", "sums"), ("m1", "own"), ("m1", "sums")]
    );
    fail(fathom().arg("table").arg(place.at("nowhere")), &["nowhere", "does not exist"]);
}

#[test]
fn a_table_says_how_many_experts_tokens_choose() {
    let place = Place::new();
    let prompts = place.at("prompts.txt");
    fs::write(&prompts, "the baker sold rolls in the morning\n").unwrap();
    let out = place.at("mixture");
    succeed(measure(&fixture("mixtral"), &prompts, &out).args(["--probes", "experts"]));
    let rows: Value = serde_json::from_str(&succeed(fathom().arg("table").arg(&out).arg("--json"))).unwrap();
    let used: Vec<&Value> =
        rows.as_array().unwrap().iter().filter(|row| row["quantity"] == "experts_used").collect();
    let experts = &json(&out.join("results.json"))["probes"]["experts"];
    for (layer, row) in used.iter().enumerate() {
        assert_eq!(row["layer"], experts["layers"][layer]);
        let tokens: Vec<f64> =
            experts["tokens"][layer].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect();
        let all: f64 = tokens.iter().sum();
        let entropy: f64 = tokens.iter().filter(|n| **n > 0.0).map(|n| -(n / all) * (n / all).ln()).sum();
        assert!((row["value"].as_f64().unwrap() - entropy.exp()).abs() < 1e-9, "{row}");
    }
    assert_eq!(used.len(), experts["layers"].as_array().unwrap().len());
}
