//! Tensors by name, from safetensors, GGUF or PyTorch files, read row by row.

mod builder;
mod folder;
mod fp8;
mod mxfp4;
mod names;
mod read_gguf;
mod read_pickle;
mod read_safetensors;
mod store;
mod stored;
mod tensor;

use crate::error::{Error, Result};
use crate::gguf;
use builder::Builder;
use fp8::{SCALE_SUFFIXES, Scales};
use mxfp4::Mxfp4Entry;
use std::path::Path;
use std::sync::Arc;
use store::{ElementType, File, Store, TensorEntry};

pub(crate) use read_gguf::parts as gguf_parts;
pub use store::StoredType;
pub use stored::StoredTensor;
pub use tensor::Tensor;

/// Bytes of a file to hash before its pages are dropped.
const BYTES_AT_ONCE: usize = 4 << 20;

/// All tensors of a checkpoint, memory-mapped.
#[derive(Clone)]
pub struct Weights(Arc<Store>);

impl Weights {
    fn new(builder: Builder) -> Self {
        Self(Arc::new(builder.finish()))
    }

    /// Opens the weights of a folder: `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` names, or the same for `pytorch_model.bin`.
    ///
    /// # Errors
    /// When there are no weights, a shard is missing or a header is damaged.
    pub fn open_folder(folder: &Path) -> Result<Self> {
        Ok(Self::new(folder::open(folder)?))
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    /// When it cannot be read or its header is damaged.
    pub fn open_safetensors(path: &Path) -> Result<Self> {
        let mut builder = Builder::default();
        read_safetensors::add(&mut builder, path)?;
        Ok(Self::new(builder))
    }

    /// Opens one file written by `torch.save`.
    ///
    /// # Errors
    /// When it cannot be read or does not hold a state dictionary.
    pub fn open_pickle(path: &Path) -> Result<Self> {
        let mut builder = Builder::default();
        read_pickle::add(&mut builder, path)?;
        Ok(Self::new(builder))
    }

    /// Opens a GGUF file and returns its header. If the name is that of one part of a split file, such as
    /// `model-00002-of-00003.gguf`, all parts are opened, and the header is that of the first.
    ///
    /// # Errors
    /// When a file cannot be read, a header is damaged, a tensor lies outside its file or a part is
    /// missing.
    pub fn open_gguf(path: &Path) -> Result<(Self, gguf::Header)> {
        let (builder, header) = read_gguf::open(path)?;
        Ok((Self::new(builder), header))
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.entries.contains_key(name) || self.has_mxfp4(name)
    }

    /// Whether a tensor is stored as 4-bit floats and their scales.
    pub(crate) fn has_mxfp4(&self, name: &str) -> bool {
        self.0.mxfp4.contains_key(name)
    }

    /// The name under which the numbers of a tensor are stored; that of its blocks for 4-bit floats.
    pub(crate) fn stored_name(&self, name: String) -> String {
        if self.has_mxfp4(&name) { mxfp4::blocks_of(&name) } else { name }
    }

    /// The names of all tensors that are stored as one, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.entries.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The shape of a tensor, slowest axis first.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        let mxfp4 = || self.0.mxfp4.get(name).map(|e| &e.shape[..]);
        self.0.entries.get(name).map(|e| &e.shape[..]).or_else(mxfp4)
    }

    /// Notes for the user on how the files were read, one sentence each.
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

    /// Bytes that the tensors take in memory at least; `rounded` if floats of 32 bits are rounded to bfloat16.
    pub(crate) fn bytes(&self, rounded: bool) -> u64 {
        let of = |entry: &TensorEntry| {
            let elements: u64 = entry.shape.iter().map(|size| *size as u64).product();
            match entry.element {
                ElementType::F64 | ElementType::F32 if !rounded => 4 * elements,
                ElementType::F64 | ElementType::F32 => 2 * elements,
                _ => entry.bytes.len() as u64,
            }
        };
        let mxfp4 = self.0.mxfp4.values().map(|entry| entry.bytes() as u64);
        self.0.entries.values().map(of).chain(mxfp4).sum()
    }

    /// Bytes that some tensors take packed, at most; `rounded` as in [`Self::bytes`].
    pub(crate) fn packed_bytes(&self, rounded: bool, wanted: impl Fn(&str) -> bool) -> u64 {
        let each = |element: ElementType, elements: u64| match element {
            ElementType::F64 | ElementType::F32 if !rounded => 4 * elements,
            ElementType::Blocks(_) | ElementType::Mxfp4 => elements / 2 * 3,
            _ => 2 * elements,
        };
        let stored = self
            .0
            .entries
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(_, entry)| each(entry.element, entry.shape.iter().map(|size| *size as u64).product()));
        let mxfp4 = self.0.mxfp4.iter().filter(|(name, _)| wanted(name));
        // Half a byte an element, and scales.
        let mxfp4 = mxfp4.map(|(_, entry)| each(ElementType::Mxfp4, 2 * entry.bytes() as u64));
        stored.chain(mxfp4).sum()
    }

    /// The files, in the order in which they were opened.
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
            hex::encode(hash.finalize())
        };
        self.0.files.par_iter().map(hash).collect()
    }

    /// Drops the resident pages of all files.
    pub fn release(&self) {
        self.0.files.iter().for_each(|file| file.map.release());
    }

    /// A matrix (or vector, as one row) of the stated shape.
    ///
    /// # Errors
    /// When it is missing, has another shape, or an unsupported element type.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        let inner = &*self.0;
        if let Some(entry) = inner.mxfp4.get(name) {
            return self.mxfp4_tensor(name, entry, shape);
        }
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
            exponents: &[],
        })
    }

    fn mxfp4_tensor(&self, name: &str, entry: &Mxfp4Entry, shape: &[usize]) -> Result<Tensor<'_>> {
        let (file, bytes) = &entry.blocks;
        let file = &self.0.files[*file];
        if entry.shape != shape {
            return Err(Error::Shape {
                path: file.path.clone(),
                name: mxfp4::blocks_of(name),
                found: entry.shape.clone(),
                wanted: shape.to_vec(),
            });
        }
        let (scales_file, scales) = &entry.scales;
        Ok(Tensor {
            path: &file.path,
            name: mxfp4::blocks_of(name),
            element: ElementType::Mxfp4,
            bytes: &file.map[bytes.clone()],
            rows: shape[..shape.len().saturating_sub(1)].iter().product(),
            width: *shape.last().unwrap_or(&1),
            scales: None,
            exponents: &self.0.files[*scales_file].map[scales.clone()],
        })
    }

    /// A vector as a matrix of one column, so that its elements can be read in any order.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub(crate) fn tensor_as_rows(&self, name: &str) -> Result<Tensor<'_>> {
        let len = self.shape(name).map_or(0, |shape| shape.iter().product());
        let tensor = self.tensor(name, &[len])?;
        Ok(Tensor { rows: tensor.width, width: 1, ..tensor })
    }

    /// Whether any tensor is of 8-bit floats.
    pub(crate) fn has_fp8(&self) -> bool {
        self.0.entries.values().any(|entry| entry.element == ElementType::F8E4M3)
    }

    /// Checks that a tensor exists and can be read, whatever its shape.
    ///
    /// # Errors
    /// When it is missing or has an unsupported element type.
    pub(crate) fn require(&self, name: &str) -> Result<()> {
        if self.has(name) { Ok(()) } else { Err(self.missing(name)) }
    }

    /// Why there is no tensor of this name.
    fn missing(&self, name: &str) -> Error {
        let path = self.0.files.first().map(|f| f.path.clone()).unwrap_or_default();
        match self.0.unsupported.get(name) {
            Some(tensor) => {
                let what =
                    format!("tensor '{name}' is stored as {}; use the model in another form", tensor.why);
                Error::config(&path, what)
            }
            None => {
                let nearest = names::nearest(name, self.0.entries.keys().map(String::as_str));
                Error::MissingTensor { path, name: name.to_owned(), nearest }
            }
        }
    }

    /// The scales of a matrix of 8-bit floats, which are a tensor of their own.
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

    /// Whether a tensor holds the scales of another.
    pub(crate) fn is_scale(&self, name: &str) -> bool {
        let of = SCALE_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
        of.and_then(|of| self.0.entries.get(of)).is_some_and(|entry| entry.element == ElementType::F8E4M3)
    }

    /// A whole vector.
    ///
    /// # Errors
    /// When it is missing, has another length, or holds NaN.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.tensor(name, &[len])?;
        let mut out = vec![0.0; len];
        tensor.read(0..1, &mut out)?;
        Ok(out)
    }
}
