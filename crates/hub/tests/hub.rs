//! Downloads and cache look-ups against a small hub on 127.0.0.1.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fathom_hub::{Hub, HubError, Quiet};
use support::{COMMIT, Recorder, Reply, Repo, RepoFile, World, large, ranged, small};

const ID: &str = "org/tiny";
const FOLDER: &str = "models--org--tiny";
const INDEX: &str =
    r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;

/// A model in one file, with files beside it that are nobody's business.
fn whole_model() -> Repo {
    let mut files =
        vec![small("config.json", "{}"), small("tokenizer.json", "{ }"), large("model.safetensors", 300_000)];
    let others =
        ["README.md", "onnx/model.onnx", "onnx/config.json", "flax_model.msgpack", "model.fp32.safetensors"];
    files.extend(others.map(|name| large(name, 10)));
    files.extend(
        ["pytorch_model.bin", "original/consolidated.00.pth", "tiny.Q8_0.gguf"].map(|name| large(name, 10)),
    );
    Repo::model(ID, files)
}

fn sharded_model() -> Repo {
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        .map(|name| large(name, 5000));
    let mut files = vec![small("config.json", "{}"), small("tokenizer.json", "{ }")];
    files.push(small("model.safetensors.index.json", INDEX));
    files.extend(shards);
    Repo::model(ID, files)
}

fn snapshot_folder(world: &World) -> PathBuf {
    world.cache.path().join(FOLDER).join("snapshots").join(COMMIT)
}

fn message(result: Result<impl std::fmt::Debug, HubError>) -> String {
    result.expect_err("this must fail").to_string()
}

#[test]
fn a_model_is_downloaded_into_the_standard_layout() {
    let world = World::new(whole_model());
    let progress = Recorder::default();
    let model = world.client().model(ID, None, &progress).unwrap();
    assert_eq!((model.commit.as_str(), model.from_cache), (COMMIT, false));
    assert_eq!(model.folder, snapshot_folder(&world));
    assert_eq!(model.weights, [model.folder.join("model.safetensors")]);
    let weights = world.repo.file("model.safetensors");
    assert_eq!(fs::read(&model.weights[0]).unwrap(), weights.bytes);
    let root = world.cache.path().join(FOLDER);
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    assert!(root.join("blobs").join(weights.etag()).is_file());
    if cfg!(unix) {
        assert_eq!(fs::read_link(&model.weights[0]).unwrap(), Path::new("../../blobs").join(weights.etag()));
    }
    let mut names: Vec<_> = fs::read_dir(&model.folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"], "no other variant is fetched");
    let expected = [("config.json", 2), ("tokenizer.json", 3), ("model.safetensors", 300_000)];
    assert_eq!(progress.finished(), expected.map(|(name, size)| (name.to_owned(), Some(size), size)));
}

#[test]
fn a_sharded_model_is_complete_with_all_its_shards() {
    let world = World::new(sharded_model());
    let model = world.client().model(ID, None, &Quiet).unwrap();
    assert_eq!(model.weights.len(), 2);
    fs::remove_file(&model.weights[1]).unwrap();
    let says = message(world.offline().model(ID, None, &Quiet));
    assert!(says.contains("the shard model-00002-of-00002.safetensors"), "{says}");
    // The blob is still there, so that the shard is linked again without being fetched.
    let again = world.client().model(ID, None, &Quiet).unwrap();
    assert_eq!(again.weights, model.weights);
    assert_eq!(world.cdn.asked("GET", "model-00002-of-00002.safetensors?X-Signature=s").len(), 1);
}

#[test]
fn a_cached_model_needs_no_request() {
    let world = World::new(whole_model());
    let first = world.client().model(ID, None, &Quiet).unwrap();
    let count = world.request_count();
    for hub in [world.client(), world.offline()] {
        for revision in [None, Some("main"), Some(COMMIT)] {
            let model = hub.model(ID, revision, &Quiet).unwrap();
            assert!(model.from_cache);
            assert_eq!((&model.folder, &model.commit), (&first.folder, &first.commit));
        }
    }
    assert_eq!(world.request_count(), count);
}

#[test]
fn offline_and_not_cached_says_what_is_missing_and_asks_nobody() {
    let world = World::new(whole_model());
    let says = message(world.offline().model(ID, Some("v2"), &Quiet));
    for part in ["every file", ID, "v2", "unset HF_HUB_OFFLINE", FOLDER] {
        assert!(says.contains(part), "{part}: {says}");
    }
    let folder = snapshot_folder(&world);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), "{}").unwrap();
    let says = message(world.offline().model(ID, Some(COMMIT), &Quiet));
    assert!(says.contains("lacks the weights"), "{says}");
    let says = message(world.offline().dataset_file("org/set", None, "a.parquet", &Quiet));
    assert!(says.contains("`a.parquet`"), "{says}");
    assert!(matches!(world.offline().dataset_files("org/set", None), Err(HubError::Offline { .. })));
    assert_eq!(world.request_count(), 0);
}

/// A host of large files that breaks its first connection half-way.
fn breaks_once(repo: Repo) -> World {
    let count = AtomicUsize::new(0);
    World::with_cdn(repo, move |repo, request| {
        let mut reply = repo.answer_blob(request);
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            reply.cut = Some(reply.body.len() / 2);
        }
        reply
    })
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let world = breaks_once(whole_model());
    let progress = Recorder::default();
    let model = world.client().model(ID, None, &progress).unwrap();
    assert_eq!(fs::read(&model.weights[0]).unwrap(), world.repo.file("model.safetensors").bytes);
    let requests = world.cdn.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].header("range"), None);
    assert_eq!(requests[1].header("range"), Some("bytes=150000-"));
    assert_eq!(progress.finished().last().unwrap().2, 300_000, "no byte is reported twice");
}

#[test]
fn the_next_run_goes_on_with_what_an_earlier_one_left() {
    let world = breaks_once(whole_model());
    let mut settings = world.settings();
    settings.retries = 0;
    let says = message(Hub::new(settings).unwrap().model(ID, None, &Quiet));
    assert!(says.contains("run again to continue"), "{says}");
    assert!(!says.contains("Signature"), "{says}");
    let blob =
        world.cache.path().join(FOLDER).join("blobs").join(world.repo.file("model.safetensors").etag());
    assert_eq!(fs::metadata(blob.with_extension("incomplete")).unwrap().len(), 150_000);
    let says = message(world.offline().model(ID, None, &Quiet));
    assert!(says.contains("lacks the weights"), "{says}");
    let progress = Recorder::default();
    let model = world.client().model(ID, None, &progress).unwrap();
    assert_eq!(fs::read(&model.weights[0]).unwrap(), world.repo.file("model.safetensors").bytes);
    assert_eq!(world.cdn.requests()[1].header("range"), Some("bytes=150000-"));
    assert_eq!(progress.finished(), [("model.safetensors".to_owned(), Some(300_000), 300_000)]);
    assert!(!blob.with_extension("incomplete").exists());
}

/// Fetches a model whose weights were begun with `partial`, from a host that answers as `cdn` does.
fn fetch_after_partial(
    partial: &[u8],
    cdn: impl Fn(&Repo, &support::Request) -> Reply + Send + Sync + 'static,
) -> World {
    let world = World::with_cdn(whole_model(), cdn);
    let weights = world.repo.file("model.safetensors");
    let blobs = world.cache.path().join(FOLDER).join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.incomplete", weights.etag())), partial).unwrap();
    let model = world.client().model(ID, None, &Quiet).unwrap();
    assert_eq!(fs::read(&model.weights[0]).unwrap(), weights.bytes);
    world
}

#[test]
fn a_server_that_ignores_ranges_makes_the_file_start_again() {
    let begin = whole_model().file("model.safetensors").bytes[..1000].to_vec();
    let world =
        fetch_after_partial(&begin, |repo, _| Reply::new(200, &*repo.file("model.safetensors").bytes));
    assert_eq!(world.cdn.requests().len(), 1, "the whole file of the first answer is used");
}

#[test]
fn a_range_that_begins_elsewhere_is_not_used() {
    let begin = whole_model().file("model.safetensors").bytes[..1000].to_vec();
    fetch_after_partial(&begin, |repo, request| {
        let mut reply = repo.answer_blob(request);
        if reply.status == 206 {
            reply.headers = vec![("Content-Range".to_owned(), "bytes 5-299999/300000".to_owned())];
        }
        reply
    });
}

#[test]
fn leftovers_of_another_file_are_thrown_away() {
    let world = fetch_after_partial(b"something else", |repo, request| repo.answer_blob(request));
    let ranges: Vec<_> = world.cdn.requests().iter().map(|r| r.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [Some("bytes=14-".to_owned()), None]);
    fetch_after_partial(&vec![7; 300_001], |repo, request| repo.answer_blob(request));
    fetch_after_partial(&vec![7; 300_000], |repo, request| repo.answer_blob(request));
}

#[test]
fn wrong_contents_are_refused() {
    let world = World::with_cdn(whole_model(), |repo, request| {
        let mut reply = repo.answer_blob(request);
        reply.body[0] ^= 1;
        reply
    });
    let error = world.client().model(ID, None, &Quiet).expect_err("the digest is wrong");
    assert!(matches!(&error, HubError::WrongHash { file, .. } if file == "model.safetensors"), "{error}");
    assert!(!snapshot_folder(&world).join("model.safetensors").exists());
    let etag = world.repo.file("model.safetensors").etag();
    let blobs = fs::read_dir(world.cache.path().join(FOLDER).join("blobs")).unwrap();
    assert!(blobs.flatten().all(|entry| !entry.file_name().to_string_lossy().starts_with(&etag)));
}

#[test]
fn a_body_without_end_is_cut_off() {
    let world = World::with_cdn(whole_model(), |repo, request| {
        let mut reply = repo.answer_blob(request);
        reply.body.extend([0; 5_000_000]);
        reply
    });
    let error = world.client().model(ID, None, &Quiet).expect_err("the size is wrong");
    assert!(matches!(error, HubError::WrongSize { expected: 300_000, .. }), "{error}");
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let world = World::new(whole_model());
    let mut settings = world.settings();
    settings.token = Some("hf_secret".to_owned());
    Hub::new(settings).unwrap().model(ID, None, &Quiet).unwrap();
    assert!(!world.cdn.requests().is_empty());
    assert!(world.hub.requests().iter().all(|r| r.header("authorization") == Some("Bearer hf_secret")));
    assert!(world.cdn.requests().iter().all(|r| r.header("authorization").is_none()));
}

#[test]
fn a_renamed_repository_is_followed_with_the_token() {
    let world = World::with_hub(whole_model(), |repo, request, cdn| {
        match request.path.strip_prefix("/api/models/old/name") {
            Some(rest) => Reply::new(307, "").with("Location", format!("/api/models/{}{rest}", repo.id)),
            None => match request.path.strip_prefix("/old/name") {
                Some(rest) => Reply::new(307, "").with("Location", format!("/{}{rest}", repo.id)),
                None => repo.answer(request, cdn),
            },
        }
    });
    let mut settings = world.settings();
    settings.token = Some("hf_secret".to_owned());
    let model = Hub::new(settings).unwrap().model("old/name", None, &Quiet).unwrap();
    assert_eq!(model.commit, COMMIT);
    assert!(world.hub.requests().iter().all(|r| r.header("authorization").is_some()));
}

#[test]
fn endless_redirects_end() {
    let world = World::with_hub(whole_model(), |_, request, _| {
        Reply::new(302, "").with("Location", request.path.clone())
    });
    let says = message(world.client().model(ID, None, &Quiet));
    assert!(says.contains("redirects without end"), "{says}");
}

#[test]
fn passing_faults_are_tried_again_a_few_times() {
    let count = AtomicUsize::new(0);
    let world = World::with_hub(whole_model(), move |repo, request, cdn| {
        match count.fetch_add(1, Ordering::SeqCst) % 3 {
            0 => Reply::new(503, ""),
            1 => Reply::new(429, "").with("Retry-After", "0"),
            _ => repo.answer(request, cdn),
        }
    });
    world.client().model(ID, None, &Quiet).unwrap();
    let world = World::with_hub(whole_model(), |_, _, _| Reply::new(503, r#"{"error": "maintenance"}"#));
    let says = message(world.client().model(ID, None, &Quiet));
    assert!(says.contains("HTTP 503") && says.contains("maintenance"), "{says}");
    assert_eq!(world.request_count(), 3);
}

#[test]
fn nobody_there_is_told_at_once() {
    let world = World::new(whole_model());
    let mut settings = world.settings();
    // A port that was just free is not open.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    settings.endpoint = format!("http://{free}");
    settings.backoff = std::time::Duration::from_secs(3600);
    let says = message(Hub::new(settings).unwrap().model(ID, None, &Quiet));
    assert!(says.contains("check the connection"), "{says}");
}

#[test]
fn a_gated_model_says_how_to_get_access() {
    for status in [401, 403] {
        // The listing of a gated model is public, its files are not.
        let world = World::with_hub(whole_model(), move |repo, request, cdn| {
            if request.path.starts_with("/api/") {
                return repo.answer(request, cdn);
            }
            Reply::new(status, "")
                .with("X-Error-Code", "GatedRepo")
                .with("X-Error-Message", "Access is restricted.")
        });
        let page = format!("{}/{ID}", world.hub.url());
        let says = message(world.client().model(ID, None, &Quiet));
        assert!(
            says.contains("set HF_TOKEN") && says.contains(&page) && says.contains("restricted"),
            "{says}"
        );
        let mut settings = world.settings();
        settings.token = Some("hf_weak".to_owned());
        let says = message(Hub::new(settings).unwrap().model(ID, None, &Quiet));
        assert!(says.contains("account of your token") && !says.contains("hf_weak"), "{says}");
    }
}

#[test]
fn missing_things_are_named() {
    let world = World::new(whole_model());
    let hub = world.client();
    let says = message(hub.model("org/none", None, &Quiet));
    assert!(says.contains("`org/none` was not found") && says.contains("check the spelling"), "{says}");
    let says = message(hub.model(ID, Some("v9"), &Quiet));
    assert!(says.contains("no revision `v9`"), "{says}");
    let says = message(hub.model_file(ID, None, "none.gguf", &Quiet));
    assert!(says.contains("no file `none.gguf`"), "{says}");
    assert!(matches!(hub.model("not an id", None, &Quiet), Err(HubError::InvalidId { .. })));
    assert!(matches!(hub.model(ID, Some("../x"), &Quiet), Err(HubError::InvalidRevision { .. })));
    // To somebody without a token, the hub says 401 of what it does not have.
    let world = World::with_hub(whole_model(), |_, _, _| {
        Reply::new(401, r#"{"error":"Invalid username or password."}"#)
    });
    let says = message(world.client().model(ID, None, &Quiet));
    assert!(says.contains("was not found") && says.contains("HF_TOKEN"), "{says}");
}

#[test]
fn a_repository_without_a_model_is_refused_before_anything_is_fetched() {
    let world =
        World::new(Repo::model(ID, vec![small("config.json", "{}"), large("adapter_model.safetensors", 9)]));
    let says = message(world.client().model(ID, None, &Quiet));
    assert!(says.contains("lacks weights"), "{says}");
    let world = World::new(Repo::model(ID, vec![large("model.safetensors", 9)]));
    let says = message(world.client().model(ID, None, &Quiet));
    assert!(says.contains("lacks config.json"), "{says}");
    assert_eq!(world.request_count(), 1);
}

#[test]
fn what_is_no_hub_is_recognised() {
    let world = World::with_hub(whole_model(), |_, _, _| Reply::new(200, "<html>welcome</html>"));
    let says = message(world.client().model(ID, None, &Quiet));
    assert!(says.contains("HF_ENDPOINT"), "{says}");
}

/// Every file in a folder and below.
fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() { files.extend(all_files(&entry.path())) } else { files.push(entry.path()) }
    }
    files
}

#[test]
fn hostile_names_write_nothing_outside_the_cache() {
    let evil = "../../../../evil";
    let index = format!(r#"{{"weight_map": {{"a": "{evil}"}}}}"#);
    let mut repo =
        Repo::model(ID, vec![small("config.json", "{}"), small("model.safetensors.index.json", &index)]);
    repo.files.extend([evil, "/tmp/evil", "..\\evil.gguf", "a//b"].map(|name| large(name, 9)));
    let mut world = World::new(repo);
    // The cache lies deep in the temporary folder, so that climbing out of it would be seen.
    let outside = tempfile::tempdir().unwrap();
    let cache = outside.path().join("deep/cache");
    let mut settings = world.settings();
    settings.cache = cache.clone();
    let error = Hub::new(settings.clone()).unwrap().model(ID, None, &Quiet).expect_err("a hostile shard");
    assert!(matches!(&error, HubError::UnsafeName { name, .. } if name == evil), "{error}");
    assert!(all_files(outside.path()).iter().all(|path| path.starts_with(&cache)));
    assert!(world.cdn.requests().is_empty());
    let error =
        Hub::new(settings).unwrap().dataset_file("org/set", None, evil, &Quiet).expect_err("a hostile name");
    assert!(matches!(error, HubError::UnsafeName { .. }), "{error}");
    world.repo.prefix = "datasets/";
    let listed = World::new(world.repo.clone()).client().dataset_files(ID, None).unwrap();
    assert_eq!(listed.names, ["config.json", "model.safetensors.index.json"]);
}

#[test]
fn hostile_commits_and_tags_are_no_paths() {
    let mut repo = whole_model();
    repo.commit = "../../evil".to_owned();
    let says = message(World::new(repo).client().model(ID, None, &Quiet));
    assert!(says.contains("is not a commit"), "{says}");
    let world = World::with_hub(whole_model(), |repo, request, cdn| {
        let mut reply = repo.answer(request, cdn);
        for (name, value) in &mut reply.headers {
            if name == "ETag" {
                *value = format!("\"../../../evil{}\"", request.path.len());
            }
        }
        reply
    });
    let model = world.client().model(ID, None, &Quiet).unwrap();
    assert_eq!(fs::read_to_string(model.folder.join("config.json")).unwrap(), "{}");
    assert!(!world.cache.path().join("evil").exists());
}

/// Writes a snapshot as Python's huggingface_hub lays it out.
fn python_cache(cache: &Path, files: &[RepoFile]) {
    let root = cache.join(FOLDER);
    let snapshot = root.join("snapshots").join(COMMIT);
    for folder in [root.join("blobs"), root.join("refs"), snapshot.clone()] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(root.join("refs/main"), COMMIT).unwrap();
    for file in files {
        fs::write(root.join("blobs").join(file.etag()), &file.bytes).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(format!("../../blobs/{}", file.etag()), snapshot.join(&file.name))
            .unwrap();
        #[cfg(not(unix))]
        fs::write(snapshot.join(&file.name), &file.bytes).unwrap();
    }
}

#[test]
fn what_python_downloaded_is_found() {
    let world = World::new(sharded_model());
    python_cache(world.cache.path(), &world.repo.files);
    for hub in [world.client(), world.offline()] {
        let model = hub.model(ID, None, &Quiet).unwrap();
        assert!(model.from_cache);
        assert_eq!(fs::read(&model.weights[1]).unwrap(), world.repo.files[4].bytes);
    }
    assert_eq!(world.request_count(), 0);
}

#[test]
fn a_gap_in_pythons_cache_is_filled() {
    let world = World::new(sharded_model());
    python_cache(world.cache.path(), &world.repo.files[..4]);
    let model = world.client().model(ID, None, &Quiet).unwrap();
    assert!(!model.from_cache);
    let asked = world.cdn.requests();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].path.contains("00002-of-00002"));
}

#[test]
fn a_missing_tokenizer_is_looked_for_and_is_no_error() {
    let world = World::new(whole_model());
    let files: Vec<RepoFile> =
        ["config.json", "model.safetensors"].map(|name| world.repo.file(name).clone()).to_vec();
    python_cache(world.cache.path(), &files);
    assert!(world.offline().model(ID, None, &Quiet).unwrap().from_cache);
    let model = world.client().model(ID, None, &Quiet).unwrap();
    assert!(model.folder.join("tokenizer.json").is_file());
    assert!(world.cdn.requests().is_empty(), "the weights were there");
    // A hub that does not answer does not stand in the way.
    let world = World::with_hub(whole_model(), |_, _, _| Reply::new(404, ""));
    python_cache(world.cache.path(), &files);
    assert!(world.client().model(ID, None, &Quiet).unwrap().from_cache);
}

#[test]
fn a_moved_branch_shares_unchanged_blobs() {
    let world = World::new(whole_model());
    world.client().model(ID, None, &Quiet).unwrap();
    let mut next = world.repo.clone();
    next.commit = "f".repeat(40);
    let next = World::new(next);
    let mut settings = next.settings();
    settings.cache = world.cache.path().to_owned();
    let model = Hub::new(settings).unwrap().model(ID, Some(&"f".repeat(40)), &Quiet).unwrap();
    assert_eq!(model.commit, "f".repeat(40));
    assert!(next.cdn.requests().is_empty(), "the weights have not changed");
}

#[test]
fn without_symlinks_the_snapshot_holds_the_files() {
    let world = World::new(whole_model());
    let mut settings = world.settings();
    settings.symlinks = false;
    let model = Hub::new(settings).unwrap().model(ID, None, &Quiet).unwrap();
    assert!(!model.weights[0].is_symlink());
    assert_eq!(fs::read(&model.weights[0]).unwrap(), world.repo.file("model.safetensors").bytes);
    assert!(world.offline().model(ID, None, &Quiet).unwrap().from_cache);
}

#[test]
fn two_at_once_fetch_a_file_once() {
    let world = World::new(whole_model());
    thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| world.client().model(ID, None, &Quiet))).collect();
        for run in runs {
            let model = run.join().unwrap().unwrap();
            assert_eq!(fs::read(&model.weights[0]).unwrap().len(), 300_000);
        }
    });
    assert_eq!(world.cdn.requests().len(), 1);
}

#[test]
fn one_gguf_stands_alone() {
    let world =
        World::new(Repo::model(ID, ["t.Q4_K_M.gguf", "t.Q8_0.gguf"].map(|name| large(name, 99)).to_vec()));
    let model = world.client().model(ID, None, &Quiet).unwrap();
    assert_eq!(model.weights, [model.folder.join("t.Q8_0.gguf")]);
    let file = world.client().model_file(ID, None, "t.Q4_K_M.gguf", &Quiet).unwrap();
    assert_eq!((file.commit.as_str(), file.from_cache), (COMMIT, false));
    assert!(world.client().model(ID, None, &Quiet).unwrap().from_cache);
}

#[test]
fn data_sets_are_listed_and_fetched_file_by_file() {
    let files = vec![small("README.md", "# Set"), large("data/train-00000-of-00001.parquet", 4000)];
    let world = World::new(Repo::dataset("org/set", files));
    let hub = world.client();
    let listing = hub.dataset_files("org/set", None).unwrap();
    assert_eq!(listing.names, ["README.md", "data/train-00000-of-00001.parquet"]);
    assert_eq!(listing.commit, COMMIT);
    let name = &listing.names[1];
    let file = hub.dataset_file("org/set", None, name, &Quiet).unwrap();
    assert!(!file.from_cache);
    assert_eq!(fs::read(&file.path).unwrap(), world.repo.files[1].bytes);
    let expected = format!("datasets--org--set/snapshots/{COMMIT}/{name}");
    assert_eq!(file.path, world.cache.path().join(expected));
    let count = world.request_count();
    for hub in [world.client(), world.offline()] {
        let again = hub.dataset_file("org/set", None, name, &Quiet).unwrap();
        assert!(again.from_cache);
        assert_eq!(again.path, file.path);
    }
    assert_eq!(world.request_count(), count);
    let offline = world.offline().dataset_files("org/set", None).unwrap();
    assert_eq!((&offline.names[..], offline.from_cache), (std::slice::from_ref(name), true));
}

#[test]
fn a_hub_without_large_file_storage_is_resumed_too() {
    // Mirrors may serve large files themselves, with the digest as an ordinary entity tag.
    let count = AtomicUsize::new(0);
    let world = World::with_hub(whole_model(), move |repo, request, cdn| {
        let file = repo.file("model.safetensors");
        if !request.path.ends_with(&file.name) {
            return repo.answer(request, cdn);
        }
        let mut reply = ranged(request, &file.bytes).with("ETag", format!("\"{}\"", file.etag()));
        if request.method == "GET" && count.fetch_add(1, Ordering::SeqCst) == 0 {
            reply.cut = Some(100_000);
        }
        reply
    });
    let model = world.client().model(ID, None, &Quiet).unwrap();
    assert_eq!(fs::read(&model.weights[0]).unwrap(), world.repo.file("model.safetensors").bytes);
    let ranges: Vec<_> = world
        .hub
        .asked("GET", "/model.safetensors")
        .iter()
        .map(|r| r.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned())]);
}

/// Both directions with the real library: `FATHOM_TEST_PYTHON` names a Python that has huggingface_hub.
#[test]
#[ignore = "needs a Python with huggingface_hub, named by FATHOM_TEST_PYTHON"]
fn the_cache_is_shared_with_huggingface_hub() {
    let python =
        std::env::var("FATHOM_TEST_PYTHON").expect("FATHOM_TEST_PYTHON names a Python with huggingface_hub");
    let download = |world: &World, offline: &str| {
        let names: Vec<&str> = world.repo.files.iter().map(|file| file.name.as_str()).collect();
        let code = format!(
            "import os, huggingface_hub as h\n\
             print({{os.path.dirname(h.hf_hub_download('{ID}', name)) for name in {names:?}}}.pop())"
        );
        let output = std::process::Command::new(&python)
            .args(["-c", &code])
            .env("HF_ENDPOINT", world.hub.url())
            .env("HF_HUB_CACHE", world.cache.path())
            .env("HF_HUB_OFFLINE", offline)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    };
    let world = World::new(sharded_model());
    let folder = download(&world, "0");
    assert_eq!(world.offline().model(ID, None, &Quiet).unwrap().folder, folder);

    let world = World::new(sharded_model());
    let ours = world.client().model(ID, None, &Quiet).unwrap();
    let count = world.request_count();
    assert_eq!(download(&world, "1"), ours.folder);
    assert_eq!(world.request_count(), count);
    let gets = world.cdn.requests().len();
    assert_eq!(download(&world, "0"), ours.folder);
    assert_eq!(world.cdn.requests().len(), gets, "huggingface_hub fetches nothing again");
}

#[test]
fn companions_come_without_the_weights() {
    let world = World::new(whole_model());
    let small = world.client().companions(ID, None, &Quiet).unwrap();
    assert_eq!((small.commit.as_str(), &small.folder), (COMMIT, &snapshot_folder(&world)));
    assert!(small.folder.join("tokenizer.json").is_file() && !world.requested("model.safetensors"));
    let model = world.client().model(ID, Some(&small.commit), &Quiet).unwrap();
    assert_eq!(model.folder, small.folder);
    // The branch is remembered, so that later starts need no network.
    assert_eq!(world.offline().companions(ID, None, &Quiet).unwrap(), small);
}

#[test]
fn a_split_gguf_is_fetched_whole() {
    let parts = ["tiny-Q8_0-00001-of-00002.gguf", "tiny-Q8_0-00002-of-00002.gguf"];
    let world = World::new(Repo::model(ID, parts.map(|name| large(name, 500)).to_vec()));
    let model = world.client().model(ID, None, &Quiet).unwrap();
    assert_eq!(model.weights, parts.map(|name| model.folder.join(name)));
    assert!(world.offline().model(ID, None, &Quiet).unwrap().from_cache);
    fs::remove_file(&model.weights[1]).unwrap();
    assert!(message(world.offline().model(ID, None, &Quiet)).contains("weights"));
}
