//! The columns of a Parquet file and their types.
//!
//! The library builds the schema by unbounded recursion and reserves as much memory as the file announces;
//! neither failure can be caught. So the schema is parsed here and passed to the library.

use std::fmt;
use std::sync::Arc;

use parquet::basic::{Repetition, Type as Physical};
use parquet::schema::types::{SchemaDescriptor, Type};

use super::error::TableError;
use super::thrift::{BINARY, FALSE, I32, LIST, STRUCT, TRUE, Thrift};

/// The deepest accepted nesting of columns.
const DEEPEST: usize = 32;

/// The type of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ColumnType {
    Text,
    Integer {
        unsigned: bool,
    },
    Float,
    Boolean,
    List(Box<ColumnType>),
    Struct,
    /// A type that prompts cannot have.
    Other(&'static str),
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Text => "text",
            Self::Integer { .. } => "integer",
            Self::Float => "float",
            Self::Boolean => "boolean",
            Self::Struct => "struct",
            Self::Other(name) => name,
            Self::List(element) => return write!(f, "list of {element}s"),
        };
        f.write_str(name)
    }
}

/// A top-level column: a value or a list per row.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) column_type: ColumnType,
    /// The index of its first leaf column.
    pub(super) leaf: usize,
    /// For lists: the smallest definition level at which an element exists.
    pub(super) element_level: i16,
    /// For structures: their members, named `column.member`.
    pub(crate) members: Vec<Field>,
}

/// The columns of a file.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) fields: Vec<Field>,
    /// The same schema for the library.
    pub(super) descriptor: Arc<SchemaDescriptor>,
}

/// A node of the schema tree, which is stored in depth-first order.
#[derive(Debug, Default)]
struct Node {
    name: String,
    physical: Option<i64>,
    length: i64,
    repetition: i64,
    num_children: i64,
    converted: Option<i64>,
    /// The field number of its logical type.
    logical: Option<i64>,
    unsigned: bool,
    children: Vec<Node>,
}

const REPEATED: i64 = 2;

impl Schema {
    /// Parses the schema in a footer.
    pub(super) fn read(footer: &[u8]) -> Result<Self, TableError> {
        let mut nodes = Vec::new();
        Thrift::new(footer).fields(|thrift, id, kind| match (id, kind) {
            (2, LIST) => thrift.structs(|thrift| node(thrift).map(|node| nodes.push(node))).map(|()| true),
            _ => Ok(false),
        })?;
        let mut nodes = nodes.into_iter();
        let root = nodes.next().ok_or(TableError::damaged("it has no schema"))?;
        let root = root.with_children(&mut nodes, 0)?;
        if nodes.next().is_some() {
            return Err(TableError::damaged("its schema has loose ends"));
        }
        let mut leaf = 0;
        let field = |node: &Node| {
            let field = node.field(leaf);
            leaf += node.leaves();
            field
        };
        let fields = root.children.iter().map(field).collect();
        let children: Result<_, _> = root.children.iter().map(Node::for_library).collect();
        let root = Type::group_type_builder("schema").with_fields(children?).build()?;
        Ok(Self { fields, descriptor: Arc::new(SchemaDescriptor::new(Arc::new(root))) })
    }
}

fn node(thrift: &mut Thrift<'_>) -> Result<Node, TableError> {
    let mut node = Node::default();
    thrift.fields(|thrift, id, kind| {
        match (id, kind) {
            (1, I32) => node.physical = Some(thrift.int()?),
            (2, I32) => node.length = thrift.int()?,
            (3, I32) => node.repetition = thrift.int()?,
            (4, BINARY) => node.name = String::from_utf8_lossy(thrift.binary()?).into_owned(),
            (5, I32) => node.num_children = thrift.int()?,
            (6, I32) => node.converted = Some(thrift.int()?),
            (10, STRUCT) => thrift.fields(|thrift, which, kind| {
                node.logical = Some(which);
                if (which, kind) != (logical::INTEGER, STRUCT) {
                    return Ok(false);
                }
                thrift.fields(|_, id, kind| {
                    node.unsigned |= (id, kind) == (2, FALSE);
                    Ok(matches!(kind, TRUE | FALSE))
                })?;
                Ok(true)
            })?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(node)
}

/// Numbers of the format's `ConvertedType`.
mod converted {
    pub(super) const UTF8: i64 = 0;
    pub(super) const MAP: i64 = 1;
    pub(super) const MAP_KEY_VALUE: i64 = 2;
    pub(super) const ENUM: i64 = 4;
    pub(super) const DECIMAL: i64 = 5;
    pub(super) const DATE: i64 = 6;
    pub(super) const TIMES: std::ops::RangeInclusive<i64> = 7..=10;
    pub(super) const UNSIGNED: std::ops::RangeInclusive<i64> = 11..=14;
    pub(super) const JSON: i64 = 19;
    pub(super) const INTERVAL: i64 = 21;
}

/// Numbers of the members of the format's `LogicalType`.
mod logical {
    pub(super) const STRING: i64 = 1;
    pub(super) const MAP: i64 = 2;
    pub(super) const ENUM: i64 = 4;
    pub(super) const DECIMAL: i64 = 5;
    pub(super) const DATE: i64 = 6;
    pub(super) const TIMES: std::ops::RangeInclusive<i64> = 7..=8;
    pub(super) const INTEGER: i64 = 10;
    pub(super) const JSON: i64 = 12;
}

impl Node {
    /// Takes the descendants of the node from the nodes that follow it.
    fn with_children(
        mut self,
        rest: &mut impl Iterator<Item = Self>,
        depth: usize,
    ) -> Result<Self, TableError> {
        if depth > DEEPEST {
            return Err(TableError::unsupported("its columns are nested too deeply"));
        }
        for _ in 0..self.num_children {
            let child = rest.next().ok_or(TableError::damaged("its schema has loose ends"))?;
            self.children.push(child.with_children(rest, depth + 1)?);
        }
        Ok(self)
    }

    /// The node as a column, with this first leaf.
    fn field(&self, leaf: usize) -> Field {
        let mut field = self.member(leaf, 0, self.name.clone());
        if field.column_type == ColumnType::Struct {
            let (mut leaf, level) = (leaf, i16::from(self.repetition != 0));
            for child in &self.children {
                field.members.push(child.member(leaf, level, format!("{}.{}", self.name, child.name)));
                leaf += child.leaves();
            }
        }
        field
    }

    /// The node under this name. `level` is the definition level of its parent.
    fn member(&self, leaf: usize, level: i16, name: String) -> Field {
        let (column_type, element_level) = (self.column_type(), self.element_level(level));
        Field { name, column_type, leaf, element_level, members: Vec::new() }
    }

    fn leaves(&self) -> usize {
        if self.children.is_empty() { 1 } else { self.children.iter().map(Self::leaves).sum() }
    }

    /// The smallest definition level at which a list has an element, given the level of the parent.
    fn element_level(&self, level: i16) -> i16 {
        let level = level + i16::from(self.repetition != 0);
        match self.children.first() {
            Some(child) if self.repetition != REPEATED => child.element_level(level),
            _ => level,
        }
    }

    fn column_type(&self) -> ColumnType {
        let is_map = matches!(self.converted, Some(converted::MAP | converted::MAP_KEY_VALUE))
            || self.logical == Some(logical::MAP);
        let column_type = match self.children.as_slice() {
            [] => self.primitive(),
            _ if is_map => ColumnType::Other("map"),
            [only] if only.repetition == REPEATED => return ColumnType::List(Box::new(only.element())),
            _ => ColumnType::Struct,
        };
        if self.repetition == REPEATED { ColumnType::List(Box::new(column_type)) } else { column_type }
    }

    /// The element type of a list of which this is the repeated node.
    fn element(&self) -> ColumnType {
        match self.children.as_slice() {
            [] => self.primitive(),
            [only] => only.column_type(),
            _ => ColumnType::Struct,
        }
    }

    fn primitive(&self) -> ColumnType {
        let either = |converted, logical| self.converted == Some(converted) || self.logical == Some(logical);
        let times = self.converted.is_some_and(|c| converted::TIMES.contains(&c))
            || self.logical.is_some_and(|l| logical::TIMES.contains(&l));
        if either(converted::DECIMAL, logical::DECIMAL) {
            return ColumnType::Other("decimal");
        }
        if either(converted::DATE, logical::DATE) {
            return ColumnType::Other("date");
        }
        if times || self.converted == Some(converted::INTERVAL) {
            return ColumnType::Other("time");
        }
        match self.physical {
            Some(0) => ColumnType::Boolean,
            Some(1 | 2) => {
                let unsigned = self.converted.is_some_and(|c| converted::UNSIGNED.contains(&c));
                ColumnType::Integer { unsigned: unsigned || self.unsigned }
            }
            Some(3) => ColumnType::Other("time"),
            Some(4 | 5) => ColumnType::Float,
            Some(6) if self.is_text() => ColumnType::Text,
            Some(6 | 7) => ColumnType::Other("binary"),
            // A group without children.
            _ => ColumnType::Struct,
        }
    }

    /// Whether bytes are text, or possibly text because no type is given.
    fn is_text(&self) -> bool {
        matches!(self.converted, None | Some(converted::UTF8 | converted::ENUM | converted::JSON))
            && matches!(self.logical, None | Some(logical::STRING | logical::ENUM | logical::JSON))
    }

    /// The node for the library, as far as decoding needs it.
    fn for_library(&self) -> Result<Arc<Type>, TableError> {
        let repetition = match self.repetition {
            0 => Repetition::REQUIRED,
            1 => Repetition::OPTIONAL,
            REPEATED => Repetition::REPEATED,
            _ => return Err(TableError::damaged("a column of its schema has an unknown repetition")),
        };
        if !self.children.is_empty() {
            let children: Result<_, _> = self.children.iter().map(Self::for_library).collect();
            let group = Type::group_type_builder(&self.name).with_repetition(repetition);
            return Ok(Arc::new(group.with_fields(children?).build()?));
        }
        let physical = match self.physical {
            Some(0) => Physical::BOOLEAN,
            Some(1) => Physical::INT32,
            Some(2) => Physical::INT64,
            Some(3) => Physical::INT96,
            Some(4) => Physical::FLOAT,
            Some(5) => Physical::DOUBLE,
            Some(6) => Physical::BYTE_ARRAY,
            Some(7) => Physical::FIXED_LEN_BYTE_ARRAY,
            _ => return Err(TableError::damaged("a column of its schema has an unknown type")),
        };
        let length = i32::try_from(self.length).unwrap_or(-1);
        let column = Type::primitive_type_builder(&self.name, physical).with_repetition(repetition);
        Ok(Arc::new(column.with_length(length).build()?))
    }
}
