//! What the candidates cost on the held-out texts.

use super::candidates::Candidates;
use super::job::Job;
use super::known::{Known, missing};
use crate::observer::counted;
use crate::{Result, Unit};
use fathom_model::Backend;
use fathom_probes::TokenizedPrompt;
use fathom_results::{PruneLine, VariantScore, Work};
use fathom_surgery::{EvaluateOptions, Reading, Removal, Text, Variant, count, evaluate, group_sizes};

/// Held-out texts that lack the same variants.
struct Family<'a, B: Backend> {
    prompts: Vec<&'a TokenizedPrompt>,
    texts: Vec<Text>,
    names: Vec<&'a str>,
    variants: Vec<Variant<'a, B>>,
}

impl<B: Backend> Job<'_, B> {
    /// Measures what is not known yet, text by text. False when cancelled.
    pub(super) fn prove(&self, candidates: &Candidates<B>, known: &mut Known<'_>) -> Result<bool> {
        let whole = Removal::nothing(self.p.unit);
        let (names, variants) = candidates.variants(&whole);
        let families = self.families(&names, &variants, known);
        let (all, open) = (self.heldout.texts.len(), families.iter().map(|f| f.texts.len()).sum::<usize>());
        if open < all {
            let there = all - open;
            self.observer.note(&format!(
                "{there} of {all} held-out texts are there already (--overwrite measures them anew)"
            ));
        }
        let macs = families.iter().map(|f| count(self.model(), &f.texts, &f.variants)).sum();
        let running = counted(self.observer, "measuring", Unit::MultiplyAdds, macs);
        let options = EvaluateOptions { memory: self.memory, on_progress: &|macs| running.advance(macs) };
        for family in &families {
            let mut first = 0;
            for size in group_sizes(self.model(), &family.texts, family.variants.len(), self.memory) {
                if self.observer.is_cancelled() {
                    return Ok(false);
                }
                let texts = &family.texts[first..first + size];
                let done = evaluate(self.model(), texts, &family.variants, Reading::Comparison, &options)?;
                for (i, text) in texts.iter().enumerate() {
                    let score = |(name, scores): (&&str, &Vec<fathom_surgery::Score>)| VariantScore {
                        variant: (*name).to_owned(),
                        nll: scores[i].nll,
                        kl: scores[i].kl,
                        agreements: scores[i].agreements as u64,
                    };
                    known.keep(PruneLine::Text {
                        id: family.prompts[first + i].id.clone(),
                        tokens: text.scored.len() as u64,
                        variants: family.names.iter().zip(&done.scores).map(score).collect(),
                        // The work of a group is that of its first text.
                        work: if i == 0 { done.work } else { Work::default() },
                    })?;
                }
                first += size;
            }
        }
        Ok(true)
    }

    /// The texts on which variants are missing, in order.
    fn families<'a>(
        &'a self,
        names: &'a [String],
        variants: &[Variant<'a, B>],
        known: &Known<'_>,
    ) -> Vec<Family<'a, B>> {
        let lacking = |i: &usize| {
            let mut missing = missing(&known.texts, &self.heldout.prompts[*i].id, names);
            // The whole model, which is last, is what the others are compared with.
            if missing.last().is_some_and(|last| last + 1 < names.len()) {
                missing.push(names.len() - 1);
            }
            missing
        };
        let all: Vec<usize> = (0..self.heldout.texts.len()).collect();
        let families = all.chunk_by(|a, b| lacking(a) == lacking(b));
        let family = |texts: &[usize]| {
            let missing = lacking(&texts[0]);
            Family {
                prompts: texts.iter().map(|i| &self.heldout.prompts[*i]).collect(),
                texts: texts.iter().map(|i| self.heldout.texts[*i].clone()).collect(),
                names: missing.iter().map(|v| names[*v].as_str()).collect(),
                variants: missing.iter().map(|v| variants[*v]).collect(),
            }
        };
        families.map(family).filter(|family| !family.names.is_empty()).collect()
    }
}
