//! Checkpoints as Hugging Face folders, and the state from which an interrupted run goes on.

use crate::decoder::{Decoder, EPSILON, THETA};
use crate::files::write_json;
use crate::recipe::{Model, Recipe};
use crate::tokenizer::Tokenizer;
use crate::weights::weights;
use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes a folder that transformers and Fathom load: configuration, weights, tokenizer. It appears whole or not at all.
///
/// # Errors
/// When a file cannot be written.
pub fn export(folder: &Path, decoder: &Decoder, model: &Model, tokenizer: &Tokenizer) -> Result<()> {
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot replace {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    write_json(&partial.join("config.json"), &config(model, tokenizer.vocabulary()))?;
    write_json(
        &partial.join("tokenizer_config.json"),
        &json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}),
    )?;
    tokenizer.save(&partial.join("tokenizer.json"))?;
    let weights = weights(decoder, model.layers)?;
    let bytes: Vec<Vec<u8>> =
        weights.iter().map(|w| w.values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let mut views = Vec::new();
    for (weight, bytes) in weights.iter().zip(&bytes) {
        views.push((weight.name.clone(), TensorView::new(Dtype::F32, weight.shape.clone(), bytes)?));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let path = partial.join("model.safetensors");
    fs::write(&path, safetensors::serialize(views, Some(metadata))?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot replace {}", folder.display()))?;
    }
    fs::rename(&partial, folder).with_context(|| format!("cannot write {}", folder.display()))
}

fn config(model: &Model, vocabulary: usize) -> Value {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": model.width,
        "intermediate_size": model.inner(),
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": model.context,
        "rms_norm_eps": EPSILON,
        "rope_theta": THETA,
        "hidden_act": "silu",
        "tie_word_embeddings": model.tied,
        "attention_bias": false,
        "mlp_bias": false,
        "bos_token_id": Tokenizer::BETWEEN,
        "eos_token_id": Tokenizer::BETWEEN,
        "torch_dtype": "float32",
    });
    if let Some((experts, taken)) = model.mixture() {
        let of_mixtral = json!({
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "num_local_experts": experts,
            "num_experts_per_tok": taken,
            "sliding_window": null,
        });
        config["attention_bias"].take();
        config["mlp_bias"].take();
        let map = config.as_object_mut().expect("an object");
        map.retain(|_, value| !value.is_null());
        map.extend(of_mixtral.as_object().expect("an object").clone());
    }
    config
}

/// Where an interrupted run goes on.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// What is trained; another recipe does not go on from here.
    pub recipe: Recipe,
    /// The step that comes next.
    pub step: usize,
}

/// The folder of the state of a run.
#[derive(Debug)]
pub struct StateFolder(PathBuf);

impl StateFolder {
    /// That of a run's folder.
    pub fn of(run: &Path) -> Self {
        Self(run.join("state"))
    }

    /// The state that is there, if any.
    ///
    /// # Errors
    /// When it cannot be read, or is that of another recipe.
    pub fn read(&self, recipe: &Recipe) -> Result<Option<State>> {
        let path = self.0.join("state.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let state: State = serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?;
        if state.recipe != *recipe {
            bail!(
                "{} is the state of another recipe; give another folder with -o, or replace it with --overwrite",
                path.display()
            );
        }
        Ok(Some(state))
    }

    /// The weights and the optimiser of a state.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn load(
        &self,
        state: &State,
        decoder: Decoder,
        optimiser: ModuleOptimizer,
    ) -> Result<(Decoder, ModuleOptimizer)> {
        let [weights, moments] = self.files(state.step);
        let decoder = decoder
            .try_load_file(&weights)
            .map_err(|error| anyhow::anyhow!("cannot read {}: {error:?}", weights.display()))?;
        let optimiser = optimiser
            .load(&moments)
            .map_err(|error| anyhow::anyhow!("cannot read {}: {error:?}", moments.display()))?;
        Ok((decoder, optimiser))
    }

    /// Saves a state and removes the earlier ones. A kill at any time leaves one of the two.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, state: &State, decoder: &Decoder, optimiser: &ModuleOptimizer) -> Result<()> {
        fs::create_dir_all(&self.0).with_context(|| format!("cannot make {}", self.0.display()))?;
        let files = self.files(state.step);
        decoder
            .clone()
            .save_file(&files[0])
            .map_err(|error| anyhow::anyhow!("cannot write {}: {error:?}", files[0].display()))?;
        optimiser
            .save(&files[1])
            .map_err(|error| anyhow::anyhow!("cannot write {}: {error:?}", files[1].display()))?;
        write_json(&self.0.join("state.json"), state)?;
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            let is_old = path.extension().is_some_and(|e| e == "bpk") && !files.contains(&path);
            if is_old {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn files(&self, step: usize) -> [PathBuf; 2] {
        ["weights", "optimiser"].map(|name| self.0.join(format!("{name}-{step:06}.bpk")))
    }
}
