//! What probes cost.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

/// What a probe cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Edited runs that were asked for.
    pub edits: u64,
    /// Texts or parts of texts that went through layers.
    pub runs: u64,
    /// Multiply-adds done.
    #[serde(rename = "madds")]
    pub macs: u64,
    /// Multiply-adds of the same measurement without sharing of work.
    #[serde(rename = "madds_naive")]
    pub macs_naive: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Peak memory of the process up to the end of the probe, in bytes; 0 where
    /// the system does not tell.
    pub peak_bytes: u64,
}

impl Cost {
    /// What was counted.
    pub fn work(&self) -> Work {
        let Self { edits, runs, macs, macs_naive, .. } = *self;
        Work { edits, runs, macs, macs_naive }
    }
}

/// Costs by probe; `forward` is the clean run that all share.
pub type Costs = BTreeMap<String, Cost>;

/// What is counted of a piece of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Edited runs that are asked for.
    pub edits: u64,
    /// Texts or parts of texts that go through layers.
    pub runs: u64,
    /// Multiply-adds to be done.
    #[serde(rename = "madds")]
    pub macs: u64,
    /// Multiply-adds without sharing of work, every edit a full forward pass.
    #[serde(rename = "madds_naive")]
    pub macs_naive: u64,
}

impl Work {
    /// Work without edits, in which there is nothing to share.
    pub(crate) fn plain(runs: u64, macs: u64) -> Self {
        Self { edits: 0, runs, macs, macs_naive: macs }
    }
}

/// Work by probe, as it is counted; `forward` is the clean run that all share.
pub type Counted = BTreeMap<String, Work>;

/// Adds work to that of a probe.
pub fn count(counted: &mut Counted, name: &str, work: Work) {
    *counted.entry(name.to_owned()).or_default() += work;
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        // Files say what they like.
        self.edits = self.edits.saturating_add(other.edits);
        self.runs = self.runs.saturating_add(other.runs);
        self.macs = self.macs.saturating_add(other.macs);
        self.macs_naive = self.macs_naive.saturating_add(other.macs_naive);
    }
}

/// Adds the costs of one run to those of another.
pub fn add(costs: &mut Costs, more: Costs) {
    for (name, cost) in more {
        let sum = costs.entry(name).or_default();
        sum.edits = sum.edits.saturating_add(cost.edits);
        sum.runs = sum.runs.saturating_add(cost.runs);
        sum.macs = sum.macs.saturating_add(cost.macs);
        sum.macs_naive = sum.macs_naive.saturating_add(cost.macs_naive);
        sum.seconds += cost.seconds;
        sum.peak_bytes = sum.peak_bytes.max(cost.peak_bytes);
    }
}

/// Books what was done since `start`.
pub(crate) fn spend(costs: &mut Costs, name: &str, work: Work, start: Instant) {
    let now = Cost {
        edits: work.edits,
        runs: work.runs,
        macs: work.macs,
        macs_naive: work.macs_naive,
        seconds: start.elapsed().as_secs_f64(),
        peak_bytes: peak_bytes(),
    };
    add(costs, Costs::from([(name.to_owned(), now)]));
}

/// Peak resident memory of this process, where the system tells it.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
