//! FASTA: a header line that begins with `>`, then the residues of a sequence on the lines that follow.

use std::io::BufRead;
use std::path::Path;

use super::checks::{Bounds, PromptChecks};
use super::lines::Lines;
use crate::rows::Row;
use crate::stream::PromptSource;
use crate::{DataError, Prompt, RowProblem};

/// The records of a FASTA file.
pub(super) struct Records<R> {
    lines: Lines<R>,
    checks: PromptChecks,
    /// The header of the next record, and its line.
    header: Option<(usize, String)>,
    /// The longest accepted sequence, in bytes.
    longest: usize,
    empty: usize,
}

impl<R: BufRead> Records<R> {
    pub(super) fn new(reader: R, path: &Path, bounds: Bounds) -> Self {
        let (lines, checks) = (Lines::new(reader, path, bounds), PromptChecks::new(bounds));
        Self { lines, checks, header: None, longest: bounds.line, empty: 0 }
    }

    /// Records skipped because they have no residues.
    pub(super) fn skipped(&self) -> usize {
        self.empty
    }

    /// The next record with its first line, whatever it holds.
    fn record(&mut self) -> Result<Option<(usize, Row)>, DataError> {
        let mut header = self.header.take();
        let mut text = String::new();
        while self.lines.advance()? {
            let (number, line) = (self.lines.number(), self.lines.line()?.trim());
            if let Some(next) = line.strip_prefix('>') {
                let next = Some((number, next.to_owned()));
                if header.is_some() {
                    self.header = next;
                    break;
                }
                header = next;
                continue;
            }
            let problem = |problem| Err(DataError::row(self.lines.path(), number, problem));
            // An old way to write a comment.
            if line.is_empty() || line.starts_with(';') {
                continue;
            }
            if header.is_none() {
                return problem(RowProblem::NoHeader);
            }
            for character in line.chars().filter(|character| !character.is_whitespace()) {
                if !character.is_ascii_alphabetic() && !"*-.".contains(character) {
                    return problem(RowProblem::NotAResidue { character });
                }
                text.push(character.to_ascii_uppercase());
            }
            if text.len() > self.longest {
                return problem(RowProblem::TooLong { bytes: self.longest });
            }
        }
        let Some((number, header)) = header else { return Ok(None) };
        // It marks where translation stops.
        if text.ends_with('*') {
            text.pop();
        }
        let id = header.split_whitespace().next().map(str::to_owned);
        Ok(Some((number, Row { id, text, ..Row::default() })))
    }
}

impl<R: BufRead> PromptSource for Records<R> {
    fn pull(&mut self) -> Result<Option<Prompt>, DataError> {
        while let Some((line, row)) = self.record()? {
            if row.text.is_empty() {
                self.empty += 1;
                continue;
            }
            return self.checks.prompt(self.lines.path(), line, row).map(Some);
        }
        Ok(None)
    }

    fn empty(&self) -> usize {
        self.empty
    }
}
