//! The values of a column of a row group, row by row.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parquet::basic::Compression;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, DataType};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::ChunkReader;
use parquet::file::serialized_reader::SerializedPageReader;
use serde_json::Value;

use super::error::{TableError, guarded};
use super::pages::{Bounded, Pages};
use super::schema::{ColumnType, Field};

/// Memory of a list element beside its text, rounded up. It counts towards the size of a field, because null
/// elements take almost no space in a file.
const ELEMENT: usize = 64;

/// The reader of a column.
pub(super) struct Column {
    field: Field,
    /// The definition level of a value that is not null.
    full: i16,
    reader: ColumnReader,
    values: Arc<AtomicUsize>,
}

impl Column {
    pub(super) fn open<R: ChunkReader + 'static>(
        source: &Arc<Bounded<R>>,
        group: &RowGroupMetaData,
        field: &Field,
    ) -> Result<Self, TableError> {
        let chunk =
            group.columns().get(field.leaf).ok_or(TableError::damaged("a row group lacks a column"))?;
        if chunk.file_path().is_some_and(|path| !path.is_empty()) {
            return Err(TableError::unsupported("it keeps columns in other files"));
        }
        let column = chunk.column_descr_ptr();
        let (codec, rows) = (chunk.compression(), usize::try_from(group.num_rows()).unwrap_or(usize::MAX));
        let values = Arc::<AtomicUsize>::default();
        let reader = guarded(|| {
            let chunk = chunk.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
            let packed = SerializedPageReader::new(source.clone(), &chunk, rows, None)?;
            let pages = Pages { packed, codec, column: column.clone(), values: values.clone() };
            Ok(get_column_reader(column.clone(), Box::new(pages)))
        })?;
        Ok(Self { field: field.clone(), full: column.max_def_level(), reader, values })
    }

    pub(super) fn name(&self) -> &str {
        &self.field.name
    }

    /// The value of the next row: text, a number, a truth value, a list of them, or null.
    pub(super) fn next(&mut self, longest: usize) -> Result<Value, TableError> {
        self.values.store(0, Ordering::Relaxed);
        let (field, full) = (&self.field, self.full);
        let unsigned = |column_type: &ColumnType| *column_type == ColumnType::Integer { unsigned: true };
        let unsigned = match &field.column_type {
            ColumnType::List(element) => unsigned(element),
            column_type => unsigned(column_type),
        };
        let row = Row { field, full, longest };
        match &mut self.reader {
            ColumnReader::BoolColumnReader(reader) => row.read(reader, |value| Ok((*value).into())),
            ColumnReader::Int32ColumnReader(reader) => {
                row.read(reader, |value| Ok(if unsigned { (*value as u32).into() } else { (*value).into() }))
            }
            ColumnReader::Int64ColumnReader(reader) => {
                row.read(reader, |value| Ok(if unsigned { (*value as u64).into() } else { (*value).into() }))
            }
            ColumnReader::FloatColumnReader(reader) => row.read(reader, |value| Ok(float((*value).into()))),
            ColumnReader::DoubleColumnReader(reader) => row.read(reader, |value| Ok(float(*value))),
            ColumnReader::ByteArrayColumnReader(reader) => row.read(reader, |value| row.text(value)),
            // Nothing but the number of such values is ever asked for.
            ColumnReader::Int96ColumnReader(reader) => row.read(reader, |_| Ok(Value::Null)),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => row.read(reader, |_| Ok(Value::Null)),
        }
    }
}

/// A float as JSON. Whole numbers become integers and NaN becomes null, because programs such as pandas store
/// integer columns with missing values as floats.
fn float(value: f64) -> Value {
    /// Up to 2^53, every integer is exact as a float.
    const WHOLE: f64 = (1u64 << 53) as f64;
    if value.fract() == 0.0 && value.abs() <= WHOLE { (value as i64).into() } else { value.into() }
}

/// How a row of a column is read.
#[derive(Clone, Copy)]
struct Row<'a> {
    field: &'a Field,
    full: i16,
    longest: usize,
}

impl Row<'_> {
    fn read<T: DataType>(
        self,
        reader: &mut ColumnReaderImpl<T>,
        json: impl Fn(&T::T) -> Result<Value, TableError>,
    ) -> Result<Value, TableError> {
        let (mut definition, mut repetition, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let (records, ..) =
            guarded(|| reader.read_records(1, Some(&mut definition), Some(&mut repetition), &mut values))?;
        if records != 1 {
            return Err(TableError::damaged("a column holds fewer rows than the others"));
        }
        let mut values = values.iter();
        let mut value = |level: i16| match level == self.full {
            true => json(values.next().ok_or(TableError::damaged("a page holds fewer values than it says"))?),
            false => Ok(Value::Null),
        };
        if !matches!(self.field.column_type, ColumnType::List(_)) {
            return value(definition.first().copied().unwrap_or(self.full));
        }
        let (mut list, mut size) = (Vec::new(), 0);
        for (definition, repetition) in definition.into_iter().zip(repetition) {
            let element = value(definition)?;
            // Deeper levels belong to the element that has already begun.
            if repetition > 1 || definition < self.field.element_level {
                continue;
            }
            size += ELEMENT + element.as_str().map_or(0, str::len);
            if size > self.longest {
                return Err(self.too_long());
            }
            list.push(element);
        }
        Ok(Value::Array(list))
    }

    fn text(self, value: &ByteArray) -> Result<Value, TableError> {
        let bytes = value.data();
        if bytes.len() > self.longest {
            return Err(self.too_long());
        }
        let name = &self.field.name;
        let text = std::str::from_utf8(bytes).map_err(|_| {
            TableError::Unsupported(format!("its column {name:?} holds bytes that are not valid UTF-8"))
        })?;
        Ok(text.into())
    }

    fn too_long(self) -> TableError {
        let Self { field, longest, .. } = self;
        TableError::Unsupported(format!(
            "its column {:?} holds a value of more than {longest} bytes",
            field.name
        ))
    }
}
