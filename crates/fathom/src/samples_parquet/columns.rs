//! Columns of Parquet for scalars and nested lists, where everything may be null.
//!
//! A list is stored as the format asks: `optional group NAME (LIST) { repeated group list { optional T element } }`.
//! A definition level says how much of the path to a value is there, a repetition level at which list it goes on (Dremel,
//! Melnik et al. 2010).

use super::flatten::Row;
use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedRowGroupWriter;
use parquet::schema::types::{Type, TypePtr};
use serde_json::Value;
use std::io::Write;
use std::sync::Arc;

/// The type of the values in a column's innermost lists, from narrow to wide; none seen yet is the narrowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Element {
    Unknown,
    Boolean,
    Long,
    Double,
    Text,
}

/// A column: its name, how many lists are around a value, and what the values are.
#[derive(Debug)]
pub(super) struct Column {
    name: String,
    lists: usize,
    element: Element,
}

/// Widens the columns, or adds some, so that they hold the values of a row.
pub(super) fn extend(columns: &mut Vec<Column>, row: &Row) -> Result<(), ParquetError> {
    for (at, (name, value)) in row.iter().enumerate() {
        let (lists, element) = shape(value);
        match columns.iter_mut().find(|column| column.name == *name) {
            Some(column) => column.widen(lists, element)?,
            // Where the format has it, if earlier samples lack it.
            None => {
                columns.insert(at.min(columns.len()), Column { name: name.clone(), lists, element });
            }
        }
    }
    Ok(())
}

/// How many lists are around a value's scalars, and what these are. A null may stand for anything.
fn shape(value: &Value) -> (usize, Element) {
    match value {
        Value::Array(items) => {
            let inner =
                items.iter().map(shape).fold((0, Element::Unknown), |a, b| (a.0.max(b.0), a.1.max(b.1)));
            (inner.0 + 1, inner.1)
        }
        Value::Bool(_) => (0, Element::Boolean),
        Value::Number(number) if number.is_i64() => (0, Element::Long),
        Value::Number(_) => (0, Element::Double),
        Value::String(_) => (0, Element::Text),
        Value::Null | Value::Object(_) => (0, Element::Unknown),
    }
}

impl Column {
    /// Makes room for values of another shape. Only nulls and empty lists may be in fewer lists than others.
    fn widen(&mut self, lists: usize, element: Element) -> Result<(), ParquetError> {
        if self.element != Element::Unknown && element != Element::Unknown {
            let texts = (self.element == Element::Text) != (element == Element::Text);
            if texts || self.lists != lists {
                return Err(ParquetError::General(format!("{} has another type in some samples", self.name)));
            }
        }
        self.lists = self.lists.max(lists);
        self.element = self.element.max(element);
        Ok(())
    }

    /// Its type in the schema.
    pub(super) fn field(&self) -> Result<TypePtr, ParquetError> {
        let name = |depth: usize| if depth == 0 { self.name.as_str() } else { "element" };
        let mut field = self.element_type(name(self.lists))?;
        for depth in (0..self.lists).rev() {
            let repeated = Type::group_type_builder("list")
                .with_repetition(Repetition::REPEATED)
                .with_fields(vec![Arc::new(field)])
                .build()?;
            field = Type::group_type_builder(name(depth))
                .with_repetition(Repetition::OPTIONAL)
                .with_converted_type(ConvertedType::LIST)
                .with_logical_type(Some(LogicalType::List))
                .with_fields(vec![Arc::new(repeated)])
                .build()?;
        }
        Ok(Arc::new(field))
    }

    fn element_type(&self, name: &str) -> Result<Type, ParquetError> {
        let (physical, text) = match self.element {
            Element::Boolean => (Physical::BOOLEAN, false),
            Element::Long => (Physical::INT64, false),
            Element::Unknown | Element::Double => (Physical::DOUBLE, false),
            Element::Text => (Physical::BYTE_ARRAY, true),
        };
        let builder = Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
        match text {
            true => builder
                .with_converted_type(ConvertedType::UTF8)
                .with_logical_type(Some(LogicalType::String))
                .build(),
            false => builder.build(),
        }
    }

    /// Writes the column's values of some rows as the next column of a row group.
    pub(super) fn write<W: Write + Send>(
        &self,
        rows: &[Row],
        group: &mut SerializedRowGroupWriter<'_, W>,
    ) -> Result<(), ParquetError> {
        match self.element {
            Element::Boolean => self.write_as::<BoolType, W>(rows, group, Value::as_bool),
            Element::Long => self.write_as::<Int64Type, W>(rows, group, Value::as_i64),
            Element::Unknown | Element::Double => self.write_as::<DoubleType, W>(rows, group, Value::as_f64),
            Element::Text => {
                self.write_as::<ByteArrayType, W>(rows, group, |value| value.as_str().map(ByteArray::from))
            }
        }
    }

    fn write_as<T: DataType, W: Write + Send>(
        &self,
        rows: &[Row],
        group: &mut SerializedRowGroupWriter<'_, W>,
        convert: fn(&Value) -> Option<T::T>,
    ) -> Result<(), ParquetError> {
        let mut levels = Levels {
            lists: self.lists,
            convert,
            values: Vec::new(),
            definition: Vec::new(),
            repetition: Vec::new(),
        };
        for row in rows {
            levels.add(row.get(&self.name).unwrap_or(&Value::Null), 0, 0);
        }
        let Some(mut column) = group.next_column()? else {
            return Err(ParquetError::General(format!("no column is left for {}", self.name)));
        };
        let repetition = (self.lists > 0).then_some(levels.repetition.as_slice());
        column.typed::<T>().write_batch(&levels.values, Some(&levels.definition), repetition)?;
        column.close()
    }
}

/// The values of a column with their levels.
struct Levels<T> {
    lists: usize,
    convert: fn(&Value) -> Option<T>,
    values: Vec<T>,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

impl<T> Levels<T> {
    /// Adds a value that is in `depth` lists and begins a new element of the list at level `repetition`.
    fn add(&mut self, value: &Value, depth: usize, repetition: i16) {
        // Each list around it is there and has an element; and the value itself may be null.
        let present = 2 * depth as i16;
        match value {
            Value::Array(items) if depth < self.lists => {
                if items.is_empty() {
                    self.level(present + 1, repetition);
                }
                for (i, item) in items.iter().enumerate() {
                    self.add(item, depth + 1, if i == 0 { repetition } else { depth as i16 + 1 });
                }
            }
            scalar if depth == self.lists => match (self.convert)(scalar) {
                Some(converted) => {
                    self.values.push(converted);
                    self.level(present + 1, repetition);
                }
                None => self.level(present, repetition),
            },
            _ => self.level(present, repetition),
        }
    }

    fn level(&mut self, definition: i16, repetition: i16) {
        self.definition.push(definition);
        self.repetition.push(repetition);
    }
}
