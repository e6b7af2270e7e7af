//! The cache, which is shared with Python's huggingface_hub.

use super::*;

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
fn offline_without_a_cache_names_what_is_missing() {
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
fn a_missing_tokenizer_is_fetched_or_ignored() {
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
