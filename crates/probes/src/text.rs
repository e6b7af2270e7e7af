//! What is measured, as tokens: prompts, and questions with answers, on which some
//! probes work instead.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A prompt as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// Id of the prompt.
    pub id: String,
    /// Difficulty, level or the like.
    pub group: Option<String>,
    /// The first 16 hexadecimal digits of the SHA-256 of the prompt's text, by which runs of
    /// models with different tokenizers are paired; `None` where the text is not known.
    pub text_sha256: Option<String>,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The text of each token.
    pub pieces: Vec<String>,
    /// The t of the skip probe.
    pub positions: Vec<usize>,
}

/// A question and its answer, as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Id of the pair.
    pub id: String,
    /// Difficulty, level or the like.
    pub group: Option<String>,
    /// What was asked.
    pub asked: Asked,
    /// Tokens of question and answer together.
    pub tokens: Vec<u32>,
    /// The text of each token.
    pub pieces: Vec<String>,
}

/// What was asked and answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// The text before the answer.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// Tokens of the answer, at the end of the text.
    pub answer_tokens: usize,
}

/// Positions at which an answer of `answer` tokens at the end of the text is predicted.
pub fn predicting(tokens: usize, answer: usize) -> Range<usize> {
    tokens.saturating_sub(answer.saturating_add(1))..tokens.saturating_sub(1)
}
