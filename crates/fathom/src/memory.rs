//! How much working memory a measurement may use.

use crate::Result;
use crate::error::invalid;
use bytesize::ByteSize;
use fathom_model::{Backend, Model};
use fathom_probes::{ProbeOptions, TokenizedPair, TokenizedPrompt};

/// The share of the machine's memory that may be used beside the weights: one over this.
const SHARE: u64 = 5;

/// Bytes of memory of the machine, or of the container in which this runs.
pub(crate) fn of_machine() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let contained = system.cgroup_limits().map(|limits| limits.total_memory);
    contained.unwrap_or(u64::MAX).min(system.total_memory())
}

/// What a model may use beside its weights, unless set otherwise: most of what they leave free on a device with its own
/// memory.
pub(crate) fn default_for<B: Backend>(model: &Model<B>) -> u64 {
    match model.backend().memory() {
        Some(all) => all.saturating_sub(model.bytes()) / 4 * 3,
        None => of_machine() / SHARE,
    }
}

/// Refuses texts that do not fit into the memory, before anything is measured.
pub(crate) fn check<B: Backend>(
    model: &Model<B>,
    texts: &[TokenizedPrompt],
    pairs: &[TokenizedPair],
    options: &ProbeOptions,
) -> Result<()> {
    let Err(e) = fathom_probes::memory_plan(model, texts, pairs, options) else { return Ok(()) };
    invalid!(
        "the longest text has {} tokens and needs {} of working memory beside the weights, but {} may be used; \
             give --memory {} or shorten the text",
        e.tokens,
        ByteSize(e.needed).display().iec(),
        ByteSize(options.memory).display().iec(),
        mebibytes(e.needed),
    )
}

/// As [`check`], for texts that are only run.
pub(crate) fn check_texts<'a, B: Backend>(
    model: &Model<B>,
    texts: impl Iterator<Item = &'a TokenizedPrompt>,
    memory: u64,
) -> Result<()> {
    let longest = texts.map(|t| t.tokens.len()).max().unwrap_or(0);
    let options = ProbeOptions {
        lens_maps: 0,
        probes: Vec::new(),
        memory,
        naive: false,
        longest_text: longest,
        longest_pair: 0,
        skip: Default::default(),
        gradients: Default::default(),
    };
    check(model, &[], &[], &options)
}

/// A size in whole mebibytes, rounded up, as `--memory` reads it.
fn mebibytes(bytes: u64) -> String {
    format!("{}MiB", bytes.div_ceil(1 << 20))
}
