//! Parquet files: their schema, the columns that are read, and their rows.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::checks::BOUNDS;
use super::opened::OpenedRows;
use crate::DataError;
use crate::parquet::{self, Field, Table, TableError};
use crate::rows::{Fields, RowReader};
use crate::schema::{self, DatasetSchema, FieldType, RowSchema};

/// Opens a Parquet file of prompts; its schema is detected.
pub(super) fn open(path: &Path) -> Result<OpenedRows, DataError> {
    let table = table(path)?;
    let schema = detect_schema(&table, path)?;
    let columns = columns(table.fields(), schema, path)?;
    let is_read = |name: &str| columns.iter().any(|column| column.name == name);
    let known = |name: &str| schema.columns().iter().any(|(known, _)| *known == name);
    let ignored = table.fields().iter().filter(|field| known(&field.name) && !is_read(&field.name));
    let ignored = ignored.map(described).collect();
    let rows = Box::new(TableRows { rows: table.rows(columns, BOUNDS.line), path: path.to_owned() });
    Ok(OpenedRows { rows, schema: Some(schema), ignored })
}

/// Opens a Parquet file with rows of the schema that `choose` finds from its columns.
pub(super) fn open_in<S: RowSchema>(
    path: &Path,
    choose: impl FnOnce(&[Field]) -> Result<S, DataError>,
) -> Result<(Box<dyn RowReader>, S), DataError> {
    let table = table(path)?;
    let schema = choose(table.fields())?;
    let columns = columns(table.fields(), schema, path)?;
    Ok((Box::new(TableRows { rows: table.rows(columns, BOUNDS.line), path: path.to_owned() }), schema))
}

fn table(path: &Path) -> Result<Table<File>, DataError> {
    let file = File::open(path).map_err(DataError::io(path))?;
    if file.metadata().map_err(DataError::io(path))?.is_dir() {
        return Err(DataError::io(path)(std::io::ErrorKind::IsADirectory.into()));
    }
    Table::open(file).map_err(|error| table_error(path, None, error))
}

/// The column of this name, or the member of a column of structures.
pub(super) fn member<'a>(fields: &'a [Field], name: &str) -> Option<&'a Field> {
    let members = fields.iter().flat_map(|field| &field.members);
    fields.iter().chain(members).find(|field| field.name == name)
}

/// Detects the schema from the columns and, if they are ambiguous, from the first answer.
fn detect_schema(table: &Table<File>, path: &Path) -> Result<DatasetSchema, DataError> {
    let has = |name: &str| table.fields().iter().any(|field| field.name == name);
    if DatasetSchema::of(has, || true) != DatasetSchema::Gsm8k {
        return Ok(DatasetSchema::of(has, || false));
    }
    let columns = columns(table.fields(), DatasetSchema::Gsm8k, path)?;
    let mut rows = TableRows { rows: table.rows(columns, BOUNDS.line), path: path.to_owned() };
    while let Some((_, fields)) = rows.next()? {
        if fields.has("answer") {
            return Ok(DatasetSchema::of(has, || schema::is_marked(&fields)));
        }
    }
    Ok(DatasetSchema::Own)
}

/// The columns of a table that a schema reads. Columns that only name or group rows may be missing.
fn columns(fields: &[Field], schema: impl RowSchema, path: &Path) -> Result<Vec<Field>, DataError> {
    let mut columns: Vec<Field> = Vec::new();
    for (name, field_type) in schema.columns() {
        match member(fields, name) {
            Some(field) if field_type.accepts(&field.column_type) => columns.push(field.clone()),
            Some(field) if *field_type == FieldType::Numbers => {
                let (path, column, found) =
                    (path.to_owned(), field.name.clone(), field.column_type.to_string());
                return Err(DataError::WrongColumn { path, column, found });
            }
            _ => {}
        }
    }
    if schema.is_complete(|name| columns.iter().any(|column| column.name == name)) {
        return Ok(columns);
    }
    let (set, needs) = (schema.set(), schema.needs());
    Err(DataError::MissingColumns { path: path.to_owned(), found: found(fields), set, needs })
}

/// The quoted name of a column and its type.
fn described(field: &Field) -> String {
    let name: String = field.name.chars().take(40).collect();
    format!("{name:?} ({})", field.column_type)
}

/// Columns and their types, in words; long names and long lists are cut.
pub(super) fn found(fields: &[Field]) -> String {
    const MAX_NAMES: usize = 10;
    let mut names: Vec<String> = fields.iter().take(MAX_NAMES).map(described).collect();
    match fields.len() {
        0 => return "no columns".to_owned(),
        1 => return format!("only the column {}", names[0]),
        more if more > MAX_NAMES => names.push(format!("{} more", more - MAX_NAMES)),
        _ => {}
    }
    format!("the columns {}", names.join(", "))
}

/// The rows of a Parquet file.
struct TableRows {
    rows: parquet::Rows<File>,
    path: PathBuf,
}

impl RowReader for TableRows {
    fn next(&mut self) -> Result<Option<(usize, Fields)>, DataError> {
        let number = self.rows.number();
        let failed = |error| table_error(&self.path, Some(number), error);
        let Some(row) = self.rows.next().map_err(failed)? else { return Ok(None) };
        let fields =
            Fields::from_table_row(row).map_err(|error| failed(TableError::Damaged(error.to_string())))?;
        Ok(Some((number, fields)))
    }
}

fn table_error(path: &Path, row: Option<usize>, error: TableError) -> DataError {
    let path = path.to_owned();
    match error {
        TableError::Io(cause) => DataError::Io { path, cause },
        TableError::Damaged(problem) => DataError::DamagedTable { path, row, problem },
        TableError::Unsupported(problem) => DataError::UnsupportedTable { path, row, problem },
    }
}
