//! Transitions that an agent learns from again and again.

use crate::random::uniform;
use ndarray::Array2;
use rand_chacha::ChaCha8Rng;

/// What happened in a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transition<'a> {
    pub(super) observation: &'a [f32],
    pub(super) action: usize,
    pub(super) reward: f32,
    pub(super) next: &'a [f32],
    pub(super) terminal: bool,
}

/// The last transitions, up to a number.
#[derive(Debug)]
pub(super) struct Replay {
    width: usize,
    capacity: usize,
    /// Where the next one is put.
    next: usize,
    before: Vec<f32>,
    actions: Vec<usize>,
    rewards: Vec<f32>,
    after: Vec<f32>,
    terminals: Vec<bool>,
}

/// Transitions as columns.
#[derive(Debug, PartialEq)]
pub(super) struct Batch {
    /// `[rows, observation]`
    pub(super) before: Array2<f32>,
    pub(super) actions: Vec<usize>,
    pub(super) rewards: Vec<f32>,
    /// `[rows, observation]`
    pub(super) after: Array2<f32>,
    pub(super) terminals: Vec<bool>,
}

impl Replay {
    /// For observations of this length.
    pub(super) fn new(width: usize, capacity: usize) -> Self {
        Self {
            width,
            capacity,
            next: 0,
            before: Vec::new(),
            actions: Vec::new(),
            rewards: Vec::new(),
            after: Vec::new(),
            terminals: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.actions.len()
    }

    /// Adds a transition, in place of the oldest one when the buffer is full.
    pub(super) fn push(&mut self, transition: Transition<'_>) {
        let at = self.next;
        self.next = (at + 1) % self.capacity;
        if at == self.len() {
            self.before.extend_from_slice(transition.observation);
            self.actions.push(transition.action);
            self.rewards.push(transition.reward);
            self.after.extend_from_slice(transition.next);
            self.terminals.push(transition.terminal);
            return;
        }
        let place = at * self.width..(at + 1) * self.width;
        self.before[place.clone()].copy_from_slice(transition.observation);
        self.after[place].copy_from_slice(transition.next);
        self.actions[at] = transition.action;
        self.rewards[at] = transition.reward;
        self.terminals[at] = transition.terminal;
    }

    /// Draws transitions with replacement; there must be one.
    pub(super) fn sample(&self, rows: usize, random: &mut ChaCha8Rng) -> Batch {
        let draw = || ((uniform(random) * self.len() as f64) as usize).min(self.len() - 1);
        self.rows(std::iter::repeat_with(draw).take(rows))
    }

    /// All transitions.
    pub(super) fn all(&self) -> Batch {
        self.rows(0..self.len())
    }

    fn rows(&self, indices: impl Iterator<Item = usize>) -> Batch {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let (mut actions, mut rewards, mut terminals) = (Vec::new(), Vec::new(), Vec::new());
        for i in indices {
            let place = i * self.width..(i + 1) * self.width;
            before.extend_from_slice(&self.before[place.clone()]);
            after.extend_from_slice(&self.after[place]);
            actions.push(self.actions[i]);
            rewards.push(self.rewards[i]);
            terminals.push(self.terminals[i]);
        }
        let matrix = |values: Vec<f32>| {
            Array2::from_shape_vec([actions.len(), self.width], values).expect("every row has the width")
        };
        Batch { before: matrix(before), after: matrix(after), actions, rewards, terminals }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    fn filled(capacity: usize, count: usize) -> Replay {
        let mut replay = Replay::new(2, capacity);
        for i in 0..count {
            let at = [i as f32, 10.0 * i as f32];
            let next = [i as f32 + 0.5, -1.0];
            replay.push(Transition {
                observation: &at,
                action: i,
                reward: i as f32,
                next: &next,
                terminal: i % 2 == 1,
            });
        }
        replay
    }

    #[test]
    fn the_oldest_make_room_and_rows_stay_together() {
        let replay = filled(4, 6);
        assert_eq!(replay.len(), 4);
        let all = replay.all();
        assert_eq!(all.actions, [4, 5, 2, 3]);
        for (row, action) in all.actions.iter().enumerate() {
            let i = *action as f32;
            assert_eq!(all.before.row(row).to_vec(), [i, 10.0 * i]);
            assert_eq!(all.after.row(row).to_vec(), [i + 0.5, -1.0]);
            assert_eq!((all.rewards[row], all.terminals[row]), (i, action % 2 == 1));
        }
    }

    #[test]
    fn samples_are_seeded_and_even() {
        let replay = filled(5, 5);
        let draw = |seed: u64| replay.sample(5000, &mut stream(seed, 0));
        assert!(draw(1) == draw(1) && draw(1) != draw(2));
        let counts = (0..5).map(|action| draw(1).actions.iter().filter(|a| **a == action).count());
        // The standard deviation of a count is 28.
        assert!(counts.into_iter().all(|count| count.abs_diff(1000) < 120));
    }
}
