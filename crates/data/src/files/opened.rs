//! The rows of an open file.

use crate::rows::RowReader;
use crate::schema::DatasetSchema;

/// The rows of an open file of JSON lines or a Parquet file.
pub(crate) struct OpenedRows {
    pub(crate) rows: Box<dyn RowReader>,
    /// The schema, if it was given or the columns determine it.
    pub(super) schema: Option<DatasetSchema>,
    /// Columns with a known name and an unusable type, described.
    pub(super) ignored: Vec<String>,
}
