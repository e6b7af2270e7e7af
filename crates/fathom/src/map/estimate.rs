//! What a mapping will take, counted beforehand.

use super::job::{FIT, Job, MEASURE};
use super::{MapEstimate, StageEstimate};
use crate::Result;
use crate::estimate::speed_of_sums;
use std::time::Instant;

impl Job<'_> {
    /// Counts the stages, and times a short text and a product of sums.
    pub(super) fn estimate(&self, weight_bytes: u64) -> Result<MapEstimate> {
        let passes = self.levels()[0].div_ceil(self.at_once()) as u64;
        let (forward, sums) = (self.forward_speed()?, speed_of_sums());
        let levels = self.levels()[0] as u64;
        let [of_fit, of_measure] = self.of_level();
        let stage = |stage: &str, texts: u64, products: u64, speed: f64| StageEstimate {
            stage: stage.to_owned(),
            macs: passes * texts + levels * products,
            seconds: (passes * texts) as f64 / forward + (levels * products) as f64 / speed,
        };
        Ok(MapEstimate {
            stages: vec![
                stage(FIT, self.forward(self.fit), of_fit, sums),
                stage(MEASURE, self.forward(self.heldout), of_measure, forward),
            ],
            levels_at_once: self.at_once(),
            weight_bytes,
            memory_bytes: self.memory,
        })
    }

    /// Multiply-adds per second of both models.
    fn forward_speed(&self) -> Result<f64> {
        let tokens: Vec<u32> = self.heldout.prompts[0].tokens.iter().copied().take(64).collect();
        let macs = self.source.macs(tokens.len()) + self.target.macs(tokens.len());
        let started = Instant::now();
        self.source.rows(&tokens, self.mapped())?;
        self.target.rows(&tokens, self.mapped())?;
        Ok(macs as f64 / started.elapsed().as_secs_f64())
    }
}
