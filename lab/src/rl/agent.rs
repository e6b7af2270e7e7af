//! A double deep Q-network (van Hasselt, Guez and Silver, 2016) with residual critics: one critic for all actions, a target
//! critic by Polyak averaging, Adam, and ε-greedy exploration.

use super::critic::{Adam, Critic, Shape};
use super::environment::{Environment, World};
use super::recipe::{Agent, Evaluation};
use super::replay::{Batch, Replay, Transition};
use crate::random::{stream, uniform};
use ndarray::{Array2, ArrayView1};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Streams of a seed; the critic's weights have the first.
const WORLD: u64 = 1;
const EXPLORATION: u64 = 2;
const BATCHES: u64 = 3;
const MEASURED: u64 = 4;
/// Evaluation episode i has this stream and i more.
const EVALUATION: u64 = 1 << 32;
/// The most transitions that a TD error is measured on.
const MOST_MEASURED: usize = 2048;

/// Everything that a run depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Setting {
    /// The name of the environment.
    pub environment: String,
    /// The seed.
    pub seed: u64,
    /// The width of the critic.
    pub width: usize,
    /// Its number of blocks.
    pub depth: usize,
    /// Updates per environment step.
    pub updates: usize,
    /// Transitions of an update.
    pub batch: usize,
    /// Environment steps.
    pub steps: usize,
    /// The agent.
    pub agent: Agent,
    /// When and how it is evaluated.
    pub evaluation: Evaluation,
}

/// What is measured of an agent at a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Point {
    /// Environment steps so far.
    pub step: usize,
    /// The mean return of greedy episodes, without discount.
    #[serde(rename = "return")]
    pub score: f64,
    /// The mean squared TD error on transitions of the replay buffer, rewards being divided by the environment's largest.
    pub training_error: f64,
    /// The same on transitions of episodes that were held out from the replay buffer; none before there is one.
    pub validation_error: Option<f64>,
    /// The mean value of the best action, on transitions of the replay buffer.
    pub mean_value: f64,
}

/// A finished run.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    /// The learning curve.
    pub curve: Vec<Point>,
    /// The step at which a value was not a number, which stopped the run.
    pub diverged: Option<usize>,
}

impl Setting {
    /// The critic.
    pub fn shape(&self, environment: &Environment) -> Shape {
        Shape {
            inputs: environment.observations,
            width: self.width,
            inner: self.width * self.agent.expansion,
            blocks: self.depth,
            outputs: environment.actions,
        }
    }

    /// How likely a step is taken at random.
    fn epsilon(&self, step: usize) -> f64 {
        let Agent { warm_up, exploration, last_epsilon, .. } = self.agent;
        let progress = step.saturating_sub(warm_up) as f64 / exploration.max(1) as f64;
        1.0 + (last_epsilon - 1.0) * progress.min(1.0)
    }
}

/// Trains an agent; `tick` is called with each step when it is done.
pub(super) fn learn(setting: &Setting, environment: &Environment, tick: &mut dyn FnMut(usize)) -> Learned {
    let mut learner = Learner::new(setting, environment);
    let mut life = Life::new(setting, environment);
    let mut curve = Vec::new();
    for step in 1..=setting.steps {
        life.step(step, &learner.critic);
        if step > setting.agent.warm_up && life.replay.len() > 0 {
            for _ in 0..setting.updates {
                learner.update(&life.replay);
            }
        }
        let measures = step % setting.evaluation.every == 0;
        if (measures || step == setting.steps) && !learner.is_finite() {
            return Learned { curve, diverged: Some(step) };
        }
        if measures {
            curve.push(learner.measure(step, &life));
        }
        tick(step);
    }
    Learned { curve, diverged: None }
}

/// The critics and their updates.
struct Learner<'a> {
    setting: &'a Setting,
    environment: &'a Environment,
    critic: Critic<f32>,
    target: Critic<f32>,
    adam: Adam,
    batches: ChaCha8Rng,
    measured: ChaCha8Rng,
}

impl<'a> Learner<'a> {
    fn new(setting: &'a Setting, environment: &'a Environment) -> Self {
        let shape = setting.shape(environment);
        let critic = Critic::new(shape, setting.seed);
        Self {
            setting,
            environment,
            target: critic.clone(),
            critic,
            adam: Adam::new(shape.count(), setting.agent.learning_rate),
            batches: stream(setting.seed, BATCHES),
            measured: stream(setting.seed, MEASURED),
        }
    }

    fn update(&mut self, replay: &Replay) {
        let batch = replay.sample(self.setting.batch, &mut self.batches);
        let targets = self.targets(&batch);
        let (_, gradient) = self.critic.loss(batch.before.view(), &batch.actions, &targets);
        self.adam.step(&mut self.critic, &gradient);
        self.target.approach(&self.critic, self.setting.agent.polyak as f32);
    }

    /// The reward and the discounted value that the target critic gives to the action that the critic likes best.
    fn targets(&self, batch: &Batch) -> Vec<f32> {
        let [liked, valued] = [&self.critic, &self.target].map(|critic| critic.values(batch.after.view()));
        let rows = batch.rewards.iter().zip(&batch.terminals).enumerate();
        let target = |(row, (reward, terminal)): (usize, (&f32, &bool))| match terminal {
            true => *reward,
            false => reward + self.setting.agent.discount as f32 * valued[[row, best(liked.row(row))]],
        };
        rows.map(target).collect()
    }

    fn is_finite(&self) -> bool {
        self.critic.is_finite() && self.target.is_finite()
    }

    fn measure(&mut self, step: usize, life: &Life<'_>) -> Point {
        let training = match life.replay.len() {
            0 => None,
            _ => Some(life.replay.sample(MOST_MEASURED, &mut self.measured)),
        };
        let held_out = match life.held_out.len() {
            0 => None,
            count if count <= MOST_MEASURED => Some(life.held_out.all()),
            _ => Some(life.held_out.sample(MOST_MEASURED, &mut self.measured)),
        };
        let mean_value = training.as_ref().map_or(0.0, |batch| {
            let values = self.critic.values(batch.before.view());
            mean(values.outer_iter().map(|row| f64::from(row[best(row)])))
        });
        Point {
            step,
            score: score(&self.critic, self.setting, self.environment),
            training_error: training.map_or(0.0, |batch| self.error(&batch)),
            validation_error: held_out.map(|batch| self.error(&batch)),
            mean_value,
        }
    }

    /// The mean squared TD error.
    fn error(&self, batch: &Batch) -> f64 {
        let values = self.critic.values(batch.before.view());
        let rows = self.targets(batch).into_iter().zip(&batch.actions).enumerate();
        mean(rows.map(|(row, (target, action))| f64::from(values[[row, *action]] - target).powi(2)))
    }
}

/// What an agent goes through: its world, and the transitions that it remembers or holds out.
struct Life<'a> {
    setting: &'a Setting,
    environment: &'a Environment,
    world: Box<dyn World>,
    moves: ChaCha8Rng,
    exploration: ChaCha8Rng,
    observation: Vec<f32>,
    episode: usize,
    episode_steps: usize,
    replay: Replay,
    held_out: Replay,
}

impl<'a> Life<'a> {
    fn new(setting: &'a Setting, environment: &'a Environment) -> Self {
        let mut moves = stream(setting.seed, WORLD);
        let mut world = environment.world();
        world.reset(&mut moves);
        let mut observation = vec![0.0; environment.observations];
        world.observe(&mut observation);
        let Agent { buffer, held_out, .. } = setting.agent;
        Self {
            setting,
            environment,
            world,
            moves,
            exploration: stream(setting.seed, EXPLORATION),
            observation,
            episode: 0,
            episode_steps: 0,
            replay: Replay::new(environment.observations, buffer),
            // Of as many episodes as the replay buffer has in proportion.
            held_out: Replay::new(environment.observations, buffer.div_ceil(held_out - 1)),
        }
    }

    fn step(&mut self, step: usize, critic: &Critic<f32>) {
        let action = match uniform(&mut self.exploration) < self.setting.epsilon(step - 1) {
            true => (uniform(&mut self.exploration) * self.environment.actions as f64) as usize,
            false => greedy(critic, &self.observation),
        };
        let found = self.world.step(action, &mut self.moves);
        let mut next = vec![0.0; self.environment.observations];
        self.world.observe(&mut next);
        let reward = (found.reward / self.environment.largest_reward) as f32;
        let terminal = found.terminal;
        let transition = Transition { observation: &self.observation, action, reward, next: &next, terminal };
        // The second episode is held out, then every n-th, so that there are held-out transitions soon.
        match self.episode % self.setting.agent.held_out == 1 {
            true => self.held_out.push(transition),
            false => self.replay.push(transition),
        }
        self.observation = next;
        self.episode_steps += 1;
        if terminal || self.episode_steps == self.environment.horizon {
            self.episode += 1;
            self.episode_steps = 0;
            self.world.reset(&mut self.moves);
            self.world.observe(&mut self.observation);
        }
    }
}

/// The mean return of greedy episodes, whose starts are the same for all agents of a seed.
fn score(critic: &Critic<f32>, setting: &Setting, environment: &Environment) -> f64 {
    let episodes = 0..setting.evaluation.episodes;
    let mut running: Vec<(Box<dyn World>, ChaCha8Rng)> = episodes
        .map(|episode| {
            let (mut world, mut random) =
                (environment.world(), stream(setting.seed, EVALUATION + episode as u64));
            world.reset(&mut random);
            (world, random)
        })
        .collect();
    let mut total = 0.0;
    for _ in 0..environment.horizon {
        if running.is_empty() {
            break;
        }
        let mut seen = Array2::zeros([running.len(), environment.observations]);
        for ((world, _), mut row) in running.iter().zip(seen.outer_iter_mut()) {
            world.observe(row.as_slice_mut().expect("a row of a new array is contiguous"));
        }
        let values = critic.values(seen.view());
        let mut row = 0;
        running.retain_mut(|(world, random)| {
            let step = world.step(best(values.row(row)), random);
            row += 1;
            total += step.reward;
            !step.terminal
        });
    }
    total / setting.evaluation.episodes as f64
}

fn greedy(critic: &Critic<f32>, observation: &[f32]) -> usize {
    let row = ArrayView1::from(observation);
    best(critic.values(row.insert_axis(ndarray::Axis(0))).row(0))
}

/// The first action of the largest value.
fn best(values: ArrayView1<'_, f32>) -> usize {
    let mut found = 0;
    for (action, value) in values.iter().enumerate() {
        if *value > values[found] {
            found = action;
        }
    }
    found
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}
