//! Downloads and cache look-ups against a small hub on 127.0.0.1.

mod answers;
mod built_in;
mod caching;
mod downloads;
mod hostile;
mod resuming;
#[path = "../support/mod.rs"]
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

/// A model in one file, with other files that must not be fetched.
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
