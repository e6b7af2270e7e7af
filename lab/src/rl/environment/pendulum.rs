//! Swinging up a pendulum whose motor is too weak to lift it: the equations, costs and starts of Gymnasium's Pendulum-v1,
//! with five torques for its continuous one.

use super::{Step, World, wrapped};
use crate::random::uniform;
use rand_chacha::ChaCha8Rng;
use std::f64::consts::PI;

/// The torques that actions stand for, in N m.
pub(super) const TORQUES: [f64; 5] = [-2.0, -1.0, 0.0, 1.0, 2.0];
/// The largest cost of a step.
pub(super) const LARGEST_COST: f64 = PI * PI + 0.1 * FASTEST * FASTEST + 0.001 * 2.0 * 2.0;

const GRAVITY: f64 = 10.0;
const MASS: f64 = 1.0;
const LENGTH: f64 = 1.0;
/// The largest angular velocity.
const FASTEST: f64 = 8.0;
/// The time between two actions, in seconds.
const INTERVAL: f64 = 0.05;

/// A rod on a pivot; the angle is 0 where it stands upright.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pendulum {
    angle: f64,
    velocity: f64,
}

impl Pendulum {
    /// The state after the given number of seconds, by the semi-implicit Euler method.
    fn after(self, torque: f64, seconds: f64) -> Self {
        let inertia = MASS * LENGTH * LENGTH / 3.0;
        let acceleration = (0.5 * MASS * GRAVITY * LENGTH * self.angle.sin() + torque) / inertia;
        let velocity = (self.velocity + acceleration * seconds).clamp(-FASTEST, FASTEST);
        Self { angle: self.angle + velocity * seconds, velocity }
    }

    fn cost(self, torque: f64) -> f64 {
        wrapped(self.angle).powi(2) + 0.1 * self.velocity.powi(2) + 0.001 * torque.powi(2)
    }
}

impl World for Pendulum {
    fn reset(&mut self, random: &mut ChaCha8Rng) {
        self.angle = PI * (2.0 * uniform(random) - 1.0);
        self.velocity = 2.0 * uniform(random) - 1.0;
    }

    fn observe(&self, observation: &mut [f32]) {
        // The velocity is divided by its limit, so that all inputs are of one size.
        let values = [self.angle.cos(), self.angle.sin(), self.velocity / FASTEST];
        observation.iter_mut().zip(values).for_each(|(seen, value)| *seen = value as f32);
    }

    fn step(&mut self, action: usize, _: &mut ChaCha8Rng) -> Step {
        let torque = TORQUES[action];
        let reward = -self.cost(torque);
        *self = self.after(torque, INTERVAL);
        Step { reward, terminal: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    fn energy(of: Pendulum) -> f64 {
        let kinetic = 0.5 * (MASS * LENGTH * LENGTH / 3.0) * of.velocity.powi(2);
        kinetic + MASS * GRAVITY * 0.5 * LENGTH * of.angle.cos()
    }

    #[test]
    fn energy_is_kept_without_torque_and_changes_by_the_work_of_one() {
        let begin = Pendulum { angle: 2.0, velocity: 1.5 };
        let (mut free, mut driven, mut work) = (begin, begin, 0.0);
        let seconds = 1e-5;
        for _ in 0..200_000 {
            free = free.after(0.0, seconds);
            let next = driven.after(0.7, seconds);
            work += 0.7 * (next.angle - driven.angle);
            driven = next;
        }
        assert!((free.angle - begin.angle).abs() > 0.1);
        assert!((energy(free) - energy(begin)).abs() < 1e-3, "{}", energy(free) - energy(begin));
        assert!(work.abs() > 0.1 && (energy(driven) - energy(begin) - work).abs() < 1e-3);
    }

    #[test]
    fn small_swings_have_the_period_of_a_physical_pendulum() {
        // About the hanging position: T = 2π √(I / (m g l/2)) = 2π √(2 l / (3 g)).
        let mut state = Pendulum { angle: PI - 1e-3, velocity: 0.0 };
        let (seconds, mut time) = (1e-5, 0.0);
        // A quarter of a period to the lowest point.
        while state.angle < PI {
            state = state.after(0.0, seconds);
            time += seconds;
        }
        let period = 2.0 * PI * (2.0 * LENGTH / (3.0 * GRAVITY)).sqrt();
        assert!((4.0 * time / period - 1.0).abs() < 1e-3, "{time} {period}");
    }

    #[test]
    fn known_states_and_limits() {
        let mut random = stream(1, 1);
        let mut world = Pendulum { angle: 1.0, velocity: 0.5 };
        let step = world.step(4, &mut random);
        assert!((step.reward + 1.029).abs() < 1e-12 && !step.terminal, "{step:?}");
        let velocity = 0.5 + (15.0 * 1f64.sin() + 6.0) * 0.05;
        assert!((world.velocity - velocity).abs() < 1e-12);
        assert!((world.angle - (1.0 + 0.05 * velocity)).abs() < 1e-12);
        // Standing upright without torque costs nothing and lasts.
        let mut upright = Pendulum::default();
        assert_eq!(upright.step(2, &mut random).reward, 0.0);
        assert_eq!(upright, Pendulum::default());
        let mut fast = Pendulum { angle: 1.5, velocity: 7.9 };
        fast.step(4, &mut random);
        assert_eq!(fast.velocity, FASTEST);
        let worst = Pendulum { angle: PI, velocity: FASTEST };
        assert!((worst.cost(2.0) - LARGEST_COST).abs() < 1e-12);
    }
}
