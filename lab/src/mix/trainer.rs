//! Training on a mixture, fixed or controlled.

use super::arithmetic::{END, Problem, VOCABULARY};
use super::recipe::{Control, Recipe};
use crate::decoder::{Decoder, Shape, loss};
use crate::optimiser::{clip, learning_rate, optimiser};
use crate::random::{stream, uniform};
use anyhow::{Result, anyhow, bail};
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use fathom_laws::mixture::{Bound, Controller, Weights};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Streams of random numbers of a seed: weights, problems of a step, the two sets, and samples.
const PROBLEMS: u64 = 1 << 32;
const DEVELOPMENT: u64 = 1;
const TEST: u64 = 2;
const SAMPLES: u64 = 1 << 33;

/// How weights are set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mixture {
    /// This weight of short solutions throughout.
    Fixed(f64),
    /// By the controller, between what training on short and on long solutions alone led to.
    Controlled {
        /// Short ones.
        short: Bound,
        /// Long ones.
        long: Bound,
    },
}

/// A measurement on the development set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measured {
    /// Steps that are done.
    pub step: usize,
    /// The mean training loss since the measurement before, in nats per token of a solution.
    pub loss: f64,
    /// Mean length and accuracy of sampled solutions.
    pub development: Bound,
    /// The weight of short solutions from here on.
    pub short: f64,
}

/// A finished training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Run {
    /// The recipe.
    pub recipe: Recipe,
    /// The seed.
    pub seed: u64,
    /// The mixture.
    pub mixture: Mixture,
    /// The measurements on the way.
    pub curve: Vec<Measured>,
    /// Mean length and accuracy on the test set.
    pub test: Bound,
    /// How long it took.
    pub seconds: f64,
}

struct Trainer<'a> {
    recipe: &'a Recipe,
    seed: u64,
    device: Device,
    shape: Shape,
    decoder: Decoder,
}

/// Trains on a mixture; `tick` is called after each step.
///
/// # Errors
/// When the loss is not a number, or the controller refuses its bounds.
pub(crate) fn train(
    recipe: &Recipe,
    seed: u64,
    mixture: Mixture,
    device: &Device,
    tick: &dyn Fn(),
) -> Result<Run> {
    let began = std::time::Instant::now();
    let device = device.clone().autodiff();
    let model = recipe.decoder().model;
    let shape = Shape::of(&model, &device);
    let decoder = Decoder::new(&model, VOCABULARY, seed, &device);
    let mut trainer = Trainer { recipe, seed, device, shape, decoder };
    let curve = trainer.run(mixture, tick)?;
    let test = trainer.measure(TEST, recipe.control.test, recipe.training.steps);
    let seconds = began.elapsed().as_secs_f64();
    Ok(Run { recipe: recipe.clone(), seed, mixture, curve, test, seconds })
}

impl Trainer<'_> {
    fn run(&mut self, mixture: Mixture, tick: &dyn Fn()) -> Result<Vec<Measured>> {
        let Control { every, development, rate, floor, .. } = self.recipe.control;
        let (controller, mut weights) = match mixture {
            Mixture::Fixed(short) => (None, Weights { short, long: 1.0 - short }),
            Mixture::Controlled { short, long } => {
                let controller = Controller::new(short, long).and_then(|c| c.rate(rate)?.floor(floor));
                (Some(controller.map_err(|what| anyhow!("the controller: {what}"))?), Weights::default())
            }
        };
        let training = self.recipe.decoder().training;
        let mut optimiser = optimiser(&training);
        let (mut curve, mut losses) = (Vec::new(), Vec::new());
        for step in 0..self.recipe.training.steps {
            let loss = self.loss(step, weights.short);
            let found = f64::from(loss.clone().into_scalar::<f32>());
            if !found.is_finite() {
                bail!(
                    "the loss is {found} at step {step} (seed {}); a smaller training.learning-rate may help",
                    self.seed
                );
            }
            losses.push(found);
            let mut grads = GradientsParams::from_grads(loss.backward(), &self.decoder);
            clip(&mut grads, &self.decoder, training.clip);
            let rate = learning_rate(&training, step, self.recipe.training.steps);
            self.decoder = optimiser.step(rate, self.decoder.clone(), grads);
            tick();
            let done = step + 1;
            if done % every == 0 || done == self.recipe.training.steps {
                let measured = self.measure(DEVELOPMENT, development, done);
                if let Some(controller) = &controller {
                    weights =
                        controller.step(weights, measured).map_err(|what| anyhow!("step {done}: {what}"))?;
                }
                let loss = losses.iter().sum::<f64>() / losses.len() as f64;
                curve.push(Measured { step: done, loss, development: measured, short: weights.short });
                losses.clear();
            }
        }
        Ok(curve)
    }

    /// The loss of a step's solutions; prompts are read and not learned.
    fn loss(&self, step: usize, short: f64) -> Tensor<1> {
        let mut random = stream(self.seed, PROBLEMS + step as u64);
        let mut examples = Vec::new();
        for _ in 0..self.recipe.training.batch {
            let problem = Problem::random(self.recipe.problems.digits, &mut random);
            let solution = if uniform(&mut random) < short { problem.short() } else { problem.long() };
            examples.push((problem.prompt(), solution));
        }
        let texts: Vec<Vec<u32>> =
            examples.iter().map(|(prompt, solution)| [&prompt[..], solution].concat()).collect();
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        for (i, (prompt, solution)) in examples.iter().enumerate() {
            rows.extend((0..solution.len()).map(|at| (i * longest + prompt.len() - 1 + at) as i32));
            targets.extend(solution.iter().map(|token| *token as i32));
        }
        let count = rows.len();
        let logits = rows_of(self.logits(&self.decoder, &texts), rows, &self.device);
        let targets: Tensor<1, Int> = Tensor::from_data(TensorData::new(targets, [count]), &self.device);
        loss(logits.unsqueeze_dim(0), targets, 0.0)
    }

    /// Logits `[texts, longest, vocabulary]`; short texts are filled up at the end, which nothing before sees.
    fn logits(&self, decoder: &Decoder, texts: &[Vec<u32>]) -> Tensor<3> {
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        let filled = |text: &Vec<u32>| {
            let mut text: Vec<i32> = text.iter().map(|token| *token as i32).collect();
            text.resize(longest, END as i32);
            text
        };
        let tokens: Vec<i32> = texts.iter().flat_map(filled).collect();
        let tokens = Tensor::from_data(TensorData::new(tokens, [texts.len(), longest]), &self.device);
        decoder.forward(&self.shape, tokens, 0.0)
    }

    /// Mean length and accuracy of solutions of a set, sampled after `done` steps.
    fn measure(&self, set: u64, count: usize, done: usize) -> Bound {
        let mut random = stream(self.seed, set);
        let problems: Vec<Problem> =
            (0..count).map(|_| Problem::random(self.recipe.problems.digits, &mut random)).collect();
        let solutions = self.solutions(&problems, &mut stream(self.seed, SAMPLES + 4 * done as u64 + set));
        let length: usize = solutions.iter().map(Vec::len).sum();
        let right =
            problems.iter().zip(&solutions).filter(|(problem, solution)| problem.is_solved_by(solution));
        Bound { length: length as f64 / count as f64, accuracy: right.count() as f64 / count as f64 }
    }

    /// Solutions as the decoder writes them, to their end or as far as its context reaches.
    fn solutions(&self, problems: &[Problem], random: &mut ChaCha8Rng) -> Vec<Vec<u32>> {
        let decoder = self.decoder.valid();
        let context = self.recipe.decoder().model.context;
        let prompts: Vec<Vec<u32>> = problems.iter().map(Problem::prompt).collect();
        let mut texts = prompts.clone();
        loop {
            let is_open = |i: &usize| {
                let text: &Vec<u32> = &texts[*i];
                text.len() < context && (text.len() == prompts[*i].len() || text.last() != Some(&END))
            };
            let open: Vec<usize> = (0..texts.len()).filter(is_open).collect();
            if open.is_empty() {
                break;
            }
            let read: Vec<Vec<u32>> = open.iter().map(|i| texts[*i].clone()).collect();
            let longest = read.iter().map(Vec::len).max().unwrap_or(0);
            let ends =
                read.iter().enumerate().map(|(i, text)| (i * longest + text.len() - 1) as i32).collect();
            let logits = rows_of(self.logits(&decoder, &read), ends, &self.device);
            let logits: Vec<f32> = logits.try_into_vec_as().expect("logits are f32 on every device");
            for (i, logits) in open.into_iter().zip(logits.chunks(VOCABULARY)) {
                texts[i].push(sample(logits, self.recipe.control.temperature, uniform(random)));
            }
        }
        texts.iter().zip(&prompts).map(|(text, prompt)| text[prompt.len()..].to_vec()).collect()
    }
}

/// Rows of logits `[texts, longest, vocabulary]`, counted through all texts: `[rows, vocabulary]`.
fn rows_of(logits: Tensor<3>, rows: Vec<i32>, device: &Device) -> Tensor<2> {
    let [texts, longest, vocabulary] = logits.dims();
    let count = rows.len();
    let rows: Tensor<1, Int> = Tensor::from_data(TensorData::new(rows, [count]), device);
    logits.reshape([texts * longest, vocabulary]).select(0, rows)
}

/// The token at which the cumulative probability reaches `at`, from 0 to 1.
fn sample(logits: &[f32], temperature: f64, at: f64) -> u32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> =
        logits.iter().map(|logit| (f64::from(logit - most) / temperature).exp()).collect();
    let mut left = at * weights.iter().sum::<f64>();
    for (token, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return token as u32;
        }
    }
    weights.len() as u32 - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_sampled_by_their_probabilities() {
        let logits = [0.0, 2f32.ln(), f32::NEG_INFINITY, 0.0];
        assert_eq!(
            [0.0, 0.24, 0.26, 0.74, 0.76, 0.999].map(|at| sample(&logits, 1.0, at)),
            [0, 0, 1, 1, 3, 3]
        );
        // At half the temperature, 4 of 6 parts.
        assert_eq!([0.16, 0.17, 0.83, 0.84].map(|at| sample(&logits, 0.5, at)), [0, 1, 1, 3]);
    }
}
