//! Ctrl-C in the middle of a run.
#![cfg(unix)]

use crate::support::{Done, Place, check_failure, fathom, fixture, json, measure, succeed};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Enough prompts that the signal comes in the middle.
const PROMPTS: &str = "addition:count=1500";
const COUNT: usize = 1500;

fn spawn(command: &assert_cmd::Command) -> Child {
    let mut plain = Command::new(command.get_program());
    plain.args(command.get_args()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => plain.env(name, value),
            None => plain.env_remove(name),
        };
    }
    plain.spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn wait(mut child: Child) -> Done {
    let (mut stdout, mut stderr) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    Done { code: child.wait().unwrap().code(), stdout, stderr }
}

/// Waits until so many prompts are on disk.
#[track_caller]
fn wait_for_lines(out: &Path, count: usize) {
    let lines =
        || fs::read(out.join("samples.jsonl")).map_or(0, |b| b.iter().filter(|b| **b == b'\n').count());
    wait_until("there are too few prompts", || lines() >= count);
}

#[track_caller]
fn wait_until(otherwise: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{otherwise}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts a run, interrupts it and gives what it said.
fn interrupted(out: &Path, name: &str) -> Done {
    let child = spawn(measure(&fixture("gpt2"), PROMPTS, out).args(["--probes", "contributions"]));
    wait_for_lines(out, 5);
    signal(&child, name);
    wait(child)
}

#[test]
fn an_interrupted_run_is_readable_and_goes_on() {
    let place = Place::new();
    let out = place.out();
    let done = interrupted(&out, "INT");
    check_failure(&done, &["interrupted after", "of 1500 prompts", "--resume", out.to_str().unwrap()]);
    assert!(done.stdout.contains("kl") || done.stdout.contains("cosine"), "{}", done.stdout);
    let results = json(&out.join("results.json"));
    let count = results["data"]["prompts"].as_u64().unwrap();
    assert!((5..1500).contains(&count), "{count}");
    let run = json(&out.join("run.json"));
    assert_eq!((&run["status"], &run["measured"]), (&"interrupted".into(), &count.into()));
    succeed(fathom().arg("report").arg(&out));

    let resume = |out: &Path| {
        let mut command = measure(&fixture("gpt2"), PROMPTS, out);
        succeed(command.args(["--probes", "contributions", "--resume"]));
        json(&out.join("results.json"))
    };
    let (went_on, whole) = (resume(&out), resume(&place.at("whole")));
    assert_eq!(went_on["data"]["prompts"], 1500);
    assert_eq!(went_on["probes"], whole["probes"]);
    assert_eq!(went_on["depth"], whole["depth"]);
    // What the first part cost is not forgotten; the group in work at the signal was run twice.
    let madds = |r: &serde_json::Value| r["cost"]["forward"]["madds"].as_u64().unwrap();
    assert!(madds(&went_on) >= madds(&whole), "{} {}", madds(&went_on), madds(&whole));
}

/// All prompts have the first probe by then, and still the run is not complete.
#[test]
fn an_interrupted_addition_of_a_probe_is_not_complete() {
    let place = Place::new();
    let out = place.out();
    let adding = |probe: &str| {
        let mut command = measure(&fixture("gpt2"), PROMPTS, &out);
        command.args(["--probes", probe, "--resume"]);
        command
    };
    succeed(&mut adding("contributions"));
    let child = spawn(&adding("similarity"));
    wait_for_lines(&out, COUNT + 5);
    signal(&child, "INT");
    check_failure(&wait(child), &["interrupted after", "--resume"]);
    assert_eq!(json(&out.join("run.json"))["status"], "interrupted");
    assert_eq!(json(&out.join("results.json"))["data"]["prompts"], COUNT);
    succeed(&mut adding("similarity"));
    assert_eq!(json(&out.join("run.json"))["status"], "complete");
}

#[test]
fn a_request_to_terminate_is_an_interruption_too() {
    let place = Place::new();
    check_failure(&interrupted(&place.out(), "TERM"), &["interrupted after", "--resume"]);
}

/// Before the first prompt nothing is worth waiting for.
#[test]
fn an_interruption_while_the_prompts_are_prepared_ends_at_once() {
    let place = Place::new();
    let child = spawn(&measure(&fixture("gpt2"), "addition:count=300000", &place.out()));
    // The folder is made just before the prompts are turned into tokens, which takes seconds.
    wait_until("there is no folder", || place.out().exists());
    signal(&child, "INT");
    let start = Instant::now();
    check_failure(&wait(child), &["interrupted before the first prompt"]);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}
