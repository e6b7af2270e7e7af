//! Errors of study descriptions, all at once.

use fathom_results::text::clean;
use std::fmt;

/// All errors of a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StudyError {
    /// The file's name.
    pub file: String,
    /// At least one problem, in the order of the file.
    pub problems: Vec<Problem>,
}

/// One error of a description.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The line, from 1, where there is one.
    pub line: Option<usize>,
    /// One sentence: what is wrong and what to do.
    pub message: String,
}

impl fmt::Display for StudyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.problems.len() > 1 {
            write!(f, "{} has {} errors:", self.file, self.problems.len())?;
        }
        for Problem { line, message } in &self.problems {
            let message = clean(message);
            match (self.problems.len(), line) {
                (1, Some(line)) => write!(f, "{}, line {line}: {message}", self.file)?,
                (1, None) => write!(f, "{}: {message}", self.file)?,
                (_, Some(line)) => write!(f, "\n  line {line}: {message}")?,
                (_, None) => write!(f, "\n  {message}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for StudyError {}
