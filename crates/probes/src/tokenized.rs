//! Prompts and question-answer pairs as tokens.

use fathom_results::QaPair;
use std::ops::Range;

/// A tokenised prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizedPrompt {
    /// Id of the prompt.
    pub id: String,
    /// Its group in the data set, such as a difficulty or a level.
    pub group: Option<String>,
    /// The first 16 hexadecimal digits of the SHA-256 of the text, by which runs with different
    /// tokenizers are paired; `None` if the text is unknown.
    pub text_sha256: Option<String>,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The text of each token.
    pub pieces: Vec<String>,
    /// The positions t of the skip probe.
    pub positions: Vec<usize>,
    /// What is hidden, where a model predicts masked tokens; `None` where it predicts the next ones.
    pub masked: Option<Masked>,
}

/// What is hidden from a masked model, and what may be edited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Masked {
    /// The masked positions, in ascending order, and the tokens that they hide.
    pub targets: Targets,
    /// Positions of the text's own tokens, masks among them: all but special ones, in ascending order.
    pub own: Vec<usize>,
    /// What skip bypasses while effects are read at the other positions of [`Self::own`]: a half of them for each draw.
    pub halves: Vec<Vec<usize>>,
    /// The share of the text that was to be masked; `None` where masks stand at one position at a time.
    pub ratio: Option<f64>,
    /// The mask, where it stands at one position at a time and not at all of them at once.
    pub one_at_a_time: Option<u32>,
}

impl Masked {
    /// What is left of it where only the first `tokens` tokens of a text are: at least the last of them as a target.
    #[must_use]
    pub fn before(&self, tokens: usize) -> Self {
        let within =
            |all: &[usize]| all.iter().copied().filter(|position| *position < tokens).collect::<Vec<_>>();
        let mut positions = within(&self.targets.positions);
        if positions.is_empty() && !self.targets.positions.is_empty() {
            positions.extend(tokens.checked_sub(1));
        }
        let targets =
            Targets { tokens: positions.iter().map(|at| self.targets.token(*at)).collect(), positions };
        let halves = self.halves.iter().map(|half| within(half)).collect();
        let own = within(&self.own);
        let own = if own.is_empty() { targets.positions.clone() } else { own };
        Self { targets, own, halves, ..self.clone() }
    }
}

/// What a model is asked to predict: positions in ascending order, and the token whose probability counts at each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Where logits are read.
    pub positions: Vec<usize>,
    /// The token that should be predicted there.
    pub tokens: Vec<u32>,
}

impl Targets {
    /// The last `answer` of some tokens, each predicted from the position before it.
    pub fn answer(tokens: &[u32], answer: usize) -> Self {
        let positions = predicting(tokens.len(), answer);
        let of = positions.clone().map(|position| tokens[position + 1]).collect();
        Self { positions: positions.collect(), tokens: of }
    }

    /// The token that is asked for at a position; 0 where none is.
    pub fn token(&self, position: usize) -> u32 {
        self.positions.binary_search(&position).map_or(0, |i| self.tokens[i])
    }
}

/// A tokenised question with its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizedPair {
    /// Id of the pair.
    pub id: String,
    /// Its group in the data set, such as a difficulty or a level.
    pub group: Option<String>,
    /// The question and its answer.
    pub qa: QaPair,
    /// Tokens of the question followed by the answer; in a masked text, with the masks.
    pub tokens: Vec<u32>,
    /// The text of each token.
    pub pieces: Vec<String>,
    /// What is hidden, where a model predicts masked tokens.
    pub masked: Option<Masked>,
}

impl TokenizedPair {
    /// What the model is asked to predict.
    pub fn targets(&self) -> Targets {
        match &self.masked {
            Some(masked) => masked.targets.clone(),
            None => Targets::answer(&self.tokens, self.qa.answer_tokens),
        }
    }
}

/// The positions that predict the last `answer` of `tokens` tokens.
pub fn predicting(tokens: usize, answer: usize) -> Range<usize> {
    tokens.saturating_sub(answer.saturating_add(1))..tokens.saturating_sub(1)
}
