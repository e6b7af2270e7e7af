//! Swinging up a pole that hangs from a cart on a track: the equations of Barto, Sutton and Anderson (1983), as in Gymnasium's
//! CartPole, without friction.

use super::{Step, World};
use crate::random::uniform;
use rand_chacha::ChaCha8Rng;
use std::f64::consts::PI;

/// The forces that actions stand for, in N.
pub(super) const FORCES: [f64; 3] = [-10.0, 0.0, 10.0];

const GRAVITY: f64 = 9.8;
const CART: f64 = 1.0;
const POLE: f64 = 0.1;
/// From the hinge to the centre of the pole.
const HALF: f64 = 0.5;
/// How far the cart can go to each side; beyond it the episode ends.
const TRACK: f64 = 2.4;
/// The time between two actions in seconds, and the steps of the physics in it.
const INTERVAL: f64 = 0.04;
const SUBSTEPS: usize = 4;

/// The angle is 0 where the pole stands upright.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct CartPole {
    place: f64,
    velocity: f64,
    angle: f64,
    turning: f64,
}

impl CartPole {
    /// The state after the given number of seconds, by the semi-implicit Euler method.
    fn after(self, force: f64, seconds: f64) -> Self {
        let (sin, cos) = self.angle.sin_cos();
        let total = CART + POLE;
        let pushed = (force + POLE * HALF * self.turning.powi(2) * sin) / total;
        let turned = (GRAVITY * sin - cos * pushed) / (HALF * (4.0 / 3.0 - POLE * cos * cos / total));
        let velocity = self.velocity + seconds * (pushed - POLE * HALF * turned * cos / total);
        let turning = self.turning + seconds * turned;
        Self {
            place: self.place + seconds * velocity,
            velocity,
            angle: self.angle + seconds * turning,
            turning,
        }
    }
}

impl World for CartPole {
    fn reset(&mut self, random: &mut ChaCha8Rng) {
        let mut near = |value: f64| value + 0.1 * (uniform(random) - 0.5);
        *self = Self { place: near(0.0), velocity: near(0.0), angle: near(PI), turning: near(0.0) };
    }

    fn observe(&self, observation: &mut [f32]) {
        let (sin, cos) = self.angle.sin_cos();
        let values = [self.place / TRACK, self.velocity / 4.0, cos, sin, self.turning / 8.0];
        observation.iter_mut().zip(values).for_each(|(seen, value)| *seen = value as f32);
    }

    /// The reward is (1 + cos) / 2, so 1 for an upright pole and 0 for one that hangs.
    fn step(&mut self, action: usize, _: &mut ChaCha8Rng) -> Step {
        for _ in 0..SUBSTEPS {
            *self = self.after(FORCES[action], INTERVAL / SUBSTEPS as f64);
        }
        Step { reward: 0.5 * (1.0 + self.angle.cos()), terminal: self.place.abs() > TRACK }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    /// Of a cart and a uniform rod on a hinge.
    fn energy(of: CartPole) -> f64 {
        let rod_turns = 0.5 * (POLE * HALF * HALF / 3.0) * of.turning.powi(2);
        let [across, down] =
            [of.velocity + HALF * of.turning * of.angle.cos(), HALF * of.turning * of.angle.sin()];
        let rod_moves = 0.5 * POLE * (across * across + down * down);
        0.5 * CART * of.velocity.powi(2) + rod_moves + rod_turns + POLE * GRAVITY * HALF * of.angle.cos()
    }

    /// Of cart and pole along the track.
    fn momentum(of: CartPole) -> f64 {
        (CART + POLE) * of.velocity + POLE * HALF * of.turning * of.angle.cos()
    }

    #[test]
    fn energy_and_momentum_are_kept_without_force_and_change_by_its_work_and_push() {
        let begin = CartPole { place: 0.1, velocity: -0.4, angle: 1.2, turning: 2.0 };
        let (mut free, mut driven, mut work) = (begin, begin, 0.0);
        let (seconds, force) = (1e-5, 3.0);
        for _ in 0..100_000 {
            free = free.after(0.0, seconds);
            let next = driven.after(force, seconds);
            work += force * (next.place - driven.place);
            driven = next;
        }
        assert!((free.angle - begin.angle).abs() > 1.0);
        assert!((energy(free) - energy(begin)).abs() < 1e-3, "{}", energy(free) - energy(begin));
        assert!((momentum(free) - momentum(begin)).abs() < 1e-3);
        assert!(work.abs() > 0.5 && (energy(driven) - energy(begin) - work).abs() < 1e-3);
        assert!((momentum(driven) - momentum(begin) - force * 1.0).abs() < 1e-3);
    }

    #[test]
    fn known_states_and_the_end_of_the_track() {
        let mut random = stream(1, 1);
        let mut upright = CartPole::default();
        assert_eq!(upright.step(1, &mut random), Step { reward: 1.0, terminal: false });
        assert_eq!(upright, CartPole::default());
        // One step of Gymnasium's CartPole-v1 (explicit Euler has the same accelerations) from an upright pole at rest.
        let pushed = CartPole::default().after(10.0, 0.02);
        assert!((pushed.velocity - 0.195_121_95).abs() < 1e-8, "{}", pushed.velocity);
        assert!((pushed.turning + 0.292_682_93).abs() < 1e-8, "{}", pushed.turning);
        let mut hanging = CartPole { angle: PI, ..CartPole::default() };
        assert!(hanging.step(1, &mut random).reward < 1e-12);
        let mut leaving = CartPole { place: 2.39, velocity: 3.0, ..CartPole::default() };
        assert!(leaving.step(1, &mut random).terminal);
        hanging.reset(&mut random);
        assert!((hanging.angle - PI).abs() <= 0.05 && hanging.place.abs() <= 0.05);
    }
}
