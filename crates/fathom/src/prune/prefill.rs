//! How long a prefill takes with fewer layers.

use super::candidates::Candidates;
use super::job::Job;
use crate::Result;
use crate::observer::uncounted;
use fathom_model::Backend;
use fathom_surgery::{EvaluateOptions, Reading, Removal, Text, Variant, evaluate};
use std::collections::BTreeMap;
use std::time::Instant;

/// Tokens that are timed at most.
const TOKENS: usize = 256;

/// Seconds that the rounds of one model take, about.
const SECONDS: f64 = 0.5;

/// The tokens that were timed, and the seconds with that many units removed.
pub(super) type Prefill = (usize, BTreeMap<usize, f64>);

impl<B: Backend> Job<'_, B> {
    /// Times the whole model and one candidate of each number of units, in turn. `None` when cancelled.
    pub(super) fn time_prefill(&self, candidates: &Candidates<B>) -> Result<Option<Prefill>> {
        let whole = Removal::nothing(self.p.unit);
        let mut removals: BTreeMap<usize, &Removal> = BTreeMap::from([(0, &whole)]);
        candidates.chosen.iter().for_each(|c| {
            removals.entry(c.removal.count()).or_insert(&c.removal);
        });
        let (texts, tokens) = beginnings(&self.heldout.texts);
        let options = EvaluateOptions { memory: self.memory, on_progress: &|_| () };
        let time = |removal: &Removal| -> Result<f64> {
            self.model().backend().wait();
            let started = Instant::now();
            evaluate(self.model(), &texts, &[Variant::without(removal)], Reading::Loss, &options)?;
            self.model().backend().wait();
            Ok(started.elapsed().as_secs_f64())
        };
        let _timing = uncounted(self.observer, "timing the prefill");
        let rounds = (SECONDS / time(&whole)?).clamp(1.0, 9.0) as usize;
        let mut least = BTreeMap::new();
        for _ in 0..rounds {
            for (count, removal) in &removals {
                if self.observer.is_cancelled() {
                    return Ok(None);
                }
                let seconds = time(removal)?;
                least.entry(*count).and_modify(|s: &mut f64| *s = s.min(seconds)).or_insert(seconds);
            }
        }
        Ok(Some((tokens, least)))
    }
}

/// Texts up to [`TOKENS`] in all, the last one cut, and their number of tokens.
fn beginnings(texts: &[Text]) -> (Vec<Text>, usize) {
    let (mut all, mut tokens) = (Vec::new(), 0);
    for text in texts {
        let own = text.tokens.len().min(TOKENS - tokens);
        if own == 0 {
            break;
        }
        all.push(Text { tokens: text.tokens[..own].to_vec(), scored: 0..0 });
        tokens += own;
    }
    (all, tokens)
}
