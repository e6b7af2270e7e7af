//! Scores of units on the calibration texts, for the methods that do not search.

use super::job::Job;
use super::known::Known;
use crate::observer::counted;
use crate::{Result, Unit};
use fathom_model::{Backend, Trace};
use fathom_probes::{ProbeOptions, SkipOptions, TokenizedPrompt};
use fathom_results::{Probe, PruneLine, PruneMethod, Sample, Similarity, SkipMode, UnitScores, Work};
use fathom_surgery::scores::Influence;

impl<B: Backend> Job<'_, B> {
    /// Measures the scores that the methods need and that are not known yet. False when cancelled.
    pub(super) fn score(&self, known: &mut Known<'_>) -> Result<bool> {
        let has = |m| self.p.choosing().any(|own| own == m);
        let scores = known.scores.clone().unwrap_or_default();
        let clean = (has(PruneMethod::Influence) && scores.influence.is_none())
            || (has(PruneMethod::Angular) && scores.angular.is_empty());
        if clean {
            let Some(line) = self.clean_scores()? else { return Ok(false) };
            known.keep(line)?;
        }
        if has(PruneMethod::Output) && scores.output.is_none() {
            let Some(line) = self.output_scores()? else { return Ok(false) };
            known.keep(line)?;
        }
        Ok(true)
    }

    /// Block influence, and angular distances of whole layers.
    fn clean_scores(&self) -> Result<Option<PruneLine>> {
        let (model, unit) = (self.model(), self.p.unit);
        let mut influence = Influence::new(unit, model.config().depth());
        let mut similarities: Vec<(Similarity, usize)> = Vec::new();
        let done = self.each_trace("reading the calibration texts", &mut |trace| {
            influence.add(model.backend(), trace);
            if self.p.choosing().any(|m| m == PruneMethod::Angular) {
                let similarity = fathom_probes::similarity::measure(model.backend(), trace);
                similarities.push((similarity, trace.tokens.len()));
            }
        })?;
        let Some(work) = done else { return Ok(None) };
        let all: Vec<(&Similarity, usize)> = similarities.iter().map(|(s, n)| (s, *n)).collect();
        let angular =
            if all.is_empty() { Vec::new() } else { fathom_probes::similarity::summarise(&all).angular_mean };
        let scores = UnitScores { influence: Some(influence.values()), angular, output: None };
        Ok(Some(PruneLine::Scores { scores, work }))
    }

    /// Clean runs of the calibration texts; the work, or `None` when cancelled.
    pub(super) fn each_trace(&self, task: &str, with: &mut dyn FnMut(&Trace<B>)) -> Result<Option<Work>> {
        let model = self.model();
        let most = (self.memory / 4 / model.trace_bytes_per_token().max(1) as u64)
            .clamp(1, model.backend().limits().clean_rows as u64) as usize;
        let texts: Vec<&[u32]> = self.calibration.texts.iter().map(|t| &t.tokens[..]).collect();
        let macs = |texts: &[&[u32]]| texts.iter().map(|t| model.layers_macs(t.len())).sum::<u64>();
        let running = counted(self.observer, task, Unit::MultiplyAdds, macs(&texts));
        let mut rest = &texts[..];
        while !rest.is_empty() {
            if self.observer.is_cancelled() {
                return Ok(None);
            }
            let mut sum = 0;
            let fits = |text: &&&[u32]| {
                sum += text.len();
                sum <= most
            };
            let (group, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = later;
            model.run(group)?.iter().for_each(&mut *with);
            running.advance(macs(group));
        }
        Ok(Some(Work::plain(texts.len() as u64, macs(&texts))))
    }

    /// How much the output changes when a unit is bypassed, by the skip probe.
    fn output_scores(&self) -> Result<Option<PruneLine>> {
        let options = ProbeOptions {
            lens_maps: 0,
            probes: vec![Probe::Skip],
            memory: self.memory,
            naive: false,
            longest_text: self.calibration.texts.iter().map(|t| t.tokens.len()).max().unwrap_or(0),
            longest_pair: 0,
            skip: SkipOptions { modes: vec![SkipMode::Current], parts: vec![self.p.unit] },
            gradients: Default::default(),
        };
        let prompts: &[TokenizedPrompt] = &self.calibration.prompts;
        let plans = fathom_probes::plan(self.model(), prompts, &options)
            .map_err(fathom_probes::Error::<fathom_results::Error>::InsufficientMemory)?;
        let macs = plans.values().map(|p| p.work.macs).sum();
        let _running = counted(self.observer, "bypassing each unit", Unit::MultiplyAdds, macs);
        let callbacks = fathom_probes::Observer {
            is_cancelled: &|| self.observer.is_cancelled(),
            on_progress: &|macs| self.observer.advance(macs),
            on_warning: &|what| self.observer.warn(what),
        };
        let mut samples: Vec<Sample> = Vec::new();
        let mut keep = |sample: Sample| {
            samples.push(sample);
            Ok::<_, fathom_results::Error>(())
        };
        let costs = fathom_probes::measure(self.model(), prompts, &options, callbacks, &mut keep)?;
        if samples.len() < prompts.len() {
            return Ok(None);
        }
        let mut work = Work::default();
        costs.values().for_each(|cost| work += cost.work);
        let summary = fathom_probes::summarise(&samples, self.model().config().depth());
        let effects = summary.skip.and_then(|s| s.get(&SkipMode::Current)?.get(&self.p.unit).cloned());
        let output = effects.and_then(|e| e.output_effect).map(|e| e.mean);
        Ok(Some(PruneLine::Scores { scores: UnitScores { output, ..UnitScores::default() }, work }))
    }
}
