//! Runs the program and damages models.

use assert_cmd::Command;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The path of a fixture.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// Variables that would lead the program to this user's own settings.
const FOREIGN: [&str; 12] = [
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_TOKEN",
    "HF_ENDPOINT",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "RAYON_NUM_THREADS",
    "RUST_BACKTRACE",
];

/// The program, cut off from the network and from the user's settings.
pub(crate) fn fathom() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fathom"));
    for name in FOREIGN {
        command.env_remove(name);
    }
    command.env("HF_HUB_OFFLINE", "1").timeout(Duration::from_secs(60));
    command
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn finish(command: &mut Command) -> Done {
    let output = command.output().unwrap();
    Done {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs to success and gives stdout.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let done = finish(command);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(!done.stderr.contains("error:"), "{}", done.stderr);
    done.stdout
}

/// Runs to a failure that is told in one sentence with all these parts, and gives that sentence.
#[track_caller]
pub(crate) fn fail(command: &mut Command, parts: &[impl AsRef<str>]) -> String {
    check_failure(&finish(command), parts)
}

/// What every failure must be: exit code 1 and, last on stderr, one line that says why.
#[track_caller]
pub(crate) fn check_failure(done: &Done, parts: &[impl AsRef<str>]) -> String {
    let text = &done.stderr;
    assert_eq!(done.code, Some(1), "{text}");
    for word in ["panicked", "RUST_BACKTRACE", "internal error"] {
        assert!(!text.contains(word), "{text}");
    }
    assert_eq!(text.lines().filter(|l| l.contains("error: ")).count(), 1, "{text}");
    let last = text.lines().next_back().unwrap();
    assert!(last.starts_with("error: "), "{text}");
    for part in parts {
        assert!(last.contains(part.as_ref()), "'{}' is not in: {last}", part.as_ref());
    }
    last.to_owned()
}

/// `fathom measure MODEL --data DATA -o OUT`.
pub(crate) fn measure(model: &Path, data: impl AsRef<OsStr>, out: &Path) -> Command {
    let mut command = fathom();
    command.arg("measure").arg(model).arg("--data").arg(data).arg("-o").arg(out);
    command
}

/// A temporary folder with a few prompts in `d.jsonl`, which has room for results in `out`.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(place.data(), PROMPTS).unwrap();
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.at("d.jsonl")
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.at("out")
    }

    /// A copy of a fixture that may be damaged.
    pub(crate) fn model(&self, name: &str) -> PathBuf {
        let to = self.at("model");
        if fixture(name).is_file() {
            let to = to.with_extension("gguf");
            fs::copy(fixture(name), &to).unwrap();
            return to;
        }
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(fixture(name)).unwrap() {
            let entry = entry.unwrap();
            if !entry.file_name().to_string_lossy().starts_with("golden") {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
        to
    }
}

/// Four prompts of different lengths, one with an answer, one with its own id and group.
const PROMPTS: &str = r#"{"text": "The capital of France is Paris, and the capital of Italy is Rome."}
{"question": "Two and two is", "answer": " four"}
{"id": "mine", "group": "hard", "text": "Seven times eight is fifty-six."}
{"text": "Once upon a time"}
"#;

/// The number of prompts that every [`Place`] has.
pub(crate) const PROMPT_COUNT: usize = 4;

/// Reads a JSON file.
#[track_caller]
pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Changes a JSON file.
#[track_caller]
pub(crate) fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = json(path);
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Changes the header and the data of a safetensors file.
#[track_caller]
pub(crate) fn edit_safetensors(path: &Path, edit: impl FnOnce(&mut Value, &mut Vec<u8>)) {
    let bytes = fs::read(path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&bytes[8..end]).unwrap();
    let mut data = bytes[end..].to_vec();
    edit(&mut header, &mut data);
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length, header.as_bytes(), &data].concat()).unwrap();
}

/// Where `needle` begins.
#[track_caller]
pub(crate) fn find(bytes: &[u8], needle: &str) -> usize {
    bytes.windows(needle.len()).position(|w| w == needle.as_bytes()).expect("it is in the file")
}

/// Overwrites the first `old` of a file with `new`, which is as long.
#[track_caller]
pub(crate) fn overwrite(path: &Path, old: &str, new: &str) {
    assert_eq!(old.len(), new.len());
    let mut bytes = fs::read(path).unwrap();
    let at = find(&bytes, old);
    bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
    fs::write(path, bytes).unwrap();
}

/// Cuts a file off.
#[track_caller]
pub(crate) fn truncate(path: &Path, len: usize) {
    let bytes = fs::read(path).unwrap();
    assert!(len < bytes.len());
    fs::write(path, &bytes[..len]).unwrap();
}

pub(crate) const WORDS: [&str; 16] = [
    "river", "stone", "light", "seven", "garden", "quiet", "winter", "copper", "letter", "north", "paper",
    "silver", "under", "music", "harbour", "engine",
];

/// Texts of 12 to 26 words without meaning, all different.
pub(crate) fn texts(count: usize, seed: usize) -> String {
    let text = |i: usize| {
        let word = |k: usize| WORDS[(seed + i * 7 + k * (i + 3) + k * k) % WORDS.len()];
        let words: Vec<&str> = (0..12 + i % 15).map(word).collect();
        format!("{{\"text\": \"{} {}\"}}\n", i + seed, words.join(" "))
    };
    (0..count).map(text).collect()
}
