//! The effect on the answer of replacing the residual vector of one token by a mean (arXiv 2505.13898).

use crate::planner::{Action, Edit, EditSink, Request, Site, count, execute};
use crate::skip::{distances, larger};
use crate::tokenized::predicting;
use crate::{ExecOptions, MemoryPlan, Work};
use fathom_model::{Model, Trace};
use std::ops::Range;
use std::sync::Arc;

/// The mean residuals b_l, `[L + 1][d]`.
pub type Means = Vec<Arc<[f32]>>;

/// Accumulates the mean residuals b_l over tokens.
pub struct MeanResiduals {
    /// `[L + 1][d]`.
    sums: Vec<Vec<f64>>,
    tokens: usize,
}

impl MeanResiduals {
    /// No tokens yet.
    pub fn new(model: &Model) -> Self {
        let c = model.config();
        Self { sums: vec![vec![0.0; c.hidden]; c.depth() + 1], tokens: 0 }
    }

    /// Adds the tokens of a prompt.
    pub fn add(&mut self, trace: &Trace) {
        for (sum, h) in self.sums.iter_mut().zip(&trace.resid) {
            for row in h.chunks_exact(trace.hidden) {
                sum.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x));
            }
        }
        self.tokens += trace.tokens.len();
    }

    /// The means, `[L + 1][d]`.
    pub fn means(&self) -> Means {
        let mean = |x: &f64| (x / self.tokens.max(1) as f64) as f32;
        self.sums.iter().map(|sum| sum.iter().map(mean).collect()).collect()
    }
}

/// Measures one question-answer pair: for every level and token, `[L + 1][T]`, the largest |p - p'|_2
/// over the positions that predict the answer.
pub fn measure(
    model: &Model,
    trace: &Trace,
    answer: usize,
    baseline: &[Arc<[f32]>],
    exec: &ExecOptions<'_>,
) -> (Vec<Vec<f64>>, Work) {
    let (depth, tokens) = (model.config().depth(), trace.tokens.len());
    let (keys, requests) = requests(tokens, answer, baseline);
    let effect = vec![vec![0.0; tokens]; depth + 1];
    let mut reader = Reader { keys, effect, vocab: model.config().vocab };
    let work = execute(model, trace, &requests, exec, &mut reader);
    (reader.effect, work)
}

/// The work of [`measure`] on a pair of `tokens` tokens.
pub fn plan(model: &Model, tokens: usize, answer: usize, memory: MemoryPlan) -> Work {
    let baseline = vec![Arc::from([0.0]); model.config().depth() + 1];
    count(model, tokens, &requests(tokens, answer, &baseline).1, memory)
}

/// The edited runs, and the level and token of each.
fn requests(tokens: usize, answer: usize, baseline: &[Arc<[f32]>]) -> (Vec<(usize, usize)>, Vec<Request>) {
    let read = predicting(tokens, answer);
    let (mut keys, mut requests) = (Vec::new(), Vec::new());
    for (level, mean) in baseline.iter().enumerate() {
        // A token after the last prediction cannot change any.
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
                until: baseline.len() - 1,
            });
        }
    }
    (keys, requests)
}

struct Reader {
    /// Level and token of each request.
    keys: Vec<(usize, usize)>,
    effect: Vec<Vec<f64>>,
    vocab: usize,
}

impl EditSink for Reader {
    fn added(&mut self, _: usize, _: usize, _: Range<usize>, _: &[f32]) {}

    fn logits(&mut self, _: usize, clean: &[f32], requests: &[usize], edited: &[f32]) {
        for (request, distance) in requests.iter().zip(distances(clean, edited, self.vocab)) {
            let (level, t) = self.keys[*request];
            let largest = &mut self.effect[level][t];
            *largest = larger(*largest, distance);
        }
    }
}
