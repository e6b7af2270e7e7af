//! Which removals are measured: those of every method and number of units, and the user's own.

use super::job::Job;
use super::known::Known;
use crate::Result;
use crate::error::invalid;
use fathom_model::Backend;
use fathom_results::text::counted;
use fathom_results::{LinearMap, PruneMethod};
use fathom_surgery::{Removal, Variant, scores};

/// A removal that is measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chosen {
    pub(super) method: PruneMethod,
    pub(super) removal: Removal,
    /// The index of the linear map that replaces it.
    pub(super) replacement: Option<usize>,
}

/// A fitted linear map, ready to run.
pub(super) struct Replacement<B: Backend> {
    pub(super) removal: Removal,
    pub(super) about: LinearMap,
    pub(super) down: fathom_model::DownProjection,
    pub(super) packed: B::Linear,
}

/// Several methods often choose the same layers, which are measured once.
pub(super) struct Candidates<B: Backend> {
    pub(super) chosen: Vec<Chosen>,
    pub(super) replacements: Vec<Replacement<B>>,
}

impl<B: Backend> Candidates<B> {
    /// The name of a variant in `samples.jsonl`; empty for the whole model.
    pub(super) fn name(chosen: &Chosen) -> String {
        match chosen.replacement {
            Some(_) => format!("{}+linear", chosen.removal),
            None => chosen.removal.to_string(),
        }
    }

    /// The names of the different variants, and how they run; the whole model last.
    pub(super) fn variants<'a>(&'a self, whole: &'a Removal) -> (Vec<String>, Vec<Variant<'a, B>>) {
        let (mut names, mut variants) = (Vec::new(), Vec::new());
        for chosen in &self.chosen {
            let name = Self::name(chosen);
            if !names.contains(&name) {
                let down = chosen.replacement.map(|i| &self.replacements[i]);
                let down = down.map(|r| (r.about.layer, &r.packed));
                names.push(name);
                variants.push(Variant { removal: &chosen.removal, down });
            }
        }
        names.push(String::new());
        variants.push(Variant::without(whole));
        (names, variants)
    }
}

impl<B: Backend> Job<'_, B> {
    /// The removals that the methods choose.
    pub(super) fn choose(&self, known: &Known<'_>) -> Result<Vec<Chosen>> {
        let mut all = Vec::new();
        for method in self.p.choosing() {
            for &count in &self.counts {
                match self.removal(method, count, known) {
                    Some(removal) => all.push(Chosen { method, removal, replacement: None }),
                    None => self.observer.warn(&format!(
                        "the method {} cannot choose {}, because the model overflows on the calibration texts",
                        method.name(),
                        counted(count as u64, "layer")
                    )),
                }
            }
        }
        let own = self.own.iter().cloned();
        all.extend(own.map(|removal| Chosen { method: PruneMethod::Layers, removal, replacement: None }));
        if all.is_empty() {
            invalid!("no method finds layers to remove; try another dtype or other texts");
        }
        Ok(all)
    }

    fn removal(&self, method: PruneMethod, count: usize, known: &Known<'_>) -> Option<Removal> {
        let (unit, scores) = (self.p.unit, known.scores.as_ref());
        match method {
            PruneMethod::Influence => scores::least(unit, scores?.influence.as_ref()?, count),
            PruneMethod::Output => scores::least(unit, scores?.output.as_ref()?, count),
            PruneMethod::Angular => scores::least_angular(&scores?.angular, count),
            PruneMethod::Block | PruneMethod::Greedy => {
                let ranges = &known.search(method, count)?.removed;
                Removal::new(unit, ranges.iter().flat_map(|[start, end]| *start..*end)).ok()
            }
            PruneMethod::Layers => None,
        }
    }
}
