//! Rows of Parquet files, for the columns of prompt sets: text, numbers and lists of them.
//!
//! The `parquet` crate decodes them. Files are untrusted, but the crate trusts them: it builds the schema by
//! recursion, reserves memory by sizes and counts in the file, and panics on inconsistencies. So its input is
//! bounded here ([`schema`], [`pages`]), and every call is [`guarded`].

mod column;
mod delta;
mod error;
mod pages;
mod schema;
mod thrift;

use std::sync::Arc;

use parquet::file::metadata::{
    ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader, ParquetStatisticsPolicy,
};
use parquet::file::reader::ChunkReader;
use serde_json::Value;

use column::Column;
pub(crate) use error::TableError;
use error::guarded;
pub use error::is_guarded;
use pages::Bounded;
use schema::Schema;
pub(crate) use schema::{ColumnType, Field};

/// Footers are usually some kilobytes, and some megabytes with very many columns.
const LONGEST_FOOTER: u64 = 16 << 20;

/// A few bytes can encode any number of equal rows, so their number is bounded. The largest prompt sets have
/// some hundred thousand rows.
const MOST_ROWS: usize = 1 << 22;

/// An open file: its columns are known, and no row has been read.
pub(crate) struct Table<R> {
    source: Arc<Bounded<R>>,
    schema: Schema,
    metadata: ParquetMetaData,
}

impl<R: ChunkReader + 'static> Table<R> {
    pub(crate) fn open(source: R) -> Result<Self, TableError> {
        let footer = footer(&source)?;
        let source = Arc::new(Bounded(source));
        let (schema, metadata) = guarded(|| Ok(parse(&footer)))??;
        Ok(Self { source, schema, metadata })
    }

    /// The columns, in order.
    pub(crate) fn fields(&self) -> &[Field] {
        &self.schema.fields
    }

    /// The rows, with these columns. `longest` bounds the size of a field in bytes.
    pub(crate) fn rows(&self, fields: Vec<Field>, longest: usize) -> Rows<R> {
        let (source, metadata) = (self.source.clone(), self.metadata.clone());
        Rows {
            source,
            metadata,
            fields,
            columns: Vec::new(),
            group: 0,
            left: 0,
            row: 0,
            longest,
            most: MOST_ROWS,
        }
    }
}

/// The footer, between the last page and the magic number at the end.
fn footer(source: &impl ChunkReader) -> Result<bytes::Bytes, TableError> {
    let size = source.len();
    if size < 12 {
        return Err(TableError::damaged("it is shorter than an empty one"));
    }
    let tail = source.get_bytes(size - 8, 8)?;
    match &tail[4..] {
        b"PAR1" => {}
        b"PARE" => return Err(TableError::unsupported("it is encrypted")),
        _ => return Err(TableError::damaged("it does not end with PAR1")),
    }
    let length = tail.first_chunk().map_or(0, |length| u64::from(u32::from_le_bytes(*length)));
    if length > LONGEST_FOOTER.min(size - 12) {
        return Err(TableError::damaged("its footer is longer than it can be"));
    }
    Ok(source.get_bytes(size - 8 - length, length as usize)?)
}

fn parse(footer: &[u8]) -> Result<(Schema, ParquetMetaData), TableError> {
    let schema = Schema::read(footer)?;
    let options = ParquetMetaDataOptions::new()
        .with_schema(schema.descriptor.clone())
        .with_column_stats_policy(ParquetStatisticsPolicy::SkipAll);
    let metadata = ParquetMetaDataReader::decode_metadata_with_options(footer, Some(&options))?;
    Ok((schema, metadata))
}

/// The rows of a file.
pub(crate) struct Rows<R> {
    source: Arc<Bounded<R>>,
    metadata: ParquetMetaData,
    fields: Vec<Field>,
    columns: Vec<Column>,
    /// The index of the next row group.
    group: usize,
    /// The number of rows left in the current row group.
    left: u64,
    /// The number of the last row, from 1.
    row: usize,
    /// The largest size of a field in bytes.
    longest: usize,
    /// The largest number of rows to read.
    most: usize,
}

impl<R: ChunkReader + 'static> Rows<R> {
    /// The number of the next row, from 1.
    pub(crate) fn number(&self) -> usize {
        self.row + 1
    }

    /// The next row: the names of its fields and their values.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<(String, Value)>>, TableError> {
        while self.left == 0 {
            let Some(group) = self.metadata.row_groups().get(self.group) else { return Ok(None) };
            let rows = u64::try_from(group.num_rows());
            self.left = rows.map_err(|_| TableError::damaged("a number of rows is negative"))?;
            let open = |field| Column::open(&self.source, group, field);
            self.columns = self.fields.iter().map(open).collect::<Result<_, _>>()?;
            self.group += 1;
        }
        if self.row >= self.most {
            return Err(TableError::Unsupported(format!("it has more than {} rows", self.most)));
        }
        let longest = self.longest;
        let value = |column: &mut Column| Ok((column.name().to_owned(), column.next(longest)?));
        let row = self.columns.iter_mut().map(value).collect::<Result<_, TableError>>()?;
        self.left -= 1;
        self.row += 1;
        Ok(Some(row))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// Nine rows written by pyarrow.
    const SCENES: &[u8] = include_bytes!("../../tests/sets/fixtures/scenes.parquet");

    fn rows(names: &[&str], longest: usize) -> Rows<Bytes> {
        let table = Table::open(Bytes::from_static(SCENES)).unwrap();
        let wanted = table.fields().iter().filter(|field| names.contains(&&*field.name)).cloned();
        table.rows(wanted.collect(), longest)
    }

    #[test]
    fn columns_have_types() {
        let table = Table::open(Bytes::from_static(SCENES)).unwrap();
        let found: Vec<String> =
            table.fields().iter().map(|f| format!("{} {}", f.name, f.column_type)).collect();
        assert_eq!(found, ["ind integer", "ctx text", "endings list of texts", "label text"]);
    }

    #[test]
    fn rows_are_bounded() {
        let mut rows = rows(&["ctx", "label"], 1000);
        rows.most = 8;
        for number in 1..=8 {
            assert_eq!(rows.number(), number);
            assert!(rows.next().unwrap().is_some());
        }
        assert!(
            matches!(rows.next(), Err(TableError::Unsupported(what)) if what == "it has more than 8 rows")
        );
        rows.most = 9;
        let row = rows.next().unwrap().unwrap();
        let wanted = [("ctx", "A robot is in the café. it"), ("label", "0")];
        assert_eq!(row, wanted.map(|(name, value)| (name.to_owned(), Value::from(value))));
        assert_eq!(rows.next().unwrap(), None);
    }

    #[test]
    fn fields_are_bounded() {
        let first = |name, longest| rows(&[name], longest).next();
        let text = "A cat is in the kitchen. it".len();
        assert!(first("ctx", text).is_ok());
        assert!(matches!(first("ctx", text - 1), Err(TableError::Unsupported(what)) if what.contains("ctx")));
        assert!(first("endings", 400).is_ok());
        assert!(first("endings", 200).is_err());
    }

    /// A file without pages, with a schema given as the name and number of children of each node.
    fn with_schema(nodes: impl IntoIterator<Item = (u8, i64)>) -> Vec<u8> {
        let mut schema = Vec::new();
        let mut count = 0;
        for (name, children) in nodes {
            // Field 3: optional; 4: a name of one byte; 5: the children, as a zigzag varint.
            schema.extend([0x35, 2, 0x18, 1, name, 0x15]);
            schema.extend(varint((children as u64) << 1));
            schema.push(0);
            count += 1;
        }
        // Fields 1: version; 2: a list of structures; 3: no rows; 4: no row groups.
        let footer =
            [&[0x15, 2, 0x19, 0xfc][..], &varint(count), &schema, &[0x16, 0, 0x19, 0x0c, 0]].concat();
        let length = (footer.len() as u32).to_le_bytes();
        [b"PAR1", &footer[..], &length, b"PAR1"].concat()
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    #[track_caller]
    fn refused(bytes: Vec<u8>, what: &str) {
        match Table::open(Bytes::from(bytes)).map(drop) {
            Err(TableError::Damaged(found) | TableError::Unsupported(found)) => {
                assert!(found.contains(what), "{found}")
            }
            other => panic!("{other:?}"),
        }
    }

    /// Schemas on which the library would end the process, which cannot be caught.
    #[test]
    fn schemas_that_exhaust_stack_or_memory_are_refused() {
        refused(with_schema(vec![(b'a', 1); 60_000]), "nested too deeply");
        refused(with_schema([(b'a', i64::from(i32::MAX))]), "loose ends");
        refused(with_schema([(b'a', -1), (b'b', 0)]), "loose ends");
        refused(
            with_schema(std::iter::once((b'a', 70_000)).chain(vec![(b'b', 0); 70_000])),
            "more than 65536",
        );
    }
}
