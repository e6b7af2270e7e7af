//! Tensors by name, from safetensors, GGUF or PyTorch files, read row by row.

mod names;
mod open;

use crate::blocks::Format;
use crate::error::{Error, Result};
use crate::gguf;
use fathom_kernels::QuantBlocks;
use fathom_kernels::mapped::Mapped;
use half::{bf16, f16};
use open::Builder;
pub(crate) use open::parts as gguf_parts;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ElementType {
    F64,
    F32,
    F16,
    Bf16,
    /// 8-bit floats of 4 exponent and 3 fraction bits, with a scale for each block of rows and columns.
    F8E4M3,
    /// Blocks of ggml's quantised formats.
    Blocks(Format),
}

impl ElementType {
    /// Bytes of `elements`, which must fill whole blocks.
    fn bytes(self, elements: usize) -> Option<usize> {
        match self {
            Self::F64 => elements.checked_mul(8),
            Self::F32 => elements.checked_mul(4),
            Self::F16 | Self::Bf16 => elements.checked_mul(2),
            Self::F8E4M3 => Some(elements),
            Self::Blocks(format) if elements.is_multiple_of(format.numbers()) => {
                (elements / format.numbers()).checked_mul(format.bytes())
            }
            Self::Blocks(_) => None,
        }
    }

    fn from_ggml(kind: u32) -> Option<Self> {
        Some(match kind {
            0 => Self::F32,
            1 => Self::F16,
            28 => Self::F64,
            30 => Self::Bf16,
            kind => Self::Blocks(Format::from_ggml(kind)?),
        })
    }
}

struct TensorEntry {
    file: usize,
    element: ElementType,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// Bytes of a file that are hashed before their memory is given back.
const BYTES_AT_ONCE: usize = 4 << 20;

struct File {
    path: PathBuf,
    map: Mapped,
}

/// All tensors of a checkpoint, memory-mapped.
#[derive(Clone)]
pub struct Weights(Arc<Inner>);

struct Inner {
    files: Vec<File>,
    entries: HashMap<String, TensorEntry>,
    /// Tensors whose elements are of a type that is not read, with its name and those that are.
    unsupported: BTreeMap<String, String>,
    /// What a user should know of how the files were read.
    notes: Vec<String>,
    /// Rows and columns that share a scale in matrices of 8-bit floats.
    fp8_block: [usize; 2],
}

/// Rows and columns that share a scale in matrices of 8-bit floats, where the configuration does not
/// say otherwise.
pub(crate) const FP8_BLOCK: [usize; 2] = [128, 128];

impl Weights {
    /// Opens the weights of a folder: `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` names, or the same for `pytorch_model.bin`.
    ///
    /// # Errors
    /// When nothing of the kind is there, a shard is missing or a header is damaged.
    pub fn open_folder(folder: &Path) -> Result<Self> {
        Ok(Builder::folder(folder)?.finish())
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    /// When it cannot be read or its header is damaged.
    pub fn open_safetensors(path: &Path) -> Result<Self> {
        let mut builder = Builder::default();
        builder.add_safetensors(path)?;
        Ok(builder.finish())
    }

    /// Opens one file that `torch.save` has written.
    ///
    /// # Errors
    /// When it cannot be read or holds no state dictionary.
    pub fn open_pickle(path: &Path) -> Result<Self> {
        let mut builder = Builder::default();
        builder.add_pickle(path)?;
        Ok(builder.finish())
    }

    /// Opens a GGUF file and gives its header too. Where the name says that it is one part of a split
    /// file, such as `model-00002-of-00003.gguf`, the other parts beside it are opened as well, and the
    /// header's metadata is that of the first.
    ///
    /// # Errors
    /// When a file cannot be read, a header is damaged, a tensor lies outside its file or a part is
    /// missing.
    pub fn open_gguf(path: &Path) -> Result<(Self, gguf::Header)> {
        let (builder, header) = Builder::gguf(path)?;
        Ok((builder.finish(), header))
    }

    /// Whether a tensor is there.
    pub fn has(&self, name: &str) -> bool {
        self.0.entries.contains_key(name)
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.entries.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The shape of a tensor, slowest axis first.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0.entries.get(name).map(|e| &e.shape[..])
    }

    /// What a user should know of how the files were read, a sentence each.
    pub(crate) fn notes(&self) -> &[String] {
        &self.0.notes
    }

    /// Whether two tensors hold the same bytes.
    pub(crate) fn same(&self, one: &str, other: &str) -> bool {
        let entry = |name: &str| self.0.entries.get(name);
        let (Some(a), Some(b)) = (entry(one), entry(other)) else { return false };
        let bytes = |e: &TensorEntry| &self.0.files[e.file].map[e.bytes.clone()];
        a.element == b.element && a.shape == b.shape && bytes(a) == bytes(b)
    }

    /// The files, in the order they were opened.
    pub fn paths(&self) -> Vec<&Path> {
        self.0.files.iter().map(|f| f.path.as_path()).collect()
    }

    /// SHA-256 of every file, in the order of [`Self::paths`].
    pub fn sha256(&self) -> Vec<String> {
        use rayon::prelude::*;
        use sha2::{Digest, Sha256};
        let hash = |file: &File| {
            let mut hash = Sha256::new();
            for part in file.map.chunks(BYTES_AT_ONCE) {
                hash.update(part);
                file.map.release();
            }
            hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
        };
        self.0.files.par_iter().map(hash).collect()
    }

    /// Gives the memory back that reading the files took.
    pub(crate) fn release(&self) {
        self.0.files.iter().for_each(|file| file.map.release());
    }

    /// A matrix (or vector, as one row) of the stated shape.
    ///
    /// # Errors
    /// When it is missing, its shape is another, or its elements cannot be read.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        let inner = &*self.0;
        let Some(entry) = inner.entries.get(name) else { return Err(self.missing(name)) };
        let file = &inner.files[entry.file];
        if entry.shape != shape {
            return Err(Error::Shape {
                path: file.path.clone(),
                name: name.to_owned(),
                found: entry.shape.clone(),
                wanted: shape.to_vec(),
            });
        }
        let width = *shape.last().unwrap_or(&1);
        let rows = shape[..shape.len().saturating_sub(1)].iter().product();
        Ok(Tensor {
            path: &file.path,
            name: name.to_owned(),
            element: entry.element,
            bytes: &file.map[entry.bytes.clone()],
            rows,
            width,
            scales: match entry.element {
                ElementType::F8E4M3 => Some(self.scales(name, rows.max(1), width)?),
                _ => None,
            },
        })
    }

    /// Whether any tensor is of 8-bit floats.
    pub(crate) fn has_fp8(&self) -> bool {
        self.0.entries.values().any(|entry| entry.element == ElementType::F8E4M3)
    }

    /// Checks that a tensor can be given, whatever its shape.
    ///
    /// # Errors
    /// When it is missing, or its elements cannot be read.
    pub(crate) fn require(&self, name: &str) -> Result<()> {
        if self.has(name) { Ok(()) } else { Err(self.missing(name)) }
    }

    /// Why a tensor cannot be given.
    fn missing(&self, name: &str) -> Error {
        let path = self.0.files.first().map(|f| f.path.clone()).unwrap_or_default();
        match self.0.unsupported.get(name) {
            Some(kind) => {
                let what = format!("tensor '{name}' is stored as {kind}; use the model in another form");
                Error::config(&path, what)
            }
            None => {
                let nearest = names::nearest(name, self.0.entries.keys().map(String::as_str));
                Error::MissingTensor { path, name: name.to_owned(), nearest }
            }
        }
    }

    /// The scales of a matrix of 8-bit floats, which lie beside it.
    fn scales(&self, name: &str, rows: usize, width: usize) -> Result<Scales> {
        let scale = SCALE_SUFFIXES.iter().map(|suffix| format!("{name}{suffix}")).find(|name| self.has(name));
        let Some(scale) = scale else {
            let path = &self.0.files[self.0.entries[name].file].path;
            let what = format!("tensor '{name}' is stored as F8_E4M3 without a scale ('{name}_scale_inv')");
            return Err(Error::config(path, what));
        };
        let shape = &self.0.entries[&scale].shape;
        let [block_rows, block_columns] = self.0.fp8_block;
        let blocks = [rows.div_ceil(block_rows), width.div_ceil(block_columns)];
        let block = match shape[..] {
            [] | [1] | [1, 1] => [rows, width],
            [n] | [n, 1] if n == rows => [1, width],
            [r, c] if [r, c] == blocks => self.0.fp8_block,
            _ => {
                let path = self.0.files[self.0.entries[&scale].file].path.clone();
                return Err(Error::Shape {
                    path,
                    name: scale,
                    found: shape.clone(),
                    wanted: blocks.to_vec(),
                });
            }
        };
        let mut values = vec![0.0; shape.iter().product()];
        let tensor = self.tensor(&scale, &shape.clone())?;
        tensor.read(0..tensor.rows.max(1), &mut values)?;
        Ok(Scales { values, columns: width.div_ceil(block[1].max(1)), block })
    }

    /// Sets the rows and columns that share a scale in matrices of 8-bit floats.
    pub(crate) fn with_fp8_block(mut self, block: [usize; 2]) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.fp8_block = block;
        }
        self
    }

    /// The names of tensors that are scales of others.
    pub(crate) fn is_scale(&self, name: &str) -> bool {
        let of = SCALE_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
        of.and_then(|of| self.0.entries.get(of)).is_some_and(|entry| entry.element == ElementType::F8E4M3)
    }

    /// A vector, whole.
    ///
    /// # Errors
    /// When it is missing, its length is another, or it holds NaN.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.tensor(name, &[len])?;
        let mut out = vec![0.0; len];
        tensor.read(0..1, &mut out)?;
        Ok(out)
    }
}

/// What follows the name of a matrix of 8-bit floats in that of its scales: as DeepSeek writes them, and
/// as compressed-tensors does. Either way a weight is its 8-bit float times the scale.
const SCALE_SUFFIXES: [&str; 2] = ["_scale_inv", "_scale"];

/// Factors on blocks of a matrix.
struct Scales {
    values: Vec<f32>,
    /// Blocks from left to right.
    columns: usize,
    /// Rows and columns of a block.
    block: [usize; 2],
}

impl Scales {
    /// Multiplies some rows of the matrix.
    fn apply(&self, rows: Range<usize>, width: usize, out: &mut [f32]) {
        for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
            let scales = &self.values[row / self.block[0] * self.columns..][..self.columns];
            for (out, scale) in out.chunks_mut(self.block[1]).zip(scales) {
                out.iter_mut().for_each(|x| *x *= scale);
            }
        }
    }
}

/// One tensor, seen as rows.
pub struct Tensor<'a> {
    path: &'a Path,
    name: String,
    element: ElementType,
    bytes: &'a [u8],
    rows: usize,
    width: usize,
    scales: Option<Scales>,
}

impl Tensor<'_> {
    /// Reads rows as `f32`, dequantising.
    ///
    /// # Shapes
    /// `out [rows, width]`.
    ///
    /// # Errors
    /// When a value is NaN or infinite.
    ///
    /// # Panics
    /// When `rows` or the length of `out` do not fit.
    pub fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        assert!(out.len() == rows.len() * self.width);
        let bytes = self.bytes_of(&rows)?;
        match self.element {
            ElementType::F64 => decode(bytes, out, |b: [u8; 8]| f64::from_le_bytes(b) as f32),
            ElementType::F32 => decode(bytes, out, f32::from_le_bytes),
            ElementType::F16 => decode(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            ElementType::Bf16 => decode(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            ElementType::F8E4M3 => decode(bytes, out, |[b]: [u8; 1]| F8E4M3[usize::from(b)]),
            ElementType::Blocks(format) => return self.dequantise(format, rows, out),
        }
        if let Some(scales) = &self.scales {
            scales.apply(rows.clone(), self.width, out);
        }
        self.check(&rows, out)
    }

    /// The columns that share a scale, where the tensor is quantised.
    pub(crate) fn columns_per_scale(&self) -> Option<usize> {
        match self.element {
            ElementType::Blocks(format) => Some(format.numbers_per_scale()),
            _ => None,
        }
    }

    /// Reads rows of a quantised tensor as they are stored.
    ///
    /// # Shapes
    /// `to` holds rows, with a scale for every [`Self::columns_per_scale`] or a part of that.
    ///
    /// # Errors
    /// When a scale or an offset is NaN or infinite.
    ///
    /// # Panics
    /// When the tensor is not quantised, or the lengths do not fit.
    pub(crate) fn read_blocks(&self, rows: Range<usize>, to: QuantBlocks<'_>) -> Result<()> {
        let ElementType::Blocks(format) = self.element else { panic!("'{}' has no blocks", self.name) };
        assert!(to.values.len() == rows.len() * self.width);
        let count = to.values.len() / format.numbers_per_scale();
        let QuantBlocks { values, scales, offsets } = to;
        let (own_scales, own_offsets) = (&mut scales[..count], &mut offsets[..count]);
        format.read(self.bytes_of(&rows)?, QuantBlocks { values, scales: own_scales, offsets: own_offsets });
        self.check(&rows, own_scales)?;
        self.check(&rows, own_offsets)?;
        spread(scales, count);
        spread(offsets, count);
        Ok(())
    }

    fn dequantise(&self, format: Format, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let columns = format.numbers_per_scale();
        let (mut values, count) = (vec![0; out.len()], out.len() / columns);
        let (mut scales, mut offsets) = (vec![0.0; count], vec![0.0; count]);
        let to = QuantBlocks { values: &mut values, scales: &mut scales, offsets: &mut offsets };
        self.read_blocks(rows, to)?;
        let blocks = out.chunks_exact_mut(columns).zip(values.chunks_exact(columns));
        for ((out, values), (scale, offset)) in blocks.zip(scales.iter().zip(&offsets)) {
            out.iter_mut().zip(values).for_each(|(out, value)| *out = f32::from(*value) * scale + offset);
        }
        Ok(())
    }

    /// The bytes of rows.
    fn bytes_of(&self, rows: &Range<usize>) -> Result<&[u8]> {
        assert!(rows.end <= self.rows.max(1));
        let bytes = |rows: usize| self.element.bytes(rows * self.width);
        let (Some(start), Some(len)) = (bytes(rows.start), bytes(rows.len())) else {
            return Err(Error::file(
                self.path,
                format!("rows of tensor '{}' do not fill whole blocks of its format", self.name),
            ));
        };
        Ok(&self.bytes[start..start + len])
    }

    /// Refuses numbers of rows that are not finite.
    fn check(&self, rows: &Range<usize>, numbers: &[f32]) -> Result<()> {
        match numbers.iter().position(|x| !x.is_finite()) {
            None => Ok(()),
            Some(at) => Err(Error::NotFinite {
                path: self.path.to_owned(),
                name: self.name.clone(),
                row: rows.start + at / (numbers.len() / rows.len().max(1)).max(1),
                value: numbers[at],
            }),
        }
    }
}

/// Repeats each of the first `count` numbers, so that all places are filled.
fn spread(numbers: &mut [f32], count: usize) {
    let times = numbers.len() / count.max(1);
    for i in (0..count).rev() {
        let number = numbers[i];
        numbers[i * times..(i + 1) * times].fill(number);
    }
}

fn decode<const N: usize>(bytes: &[u8], out: &mut [f32], to_f32: impl Fn([u8; N]) -> f32) {
    for (out, raw) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *out = to_f32(*raw);
    }
}

/// The values of 8-bit floats of 4 exponent bits (biased by 7) and 3 fraction bits, without infinities
/// (arXiv 2209.05433).
const F8E4M3: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut bits = 0;
    while bits < 256 {
        let (exponent, fraction) = ((bits >> 3 & 15) as u32, (bits & 7) as f32);
        // 2^-9 is the smallest; `from_bits` makes the power of two.
        let magnitude = match exponent {
            0 => fraction * f32::from_bits((127 - 9) << 23),
            15 if bits & 7 == 7 => f32::NAN,
            _ => (8.0 + fraction) * f32::from_bits((127 - 10 + exponent) << 23),
        };
        values[bits] = if bits >= 128 { -magnitude } else { magnitude };
        bits += 1;
    }
    values
};
