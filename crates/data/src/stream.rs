//! Prompts one at a time, so that only the rows in use are read.

use std::fmt;

use crate::{DataError, Prompt, PromptSet};

/// The source of a stream of prompts.
pub(crate) trait PromptSource {
    /// The next prompt; `None` at the end.
    fn pull(&mut self) -> Result<Option<Prompt>, DataError>;

    /// The number of rows skipped because their text is empty or null.
    fn empty(&self) -> usize {
        0
    }
}

impl<I: Iterator<Item = Prompt>> PromptSource for I {
    fn pull(&mut self) -> Result<Option<Prompt>, DataError> {
        Ok(self.next())
    }
}

/// The prompts of a set, read on demand.
///
/// An invalid row ends the stream with an error.
pub struct PromptStream {
    id: String,
    source: String,
    max_tokens: Option<usize>,
    ignored: Vec<String>,
    /// The first prompt, which was read to detect the schema.
    first: Option<Prompt>,
    rest: Box<dyn PromptSource>,
    ended: bool,
}

impl PromptStream {
    pub(crate) fn new(id: &str, source: String, rest: impl PromptSource + 'static) -> Self {
        let id = id.replace(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c)), "_");
        Self {
            id,
            source,
            max_tokens: None,
            ignored: Vec::new(),
            first: None,
            rest: Box::new(rest),
            ended: false,
        }
    }

    pub(crate) fn with_max_tokens(self, max_tokens: Option<usize>) -> Self {
        Self { max_tokens, ..self }
    }

    pub(crate) fn ignoring(self, ignored: Vec<String>) -> Self {
        Self { ignored, ..self }
    }

    pub(crate) fn starting_with(self, first: Prompt) -> Self {
        Self { first: Some(first), ..self }
    }

    /// The name of the set; see [`PromptSet::id`].
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The origin of the prompts, in words.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The largest number of tokens of a prompt; see [`PromptSet::max_tokens`].
    pub fn max_tokens(&self) -> Option<usize> {
        self.max_tokens
    }

    /// The number of rows skipped so far because their text is empty or null.
    pub fn empty(&self) -> usize {
        self.rest.empty()
    }

    /// Reads up to `limit` prompts.
    ///
    /// # Errors
    /// The error of the first invalid row.
    pub fn read(&mut self, limit: Option<usize>) -> Result<Vec<Prompt>, DataError> {
        self.take(limit.unwrap_or(usize::MAX)).collect()
    }

    /// The set of prompts that were read from this stream.
    pub fn set(&self, prompts: Vec<Prompt>) -> PromptSet {
        let (max_tokens, empty, ignored) = (self.max_tokens, self.empty(), self.ignored.clone());
        PromptSet { max_tokens, empty, ignored, ..PromptSet::new(&self.id, self.source.clone(), prompts) }
    }
}

impl Iterator for PromptStream {
    type Item = Result<Prompt, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        if self.ended {
            return None;
        }
        let next = self.rest.pull().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

impl fmt::Debug for PromptStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptStream")
            .field("id", &self.id)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}
