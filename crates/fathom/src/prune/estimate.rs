//! What a pruning will take at most, counted beforehand.

use super::job::Job;
use super::questions::Questions;
use super::texts::read_both;
use super::{choices, known, linear};
use crate::device::OnDevice;
use crate::objective::refuse_side_inputs;
use crate::observer::uncounted;
use crate::prompts::OpenSet;
use crate::{Observer, Prune, Replace, Result};
use fathom_model::Backend;
use fathom_results::PruneMethod;
use fathom_surgery::{EvaluateOptions, Reading, Removal, Text, Variant, count, evaluate};
use serde::Serialize;
use std::time::Instant;

/// What a pruning will take at most.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PruneEstimate {
    /// The stages, in order.
    pub stages: Vec<StageEstimate>,
    /// Multiply-adds per second, measured on a short text.
    pub macs_per_second: f64,
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// Bytes of working memory that may be used beside them.
    pub memory_bytes: u64,
}

/// What a stage will take at most.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageEstimate {
    /// What is done.
    pub stage: String,
    /// Multiply-adds; searches take less where candidates are dropped early.
    pub macs: u64,
    /// Seconds.
    pub seconds: f64,
}

impl PruneEstimate {
    /// Seconds of all stages together.
    pub fn seconds(&self) -> f64 {
        self.stages.iter().map(|s| s.seconds).sum()
    }
}

pub(super) fn estimate(p: &Prune, observer: &dyn Observer) -> Result<PruneEstimate> {
    let data = OpenSet::open(&p.texts(), observer)?;
    p.options.model.device.run(observer, Estimating { p, data, observer })
}

struct Estimating<'a> {
    p: &'a Prune,
    data: OpenSet,
    observer: &'a dyn Observer,
}

impl OnDevice for Estimating<'_> {
    type Output = PruneEstimate;

    fn run<B: Backend>(self, backend: B) -> Result<PruneEstimate> {
        let Self { p, data, observer } = self;
        let (_, checkpoint) = p.options.model.open(observer)?;
        refuse_side_inputs(checkpoint.config(), "pruning")?;
        let loaded = p.options.model.load_causal(checkpoint, backend, "pruning", observer)?;
        let [calibration, heldout] = read_both(p, data, &loaded, observer)?;
        let questions = Questions::read(p, &loaded, observer)?;
        let is_cancelled = || observer.is_cancelled();
        let texts = [&calibration, &heldout];
        let job = Job::new(p, &loaded, texts, questions.as_ref(), observer, &is_cancelled)?;
        let calibrating = uncounted(observer, "calibrating");
        let macs_per_second = job.speed()?;
        drop(calibrating);
        let stage = |(stage, macs): (&str, u64)| StageEstimate {
            stage: stage.to_owned(),
            macs,
            seconds: macs as f64 / macs_per_second,
        };
        Ok(PruneEstimate {
            stages: job.stages().into_iter().map(stage).collect(),
            macs_per_second,
            weight_bytes: loaded.model.bytes(),
            memory_bytes: job.memory,
        })
    }
}

impl<B: Backend> Job<'_, B> {
    /// Multiply-adds per second on a text.
    fn speed(&self) -> Result<f64> {
        let whole = Removal::nothing(self.p.unit);
        let tokens: Vec<u32> = self.heldout.texts[0].tokens.iter().copied().take(64).collect();
        let text = [Text::whole(tokens)];
        let options = EvaluateOptions { memory: self.memory, on_progress: &|_| () };
        let variants = [Variant::without(&whole)];
        let mut best = 0.0f64;
        for _ in 0..3 {
            let started = Instant::now();
            let done = evaluate(self.model(), &text, &variants, Reading::Loss, &options)?;
            best = best.max(done.work.macs as f64 / started.elapsed().as_secs_f64());
        }
        Ok(best)
    }

    /// Multiply-adds of the stages. What searches will find is not known, so the middle of the model stands for it.
    fn stages(&self) -> Vec<(&'static str, u64)> {
        let (model, unit) = (self.model(), self.p.unit);
        let (depth, has) = (model.config().depth(), |m| self.p.choosing().any(|own| own == m));
        let clean: u64 = self.calibration.texts.iter().map(|t| model.layers_macs(t.tokens.len())).sum();
        let middle = |n: usize| Removal::block(unit, (depth - n) / 2..(depth - n) / 2 + n);
        let search = self.searching(&|_| ());
        let most = self.counts.last().copied().unwrap_or(0);
        let mut all = Vec::new();
        if has(PruneMethod::Influence) || has(PruneMethod::Angular) {
            all.push((known::CALIBRATION, clean));
        }
        if has(PruneMethod::Output) {
            all.push(("output", clean + search.count_greedy(&Removal::nothing(unit))));
        }
        if has(PruneMethod::Greedy) {
            all.push(("greedy", (0..most).map(|n| search.count_greedy(&middle(n))).sum()));
        }
        if has(PruneMethod::Block) {
            all.push(("block", self.counts.iter().map(|n| search.count_block(unit, *n)).sum()));
        }
        // Methods begin at different layers, so they share the first third of the model, about.
        let shift = |n: usize, i: usize| {
            let start = (depth / 3 + i).min(depth - n);
            Removal::block(unit, start..start + n)
        };
        let each = self.p.choosing().enumerate().flat_map(|(i, _)| self.counts.iter().map(move |n| (*n, i)));
        let mut removals: Vec<Removal> = each.map(|(n, i)| shift(n, i)).collect();
        removals.extend(self.own.iter().cloned());
        removals.push(Removal::nothing(unit));
        let variants: Vec<Variant<'_, B>> = removals.iter().map(Variant::without).collect();
        if self.p.replace == Replace::Linear {
            all.push((linear::FIT, clean));
        }
        all.push((known::PROOF, count(model, &self.heldout.texts, &variants)));
        if let Some(questions) = self.questions {
            let texts: Vec<Text> = questions.rows.iter().flat_map(choices::texts).collect();
            all.push((known::CHOICES, count(model, &texts, &variants)));
        }
        all
    }
}
