//! A study on a real Slurm of one node, which this test starts: its own munge, controller and node daemon on free ports of
//! the loopback interface, with all files in a temporary folder.
//!
//! It runs only where `FATHOM_TEST_REQUIRE` names `slurm`; Debian's packages slurm-wlm and munge are enough.

#![cfg(unix)]
#![expect(clippy::print_stderr, reason = "says why the test was skipped")]

use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before the test fails.
const LIMIT: Duration = Duration::from_secs(240);

/// A Slurm of one node; its daemons end with it.
struct Cluster {
    folder: PathBuf,
    munged: Child,
    controller: Child,
    node: Child,
}

impl Cluster {
    fn start(folder: &Path) -> Self {
        for name in ["state", "spool"] {
            fs::create_dir(folder.join(name)).unwrap();
        }
        let key = folder.join("munge.key");
        fs::write(&key, [7; 128]).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let option = |name: &str, file: &str| format!("--{name}={}", folder.join(file).display());
        let mut munged = Command::new("munged");
        munged.args(["--force", "--foreground"]).args([
            option("key-file", "munge.key"),
            option("socket", "munge.sock"),
            option("pid-file", "munge.pid"),
            option("log-file", "munge.log"),
            option("seed-file", "munge.seed"),
        ]);
        let munged = quiet(munged);
        wait("munge's socket", || folder.join("munge.sock").exists());
        fs::write(folder.join("slurm.conf"), configuration(folder)).unwrap();
        let mut controller = Command::new("slurmctld");
        controller.arg("-D").arg("-f").arg(folder.join("slurm.conf"));
        let controller = quiet(controller);
        let cluster = Self { folder: folder.to_owned(), munged, controller, node: node(folder) };
        wait("the node", || cluster.says("sinfo", &["-h", "-o", "%t"]).trim() == "idle");
        cluster
    }

    /// Kills the node's daemon and starts it again.
    fn restart_node(&mut self) {
        self.node.kill().unwrap();
        self.node.wait().unwrap();
        self.node = node(&self.folder);
    }

    /// What a command of Slurm prints; nothing if it fails.
    fn says(&self, program: &str, arguments: &[&str]) -> String {
        let bin = Path::new(env!("CARGO_BIN_EXE_fathom")).parent().unwrap().display().to_string();
        let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
        let output = Command::new(program)
            .args(arguments)
            .current_dir(&self.folder)
            .env("SLURM_CONF", self.folder.join("slurm.conf"))
            .env("HF_HUB_OFFLINE", "1")
            .env("PATH", path)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Submits the script, and gives the job's number.
    fn submit(&self, options: &[&str]) -> String {
        let arguments = [&["--parsable"], options, &["study.sbatch"]].concat();
        let job = self.says("sbatch", &arguments).trim().to_owned();
        assert!(!job.is_empty(), "sbatch said nothing");
        job
    }

    /// Requeues a running task, and lets it start at once; Slurm would wait two minutes.
    fn requeue(&self, task: &str) {
        self.says("scontrol", &["requeue", task]);
        let is_pending = || self.says("squeue", &["-h", "-j", task, "-o", "%T"]).trim() == "PENDING";
        wait("the requeued task", is_pending);
        self.says("scontrol", &["update", &format!("JobId={task}"), "StartTime=now"]);
    }

    /// Waits until no task is queued or running.
    fn drain(&self) {
        wait("the queue", || self.says("squeue", &["-h"]).trim().is_empty());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in [&mut self.controller, &mut self.node, &mut self.munged] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn node(folder: &Path) -> Child {
    let mut node = Command::new("slurmd");
    node.args(["-D", "-N", "localhost", "-f"]).arg(folder.join("slurm.conf"));
    quiet(node)
}

fn quiet(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn configuration(folder: &Path) -> String {
    let ports: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let port = |index: usize| ports[index].local_addr().unwrap().port();
    let user = Command::new("id").arg("-un").output().unwrap().stdout;
    let user = String::from_utf8(user).unwrap().trim().to_owned();
    let at = folder.display();
    format!(
        "ClusterName=fathom\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort={}\nSlurmdPort={}\n\
         AuthType=auth/munge\nAuthInfo=socket={at}/munge.sock\nCredType=cred/munge\nSlurmUser={user}\nSlurmdUser={user}\n\
         StateSaveLocation={at}/state\nSlurmdSpoolDir={at}/spool\n\
         SlurmctldPidFile={at}/slurmctld.pid\nSlurmdPidFile={at}/slurmd.pid\n\
         SlurmctldLogFile={at}/slurmctld.log\nSlurmdLogFile={at}/slurmd.log\n\
         SlurmdParameters=config_overrides\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n\
         SelectType=select/cons_tres\nSelectTypeParameters=CR_Core_Memory\nJobAcctGatherType=jobacct_gather/none\n\
         AccountingStorageType=accounting_storage/none\nReturnToService=2\nMailProg=/bin/true\nMpiDefault=none\n\
         SchedulerParameters=requeue_delay=1\n\
         NodeName=localhost NodeAddr=127.0.0.1 CPUs=16 RealMemory=64000\n\
         PartitionName=main Nodes=localhost Default=YES State=UP\n",
        port(0),
        port(1)
    )
}

/// Three models, one of which is broken, on two data sets, one of which takes a while.
fn describe(folder: &Path, name: &str) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").canonicalize().unwrap();
    let mut text = format!("name = 'study'\nout = '{name}'\nprobes = 'contributions,lens,skip'\n");
    for model in ["gemma3", "llama3"] {
        text += &format!("[[model]]\nid = '{}/{model}'\n", fixtures.display());
    }
    text += &format!("[[model]]\nid = '{}/broken'\n", folder.display());
    text += "[[data]]\nid = 'addition:digits=2,count=300'\nname = 'long'\n";
    text += "[[data]]\nid = 'addition:digits=2,count=5'\nname = 'short'\n";
    fs::write(folder.join(format!("{name}.toml")), text).unwrap();
}

fn fathom(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fathom"));
    let output = command.args(arguments).current_dir(folder).env("HF_HUB_OFFLINE", "1").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn samples(folder: &Path, cell: &str) -> usize {
    let text = fs::read_to_string(folder.join("cluster").join(cell).join("samples.jsonl"));
    text.map_or(0, |text| text.lines().count())
}

#[test]
fn a_study_on_slurm_that_is_killed_is_finished_and_gives_the_tables_of_one_process() {
    if !std::env::var("FATHOM_TEST_REQUIRE").is_ok_and(|names| names.split(',').any(|n| n == "slurm")) {
        eprintln!("skipped: FATHOM_TEST_REQUIRE does not name slurm");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    // A model that looks like one when the study is planned, and cannot be measured.
    fs::create_dir(folder.join("broken")).unwrap();
    fs::write(folder.join("broken/config.json"), "{\"model_type\": \"llama\"}").unwrap();
    describe(folder, "cluster");
    describe(folder, "local");
    let script = fathom(folder, &["study", "cluster.toml", "--submit", "slurm"]);
    fs::write(folder.join("study.sbatch"), script.replace("--cpus-per-task=8", "--cpus-per-task=2")).unwrap();
    let mut cluster = Cluster::start(folder);

    // The first task is killed in the middle, the third one requeued, and the node's daemon restarted under the others.
    let job = cluster.submit(&[]);
    wait("the first prompts", || samples(folder, "gemma3/long") > 2);
    cluster.says("scancel", &["--signal=KILL", "--full", &format!("{job}_1")]);
    wait("more prompts", || samples(folder, "llama3/long") > 2);
    cluster.requeue(&format!("{job}_3"));
    cluster.restart_node();
    cluster.drain();
    let missing = fathom(folder, &["study", "cluster.toml", "--missing"]);
    assert_eq!(missing.trim(), "1,5-6", "one killed, two that cannot be measured");
    assert!(samples(folder, "gemma3/long") < 300 && samples(folder, "llama3/long") == 300);

    // It is killed once more, and then finished.
    let before = samples(folder, "gemma3/long");
    let job = cluster.submit(&[&format!("--array={}", missing.trim())]);
    wait("further prompts", || samples(folder, "gemma3/long") > before);
    cluster.says("scancel", &["--signal=KILL", "--full", &format!("{job}_1")]);
    cluster.drain();
    cluster.submit(&["--array=1"]);
    cluster.drain();
    assert_eq!(fathom(folder, &["study", "cluster.toml", "--missing"]).trim(), "5-6");

    fathom(folder, &["study", "cluster.toml", "--tables-only"]);
    fathom(folder, &["study", "local.toml"]);
    for name in ["study.csv", "answers.csv", "models.csv", "study.md", "study.tex", "study.json"] {
        let read = |study: &str| fs::read_to_string(folder.join(study).join(name)).unwrap();
        assert!(read("cluster") == read("local"), "{name}");
    }
    for cell in ["gemma3/long", "gemma3/short", "llama3/long", "llama3/short"] {
        let results = |study: &str| {
            let text = fs::read_to_string(folder.join(study).join(cell).join("results.json")).unwrap();
            let mut results: Value = serde_json::from_str(&text).unwrap();
            results.as_object_mut().unwrap().remove("resources");
            results.to_string()
        };
        assert_eq!(results("cluster"), results("local"), "{cell}");
    }
}
