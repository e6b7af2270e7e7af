//! What the candidates cost on the held-out texts.

use super::candidates::Candidates;
use super::execute::Job;
use super::known::Known;
use crate::observer::counted;
use crate::{Result, Unit};
use fathom_model::Backend;
use fathom_results::{PruneLine, VariantScore, Work};
use fathom_surgery::{EvaluateOptions, Reading, Removal, Text, Variant, count, evaluate, group_sizes};

impl<B: Backend> Job<'_, B> {
    /// Measures what is not known yet, text by text. False when cancelled.
    pub(super) fn prove(&self, candidates: &Candidates<B>, known: &mut Known<'_>) -> Result<bool> {
        let variants = candidates.variants();
        let whole = Removal::nothing(self.p.unit);
        let missing = |known: &Known<'_>, id: &str| {
            let there = known.texts.get(id);
            let lacks = |name: &str| there.is_none_or(|all| all.iter().all(|v| v.variant != name));
            let mut missing: Vec<usize> = (0..variants.len()).filter(|v| lacks(&variants[*v].0)).collect();
            // The whole model is what the others are compared with.
            if !missing.is_empty() || lacks("") {
                missing.push(variants.len());
            }
            missing
        };
        let variant = |v: &usize| variants.get(*v).map_or(Variant::without(&whole), |(_, variant)| *variant);
        let open: Vec<(usize, Vec<usize>)> = (0..self.heldout.texts.len())
            .map(|i| (i, missing(known, &self.heldout.prompts[i].id)))
            .filter(|(_, missing)| !missing.is_empty())
            .collect();
        if open.len() < self.heldout.texts.len() {
            let there = self.heldout.texts.len() - open.len();
            self.observer.note(&format!(
                "{there} of {} held-out texts are there already (--overwrite measures them anew)",
                self.heldout.texts.len()
            ));
        }
        let families: Vec<&[(usize, Vec<usize>)]> = open.chunk_by(|a, b| a.1 == b.1).collect();
        let macs = families.iter().map(|family| {
            let variants: Vec<Variant<'_, B>> = family[0].1.iter().map(variant).collect();
            count(self.model(), &self.texts_of(family), &variants)
        });
        let running = counted(self.observer, "measuring", Unit::MultiplyAdds, macs.sum());
        let options = EvaluateOptions { memory: self.memory, on_progress: &|macs| running.advance(macs) };
        for family in families {
            let lacking: Vec<Variant<'_, B>> = family[0].1.iter().map(variant).collect();
            let names: Vec<&str> =
                family[0].1.iter().map(|v| variants.get(*v).map_or("", |(name, _)| name)).collect();
            let texts = self.texts_of(family);
            let (mut texts, mut rest) = (&texts[..], family);
            for size in group_sizes(self.model(), texts, lacking.len(), self.memory) {
                if self.observer.is_cancelled() {
                    return Ok(false);
                }
                let (group, later) = texts.split_at(size);
                texts = later;
                let done = evaluate(self.model(), group, &lacking, Reading::Comparison, &options)?;
                for i in 0..size {
                    let (id, tokens) =
                        (self.heldout.prompts[rest[i].0].id.clone(), group[i].scored.len() as u64);
                    let score = |(name, scores): (&&str, &Vec<fathom_surgery::Score>)| VariantScore {
                        variant: (*name).to_owned(),
                        nll: scores[i].nll,
                        kl: scores[i].kl,
                        agreements: scores[i].agreements as u64,
                    };
                    let variants = names.iter().zip(&done.scores).map(score).collect();
                    // The work of a group is that of its first text.
                    let work = if i == 0 { done.work } else { Work::default() };
                    known.keep(PruneLine::Text { id, tokens, variants, work })?;
                }
                rest = &rest[size..];
            }
        }
        Ok(true)
    }

    fn texts_of(&self, family: &[(usize, Vec<usize>)]) -> Vec<Text> {
        family.iter().map(|(i, _)| self.heldout.texts[*i].clone()).collect()
    }
}
