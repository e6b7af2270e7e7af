//! Numbers on their way to the host.

use crate::Device;
use fathom_kernels::backend::{LENS_NUMBERS, TOP};
use std::ops::Range;

/// Results of a reduction in the memory of a device.
pub struct Numbers<M> {
    /// Memories, and the words of each that count.
    pub(crate) parts: Vec<(M, usize)>,
    pub(crate) finish: Finish,
}

/// What remains to be done on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The words are floats.
    Floats,
    /// The words are logarithms.
    Exponentials,
    /// Divergences, four per row, the indices of the largest logits, [`TOP`] per row, and a log-probability per row.
    Lens { levels: usize },
}

impl<M> Numbers<M> {
    pub(crate) fn floats(memory: M, words: usize) -> Self {
        Self { parts: vec![(memory, words)], finish: Finish::Floats }
    }
}

/// Reads all numbers with one wait.
pub(crate) fn read<D: Device>(device: &D, numbers: &[Numbers<D::Memory>]) -> Vec<Vec<f64>> {
    let parts = || numbers.iter().flat_map(|n| &n.parts).filter(|part| part.1 > 0);
    let total: usize = parts().map(|part| part.1).sum();
    let words = match parts().collect::<Vec<_>>()[..] {
        [] => Vec::new(),
        [(memory, words)] => device.read(memory, 0..*words),
        ref parts => {
            let all = super::allocate(device, total);
            let mut at = 0;
            for (memory, words) in parts {
                device.copy(memory, 0..*words, &all, at);
                at += words;
            }
            device.read(&all, 0..total)
        }
    };
    let mut rest = &words[..];
    let take = |n: &Numbers<D::Memory>| {
        let parts: Vec<&[u32]> = n.parts.iter().map(|part| take_words(&mut rest, part.1)).collect();
        n.finish.apply(&parts)
    };
    numbers.iter().map(take).collect()
}

fn take_words<'a>(rest: &mut &'a [u32], count: usize) -> &'a [u32] {
    let (first, others) = rest.split_at(count);
    *rest = others;
    first
}

fn float(word: &u32) -> f64 {
    f64::from(f32::from_bits(*word))
}

impl Finish {
    fn apply(self, parts: &[&[u32]]) -> Vec<f64> {
        let floats = parts.iter().copied().flatten().map(float);
        match self {
            Self::Floats => floats.collect(),
            Self::Exponentials => floats.map(f64::exp).collect(),
            Self::Lens { levels } => match parts {
                [divergences, top, logs] => lens(levels, divergences, top, logs),
                _ => Vec::new(),
            },
        }
    }
}

fn lens(levels: usize, divergences: &[u32], top: &[u32], logs: &[u32]) -> Vec<f64> {
    let rows = logs.len();
    let best = |row: usize| &top[row * TOP..(row + 1) * TOP];
    let mut numbers = Vec::with_capacity(rows * LENS_NUMBERS);
    for row in 0..rows {
        numbers.extend(divergences[row * 4..row * 4 + 4].iter().map(float));
        let (mine, last) = (best(row), best(row / levels * levels + levels - 1));
        // Rows shorter than TOP are filled up with an index that is none.
        let common = mine.iter().filter(|t| **t != u32::MAX && last.contains(t)).count();
        numbers.push(common as f64);
        numbers.push(f64::from(u8::from(mine[0] == last[0])));
        numbers.push(float(&logs[row]));
    }
    numbers
}

/// The words of a range of rows.
pub(crate) fn words(rows: Range<usize>, width: usize) -> Range<usize> {
    rows.start * width..rows.end * width
}
