//! Models from the hub: a server on 127.0.0.1 stands in for it.

#[path = "../../../hub/tests/support/mod.rs"]
#[expect(dead_code, reason = "the tests of the hub crate use more of it")]
mod server;

use crate::support::{Done, Place, check_failure, fathom, finish, fixture, json};
use server::{COMMIT, Repo, RepoFile, World};
use std::fs;
use std::path::Path;

/// `org/tiny` on the hub is this fixture; its weights are a large file.
fn world(name: &str) -> World {
    World::new(Repo::model("org/tiny", files(name)))
}

/// The files of a fixture's folder.
fn files(name: &str) -> Vec<RepoFile> {
    let files = fs::read_dir(fixture(name)).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        RepoFile { large: name.ends_with(".safetensors"), name, bytes: fs::read(entry.path()).unwrap() }
    });
    files.filter(|f| !f.name.starts_with("golden")).collect()
}

/// A command with this cache and this server.
fn online(world: &World) -> assert_cmd::Command {
    let mut command = fathom();
    command
        .env("HF_HOME", world.cache.path())
        .env("HF_ENDPOINT", world.hub.url())
        .env_remove("HF_HUB_OFFLINE");
    command
}

/// `fathom measure org/tiny` with this cache and, unless offline, this server.
fn measure(place: &Place, world: &World, offline: bool, more: &[&str]) -> Done {
    let mut command = fathom();
    command.env("HF_HOME", world.cache.path()).env_remove("HF_HUB_OFFLINE");
    // Offline no server is named, so that any request would be one too many.
    match offline {
        true => command.env("HF_HUB_OFFLINE", "1").env("HF_ENDPOINT", "http://127.0.0.1:9"),
        false => command.env("HF_ENDPOINT", world.hub.url()),
    };
    command.args(["measure", "org/tiny", "--data"]).arg(place.data()).arg("-o").arg(place.out());
    finish(command.args(more))
}

#[track_caller]
fn check_measured(done: &Done, out: &Path) -> serde_json::Value {
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let results = json(&out.join("results.json"));
    assert_eq!(
        (&results["model"]["id"], &results["model"]["revision"]),
        (&"org/tiny".into(), &COMMIT.into())
    );
    results["probes"].clone()
}

#[test]
fn a_model_is_downloaded_once() {
    for name in ["llama2", "llama2-sharded-bf16"] {
        let (place, world) = (Place::new(), world(name));
        let first = check_measured(&measure(&place, &world, false, &[]), &place.out());
        let requests = world.request_count();
        assert!(requests > 2);
        let second = check_measured(&measure(&place, &world, true, &[]), &place.out());
        let third = check_measured(&measure(&place, &world, false, &["--revision", COMMIT]), &place.out());
        assert!(first == second && first == third);
        assert_eq!(world.request_count(), requests);
    }
}

#[test]
fn offline_and_not_cached_is_one_sentence() {
    let (place, world) = (Place::new(), world("llama2"));
    check_failure(&measure(&place, &world, true, &[]), &["org/tiny", "unset HF_HUB_OFFLINE"]);
    assert_eq!(world.request_count(), 0);
    assert!(!place.out().exists());
}

#[test]
fn what_the_hub_does_not_have_is_one_sentence() {
    let (place, world) = (Place::new(), world("llama2"));
    check_failure(&measure(&place, &world, false, &["--revision", "v9"]), &["org/tiny", "v9"]);
    let mut command = fathom();
    command.env("HF_HOME", world.cache.path()).env("HF_ENDPOINT", world.hub.url());
    let done = finish(command.env_remove("HF_HUB_OFFLINE").args(["measure", "org/none"]));
    check_failure(&done, &["org/none"]);
}

/// What the small files rule out is said before the weights are fetched.
#[test]
fn a_model_that_is_not_supported_is_refused_before_its_weights_are_fetched() {
    let gptq = r#"{"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}"#;
    let experts = r#"{"model_type": "llama", "num_local_experts": 8}"#;
    for (config, says) in
        [(gptq, "GPTQ"), (experts, "mixture of experts"), (r#"{"model_type": "xyz"}"#, "'xyz'")]
    {
        let mut files = files("llama2");
        files.iter_mut().filter(|f| f.name == "config.json").for_each(|f| f.bytes = config.into());
        let world = World::new(Repo::model("org/tiny", files));
        for command in ["models", "measure"] {
            let place = Place::new();
            let done = finish(online(&world).args([command, "org/tiny"]).current_dir(place.path()));
            check_failure(&done, &["config.json", says]);
        }
        assert!(!world.requested("model.safetensors"));
    }
    let adapter = r#"{"base_model_name_or_path": "org/base"}"#;
    let file = |name: &str, bytes: &str| RepoFile { large: false, name: name.into(), bytes: bytes.into() };
    let files = vec![file("adapter_config.json", adapter), file("adapter_model.safetensors", "x")];
    let world = World::new(Repo::model("org/tiny", files));
    check_failure(&finish(online(&world).args(["models", "org/tiny"])), &["adapter to org/base", "merge"]);
}

/// The first models of the hub have no organisation.
#[test]
fn an_id_without_an_organisation_is_one() {
    let world = World::new(Repo::model("gpt2", files("gpt2")));
    let done = finish(online(&world).args(["models", "gpt2"]));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout.starts_with("gpt2\n"), "{}", done.stdout);
}
