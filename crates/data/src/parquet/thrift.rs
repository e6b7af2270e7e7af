//! The part of Thrift's compact protocol that Parquet schemas use.

use super::error::TableError;

pub(super) const TRUE: u8 = 1;
pub(super) const FALSE: u8 = 2;
pub(super) const I32: u8 = 5;
pub(super) const BINARY: u8 = 8;
pub(super) const LIST: u8 = 9;
pub(super) const STRUCT: u8 = 12;

/// The deepest accepted nesting; footers of Parquet are shallower.
const DEEPEST: u8 = 24;

/// The longest accepted list; real lists of row groups and columns have some thousand elements.
const MOST_LISTED: u64 = 1 << 16;

/// A cursor over bytes. Every step consumes a byte or fails, so run time is bounded by the length of the footer,
/// whatever its counts.
#[derive(Debug)]
pub(super) struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u8,
}

impl<'a> Thrift<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: 0 }
    }

    fn byte(&mut self) -> Result<u8, TableError> {
        let byte = *self.bytes.get(self.at).ok_or(TableError::damaged("its footer ends too early"))?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, TableError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(TableError::damaged("a number in its footer is too long"))
    }

    /// An integer of 16, 32 or 64 bits.
    pub(super) fn int(&mut self) -> Result<i64, TableError> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub(super) fn binary(&mut self) -> Result<&'a [u8], TableError> {
        let length = self.varint()?;
        let rest = &self.bytes[self.at..];
        let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
        let length = length.ok_or(TableError::damaged("a text in its footer is longer than the footer"))?;
        self.at += length;
        Ok(&rest[..length])
    }

    /// The type and the number of the elements that follow.
    fn list(&mut self) -> Result<(u8, u64), TableError> {
        let byte = self.byte()?;
        let size = match byte >> 4 {
            15 => self.varint()?,
            size => u64::from(size),
        };
        if size > MOST_LISTED {
            return Err(TableError::Unsupported(format!(
                "it has more than {MOST_LISTED} columns, row groups or notes"
            )));
        }
        Ok((byte & 15, size))
    }

    /// Reads a list of structures, each of them with `read`.
    pub(super) fn structs(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        let (kind, size) = self.list()?;
        if size > 0 && kind != STRUCT {
            return Err(TableError::damaged("a list in its footer does not hold structures"));
        }
        (0..size).try_for_each(|_| read(self))
    }

    /// Reads a structure. `visit` receives the number and the type of each field and returns whether it consumed the
    /// value; other values are skipped.
    pub(super) fn fields(
        &mut self,
        mut visit: impl FnMut(&mut Self, i64, u8) -> Result<bool, TableError>,
    ) -> Result<(), TableError> {
        self.deeper()?;
        let mut id = 0i64;
        loop {
            let byte = self.byte()?;
            let kind = byte & 15;
            if kind == 0 {
                self.depth -= 1;
                return Ok(());
            }
            id = match byte >> 4 {
                0 => self.int()?,
                step => id.saturating_add(i64::from(step)),
            };
            if !visit(self, id, kind)? {
                self.skip(kind)?;
            }
        }
    }

    fn deeper(&mut self) -> Result<(), TableError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(TableError::damaged("its footer is nested too deeply"));
        }
        Ok(())
    }

    /// Skips the value of a field.
    fn skip(&mut self, kind: u8) -> Result<(), TableError> {
        match kind {
            TRUE | FALSE => Ok(()),
            3 => self.byte().map(drop),
            4 | I32 | 6 => self.varint().map(drop),
            7 => (0..8).try_for_each(|_| self.byte().map(drop)),
            BINARY => self.binary().map(drop),
            LIST | 10 => {
                let (kind, size) = self.list()?;
                self.deeper()?;
                (0..size).try_for_each(|_| self.skip_element(kind))?;
                self.depth -= 1;
                Ok(())
            }
            STRUCT => self.fields(|_, _, _| Ok(false)),
            _ => Err(TableError::damaged("its footer has a field of unknown type")),
        }
    }

    /// Unlike fields, Boolean elements take a byte.
    fn skip_element(&mut self, kind: u8) -> Result<(), TableError> {
        match kind {
            TRUE | FALSE => self.byte().map(drop),
            kind => self.skip(kind),
        }
    }
}
