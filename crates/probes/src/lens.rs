//! The logit lens: the prediction of the final norm and the unembedding from the residual stream at each
//! layer, compared with the prediction of the model.
//!
//! The logits of a few tokens at a time are computed for all layers and the whole vocabulary: the
//! Jensen-Shannon divergence needs both normalisers before its first term, so tiles of the vocabulary would
//! compute every product twice.

use crate::number::add_weighted;
use crate::{ExecOptions, MemoryPlan, Work};
use fathom_kernels::Buffer;
use fathom_kernels::distribution::{Divergence, Logits, Reference, log_sum_exp};
use fathom_model::{Model, Trace};
use fathom_results::LensCurves;
use rayon::prelude::*;

/// The number of most likely tokens that the overlap compares.
pub const TOP: usize = 5;

/// The lens at one level for one token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Divergences of p_l from p.
    pub divergence: Divergence,
    /// Common tokens among the [`TOP`] most likely, 0 to 5.
    pub common: usize,
    /// Whether the most likely tokens agree.
    pub agrees: bool,
}

/// The points of one prompt, `[T][L + 1]`.
pub type Points = Vec<Vec<Point>>;

/// The work of [`sweep`] on a prompt of `tokens` tokens, and the bytes of its logits.
pub(crate) fn plan(model: &Model, tokens: usize, memory: MemoryPlan) -> (Work, u64) {
    let levels = model.config().depth() + 1;
    let work = Work::plain(0, model.head_macs_per_row() * (levels * tokens) as u64);
    (work, (at_once(model, tokens, memory) * levels * model.config().vocab * 4) as u64)
}

/// Number of tokens whose logits are held at a time.
fn at_once(model: &Model, tokens: usize, memory: MemoryPlan) -> usize {
    let token = (model.config().depth() + 1) * model.config().vocab * 4;
    (memory.bytes / token.max(1)).clamp(1, tokens.max(1))
}

/// Applies the lens to every token and level of one prompt.
pub fn sweep(model: &Model, trace: &Trace, exec: &ExecOptions<'_>) -> Points {
    let (d, vocab) = (trace.hidden, model.config().vocab);
    let levels = trace.resid.len();
    let tokens = trace.tokens.len();
    let at_once = at_once(model, tokens, exec.memory);
    let mut points = Vec::with_capacity(tokens);
    let (mut rows, mut logits) = (Vec::new(), Buffer::default());
    for first in (0..tokens).step_by(at_once) {
        let some = first..(first + at_once).min(tokens);
        rows.clear();
        for t in some.clone() {
            for resid in &trace.resid {
                rows.extend_from_slice(&resid[t * d..(t + 1) * d]);
            }
        }
        logits.resize(some.len() * levels * vocab);
        model.head(&rows, &mut logits);
        points.par_extend(logits.par_chunks(levels * vocab).map(|token| compare(token, vocab)));
        (exec.on_progress)(model.head_macs_per_row() * (some.len() * levels) as u64);
    }
    points
}

/// Compares each level of one token with the last level.
///
/// # Shapes
/// `logits [L + 1, V]`.
fn compare(logits: &[f32], vocab: usize) -> Vec<Point> {
    let Some(last) = logits.chunks_exact(vocab).next_back() else { return Vec::new() };
    let last = Reference::new(Logits::new(last));
    let k = TOP.min(vocab);
    let best = last.logits().top::<TOP>();
    let level = |lens: &[f32]| {
        let lens = Logits::new(lens);
        let mine = lens.top::<TOP>();
        Point {
            divergence: last.divergence_of(&lens),
            common: mine[..k].iter().filter(|t| best[..k].contains(t)).count(),
            agrees: mine[0] == best[0],
        }
    };
    logits.par_chunks_exact(vocab).map(level).collect()
}

/// The curves of one prompt, means over its tokens.
pub fn curves(points: &Points) -> LensCurves {
    let mut curves = LensCurves::default();
    let share = 1.0 / points.len() as f64;
    for token in points {
        let values: [fn(&Point) -> f64; 6] = [
            |p| p.divergence.kl,
            |p| p.divergence.kl_reverse,
            |p| p.divergence.jsd_bits,
            |p| p.common as f64 / TOP as f64,
            |p| f64::from(u8::from(p.agrees)),
            |p| p.divergence.entropy,
        ];
        for (curve, value) in curves.curves_mut().into_iter().zip(values) {
            let row: Vec<f64> = token.iter().map(value).collect();
            add_weighted(curve, &row, share);
        }
    }
    curves
}

/// Combines prompts, weighted by their tokens.
pub fn summarise(samples: &[(&LensCurves, usize)]) -> LensCurves {
    let total: usize = samples.iter().map(|s| s.1).sum();
    let mut all = LensCurves::default();
    for (curves, tokens) in samples {
        let mut curves = (*curves).clone();
        for (sum, row) in all.curves_mut().into_iter().zip(curves.curves_mut()) {
            add_weighted(sum, row, *tokens as f64 / total as f64);
        }
    }
    all
}

/// Negative log-likelihood of each token but the first, given the previous ones, in nats. `memory` bounds the
/// bytes of logits.
pub fn negative_log_likelihoods(model: &Model, trace: &Trace, memory: usize) -> Vec<f64> {
    let (d, vocab) = (trace.hidden, model.config().vocab);
    let Some(last) = trace.resid.last() else { return Vec::new() };
    let rows_at_once = (memory / (vocab * 4).max(1)).max(1);
    let mut all = Vec::new();
    let predicting = trace.tokens.len().saturating_sub(1);
    let mut logits = Buffer::default();
    for first in (0..predicting).step_by(rows_at_once) {
        let end = (first + rows_at_once).min(predicting);
        logits.resize((end - first) * vocab);
        model.head(&last[first * d..end * d], &mut logits);
        for (row, next) in logits.chunks_exact(vocab).zip(&trace.tokens[first + 1..]) {
            all.push(log_sum_exp(row) - f64::from(row[*next as usize]));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_level_is_the_output() {
        let logits: Vec<f32> = (0..60).map(|i| ((i * 37) % 17) as f32 / 3.0).collect();
        let points = compare(&logits, 20);
        let last = points[2];
        assert_eq!((last.divergence.kl, last.divergence.jsd_bits), (0.0, 0.0));
        assert_eq!((last.common, last.agrees), (5, true));
        assert!(points[0].divergence.kl > 0.0);
    }

    #[test]
    fn prompts_are_weighted_by_tokens() {
        let curves = |x: f64| LensCurves { overlap: vec![x, 1.0], ..LensCurves::default() };
        let all = summarise(&[(&curves(0.0), 3), (&curves(1.0), 1)]);
        assert_eq!(all.overlap, [0.25, 1.0]);
    }
}
