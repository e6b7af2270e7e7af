//! Servers that send wrong or hostile answers.

use super::*;

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
fn an_endless_body_is_cut_off() {
    let world = World::with_cdn(whole_model(), |repo, request| {
        let mut reply = repo.answer_blob(request);
        reply.body.extend([0; 5_000_000]);
        reply
    });
    let error = world.client().model(ID, None, &Quiet).expect_err("the size is wrong");
    assert!(matches!(error, HubError::WrongSize { expected: 300_000, .. }), "{error}");
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
fn hostile_commits_and_tags_do_not_become_paths() {
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
