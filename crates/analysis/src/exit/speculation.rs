//! The first layers of a model and a head as the draft of the whole (arXiv 2211.17192, 2404.16710).

use super::{ExitOptions, ExitTexts, estimate};
use fathom_depth::bootstrap;
use fathom_results::{Estimated, ExitHead, ExitSample, HeadValues, Speculation};
use rayon::prelude::*;

/// The most tokens that are drafted at a time.
const MOST: usize = 16;

/// The expected speed-up with `draft` tokens at a time, an acceptance rate of `alpha` and a draft that costs `ratio` of the
/// whole model.
pub(super) fn speedup(alpha: f64, draft: usize, ratio: f64) -> f64 {
    // (1 - alpha^(k + 1)) / (1 - alpha) as a sum, which has no hole at 1.
    let tokens: f64 = (0..=draft as i32).map(|i| alpha.powi(i)).sum();
    tokens / (draft as f64 * ratio + 1.0)
}

/// Sums of acceptance over the tokens of a text, and the tokens.
fn acceptance(values: &HeadValues, level: usize) -> (f64, f64) {
    (values.acceptance[level].iter().sum(), values.acceptance[level].len() as f64)
}

/// For each number n of tokens in a row that agree, the positions from which that many agree; only positions with
/// `within` tokens from them on count, and longer runs count as `within`.
fn runs(agrees: &str, within: usize) -> Vec<f64> {
    let mut counts = vec![0.0; within + 1];
    let bytes = agrees.as_bytes();
    for start in 0..(bytes.len() + 1).saturating_sub(within) {
        let run = bytes[start..start + within].iter().take_while(|b| **b == b'1').count();
        counts[run] += 1.0;
    }
    counts
}

/// Sums over positions of the tokens that a round of greedy drafting gives, and the positions.
fn greedy(agrees: &str, draft: usize) -> (f64, f64) {
    let counts = runs(agrees, draft);
    let tokens = counts.iter().enumerate().map(|(run, count)| (run + 1) as f64 * count).sum();
    (tokens, counts.iter().sum())
}

fn ratio(parts: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (a, b) = parts.fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
    a / b
}

/// The number of tokens to draft with the largest value.
fn best_draft(of: impl Fn(usize) -> f64) -> usize {
    let all = (1..=MOST).map(|k| (k, of(k))).filter(|(_, v)| v.is_finite());
    all.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(1, |(k, _)| k)
}

/// Every level from 1 to L - 1 with every head.
pub(super) fn drafts(texts: &ExitTexts<'_>, heads: &[ExitHead], options: &ExitOptions) -> Vec<Speculation> {
    let all = heads.iter().flat_map(|head| (1..texts.depth()).map(|level| (*head, level)));
    let all: Vec<(ExitHead, usize)> = all.collect();
    all.into_par_iter().map(|(head, level)| draft(texts, head, level, options)).collect()
}

fn draft(texts: &ExitTexts<'_>, head: ExitHead, level: usize, options: &ExitOptions) -> Speculation {
    let costs = texts.costs;
    let cost_ratio = (costs.layers[..level].iter().sum::<f64>() + costs.look(head)) / costs.full();
    let known = || texts.fit.iter().chain(&texts.calibration).map(|s| &s.heads[&head]);
    let alpha = ratio(known().map(|v| acceptance(v, level)));
    let draft = best_draft(|k| speedup(alpha, k, cost_ratio));
    let greedily =
        |k: usize| ratio(known().map(|v| greedy(&v.agrees[level], k))) / (k as f64 * cost_ratio + 1.0);
    let greedy_draft = best_draft(greedily);
    let heldout =
        |of: &dyn Fn(&ExitSample) -> (f64, f64)| texts.heldout.iter().map(|s| of(s)).collect::<Vec<_>>();
    let accepted = heldout(&|s| acceptance(&s.heads[&head], level));
    let rounds = heldout(&|s| greedy(&s.heads[&head].agrees[level], greedy_draft));
    let of_rounds = estimate(&rounds, options);
    let scale = greedy_draft as f64 * cost_ratio + 1.0;
    let mut counts = vec![0.0; MOST + 1];
    for sample in &texts.heldout {
        let own = runs(&sample.heads[&head].agrees[level], MOST);
        counts.iter_mut().zip(own).for_each(|(sum, count)| *sum += count);
    }
    let positions = counts.iter().sum::<f64>().max(1.0);
    Speculation {
        level,
        head,
        cost_ratio,
        alpha: ratio(accepted.iter().copied()),
        draft,
        speedup: sampled(&accepted, draft, cost_ratio, options),
        greedy_draft,
        greedy_speedup: Estimated {
            value: of_rounds.value / scale,
            interval: of_rounds.interval.map(|ends| ends.map(|end| end / scale)),
        },
        runs: counts.into_iter().map(|count| count / positions).collect(),
    }
}

/// The speed-up of sampling on some texts, with its interval.
fn sampled(accepted: &[(f64, f64)], draft: usize, cost_ratio: f64, options: &ExitOptions) -> Estimated {
    let of = |weights: &[u32]| {
        let weighted = accepted.iter().zip(weights).map(|((a, b), w)| (f64::from(*w) * a, f64::from(*w) * b));
        Some(speedup(ratio(weighted), draft, cost_ratio)).filter(|v| v.is_finite())
    };
    let value = speedup(ratio(accepted.iter().copied()), draft, cost_ratio);
    let interval = bootstrap(accepted.len(), options.resamples, options.seed, of);
    Estimated { value, interval: interval.ok().filter(|_| value.is_finite()).map(|i| [i.lo, i.hi]) }
}

/// The draft whose sampling is fastest on the fitting and calibration texts.
pub(super) fn best(texts: &ExitTexts<'_>, all: &[Speculation]) -> Option<usize> {
    let of = |s: &Speculation| {
        let known = texts.fit.iter().chain(&texts.calibration).map(|t| &t.heads[&s.head]);
        speedup(ratio(known.map(|v| acceptance(v, s.level))), s.draft, s.cost_ratio)
    };
    let found = all.iter().map(of).enumerate().filter(|(_, v)| v.is_finite());
    found.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_up_is_the_published_formula() {
        for (alpha, k, c) in [(0.6f64, 4, 0.2), (0.9, 8, 0.05), (0.0, 3, 0.5)] {
            let expected = (1.0 - alpha.powi(k + 1)) / ((1.0 - alpha) * (f64::from(k) * c + 1.0));
            assert!((speedup(alpha, k as usize, c) - expected).abs() < 1e-12);
        }
        assert_eq!(speedup(1.0, 4, 0.25), 2.5);
    }

    #[test]
    fn runs_by_hand() {
        // From the five positions of 1101110 with three tokens left: 2, 1, 0, 3, 2.
        assert_eq!(runs("1101110", 3), [1.0, 1.0, 2.0, 1.0]);
        assert_eq!(greedy("1101110", 3), (5.0 + 8.0, 5.0));
        assert_eq!(runs("11", 3), [0.0; 4]);
    }
}
