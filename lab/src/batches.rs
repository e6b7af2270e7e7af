//! Which windows of the training tokens a step sees.

use crate::corpus::shuffle;
use crate::random::stream;

/// Windows of a stream of tokens, in another order in each epoch. A function of seed and step alone, so that a resumed
/// run goes on as if it had never stopped.
#[derive(Debug)]
pub struct Batches<'a> {
    tokens: &'a [u32],
    context: usize,
    batch: usize,
    seed: u64,
    epoch: usize,
    order: Vec<usize>,
}

/// Sequences and the tokens that follow each of theirs, `[batch * context]`.
#[derive(Debug, PartialEq)]
pub struct Batch {
    /// Tokens.
    pub inputs: Vec<u32>,
    /// The token after each.
    pub targets: Vec<u32>,
}

impl<'a> Batches<'a> {
    /// Windows of `context` tokens, each followed by one more. `tokens` must hold at least one.
    pub fn of(tokens: &'a [u32], context: usize, batch: usize, seed: u64) -> Self {
        let mut batches = Self { tokens, context, batch, seed, epoch: 0, order: Vec::new() };
        batches.order = batches.order_of(0);
        batches
    }

    /// The number of windows.
    pub fn windows(&self) -> usize {
        (self.tokens.len() - 1) / self.context
    }

    /// The epoch, from 0, in which a step begins.
    pub fn epoch(&self, step: usize) -> usize {
        step * self.batch / self.windows()
    }

    /// The batch of a step.
    pub fn at(&mut self, step: usize) -> Batch {
        let places: Vec<usize> = (step * self.batch..(step + 1) * self.batch).collect();
        let windows: Vec<usize> = places.into_iter().map(|place| self.window(place)).collect();
        windows_of(self.tokens, self.context, &windows)
    }

    fn window(&mut self, place: usize) -> usize {
        let (epoch, place) = (place / self.windows(), place % self.windows());
        if epoch != self.epoch {
            (self.order, self.epoch) = (self.order_of(epoch), epoch);
        }
        self.order[place]
    }

    fn order_of(&self, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.windows()).collect();
        shuffle(&mut order, &mut stream(self.seed, epoch as u64 + 1));
        order
    }
}

/// The given windows of a stream.
pub fn windows_of(tokens: &[u32], context: usize, windows: &[usize]) -> Batch {
    let part = |ahead: usize| {
        windows
            .iter()
            .flat_map(|w| &tokens[w * context + ahead..(w + 1) * context + ahead])
            .copied()
            .collect()
    };
    Batch { inputs: part(0), targets: part(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_sees_every_window_once_in_another_order() {
        let tokens: Vec<u32> = (0..=60).collect();
        let mut batches = Batches::of(&tokens, 5, 4, 7);
        assert_eq!(batches.windows(), 12);
        let epoch = |batches: &mut Batches<'_>, epoch: usize| -> Vec<u32> {
            (3 * epoch..3 * epoch + 3).flat_map(|step| batches.at(step).inputs).collect()
        };
        let (first, second) = (epoch(&mut batches, 0), epoch(&mut batches, 1));
        assert_ne!(first, second);
        for mut seen in [first.clone(), second] {
            seen.sort();
            assert_eq!(seen, (0..60).collect::<Vec<u32>>());
        }
        // A step is the same whichever was asked before.
        assert_eq!(epoch(&mut Batches::of(&tokens, 5, 4, 7), 0), first);
        let step = batches.at(2);
        assert!(step.inputs.iter().zip(&step.targets).all(|(input, target)| input + 1 == *target));
        assert_eq!((batches.epoch(2), batches.epoch(3)), (0, 1));
    }
}
