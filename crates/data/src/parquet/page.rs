//! Pages: their headers, and their bytes unpacked.

use std::io::{Read, Seek, SeekFrom};

use super::Fault;
use super::footer::Chunk;
use super::thrift::{FALSE, I32, STRUCT, TRUE, Thrift};

/// Pages are about a megabyte large as a rule. This is also more than the longest value that is read.
const LARGEST: i64 = 64 << 20;

/// Headers are some dozen bytes and may hold the smallest and the greatest value of the page.
const LONGEST_HEADER: u64 = 1 << 20;

/// What the header of a page says.
#[derive(Debug, Clone, Copy, Default)]
struct Header {
    kind: i64,
    unpacked: i64,
    packed: i64,
    values: i64,
    encoding: i64,
    /// The encodings of the levels of a page of the first version.
    level_encodings: [i64; 2],
    /// The lengths of the levels of a page of the second version: repetition, definition.
    level_lengths: [i64; 2],
    /// Whether the values of a page of the second version are not compressed after all.
    raw: bool,
}

/// A page whose bytes have been unpacked.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) bytes: Vec<u8>,
    pub(super) values: u64,
    pub(super) encoding: i64,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Dictionary,
    /// Levels stand in front of the values, each with its length.
    First,
    /// Levels of these lengths stand in front of the values.
    Second {
        repetition: usize,
        definition: usize,
    },
}

/// The encoding of levels as runs and packed bits.
const RLE: i64 = 3;

/// Reads the next page that matters and moves the start of the chunk behind it; `None` at its end.
pub(super) fn next(source: &mut (impl Read + Seek), chunk: &mut Chunk) -> Result<Option<Page>, Fault> {
    loop {
        if chunk.start >= chunk.end {
            return Ok(None);
        }
        let left = chunk.end - chunk.start;
        source.seek(SeekFrom::Start(chunk.start))?;
        let mut bytes = Vec::new();
        source.by_ref().take(left.min(LONGEST_HEADER)).read_to_end(&mut bytes)?;
        let (header, length) = header(&bytes)?;
        let size = u64::try_from(header.packed).map_err(|_| Fault::damaged("a page has a negative size"))?;
        if size > left - length as u64 {
            return Err(Fault::damaged("a page is longer than its column"));
        }
        if !(0..=LARGEST).contains(&header.unpacked) || header.packed > LARGEST {
            return Err(Fault::unsupported(format!("it has a page of more than {LARGEST} bytes")));
        }
        source.seek(SeekFrom::Start(chunk.start + length as u64))?;
        chunk.start += length as u64 + size;
        if matches!(header.kind, DATA | DICTIONARY | DATA_2) {
            let mut packed = vec![0; size as usize];
            source.read_exact(&mut packed)?;
            return page(header, packed, chunk.codec).map(Some);
        }
    }
}

const DATA: i64 = 0;
const DICTIONARY: i64 = 2;
const DATA_2: i64 = 3;

/// The header at the start of the bytes, and its length.
fn header(bytes: &[u8]) -> Result<(Header, usize), Fault> {
    let mut thrift = Thrift::new(bytes);
    let mut header = Header::default();
    thrift.fields(|thrift, id, kind| {
        match (id, kind) {
            (1, I32) => header.kind = thrift.int()?,
            (2, I32) => header.unpacked = thrift.int()?,
            (3, I32) => header.packed = thrift.int()?,
            (5 | 7 | 8, STRUCT) => thrift.fields(|thrift, inner, kind| {
                let value = match (id, inner, kind) {
                    (_, 1, I32) => &mut header.values,
                    (5 | 7, 2, I32) | (8, 4, I32) => &mut header.encoding,
                    (5, 3, I32) => &mut header.level_encodings[0],
                    (5, 4, I32) => &mut header.level_encodings[1],
                    (8, 5, I32) => &mut header.level_lengths[1],
                    (8, 6, I32) => &mut header.level_lengths[0],
                    (8, 7, TRUE | FALSE) => {
                        header.raw = kind == FALSE;
                        return Ok(true);
                    }
                    _ => return Ok(false),
                };
                *value = thrift.int()?;
                Ok(true)
            })?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok((header, thrift.position()))
}

fn page(header: Header, packed: Vec<u8>, codec: i64) -> Result<Page, Fault> {
    let size = header.unpacked as usize;
    let (kind, bytes) = match header.kind {
        DICTIONARY => (Kind::Dictionary, unpack(codec, packed, size)?),
        DATA => {
            if header.level_encodings.iter().any(|encoding| *encoding != RLE) {
                return Err(Fault::unsupported("its levels are packed in an outdated way".to_owned()));
            }
            (Kind::First, unpack(codec, packed, size)?)
        }
        _ => {
            let wrong = Fault::damaged("the levels of a page are longer than the page");
            let [repetition, definition] = header.level_lengths.map(|n| usize::try_from(n).ok());
            let (Some(repetition), Some(definition)) = (repetition, definition) else { return Err(wrong) };
            let levels = repetition + definition;
            if levels > packed.len().min(size) {
                return Err(wrong);
            }
            let mut bytes = packed;
            let values = bytes.split_off(levels);
            bytes.append(&mut unpack(if header.raw { 0 } else { codec }, values, size - levels)?);
            (Kind::Second { repetition, definition }, bytes)
        }
    };
    let values = u64::try_from(header.values).map_err(|_| Fault::damaged("a page has a negative length"))?;
    Ok(Page { bytes, values, encoding: header.encoding, kind })
}

/// Unpacks bytes that must give `size` bytes, which the caller has bounded.
fn unpack(codec: i64, packed: Vec<u8>, size: usize) -> Result<Vec<u8>, Fault> {
    let wrong = || Fault::damaged("the compressed bytes of a page are wrong");
    let bytes = match codec {
        0 => packed,
        // A page without values may be written as no bytes at all, which no compression knows.
        _ if packed.is_empty() && size == 0 => packed,
        1 => {
            if snap::raw::decompress_len(&packed).ok() != Some(size) {
                return Err(wrong());
            }
            snap::raw::Decoder::new().decompress_vec(&packed).map_err(|_| wrong())?
        }
        2 => at_most(flate2::read::MultiGzDecoder::new(packed.as_slice()), size).ok_or_else(wrong)?,
        6 => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(packed.as_slice()).map_err(|_| wrong())?;
            at_most(decoder, size).ok_or_else(wrong)?
        }
        other => {
            let name = match other {
                3 => "LZO",
                4 => "Brotli",
                5 | 7 => "LZ4",
                _ => "an unknown method",
            };
            return Err(Fault::unsupported(format!("it is compressed with {name}")));
        }
    };
    if bytes.len() == size { Ok(bytes) } else { Err(wrong()) }
}

fn at_most(decoder: impl Read, size: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    decoder.take(size as u64 + 1).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
