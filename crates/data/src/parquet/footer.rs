//! The end of a Parquet file: which columns there are and where they lie.

use std::io::{Read, Seek, SeekFrom};

use super::Fault;
use super::thrift::{BINARY, I32, I64, LIST, STRUCT, Thrift};

const MAGIC: &[u8; 4] = b"PAR1";

/// Footers are some kilobytes; those of files with very many columns are some megabytes.
const LONGEST: u64 = 16 << 20;

/// Columns that lie deeper than this in one another are not read.
const DEEPEST: usize = 16;

/// The types of values that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Physical {
    Int32,
    Int64,
    Bytes,
}

/// A column of values that a row has one of, or a list of.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    /// The name of the field of the row.
    pub(super) name: String,
    pub(super) physical: Physical,
    /// The definition level of a value that is there.
    pub(super) full: u32,
    /// For lists: the definition level from which on there is an element.
    pub(super) listed: Option<u32>,
    /// The number of the column among all columns of values.
    index: usize,
}

/// Where the values of a column lie in a row group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    pub(super) codec: i64,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// A row group: its number of rows, and its chunks in the order of the leaves.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) rows: u64,
    pub(super) chunks: Vec<Chunk>,
}

#[derive(Debug)]
pub(super) struct Footer {
    pub(super) leaves: Vec<Leaf>,
    pub(super) groups: Vec<Group>,
}

impl Footer {
    /// Reads the footer of a file, as far as the fields with the given names need it.
    pub(super) fn read(source: &mut (impl Read + Seek), names: &[&str]) -> Result<Self, Fault> {
        let size = source.seek(SeekFrom::End(0))?;
        if size < 12 {
            return Err(Fault::damaged("it is shorter than an empty one"));
        }
        let mut tail = [0; 8];
        source.seek(SeekFrom::Start(size - 8))?;
        source.read_exact(&mut tail)?;
        let [a, b, c, d, magic @ ..] = tail;
        if &magic != MAGIC {
            return Err(Fault::damaged("it does not end with PAR1"));
        }
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        if length > LONGEST.min(size - 12) {
            return Err(Fault::damaged("its footer is longer than it can be"));
        }
        let start = size - 8 - length;
        source.seek(SeekFrom::Start(start))?;
        let mut bytes = vec![0; length as usize];
        source.read_exact(&mut bytes)?;
        parse(&bytes, names, start)
    }
}

fn parse(bytes: &[u8], names: &[&str], end: u64) -> Result<Footer, Fault> {
    let (mut schema, mut leaves, mut groups) = (Vec::new(), None, Vec::new());
    Thrift::new(bytes).fields(|thrift, id, kind| {
        match (id, kind) {
            (2, LIST) => thrift.structs(|thrift| element(thrift).map(|element| schema.push(element)))?,
            (4, LIST) => {
                let leaves = match &leaves {
                    Some(leaves) => leaves,
                    None => leaves.insert(select(&schema, names)?),
                };
                thrift.structs(|thrift| group(thrift, leaves, end).map(|group| groups.push(group)))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let leaves = match leaves {
        Some(leaves) => leaves,
        None => select(&schema, names)?,
    };
    Ok(Footer { leaves, groups })
}

/// A node of the tree of columns; the tree is written down from the top, parents first.
#[derive(Debug, Default)]
struct Element {
    name: String,
    physical: Option<i64>,
    repetition: i64,
    children: i64,
}

const OPTIONAL: i64 = 1;
const REPEATED: i64 = 2;

fn element(thrift: &mut Thrift<'_>) -> Result<Element, Fault> {
    let mut element = Element::default();
    thrift.fields(|thrift, id, kind| {
        match (id, kind) {
            (1, I32) => element.physical = Some(thrift.int()?),
            (3, I32) => element.repetition = thrift.int()?,
            (4, BINARY) => element.name = String::from_utf8_lossy(thrift.binary()?).into_owned(),
            (5, I32) => element.children = thrift.int()?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(element)
}

/// A node whose children are being walked through.
struct Open {
    children_left: i64,
    full: u32,
    listed: Option<u32>,
    lists: u32,
}

/// The columns of the fields that are asked for. Of a field that is a list of structures, the first
/// column stands for all, which is enough to count its elements.
fn select(schema: &[Element], names: &[&str]) -> Result<Vec<Leaf>, Fault> {
    let (root, nodes) = schema.split_first().ok_or(Fault::damaged("it has no schema"))?;
    let mut path = vec![Open { children_left: root.children, full: 0, listed: None, lists: 0 }];
    let (mut leaves, mut index, mut field) = (Vec::<Leaf>::new(), 0, "");
    for node in nodes {
        while path.last().is_some_and(|open| open.children_left <= 0) {
            path.pop();
        }
        let depth = path.len();
        let parent = path.last_mut().ok_or(Fault::damaged("its schema has loose ends"))?;
        parent.children_left -= 1;
        if depth == 1 {
            field = &node.name;
        }
        let (mut full, mut listed, mut lists) = (parent.full, parent.listed, parent.lists);
        full += u32::from(node.repetition == OPTIONAL || node.repetition == REPEATED);
        if node.repetition == REPEATED {
            (listed, lists) = (Some(full), lists + 1);
        }
        if node.children > 0 {
            if depth >= DEEPEST {
                return Err(Fault::unsupported("its columns are nested too deeply".to_owned()));
            }
            path.push(Open { children_left: node.children, full, listed, lists });
            continue;
        }
        let plain = depth == 1 || lists == 1;
        if plain && lists <= 1 && names.contains(&field) && leaves.iter().all(|leaf| leaf.name != field) {
            let physical = physical(node, field)?;
            leaves.push(Leaf { name: field.to_owned(), physical, full, listed, index });
        }
        index += 1;
    }
    Ok(leaves)
}

fn physical(node: &Element, field: &str) -> Result<Physical, Fault> {
    let other = match node.physical {
        Some(1) => return Ok(Physical::Int32),
        Some(2) => return Ok(Physical::Int64),
        Some(6) => return Ok(Physical::Bytes),
        Some(0) => "truth values",
        Some(3) => "96-bit numbers",
        Some(4 | 5) => "floating-point numbers",
        Some(7) => "byte strings of a fixed length",
        _ => return Err(Fault::damaged("a column is of no known type")),
    };
    Err(Fault::unsupported(format!("its column {field:?} holds {other}, not text or whole numbers")))
}

fn group(thrift: &mut Thrift<'_>, leaves: &[Leaf], end: u64) -> Result<Group, Fault> {
    let (mut found, mut rows) = (vec![None; leaves.len()], 0);
    thrift.fields(|thrift, id, kind| {
        match (id, kind) {
            (1, LIST) => {
                let mut index = 0;
                thrift.structs(|thrift| {
                    let chunk = chunk(thrift, end)?;
                    if let Some(leaf) = leaves.iter().position(|leaf| leaf.index == index) {
                        found[leaf] = Some(chunk?);
                    }
                    index += 1;
                    Ok(())
                })?;
            }
            (3, I64) => rows = thrift.int()?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let rows = u64::try_from(rows).map_err(|_| Fault::damaged("a number of rows is negative"))?;
    let chunks: Option<Vec<Chunk>> = found.into_iter().collect();
    let chunks = chunks.ok_or(Fault::damaged("a row group lacks a column"))?;
    Ok(Group { rows, chunks })
}

/// The outer result is whether the bytes could be read, the inner one whether what they say is possible,
/// which matters only if the column is wanted.
fn chunk(thrift: &mut Thrift<'_>, end: u64) -> Result<Result<Chunk, Fault>, Fault> {
    let mut elsewhere = false;
    let (mut codec, mut size, mut data, mut dictionary) = (0, -1, -1, 0);
    thrift.fields(|thrift, id, kind| {
        match (id, kind) {
            (1, BINARY) => elsewhere = !thrift.binary()?.is_empty(),
            (3, STRUCT) => thrift.fields(|thrift, id, kind| {
                let value = match (id, kind) {
                    (4, I32) => &mut codec,
                    (7, I64) => &mut size,
                    (9, I64) => &mut data,
                    (11, I64) => &mut dictionary,
                    _ => return Ok(false),
                };
                *value = thrift.int()?;
                Ok(true)
            })?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    if elsewhere {
        return Ok(Err(Fault::unsupported("it keeps columns in other files".to_owned())));
    }
    // Some writers leave the place of the dictionary out or give 0, which is that of the magic bytes.
    let start = if (1..data).contains(&dictionary) { dictionary } else { data };
    let range = u64::try_from(start).ok().zip(u64::try_from(size).ok());
    let range = range.and_then(|(start, size)| Some((start, start.checked_add(size)?)));
    Ok(match range {
        Some((start, stop)) if stop <= end => Ok(Chunk { codec, start, end: stop }),
        _ => Err(Fault::damaged("a column lies outside of the file")),
    })
}
