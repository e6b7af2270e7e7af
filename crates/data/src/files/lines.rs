//! JSON lines and paragraphs of text.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use super::checks::{Bounds, PromptChecks};
use crate::rows::{self, Fields, Row, RowReader};
use crate::stream::PromptSource;
use crate::{DataError, Prompt, RowProblem};

/// The JSON objects of lines that are not blank.
impl<R: BufRead> RowReader for Lines<R> {
    fn next(&mut self) -> Result<Option<(usize, Fields)>, DataError> {
        while self.advance()? {
            let line = self.line()?;
            if !line.trim().is_empty() {
                let fields =
                    rows::fields(line).map_err(|problem| DataError::row(&self.path, self.number, problem))?;
                return Ok(Some((self.number, fields)));
            }
        }
        Ok(None)
    }
}

/// The lines of a file, one at a time, with a bound on their length.
pub(super) struct Lines<R> {
    reader: R,
    path: PathBuf,
    /// The largest accepted length of a line, in bytes.
    longest: usize,
    /// The number of the last line read, from 1.
    number: usize,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R, path: &Path, bounds: Bounds) -> Self {
        Self { reader, path: path.to_owned(), longest: bounds.line, number: 0, buffer: Vec::new() }
    }

    /// The file, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the last line read, from 1.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Reads the next line; `false` at the end of the file.
    pub(super) fn advance(&mut self) -> Result<bool, DataError> {
        self.buffer.clear();
        // The longest line plus a byte order mark, a carriage return and a line feed.
        let most = self.longest as u64 + 5;
        let mut part = self.reader.by_ref().take(most);
        if part.read_until(b'\n', &mut self.buffer).map_err(DataError::io(&self.path))? == 0 {
            return Ok(false);
        }
        self.number += 1;
        Ok(true)
    }

    /// The last line read, without its line ending and without a byte order mark at the start of the file.
    pub(super) fn line(&self) -> Result<&str, DataError> {
        const MARK: &[u8] = b"\xef\xbb\xbf";
        let mut line = self.buffer.as_slice();
        if self.number == 1 {
            line = line.strip_prefix(MARK).unwrap_or(line);
        }
        line = line.strip_suffix(b"\n").unwrap_or(line);
        line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.longest {
            return Err(DataError::row(&self.path, self.number, RowProblem::TooLong { bytes: self.longest }));
        }
        std::str::from_utf8(line).map_err(|error| {
            let byte = error.valid_up_to() + 1;
            DataError::row(&self.path, self.number, RowProblem::Utf8 { byte })
        })
    }
}

/// The paragraphs of a text.
pub(super) struct Paragraphs<R> {
    lines: Lines<R>,
    checks: PromptChecks,
}

impl<R: BufRead> Paragraphs<R> {
    pub(super) fn new(reader: R, path: &Path, bounds: Bounds) -> Self {
        Self { lines: Lines::new(reader, path, bounds), checks: PromptChecks::new(bounds) }
    }
}

impl<R: BufRead> PromptSource for Paragraphs<R> {
    fn pull(&mut self) -> Result<Option<Prompt>, DataError> {
        let Some((line, row)) = next_paragraph(&mut self.lines)? else { return Ok(None) };
        self.checks.prompt(&self.lines.path, line, row).map(Some)
    }
}

/// The next paragraph as a row, with the number of its first line.
fn next_paragraph<R: BufRead>(lines: &mut Lines<R>) -> Result<Option<(usize, Row)>, DataError> {
    let mut first = 0;
    let mut text = String::new();
    while lines.advance()? {
        let line = lines.line()?;
        if line.trim().is_empty() {
            if text.is_empty() {
                continue;
            }
            break;
        }
        if text.is_empty() {
            first = lines.number;
        } else {
            text.push('\n');
        }
        text.push_str(line);
        if text.len() > lines.longest {
            return Err(DataError::row(&lines.path, first, RowProblem::TooLong { bytes: lines.longest }));
        }
    }
    text.truncate(text.trim_end().len());
    let row = Row { text, ..Row::default() };
    Ok((first > 0).then_some((first, row)))
}
