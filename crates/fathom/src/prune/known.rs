//! What an earlier run of the same job has done, line by line of `samples.jsonl`.

use crate::Result;
use fathom_results::{
    Folder, PruneLine, PruneMethod, SearchStep, UnitScores, VariantChoices, VariantScore, Work,
};
use std::collections::{BTreeMap, HashMap};

/// The work of each stage, by name.
pub(super) const CALIBRATION: &str = "calibration";
pub(super) const SEARCH: &str = "search";
pub(super) const PROOF: &str = "proof";
pub(super) const CHOICES: &str = "choices";

/// Everything that is finished.
pub(super) struct Known<'a> {
    /// Where lines are kept.
    pub(super) folder: &'a Folder,
    pub(super) scores: Option<UnitScores>,
    pub(super) searches: Vec<SearchStep>,
    /// The variants on each held-out text.
    pub(super) texts: HashMap<String, Vec<VariantScore>>,
    /// The variants on each question.
    pub(super) questions: HashMap<String, Vec<VariantChoices>>,
    pub(super) cost: BTreeMap<String, Work>,
}

impl<'a> Known<'a> {
    /// Nothing yet.
    pub(super) fn new(folder: &'a Folder) -> Self {
        let (scores, searches, cost) = (None, Vec::new(), BTreeMap::new());
        Self { folder, scores, searches, texts: HashMap::new(), questions: HashMap::new(), cost }
    }

    /// What the folder holds.
    pub(super) fn of(folder: &'a Folder) -> Result<Self> {
        let mut known = Self::new(folder);
        folder.samples::<PruneLine>()?.into_iter().for_each(|line| known.add(line));
        Ok(known)
    }

    /// Writes a line and takes it in.
    pub(super) fn keep(&mut self, line: PruneLine) -> Result<()> {
        self.folder.append_sample(&line)?;
        self.add(line);
        Ok(())
    }

    fn add(&mut self, line: PruneLine) {
        let (stage, work) = match line {
            PruneLine::Scores { scores, work } => {
                let known = self.scores.get_or_insert_default();
                known.influence = scores.influence.or(known.influence.take());
                known.output = scores.output.or(known.output.take());
                if !scores.angular.is_empty() {
                    known.angular = scores.angular;
                }
                (CALIBRATION, work)
            }
            PruneLine::Search(step) => {
                let work = step.work;
                self.searches.push(step);
                (SEARCH, work)
            }
            PruneLine::Text { id, variants, work, .. } => {
                self.texts.entry(id).or_default().extend(variants);
                (PROOF, work)
            }
            PruneLine::Question { id, variants, work, .. } => {
                self.questions.entry(id).or_default().extend(variants);
                (CHOICES, work)
            }
        };
        *self.cost.entry(stage.to_owned()).or_default() += work;
    }

    /// The finished search of a method for a number of units.
    pub(super) fn search(&self, method: PruneMethod, count: usize) -> Option<&SearchStep> {
        self.searches.iter().find(|step| step.method == method && step.count() == count)
    }
}

/// A score of one variant.
pub(super) trait OfVariant {
    /// The variant's name.
    fn variant(&self) -> &str;
}

impl OfVariant for VariantScore {
    fn variant(&self) -> &str {
        &self.variant
    }
}

impl OfVariant for VariantChoices {
    fn variant(&self) -> &str {
        &self.variant
    }
}

/// The variants whose score on a text or question is not known.
pub(super) fn missing<T: OfVariant>(
    known: &HashMap<String, Vec<T>>,
    id: &str,
    names: &[String],
) -> Vec<usize> {
    let there = known.get(id);
    let lacks = |name: &String| there.is_none_or(|all| all.iter().all(|one| one.variant() != name));
    (0..names.len()).filter(|v| lacks(&names[*v])).collect()
}
