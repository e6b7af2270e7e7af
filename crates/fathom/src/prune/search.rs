//! The searches of the methods greedy and block.

use super::job::Job;
use super::known::Known;
use crate::observer::{Running, counted};
use crate::{Result, Unit};
use fathom_model::Backend;
use fathom_results::{PruneLine, PruneMethod, SearchStep};
use fathom_surgery::{EvaluateOptions, Found, Removal, Search};
use std::cell::Cell;

impl<B: Backend> Job<'_, B> {
    /// Does the searches that are not done yet. False when cancelled.
    pub(super) fn search(&self, known: &mut Known<'_>) -> Result<bool> {
        let has = |m| self.p.choosing().any(|own| own == m);
        let most = self.counts.last().copied().unwrap_or(0);
        if has(PruneMethod::Greedy) {
            let mut removed = Removal::nothing(self.p.unit);
            for count in 1..=most {
                if known.search(PruneMethod::Greedy, count).is_none() {
                    let task = format!("greedy, {count} of {most}");
                    let bound = self.searching(&|_| ()).count_greedy(&removed);
                    let found = self.with_progress(&task, bound, &|s| Ok(s.next_greedy(&removed)?))?;
                    let Some(found) = found else { return Ok(false) };
                    known.keep(line(PruneMethod::Greedy, found))?;
                }
                removed = self.removal_of(known.search(PruneMethod::Greedy, count));
            }
        }
        for &count in self.counts.iter().filter(|_| has(PruneMethod::Block)) {
            if known.search(PruneMethod::Block, count).is_none() {
                let task = format!("blocks of {count}");
                let bound = self.searching(&|_| ()).count_block(self.p.unit, count);
                let found = self.with_progress(&task, bound, &|s| Ok(s.best_block(self.p.unit, count)?))?;
                let Some(found) = found else { return Ok(false) };
                known.keep(line(PruneMethod::Block, found))?;
            }
        }
        Ok(true)
    }

    /// The removal that a search found.
    fn removal_of(&self, step: Option<&SearchStep>) -> Removal {
        let layers = step.into_iter().flat_map(|s| &s.removed).flat_map(|[start, end]| *start..*end);
        layers.fold(Removal::nothing(self.p.unit), |removal, layer| removal.with(layer))
    }

    pub(super) fn searching<'a>(&'a self, on_progress: &'a dyn Fn(u64)) -> Search<'a, B> {
        Search {
            model: self.model(),
            texts: &self.calibration.texts,
            racing: self.p.racing,
            options: EvaluateOptions { memory: self.memory, on_progress },
            is_cancelled: self.is_cancelled,
        }
    }

    /// Runs a search of at most `bound` multiply-adds. What candidates that are dropped save is done at its end.
    fn with_progress(
        &self,
        task: &str,
        bound: u64,
        search: &dyn Fn(Search<'_, B>) -> Result<Option<Found>>,
    ) -> Result<Option<Found>> {
        let running: Running<'_> = counted(self.observer, task, Unit::MultiplyAdds, bound);
        let done = Cell::new(0);
        let on_progress = |macs: u64| {
            done.set(done.get() + macs);
            running.advance(macs);
        };
        search(self.searching(&on_progress))
    }
}

fn line(method: PruneMethod, found: Found) -> PruneLine {
    PruneLine::Search(SearchStep {
        method,
        removed: found.removal.ranges(),
        loss: found.loss,
        candidates: found.candidates,
        finalists: found.finalists,
        work: found.work,
    })
}
