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

/// Waits until the given number of prompts is on disk.
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

/// Checks the exit code that shells give a program that a signal has ended, and what it said.
#[track_caller]
fn check_stopped(done: Done, code: i32, parts: &[&str]) {
    assert_eq!(done.code, Some(code), "{}", done.stderr);
    check_failure(&Done { code: Some(1), ..done }, parts);
}

#[test]
fn an_interrupted_run_is_readable_and_goes_on() {
    let place = Place::new();
    let out = place.out();
    let done = interrupted(&out, "INT");
    assert!(done.stdout.contains("kl") || done.stdout.contains("cosine"), "{}", done.stdout);
    let parts = ["interrupted after", "of 1500 prompts", "the same command goes on", out.to_str().unwrap()];
    check_stopped(done, 130, &parts);
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
    // What was done is counted prompt by prompt, so that an interruption does not show.
    assert_eq!(went_on["cost"], whole["cost"]);
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
    check_stopped(wait(child), 130, &["interrupted after", "the same command goes on"]);
    assert_eq!(json(&out.join("run.json"))["status"], "interrupted");
    assert_eq!(json(&out.join("results.json"))["data"]["prompts"], COUNT);
    succeed(&mut adding("similarity"));
    assert_eq!(json(&out.join("run.json"))["status"], "complete");
}

#[test]
fn a_request_to_terminate_is_an_interruption_too() {
    let place = Place::new();
    let done = interrupted(&place.out(), "TERM");
    check_stopped(done, 143, &["interrupted after", "the same command goes on"]);
}

/// What `nohup` ignores stays ignored.
#[test]
fn a_lost_terminal_does_not_stop_a_run_under_nohup() {
    let place = Place::new();
    let plain = measure(&fixture("gpt2"), PROMPTS, &place.out());
    let mut shell = assert_cmd::Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(plain.get_program()).args(plain.get_args());
    shell.args(["--probes", "contributions"]);
    let child = spawn(&shell);
    wait_for_lines(&place.out(), 5);
    signal(&child, "HUP");
    let done = wait(child);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(json(&place.at("out/run.json"))["status"], "complete");
}

/// Killed at any moment and started again, a run ends in the results of one that was never killed, in
/// every byte but times and memory.
#[test]
fn a_run_killed_at_any_moment_ends_in_the_same_bytes() {
    let place = Place::new();
    let command = |out: &Path| {
        let mut command = measure(&fixture("llama2"), "builtin", out);
        command.args(["--probes", "all", "--limit", "4", "--resamples", "50", "--quadrature", "riemann:8"]);
        command
    };
    let results = |out: &Path| {
        let mut results = json(&out.join("results.json"));
        results.as_object_mut().unwrap().remove("resources").expect("times and memory");
        serde_json::to_string_pretty(&results).unwrap()
    };
    let start = Instant::now();
    succeed(&mut command(&place.at("whole")));
    let whole = start.elapsed();
    let expected = results(&place.at("whole"));
    let kills: u32 = std::env::var("FATHOM_TEST_KILLS").map_or(8, |n| n.parse().unwrap());
    for kill in 0..kills {
        let out = place.at(&format!("out{kill}"));
        // Moments spread over the whole run, in an order of their own.
        let share = f64::from(kill * 7919 % kills) / f64::from(kills) + 0.5 / f64::from(kills);
        let mut child = spawn(&command(&out));
        std::thread::sleep(whole.mul_f64(share));
        child.kill().unwrap();
        child.wait().unwrap();
        succeed(&mut command(&out));
        assert!(results(&out) == expected, "killed after {share:.3} of the run");
    }
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
    let done = wait(child);
    assert_eq!(done.code, Some(130));
    assert!(done.stderr.contains("error: interrupted"), "{}", done.stderr);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}
