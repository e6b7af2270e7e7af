//! Thrift's compact protocol, as far as the headers of Parquet files need it.

use super::Fault;

pub(super) const TRUE: u8 = 1;
pub(super) const FALSE: u8 = 2;
pub(super) const I32: u8 = 5;
pub(super) const I64: u8 = 6;
pub(super) const BINARY: u8 = 8;
pub(super) const LIST: u8 = 9;
pub(super) const STRUCT: u8 = 12;

/// Structures that lie deeper than this in one another are in no header of Parquet.
const DEEPEST: u8 = 24;

/// A cursor over bytes. Every step either takes a byte or fails, so that no count found in a file can
/// make it work longer than the file is.
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

    /// How many bytes have been read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        let byte = *self.bytes.get(self.at).ok_or(Fault::damaged("a header ends too early"))?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Fault::damaged("a number in a header is too long"))
    }

    /// A whole number of 16, 32 or 64 bits.
    pub(super) fn int(&mut self) -> Result<i64, Fault> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub(super) fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.varint()?;
        let rest = &self.bytes[self.at..];
        let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
        let length = length.ok_or(Fault::damaged("a text in a header is longer than the header"))?;
        self.at += length;
        Ok(&rest[..length])
    }

    /// The kind and the number of the elements that follow.
    fn list(&mut self) -> Result<(u8, u64), Fault> {
        let byte = self.byte()?;
        let size = match byte >> 4 {
            15 => self.varint()?,
            size => u64::from(size),
        };
        Ok((byte & 15, size))
    }

    /// Reads a list of structures, each of them with `read`.
    pub(super) fn structs(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let (kind, size) = self.list()?;
        if size > 0 && kind != STRUCT {
            return Err(Fault::damaged("a list in a header holds something else than structures"));
        }
        (0..size).try_for_each(|_| read(self))
    }

    /// Reads a structure. `visit` is told the number and the kind of each field and says whether it has
    /// read it; what it has not read is passed over.
    pub(super) fn fields(
        &mut self,
        mut visit: impl FnMut(&mut Self, i64, u8) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
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
                self.pass(kind)?;
            }
        }
    }

    fn deeper(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(Fault::damaged("a header is nested too deeply"));
        }
        Ok(())
    }

    /// Passes over the value of a field.
    fn pass(&mut self, kind: u8) -> Result<(), Fault> {
        match kind {
            TRUE | FALSE => Ok(()),
            3 => self.byte().map(drop),
            4 | I32 | I64 => self.varint().map(drop),
            7 => (0..8).try_for_each(|_| self.byte().map(drop)),
            BINARY => self.binary().map(drop),
            LIST | 10 => {
                let (kind, size) = self.list()?;
                self.deeper()?;
                (0..size).try_for_each(|_| self.pass_element(kind))?;
                self.depth -= 1;
                Ok(())
            }
            11 => {
                let size = self.varint()?;
                let kinds = if size == 0 { 0 } else { self.byte()? };
                self.deeper()?;
                for _ in 0..size {
                    self.pass_element(kinds >> 4)?;
                    self.pass_element(kinds & 15)?;
                }
                self.depth -= 1;
                Ok(())
            }
            STRUCT => self.fields(|_, _, _| Ok(false)),
            _ => Err(Fault::damaged("a header holds a field of no known kind")),
        }
    }

    /// Elements differ from fields in that truth values take a byte.
    fn pass_element(&mut self, kind: u8) -> Result<(), Fault> {
        match kind {
            TRUE | FALSE => self.byte().map(drop),
            kind => self.pass(kind),
        }
    }
}
