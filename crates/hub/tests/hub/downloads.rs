//! Downloads of models and data sets.

use super::*;

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
fn a_split_gguf_is_fetched_whole() {
    let parts = ["tiny-Q8_0-00001-of-00002.gguf", "tiny-Q8_0-00002-of-00002.gguf"];
    let world = World::new(Repo::model(ID, parts.map(|name| large(name, 500)).to_vec()));
    let model = world.client().model(ID, None, &Quiet).unwrap();
    assert_eq!(model.weights, parts.map(|name| model.folder.join(name)));
    assert!(world.offline().model(ID, None, &Quiet).unwrap().from_cache);
    fs::remove_file(&model.weights[1]).unwrap();
    assert!(message(world.offline().model(ID, None, &Quiet)).contains("weights"));
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
fn concurrent_fetches_download_once() {
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
