//! Files for the tests, written by another implementation of Parquet.

use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// The values of a column in one row group. Texts in lists and structures are not null.
#[derive(Debug, Clone)]
pub(crate) enum Cells {
    Texts(Vec<Option<String>>),
    Ints(Vec<i32>),
    Longs(Vec<Option<i64>>),
    Lists(Vec<Vec<String>>),
    Unsigned(Vec<u32>),
    Doubles(Vec<f64>),
    Booleans(Vec<bool>),
    /// Structures of one text each.
    Structures(Vec<String>),
    /// Lists of structures of one text each.
    Messages(Vec<Vec<String>>),
}

/// Options of writing a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub(crate) compression: Compression,
    pub(crate) dictionary: bool,
    pub(crate) second_version: bool,
    /// The largest number of values per page.
    pub(crate) page: usize,
    /// The encoding of texts without a dictionary, and of integers if it supports them.
    pub(crate) encoding: Encoding,
}

impl Default for Style {
    fn default() -> Self {
        let compression = Compression::SNAPPY;
        Self { compression, dictionary: true, second_version: false, page: 1000, encoding: Encoding::PLAIN }
    }
}

/// The bytes of a file with the given columns and row groups.
pub(crate) fn table(names: &[&str], groups: &[Vec<Cells>], style: Style) -> Vec<u8> {
    let field = |(name, cells): (&&str, &Cells)| match cells {
        Cells::Texts(_) => format!("optional binary {name} (UTF8);"),
        Cells::Ints(_) => format!("required int32 {name};"),
        Cells::Longs(_) => format!("optional int64 {name};"),
        Cells::Lists(_) => {
            format!(
                "optional group {name} (LIST) {{ repeated group list {{ optional binary element (UTF8); }} }}"
            )
        }
        Cells::Unsigned(_) => format!("required int32 {name} (UINT_32);"),
        Cells::Doubles(_) => format!("required double {name};"),
        Cells::Booleans(_) => format!("required boolean {name};"),
        Cells::Structures(_) => format!("required group {name} {{ required binary value (UTF8); }}"),
        Cells::Messages(_) => format!(
            "optional group {name} (LIST) {{ repeated group list {{ required group element {{ \
             optional binary content (UTF8); }} }} }}"
        ),
    };
    let fields: String = names.iter().zip(&groups[0]).map(field).collect();
    let schema = Arc::new(parse_message_type(&format!("message rows {{ {fields} }}")).unwrap());
    let version = if style.second_version { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 };
    let mut properties = WriterProperties::builder()
        .set_compression(style.compression)
        .set_dictionary_enabled(style.dictionary)
        .set_writer_version(version)
        .set_write_batch_size(style.page)
        .set_data_page_row_count_limit(style.page);
    for (name, cells) in names.iter().zip(&groups[0]).filter(|_| !style.dictionary) {
        let path = |end: &str| format!("{name}{end}").split('.').map(str::to_owned).collect::<Vec<_>>();
        let (path, encoding) = match cells {
            Cells::Texts(_) => (path(""), style.encoding),
            Cells::Lists(_) => (path(".list.element"), style.encoding),
            Cells::Ints(_) | Cells::Longs(_) if style.encoding != Encoding::PLAIN => {
                (path(""), Encoding::DELTA_BINARY_PACKED)
            }
            Cells::Doubles(_) if style.encoding != Encoding::PLAIN => (path(""), Encoding::BYTE_STREAM_SPLIT),
            _ => (path(""), Encoding::PLAIN),
        };
        properties = properties.set_column_encoding(path.into(), encoding);
    }
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties.build())).unwrap();
    for group in groups {
        let mut rows = writer.next_row_group().unwrap();
        for cells in group {
            let mut column = rows.next_column().unwrap().unwrap();
            match cells {
                Cells::Texts(texts) => {
                    let levels: Vec<i16> = texts.iter().map(|text| text.is_some().into()).collect();
                    let values: Vec<ByteArray> =
                        texts.iter().flatten().map(|text| text.as_str().into()).collect();
                    column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
                }
                Cells::Ints(values) => {
                    column.typed::<Int32Type>().write_batch(values, None, None).unwrap();
                }
                Cells::Longs(values) => {
                    let levels: Vec<i16> = values.iter().map(|value| value.is_some().into()).collect();
                    let values: Vec<i64> = values.iter().flatten().copied().collect();
                    column.typed::<Int64Type>().write_batch(&values, Some(&levels), None).unwrap();
                }
                Cells::Unsigned(values) => {
                    let values: Vec<i32> = values.iter().map(|value| *value as i32).collect();
                    column.typed::<Int32Type>().write_batch(&values, None, None).unwrap();
                }
                Cells::Doubles(values) => {
                    column.typed::<DoubleType>().write_batch(values, None, None).unwrap();
                }
                Cells::Booleans(values) => {
                    column.typed::<BoolType>().write_batch(values, None, None).unwrap();
                }
                Cells::Structures(texts) => {
                    let values: Vec<ByteArray> = texts.iter().map(|text| text.as_str().into()).collect();
                    column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
                }
                Cells::Lists(lists) | Cells::Messages(lists) => {
                    let (mut values, mut definition, mut repetition) = (vec![], vec![], vec![]);
                    for list in lists {
                        if list.is_empty() {
                            definition.push(1);
                            repetition.push(0);
                        }
                        for (place, text) in list.iter().enumerate() {
                            values.push(ByteArray::from(text.as_str()));
                            definition.push(3);
                            repetition.push((place > 0).into());
                        }
                    }
                    let typed = column.typed::<ByteArrayType>();
                    typed.write_batch(&values, Some(&definition), Some(&repetition)).unwrap();
                }
            }
            column.close().unwrap();
        }
        rows.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

/// A column of texts without nulls.
pub(crate) fn texts(texts: &[&str]) -> Cells {
    Cells::Texts(texts.iter().map(|text| Some((*text).to_owned())).collect())
}
