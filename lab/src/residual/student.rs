//! Training a student on what its teacher says.

use super::network::{Network, divergence};
use super::recipe::{Kind, Recipe, Size, Training};
use crate::random::{normal, stream};
use anyhow::{Result, bail};
use burn::module::Module;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// Points of a learning curve.
const CURVE: usize = 20;
/// Inputs of which a loss is measured at once.
const CHUNK: usize = 1024;
/// The most memory for what a teacher says in all steps, in numbers.
const KEPT: usize = 1 << 27;
/// The stream of the inputs that losses are measured on; step i has stream i + 2.
const EVALUATION: u64 = 1;

/// Everything that a student depends on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Setting {
    /// Whether the teacher's layers share weights.
    pub kind: Kind,
    /// The seed of teacher, student and inputs.
    pub seed: u64,
    /// The student's layers.
    pub layers: usize,
    /// The teacher's layers.
    pub teacher_layers: usize,
    /// The sizes of both.
    pub size: Size,
    /// The steps.
    pub training: Training,
}

/// A trained student.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Student {
    /// What it depends on.
    pub setting: Setting,
    /// Its divergence from the teacher on inputs that it was not trained on, in nats.
    pub loss: f64,
    /// That of a student that was not trained.
    pub first_loss: f64,
    /// Steps, and the mean training loss of those since the point before.
    pub curve: Vec<(usize, f64)>,
    /// The number of weights.
    pub parameters: usize,
    /// How long the training took.
    pub seconds: f64,
}

/// A teacher with the inputs of all steps.
pub(crate) struct Lessons {
    teacher: Network,
    seed: u64,
    width: usize,
    training: Training,
    device: Device,
    /// The logits of the steps so far, which all students of a teacher need.
    said: Vec<Tensor<2>>,
}

impl Lessons {
    pub(crate) fn new(recipe: &Recipe, kind: Kind, seed: u64, device: &Device) -> Self {
        Self {
            teacher: Network::teacher(&recipe.size, recipe.teacher.layers, kind, teacher_seed(seed), device),
            seed,
            width: recipe.size.width,
            training: recipe.training,
            device: device.clone(),
            said: Vec::new(),
        }
    }

    /// Inputs and the teacher's logits of a step.
    fn of_step(&mut self, step: usize) -> [Tensor<2>; 2] {
        let inputs = self.inputs(step as u64 + 2, self.training.batch);
        if let Some(said) = self.said.get(step) {
            return [inputs, said.clone()];
        }
        let said = self.teacher.forward(inputs.clone());
        let numbers = said.dims()[0] * said.dims()[1];
        if step == self.said.len() && self.training.steps * numbers <= KEPT {
            self.said.push(said.clone());
        }
        [inputs, said]
    }

    /// Standard normal inputs `[rows, width]`.
    fn inputs(&self, of: u64, rows: usize) -> Tensor<2> {
        let mut random = stream(self.seed, of);
        let values: Vec<f32> = (0..rows * self.width).map(|_| normal(&mut random) as f32).collect();
        Tensor::from_data(TensorData::new(values, [rows, self.width]), &self.device)
    }

    /// The divergence of a student on inputs of its own.
    fn evaluate(&self, student: &Network) -> f64 {
        let rows = self.training.evaluation;
        let inputs = self.inputs(EVALUATION, rows);
        let mut sum = 0.0;
        for from in (0..rows).step_by(CHUNK) {
            let count = CHUNK.min(rows - from);
            let chunk = inputs.clone().slice([from..from + count, 0..self.width]);
            let loss = divergence(self.teacher.forward(chunk.clone()), student.forward(chunk));
            sum += f64::from(loss.into_scalar::<f32>()) * count as f64;
        }
        sum / rows as f64
    }
}

/// A student begins with other weights than its teacher.
fn teacher_seed(seed: u64) -> u64 {
    seed ^ 0x9e37_79b9_7f4a_7c15
}

/// Trains a student; `tick` is called after each step.
///
/// # Errors
/// When the loss is not a number.
pub(crate) fn train(setting: Setting, lessons: &mut Lessons, tick: &dyn Fn()) -> Result<Student> {
    let began = std::time::Instant::now();
    let Setting { training, size, layers, seed, .. } = setting;
    let device = lessons.device.clone().autodiff();
    let mut student = Network::student(&size, layers, seed, &device);
    let first_loss = lessons.evaluate(&student.valid());
    let mut optimiser = AdamConfig::new().init();
    let (mut curve, mut losses) = (Vec::new(), Vec::new());
    for step in 0..training.steps {
        let [inputs, said] = lessons.of_step(step);
        let loss = divergence(Tensor::from_inner(said), student.forward(Tensor::from_inner(inputs)));
        let found = f64::from(loss.clone().into_scalar::<f32>());
        if !found.is_finite() {
            bail!(
                "the loss of the student of {layers} layers ({}, seed {seed}) is {found} at step {step}; a smaller \
                 training.learning-rate may help",
                setting.kind.name()
            );
        }
        losses.push(found);
        let grads = GradientsParams::from_grads(loss.backward(), &student);
        student = optimiser.step(rate(&training, step), student, grads);
        let done = step + 1;
        if done * CURVE / training.steps > step * CURVE / training.steps {
            curve.push((done, losses.iter().sum::<f64>() / losses.len() as f64));
            losses.clear();
        }
        tick();
    }
    let loss = lessons.evaluate(&student.valid());
    if !loss.is_finite() {
        bail!("the loss of the student of {layers} layers ({}, seed {seed}) is {loss}", setting.kind.name());
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Student { setting, loss, first_loss, curve, parameters: student.num_params(), seconds })
}

fn rate(training: &Training, step: usize) -> f64 {
    let progress = step as f64 / training.steps as f64;
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
    training.learning_rate * (training.last_rate + (1.0 - training.last_rate) * cosine)
}
