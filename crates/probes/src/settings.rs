//! What a user chooses about a measurement.

use crate::{Probe, gradients, skip};

/// What to measure and within what.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The probes.
    pub probes: Vec<Probe>,
    /// Bytes of working memory beside the weights.
    pub memory: u64,
    /// Every edit as a full forward pass of its own, for checking.
    pub naive: bool,
    /// Tokens of the longest text of the whole measurement, of which only a part may be done now: memory is
    /// divided as for all of it, so that counted work does not depend on how often it was interrupted.
    pub longest_text: usize,
    /// As `longest_text`, of question-answer pairs.
    pub longest_pair: usize,
    /// What the skip probe skips.
    pub skip: skip::Settings,
    /// Which gradients are integrated, and how.
    pub gradients: gradients::Settings,
}

impl Settings {
    pub(crate) fn has(&self, probe: Probe) -> bool {
        self.probes.contains(&probe)
    }
}
