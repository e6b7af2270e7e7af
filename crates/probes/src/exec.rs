//! Execution options: the division of working memory, prefix sharing, progress.

use fathom_model::Model;

/// How working memory is divided: what may be held at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Tokens whose clean runs are kept together, approximately; at least those of one text.
    pub clean: usize,
    /// Rows that go through a layer together, approximately; at least those of one text or edit.
    pub rows: usize,
    /// Bytes of logits held at a time, approximately.
    pub bytes: usize,
    /// Bytes that layers may keep for the backward pass, approximately; at least those of one text.
    pub saved: usize,
}

/// Rows of clean runs that keep the matrix products busy.
const CLEAN_ROWS: usize = 256;

/// More rows at a time would not make the matrix products faster.
const MAX_ROWS: usize = 2048;

/// More logits at a time would not make the head faster, and would leave the caches before they are compared.
const MAX_LOGIT_BYTES: u64 = 64 << 20;

/// As [`MAX_LOGIT_BYTES`], in rows of a small vocabulary.
const MAX_LOGIT_ROWS: u64 = 128;

/// More rows at a time would not make the backward pass faster.
const SAVED_ROWS: usize = 256;

/// The memory allowed is less than a text needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a text of {tokens} tokens needs {needed} bytes of working memory beside the weights")]
pub struct InsufficientMemory {
    /// Tokens of the text.
    pub tokens: usize,
    /// Bytes that suffice.
    pub needed: u64,
}

impl MemoryPlan {
    /// Divides `memory` bytes of working memory, beside the weights, for texts of at most `tokens` tokens. The clean
    /// run of one text comes first, then rows of edited runs and logits.
    ///
    /// # Errors
    /// [`InsufficientMemory`] when not even one edited run of such a text fits.
    pub fn fit(model: &Model, tokens: usize, memory: u64) -> Result<Self, InsufficientMemory> {
        let kept_a_token = model.trace_bytes_per_token() as u64;
        let row = model.row_bytes() as u64;
        let logits = 4 * model.config().vocab as u64;
        let text = kept_a_token * tokens as u64;
        // One run, and the logits of a position beside the clean ones with their gradients.
        let least = text + row * tokens as u64 + 4 * logits;
        if memory < least {
            return Err(InsufficientMemory { tokens, needed: least });
        }
        let clean = (memory / 4 / kept_a_token.max(1)).clamp(1, CLEAN_ROWS as u64);
        let free = memory - text.max(clean * kept_a_token);
        let most = MAX_LOGIT_BYTES.min(MAX_LOGIT_ROWS * logits).max(2 * logits);
        let bytes = (free / 4).clamp(2 * logits, most);
        let saved = model.saved_bytes_per_row() * model.config().depth() * SAVED_ROWS;
        let saved = (saved as u64).min(free / 4);
        let rows =
            ((free - (bytes + saved).min(free / 2)) / row).clamp(tokens as u64, MAX_ROWS.max(tokens) as u64);
        Ok(Self { clean: clean as usize, rows: rows as usize, bytes: bytes as usize, saved: saved as usize })
    }
}

/// How probes execute.
#[derive(Clone, Copy)]
pub struct ExecOptions<'a> {
    /// The division of working memory.
    pub memory: MemoryPlan,
    /// Runs every edit as a full forward pass of its own, for checking.
    pub naive: bool,
    /// Progress callback: receives multiply-adds as they are done.
    pub on_progress: &'a dyn Fn(u64),
}

impl ExecOptions<'_> {
    /// Shared work within a memory plan, without a progress callback.
    pub fn planned(memory: MemoryPlan) -> Self {
        Self { memory, naive: false, on_progress: &|_| () }
    }
}
