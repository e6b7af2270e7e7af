//! What all samples say together. Nothing here needs a model.

use crate::error::invalid;
use crate::observer::uncounted;
use crate::{Error, Observer, Result};
use fathom_analysis::{BootstrapOptions, PromptCurves, curves::rows_of, uncertainty};
use fathom_results::{
    DataInfo, FailedPrompt, LensInfo, ModelInfo, ObjectiveInfo, Probe, Resources, Results, SCHEMA_VERSION,
    Sample, Work, WorkByProbe,
};
use std::collections::BTreeMap;

/// What was measured, beside the samples.
pub(crate) struct Subject {
    pub(crate) model: ModelInfo,
    /// The lens, if it is not the logit lens.
    pub(crate) lens: Option<LensInfo>,
    /// The name of the prompts.
    pub(crate) data: String,
    /// What a masked model was asked to predict.
    pub(crate) objective: Option<ObjectiveInfo>,
    /// The work of the mean that erases, which no sample counts; it is part of the results if erasure was measured.
    pub(crate) erasure_baseline: Work,
}

/// The samples of a run, in the order of the prompts and pairs.
pub(crate) struct Samples {
    /// Of prompts, then of pairs.
    all: Vec<Sample>,
    /// How many are of prompts.
    prompts: usize,
    /// Those of prompts and pairs that could not be measured.
    failed: Vec<Sample>,
}

impl Samples {
    /// `all` are those of prompts, then of pairs.
    pub(crate) fn of(all: Vec<Sample>) -> Self {
        let (all, failed): (Vec<_>, Vec<_>) = all.into_iter().partition(|s| s.failed.is_none());
        let prompts = all.iter().filter(|s| s.qa.is_none()).count();
        Self { all, prompts, failed }
    }

    /// How many there are, with those that could not be measured.
    pub(crate) fn count(&self) -> usize {
        self.all.len() + self.failed.len()
    }

    /// The probes that any of them has.
    pub(crate) fn probes(&self) -> Vec<Probe> {
        let has = |probe: &Probe| self.all.iter().any(|s| s.has(*probe));
        Probe::ALL.into_iter().filter(has).collect()
    }

    /// Refuses to summarise nothing.
    fn check(&self) -> Result<()> {
        match self.failed.first() {
            _ if !self.all.is_empty() => Ok(()),
            Some(Sample { id, failed: Some(reason), .. }) => {
                invalid!("no prompt could be measured; '{id}': {reason}; try another dtype")
            }
            _ => Err(Error::Cancelled(
                "interrupted before the first prompt was finished; the same command measures it".to_owned(),
            )),
        }
    }

    /// The work by probe that samples count.
    pub(crate) fn work(&self) -> WorkByProbe {
        let mut all = WorkByProbe::new();
        for sample in self.all.iter().chain(&self.failed) {
            sample.work.iter().for_each(|(name, work)| work.add_to(&mut all, name));
        }
        all
    }

    /// Warns of what is left out of the statistics.
    fn warn(&self, results: &Results, observer: &dyn Observer) {
        for Sample { id, failed, .. } in &self.failed {
            let reason = failed.as_deref().unwrap_or_default();
            observer.warn(&format!("'{id}' is left out: {reason}"));
        }
        if let Some(left_out) = results.probes.contributions.as_ref().and_then(|c| c.left_out.as_ref()) {
            observer.warn(&left_out.sentence());
        }
    }
}

/// The fewest tokens among which the five likeliest say something.
const OVERLAP_FROM: usize = 1000;

/// The curves without those that say nothing of a masked model with few tokens.
pub(crate) fn readable(
    curves: PromptCurves,
    objective: Option<&ObjectiveInfo>,
    vocab: usize,
) -> PromptCurves {
    match objective.is_some() && vocab <= OVERLAP_FROM {
        true => curves.without_overlap(),
        false => curves,
    }
}

/// `results.json`.
pub(crate) fn summarise(
    subject: Subject,
    samples: &Samples,
    resources: BTreeMap<String, Resources>,
    bootstrap: &BootstrapOptions,
    observer: &dyn Observer,
) -> Result<Results> {
    samples.check()?;
    let working = uncounted(observer, "resampling prompts");
    let (prompts, pairs) = samples.all.split_at(samples.prompts);
    let curves = PromptCurves::of(prompts, subject.model.layers)?;
    let curves = readable(curves, subject.objective.as_ref(), subject.model.vocab);
    let has_prompts = curves.prompts() > 0;
    let depth = if has_prompts { rows_of(&curves, bootstrap) } else { Vec::new() };
    let uncertainty = has_prompts.then(|| uncertainty(&curves, bootstrap));
    drop(working);
    let failed = |s: &Sample| FailedPrompt { id: s.id.clone(), reason: s.failed.clone().unwrap_or_default() };
    let mut cost = samples.work();
    if samples.all.iter().any(|s| s.erasure.is_some()) {
        subject.erasure_baseline.add_to(&mut cost, Probe::Erasure.name());
    }
    let mut probes = fathom_probes::summarise(&samples.all, subject.model.layers);
    if let (Some(lens), Some(_)) = (&mut probes.lens, &subject.objective) {
        let ln_vocab = (subject.model.vocab as f64).ln();
        lens.kl_over_ln_vocab = lens.kl_lens_final.iter().map(|kl| kl / ln_vocab).collect();
    }
    let results = Results {
        schema_version: SCHEMA_VERSION,
        objective: subject.objective,
        probes,
        model: subject.model,
        lens: subject.lens,
        data: DataInfo {
            id: subject.data,
            prompts: prompts.len(),
            pairs: pairs.len(),
            tokens: prompts.iter().map(|s| s.own_tokens() as u64).sum(),
            failed: samples.failed.iter().map(failed).collect(),
        },
        depth,
        uncertainty,
        cost,
        resources,
    };
    samples.warn(&results, observer);
    Ok(results)
}
