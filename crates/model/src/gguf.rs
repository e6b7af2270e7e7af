//! The GGUF header: metadata and the list of tensors.
//!
//! The file is untrusted: every length is checked against the bytes in the file before anything is
//! allocated for it.

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Either float type.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    String(String),
    /// An array of strings.
    Strings(Vec<String>),
    /// An array of numbers or booleans.
    Numbers(Numbers),
}

/// Numbers or booleans, encoded as in the file. One [`Value`] each would take many times the size of the
/// file.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    kind: u32,
    width: usize,
    bytes: Vec<u8>,
}

impl Numbers {
    /// Numbers of one of GGUF's types; `None` unless `bytes` holds whole numbers.
    pub fn new(kind: u32, bytes: Vec<u8>) -> Option<Self> {
        let width = width(kind).filter(|width| bytes.len().is_multiple_of(*width))?;
        Some(Self { kind, width, bytes })
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.width
    }

    /// Whether the array is empty.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements, in order.
    pub fn iter(&self) -> impl Iterator<Item = Value> {
        self.bytes.chunks_exact(self.width).map(|raw| number(self.kind, raw))
    }
}

/// Bytes of a number or boolean of one of GGUF's types.
fn width(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Decodes a number from [`width`] bytes.
fn number(kind: u32, raw: &[u8]) -> Value {
    let mut wide = [0; 8];
    wide[..raw.len()].copy_from_slice(raw);
    let bits = u64::from_le_bytes(wide);
    match kind {
        1 => Value::Signed(i64::from(bits as i8)),
        3 => Value::Signed(i64::from(bits as i16)),
        5 => Value::Signed(i64::from(bits as i32)),
        6 => Value::Float(f64::from(f32::from_bits(bits as u32))),
        7 => Value::Bool(bits != 0),
        11 => Value::Signed(bits as i64),
        12 => Value::Float(f64::from_bits(bits)),
        _ => Value::Unsigned(bits),
    }
}

impl Value {
    /// The value as a count or index.
    pub fn as_usize(&self) -> Option<usize> {
        match self {
            Self::Unsigned(v) => usize::try_from(*v).ok(),
            Self::Signed(v) => usize::try_from(*v).ok(),
            _ => None,
        }
    }

    /// The value as a number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Unsigned(v) => Some(*v as f64),
            Self::Signed(v) => Some(*v as f64),
            Self::Float(v) => Some(*v),
            _ => None,
        }
    }

    /// The value as a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(v) => Some(*v),
            _ => None,
        }
    }

    /// The value as a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(v) => Some(v),
            _ => None,
        }
    }
}

/// The header entry of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Name.
    pub name: String,
    /// Shape, slowest axis first (the reverse of the order in the file).
    pub shape: Vec<usize>,
    /// ggml's type number.
    pub kind: u32,
    /// Offset from the start of the file.
    pub offset: usize,
}

/// The header of a GGUF file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    /// Metadata by key.
    pub metadata: HashMap<String, Value>,
    /// All tensors, in the order of the file.
    pub tensors: Vec<TensorInfo>,
    /// Where the entries of the metadata lie, in the order of the file.
    pub entries: Vec<Entry>,
}

/// Where an entry of the metadata lies in its file.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The bytes of its type and value, from the start of the file.
    pub bytes: Range<usize>,
}

impl Header {
    /// Reads the header at the start of `bytes`; `path` is for messages.
    ///
    /// # Errors
    /// When the bytes are not GGUF version 2 or 3, or end too early.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        Reader { path, bytes, at: 0 }.header()
    }

    /// The metadata value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The metadata value of a key, if it is a count.
    pub(crate) fn count(&self, key: &str) -> Option<usize> {
        self.get(key).and_then(Value::as_usize)
    }
}

struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn fail<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(Error::file(self.path, what))
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        if len > self.left() {
            return self.fail(format!(
                "the GGUF header ends early, at byte {}; fetch the file again",
                self.bytes.len()
            ));
        }
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut raw = [0; N];
        raw.copy_from_slice(self.take(N)?);
        Ok(raw)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.number()?))
    }

    /// A count of items of at least `least` bytes each.
    fn count(&mut self, least: usize, of: &str) -> Result<usize> {
        let count = self.u64()?;
        match usize::try_from(count) {
            Ok(count) if count <= self.left() / least.max(1) => Ok(count),
            _ => self.fail(format!(
                "the GGUF header announces {count} {of}, more than the file can hold; fetch the file again"
            )),
        }
    }

    fn string(&mut self) -> Result<String> {
        let len = self.count(1, "bytes of a string")?;
        let at = self.at;
        match std::str::from_utf8(self.take(len)?) {
            Ok(s) => Ok(s.to_owned()),
            Err(_) => self.fail(format!("the string at byte {at} of the GGUF header is not UTF-8")),
        }
    }

    fn header(mut self) -> Result<Header> {
        if self.bytes.len() < 4 || &self.bytes[..4] != b"GGUF" {
            return self.fail("it does not start with the letters GGUF");
        }
        self.at = 4;
        let version = self.u32()?;
        if version != 2 && version != 3 {
            return self.fail(format!(
                "GGUF version {version} is not supported (2 and 3 are, little-endian); convert the model again"
            ));
        }
        let tensor_count = self.count(24, "tensors")?;
        let metadata_count = self.count(12, "metadata entries")?;
        let (mut metadata, mut entries) = (HashMap::new(), Vec::new());
        for _ in 0..metadata_count {
            let key = self.string()?;
            let start = self.at;
            let kind = self.u32()?;
            let value = self.value(kind, &key)?;
            entries.push(Entry { key: key.clone(), bytes: start..self.at });
            metadata.insert(key, value);
        }
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(self.tensor()?);
        }
        let tensors = self.place(tensors, &metadata)?;
        Ok(Header { metadata, tensors, entries })
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value> {
        match (kind, width(kind)) {
            (_, Some(width)) => Ok(number(kind, self.take(width)?)),
            (8, _) => Ok(Value::String(self.string()?)),
            (9, _) => self.array(key),
            _ => self.fail(format!("the metadata '{key}' has the unknown type {kind}")),
        }
    }

    fn array(&mut self, key: &str) -> Result<Value> {
        let kind = self.u32()?;
        let numbers = width(kind);
        let count = self.count(numbers.unwrap_or(8), "array elements")?;
        if let Some(width) = numbers {
            let bytes = self.take(count * width)?.to_vec();
            return Ok(Value::Numbers(Numbers { kind, width, bytes }));
        }
        if kind != 8 {
            return self.fail(format!("the metadata '{key}' is an array of neither numbers nor strings"));
        }
        Ok(Value::Strings((0..count).map(|_| self.string()).collect::<Result<_>>()?))
    }

    fn tensor(&mut self) -> Result<TensorInfo> {
        let name = self.string()?;
        let rank = self.u32()?;
        if rank > 4 {
            return self.fail(format!("tensor '{name}' has {rank} dimensions; at most 4 are possible"));
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            match usize::try_from(self.u64()?) {
                Ok(d) => shape.push(d),
                Err(_) => return self.fail(format!("tensor '{name}' has an impossible shape")),
            }
        }
        shape.reverse();
        if shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).is_none_or(|n| n > 1 << 48) {
            return self.fail(format!("tensor '{name}' has the impossible shape {shape:?}"));
        }
        let kind = self.u32()?;
        let offset = self.u64()?;
        let Ok(offset) = usize::try_from(offset) else {
            return self.fail(format!("tensor '{name}' lies beyond the end of the file"));
        };
        Ok(TensorInfo { name, shape, kind, offset })
    }

    /// Turns offsets into the data section into offsets into the file.
    fn place(
        &self,
        mut tensors: Vec<TensorInfo>,
        metadata: &HashMap<String, Value>,
    ) -> Result<Vec<TensorInfo>> {
        let alignment = metadata.get("general.alignment").and_then(Value::as_usize).unwrap_or(32);
        if !alignment.is_power_of_two() || !(4..=1 << 20).contains(&alignment) {
            return self
                .fail(format!("general.alignment is {alignment}; it must be a power of two of at least 4"));
        }
        let data = self.at.next_multiple_of(alignment);
        for tensor in &mut tensors {
            match tensor.offset.checked_add(data) {
                Some(offset) if tensor.offset % alignment == 0 => tensor.offset = offset,
                _ => return self.fail(format!("tensor '{}' starts at an impossible offset", tensor.name)),
            }
        }
        Ok(tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Header> {
        Header::parse(Path::new("test.gguf"), bytes)
    }

    fn small() -> Vec<u8> {
        let mut b = b"GGUF".to_vec();
        b.extend(3u32.to_le_bytes());
        b.extend(1u64.to_le_bytes());
        b.extend(2u64.to_le_bytes());
        let string = |b: &mut Vec<u8>, s: &str| {
            b.extend((s.len() as u64).to_le_bytes());
            b.extend(s.as_bytes());
        };
        string(&mut b, "general.architecture");
        b.extend(8u32.to_le_bytes());
        string(&mut b, "llama");
        string(&mut b, "list");
        b.extend(9u32.to_le_bytes());
        b.extend(5u32.to_le_bytes());
        b.extend(2u64.to_le_bytes());
        b.extend((-1i32).to_le_bytes());
        b.extend(7i32.to_le_bytes());
        string(&mut b, "w");
        b.extend(2u32.to_le_bytes());
        b.extend(4u64.to_le_bytes());
        b.extend(3u64.to_le_bytes());
        b.extend(0u32.to_le_bytes());
        b.extend(0u64.to_le_bytes());
        b.resize(b.len().next_multiple_of(32) + 48, 0);
        b
    }

    #[test]
    fn a_small_header_is_read() {
        let h = parse(&small()).unwrap();
        assert_eq!(h.get("general.architecture").and_then(Value::as_str), Some("llama"));
        let Some(Value::Numbers(list)) = h.get("list") else { panic!() };
        assert_eq!(list.iter().collect::<Vec<_>>(), [Value::Signed(-1), Value::Signed(7)]);
        assert_eq!(h.tensors[0].shape, [3, 4]);
        assert_eq!(h.tensors[0].offset % 32, 0);
    }

    #[test]
    fn every_truncation_is_an_error_or_a_shorter_file() {
        let whole = small();
        let header_end = parse(&whole).unwrap().tensors[0].offset - 31;
        for len in 0..header_end {
            if let Err(e) = parse(&whole[..len]) {
                assert!(e.to_string().contains("test.gguf"), "{e}");
            }
        }
        assert!(parse(&whole[..60]).is_err());
    }

    #[test]
    fn announced_sizes_allocate_nothing() {
        let mut b = small();
        b[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(parse(&b).unwrap_err().to_string().contains("more than the file can hold"));
    }

    /// A value for each byte of an array took thirty times the size of the file.
    #[test]
    fn arrays_of_numbers_take_no_more_than_in_the_file() {
        let mut b = b"GGUF\x03\0\0\0".to_vec();
        for number in [0, 1, 1] {
            b.extend(u64::to_le_bytes(number));
        }
        b.extend(b"k\x09\0\0\0\0\0\0\0");
        b.extend(1000u64.to_le_bytes());
        b.extend([7; 1000]);
        let Some(Value::Numbers(numbers)) = parse(&b).unwrap().metadata.remove("k") else { panic!() };
        assert_eq!((numbers.len(), numbers.bytes.capacity()), (1000, 1000));
        assert!(numbers.iter().all(|n| n == Value::Unsigned(7)));
        // Arrays of arrays, which no file has, would be as large.
        (b[37], b[41], b[42]) = (9, 10, 0);
        assert!(parse(&b).unwrap_err().to_string().contains("neither numbers nor strings"));
    }

    #[test]
    fn numbers_of_every_type_are_read() {
        for (kind, raw, value) in [
            (0, &[0xfe][..], Value::Unsigned(254)),
            (1, &[0xfe], Value::Signed(-2)),
            (2, &[0xfe, 0xff], Value::Unsigned(65_534)),
            (3, &[0xfe, 0xff], Value::Signed(-2)),
            (4, &[0xfe, 0xff, 0xff, 0xff], Value::Unsigned(4_294_967_294)),
            (5, &[0xfe, 0xff, 0xff, 0xff], Value::Signed(-2)),
            (6, &(-1.5f32).to_le_bytes(), Value::Float(-1.5)),
            (7, &[1], Value::Bool(true)),
            (10, &u64::MAX.to_le_bytes(), Value::Unsigned(u64::MAX)),
            (11, &i64::MIN.to_le_bytes(), Value::Signed(i64::MIN)),
            (12, &0.1f64.to_le_bytes(), Value::Float(0.1)),
        ] {
            let numbers = Numbers::new(kind, raw.repeat(2)).unwrap();
            assert_eq!(numbers.iter().collect::<Vec<_>>(), [value.clone(), value]);
        }
        assert!(Numbers::new(4, vec![0; 6]).is_none() && Numbers::new(8, vec![]).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn damaged_headers_never_panic(edits in prop::collection::vec((0usize..240, any::<u8>()), 1..8)) {
            let mut b = small();
            for (at, byte) in edits {
                let len = b.len();
                b[at % len] = byte;
            }
            let _ = parse(&b);
        }

        #[test]
        fn noise_never_panics(mut noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&noise);
            noise.splice(0..0, *b"GGUF\x03\0\0\0");
            let _ = parse(&noise);
        }
    }
}
