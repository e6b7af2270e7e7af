//! Training a decoder as a recipe says.

use crate::batches::{Batch, Batches, windows_of};
use crate::checkpoint::{State, StateFolder, export};
use crate::corpus::Corpus;
use crate::decoder::{Decoder, Shape, loss};
use crate::files::{self, write_json};
use crate::metrics::{Metric, MetricsLog};
use crate::optimiser::{clip, learning_rate, optimiser};
use crate::page;
use crate::recipe::{Model, Recipe};
use anyhow::{Result, bail};
use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Held-out windows that a loss is measured on.
const HELD_OUT: usize = 256;
/// The file of held-out texts, one a line, of at most a context each.
pub const HELD_OUT_TEXTS: &str = "held-out.jsonl";

/// What a finished run left.
#[derive(Debug)]
pub struct Trained {
    /// What was measured, evaluation by evaluation.
    pub metrics: Vec<Metric>,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// The number of weights.
    pub parameters: usize,
}

/// Trains, or goes on where an earlier run stopped, and writes metrics and checkpoints into a folder.
///
/// # Errors
/// When texts cannot be read, the folder cannot be written or holds another run, or the loss is not a number: the
/// last state is kept.
pub fn train(recipe: &Recipe, out: &Path, device: &Device, overwrite: bool) -> Result<Trained> {
    let _lock = files::claim(out)?;
    if overwrite {
        start_anew(out)?;
    }
    Trainer::open(recipe, out, device)?.run()
}

/// Removes what an earlier run left, and nothing else.
fn start_anew(out: &Path) -> Result<()> {
    for entry in fs::read_dir(out)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_ours = name == "state" || name == "plots" || name.starts_with("checkpoint-");
        if is_ours && path.is_dir() {
            fs::remove_dir_all(&path)?;
        } else if ["metrics.jsonl", "run.json", "report.html", HELD_OUT_TEXTS].contains(&name.as_str()) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

struct Trainer<'a> {
    recipe: &'a Recipe,
    out: &'a Path,
    device: Device,
    corpus: Corpus,
    shape: Shape,
    decoder: Decoder,
    optimiser: ModuleOptimizer,
    state: StateFolder,
    log: MetricsLog,
    first: usize,
    steps: usize,
}

impl<'a> Trainer<'a> {
    fn open(recipe: &'a Recipe, out: &'a Path, device: &Device) -> Result<Self> {
        let device = device.clone().autodiff();
        let state = StateFolder::of(out);
        let earlier = state.read(recipe)?;
        if earlier.is_none() && out.join("metrics.jsonl").exists() {
            bail!(
                "{} has metrics and no state; give another folder with -o, or replace it with --overwrite",
                out.display()
            );
        }
        let corpus = Corpus::of(&recipe.data, recipe.model.context, recipe.seed)?;
        let decoder = Decoder::new(&recipe.model, corpus.tokenizer.vocabulary(), recipe.seed, &device);
        let optimiser = optimiser(&recipe.training);
        let first = earlier.as_ref().map_or(0, |state| state.step);
        let (decoder, optimiser) = match earlier {
            Some(earlier) => state.load(&earlier, decoder, optimiser)?,
            None => (decoder, optimiser),
        };
        write_held_out(&out.join(HELD_OUT_TEXTS), &corpus)?;
        let log = MetricsLog::open(&out.join("metrics.jsonl"), first)?;
        let shape = Shape::of(&recipe.model, &device);
        Ok(Self {
            recipe,
            out,
            device,
            corpus,
            shape,
            decoder,
            optimiser,
            state,
            log,
            first,
            steps: recipe.steps(),
        })
    }

    fn run(mut self) -> Result<Trained> {
        let training = &self.recipe.training;
        let progress = files::bar(&self.recipe.name, self.first, self.steps);
        let tokens = self.corpus.training.clone();
        let mut batches = Batches::of(&tokens, self.recipe.model.context, training.batch, self.recipe.seed);
        let (mut losses, began) = (Vec::new(), Instant::now());
        for step in self.first..self.steps {
            let epoch = batches.epoch(step);
            let dropout = self.recipe.dropout(step, epoch);
            let rate = learning_rate(training, step, self.steps);
            let (loss, norm) = self.step(step, &batches.at(step), rate, dropout)?;
            losses.push(loss);
            let done = step + 1;
            progress.set_position(done as u64);
            if is_due(done, self.steps, training.evaluations) {
                let validation_loss = self.validation_loss()?;
                self.log.add(Metric {
                    step: done,
                    tokens: done * training.batch * self.recipe.model.context,
                    epoch,
                    training_loss: losses.iter().sum::<f64>() / losses.len() as f64,
                    validation_loss,
                    learning_rate: rate,
                    gradient_norm: norm,
                    seconds: began.elapsed().as_secs_f64(),
                })?;
                losses.clear();
                progress.set_message(format!("held-out loss {validation_loss:.3}"));
                self.save(done)?;
            }
        }
        progress.finish_and_clear();
        self.finish(began.elapsed().as_secs_f64())
    }

    /// One step; the loss and the norm of the gradient.
    fn step(&mut self, step: usize, batch: &Batch, rate: f64, dropout: f64) -> Result<(f64, f64)> {
        // What is dropped depends on seed and step alone.
        self.device.seed(self.recipe.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ step as u64);
        let Recipe { model, training, .. } = self.recipe;
        let tokens = tokens(&batch.inputs, model.context, &self.device);
        let (logits, uneven) = self.decoder.forward_balanced(&self.shape, tokens, dropout);
        let loss = loss(logits, targets(&batch.targets, &self.device), training.label_smoothing);
        let found = f64::from(loss.clone().into_scalar::<f32>());
        if !found.is_finite() {
            bail!(
                "the loss is {found} at step {step}; {} has the last state before. A smaller training.learning-rate, a longer \
                 warmup or a smaller clip may help",
                self.out.display()
            );
        }
        let total = match uneven {
            Some(uneven) => loss + uneven.mul_scalar(model.balance.unwrap_or(Model::BALANCE)),
            None => loss,
        };
        let mut grads = GradientsParams::from_grads(total.backward(), &self.decoder);
        let norm = clip(&mut grads, &self.decoder, training.clip);
        if !norm.is_finite() {
            bail!(
                "the gradient's norm is {norm} at step {step}; {} has the last state before. A smaller training.learning-rate or \
                 model.balance may help",
                self.out.display()
            );
        }
        self.decoder = self.optimiser.step(rate, self.decoder.clone(), grads);
        Ok((found, norm))
    }

    /// The mean loss over held-out windows, without dropout.
    fn validation_loss(&self) -> Result<f64> {
        let Recipe { model, training, .. } = self.recipe;
        let tokens_held_out = &self.corpus.validation;
        let windows: Vec<usize> = (0..(tokens_held_out.len() - 1) / model.context).take(HELD_OUT).collect();
        let decoder = self.decoder.valid();
        let plain = self.device.clone();
        let mut sum = 0.0;
        for windows in windows.chunks(training.batch) {
            let batch = windows_of(tokens_held_out, model.context, windows);
            let logits = decoder.forward(&self.shape, tokens(&batch.inputs, model.context, &plain), 0.0);
            let loss = loss(logits, targets(&batch.targets, &plain), 0.0);
            sum += f64::from(loss.into_scalar::<f32>()) * windows.len() as f64;
        }
        Ok(sum / windows.len() as f64)
    }

    fn save(&self, done: usize) -> Result<()> {
        if is_due(done, self.steps, self.recipe.training.checkpoints) {
            export(&self.checkpoint(done), &self.decoder, &self.recipe.model, &self.corpus.tokenizer)?;
        }
        let state = State { recipe: self.recipe.clone(), step: done };
        self.state.save(&state, &self.decoder, &self.optimiser)
    }

    fn checkpoint(&self, done: usize) -> PathBuf {
        self.out.join(format!("checkpoint-{done:06}"))
    }

    fn finish(self, seconds: f64) -> Result<Trained> {
        let (metrics, parameters) = (self.log.read()?, self.decoder.num_params());
        let run = json!({
            "fathom-lab": env!("CARGO_PKG_VERSION"),
            "status": "complete",
            "recipe": self.recipe,
            "conclusion": page::answer(&metrics),
            "parameters": parameters,
            "vocabulary": self.corpus.tokenizer.vocabulary(),
            "unique-tokens": self.corpus.training.len(),
            "held-out-tokens": self.corpus.validation.len(),
            "steps": self.steps,
            "seconds": seconds,
        });
        let path = self.out.join("run.json");
        if self.first < self.steps || !path.exists() {
            write_json(&path, &run)?;
            page::write(self.recipe, &metrics, parameters, self.out)?;
        }
        Ok(Trained { metrics, checkpoint: self.checkpoint(self.steps), parameters })
    }
}

/// The held-out texts as `fathom measure --data` reads them.
fn write_held_out(path: &Path, corpus: &Corpus) -> Result<()> {
    let mut lines = String::new();
    for text in &corpus.held_out {
        lines += &(json!({"text": text}).to_string() + "\n");
    }
    if !path.exists() { files::write(path, lines.as_bytes()) } else { Ok(()) }
}

/// Whether something that happens `times` times over the steps is due after `done` of them.
fn is_due(done: usize, steps: usize, times: usize) -> bool {
    done == steps || done * times / steps > (done - 1) * times / steps
}

fn tokens(tokens: &[u32], context: usize, device: &Device) -> Tensor<2, Int> {
    let batch = tokens.len() / context;
    let tokens: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
    Tensor::from_data(TensorData::new(tokens, [batch, context]), device)
}

fn targets(tokens: &[u32], device: &Device) -> Tensor<1, Int> {
    let count = tokens.len();
    let tokens: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
    Tensor::from_data(TensorData::new(tokens, [count]), device)
}
