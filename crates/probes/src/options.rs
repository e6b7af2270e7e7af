//! Options of a measurement.

use crate::{GradientOptions, Probe, SkipOptions};

/// The probes to run, their options and the memory.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// The probes.
    pub probes: Vec<Probe>,
    /// Bytes of working memory beside the weights.
    pub memory: u64,
    /// Run every edit as a full forward pass, for checking.
    pub naive: bool,
    /// Tokens of the longest prompt of the whole measurement. Memory is always divided for it, so that the counted work
    /// of a resumed run does not change.
    pub longest_text: usize,
    /// Tokens of the longest question-answer pair of the whole measurement.
    pub longest_pair: usize,
    /// Options of the skip probe.
    pub skip: SkipOptions,
    /// Options of integrated gradients.
    pub gradients: GradientOptions,
    /// Levels whose stream goes through a map before the lens; see [`measure_through`](crate::measure_through). None for
    /// the logit lens.
    pub lens_maps: usize,
}

impl ProbeOptions {
    pub(crate) fn has(&self, probe: Probe) -> bool {
        self.probes.contains(&probe)
    }
}
