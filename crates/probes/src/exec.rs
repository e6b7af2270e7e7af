//! Execution options: the division of working memory, prefix sharing, progress.

use fathom_model::{Backend, Model};

/// The division of working memory: how much of each kind of data may be held at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Tokens whose clean runs are kept together, approximately; at least those of one prompt.
    pub clean: usize,
    /// Rows that run through a layer together, approximately; at least those of one prompt or edit.
    pub rows: usize,
    /// Bytes of logits held at a time, approximately.
    pub bytes: usize,
    /// Bytes of activations kept for the backward pass, approximately; at least those of one pair.
    pub saved: usize,
}

/// The allowed memory is less than a prompt needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a text of {tokens} tokens needs {needed} bytes of working memory beside the weights")]
pub struct InsufficientMemory {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Bytes that are sufficient.
    pub needed: u64,
}

impl MemoryPlan {
    /// Divides `memory` bytes of working memory, beside the weights, for prompts of at most `tokens` tokens. The clean
    /// run of one prompt comes first, then rows of edited runs and logits.
    ///
    /// # Errors
    /// [`InsufficientMemory`] if not even one edited run of such a prompt fits.
    pub fn fit<B: Backend>(model: &Model<B>, tokens: usize, memory: u64) -> Result<Self, InsufficientMemory> {
        let limits = model.backend().limits();
        let kept_per_token = model.trace_bytes_per_token() as u64;
        let row = model.row_bytes() as u64;
        let logits = 4 * model.config().vocab as u64;
        let trace = kept_per_token * tokens as u64;
        // One run, and edited and clean logits of a position with their gradients.
        let least = trace + row * tokens as u64 + 4 * logits;
        if memory < least {
            return Err(InsufficientMemory { tokens, needed: least });
        }
        let clean = (memory / 4 / kept_per_token.max(1)).clamp(1, limits.clean_rows as u64);
        let free = memory - trace.max(clean * kept_per_token);
        let most = limits.logit_bytes.min(limits.logit_rows * logits).max(2 * logits);
        let bytes = (free / 4).clamp(2 * logits, most);
        let saved = model.saved_bytes_per_row() * model.config().depth() * limits.saved_rows;
        let saved = (saved as u64).min(free / 4);
        let rows = ((free - (bytes + saved).min(free / 2)) / row)
            .clamp(tokens as u64, limits.rows.max(tokens) as u64);
        Ok(Self { clean: clean as usize, rows: rows as usize, bytes: bytes as usize, saved: saved as usize })
    }
}

/// How probes execute.
#[derive(Clone, Copy)]
pub struct ExecOptions<'a> {
    /// The division of working memory.
    pub memory: MemoryPlan,
    /// Run every edit as a full forward pass, for checking.
    pub naive: bool,
    /// Progress callback: receives multiply-adds as they are done.
    pub on_progress: &'a dyn Fn(u64),
}

impl ExecOptions<'_> {
    /// Default options with a memory plan, without a progress callback.
    pub fn planned(memory: MemoryPlan) -> Self {
        Self { memory, naive: false, on_progress: &|_| () }
    }
}
