//! Bounds on the size of files, and checks over all rows of a file.

use std::collections::HashMap;
use std::path::Path;

use crate::file_format;
use crate::rows::Row;
use crate::{DataError, Prompt, RowProblem};

/// Bounds on the size of a file, so that no file can exhaust memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Largest size in bytes of a line, a paragraph, or a field of a table.
    pub(super) line: usize,
    /// Largest total size of all texts, in bytes.
    pub(super) total: usize,
}

pub(crate) const BOUNDS: Bounds = Bounds { line: 16 << 20, total: 1 << 30 };

/// Checks over all rows of a file: distinct ids and total size.
pub(crate) struct PromptChecks {
    bounds: Bounds,
    /// The line of each id.
    ids: HashMap<String, usize>,
    size: usize,
}

impl PromptChecks {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, ids: HashMap::new(), size: 0 }
    }

    /// Converts a row into a prompt and checks it.
    pub(crate) fn prompt(&mut self, path: &Path, line: usize, row: Row) -> Result<Prompt, DataError> {
        let Row { id, text, answer, positions, group } = row;
        let names = id.as_ref().map_or(0, String::len) + group.as_ref().map_or(0, String::len);
        self.size = self.size.saturating_add(text.len()).saturating_add(names);
        if self.size > self.bounds.total {
            let (path, unit) = (path.to_owned(), file_format::unit(path));
            return Err(DataError::TooLarge { path, unit, line, bytes: self.bounds.total });
        }
        let id = id.unwrap_or_else(|| format!("{}-{line}", file_format::stem(path)));
        if let Some(first) = self.ids.insert(id.clone(), line) {
            return Err(DataError::row(path, line, RowProblem::DuplicateId { id, first }));
        }
        Ok(Prompt { id, text, answer, positions, group })
    }
}
