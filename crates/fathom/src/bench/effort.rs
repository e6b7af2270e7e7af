//! How thoroughly a benchmark measures.

use fathom_model::{Backend, Cpu};
use std::time::Duration;

/// Numbers of rows: a token, a few edits, a prompt, a batch of edited runs.
const ROWS: [usize; 5] = [1, 16, 64, 200, 800];

/// As [`ROWS`], for devices that take more rows at a time.
const MORE_ROWS: [usize; 5] = [1, 16, 64, 512, 4096];

/// Tokens of the prompt that is timed, as most built-in prompts have about.
const PREFILL: usize = 150;

/// As [`PREFILL`], for devices that take more rows at a time.
const LONG_PREFILL: usize = 2048;

/// How long and how often.
pub(super) struct Effort {
    /// Numbers of rows of the kernels.
    pub(super) rows: &'static [usize],
    /// Tokens of the prefill.
    pub(super) prefill: usize,
    /// Bytes of the copies that weights are taken from in turn.
    pub(super) weights: usize,
    /// Rounds of the machine's peak at the beginning.
    pub(super) peak_rounds: usize,
    /// How often peak and work are timed in turn.
    pub(super) rounds: usize,
    /// How long the work is repeated in one round.
    pub(super) round: Duration,
    /// After how long no other round begins.
    pub(super) most: Duration,
    /// Prompts for the probes.
    pub(super) prompts: usize,
    /// Tokens of these prompts, at most.
    pub(super) tokens: usize,
    /// Pairs for the probes.
    pub(super) pairs: usize,
    /// Steps on the paths of gradients; a fixed number, so that the work is the same
    /// whatever the path is like.
    pub(super) steps: u32,
}

impl Effort {
    /// What gives numbers to keep.
    pub(super) const FULL: Self = Self {
        rows: &ROWS,
        prefill: PREFILL,
        weights: 128 << 20,
        peak_rounds: 50,
        rounds: 9,
        round: Duration::from_millis(25),
        most: Duration::from_millis(1500),
        prompts: 1,
        tokens: PREFILL,
        pairs: 2,
        steps: 32,
    };
    /// What shows in seconds that all is well.
    pub(super) const QUICK: Self = Self {
        rows: &[1, 64],
        prefill: PREFILL,
        weights: 0,
        peak_rounds: 5,
        rounds: 3,
        round: Duration::from_millis(2),
        most: Duration::from_millis(100),
        prompts: 1,
        tokens: 24,
        pairs: 1,
        steps: 4,
    };
    /// The effort for a device: more rows where it takes more at a time.
    pub(super) fn on<B: Backend>(is_quick: bool, on: &B) -> Self {
        match (is_quick, on.limits().clean_rows > Cpu.limits().clean_rows) {
            (true, false) => Self::QUICK,
            (true, true) => {
                Self { rows: &[1, 64, 4096], prefill: LONG_PREFILL, tokens: PREFILL, ..Self::QUICK }
            }
            (false, false) => Self::FULL,
            (false, true) => Self { rows: &MORE_ROWS, prefill: LONG_PREFILL, ..Self::FULL },
        }
    }
}
