//! The logit lens: the prediction of the final norm and the unembedding from the residual stream at each
//! layer, compared with the prediction of the model.
//!
//! The logits of a few tokens at a time are computed for all layers and the whole vocabulary: the
//! Jensen-Shannon divergence needs both normalisers before its first term, so tiles of the vocabulary would
//! compute every product twice.

use crate::number::add_weighted;
use crate::{ExecOptions, LensMaps, MemoryPlan, Work};
use fathom_kernels::backend::LENS_NUMBERS;
pub use fathom_kernels::backend::TOP;
use fathom_kernels::distribution::Divergence;
use fathom_model::{Backend, Model, Trace};
use fathom_results::LensCurves;

/// The lens at one level for one token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Divergences of p_l from p.
    pub divergence: Divergence,
    /// Common tokens among the [`TOP`] most likely, 0 to 5.
    pub common: usize,
    /// Whether the most likely tokens agree.
    pub agrees: bool,
    /// `-ln p_l` of the token that follows, or of the one that a mask hides, in nats; the last token of a causal text
    /// has none.
    pub nll: Option<f64>,
}

/// The points of one prompt, `[T][L + 1]`.
pub type Points = Vec<Vec<Point>>;

/// The work of [`sweep_through`] on a prompt of `tokens` tokens with that many maps, and the bytes of its logits.
pub(crate) fn plan<B: Backend>(
    model: &Model<B>,
    tokens: usize,
    memory: MemoryPlan,
    maps: usize,
) -> (Work, u64) {
    let levels = model.config().depth() + 1;
    let macs = model.head_macs_per_row() * levels as u64 + map_macs(model, maps);
    let work = Work::plain(0, macs * tokens as u64);
    (work, (at_once(model, levels, tokens, memory) * levels * model.config().vocab * 4) as u64)
}

/// Multiply-adds of the maps for one token.
fn map_macs<B: Backend>(model: &Model<B>, maps: usize) -> u64 {
    maps as u64 * (model.config().hidden as u64).pow(2)
}

/// Number of tokens whose logits are held at a time.
fn at_once<B: Backend>(model: &Model<B>, levels: usize, tokens: usize, memory: MemoryPlan) -> usize {
    let token = levels * model.config().vocab * 4;
    (memory.bytes / token.max(1)).clamp(1, tokens.max(1))
}

/// Applies the lens to every token and level of one prompt.
pub fn sweep<B: Backend>(model: &Model<B>, trace: &Trace<B>, exec: &ExecOptions<'_>) -> Points {
    sweep_through(model, trace, &LensMaps::none(), exec)
}

/// [`sweep`], with maps that the stream goes through first. The last level is read as it is.
pub fn sweep_through<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    maps: &LensMaps<B>,
    exec: &ExecOptions<'_>,
) -> Points {
    // The last token is followed by none; what is read of any other in its place is dropped.
    let tokens = &trace.tokens;
    let followers: Vec<u32> = tokens.iter().skip(1).chain(tokens.first()).copied().collect();
    let mut points = sweep_rows(model, trace, maps, &followers, exec);
    points.iter_mut().skip(tokens.len() - 1).flatten().for_each(|point| point.nll = None);
    points
}

/// As [`sweep`], with the token that each row should predict.
pub fn sweep_targets<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    targets: &[u32],
    exec: &ExecOptions<'_>,
) -> Points {
    sweep_rows(model, trace, &LensMaps::none(), targets, exec)
}

fn sweep_rows<B: Backend>(
    model: &Model<B>,
    trace: &Trace<B>,
    maps: &LensMaps<B>,
    targets: &[u32],
    exec: &ExecOptions<'_>,
) -> Points {
    let (on, d, vocab) = (model.backend(), trace.hidden, model.config().vocab);
    let (levels, tokens) = (trace.resid.len(), trace.tokens.len());
    let (mut part, mut mapped, mut rows, mut logits) = (on.empty(), on.empty(), on.empty(), on.empty());
    let mut numbers = Vec::new();
    let all: Vec<u32> = (0..tokens as u32).collect();
    for some in all.chunks(at_once(model, levels, tokens, exec.memory)) {
        on.resize(&mut rows, some.len() * levels * d);
        for (level, resid) in trace.resid.iter().enumerate() {
            // The levels of a token follow each other.
            let to: Vec<u32> = (0..some.len()).map(|i| (i * levels + level) as u32).collect();
            on.gather(d, resid, some, &mut part);
            match maps.at(level).filter(|_| level + 1 < levels) {
                Some(map) => {
                    map.apply(on, &part, &mut mapped);
                    on.scatter(d, &mapped, &to, &mut rows);
                }
                None => on.scatter(d, &part, &to, &mut rows),
            }
        }
        model.head(&rows, &mut logits);
        let target = |t: &u32| std::iter::repeat_n(targets[*t as usize], levels);
        let followers: Vec<u32> = some.iter().flat_map(target).collect();
        numbers.push(on.lens(vocab, levels, &logits, &followers));
        let macs = model.head_macs_per_row() * levels as u64 + map_macs(model, maps.count());
        (exec.on_progress)(macs * some.len() as u64);
    }
    let numbers = on.read(numbers).concat();
    let points: Vec<Point> = numbers.as_chunks().0.iter().map(Point::of).collect();
    points.chunks(levels).map(<[Point]>::to_vec).collect()
}

impl Point {
    fn of(numbers: &[f64; LENS_NUMBERS]) -> Self {
        let [kl, kl_reverse, jsd_bits, entropy, common, agrees, log_likelihood] = *numbers;
        Self {
            divergence: Divergence { kl, kl_reverse, jsd_bits, entropy },
            common: common as usize,
            agrees: agrees == 1.0,
            nll: Some(-log_likelihood),
        }
    }
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
    let followed =
        || points.iter().filter_map(|token| token.iter().map(|p| p.nll).collect::<Option<Vec<f64>>>());
    let share = 1.0 / followed().count() as f64;
    followed().for_each(|row| add_weighted(&mut curves.nll, &row, share));
    curves
}

/// Combines prompts, weighted by their tokens.
pub fn summarise(samples: &[(&LensCurves, usize)]) -> LensCurves {
    LensCurves { nll: losses(samples, 1), ..means(samples) }
}

/// As [`summarise`] for masked texts, weighted by their masks, each of which hides a token.
pub fn summarise_masked(samples: &[(&LensCurves, usize)]) -> LensCurves {
    LensCurves { nll: losses(samples, 0), ..means(samples) }
}

fn means(samples: &[(&LensCurves, usize)]) -> LensCurves {
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

/// The losses of all prompts together; none if a prompt that predicts tokens lacks them. `without` of the tokens of each
/// are not predicted.
fn losses(samples: &[(&LensCurves, usize)], without: usize) -> Vec<f64> {
    let followed = || samples.iter().filter(|(_, tokens)| *tokens > without);
    let total: usize = followed().map(|(_, tokens)| tokens - without).sum();
    let mut all = Vec::new();
    if followed().all(|(curves, _)| !curves.nll.is_empty()) {
        followed().for_each(|(curves, tokens)| {
            add_weighted(&mut all, &curves.nll, (tokens - without) as f64 / total as f64);
        });
    }
    all
}

/// Negative log-likelihood of each token but the first, given the previous ones, in nats. `memory` bounds the
/// bytes of logits.
pub fn negative_log_likelihoods<B: Backend>(model: &Model<B>, trace: &Trace<B>, memory: usize) -> Vec<f64> {
    let (on, d, vocab) = (model.backend(), trace.hidden, model.config().vocab);
    let Some(last) = trace.resid.last() else { return Vec::new() };
    let rows_at_once = (memory / (vocab * 4).max(1)).max(1);
    let predicting = trace.tokens.len().saturating_sub(1);
    let (mut numbers, mut logits) = (Vec::new(), on.empty());
    for first in (0..predicting).step_by(rows_at_once) {
        let end = (first + rows_at_once).min(predicting);
        let rows = on.copy(last, first * d..end * d);
        numbers.push(model.answer(&rows, &trace.tokens[first + 1..end + 1], &mut logits));
    }
    on.read(numbers).into_iter().flatten().map(|log| -log).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_weighted_by_tokens() {
        let curves = |x: f64| LensCurves { overlap: vec![x, 1.0], ..LensCurves::default() };
        let all = summarise(&[(&curves(0.0), 3), (&curves(1.0), 1)]);
        assert_eq!(all.overlap, [0.25, 1.0]);
    }

    #[test]
    fn losses_are_weighted_by_the_tokens_that_follow_another() {
        let curves = |nll: &[f64]| LensCurves { nll: nll.to_vec(), ..LensCurves::default() };
        let (long, short, single) = (curves(&[8.0, 4.0]), curves(&[4.0, 0.0]), curves(&[]));
        assert_eq!(summarise(&[(&long, 4), (&short, 2), (&single, 1)]).nll, [7.0, 3.0]);
        // Samples of an older version among them: no mean of some of the prompts.
        assert_eq!(summarise(&[(&long, 4), (&single, 2)]).nll, [0.0; 0]);
        assert_eq!(summarise(&[(&single, 1)]).nll, [0.0; 0]);
    }
}
