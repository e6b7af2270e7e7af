//! Searches for the removal that costs least on the calibration texts: greedily, or among contiguous blocks.
//!
//! Candidates race: after 16, 32, 64, .. texts, those that are clearly worse than the best are dropped. A candidate is
//! clearly worse if its loss exceeds the best one's, paired text by text, by more than [`CLEARLY`] standard errors. What
//! is left is compared on all texts, so the winner is that of the full comparison unless four-sigma evidence misled.

use crate::evaluate::naive_macs;
use crate::{EvaluateOptions, Reading, Removal, Score, Text, Variant, count, evaluate, group_sizes};
use fathom_model::{Backend, Error, Model};
use fathom_results::{SkipPart, Work};

/// Standard errors by which a candidate must be worse to be dropped.
pub const CLEARLY: f64 = 4.0;

/// Texts after which candidates are first dropped.
const FIRST_ROUND: usize = 16;

/// The winner of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The removal of least loss.
    pub removal: Removal,
    /// Its loss on all calibration texts, in nats per token.
    pub loss: f64,
    /// The number of candidates.
    pub candidates: usize,
    /// Candidates that were compared on all texts.
    pub finalists: usize,
    /// The work; naive is one forward pass from the embedding for each candidate and text.
    pub work: Work,
}

/// A search over calibration texts.
#[derive(Clone, Copy)]
pub struct Search<'a, B: Backend> {
    /// The model.
    pub model: &'a Model<B>,
    /// Calibration texts, in an order that has nothing to do with their content.
    pub texts: &'a [Text],
    /// Whether candidates that are clearly worse are dropped early.
    pub racing: bool,
    /// How evaluations execute.
    pub options: EvaluateOptions<'a>,
    /// Polled between groups of texts; the search ends once it returns true.
    pub is_cancelled: &'a dyn Fn() -> bool,
}

/// A candidate and its scores so far.
struct Candidate<'a> {
    removal: &'a Removal,
    scores: Vec<Score>,
}

impl Candidate<'_> {
    fn total(&self) -> f64 {
        self.scores.iter().map(|s| s.nll).sum()
    }

    /// Standard errors by which the mean loss lies above that of another one on the same texts; infinite where the
    /// loss is not a number.
    fn excess(&self, best: &Self) -> f64 {
        let differences: Vec<f64> =
            self.scores.iter().zip(&best.scores).map(|(own, best)| own.nll - best.nll).collect();
        let n = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / n;
        let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let excess = mean / (variance / n).sqrt();
        // Equal losses have no spread; a loss that is not a number is worse than any other.
        if mean == 0.0 {
            0.0
        } else if excess.is_nan() {
            f64::INFINITY
        } else {
            excess
        }
    }
}

/// The order of losses, those that are not numbers last.
fn by_loss(a: &Candidate<'_>, b: &Candidate<'_>) -> std::cmp::Ordering {
    let total = |c: &Candidate<'_>| Some(c.total()).filter(|t| t.is_finite()).unwrap_or(f64::INFINITY);
    total(a).total_cmp(&total(b))
}

impl<B: Backend> Search<'_, B> {
    /// The next unit to remove on top of those already removed (SLEB, arXiv 2402.09025). Every candidate begins with
    /// the stream of the model as it is, so it costs half the layers on average.
    ///
    /// `None` when cancelled, or when nothing else can be removed.
    ///
    /// # Errors
    /// When the model refuses a text, or memory is refused.
    pub fn next_greedy(&self, removed: &Removal) -> Result<Option<Found>, Error> {
        self.best(&self.greedy_candidates(removed))
    }

    /// The contiguous block of `count` units whose removal costs least.
    ///
    /// `None` when cancelled, or when the model does not have such a block.
    ///
    /// # Errors
    /// As [`Self::next_greedy`].
    pub fn best_block(&self, unit: SkipPart, count: usize) -> Result<Option<Found>, Error> {
        self.best(&self.blocks(unit, count))
    }

    /// Multiply-adds of [`Self::next_greedy`] at most, without candidates dropped early.
    pub fn count_greedy(&self, removed: &Removal) -> u64 {
        self.count(&self.greedy_candidates(removed))
    }

    /// Multiply-adds of [`Self::best_block`] at most.
    pub fn count_block(&self, unit: SkipPart, count: usize) -> u64 {
        self.count(&self.blocks(unit, count))
    }

    fn count(&self, candidates: &[Removal]) -> u64 {
        count(self.model, self.texts, &candidates.iter().map(Variant::without).collect::<Vec<_>>())
    }

    fn greedy_candidates(&self, removed: &Removal) -> Vec<Removal> {
        let depth = self.model.config().depth();
        let layers = (0..depth).filter(|layer| !removed.contains(*layer));
        layers.map(|layer| removed.with(layer)).filter(|removal| removal.check(depth).is_ok()).collect()
    }

    fn blocks(&self, unit: SkipPart, count: usize) -> Vec<Removal> {
        let depth = self.model.config().depth();
        let starts = 0..(depth + 1).saturating_sub(count);
        let blocks = starts.map(|start| Removal::block(unit, start..start + count));
        blocks.filter(|block| count > 0 && block.check(depth).is_ok()).collect()
    }

    /// The candidate of least loss.
    fn best(&self, candidates: &[Removal]) -> Result<Option<Found>, Error> {
        let mut alive: Vec<Candidate<'_>> =
            candidates.iter().map(|removal| Candidate { removal, scores: Vec::new() }).collect();
        let mut work = Work { edits: candidates.len() as u64, ..Work::default() };
        let (mut done, mut round) = (0, FIRST_ROUND);
        while done < self.texts.len() && !alive.is_empty() {
            let end = if self.racing { round.min(self.texts.len()) } else { self.texts.len() };
            if !self.extend(&mut alive, &self.texts[done..end], &mut work)? {
                return Ok(None);
            }
            (done, round) = (end, 2 * round);
            alive.sort_by(by_loss);
            if self.racing && done < self.texts.len() {
                let (best, others) = alive.split_at(1);
                let worse = others.iter().map(|c| c.excess(&best[0]) > CLEARLY).collect::<Vec<_>>();
                let mut worse = std::iter::once(false).chain(worse);
                alive.retain(|_| worse.next() == Some(false));
            }
        }
        work.macs_naive = candidates
            .iter()
            .map(|c| self.texts.iter().map(|t| naive_macs(self.model, t, &Variant::without(c))).sum::<u64>())
            .sum();
        let tokens: usize = self.texts.iter().map(|t| t.scored.len()).sum();
        Ok(alive.first().map(|best| Found {
            removal: best.removal.clone(),
            loss: best.total() / tokens as f64,
            candidates: candidates.len(),
            finalists: alive.len(),
            work,
        }))
    }

    /// Evaluates candidates on more texts; false when cancelled.
    fn extend(&self, alive: &mut [Candidate<'_>], texts: &[Text], work: &mut Work) -> Result<bool, Error> {
        let variants: Vec<Variant<'_, B>> = alive.iter().map(|c| Variant::without(c.removal)).collect();
        let mut rest = texts;
        for size in group_sizes(self.model, texts, variants.len(), self.options.memory) {
            if (self.is_cancelled)() {
                return Ok(false);
            }
            let (group, later) = rest.split_at(size);
            rest = later;
            let done = evaluate(self.model, group, &variants, Reading::Loss, &self.options)?;
            alive.iter_mut().zip(done.scores).for_each(|(c, scores)| c.scores.extend(scores));
            work.macs += done.work.macs;
            work.runs += done.work.runs;
        }
        Ok(true)
    }
}
