//! Parts of a measurement, for several machines.

use crate::error::invalid;
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// One of several parts of a measurement: every n-th prompt and pair. [`Merge`](crate::Merge) puts the results of all parts
/// together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// Part `index`, from 1, of `count`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such part.
    pub fn new(index: usize, count: usize) -> Result<Self> {
        if index == 0 || index > count {
            invalid!("there is no shard {index}/{count}; the first of {count} is 1/{count}");
        }
        Ok(Self { index, count })
    }

    /// Which part, from 1.
    pub fn index(self) -> usize {
        self.index
    }

    /// The number of parts.
    pub fn count(self) -> usize {
        self.count
    }

    /// What belongs to this part.
    pub(crate) fn of<T: Clone>(self, all: &[T]) -> Vec<T> {
        all.iter().skip(self.index - 1).step_by(self.count).cloned().collect()
    }
}

/// The inverse of [`Shard::of`]: one item of each part in turn.
pub(crate) fn interleaved<T>(parts: Vec<Vec<T>>) -> Vec<T> {
    let mut parts: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
    let mut all = Vec::new();
    loop {
        let before = all.len();
        all.extend(parts.iter_mut().filter_map(Iterator::next));
        if all.len() == before {
            return all;
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('/').map(|(index, count)| (index.parse(), count.parse()));
        match numbers {
            Some((Ok(index), Ok(count))) => Self::new(index, count),
            _ => invalid!("'{text}' is not a shard; give I/N, such as 1/4 for the first of four"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_put_together_in_the_order_of_the_whole() {
        for items in 0..9 {
            let all: Vec<usize> = (0..items).collect();
            for count in 1..5 {
                let parts: Vec<_> = (1..=count).map(|i| Shard::new(i, count).unwrap().of(&all)).collect();
                assert_eq!(interleaved(parts), all, "{items} in {count}");
            }
        }
    }

    #[test]
    fn wrong_shards_are_refused() {
        assert_eq!("2/3".parse::<Shard>().unwrap().to_string(), "2/3");
        for wrong in ["0/3", "4/3", "1", "a/b", "1/0", "-1/2", "1/2/3"] {
            let message = wrong.parse::<Shard>().unwrap_err().to_string();
            assert!(message.contains("shard"), "{message}");
        }
    }
}
