//! Counted work, time and memory.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Counted work of one probe: a function of the samples, the same however often a run was interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Edited runs that were requested.
    #[serde(default)]
    pub edits: u64,
    /// Token sequences, or parts of them, that went through layers.
    #[serde(default)]
    pub runs: u64,
    /// Multiply-adds carried out.
    #[serde(rename = "madds")]
    pub macs: u64,
    /// Multiply-adds that one full forward pass per edit would have taken.
    #[serde(rename = "madds_naive")]
    pub macs_naive: u64,
}

/// Work by the name of a probe; `forward` is the clean run that all probes share.
pub type WorkByProbe = BTreeMap<String, Work>;

impl Work {
    /// Work without edits, in which there is nothing to share.
    pub fn plain(runs: u64, macs: u64) -> Self {
        Self { edits: 0, runs, macs, macs_naive: macs }
    }

    /// Adds this work to that of a probe.
    pub fn add_to(self, all: &mut WorkByProbe, probe: &str) {
        *all.entry(probe.to_owned()).or_default() += self;
    }
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        // Counts read from a file may be anything.
        self.edits = self.edits.saturating_add(other.edits);
        self.runs = self.runs.saturating_add(other.runs);
        self.macs = self.macs.saturating_add(other.macs);
        self.macs_naive = self.macs_naive.saturating_add(other.macs_naive);
    }
}

/// Time and memory of one probe: what differs between two runs of the same measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Wall-clock seconds.
    #[serde(default)]
    pub seconds: f64,
    /// Peak resident memory of the process up to the end of the probe, in bytes; 0 where the system does not
    /// report it.
    #[serde(default)]
    pub peak_bytes: u64,
}
