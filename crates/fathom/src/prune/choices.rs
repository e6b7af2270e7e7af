//! Multiple-choice questions: the log-likelihood of every choice by every candidate.

use super::candidates::Candidates;
use super::job::Job;
use super::known::{Known, missing};
use crate::choices::ChoiceTokens;
use crate::observer::counted;
use crate::{Result, Unit};
use fathom_model::Backend;
use fathom_results::{PruneLine, VariantChoices, Work};
use fathom_surgery::{EvaluateOptions, Reading, Removal, Text, Variant, evaluate, group_sizes};

/// A question's choices behind its context.
pub(super) fn texts(row: &ChoiceTokens) -> impl Iterator<Item = Text> {
    row.choices.iter().map(|c| Text { tokens: c.tokens.clone(), scored: c.continuation.clone() })
}

impl<B: Backend> Job<'_, B> {
    /// Measures what is not known yet, question by question. False when cancelled.
    pub(super) fn answer(&self, candidates: &Candidates<B>, known: &mut Known<'_>) -> Result<bool> {
        let Some(questions) = self.questions else { return Ok(true) };
        let whole = Removal::nothing(self.p.unit);
        let (names, variants) = candidates.variants(&whole);
        let open: Vec<(&ChoiceTokens, Vec<usize>)> = questions
            .rows
            .iter()
            .map(|row| (row, missing(&known.questions, &row.id, &names)))
            .filter(|(_, missing)| !missing.is_empty())
            .collect();
        let running = counted(self.observer, "answering", Unit::Items("questions"), open.len() as u64);
        for family in open.chunk_by(|a, b| a.1 == b.1) {
            let lacking_names: Vec<&str> = family[0].1.iter().map(|v| names[*v].as_str()).collect();
            let lacking: Vec<Variant<'_, B>> = family[0].1.iter().map(|v| variants[*v]).collect();
            // A question is not divided, so its size is that of all its choices.
            let sizes: Vec<Text> = family.iter().map(|(row, _)| joined(row)).collect();
            let mut rest = family;
            for size in group_sizes(self.model(), &sizes, lacking.len(), self.memory) {
                if self.observer.is_cancelled() {
                    return Ok(false);
                }
                let (group, later) = rest.split_at(size);
                rest = later;
                let rows: Vec<&ChoiceTokens> = group.iter().map(|(row, _)| *row).collect();
                for line in self.question_lines(&rows, &lacking_names, &lacking)? {
                    known.keep(line)?;
                }
                running.advance(size as u64);
            }
        }
        Ok(true)
    }

    fn question_lines(
        &self,
        rows: &[&ChoiceTokens],
        names: &[&str],
        variants: &[Variant<'_, B>],
    ) -> Result<Vec<PruneLine>> {
        let all: Vec<Text> = rows.iter().flat_map(|row| texts(row)).collect();
        let options = EvaluateOptions { memory: self.memory, on_progress: &|_| () };
        let done = evaluate(self.model(), &all, variants, Reading::Loss, &options)?;
        let mut first = 0;
        let line = |(i, row): (usize, &&ChoiceTokens)| {
            let own = first..first + row.choices.len();
            first = own.end;
            let of = |(name, scores): (&&str, &Vec<fathom_surgery::Score>)| VariantChoices {
                variant: (*name).to_owned(),
                log_likelihoods: scores[own.clone()].iter().map(|s| -s.nll).collect(),
            };
            PruneLine::Question {
                id: row.id.clone(),
                label: row.label,
                variants: names.iter().zip(&done.scores).map(of).collect(),
                // The work of a group is that of its first question.
                work: if i == 0 { done.work } else { Work::default() },
            }
        };
        Ok(rows.iter().enumerate().map(line).collect())
    }
}

/// A text as long as all choices of a question.
fn joined(row: &ChoiceTokens) -> Text {
    Text { tokens: row.choices.iter().flat_map(|c| c.tokens.iter().copied()).collect(), scored: 0..0 }
}
