//! Bounds on the size of files, and checks over all rows of a file.

use std::collections::HashMap;
use std::path::Path;

use crate::file_format;
use crate::rows::Row;
use crate::{DataError, Prompt, RowProblem};

/// How much is read at most, so that no file can take all memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of a line, of a paragraph, or of a field of a table.
    pub(super) line: usize,
    /// Bytes of all texts together.
    pub(super) total: usize,
}

pub(crate) const BOUNDS: Bounds = Bounds { line: 16 << 20, total: 1 << 30 };

/// PromptChecks what can only be seen over all rows: ids and size.
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

    /// The prompt that a row gives.
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
