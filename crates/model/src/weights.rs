//! Tensors by name, from safetensors, GGUF or PyTorch files, read row by row.

use crate::blocks::Format;
use crate::error::{Error, Result};
use crate::{gguf, pickle};
use fathom_kernels::Blocks;
use fathom_kernels::mapped::Mapped;
use half::{bf16, f16};
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    F64,
    F32,
    F16,
    Bf16,
    /// Blocks of ggml's quantised formats.
    Blocks(Format),
}

impl Kind {
    /// Bytes of `elements`, which must fill whole blocks.
    fn bytes(self, elements: usize) -> Option<usize> {
        match self {
            Self::F64 => elements.checked_mul(8),
            Self::F32 => elements.checked_mul(4),
            Self::F16 | Self::Bf16 => elements.checked_mul(2),
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

struct Entry {
    file: usize,
    kind: Kind,
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
    entries: HashMap<String, Entry>,
}

impl Weights {
    /// Opens the weights of a folder: `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` names, or the same for `pytorch_model.bin`.
    ///
    /// # Errors
    /// When nothing of the kind is there, a shard is missing or a header is damaged.
    pub fn open_folder(folder: &Path) -> Result<Self> {
        for (single, open) in [
            ("model.safetensors", Builder::add_safetensors as fn(&mut Builder, &Path) -> Result<()>),
            ("pytorch_model.bin", Builder::add_pickle),
        ] {
            let index = folder.join(format!("{single}.index.json"));
            let mut builder = Builder::default();
            if folder.join(single).is_file() {
                open(&mut builder, &folder.join(single))?;
            } else if index.is_file() {
                for shard in shards(&index)? {
                    let path = folder.join(&shard);
                    if !path.is_file() {
                        return Err(Error::file(
                            &index,
                            format!("the shard {shard} that it names is missing; fetch the model again"),
                        ));
                    }
                    open(&mut builder, &path)?;
                }
            } else {
                continue;
            }
            return Ok(builder.finish());
        }
        Err(Error::NotFound(format!(
            "{} holds no model.safetensors, pytorch_model.bin or index of shards; give a folder with weights or a .gguf file",
            folder.display()
        )))
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

    /// Opens a GGUF file and gives its header too.
    ///
    /// # Errors
    /// When it cannot be read, its header is damaged or a tensor lies outside the file.
    pub fn open_gguf(path: &Path) -> Result<(Self, gguf::Header)> {
        let mut builder = Builder::default();
        let header = builder.add_gguf(path)?;
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
    /// When it is missing or its shape is another.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        let inner = &*self.0;
        let Some(entry) = inner.entries.get(name) else {
            let path = inner.files.first().map(|f| f.path.clone()).unwrap_or_default();
            return Err(Error::MissingTensor { path, name: name.to_owned() });
        };
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
        Ok(Tensor {
            path: &file.path,
            name: name.to_owned(),
            kind: entry.kind,
            bytes: &file.map[entry.bytes.clone()],
            rows: shape[..shape.len().saturating_sub(1)].iter().product(),
            width,
        })
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

/// One tensor, seen as rows.
pub struct Tensor<'a> {
    path: &'a Path,
    name: String,
    kind: Kind,
    bytes: &'a [u8],
    rows: usize,
    width: usize,
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
        match self.kind {
            Kind::F64 => decode(bytes, out, |b: [u8; 8]| f64::from_le_bytes(b) as f32),
            Kind::F32 => decode(bytes, out, f32::from_le_bytes),
            Kind::F16 => decode(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Kind::Bf16 => decode(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            Kind::Blocks(format) => return self.dequantise(format, rows, out),
        }
        self.check(&rows, out)
    }

    /// The columns that share a scale, where the tensor is quantised.
    pub(crate) fn columns_a_scale(&self) -> Option<usize> {
        match self.kind {
            Kind::Blocks(format) => Some(format.numbers_a_scale()),
            _ => None,
        }
    }

    /// Reads rows of a quantised tensor as they are stored.
    ///
    /// # Shapes
    /// `to` holds rows, with a scale for every [`Self::columns_a_scale`] or a part of that.
    ///
    /// # Errors
    /// When a scale or an offset is NaN or infinite.
    ///
    /// # Panics
    /// When the tensor is not quantised, or the lengths do not fit.
    pub(crate) fn read_blocks(&self, rows: Range<usize>, to: Blocks<'_>) -> Result<()> {
        let Kind::Blocks(format) = self.kind else { panic!("'{}' has no blocks", self.name) };
        assert!(to.values.len() == rows.len() * self.width);
        let count = to.values.len() / format.numbers_a_scale();
        let Blocks { values, scales, offsets } = to;
        let (own_scales, own_offsets) = (&mut scales[..count], &mut offsets[..count]);
        format.read(self.bytes_of(&rows)?, Blocks { values, scales: own_scales, offsets: own_offsets });
        self.check(&rows, own_scales)?;
        self.check(&rows, own_offsets)?;
        spread(scales, count);
        spread(offsets, count);
        Ok(())
    }

    fn dequantise(&self, format: Format, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let columns = format.numbers_a_scale();
        let (mut values, count) = (vec![0; out.len()], out.len() / columns);
        let (mut scales, mut offsets) = (vec![0.0; count], vec![0.0; count]);
        let to = Blocks { values: &mut values, scales: &mut scales, offsets: &mut offsets };
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
        let bytes = |rows: usize| self.kind.bytes(rows * self.width);
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

/// The shard names of an index file, each once, in order.
fn shards(index: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(index).map_err(Error::io(index))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| Error::file(index, format!("it is not JSON: {e}")))?;
    let Some(map) = json.get("weight_map").and_then(|m| m.as_object()) else {
        return Err(Error::file(index, "it has no 'weight_map'"));
    };
    let mut names = std::collections::BTreeSet::new();
    for (tensor, shard) in map {
        match shard.as_str() {
            // A shard lies beside its index; anything else is an attempt to read elsewhere.
            Some(s) if Path::new(s).file_name() == Some(s.as_ref()) && !s.contains('\\') => {
                names.insert(s.to_owned());
            }
            _ => {
                return Err(Error::file(
                    index,
                    format!("the shard of '{tensor}' is {shard}, which is no plain file name"),
                ));
            }
        }
    }
    Ok(names.into_iter().collect())
}

#[derive(Default)]
struct Builder {
    files: Vec<File>,
    entries: HashMap<String, Entry>,
}

impl Builder {
    fn finish(self) -> Weights {
        Weights(Arc::new(Inner { files: self.files, entries: self.entries }))
    }

    fn insert(&mut self, path: &Path, name: String, entry: Entry) -> Result<()> {
        match self.entries.insert(name.clone(), entry) {
            None => Ok(()),
            Some(_) => Err(Error::file(path, format!("tensor '{name}' is there twice"))),
        }
    }

    fn add_safetensors(&mut self, path: &Path) -> Result<()> {
        use safetensors::Dtype;
        let map = Mapped::open(path).map_err(Error::io(path))?;
        let (header, metadata) = safetensors::SafeTensors::read_metadata(&map).map_err(|e| {
            Error::file(path, format!("its safetensors header cannot be read ({e}); fetch the file again"))
        })?;
        let data = 8 + header;
        let file = self.files.len();
        for (name, info) in metadata.tensors() {
            let kind = match info.dtype {
                Dtype::F64 => Kind::F64,
                Dtype::F32 => Kind::F32,
                Dtype::F16 => Kind::F16,
                Dtype::BF16 => Kind::Bf16,
                // Integer and boolean buffers (old attention masks) hold no weights.
                _ => continue,
            };
            let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
            if bytes.end > map.len() {
                return Err(Error::file(
                    path,
                    format!(
                        "it is cut off: tensor '{name}' ends at byte {} of {}; fetch the file again",
                        bytes.end,
                        map.len()
                    ),
                ));
            }
            self.insert(path, name, Entry { file, kind, shape: info.shape.clone(), bytes })?;
        }
        self.files.push(File { path: path.to_owned(), map });
        Ok(())
    }

    fn add_gguf(&mut self, path: &Path) -> Result<gguf::Header> {
        let map = Mapped::open(path).map_err(Error::io(path))?;
        let header = gguf::Header::parse(path, &map)?;
        let file = self.files.len();
        for info in &header.tensors {
            let name = &info.name;
            let Some(kind) = Kind::from_ggml(info.kind) else {
                return Err(Error::file(
                    path,
                    format!(
                        "tensor '{name}' has ggml type {}, which is not supported; use F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or Q2_K to Q6_K",
                        info.kind
                    ),
                ));
            };
            let whole_rows = kind.bytes(*info.shape.last().unwrap_or(&1)).is_some();
            let Some(len) = kind.bytes(info.shape.iter().product()).filter(|_| whole_rows) else {
                return Err(Error::file(
                    path,
                    format!("the rows of tensor '{name}' {:?} do not fill whole blocks", info.shape),
                ));
            };
            let bytes = info.offset..info.offset.saturating_add(len);
            if bytes.end > map.len() {
                return Err(Error::file(
                    path,
                    format!(
                        "it is cut off: tensor '{name}' ends at byte {} of {}; fetch the file again",
                        bytes.end,
                        map.len()
                    ),
                ));
            }
            self.insert(path, name.clone(), Entry { file, kind, shape: info.shape.clone(), bytes })?;
        }
        self.check_overlaps(path, file)?;
        self.files.push(File { path: path.to_owned(), map });
        Ok(header)
    }

    /// Refuses tensors that share bytes: a small file whose thousands of tensors are all
    /// the same one would become a large model.
    fn check_overlaps(&self, path: &Path, file: usize) -> Result<()> {
        let of_file = self.entries.iter().filter(|(_, entry)| entry.file == file);
        let mut spans: Vec<_> = of_file.map(|(name, e)| (e.bytes.start, e.bytes.end, name)).collect();
        spans.sort_unstable();
        match spans.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            None => Ok(()),
            Some(pair) => {
                let (one, other) = (pair[0].2, pair[1].2);
                Err(Error::file(
                    path,
                    format!("the tensors '{one}' and '{other}' overlap; convert the model again"),
                ))
            }
        }
    }

    /// PyTorch's format is a zip of one pickle and a stored entry a storage, so
    /// the tensors can be mapped like any other.
    fn add_pickle(&mut self, path: &Path) -> Result<()> {
        let bad = |what: String| Error::file(path, what);
        let map = Mapped::open(path).map_err(Error::io(path))?;
        if !map.starts_with(b"PK") {
            return Err(bad(
                "it is not in PyTorch's zip format (1.6 and later); save it again or convert it to safetensors"
                    .into(),
            ));
        }
        let mut zip = zip::ZipArchive::new(std::io::Cursor::new(&map[..]))
            .map_err(|e| bad(format!("its zip directory cannot be read ({e}); fetch the file again")))?;
        let names = zip.file_names().flatten();
        let pickle = names.map(|name| name.into_owned()).find(|name| name.ends_with("/data.pkl"));
        let Some(pickle) = pickle else {
            return Err(bad("it holds no data.pkl; convert it to safetensors".into()));
        };
        let folder = pickle.trim_end_matches(".pkl");
        let mut stored = |name: &str| {
            let entry = zip.by_name(name).map_err(|e| bad(format!("its entry '{name}' ({e})")))?;
            let size = usize::try_from(entry.size()).unwrap_or(usize::MAX);
            let start = entry.data_start().and_then(|s| usize::try_from(s).ok());
            let bytes = start.and_then(|start| Some(start..start.checked_add(size)?));
            let stored = entry.compression() == zip::CompressionMethod::Stored;
            bytes.filter(|b| stored && b.end <= map.len()).ok_or_else(|| {
                bad(format!("its entry '{name}' is compressed or cut off; fetch the file again"))
            })
        };
        let tensors = pickle::read(&map[stored(&pickle)?])
            .map_err(|e| bad(format!("{e}; fetch the file again or convert it to safetensors")))?;
        let file = self.files.len();
        for tensor in tensors {
            let name = tensor.name.to_owned();
            let kind = match tensor.class {
                "DoubleStorage" => Kind::F64,
                "FloatStorage" => Kind::F32,
                "HalfStorage" => Kind::F16,
                "BFloat16Storage" => Kind::Bf16,
                _ => continue,
            };
            if !tensor.is_contiguous() {
                return Err(bad(format!("tensor '{name}' is not contiguous; save it with .contiguous()")));
            }
            let data = stored(&format!("{folder}/{}", tensor.storage))?;
            let shape = tensor.shape;
            let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
            let (Some(len), Some(skip)) = (elements.and_then(|n| kind.bytes(n)), kind.bytes(tensor.offset))
            else {
                return Err(bad(format!("tensor '{name}' has an impossible shape")));
            };
            if skip.checked_add(len).is_none_or(|end| end > data.len()) {
                return Err(bad(format!("tensor '{name}' is larger than its data; fetch the file again")));
            }
            let bytes = data.start + skip..data.start + skip + len;
            self.insert(path, name, Entry { file, kind, shape, bytes })?;
        }
        self.files.push(File { path: path.to_owned(), map });
        Ok(())
    }
}
