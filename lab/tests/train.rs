//! Training as a user meets it: interrupted, repeated, on any number of threads, with a loss that explodes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const RECIPE: &str = "name = 'tiny'\n[data]\nunique = 4096\n[model]\nwidth = 32\nlayers = 2\nheads = 2\ncontext = 32\n\
                      [training]\ntokens = 15360\nbatch = 8\ndropout = 0.1\nevaluations = 6\ncheckpoints = 2\n";

struct Place(tempfile::TempDir);

impl Place {
    fn new(recipe: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::write(place.at("recipe.toml"), recipe).unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, out: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fathom-lab"));
        command.arg("lm").arg(self.at("recipe.toml")).arg("-o").arg(self.at(out));
        command
    }

    #[track_caller]
    fn succeed(&self, out: &str) -> String {
        let done = self.command(out).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }
}

#[track_caller]
fn fail(done: &Output, parts: &[&str]) {
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{said}");
    for part in parts.iter().chain(&["error: "]) {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// What a run left that must not depend on interruptions or threads: weights and metrics without times.
fn outcome(out: &Path) -> (BTreeMap<String, Vec<u8>>, Vec<serde_json::Value>) {
    let weights = |step: &str| fs::read(out.join(format!("checkpoint-{step}/model.safetensors"))).unwrap();
    let weights = ["000030", "000060"].map(|step| (step.to_owned(), weights(step))).into();
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let metrics = metrics.lines().map(|line| {
        let mut metric: serde_json::Value = serde_json::from_str(line).unwrap();
        metric.as_object_mut().unwrap().remove("seconds");
        metric
    });
    (weights, metrics.collect())
}

#[test]
fn a_killed_run_goes_on_to_the_same_bits_on_any_number_of_threads() {
    let place = Place::new(RECIPE);
    let printed = place.succeed("whole");
    assert!(printed.contains("held-out loss") && printed.contains("fathom measure"), "{printed}");
    let whole = outcome(&place.at("whole"));
    assert_eq!(whole.1.len(), 6);
    let loss = |i: usize| whole.1[i]["validation_loss"].as_f64().unwrap();
    assert!(loss(5) < loss(0) - 0.2, "{} {}", loss(0), loss(5));
    // 128 windows of 32 tokens are 16 steps of 8.
    assert_eq!(whole.1[5]["epoch"], 3);

    let mut first = place.command("killed").args(["--threads", "1"]).spawn().unwrap();
    while !place.at("killed/state/state.json").exists() {
        std::thread::sleep(Duration::from_millis(5));
        assert!(first.try_wait().unwrap().is_none(), "it ended before it could be killed");
    }
    first.kill().unwrap();
    first.wait().unwrap();
    place.succeed("killed");
    assert!(outcome(&place.at("killed")) == whole);
    // A finished run is left alone.
    let before = fs::metadata(place.at("killed/metrics.jsonl")).unwrap().modified().unwrap();
    place.succeed("killed");
    assert_eq!(fs::metadata(place.at("killed/metrics.jsonl")).unwrap().modified().unwrap(), before);
    // Another recipe does not go on from its state.
    fs::write(place.at("recipe.toml"), RECIPE.replace("dropout = 0.1", "dropout = 0.2")).unwrap();
    fail(&place.command("killed").output().unwrap(), &["another recipe", "--overwrite"]);
    let done = place.command("killed").arg("--overwrite").output().unwrap();
    assert!(done.status.success());
    assert!(outcome(&place.at("killed")) != whole);
}

#[test]
fn a_loss_or_gradient_that_is_not_a_number_stops_the_run_and_keeps_its_state() {
    let place =
        Place::new(&RECIPE.replace("dropout = 0.1", "learning-rate = 1e36\nwarmup = 0.9\nclip = 1e30"));
    fail(
        &place.command("out").output().unwrap(),
        &["is NaN at step", "has the last state before", "learning-rate"],
    );
    assert!(!place.at("out/run.json").exists());
    let place = Place::new(&RECIPE.replace("[training]", "experts = 2\nbalance = 1e39\n[training]"));
    fail(&place.command("out").output().unwrap(), &["the gradient's norm is", "at step", "model.balance"]);
}

/// A decoder of experts is a Mixtral.
#[test]
fn a_checkpoint_of_experts_has_the_names_of_mixtral() {
    use fathom_lab::{checkpoint, decoder::Decoder, recipe::Model, tokenizer::Tokenizer};
    let tokenizer = Tokenizer::train(&["so, so, and so".to_owned()], 260).unwrap();
    let model: Model = toml::from_str(
        "width = 32\nlayers = 2\nheads = 4\ncontext = 64\ninner = 16\nexperts = 3\nexperts-per-token = 1",
    )
    .unwrap();
    let decoder = Decoder::new(&model, tokenizer.vocabulary(), 1, &burn::tensor::Device::default());
    let place = Place::new("");
    checkpoint::export(&place.at("model"), &decoder, &model, &tokenizer).unwrap();
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(place.at("model/config.json")).unwrap()).unwrap();
    let numbers = ["num_local_experts", "num_experts_per_tok", "intermediate_size"].map(|name| &config[name]);
    assert_eq!((&config["model_type"], numbers), (&"mixtral".into(), [&3.into(), &1.into(), &16.into()]));
    let bytes = fs::read(place.at("model/model.safetensors")).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let shape =
        |name: &str| stored.tensor(&format!("model.layers.1.{name}.weight")).unwrap().shape().to_vec();
    assert_eq!(shape("block_sparse_moe.gate"), [3, 32]);
    for (part, want) in [("w1", [16, 32]), ("w2", [32, 16]), ("w3", [16, 32])] {
        assert_eq!(shape(&format!("block_sparse_moe.experts.2.{part}")), want);
    }
}

#[test]
fn wrong_recipes_are_refused_before_any_work() {
    let place = Place::new(&RECIPE.replace("[training]", "depth = 3\n[training]\nrate = 1"));
    fail(&place.command("out").output().unwrap(), &["recipe.toml", "model.depth, training.rate"]);
    let place = Place::new(&RECIPE.replace("unique = 4096", "texts = 'nowhere.txt'"));
    fail(&place.command("out").output().unwrap(), &["nowhere.txt"]);
    let place = Place::new(&RECIPE.replace("unique = 4096", "unique = 30"));
    fail(&place.command("out").output().unwrap(), &["30 tokens to train on", "model.context is 32"]);
}

/// The folder holds what the decoder has, under the names that Llama's checkpoints have.
#[test]
fn a_checkpoint_holds_the_weights_of_the_decoder() {
    use burn::tensor::Device;
    use fathom_lab::decoder::Decoder;
    use fathom_lab::recipe::Model;
    use fathom_lab::{checkpoint, tokenizer::Tokenizer, weights::weights};
    let tokenizer = Tokenizer::train(&["so, so, and so".to_owned()], 260).unwrap();
    for (tied, shared_layers) in [(true, false), (false, true)] {
        let model = Model {
            width: 32,
            layers: 3,
            heads: 4,
            inner: None,
            context: 64,
            tied,
            shared_layers,
            experts: None,
            experts_per_token: None,
            balance: None,
        };
        let decoder = Decoder::new(&model, tokenizer.vocabulary(), 1, &Device::default());
        let place = Place::new("");
        checkpoint::export(&place.at("model"), &decoder, &model, &tokenizer).unwrap();
        let config: serde_json::Value =
            serde_json::from_slice(&fs::read(place.at("model/config.json")).unwrap()).unwrap();
        assert_eq!((&config["model_type"], &config["num_hidden_layers"]), (&"llama".into(), &3.into()));
        assert_eq!(config["tie_word_embeddings"], tied);
        let bytes = fs::read(place.at("model/model.safetensors")).unwrap();
        let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let weights = weights(&decoder, 3).unwrap();
        assert_eq!((stored.len(), weights.len()), (weights.len(), 3 * 9 + if tied { 2 } else { 3 }));
        for weight in weights {
            let tensor = stored.tensor(&weight.name).unwrap();
            let values: Vec<u8> = weight.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!((tensor.shape(), tensor.data()), (&weight.shape[..], &values[..]), "{}", weight.name);
        }
        // Nothing half-written is left beside it.
        assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 2);
    }
}
