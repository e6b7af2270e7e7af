//! `prune.json` from what was measured: intervals, sizes, the recommendation.

use super::candidates::{Candidates, Chosen, Replacement};
use super::job::Job;
use super::known::{self, Known};
use super::prefill::Prefill;
use super::recommend::recommend;
use crate::Result;
use crate::choices::{ChoiceScore, ChoiceTokens};
use crate::execute::model_info;
use crate::observer::uncounted;
use fathom_depth::bootstrap;
use fathom_kernels::backend::LinearLayer;
use fathom_model::Backend;
use fathom_model::source::Located;
use fathom_results::{
    Accuracy, Candidate, Estimated, Measured, PRUNE_SCHEMA_VERSION, PruneResources, Pruning, Resources,
    VariantScore, Work,
};
use fathom_surgery::Removal;
use std::collections::BTreeMap;

/// Everything that the results are made of.
pub(super) struct Parts<'a, B: Backend> {
    pub(super) job: &'a Job<'a, B>,
    pub(super) located: &'a Located,
    pub(super) candidates: &'a Candidates<B>,
    pub(super) known: &'a Known<'a>,
    pub(super) stages: BTreeMap<String, Resources>,
    pub(super) prefill: Prefill,
}

/// A variant on the held-out texts, in their order.
struct OnTexts<'a> {
    scores: Vec<&'a VariantScore>,
    tokens: Vec<f64>,
}

impl OnTexts<'_> {
    /// A sum over texts per token, each text counted as often as its weight says.
    fn per_token(&self, weights: &[u32], of: impl Fn(usize) -> f64) -> Option<f64> {
        let mut sums = (0.0, 0.0);
        for (i, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
            sums.0 += f64::from(*weight) * of(i);
            sums.1 += f64::from(*weight) * self.tokens[i];
        }
        (sums.1 > 0.0).then(|| sums.0 / sums.1)
    }

    fn mean(&self, of: impl Fn(usize) -> f64) -> f64 {
        self.per_token(&vec![1; self.tokens.len()], of).unwrap_or(f64::NAN)
    }
}

impl<B: Backend> Parts<'_, B> {
    pub(super) fn results(self) -> Result<Pruning> {
        let job = self.job;
        let resampling = uncounted(job.observer, "resampling texts");
        let whole = Removal::nothing(job.p.unit);
        let full_texts = self.on_texts("");
        let full_answers = self.answers("");
        let full = self.measured(&full_texts, &full_answers, &whole, None);
        let candidate = |chosen: &Chosen| self.candidate(chosen, &full_texts, &full_answers);
        let candidates: Vec<Candidate> = self.candidates.chosen.iter().map(candidate).collect();
        drop(resampling);
        let mut searches = self.known.searches.clone();
        searches.sort_by_key(|step| (step.method, step.count()));
        let choice = recommend(job.p, &candidates, job.model().config().depth());
        let (prefill_tokens, prefill_seconds) = self.prefill.clone();
        Ok(Pruning {
            schema_version: PRUNE_SCHEMA_VERSION,
            model: model_info(self.located, job.loaded),
            unit: job.p.unit,
            calibration: job.calibration.about.clone(),
            heldout: job.heldout.about.clone(),
            choices: job.questions.map(|q| q.about.clone()),
            scores: self.known.scores.clone().unwrap_or_default(),
            searches,
            full,
            candidates,
            choice,
            export: None,
            cost: self.cost(),
            resources: PruneResources { stages: self.stages, prefill_tokens, prefill_seconds },
        })
    }

    /// The work of the stages. The folder may have answers to questions that this run does not ask.
    fn cost(&self) -> BTreeMap<String, Work> {
        let mut cost = self.known.cost.clone();
        if self.job.questions.is_none() {
            cost.remove(known::CHOICES);
        }
        cost
    }

    fn on_texts(&self, variant: &str) -> OnTexts<'_> {
        let mut on = OnTexts { scores: Vec::new(), tokens: Vec::new() };
        for (prompt, text) in self.job.heldout.prompts.iter().zip(&self.job.heldout.texts) {
            let found =
                self.known.texts.get(&prompt.id).and_then(|all| all.iter().find(|v| v.variant == variant));
            if let Some(score) = found {
                on.scores.push(score);
                on.tokens.push(text.scored.len() as f64);
            }
        }
        on
    }

    /// Which questions a variant answers rightly, in their order.
    fn answers(&self, variant: &str) -> Vec<ChoiceScore> {
        let rows = self.job.questions.into_iter().flat_map(|q| &q.rows);
        let score = |row: &ChoiceTokens| {
            let found = self.known.questions.get(&row.id)?.iter().find(|v| v.variant == variant)?;
            let sums = &found.log_likelihoods;
            // Where the model overflows it has no answer.
            let wrong = ChoiceScore { acc: false, acc_norm: false };
            let is_finite = sums.iter().all(|sum| sum.is_finite());
            (sums.len() == row.choices.len()).then(|| if is_finite { row.score(sums) } else { wrong })
        };
        rows.filter_map(score).collect()
    }

    /// A mean over questions.
    fn share(&self, questions: usize, of: impl Fn(usize) -> f64 + Sync) -> Estimated {
        let weighted = |weights: &[u32]| {
            let sum: f64 = weights.iter().enumerate().map(|(i, w)| f64::from(*w) * of(i)).sum();
            let total: u32 = weights.iter().sum();
            (total > 0).then(|| sum / f64::from(total))
        };
        let p = self.job.p;
        let interval = bootstrap(questions, p.options.resamples, p.options.data.seed, weighted);
        let value = weighted(&vec![1; questions]).unwrap_or(f64::NAN);
        Estimated { value, interval: interval.ok().map(|i| [i.lo, i.hi]) }
    }

    fn estimate(&self, on: &OnTexts<'_>, of: impl Fn(usize) -> f64 + Sync) -> Estimated {
        let (p, texts) = (self.job.p, on.tokens.len());
        let interval =
            bootstrap(texts, p.options.resamples, p.options.data.seed, |weights| on.per_token(weights, &of));
        let value = on.mean(&of);
        Estimated { value, interval: interval.ok().filter(|_| value.is_finite()).map(|i| [i.lo, i.hi]) }
    }

    /// The loss and the size of what is left.
    fn measured(
        &self,
        on: &OnTexts<'_>,
        answers: &[ChoiceScore],
        removal: &Removal,
        replacement: Option<&Replacement<B>>,
    ) -> Measured {
        let model = self.job.model();
        let nll = self.estimate(on, |i| on.scores[i].nll);
        let (mut parameters, mut bytes) = (model.parameters(), model.bytes());
        let mut macs_per_token = model.head_macs_per_row();
        for l in 0..model.config().depth() {
            let [attention, mlp] = model.sublayer_sizes(l);
            for (size, drops) in [(attention, removal.drops_attention(l)), (mlp, removal.drops_mlp(l))] {
                if drops {
                    parameters -= size.parameters;
                    bytes -= size.bytes;
                } else {
                    macs_per_token += size.macs;
                }
            }
        }
        if let Some(new) = replacement {
            bytes = bytes - model.down_bytes(new.about.layer) + new.packed.bytes() as u64;
        }
        let accuracy = (!answers.is_empty()).then(|| Accuracy {
            acc: self.share(answers.len(), |i| f64::from(u8::from(answers[i].acc))),
            acc_norm: self.share(answers.len(), |i| f64::from(u8::from(answers[i].acc_norm))),
        });
        Measured { perplexity: nll.value.exp(), nll, accuracy, parameters, bytes, macs_per_token }
    }

    fn candidate(&self, chosen: &Chosen, full: &OnTexts<'_>, full_answers: &[ChoiceScore]) -> Candidate {
        let name = Candidates::<B>::name(chosen);
        let replacement = chosen.replacement.map(|i| &self.candidates.replacements[i]);
        let (on, answers) = (self.on_texts(&name), self.answers(&name));
        let norm = |answers: &[ChoiceScore], i: usize| f64::from(u8::from(answers[i].acc_norm));
        let change = |i: usize| norm(&answers, i) - norm(full_answers, i);
        Candidate {
            method: chosen.method,
            unit: chosen.removal.unit(),
            removed: chosen.removal.ranges(),
            replaced: replacement.map(|r| r.about),
            measured: self.measured(&on, &answers, &chosen.removal, replacement),
            nll_increase: self.estimate(&on, |i| on.scores[i].nll - full.scores[i].nll),
            kl: on.mean(|i| on.scores[i].kl),
            top1_agreement: on.mean(|i| match on.scores[i].kl.is_finite() {
                true => on.scores[i].agreements as f64,
                false => f64::NAN,
            }),
            accuracy_change: (!answers.is_empty()).then(|| self.share(answers.len(), change)),
        }
    }
}
