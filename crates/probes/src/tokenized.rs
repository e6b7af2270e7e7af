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
    /// Tokens of the question followed by the answer.
    pub tokens: Vec<u32>,
    /// The text of each token.
    pub pieces: Vec<String>,
}

/// The positions that predict the last `answer` of `tokens` tokens.
pub fn predicting(tokens: usize, answer: usize) -> Range<usize> {
    tokens.saturating_sub(answer.saturating_add(1))..tokens.saturating_sub(1)
}
