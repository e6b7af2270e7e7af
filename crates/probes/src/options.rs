//! Options of a measurement.

use crate::{GradientOptions, Probe, SkipOptions};

/// What to measure, and in how much memory.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// The probes.
    pub probes: Vec<Probe>,
    /// Bytes of working memory beside the weights.
    pub memory: u64,
    /// Runs every edit as a full forward pass of its own, for checking.
    pub naive: bool,
    /// Tokens of the longest text of the whole measurement. Memory is divided for it even where only a part is
    /// measured now, so that counted work does not depend on interruptions.
    pub longest_text: usize,
    /// Tokens of the longest question-answer pair of the whole measurement.
    pub longest_pair: usize,
    /// Options of the skip probe.
    pub skip: SkipOptions,
    /// Options of integrated gradients.
    pub gradients: GradientOptions,
}

impl ProbeOptions {
    pub(crate) fn has(&self, probe: Probe) -> bool {
        self.probes.contains(&probe)
    }
}
