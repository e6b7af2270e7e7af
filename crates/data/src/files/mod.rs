//! Prompts from files: JSON lines, Parquet, FASTA, and paragraphs of text.

mod checks;
mod fasta;
mod lines;
mod opened;
mod tables;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::file_format::{self, FileFormat};
use crate::rows::RowReader;
use crate::schema::{DatasetSchema, Filter, RowOutcome, RowSchema};
use crate::stream::{PromptSource, PromptStream};
use crate::{DataError, Prompt};

use checks::Bounds;
pub(crate) use checks::{BOUNDS, PromptChecks};
use fasta::Records;
use lines::{Lines, Paragraphs};
use opened::OpenedRows;

/// Opens a file given by its path; the schema of its rows is detected.
pub(crate) fn open(path: &Path, format: FileFormat) -> Result<PromptStream, DataError> {
    if format == FileFormat::Text {
        return of_text(reader(path)?, path, BOUNDS);
    }
    if format == FileFormat::Fasta {
        return of_fasta(path, BOUNDS);
    }
    let OpenedRows { rows, schema, ignored } = rows_of(path, format)?;
    Ok(of_rows(rows, schema, path, BOUNDS)?.ignoring(ignored))
}

/// The paragraphs of a text.
fn of_text(reader: impl BufRead + 'static, path: &Path, bounds: Bounds) -> Result<PromptStream, DataError> {
    let mut paragraphs = Paragraphs::new(reader, path, bounds);
    let first = paragraphs.pull()?.ok_or_else(|| DataError::NoPrompts { path: path.to_owned() })?;
    Ok(PromptStream::new(&file_format::stem(path), path.display().to_string(), paragraphs)
        .starting_with(first))
}

/// The sequences of a FASTA file, which may be compressed.
fn of_fasta(path: &Path, bounds: Bounds) -> Result<PromptStream, DataError> {
    let mut reader = reader(path)?;
    let begins = reader.fill_buf().map_err(DataError::io(path))?;
    let reader: Box<dyn BufRead> = match begins.starts_with(&[0x1f, 0x8b]) {
        true => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(reader))),
        false => Box::new(reader),
    };
    let mut records = Records::new(reader, path, bounds);
    let Some(first) = records.pull()? else {
        let (path, rows) = (path.to_owned(), records.skipped());
        return Err(match rows {
            0 => DataError::NoPrompts { path },
            _ => DataError::AllEmpty { unit: "record", path, rows },
        });
    };
    Ok(PromptStream::new(&file_format::stem(path), path.display().to_string(), records).starting_with(first))
}

/// The rows of a file. Unless the schema is given, it is detected from the first row.
fn of_rows(
    rows: Box<dyn RowReader>,
    schema: Option<DatasetSchema>,
    path: &Path,
    bounds: Bounds,
) -> Result<PromptStream, DataError> {
    let mut rows = FileRows::new(rows, schema, path, bounds);
    let first = rows.pull()?.ok_or_else(|| rows.none())?;
    let schema = rows.schema.unwrap_or(DatasetSchema::Own);
    let source = match schema {
        DatasetSchema::Own => path.display().to_string(),
        schema => format!("{}, in the form of {}", path.display(), schema.name()),
    };
    Ok(PromptStream::new(&file_format::stem(path), source, rows)
        .with_max_tokens(schema.max_tokens())
        .starting_with(first))
}

fn reader(path: &Path) -> Result<BufReader<File>, DataError> {
    Ok(BufReader::new(File::open(path).map_err(DataError::io(path))?))
}

/// Opens the rows of a file of prompts; the schema of a Parquet file is that of its columns.
fn rows_of(path: &Path, format: FileFormat) -> Result<OpenedRows, DataError> {
    match format {
        FileFormat::Parquet => tables::open(path),
        _ => Ok(OpenedRows { rows: Box::new(lines_of(path)?), schema: None, ignored: Vec::new() }),
    }
}

/// Opens the rows of a file with the fields of a schema.
pub(crate) fn rows_in(
    path: &Path,
    format: FileFormat,
    schema: impl RowSchema,
) -> Result<Box<dyn RowReader>, DataError> {
    match format {
        FileFormat::Parquet => tables::open_in(path, |_| Ok(schema)).map(|(rows, _)| rows),
        _ => Ok(Box::new(lines_of(path)?)),
    }
}

/// Opens the rows of a file whose schema `detect` finds from the names of columns, or gives an error that describes the
/// columns. JSON lines have no columns, so that their schema is `None`.
pub(crate) fn rows_detected<S: RowSchema>(
    path: &Path,
    format: FileFormat,
    detect: impl Fn(&dyn Fn(&str) -> bool) -> Option<S>,
    needs: &'static str,
) -> Result<(Box<dyn RowReader>, Option<S>), DataError> {
    if format != FileFormat::Parquet {
        return Ok((Box::new(lines_of(path)?), None));
    }
    let schema = |fields: &[crate::parquet::Field]| {
        detect(&|name| tables::member(fields, name).is_some()).ok_or_else(|| DataError::MissingColumns {
            path: path.to_owned(),
            found: tables::found(fields),
            set: None,
            needs,
        })
    };
    tables::open_in(path, schema).map(|(rows, schema)| (rows, Some(schema)))
}

fn lines_of(path: &Path) -> Result<Lines<BufReader<File>>, DataError> {
    Ok(Lines::new(reader(path)?, path, BOUNDS))
}

/// The prompts of a file of rows.
struct FileRows {
    rows: Box<dyn RowReader>,
    /// The schema; unless given, that of the first row that is not empty.
    schema: Option<DatasetSchema>,
    path: PathBuf,
    checks: PromptChecks,
    empty: usize,
}

impl FileRows {
    fn new(rows: Box<dyn RowReader>, schema: Option<DatasetSchema>, path: &Path, bounds: Bounds) -> Self {
        Self { rows, schema, path: path.to_owned(), checks: PromptChecks::new(bounds), empty: 0 }
    }

    /// The error for a file without prompts.
    fn none(&self) -> DataError {
        let (path, rows) = (self.path.clone(), self.empty);
        match rows {
            0 => DataError::NoPrompts { path },
            _ => DataError::AllEmpty { unit: file_format::unit(&path), path, rows },
        }
    }
}

impl PromptSource for FileRows {
    fn pull(&mut self) -> Result<Option<Prompt>, DataError> {
        while let Some((line, fields)) = self.rows.next()? {
            let schema = self.schema.unwrap_or_else(|| DatasetSchema::of_row(&fields));
            match schema
                .row(&fields, Filter::default())
                .map_err(|problem| DataError::row(&self.path, line, problem))?
            {
                RowOutcome::Prompt(row) => {
                    self.schema = Some(schema);
                    return self.checks.prompt(&self.path, line, row).map(Some);
                }
                RowOutcome::Empty => self.empty += 1,
                RowOutcome::Filtered => {}
            }
        }
        Ok(None)
    }

    fn empty(&self) -> usize {
        self.empty
    }
}
