//! The values of a column of a row group, row by row.

use std::io::{Read, Seek};

use serde_json::Value;

use super::Fault;
use super::footer::{Chunk, Leaf, Physical};
use super::levels::Levels;
use super::page::{self, Kind, Page};

/// What an element of a list takes in memory beside its text, rounded up: it counts towards the
/// greatest size of a field, because elements that are null take next to no room in a file.
const ELEMENT: usize = 64;

#[derive(Debug)]
pub(super) struct Column {
    chunk: Chunk,
    dictionary: Option<Dictionary>,
    page: Option<Open>,
    /// The repetition level of the next value, once it had to be looked at.
    peeked: Option<u32>,
}

/// A page of data that is being read.
#[derive(Debug)]
struct Open {
    bytes: Vec<u8>,
    /// How many values, present or not, have not been begun.
    left: u64,
    repetition: Levels,
    definition: Levels,
    values: Values,
}

#[derive(Debug)]
enum Values {
    /// The values stand one after another, the next one at this byte.
    Plain(usize),
    /// The values are places in the dictionary.
    Places(Levels),
}

/// The values that pages of a chunk refer to.
#[derive(Debug)]
struct Dictionary {
    bytes: Vec<u8>,
    /// The first byte of each value.
    starts: Vec<u32>,
}

impl Column {
    pub(super) fn new(chunk: Chunk) -> Self {
        Self { chunk, dictionary: None, page: None, peeked: None }
    }

    /// The value of the next row: a string, a number, a list of them, or null.
    pub(super) fn value(
        &mut self,
        source: &mut (impl Read + Seek),
        leaf: &Leaf,
        longest: usize,
    ) -> Result<Value, Fault> {
        let too_long = || {
            let name = &leaf.name;
            Fault::unsupported(format!("its column {name:?} holds a value of more than {longest} bytes"))
        };
        if self.peek(source, leaf)? != Some(0) {
            return Err(Fault::damaged("a column holds fewer rows than the others"));
        }
        let (definition, value) = self.take(leaf, longest)?;
        let Some(listed) = leaf.listed else { return value.ok_or_else(too_long) };
        let mut list = Vec::new();
        if definition < listed {
            return Ok(Value::Array(list));
        }
        let mut value = value;
        let mut size = 0;
        loop {
            let element = value.ok_or_else(too_long)?;
            size += ELEMENT + element.as_str().map_or(0, str::len);
            if size > longest {
                return Err(too_long());
            }
            list.push(element);
            if self.peek(source, leaf)?.unwrap_or(0) == 0 {
                return Ok(Value::Array(list));
            }
            value = self.take(leaf, longest)?.1;
        }
    }

    /// The repetition level of the next value: 0 at the start of a row; `None` at the end of the chunk.
    fn peek(&mut self, source: &mut (impl Read + Seek), leaf: &Leaf) -> Result<Option<u32>, Fault> {
        if self.peeked.is_some() {
            return Ok(self.peeked);
        }
        loop {
            if let Some(page) = &mut self.page
                && page.left > 0
            {
                page.left -= 1;
                self.peeked = Some(page.repetition.next(&page.bytes)?);
                return Ok(self.peeked);
            }
            let Some(page) = page::next(source, &mut self.chunk)? else { return Ok(None) };
            match page.kind {
                Kind::Dictionary => self.dictionary = Some(Dictionary::new(page, leaf.physical)?),
                _ => self.page = Some(Open::new(page, leaf)?),
            }
        }
    }

    /// The value whose repetition level has been looked at, with its definition level; `None` in place of
    /// a value that is too long.
    fn take(&mut self, leaf: &Leaf, longest: usize) -> Result<(u32, Option<Value>), Fault> {
        self.peeked = None;
        let page = self.page.as_mut().ok_or(Fault::damaged("a column holds no page"))?;
        let definition = page.definition.next(&page.bytes)?;
        if definition < leaf.full {
            return Ok((definition, Some(Value::Null)));
        }
        let (bytes, start) = match &mut page.values {
            Values::Plain(at) => {
                let start = *at;
                *at += width(&page.bytes[start..], leaf.physical)?;
                (&page.bytes, start)
            }
            Values::Places(places) => {
                let missing = Fault::damaged("a page refers to a value that its dictionary lacks");
                let place = places.next(&page.bytes)? as usize;
                let Some(dictionary) = &self.dictionary else { return Err(missing) };
                let start = *dictionary.starts.get(place).ok_or(missing)?;
                (&dictionary.bytes, start as usize)
            }
        };
        let value = &bytes[start..];
        let value = &value[..width(value, leaf.physical)?];
        // The length in front of a text is no part of it.
        if value.len() > longest.saturating_add(4) {
            return Ok((definition, None));
        }
        Ok((definition, Some(json(value, leaf)?)))
    }
}

/// How many bytes the value at the start of the bytes takes.
fn width(bytes: &[u8], physical: Physical) -> Result<usize, Fault> {
    let width = match physical {
        Physical::Int32 => 4,
        Physical::Int64 => 8,
        Physical::Bytes => prefix(bytes).and_then(|length| length.checked_add(4)).unwrap_or(usize::MAX),
    };
    if width > bytes.len() {
        return Err(Fault::damaged("a value ends behind its page"));
    }
    Ok(width)
}

/// The length that stands in front of bytes.
fn prefix(bytes: &[u8]) -> Option<usize> {
    Some(u32::from_le_bytes(*bytes.first_chunk()?) as usize)
}

/// A value whose bytes are as many as [`width`] says.
fn json(value: &[u8], leaf: &Leaf) -> Result<Value, Fault> {
    let short = || Fault::damaged("a value ends behind its page");
    Ok(match leaf.physical {
        Physical::Int32 => i32::from_le_bytes(*value.first_chunk().ok_or_else(short)?).into(),
        Physical::Int64 => i64::from_le_bytes(*value.first_chunk().ok_or_else(short)?).into(),
        Physical::Bytes => {
            let text = std::str::from_utf8(value.get(4..).ok_or_else(short)?);
            let name = &leaf.name;
            text.map_err(|_| {
                Fault::unsupported(format!("its column {name:?} holds bytes that are no UTF-8"))
            })?
            .into()
        }
    })
}

impl Open {
    fn new(page: Page, leaf: &Leaf) -> Result<Self, Fault> {
        let Page { bytes, values: left, encoding, kind } = page;
        let most = u32::from(leaf.listed.is_some());
        let (repetition, definition, start) = match kind {
            Kind::Second { repetition, definition } => {
                let levels = repetition + definition;
                (Levels::up_to(most, 0, repetition)?, Levels::up_to(leaf.full, repetition, levels)?, levels)
            }
            _ => {
                let (repetition, start) = levels(&bytes, 0, most)?;
                let (definition, start) = levels(&bytes, start, leaf.full)?;
                (repetition, definition, start)
            }
        };
        let values = match encoding {
            PLAIN => Values::Plain(start),
            PLAIN_DICTIONARY | RLE_DICTIONARY => Values::Places(match bytes.get(start) {
                Some(width) => Levels::new(start + 1, bytes.len(), u32::from(*width))?,
                // All values of the page are null; if they are not, reading one of them fails.
                None => Levels::new(start, start, 1)?,
            }),
            other => {
                let name = match other {
                    5 => "DELTA_BINARY_PACKED",
                    6 => "DELTA_LENGTH_BYTE_ARRAY",
                    7 => "DELTA_BYTE_ARRAY",
                    _ => "another encoding",
                };
                let column = &leaf.name;
                return Err(Fault::unsupported(format!("its column {column:?} is written in {name}")));
            }
        };
        Ok(Self { bytes, left, repetition, definition, values })
    }
}

const PLAIN: i64 = 0;
const PLAIN_DICTIONARY: i64 = 2;
const RLE_DICTIONARY: i64 = 8;

/// Levels up to `most` that stand at a byte of a page with their length in front, and where they end.
fn levels(bytes: &[u8], at: usize, most: u32) -> Result<(Levels, usize), Fault> {
    if most == 0 {
        return Ok((Levels::up_to(0, at, at)?, at));
    }
    let start = at + 4;
    let end = bytes.get(at..).and_then(prefix).and_then(|length| start.checked_add(length));
    match end {
        Some(end) if end <= bytes.len() => Ok((Levels::up_to(most, start, end)?, end)),
        _ => Err(Fault::damaged("the levels of a page are longer than the page")),
    }
}

impl Dictionary {
    fn new(page: Page, physical: Physical) -> Result<Self, Fault> {
        if !matches!(page.encoding, PLAIN | PLAIN_DICTIONARY) {
            return Err(Fault::unsupported("its dictionaries are not written plainly".to_owned()));
        }
        let (mut starts, mut at) = (Vec::new(), 0);
        for _ in 0..page.values {
            starts.push(at as u32);
            at += width(&page.bytes[at..], physical)?;
        }
        Ok(Self { bytes: page.bytes, starts })
    }
}
