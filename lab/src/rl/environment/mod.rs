//! Built-in environments: small physics with a few actions, seeded.

mod cart_pole;
mod chain;
mod pendulum;

use self::cart_pole::CartPole;
use self::chain::Chain;
use self::pendulum::Pendulum;
use rand_chacha::ChaCha8Rng;

/// An environment with a state; an episode begins with [`World::reset`].
pub trait World: Send {
    /// Draws a first state.
    fn reset(&mut self, random: &mut ChaCha8Rng);

    /// Writes what an agent sees of the state.
    fn observe(&self, observation: &mut [f32]);

    /// Takes an action, numbered from 0.
    fn step(&mut self, action: usize, random: &mut ChaCha8Rng) -> Step;
}

/// What follows from an action.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The reward.
    pub reward: f64,
    /// Whether the episode ends in a state of value 0. One that only runs out of time does not.
    pub terminal: bool,
}

/// What an agent knows of an environment beforehand.
#[derive(Clone, Copy, Debug)]
pub struct Environment {
    /// Its name in recipes.
    pub name: &'static str,
    /// The length of an observation.
    pub observations: usize,
    /// The number of actions.
    pub actions: usize,
    /// The most steps of an episode.
    pub horizon: usize,
    /// The largest absolute reward of a step, by which agents divide rewards; returns are not divided.
    pub largest_reward: f64,
    make: fn() -> Box<dyn World>,
}

/// All environments, by name.
pub const ENVIRONMENTS: [Environment; 3] = [
    Environment {
        name: "cart-pole",
        observations: 5,
        actions: cart_pole::FORCES.len(),
        horizon: 250,
        largest_reward: 1.0,
        make: || Box::new(CartPole::default()),
    },
    Environment {
        name: "chain",
        observations: chain::LENGTH,
        actions: 2,
        horizon: 10 * chain::LENGTH,
        largest_reward: 1.0,
        make: || Box::new(Chain::default()),
    },
    Environment {
        name: "pendulum",
        observations: 3,
        actions: pendulum::TORQUES.len(),
        horizon: 200,
        largest_reward: pendulum::LARGEST_COST,
        make: || Box::new(Pendulum::default()),
    },
];

impl Environment {
    /// The environment of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ENVIRONMENTS.iter().find(|environment| environment.name == name)
    }

    /// A world of this kind, which must be reset before it is used.
    pub fn world(&self) -> Box<dyn World> {
        (self.make)()
    }
}

/// An angle as that between -π and π.
fn wrapped(angle: f64) -> f64 {
    use std::f64::consts::{PI, TAU};
    (angle + PI).rem_euclid(TAU) - PI
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    #[test]
    fn every_environment_is_seeded_and_keeps_what_it_promises() {
        for environment in &ENVIRONMENTS {
            let episode = |seed: u64| {
                let (mut world, mut random) = (environment.world(), stream(seed, 0));
                let mut seen = vec![0.0; environment.observations];
                let mut all = Vec::new();
                world.reset(&mut random);
                for i in 0..environment.horizon {
                    let step = world.step(i * 7 / 3 % environment.actions, &mut random);
                    assert!(step.reward.abs() <= environment.largest_reward, "{}", environment.name);
                    world.observe(&mut seen);
                    assert!(seen.iter().all(|value| value.is_finite()));
                    all.push((step.reward.to_bits(), seen.clone()));
                    if step.terminal {
                        break;
                    }
                }
                all
            };
            assert!(episode(1) == episode(1) && episode(1) != episode(2), "{}", environment.name);
            assert_eq!(Environment::named(environment.name).unwrap().observations, environment.observations);
        }
        assert!(Environment::named("pendulums").is_none());
    }

    #[test]
    fn angles_are_wrapped() {
        use std::f64::consts::PI;
        for (angle, expected) in [(0.5, 0.5), (PI + 0.5, 0.5 - PI), (-PI - 0.5, PI - 0.5), (7.0 * PI, -PI)] {
            assert!((wrapped(angle) - expected).abs() < 1e-12, "{angle}");
        }
    }
}
