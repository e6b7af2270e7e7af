//! What the answer loses when one token's residual is replaced by a mean
//! (arXiv 2505.13898).

use crate::planner::{Action, Edit, Limits, Request, Site, Visitor, execute, naive};
use crate::skip::{Madds, distances};
use fathom_model::{Model, Trace};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// A question and its answer, as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Id of the pair.
    pub id: String,
    /// The text before the answer.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// Tokens of question and answer together.
    pub tokens: Vec<u32>,
    /// The text of each token.
    pub pieces: Vec<String>,
    /// Tokens of the answer, at the end.
    pub answer_tokens: usize,
}

impl Pair {
    /// The line of samples.jsonl that holds the effects on this pair.
    pub(crate) fn sample(&self, effect: Vec<Vec<f64>>) -> crate::Sample {
        crate::Sample {
            id: self.id.clone(),
            tokens: self.tokens.clone(),
            pieces: self.pieces.clone(),
            erasure: Some(Sample {
                question: self.question.clone(),
                answer: self.answer.clone(),
                answer_tokens: self.answer_tokens,
                effect,
            }),
            ..crate::Sample::default()
        }
    }
}

/// The probe on one pair.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The text before the answer.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// Tokens of the answer.
    pub answer_tokens: usize,
    /// `[L + 1][T]`.
    pub effect: Vec<Vec<f64>>,
}

/// Sums of the stream over tokens, from which the baseline b_l comes.
pub struct MeanResiduals {
    /// `[L + 1][d]`.
    sums: Vec<Vec<f64>>,
    tokens: usize,
}

impl MeanResiduals {
    /// Nothing seen yet.
    pub fn new(model: &Model) -> Self {
        let c = model.config();
        Self { sums: vec![vec![0.0; c.hidden]; c.depth() + 1], tokens: 0 }
    }

    /// Takes the tokens of a prompt in.
    pub fn add(&mut self, trace: &Trace) {
        for (sum, h) in self.sums.iter_mut().zip(&trace.resid) {
            for row in h.chunks_exact(trace.hidden) {
                sum.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x));
            }
        }
        self.tokens += trace.tokens.len();
    }

    /// The means, `[L + 1][d]`.
    pub fn means(&self) -> Vec<Arc<[f32]>> {
        let mean = |x: &f64| (x / self.tokens.max(1) as f64) as f32;
        self.sums.iter().map(|sum| sum.iter().map(mean).collect()).collect()
    }
}

/// Positions at which an answer of `answer` tokens at the end of the text is predicted.
pub fn predicting(tokens: usize, answer: usize) -> Range<usize> {
    tokens.saturating_sub(answer.saturating_add(1))..tokens.saturating_sub(1)
}

/// Measures one question-answer pair: `[L + 1][T]`, for every level and token the
/// largest |p - p'|_2 over the positions that predict the answer.
pub fn measure(
    model: &Model,
    trace: &Trace,
    answer: usize,
    baseline: &[Arc<[f32]>],
    limits: Limits,
) -> (Vec<Vec<f64>>, Madds) {
    let (depth, tokens) = (model.config().depth(), trace.tokens.len());
    let read = predicting(tokens, answer);
    let (mut keys, mut requests) = (Vec::new(), Vec::new());
    for (level, mean) in baseline.iter().enumerate() {
        // A token after the last prediction changes none.
        for t in 0..read.end {
            keys.push((level, t));
            requests.push(Request {
                edits: vec![Edit {
                    layer: level,
                    site: Site::Resid,
                    positions: t..t + 1,
                    action: Action::Replace(Arc::clone(mean)),
                }],
                added: 0..0,
                logits: read.start.max(t)..read.end,
                until: depth,
            });
        }
    }
    let effect = vec![vec![0.0; tokens]; depth + 1];
    let mut reader = Reader { keys, effect, vocab: model.config().vocab };
    let planned = execute(model, trace, &requests, limits, &mut reader);
    let naive = naive::madds(model, trace) * ((depth + 1) * tokens) as u64;
    (reader.effect, Madds { planned, naive })
}

struct Reader {
    /// Level and token of each request.
    keys: Vec<(usize, usize)>,
    effect: Vec<Vec<f64>>,
    vocab: usize,
}

impl Visitor for Reader {
    fn added(&mut self, _: usize, _: usize, _: Range<usize>, _: &[f32]) {}

    fn logits(&mut self, _: usize, clean: &[f32], requests: &[usize], edited: &[f32]) {
        for (request, distance) in requests.iter().zip(distances(clean, edited, self.vocab)) {
            let (level, t) = self.keys[*request];
            let worst = &mut self.effect[level][t];
            *worst = worst.max(distance);
        }
    }
}
