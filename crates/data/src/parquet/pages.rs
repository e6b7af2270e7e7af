//! Bounded pages, decompressed and checked before the library decodes them.
//!
//! The library decompresses pages to any size and reserves as many values as a page announces. So it gets
//! column chunks that are declared uncompressed, with pages of at most [`LARGEST`] bytes and [`MOST_VALUES`]
//! values.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescPtr;

use super::delta;

/// The largest accepted page in bytes; usual pages have about a megabyte. Also exceeds the longest accepted value.
pub(super) const LARGEST: usize = 64 << 20;

/// The largest number of values in a page, and in all pages of one row.
const MOST_VALUES: usize = 1 << 22;

/// The largest decoded size in bytes of lists whose elements share prefixes.
const LARGEST_SHARED: u64 = 256 << 20;

/// A file from which at most [`LARGEST`] bytes are read at a time.
#[derive(Debug)]
pub(super) struct Bounded<R>(pub(super) R);

impl<R: ChunkReader> Length for Bounded<R> {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl<R: ChunkReader> ChunkReader for Bounded<R> {
    type T = R::T;

    fn get_read(&self, start: u64) -> Result<R::T> {
        self.0.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let size = self.len();
        if start.checked_add(length as u64).is_none_or(|end| end > size) {
            return Err(general("a part of it lies outside of the file"));
        }
        if length > LARGEST {
            return Err(too_large());
        }
        self.0.get_bytes(start, length)
    }
}

/// The pages of a column of a row group.
pub(super) struct Pages<R: ChunkReader> {
    /// Reads pages as stored.
    pub(super) packed: SerializedPageReader<Bounded<R>>,
    pub(super) codec: Compression,
    pub(super) column: ColumnDescPtr,
    /// The number of values in the pages read for the current row.
    pub(super) values: Arc<AtomicUsize>,
}

impl<R: ChunkReader + 'static> Iterator for Pages<R> {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl<R: ChunkReader + 'static> PageReader for Pages<R> {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let Some(page) = self.packed.get_next_page()? else { return Ok(None) };
        let page = self.decompressed(page)?;
        self.check(&page)?;
        Ok(Some(page))
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.packed.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.packed.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.packed.at_record_boundary()
    }
}

impl<R: ChunkReader> Pages<R> {
    fn decompressed(&self, mut page: Page) -> Result<Page> {
        match &mut page {
            Page::DictionaryPage { buf, .. } | Page::DataPage { buf, .. } => {
                *buf = decompress(self.codec, buf)?
            }
            Page::DataPageV2 { is_compressed: false, .. } => {}
            Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
                // Levels are never compressed.
                let levels = *def_levels_byte_len as usize + *rep_levels_byte_len as usize;
                if levels > buf.len() {
                    return Err(general("the levels of a page are longer than the page"));
                }
                let values = decompress(self.codec, &buf.slice(levels..))?;
                *buf = [&buf[..levels], &values].concat().into();
            }
        }
        Ok(page)
    }

    fn check(&self, page: &Page) -> Result<()> {
        let values = page.num_values() as usize;
        if let Page::DictionaryPage { buf, .. } = page {
            // Every value takes at least a byte.
            if values > MOST_VALUES || values > buf.len() {
                return Err(general("a dictionary holds fewer values than it says"));
            }
            return Ok(());
        }
        let before = self.values.fetch_add(values, Ordering::Relaxed);
        if before.saturating_add(values) > MOST_VALUES {
            let what = format!("it has a page or a row of more than {MOST_VALUES} values");
            return Err(ParquetError::NYI(what));
        }
        match page.encoding() {
            Encoding::DELTA_LENGTH_BYTE_ARRAY => {
                delta::measure(self.values_of(page)?, values).ok_or_else(wrong_lengths).map(drop)
            }
            Encoding::DELTA_BYTE_ARRAY => self.check_shared(self.values_of(page)?, values),
            _ => Ok(()),
        }
    }

    /// Checks texts encoded as the length of the prefix shared with the previous text, and a suffix.
    fn check_shared(&self, bytes: &[u8], values: usize) -> Result<()> {
        let (kept, end) = delta::measure(bytes, values).ok_or_else(wrong_lengths)?;
        let rest = bytes.get(end..).ok_or_else(wrong_lengths)?;
        let (added, _) = delta::measure(rest, values).ok_or_else(wrong_lengths)?;
        // Other columns have one text per row, which is at most as long as the page.
        if self.column.max_rep_level() > 0 && kept.saturating_add(added) > LARGEST_SHARED {
            let what = format!("it has lists that take more than {LARGEST_SHARED} bytes");
            return Err(ParquetError::NYI(what));
        }
        Ok(())
    }

    /// The part of a page that follows its levels.
    fn values_of<'p>(&self, page: &'p Page) -> Result<&'p [u8]> {
        let short = || general("the levels of a page are longer than the page");
        match page {
            Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
                let levels = *def_levels_byte_len as usize + *rep_levels_byte_len as usize;
                buf.get(levels..).ok_or_else(short)
            }
            page => {
                let mut bytes: &[u8] = page.buffer();
                for most in [self.column.max_rep_level(), self.column.max_def_level()] {
                    if most > 0 {
                        let (length, rest) = bytes.split_first_chunk().ok_or_else(short)?;
                        bytes = rest.get(u32::from_le_bytes(*length) as usize..).ok_or_else(short)?;
                    }
                }
                Ok(bytes)
            }
        }
    }
}

/// Decompresses at most [`LARGEST`] bytes.
fn decompress(codec: Compression, packed: &Bytes) -> Result<Bytes> {
    // A page without values may have no bytes at all, which no codec accepts.
    if packed.is_empty() {
        return Ok(packed.clone());
    }
    let bytes = match codec {
        Compression::UNCOMPRESSED => return Ok(packed.clone()),
        Compression::SNAPPY => {
            let size = snap::raw::decompress_len(packed).map_err(|_| wrong_bytes())?;
            if size > LARGEST {
                return Err(too_large());
            }
            snap::raw::Decoder::new().decompress_vec(packed).map_err(|_| wrong_bytes())?
        }
        Compression::GZIP(_) => read_all(flate2::read::MultiGzDecoder::new(&packed[..]))?,
        Compression::BROTLI(_) => read_all(brotli_decompressor::Decompressor::new(&packed[..], 4096))?,
        Compression::ZSTD(_) => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(&packed[..]);
            read_all(decoder.map_err(|_| wrong_bytes())?)?
        }
        Compression::LZ4_RAW => lz4_block(packed)?,
        Compression::LZ4 => lz4(packed)?,
        other => return Err(ParquetError::NYI(format!("it is compressed with {other}"))),
    };
    Ok(bytes.into())
}

fn read_all(decoder: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    decoder.take(LARGEST as u64 + 1).read_to_end(&mut bytes).map_err(|_| wrong_bytes())?;
    if bytes.len() > LARGEST { Err(too_large()) } else { Ok(bytes) }
}

/// The deprecated LZ4 codec, whose framing was unspecified: Hadoop blocks, a frame, or one block.
fn lz4(packed: &[u8]) -> Result<Vec<u8>> {
    if let Some(bytes) = hadoop(packed) {
        return Ok(bytes);
    }
    match read_all(lz4_flex::frame::FrameDecoder::new(packed)) {
        Ok(bytes) => Ok(bytes),
        Err(_) => lz4_block(packed),
    }
}

/// Hadoop blocks, each preceded by its decompressed and compressed size.
fn hadoop(mut packed: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while !packed.is_empty() {
        let (unpacked_size, rest) = packed.split_first_chunk()?;
        let (size, rest) = rest.split_first_chunk()?;
        let (block, rest) = rest.split_at_checked(u32::from_be_bytes(*size) as usize)?;
        let block = lz4_block(block).ok()?;
        if block.len() != u32::from_be_bytes(*unpacked_size) as usize || bytes.len() + block.len() > LARGEST {
            return None;
        }
        bytes.extend(block);
        packed = rest;
    }
    Some(bytes)
}

/// One block, which does not store its decompressed size.
fn lz4_block(packed: &[u8]) -> Result<Vec<u8>> {
    /// The largest expansion of a byte of a block.
    const MAX_EXPANSION: usize = 255;
    let mut bytes = vec![0; packed.len().saturating_mul(MAX_EXPANSION).min(LARGEST)];
    let size = lz4_flex::block::decompress_into(packed, &mut bytes).map_err(|_| wrong_bytes())?;
    bytes.truncate(size);
    Ok(bytes)
}

fn general(what: &str) -> ParquetError {
    ParquetError::General(what.to_owned())
}

fn wrong_bytes() -> ParquetError {
    general("the compressed bytes of a page are wrong")
}

fn wrong_lengths() -> ParquetError {
    general("the lengths of the texts of a page are wrong")
}

fn too_large() -> ParquetError {
    ParquetError::NYI(format!("it has a page of more than {LARGEST} bytes"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Bytes that expand to more than the largest page.
    #[test]
    fn decompression_bombs_are_refused() {
        let zeros = vec![0; 1 << 20];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        (0..=LARGEST >> 20).for_each(|_| gzip.write_all(&zeros).unwrap());
        let gzip = gzip.finish().unwrap();
        assert!(gzip.len() < 1 << 20);
        let refused = |codec, bytes: Vec<u8>| match decompress(codec, &bytes.into()) {
            Err(ParquetError::NYI(what)) => assert!(what.contains("more than 67108864 bytes"), "{what}"),
            other => panic!("{other:?}"),
        };
        refused(Compression::GZIP(Default::default()), gzip);
        // Snappy starts with the decompressed size, here 4 GiB - 1.
        refused(Compression::SNAPPY, vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
    }

    #[test]
    fn deprecated_lz4_framings_are_read() {
        let text = b"as it was before the format said how, as it was before".repeat(9);
        let block = lz4_flex::block::compress(&text);
        let sizes = [(text.len() as u32).to_be_bytes(), (block.len() as u32).to_be_bytes()].concat();
        let mut frame = lz4_flex::frame::FrameEncoder::new(Vec::new());
        frame.write_all(&text).unwrap();
        let twice = [&sizes[..], &block, &sizes, &block].concat();
        assert_eq!(lz4(&twice).unwrap(), text.repeat(2));
        for bytes in [[&sizes[..], &block].concat(), frame.finish().unwrap(), block] {
            assert_eq!(lz4(&bytes).unwrap(), text);
        }
    }
}
