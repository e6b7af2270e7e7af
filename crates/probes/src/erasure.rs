//! The effect on the answer of replacing the residual vector of one token by a mean (arXiv 2505.13898).

use crate::planner::{Action, Edit, EditSink, LogitReading, Places, Request, Rows, Site, count, execute};
use crate::skip::larger;
use crate::tokenized::{Masked, Targets, predicting};
use crate::{ExecOptions, MemoryPlan, Work};
use fathom_model::{Backend, Model, Trace};
use std::ops::Range;

/// Accumulates the mean residuals b_l over tokens.
pub struct MeanResiduals {
    /// `[L + 1][d]`.
    sums: Vec<Vec<f64>>,
    tokens: usize,
}

impl MeanResiduals {
    /// No tokens yet.
    pub fn new<B: Backend>(model: &Model<B>) -> Self {
        let c = model.config();
        Self { sums: vec![vec![0.0; c.hidden]; c.depth() + 1], tokens: 0 }
    }

    /// Adds the tokens of a prompt.
    pub fn add<B: Backend>(&mut self, on: &B, trace: &Trace<B>) {
        let columns = trace.resid.iter().map(|h| on.column_sums(trace.hidden, h)).collect();
        for (sum, columns) in self.sums.iter_mut().zip(on.read(columns)) {
            sum.iter_mut().zip(columns).for_each(|(sum, x)| *sum += x);
        }
        self.tokens += trace.tokens.len();
    }

    /// The means b_l, `[L + 1, d]`.
    pub fn means<B: Backend>(&self, on: &B) -> B::Buffer {
        let mean = |x: &f64| (x / self.tokens.max(1) as f64) as f32;
        on.buffer_of(&self.sums.iter().flatten().map(mean).collect::<Vec<_>>())
    }
}

/// Measures one question-answer pair: for every level and token, `[L + 1][T]`, the largest |p - p'|_2
/// over the positions that predict the answer. `means` are the mean residuals, `[L + 1, d]`.
pub fn measure<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    answer: usize,
    means: &B::Buffer,
    exec: &ExecOptions<'_>,
) -> (Vec<Vec<f64>>, Work) {
    let (depth, tokens) = (model.config().depth(), trace.tokens.len());
    let (keys, requests) = requests(depth, tokens, answer, means);
    let effect = vec![vec![0.0; tokens]; depth + 1];
    let mut reader = Reader { keys, effect };
    let work = execute(model, trace, &requests, exec, &mut reader);
    (reader.effect, work)
}

/// As [`measure`] for a masked text: for every level and position of the text's own tokens, how much the sum of the
/// probabilities of the hidden tokens changes; 0 at special tokens.
pub fn measure_masked<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    masked: &Masked,
    means: &B::Buffer,
    exec: &ExecOptions<'_>,
) -> (Vec<Vec<f64>>, Work) {
    let (depth, tokens) = (model.config().depth(), trace.tokens.len());
    let (keys, requests) = masked_requests(depth, masked, means);
    let mut reader =
        TargetReader { keys, targets: &masked.targets, change: vec![vec![0.0; tokens]; depth + 1] };
    let work = execute(model, trace, &requests, exec, &mut reader);
    let effect = reader.change.into_iter().map(|level| level.into_iter().map(f64::abs).collect()).collect();
    (effect, work)
}

/// The work of [`measure_masked`] on a text of `tokens` tokens.
pub fn plan_masked<B: Backend>(model: &Model<B>, tokens: usize, masked: &Masked, memory: MemoryPlan) -> Work {
    let means = model.backend().empty();
    count(model, tokens, &masked_requests(model.config().depth(), masked, &means).1, memory)
}

fn masked_requests<'a, T>(depth: usize, masked: &Masked, means: &'a T) -> Erasures<'a, T> {
    let read = Places::of(masked.targets.positions.iter().copied());
    let each = (0..depth + 1).flat_map(|level| masked.own.iter().map(move |t| (level, *t)));
    let request = |(level, t): (usize, usize)| {
        let action = Action::Replace(Rows::one(means, level));
        let edit = Edit { layer: level, site: Site::Resid, positions: t..t + 1, action };
        // In front of the head, an edit changes its own position alone.
        let logits = match level == depth {
            true => Places::of(masked.targets.positions.iter().copied().filter(|position| *position == t)),
            false => read.clone(),
        };
        ((level, t), Request { edits: vec![edit], added: Places::default(), logits, until: depth })
    };
    each.map(request).unzip()
}

/// The work of [`measure`] on a pair of `tokens` tokens.
pub fn plan<B: Backend>(model: &Model<B>, tokens: usize, answer: usize, memory: MemoryPlan) -> Work {
    let means = model.backend().empty();
    count(model, tokens, &requests(model.config().depth(), tokens, answer, &means).1, memory)
}

/// Level and token of each edited run, and the runs.
type Erasures<'a, T> = (Vec<(usize, usize)>, Vec<Request<'a, T>>);

fn requests<T>(depth: usize, tokens: usize, answer: usize, means: &T) -> Erasures<'_, T> {
    let read = predicting(tokens, answer);
    let (mut keys, mut requests) = (Vec::new(), Vec::new());
    for level in 0..depth + 1 {
        // A token after the last prediction cannot change any.
        for t in 0..read.end {
            keys.push((level, t));
            let action = Action::Replace(Rows::one(means, level));
            requests.push(Request {
                edits: vec![Edit { layer: level, site: Site::Resid, positions: t..t + 1, action }],
                added: Places::default(),
                logits: (read.start.max(t)..read.end).into(),
                until: depth,
            });
        }
    }
    (keys, requests)
}

struct Reader {
    /// Level and token of each request.
    keys: Vec<(usize, usize)>,
    effect: Vec<Vec<f64>>,
}

impl EditSink for Reader {
    fn added(&mut self, _: usize, _: usize, _: Range<usize>, _: &[f64]) {}

    fn logits(&mut self, request: usize, _: usize, numbers: &[f64]) {
        let (level, t) = self.keys[request];
        let largest = &mut self.effect[level][t];
        *largest = numbers.iter().copied().fold(*largest, larger);
    }
}

struct TargetReader<'a> {
    /// Level and position of each request.
    keys: Vec<(usize, usize)>,
    targets: &'a Targets,
    change: Vec<Vec<f64>>,
}

impl EditSink for TargetReader<'_> {
    fn reading(&self) -> LogitReading {
        LogitReading::Probability
    }

    fn token(&self, position: usize) -> u32 {
        self.targets.token(position)
    }

    fn added(&mut self, _: usize, _: usize, _: Range<usize>, _: &[f64]) {}

    fn logits(&mut self, request: usize, _: usize, numbers: &[f64]) {
        let (level, t) = self.keys[request];
        self.change[level][t] += numbers[1] - numbers[0];
    }
}
