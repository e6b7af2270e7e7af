//! How work is carried out: within what memory, shared or not, and who is told.

use fathom_model::Model;

/// Limits of what is held at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens whose clean runs are kept together, about; at least one text is.
    pub clean: usize,
    /// Rows that go through a layer together, about; at least one text or edit does.
    pub rows: usize,
    /// Bytes that the logits held at once may take, about.
    pub bytes: usize,
    /// Bytes that layers may keep for the way back, about; those of one text they do.
    pub saved: usize,
}

/// Rows of clean runs that keep the matrix products busy.
const CLEAN_ROWS: usize = 256;

/// More rows at once would not make the matrix products faster.
const MOST_ROWS: usize = 2048;

/// More logits at once would not make the head faster, and would leave the caches before they
/// are compared.
const MOST_BYTES: u64 = 64 << 20;

/// As [`MOST_BYTES`], in rows of a small vocabulary.
const MOST_LOGITS: u64 = 128;

/// More rows at once would not make the way back faster.
const SAVED_ROWS: usize = 256;

/// Less memory than a text needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a text of {tokens} tokens needs {needed} bytes beside the weights")]
pub struct TooLittle {
    /// Tokens of the text.
    pub tokens: usize,
    /// Bytes that suffice.
    pub needed: u64,
}

impl Limits {
    /// Divides `memory` bytes, which lie beside the weights, for texts of at most
    /// `tokens` tokens: what the clean run keeps of one text comes first, then rows of
    /// edited runs and logits.
    ///
    /// # Errors
    /// When not even one edited run of such a text fits.
    pub fn within(model: &Model, tokens: usize, memory: u64) -> Result<Self, TooLittle> {
        let kept_a_token = model.trace_bytes_per_token() as u64;
        let row = model.row_bytes() as u64;
        let logits = 4 * model.config().vocab as u64;
        let text = kept_a_token * tokens as u64;
        // One run, and the logits of a position beside the clean ones with their gradients.
        let least = text + row * tokens as u64 + 4 * logits;
        if memory < least {
            return Err(TooLittle { tokens, needed: least });
        }
        let clean = (memory / 4 / kept_a_token.max(1)).clamp(1, CLEAN_ROWS as u64);
        let free = memory - text.max(clean * kept_a_token);
        let most = MOST_BYTES.min(MOST_LOGITS * logits).max(2 * logits);
        let bytes = (free / 4).clamp(2 * logits, most);
        let saved = model.saved_bytes_per_row() * model.config().depth() * SAVED_ROWS;
        let saved = (saved as u64).min(free / 4);
        let rows =
            ((free - (bytes + saved).min(free / 2)) / row).clamp(tokens as u64, MOST_ROWS.max(tokens) as u64);
        Ok(Self { clean: clean as usize, rows: rows as usize, bytes: bytes as usize, saved: saved as usize })
    }
}

/// How work is carried out.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// What is held at once.
    pub limits: Limits,
    /// Every edit as a full forward pass of its own, for checking.
    pub naive: bool,
    /// Is told of multiply-adds as they are done.
    pub done: &'a dyn Fn(u64),
}

impl Way<'_> {
    /// The planned way within some limits, told to nobody.
    pub fn planned(limits: Limits) -> Self {
        Self { limits, naive: false, done: &|_| () }
    }
}
