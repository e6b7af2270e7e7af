//! Studies with prunings, early exits, maps and growth beside measurements.

use crate::support::{Place, fail, fathom, finish, fixture, json, succeed, texts};
use std::fs;
use std::path::{Path, PathBuf};

/// A study of one measurement and four jobs.
fn study(place: &Place, jobs: &str) -> PathBuf {
    let data = place.at("texts.jsonl");
    fs::write(&data, texts(60, 1)).unwrap();
    let file = place.at("study.toml");
    let (model, out) = (fixture("qwen2"), place.at("out"));
    let text = format!(
        "name = 'jobs'\nout = '{}'\nprobes = 'similarity'\nlimit = 3\n\
         [[model]]\nid = '{model}'\nname = 'a'\n[[model]]\nid = '{model}'\nname = 'b'\n\
         [[data]]\nid = '{data}'\nname = 'texts'\n{}",
        out.display(),
        jobs.replace("DATA", &data.display().to_string()),
        model = model.display(),
        data = data.display(),
    );
    fs::write(&file, text).unwrap();
    file
}

const JOBS: &str = "[[job]]\nkind = 'prune'\nmodels = 'a'\noptions = { data = 'DATA', remove = 1, methods = 'influence', resamples = 200 }\n\
    [[job]]\nkind = 'exit'\nmodels = ['a']\noptions = { data = 'DATA', epsilon = 0.2, resamples = 200 }\n\
    [[job]]\nkind = 'map'\nmodels = ['a', 'b']\noptions = { data = 'DATA', differences = true, resamples = 200 }\n\
    [[job]]\nkind = 'grow'\nname = 'deeper'\noptions = { heldout = 'DATA', method = 'solar', layers = 4, depth-prompts = 0, resamples = 200 }\n";

/// `fathom study FILE ARGS`.
fn run(file: &Path, args: &[&str]) -> String {
    succeed(fathom().arg("study").arg(file).args(args))
}

#[test]
fn jobs_are_cells_behind_the_measurements() {
    let place = Place::new();
    let file = study(&place, JOBS);
    let plan = run(&file, &["--plan"]);
    assert_eq!(plan.lines().count(), 7, "{plan}");
    assert!(plan.lines().all(|line| line.contains("missing")), "{plan}");
    assert_eq!(run(&file, &["--missing"]).trim(), "1-7");
    let commands = run(&file, &["--dry-run"]);
    for command in ["fathom measure ", "fathom prune ", "fathom exit ", "fathom map ", "fathom grow "] {
        assert!(commands.contains(command), "{commands}");
    }
    assert!(commands.contains("--differences ") && commands.contains("--layers=4 "), "{commands}");
    // One alone, by its number or its name.
    run(&file, &["--cell", "a/prune"]);
    assert!(place.at("out/a/prune/prune.json").is_file());
    assert_eq!(run(&file, &["--missing"]).trim(), "1-2,4-7");
    let snakefile = run(&file, &["--submit", "snakemake"]);
    assert!(
        snakefile.contains("a/exit/exit.json") && snakefile.contains("b/texts/results.json"),
        "{snakefile}"
    );
    // All others.
    let tables = run(&file, &[]);
    assert!(tables.contains("## Beside measurements") && tables.contains("deeper (grow)"), "{tables}");
    assert!(tables.contains("a to b") && !tables.contains("not run"), "{tables}");
    let written = json(&place.at("out/study.json"));
    let jobs = written["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 5);
    let grown = json(&place.at("out/b/deeper/grow.json"));
    assert_eq!(jobs[4]["conclusion"], grown["conclusion"]);
    assert!(fs::read_to_string(place.at("out/study.html")).unwrap().contains("Beside measurements"));
    let again = finish(fathom().arg("study").arg(&file));
    assert_eq!(again.stderr.matches("there already").count(), 7, "{}", again.stderr);
}

#[test]
fn jobs_with_other_options_are_kept_unless_they_may_be_overwritten() {
    let place = Place::new();
    let prune = |count: usize| {
        format!(
            "[[job]]\nkind = 'prune'\nmodels = 'a'\noptions = {{ data = 'DATA', remove = {count}, methods = 'influence' }}\n"
        )
    };
    run(&study(&place, &prune(1)), &["--cell", "3"]);
    let file = study(&place, &prune(2));
    let plan = run(&file, &["--plan"]);
    assert!(plan.contains("other"), "{plan}");
    fail(fathom().arg("study").arg(&file).args(["--cell", "3"]), &["was made with other options"]);
    run(&file, &["--cell", "3", "--overwrite"]);
    let pruned = json(&place.at("out/a/prune/prune.json"));
    let ranges = pruned["candidates"][0]["removed"].as_array().unwrap();
    let count: u64 = ranges.iter().map(|r| r[1].as_u64().unwrap() - r[0].as_u64().unwrap()).sum();
    assert_eq!(count, 2);
}

#[test]
fn wrong_jobs_are_refused_with_their_lines() {
    let place = Place::new();
    let refused = |jobs: &str, words: &str| {
        let file = study(&place, jobs);
        let done = finish(fathom().arg("study").arg(file).arg("--plan"));
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    };
    refused("[[job]]\nkind = 'prunes'\n", "did you mean 'prune'");
    refused("[[job]]\nkind = 'map'\nmodels = 'a'\n", "name two in 'models'");
    refused("[[job]]\nkind = 'exit'\nmodels = 'c'\n", "no model is called 'c'");
    refused("[[job]]\nkind = 'exit'\noptions = { layers = 3 }\n", "has no field 'layers'");
    refused("[[job]]\nkind = 'grow'\noptions = { layers = 4 }\n", "grow needs 'method'");
    refused(
        "[[job]]\nkind = 'grow'\noptions = { method = 'stretch', layers = 4 }\n",
        "unknown method 'stretch'",
    );
    refused("[[job]]\nkind = 'exit'\noptions = { epsilon = 'much' }\n", "job 'exit': epsilon");
    refused("[[job]]\nkind = 'exit'\nname = 'texts'\n", "called 'texts'");
}

#[cfg(unix)]
#[test]
fn studies_of_the_lab_are_cells_about_no_model() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    // In place of the lab: `rl RECIPE -o OUT ..`.
    let program = place.at("fathom-lab");
    let script = "#!/bin/sh\necho \"warning: asked $*\" >&2\n\
                  if grep -q wrong \"$2\"; then echo 'error: the recipe is wrong' >&2; echo 'in line 1' >&2; exit 1; fi\n\
                  echo '{\"status\": \"complete\", \"conclusion\": \"More updates help.\"}' > \"$4/run.json\"\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/bin:/usr/bin", place.path().display());
    let recipe = place.at("recipe.toml");
    let job =
        format!("[[job]]\nkind = 'lab'\ncommand = 'rl'\nname = 'critics'\nrecipe = '{}'\n", recipe.display());
    let file = study(&place, &job);
    let run = |args: &[&str]| finish(fathom().arg("study").arg(&file).args(args).env("PATH", &path));
    let refused = run(&["--plan"]);
    assert!(refused.stderr.contains("job 'critics': cannot find the recipe"), "{}", refused.stderr);

    fs::write(&recipe, "wrong").unwrap();
    let plan = run(&["--plan"]).stdout;
    assert!(plan.lines().count() == 3 && plan.contains("lab") && plan.contains("critics"), "{plan}");
    let command =
        format!("fathom lab rl --out={} {}", place.at("out/lab/critics").display(), recipe.display());
    let commands = run(&["--dry-run"]).stdout;
    assert!(commands.contains(&command), "{command}: {commands}");
    assert!(run(&["--submit", "snakemake"]).stdout.contains("out/lab/critics/run.json"));
    let failed = run(&["--cell", "lab/critics"]);
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("the recipe is wrong\nin line 1"), "{}", failed.stderr);

    // The recipe is put right: without a result there is nothing to protect, but a cell was begun with another one.
    fs::write(&recipe, "right").unwrap();
    let other = run(&["--cell", "lab/critics"]);
    assert!(other.stderr.contains("was made with other options"), "{}", other.stderr);
    let made = run(&["--overwrite", "--threads", "2"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    assert!(made.stderr.contains("--overwrite --threads=2"), "{}", made.stderr);
    let row = made.stdout.lines().find(|line| line.contains("critics (lab)")).unwrap();
    assert!(row.contains("More updates help."), "{row}");
    let jobs = json(&place.at("out/study.json"))["jobs"].clone();
    assert_eq!((jobs[0]["kind"].as_str(), jobs[0].get("model")), (Some("lab"), None));
    assert!(run(&["--cell", "3"]).stderr.contains("there already"));
    fs::write(&recipe, "changed").unwrap();
    assert!(run(&["--plan"]).stdout.contains("other"));
    let missing =
        finish(fathom().arg("study").arg(&file).args(["--cell", "3", "--overwrite"]).env("PATH", ""));
    assert!(missing.stderr.contains("cargo install --path lab"), "{}", missing.stderr);
}

#[test]
fn wrong_studies_of_the_lab_are_refused_with_their_lines() {
    let place = Place::new();
    let refused = |job: &str, words: &[&str]| {
        let done = finish(fathom().arg("study").arg(study(&place, job)).arg("--plan"));
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        assert!(words.iter().all(|word| done.stderr.contains(word)), "{}", done.stderr);
    };
    refused("[[job]]\nkind = 'lab'\n", &["has no 'command'", "has no 'recipe'"]);
    refused("[[job]]\nkind = 'lab'\ncommand = 'rk'\nrecipe = 'x'\n", &["lm, mix, repeat, residual, rl"]);
    refused("[[job]]\nkind = 'lab'\ncommand = 'rl'\nrecipe = 'x'\nmodels = 'a'\n", &["'models'"]);
    refused("[[job]]\nkind = 'prune'\nrecipe = 'x'\n", &["'recipe'"]);
}
