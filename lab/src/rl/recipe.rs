//! Environments, grid, agent and evaluation.

use super::agent::Setting;
use super::environment::{ENVIRONMENTS, Environment};
use crate::settings::{self, check_list};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The largest width, depth and so on that is taken for meant.
const MOST: usize = 1 << 16;

/// A grid of agents in built-in environments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recipe {
    /// The name.
    pub name: String,
    /// The seeds of critics, environments, exploration and batches.
    pub seeds: Vec<u64>,
    /// The environments by name, with what is tried in each.
    pub environment: BTreeMap<String, Task>,
    /// What is tried in every environment that does not say otherwise.
    pub grid: Grid,
    /// The agent.
    #[serde(default)]
    pub agent: Agent,
    /// When and how agents are evaluated.
    #[serde(default)]
    pub evaluation: Evaluation,
}

/// An environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Task {
    /// Environment steps of a run.
    pub steps: usize,
    /// The return that is to be reached.
    pub threshold: f64,
    /// Widths in place of those of the grid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub widths: Option<Vec<usize>>,
    /// Numbers of blocks in place of those of the grid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depths: Option<Vec<usize>>,
    /// Updates per step in place of those of the grid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updates: Option<Vec<usize>>,
    /// Batch sizes in place of those of the grid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batches: Option<Vec<usize>>,
}

/// Every combination is tried, with every seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Grid {
    /// Widths of the critic.
    pub widths: Vec<usize>,
    /// Numbers of its blocks.
    pub depths: Vec<usize>,
    /// Updates per environment step.
    pub updates: Vec<usize>,
    /// Transitions of an update.
    pub batches: Vec<usize>,
}

/// The agent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Agent {
    /// The inner width of a block, in widths of the critic.
    pub expansion: usize,
    /// The learning rate of Adam.
    pub learning_rate: f64,
    /// The discount of a step.
    pub discount: f64,
    /// The share by which the target critic approaches the critic in an update.
    pub polyak: f64,
    /// The most transitions of the replay buffer.
    pub buffer: usize,
    /// Steps at random before the first update.
    pub warm_up: usize,
    /// Steps in which the share of random actions then falls, linearly.
    pub exploration: usize,
    /// The share of random actions at the end.
    pub last_epsilon: f64,
    /// One of this many episodes is held out from the replay buffer.
    pub held_out: usize,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            expansion: 4,
            learning_rate: 3e-4,
            discount: 0.97,
            polyak: 0.005,
            buffer: 100_000,
            warm_up: 500,
            exploration: 1500,
            last_epsilon: 0.05,
            held_out: 5,
        }
    }
}

/// When and how agents are evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Evaluation {
    /// Environment steps between two evaluations.
    pub every: usize,
    /// Greedy episodes of an evaluation.
    pub episodes: usize,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self { every: 100, episodes: 10 }
    }
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// When the file cannot be read; every key that is not understood, all at once; a value that makes no sense, by its key.
    pub fn read(path: &Path) -> Result<Self> {
        settings::read(path, Self::check)
    }

    fn check(&self) -> Result<()> {
        check_list("seeds", &self.seeds)?;
        if self.environment.is_empty() {
            bail!("no environment is given; give [environment.NAME] for one or more of {}", known());
        }
        let unknown: Vec<&str> = self
            .environment
            .keys()
            .map(String::as_str)
            .filter(|name| Environment::named(name).is_none())
            .collect();
        if !unknown.is_empty() {
            bail!("unknown environments: {}; there are {}", unknown.join(", "), known());
        }
        self.agent.check()?;
        for (key, value) in
            [("evaluation.every", self.evaluation.every), ("evaluation.episodes", self.evaluation.episodes)]
        {
            if value == 0 || (key == "evaluation.episodes" && value > MOST) {
                bail!("{key} is {value}; give 1 to {MOST}");
            }
        }
        self.environment.iter().try_for_each(|(name, task)| self.check_task(name, task))
    }

    fn check_task(&self, name: &str, task: &Task) -> Result<()> {
        let Agent { warm_up, buffer, .. } = self.agent;
        let steps = task.steps;
        if steps <= warm_up {
            bail!(
                "environment.{name}.steps is {steps}, and nothing is learned in the first {warm_up} (agent.warm-up); give more \
                 steps or a shorter warm-up"
            );
        }
        if self.evaluation.every > steps {
            bail!(
                "evaluation.every is {}, more than environment.{name}.steps ({steps}): nothing would be measured",
                self.evaluation.every
            );
        }
        if !task.threshold.is_finite() {
            bail!("environment.{name}.threshold must be a number");
        }
        let own = [&task.widths, &task.depths, &task.updates, &task.batches];
        let Grid { widths, depths, updates, batches } = self.grid_of(task);
        let lists = [("widths", widths), ("depths", depths), ("updates", updates), ("batches", batches)];
        for ((list, values), own) in lists.iter().zip(own) {
            let key = match own {
                Some(_) => format!("environment.{name}.{list}"),
                None => format!("grid.{list}"),
            };
            check_list(&key, values)?;
            // Layer norm leaves nothing of a single number.
            let least = if *list == "widths" { 2 } else { 1 };
            if let Some(value) = values.iter().find(|value| **value < least) {
                bail!("{key} has {value}; give at least {least}");
            }
            if let Some(batch) = values.iter().find(|batch| *list == "batches" && **batch > buffer) {
                bail!("{key} has {batch}, more than the replay buffer can hold (agent.buffer, {buffer})");
            }
            if let Some(value) = values.iter().find(|value| **value > MOST) {
                bail!("{key} has {value}; give at most {MOST}");
            }
        }
        Ok(())
    }

    /// What is tried in an environment.
    pub fn grid_of(&self, task: &Task) -> Grid {
        let of = |own: &Option<Vec<usize>>, all: &[usize]| {
            let mut values = own.clone().unwrap_or_else(|| all.to_vec());
            values.sort_unstable();
            values
        };
        Grid {
            widths: of(&task.widths, &self.grid.widths),
            depths: of(&task.depths, &self.grid.depths),
            updates: of(&task.updates, &self.grid.updates),
            batches: of(&task.batches, &self.grid.batches),
        }
    }

    /// All runs, by environment, width, depth, updates, batch size and seed.
    pub fn settings(&self) -> Vec<Setting> {
        let mut all = Vec::new();
        for (name, task) in &self.environment {
            let Grid { updates, batches, .. } = self.grid_of(task);
            let mut critics = Vec::new();
            for [width, depth] in self.grid_of(task).critics() {
                critics.extend(updates.iter().map(|updates| [width, depth, *updates]));
            }
            for [width, depth, updates] in critics {
                for batch in &batches {
                    all.extend(self.seeds.iter().map(|seed| Setting {
                        environment: name.clone(),
                        seed: *seed,
                        width,
                        depth,
                        updates,
                        batch: *batch,
                        steps: task.steps,
                        agent: self.agent,
                        evaluation: self.evaluation,
                    }));
                }
            }
        }
        all
    }
}

impl Grid {
    /// Width and depth of every critic.
    pub fn critics(&self) -> Vec<[usize; 2]> {
        let of = |width: usize| self.depths.iter().map(move |depth| [width, *depth]);
        self.widths.iter().flat_map(|width| of(*width)).collect()
    }
}

impl Agent {
    fn check(&self) -> Result<()> {
        for (key, value) in
            [("expansion", self.expansion), ("buffer", self.buffer), ("warm-up", self.warm_up)]
        {
            if value == 0 {
                bail!("agent.{key} is 0; give at least 1");
            }
        }
        if self.expansion > MOST {
            bail!("agent.expansion is {}; give at most {MOST}", self.expansion);
        }
        if self.held_out < 2 {
            bail!("agent.held-out is {}; with less than 2, no episode is left to learn from", self.held_out);
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            bail!("agent.learning-rate must be a positive number");
        }
        if !(0.0..1.0).contains(&self.discount) {
            bail!("agent.discount is {}; give a number from 0 to below 1", self.discount);
        }
        if !(self.polyak > 0.0 && self.polyak <= 1.0) {
            bail!("agent.polyak is {}; give a share above 0, at most 1", self.polyak);
        }
        if !(0.0..=1.0).contains(&self.last_epsilon) {
            bail!("agent.last-epsilon is {}; give a share from 0 to 1", self.last_epsilon);
        }
        Ok(())
    }
}

fn known() -> String {
    ENVIRONMENTS.map(|environment| environment.name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = 'a'\nseeds = [1, 2]\n[environment.chain]\nsteps = 900\nthreshold = 0.9\nbatches = [8]\n\
                         [environment.pendulum]\nsteps = 700\nthreshold = -200.0\n\
                         [grid]\nwidths = [8, 4]\ndepths = [1]\nupdates = [1, 2]\nbatches = [8, 32]\n";

    #[test]
    fn every_combination_is_a_run() {
        let recipe: Recipe = settings::parse(SMALL).unwrap();
        recipe.check().unwrap();
        let runs = recipe.settings();
        assert_eq!(runs.len(), 2 * 2 * 2 + 2 * 2 * 2 * 2);
        let first = &runs[0];
        assert_eq!((first.environment.as_str(), first.width, first.steps, first.seed), ("chain", 4, 900, 1));
        assert!(runs.iter().all(|run| run.environment == "pendulum" || run.batch == 8));
        assert_eq!(runs.iter().filter(|run| run.batch == 32).count(), 8);
    }

    #[test]
    fn values_that_make_no_sense_are_named() {
        let refuse = |from: &str, to: &str, part: &str| {
            settings::assert_refused(Recipe::check, SMALL, [from, to], part)
        };
        refuse("[1, 2]\n[env", "[]\n[env", "seeds is empty");
        refuse(
            "environment.chain",
            "environment.chian",
            "unknown environments: chian; there are cart-pole, chain, pendulum",
        );
        refuse("steps = 900", "steps = 400", "environment.chain.steps is 400");
        refuse("threshold = 0.9", "threshold = nan", "environment.chain.threshold");
        refuse("[8, 32]", "[8, 200000]", "grid.batches has 200000, more than the replay buffer can hold");
        refuse("batches = [8]", "batches = [0]", "environment.chain.batches has 0");
        refuse("[8, 4]", "[8, 1]", "grid.widths has 1; give at least 2");
        refuse("[8, 4]", "[8, 8]", "grid.widths has 8 twice");
        refuse("[grid]", "[evaluation]\nevery = 800\n[grid]", "more than environment.pendulum.steps (700)");
        refuse("[grid]", "[evaluation]\nepisodes = 0\n[grid]", "evaluation.episodes is 0");
        for (line, part) in [
            ("held-out = 1", "agent.held-out is 1"),
            ("discount = 1.0", "agent.discount is 1"),
            ("polyak = 0.0", "agent.polyak is 0"),
            ("learning-rate = -1.0", "agent.learning-rate"),
            ("last-epsilon = 2.0", "agent.last-epsilon is 2"),
            ("warm-up = 0", "agent.warm-up is 0"),
        ] {
            refuse("[grid]", &format!("[agent]\n{line}\n[grid]"), part);
        }
        let unknown = "batches = [8, 32]\ndepth = 1\n[agent]\nwarmup = 1";
        refuse("batches = [8, 32]", unknown, "unknown keys: agent.warmup, grid.depth");
        settings::assert_refused(
            Recipe::check,
            "name = 'a'\nseeds = [1]\n[environment]\n[grid]\nwidths = [2]\ndepths = [1]\nupdates = [1]\nbatches = [1]\n",
            ["[2]", "[4]"],
            "no environment is given",
        );
    }
}
