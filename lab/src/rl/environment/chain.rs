//! A chain of states with one reward, at its end. In each state one of two actions leads forward, the other back, and which
//! one does is different from state to state, so that walking at random takes long.

use super::{Step, World};
use crate::random::uniform;
use rand_chacha::ChaCha8Rng;

/// The states before the end.
pub(super) const LENGTH: usize = 12;
/// How often the other action is taken.
const SLIP: f64 = 0.1;
/// The action that leads forward, in each state.
const FORWARD: [usize; LENGTH] = [1, 0, 0, 1, 1, 1, 0, 1, 0, 0, 1, 0];

/// The state, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Chain(usize);

impl World for Chain {
    fn reset(&mut self, _: &mut ChaCha8Rng) {
        self.0 = 0;
    }

    fn observe(&self, observation: &mut [f32]) {
        for (state, seen) in observation.iter_mut().enumerate() {
            *seen = f32::from(u8::from(state == self.0));
        }
    }

    fn step(&mut self, action: usize, random: &mut ChaCha8Rng) -> Step {
        let slips = uniform(random) < SLIP;
        match (action == FORWARD[self.0]) != slips {
            true if self.0 + 1 == LENGTH => return Step { reward: 1.0, terminal: true },
            true => self.0 += 1,
            false => self.0 = self.0.saturating_sub(1),
        }
        Step { reward: 0.0, terminal: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    /// Steps to the end, if it is reached.
    fn walk(random: &mut ChaCha8Rng, steps: usize, forward: bool) -> Option<usize> {
        let mut chain = Chain::default();
        for i in 1..=steps {
            let action = if forward { FORWARD[chain.0] } else { 1 - FORWARD[chain.0] };
            let before = chain.0;
            let step = chain.step(action, random);
            assert!(step.terminal == (step.reward == 1.0) && chain.0.abs_diff(before) <= 1);
            if step.terminal {
                return Some(i);
            }
        }
        None
    }

    #[test]
    fn the_one_reward_is_at_the_end_and_takes_as_long_as_a_biased_walk() {
        let mut random = stream(3, 0);
        let times: Vec<f64> =
            (0..2000).map(|_| walk(&mut random, 1000, true).expect("the end is reached") as f64).collect();
        assert!(times.iter().all(|time| *time >= LENGTH as f64));
        // Of a walk that goes forward with p = 0.9, or stays at the first state: the expected times e_i to go on from state
        // i are e_0 = 1/p and e_i = (1 + (1 - p) e_{i-1}) / p.
        let next = |before: f64| (1.0 + SLIP * before) / (1.0 - SLIP);
        let expected: f64 =
            std::iter::successors(Some(1.0 / (1.0 - SLIP)), |e| Some(next(*e))).take(LENGTH).sum();
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        assert!((mean - expected).abs() < 0.5, "{mean} {expected}");
        assert_eq!(walk(&mut random, 10_000, false), None);
    }

    #[test]
    fn an_observation_names_the_state() {
        let mut seen = [0.5; LENGTH];
        Chain(3).observe(&mut seen);
        assert!(seen.iter().enumerate().all(|(state, value)| *value == if state == 3 { 1.0 } else { 0.0 }));
    }
}
