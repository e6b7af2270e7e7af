//! Texts whose tokens a model predicts, and what is counted on them.

use std::ops::Range;

/// A text, and the tokens of it whose prediction is scored. The model reads no token that predicts none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Positions of the tokens that are scored, each predicted from those before it; from 1 up.
    pub scored: Range<usize>,
}

impl Text {
    /// A text in which every token but the first is scored.
    pub fn whole(tokens: Vec<u32>) -> Self {
        let scored = 1.min(tokens.len())..tokens.len();
        Self { tokens, scored }
    }

    /// The tokens that the model reads: those that predict a scored one, and all if none is scored.
    pub(crate) fn read(&self) -> &[u32] {
        match self.scored.is_empty() {
            true => &self.tokens,
            false => &self.tokens[..self.scored.end - 1],
        }
    }
}

/// Sums over the scored tokens of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Negative log-likelihood, in nats.
    pub nll: f64,
    /// `KL(full || pruned)` in nats, if it was asked for.
    pub kl: f64,
    /// Tokens at which both models predict the same, if it was asked for.
    pub agreements: f64,
}
